"""Logs as plants write them: every dialect gives the same rows, rows follow one another in time, and what cannot be
read is named by file, line and column."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fittedq.cli.main import main
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.data.importers import import_dataset, matching, open_source
from fittedq.data.shaping import sample_of
from fittedq.errors import UserError
from test_dataset import left_in

CASES = Path(__file__).parents[2] / "shared" / "cases"
SHOWN = pytest.mark.skipif(not CASES.is_dir(), reason="the small logs are not here")
HEATER = Description(obs=("temp", "setpoint"), action=("u",), reward="-((temp-setpoint)/10)**2", time="t")


def imported(path: Path, description: Description = HEATER, drop_bad: bool = False) -> tuple[Dataset, str]:
    """The dataset of a log, and what was said, in one text."""
    source = open_source(path, description=description, drop_bad=drop_bad)
    out = path.with_name(f"{path.name}.d")
    dataset = import_dataset(source, out=out, label=path.name, drop_bad=drop_bad)
    return dataset, " ".join(source.notes)


def refused(path: Path, description: Description = HEATER, drop_bad: bool = False) -> str:
    """The sentence of an import that is refused and leaves nothing."""
    before = left_in(path.parent)
    with pytest.raises(UserError) as error:
        imported(path, description, drop_bad)
    assert left_in(path.parent) == before
    return error.value.on_command_line()


# ---------------------------------------------------------------------- one log, in every dialect

ROWS = np.array([[3.0 * k, 20.5 * (k // 4 % 3), 22.25 + 0.5 * k, 93.0] for k in range(12)])
NAMES = ["t", "u", "temp", "setpoint"]


def table(rows: Any = ROWS, names: list[str] | None = None, comma: str = ",", point: str = ".") -> str:
    """Rows as a text table."""
    texts = [[str(value).replace(".", point) for value in row] for row in rows]
    return "".join(comma.join(row) + "\n" for row in [NAMES if names is None else names, *texts])


def lines_with(at: int, line: str, text: str | None = None) -> str:
    """The table with one more line."""
    lines = (text or table()).splitlines(keepends=True)
    return "".join([*lines[:at], line + "\n", *lines[at:]])


DIALECTS: dict[str, str | bytes] = {
    "tab": table(comma="\t"),
    "bars": table(comma="|"),
    "blanks": table(comma="   ").replace("\n0.0", "\n  0.0"),
    "semicolon and decimal comma": table(comma=";", point=","),
    "decimal comma in quotes": "t,u,temp,setpoint\n"
    + "".join(",".join(f'"{value}"'.replace(".", ",") for value in row) + "\n" for row in ROWS.tolist()),
    "commas and points": "t;u;temp;setpoint\n"
    + "".join(f"{t};{str(u).replace('.', ',')};{str(y).replace('.', ',')};{s}\n" for t, u, y, s in ROWS.tolist()),
    "sep": "sep=;\n" + table(comma=";"),
    "byte order mark": "\ufeff" + table(),
    "utf-16": table().encode("utf-16"),
    "utf-16 without its mark": table().encode("utf-16-le"),
    "windows": table().replace("\n", "\r\n"),
    "old mac": table().replace("\n", "\r"),
    "empty lines": table().replace("\n", "\n\n"),
    "comments": lines_with(5, "# the pump was looked at", "# logger 7\n# started 08:00\n" + table()),
    "header as a comment": "# " + table(),
    "a preamble": "Logger 7\nPlant: heater, block 2\n\n" + table(),
    "a station's line": '"TOA5","x","y","z"\n' + lines_with(1, '"TS","","",""\n"","Smp","Avg","Smp"'),
    "percent": table().replace("20.5,", "20.5 %,"),
    "units": lines_with(1, "s,-,degC,[degC]"),
    "units and kinds": lines_with(1, "s,-,degC,degC\nAvg,Smp,Avg,Smp"),
    "the header again": lines_with(7, ",".join(NAMES)),
    "quotes": table(names=[f'"{name}"' for name in NAMES]),
    "blanks around": table(names=[f" {name} " for name in NAMES], comma=" , "),
    "a last delimiter": table().replace("\n", ",\n"),
    "cut short": table() + "36.0,20",
    "spreadsheet rows": table() + ",,,\n,,,\n",
    "plus signs and exponents": table().replace("20.5", "+2.05e1"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The rows of the plain table, by hand."""
    rows = ROWS[:-1]
    reward = -(((rows[:, 2] - rows[:, 3]) / 10) ** 2)
    flags = np.zeros((len(rows), 2))
    flags[-1, 1] = 1
    return np.column_stack([rows[:, 2:], rows[:, 1:2], ROWS[1:, 2:], reward, flags]).astype(np.float32)


def by_hand(dataset: Dataset) -> np.ndarray:
    rows = dataset.transitions(slice(None))
    columns = (rows.obs, rows.action, rows.next_obs, rows.reward, rows.terminated, rows.truncated)
    return np.column_stack([np.asarray(column, np.float32) for column in columns])


@pytest.mark.parametrize("name", DIALECTS)
def test_a_log_is_the_same_in_every_dialect(name: str, plain: np.ndarray, tmp_path: Path) -> None:
    text, log = DIALECTS[name], tmp_path / "log.csv"
    log.write_bytes(text if isinstance(text, bytes) else text.encode())
    dataset, _ = imported(log, HEATER)
    np.testing.assert_allclose(by_hand(dataset), plain, rtol=1e-6)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_log_is_told_by_its_bytes(pack: Callable[[bytes], bytes], plain: np.ndarray, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_bytes(pack(table().encode()))
    np.testing.assert_allclose(by_hand(imported(log, HEATER)[0]), plain, rtol=1e-6)
    if pack is not gzip.compress:
        return
    log.write_bytes(pack(table().encode())[:-20])
    assert "could not be unpacked to its end" in refused(log, HEATER)


# ---------------------------------------------------------------------- words, and what is no table


def written(folder: Path, text: str) -> Path:
    (folder / "log.csv").write_text(text)
    return folder / "log.csv"


def test_switches_are_ones_and_zeros_and_other_words_are_asked_for(tmp_path: Path) -> None:
    rows = [[row[0], "ON" if k % 2 else "off", row[2], "Auto"] for k, row in enumerate(ROWS.tolist())]
    log = written(tmp_path, table(rows))
    assert "line 2 has 'Auto' in column 'setpoint', expected a number (12 such cells there)" in refused(log)
    dataset, said = imported(log, replace(HEATER, words={"auto": 90}))
    assert dataset.columns["action"].ravel().tolist() == [0, 1] * 5 + [0]
    assert set(dataset.columns["obs"][:, 1]) == {90}
    assert "Column 'u': off is 0, ON is 1." in said
    assert "Column 'setpoint': Auto is 90." in said


def test_a_word_is_named_and_dropped_where_asked_and_splits_there(tmp_path: Path) -> None:
    log = written(tmp_path, table().replace("12.0,20.5", "12.0,Bad Input"))
    sentence = refused(log)
    assert "line 6 has 'Bad Input' in column 'u', expected a number; correct it, leave such rows out with" in sentence
    assert "fetch it again" not in sentence
    dataset, said = imported(log, HEATER, drop_bad=True)
    assert dataset.episodes() == [(0, 3), (3, 9)]
    assert "1 bad row was dropped." in said


def test_a_column_of_infinities_is_refused_and_no_warning_of_numpys(tmp_path: Path) -> None:
    log = written(tmp_path, table([[*row[:2], "inf", row[3]] for row in ROWS.tolist()]))
    assert "12 rows hold NaN or infinity" in refused(log, replace(HEATER, time="", terminated="t > 30", reward="u"))


def test_missing_cells_follow_a_rule(tmp_path: Path) -> None:
    log = written(tmp_path, table().replace("23.75", "").replace("24.25", "NaN").replace("22.25", "-"))
    assert "line 2 has no number in column 'temp' (3 such rows in all); fill it by --fill" in refused(log)
    held, said = imported(log, replace(HEATER, fill="hold"))
    assert held.columns["obs"][:, 0].tolist() == [22.75, 23.25, 23.25, 23.25, *np.arange(24.75, 27.5, 0.5)]
    assert "2 missing cells were filled; 1 row before a first value left out." in said
    log.with_name("log.csv.d").rename(tmp_path / "held")
    lines, _ = imported(log, replace(HEATER, fill="line"))
    assert lines.columns["obs"][:, 0].tolist() == np.arange(22.75, 27.5, 0.5).tolist()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("t,u,temp,setpoint\n", "holds a header and no row"),
        (
            table().split("\n", 1)[1],
            "holds numbers (0.0, 0.0, 22.25, 93.0), expected names of columns; name the 4 columns",
        ),
        ("t,u,u,temp,setpoint\n0,1,1,2,3\n3,1,1,2,3\n", "has more than one column 'u' (columns 2 and 3)"),
        (table(names=["t", "u", "tmp", "setpoint"]), "has no column 'temp'; did you mean 'tmp'?"),
        (lines_with(4, "1,2"), "line 5 has another number of cells than the header ('1,2')"),
        (lines_with(4, "1,2,3,4,5"), "line 5 has another number of cells"),
        (lines_with(4, '1,"2,3,4'), "a quote is opened"),
        ("alpha\nbeta\n", "expected a table of at least two columns"),
        (table()[:60] + "\0" + table()[60:], "holds zero bytes"),
        ("PK\x03\x04" + table(), "a workbook"),
        (table().replace("12.0,", "noon,"), "line 6 has 'noon' in column 't', expected a time"),
        (
            table([[*row[:2], 1e39 if k == 5 else row[2], row[3]] for k, row in enumerate(ROWS.tolist())]),
            "NaN or infinity",
        ),
    ],
)
def test_what_is_no_table_of_numbers_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(text)
    sentence = refused(log)
    assert said in sentence
    assert "log.csv" in sentence
    assert "fetch it again" not in sentence


def test_a_reward_that_divides_by_zero_or_reads_nothing_is_refused(tmp_path: Path) -> None:
    log = written(tmp_path, table())
    said = refused(log, replace(HEATER, reward="-1/u"))
    assert "divides by zero in 4 of 12 rows (the first is line 2: u = 0)" in said
    assert "there is no column 'tmp'; did you mean 'temp' or" in refused(log, replace(HEATER, reward="-abs(tmp)"))
    assert "no column for reward; its columns are" in refused(log, replace(HEATER, reward=""))


# ---------------------------------------------------------------------- time


def timed(folder: Path, times: Sequence[object], name: str = "log.csv") -> Path:
    """The table at other times."""
    (folder / name).write_text(table([[time, *row[1:]] for time, row in zip(times, ROWS.tolist(), strict=True)]))
    return folder / name


STAMP = np.datetime64("2024-03-14T23:59:50")
STAMPS = [(STAMP + np.timedelta64(3 * k, "s")).item() for k in range(12)]
CLOCKS: dict[str, list[object]] = {
    "since 1970": [1.7e9 + 3 * k for k in range(12)],
    "thousandths": [f"{1.7e12 + 3000 * k:.0f}" for k in range(12)],
    "iso": [f"{stamp.isoformat()}.25" for stamp in STAMPS],
    "zulu": [f"{stamp.isoformat()}Z" for stamp in STAMPS],
    "zone": [f"{stamp.isoformat()}+01:00" for stamp in STAMPS],
    "blank": [f"{stamp:%Y-%m-%d %H:%M:%S}" for stamp in STAMPS],
    "german": [f"{stamp:%d.%m.%Y %H:%M:%S}.5" for stamp in STAMPS],
    "american": [f"{stamp:%m/%d/%Y %I:%M:%S %p}" for stamp in STAMPS],
    "historian": [f"{stamp:%d-%b-%y %H:%M:%S}" for stamp in STAMPS],
    "universal": [f"{stamp:%Y-%m-%d %H:%M:%S} UTC" for stamp in STAMPS],
    "minutes and parts of seconds": [f"0:{3 * k:02}.5" for k in range(12)],
    "dots": [f"08.00.{3 * k:02}" for k in range(12)],
    "of day": [f"08:00:{3 * k:02}" for k in range(12)],
}


@pytest.mark.parametrize("name", CLOCKS)
def test_times_are_seconds_however_they_are_written(name: str, plain: np.ndarray, tmp_path: Path) -> None:
    dataset, said = imported(timed(tmp_path, CLOCKS[name]))
    np.testing.assert_allclose(by_hand(dataset), plain, rtol=1e-6)
    assert "A sample is 3 s." in said


@pytest.mark.parametrize("name", ["t (ms)", "t"])
def test_a_clock_may_count_in_another_unit(name: str, tmp_path: Path) -> None:
    text = table([[3000 * k, *row[1:]] for k, row in enumerate(ROWS.tolist())], names=[name, *NAMES[1:]])
    log = written(tmp_path, text if "(" in name else lines_with(1, "ms,-,C,C", text))
    _, said = imported(log, replace(HEATER, time=name))
    assert "Times of log.csv are in ms." in said and "A sample is 3 s." in said


@pytest.mark.parametrize(
    ("steps", "sample"),
    [([86400.0] * 9, 86400.0), ([0.0166667] * 9, 0.0166667), ([2.96, 3.04] * 9, 3.0), ([1 / 3] * 9, 0.333333)],
)
def test_a_sample_is_a_round_number_only_where_times_scatter(steps: list[float], sample: float) -> None:
    assert sample_of(np.array(steps)) == pytest.approx(sample, rel=2e-6)


def test_a_date_that_may_be_read_in_two_ways_is_asked_for(tmp_path: Path) -> None:
    log = timed(tmp_path, [f"03/04/2024 08:00:{3 * k:02}" for k in range(12)])
    assert "--date-order day or --date-order month" in refused(log)
    assert len(imported(log, replace(HEATER, date_order="day"))[0]) == 11


def test_rows_are_put_in_order_of_time_and_said(plain: np.ndarray, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(12)
    dataset, said = imported(written(tmp_path, table(ROWS[order])))
    np.testing.assert_allclose(by_hand(dataset), plain, rtol=1e-6)
    assert "were not in order of time: they were sorted" in said


def test_a_clock_that_starts_again_begins_an_episode(tmp_path: Path) -> None:
    dataset, said = imported(timed(tmp_path, [3.0 * (k % 6) for k in range(12)]))
    assert dataset.episodes() == [(0, 5), (5, 10)]
    assert "start again 1 time (the first after line 7)" in said


def test_a_missing_row_and_a_gap_split_an_episode(tmp_path: Path) -> None:
    times = [3.0 * k + 3 * (k > 3) + 3600 * (k > 8) for k in range(12)]
    dataset, said = imported(timed(tmp_path, times))
    assert dataset.episodes() == [(0, 3), (3, 7), (7, 9)]
    assert "2 gaps in time of log.csv (up to 3603 s, the first after line 5)" in said
    assert len(dataset.broken_links()) == 0


def test_rows_of_one_time_that_differ_are_refused_and_equal_ones_left_out(plain: np.ndarray, tmp_path: Path) -> None:
    said = refused(timed(tmp_path, [0, 3, 3, *range(9, 36, 3)]))
    assert "line 3 and line 4 are of the same time (3 s) and differ" in said
    log = written(tmp_path, lines_with(4, table().splitlines()[4]))
    dataset, said = imported(log)
    np.testing.assert_allclose(by_hand(dataset), plain, rtol=1e-6)
    assert "1 row of" in said and "stood there twice" in said


def test_rows_that_are_not_even_are_refused_or_put_on_a_grid(tmp_path: Path) -> None:
    times = 3.0 * np.arange(12) + np.where(np.arange(12) % 3 == 1, 1.0, 0.0)
    log = timed(tmp_path, times.tolist())
    said = refused(log)
    assert "not evenly apart: 2 to 4 s, 3 s on the whole" in said
    assert "--sample 3 --resample line" in said
    dataset, said = imported(log, replace(HEATER, resample="line"))
    # What is measured rises by .5 a row: on lines between the rows, it is known at every third second.
    at = 3.0 * np.arange(11)
    np.testing.assert_allclose(dataset.columns["obs"][:, 0], np.interp(at, times, ROWS[:, 2]), rtol=1e-6)
    held = ROWS[np.searchsorted(times, at, side="right") - 1, 1]
    np.testing.assert_allclose(dataset.columns["action"][:, 0], held, rtol=1e-6)


def test_longer_samples_take_an_actions_mean(tmp_path: Path) -> None:
    log = written(tmp_path, table())
    assert "its rows are 3 s apart, and a sample of 6 s is asked for" in refused(log, replace(HEATER, sample=6))
    dataset, said = imported(log, replace(HEATER, sample=6, resample="hold"))
    np.testing.assert_allclose(dataset.columns["obs"][:, 0], ROWS[:-2:2, 2])
    np.testing.assert_allclose(dataset.columns["action"][:, 0], (ROWS[:-2:2, 1] + ROWS[1:-1:2, 1]) / 2)
    assert "12 rows of" in said and "became 6, 6 s apart" in said


def test_increments_and_the_next_row_end_with_the_episode(tmp_path: Path) -> None:
    log = timed(tmp_path, [3.0 * k + 60 * (k > 5) for k in range(12)])
    dataset, _ = imported(log, replace(HEATER, reward="d_temp + 100*(next_temp - temp)"))
    assert dataset.columns["reward"].tolist() == [50.0, *[50.5] * 4, 50.0, *[50.5] * 4]


def test_an_episode_ends_by_a_formula_or_after_so_many_rows(tmp_path: Path) -> None:
    log = written(tmp_path, table())
    ended, _ = imported(log, replace(HEATER, terminated="temp > 25"))
    assert np.flatnonzero(ended.columns["terminated"]).tolist() == [6, 7, 8, 9, 10, 11]
    log.with_name("log.csv.d").rename(tmp_path / "ended")
    cut, _ = imported(log, replace(HEATER, time="", length=5))
    assert cut.episodes() == [(0, 4), (4, 8), (8, 9)]


def test_files_are_episodes_of_their_own_and_agree_on_a_sample(tmp_path: Path) -> None:
    for name in ("b", "a"):
        timed(tmp_path, (3.0 * np.arange(12)).tolist(), f"{name}.csv")
    paths = matching([tmp_path / "*.csv"])
    assert [path.name for path in paths] == ["a.csv", "b.csv"]
    dataset = import_dataset(
        *[open_source(path, description=HEATER) for path in paths], out=tmp_path / "d", label="both"
    )
    assert dataset.episodes() == [(0, 11), (11, 22)]
    timed(tmp_path, (5.0 * np.arange(12)).tolist(), "b.csv")
    sources = [open_source(path, description=HEATER) for path in paths]
    with pytest.raises(UserError, match=r"3 s apart and another's 5 s"):
        import_dataset(*sources, out=tmp_path / "e", label="both")
    assert not (tmp_path / "e").exists()
    with pytest.raises(UserError, match="no file matches"):
        matching([tmp_path / "*.tsv"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"resample": "linear"}, "--resample: 'linear' is unknown; did you mean 'line'?"),
        ({"gap": -1.0}, "--gap: found -1, expected a positive number"),
        ({"gap": 60.0, "time": ""}, "--gap: there is no column of times that it belongs to; name it with --time"),
        ({"gap": 1.0}, "--gap: a gap of 1 s is shorter than a sample of 3 s"),
        ({"obs": ("temp", "temp")}, "--obs: 'temp' stands there twice"),
        ({"next_obs": ("temp",)}, "--next-obs: found 1 columns for 2 of --obs"),
        ({"next_obs": ("temp", "setpoint"), "fill": "hold"}, "leave out --next-obs"),
        ({"names": ("a", "b")}, "--names: "),
        ({"time": "date"}, "--time: "),
    ],
)
def test_a_description_that_contradicts_itself_or_the_log_is_refused(
    changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    log = written(tmp_path, table())
    with pytest.raises(UserError) as error:
        imported(log, replace(HEATER, **changed))
    assert said in error.value.on_command_line()


# ---------------------------------------------------------------------- the small logs of others


def shown(name: str, tmp_path: Path, description: Description = HEATER, **options: Any) -> tuple[Dataset, str]:
    (tmp_path / name).symlink_to(CASES / name)
    return imported(tmp_path / name, description, **options)


GERMAN = Description(
    obs=("Temp °C", "Sollwert"), action=("Heizung",), reward='-(("Temp °C"-Sollwert)/10)**2', time="Zeit"
)
PADDED = replace(HEATER, obs=("temp", "set,point"), reward='-((temp-"set,point")/10)**2')
ALIKE: dict[str, tuple[Description, str]] = {
    "semicolon_comma.csv": (HEATER, "decimal comma"),
    "units_row.csv": (HEATER, "Line 2 of units_row.csv holds units (s, -, degC, degC) and is skipped"),
    "no_header.csv": (replace(HEATER, names=("t", "u", "temp", "setpoint")), "A sample is 3 s"),
    "latin1_tab.tsv": (GERMAN, "latin-1"),
    "unsorted.csv": (HEATER, "sorted"),
    "iso_time.csv": (HEATER, "A sample is 3 s"),
    "epoch.csv": (HEATER, "A sample is 3 s"),
    "padded_header.csv": (PADDED, "A sample is 3 s"),
}


@SHOWN
@pytest.mark.parametrize("name", ALIKE)
def test_a_dialect_holds_the_first_rows_of_the_excited_log(name: str, tmp_path: Path) -> None:
    excited, _ = shown("excited.csv", tmp_path)
    assert len(excited) == 1199
    description, words = ALIKE[name]
    dataset, said = shown(name, tmp_path, description)
    np.testing.assert_array_equal(dataset.rows(slice(0, 298)), excited.rows(slice(0, 298)))
    assert (len(dataset), dataset.episodes()) == (299, [(0, 299)])
    assert words in said


@SHOWN
def test_the_other_small_logs_are_read_as_their_table_says(tmp_path: Path) -> None:
    on_off, said = shown("on_off.csv", tmp_path)
    assert set(on_off.columns["action"].ravel()) == {0, 1} and "ON is 1, OFF is 0" in said
    assert shown("gap.csv", tmp_path)[0].episodes() == [(0, 149), (149, 298)]
    assert shown("word.csv", tmp_path, drop_bad=True)[0].episodes() == [(0, 40), (40, 297)]
    tanks = Description(obs=("y1", "y2", "setpoint"), action=("u1", "u2"), reward="-abs(y2-setpoint)", time="time")
    assert len(shown("two_tanks.csv", tmp_path, tanks)[0]) == 1499
    assert len(shown("closed_loop.csv", tmp_path)[0]) == 1999
    jitter, _ = shown("jitter.csv", tmp_path, replace(HEATER, resample="line"))
    assert 297 <= len(jitter) <= 300


@SHOWN
@pytest.mark.slow
def test_a_log_under_its_controller_is_read_and_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, looks in (("closed_loop.csv", True), ("excited.csv", False)):
        shown(name, tmp_path)
        assert main(["data", "check", str(tmp_path / f"{name}.d"), "--json"]) == 0
        warnings = json.loads(capsys.readouterr().out)["warnings"]
        assert any("closed loop" in warning for warning in warnings) == looks


@SHOWN
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_header.csv", "its first row holds numbers (0, 159.4, 22, 93)"),
        ("twice_u.csv", "more than one column 'u' (columns 2 and 3)"),
        ("word.csv", "line 43 has 'Bad Input' in column 'u'"),
        ("jitter.csv", "--sample 3 --resample line"),
    ],
)
def test_small_logs_that_are_refused_say_why(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(CASES / name)
    assert said in refused(tmp_path / name)
