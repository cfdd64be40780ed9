"""Columns that follow from others, units in cells, and what a data set knows of its log's clock."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fittedq.cli.main import main
from fittedq.data.checks.base import ADVICE, GOOD
from fittedq.data.checks.clock import Clock
from fittedq.data.dataset import Dataset
from fittedq.data.description import Column, Description
from fittedq.data.first_look import first_description
from fittedq.data.importers import import_dataset, open_source
from fittedq.data.times import Times
from fittedq.errors import UserError
from test_logs import HEATER, ROWS, imported, lines_with, refused, table, timed, written

MEAN = replace(
    HEATER,
    obs=("error", "temp"),
    reward="-error**2 - 0.1*d_error**2",
    derived={"error": "temp - setpoint", "twice": "2*error", "unread": "2*temp"},
    columns={"error": Column(), "temp": Column()},
)


def test_a_derived_column_is_observed_and_read_by_formulas(tmp_path: Path) -> None:
    dataset, _ = imported(written(tmp_path, table()), MEAN)
    error = (ROWS[:, 2] - ROWS[:, 3]).astype(float)
    np.testing.assert_allclose(dataset.columns["obs"], np.stack([error, ROWS[:, 2]], axis=1)[:-1], rtol=1e-6)
    np.testing.assert_allclose(dataset.columns["next_obs"][:, 0], error[1:], rtol=1e-6)
    step = np.diff(error[:-1], prepend=error[0])
    np.testing.assert_allclose(dataset.columns["reward"], -(error[:-1] ** 2) - 0.1 * step**2, rtol=1e-5)
    assert dataset.description is not None and dataset.description.obs == ("error", "temp")
    twice = replace(MEAN, obs=("temp",), reward="-twice", length=4, time="", columns={})
    (tmp_path / "more").mkdir()
    other, _ = imported(written(tmp_path / "more", table()), twice)
    np.testing.assert_allclose(other.columns["reward"], -2 * error[np.r_[0:3, 4:7, 8:11]], rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"derived": {"temp": "2*u"}}, "has a column 'temp', and so has .derived."),
        ({"derived": {"error": "temp - sepoint"}}, "there is no column 'sepoint'; did you mean 'setpoint'"),
        ({"derived": {"error": "later - 1", "later": "temp"}}, "there is no column 'later'"),
        ({"derived": {"error": "temp +"}}, "cannot be read"),
        ({"derived": {"error": "1/(temp - temp)"}}, "divides by zero in 12 of 12 rows"),
        ({"action": ("error",)}, "has no column 'error'"),
        ({"time": "error"}, "has no column 'error'"),
    ],
)
def test_a_derived_column_that_is_none_is_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        imported(written(tmp_path, table()), replace(MEAN, **changed))
    assert not (tmp_path / "log.csv.d").exists()


def test_a_table_of_derived_columns_is_checked_where_it_is_read() -> None:
    text: dict[str, Any] = {"columns": {"e": {"role": "measured"}, "t": {}, "u": {"role": "action"}}}
    assert Description.of(text | {"derived": {"e": "t - 3"}}, "f").derived == {"e": "t - 3"}
    for derived, said in (
        ({"e": 3}, "expected a table of formulas, as in"),
        ({"e": "next_t"}, "reads the row that"),
        ({"u": "t"}, "a controller decides on columns of the log"),
    ):
        with pytest.raises(UserError, match=said):
            Description.of(text | {"derived": derived}, "f")


# ---------------------------------------------------------------------- units in cells

CELLS = {
    "behind a blank": ("{:g} °C", ","),
    "at once": ("{:g}degC", ","),
    "with a decimal comma": ("{:.2f} K", ";"),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_unit_in_every_cell_is_read_by_rule_and_said(name: str, tmp_path: Path) -> None:
    form, delimiter = CELLS[name]
    rows = [[f"{t:g}", f"{u:g}", form.format(y), f"{w:g}"] for t, u, y, w in ROWS.tolist()]
    text = table(rows, comma=delimiter)
    log = written(tmp_path, text.replace(".", ",") if delimiter == ";" else text)
    dataset, said = imported(log, HEATER)
    np.testing.assert_allclose(dataset.columns["obs"][:, 0], ROWS[:-1, 2], rtol=1e-5)
    unit = form.partition("}")[2].strip()
    assert f"Column 'temp': its cells are in {unit}." in said
    assert f'unit = "{unit}"' in first_description(log)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["20 °C"] * 11 + ["70 °F"], "line 13 has '70 °F' in column 'temp', where the others are in °C"),
        (["20"] * 11 + ["70x"], "line 13 has '70x' in column 'temp', where the others are numbers without a unit"),
        (["20 kW", "500 W"] * 6, "in column 'temp', where the others are"),
        (["about 20"] * 12, "line 2 has 'about 20' in column 'temp', expected a number"),
    ],
)
def test_units_that_differ_are_refused_with_row_column_and_word(cells: list[str], said: str, tmp_path: Path) -> None:
    rows = [[row[0], row[1], cell, row[3]] for row, cell in zip(ROWS.tolist(), cells, strict=True)]
    assert said in refused(written(tmp_path, table(rows)))


def test_files_in_different_units_are_refused_and_a_description_in_another_is_told(tmp_path: Path) -> None:
    for name, unit in (("a", "degC"), ("b", "°C"), ("c", "K")):
        (tmp_path / f"{name}.csv").write_text(lines_with(1, f"s,-,{unit},degC"))

    def both(name: str, unit: str = "") -> list[str]:
        said = replace(HEATER, columns={"temp": Column(unit=unit), "setpoint": Column("set-point", unit="celsius")})
        sources = [open_source(tmp_path / f"{one}.csv", description=said) for one in ("a", name)]
        import_dataset(*sources, out=tmp_path / f"{name}{unit}", label="both")
        return sources[0].notes

    assert "by the description" not in " ".join(both("b", "C"))
    assert "Column 'temp' is in degC by the file and in K by the description" in " ".join(both("b", "K"))
    with pytest.raises(UserError, match="column 'temp' is in degC in one file and in K in another"):
        both("c")


def test_a_name_that_looks_like_a_number_with_its_unit_is_a_name(tmp_path: Path) -> None:
    names = ["t", "u", "10m", "50m"]
    said = replace(HEATER, obs=("10m", "50m"), reward="-'10m'")
    dataset, _ = imported(written(tmp_path, table(names=names)), said)
    np.testing.assert_allclose(dataset.columns["obs"], ROWS[:-1, 2:], rtol=1e-6)


def test_a_clock_may_have_its_unit_in_its_cells(tmp_path: Path) -> None:
    rows = [[f"{1000 * t:g} ms", u, y, w] for t, u, y, w in ROWS.tolist()]
    dataset, said = imported(written(tmp_path, table(rows)), HEATER)
    assert "A sample is 3 s." in said and dataset.times is not None and dataset.times.sample == 3.0


@pytest.mark.parametrize(("sample", "said"), [(60.0, "longer than the longest episode of"), (0.01, "nearly none was")])
def test_a_grid_that_is_no_log_any_more_is_refused(sample: float, said: str, tmp_path: Path) -> None:
    assert said in refused(written(tmp_path, table()), replace(HEATER, resample="line", sample=sample))


# ---------------------------------------------------------------------- the clock


def test_an_import_remembers_what_the_clock_was_like(tmp_path: Path) -> None:
    steps = np.array([3.0, 3.6, 2.4, 3.0, 9.0, 3.0, 3.0, 3.6, 2.4, 3.0, 3.0])
    log = timed(tmp_path, np.concatenate([[0], np.cumsum(steps)]).tolist())
    dataset, _ = imported(log, replace(HEATER, resample="line", sample=3.0, gap=6.0))
    times = dataset.times
    assert times is not None
    assert (times.rows, times.steps, times.gaps, times.longest_gap, times.resample) == (12, 10, 1, 9.0, "line")
    assert times.deviation == pytest.approx(np.sqrt(4 * 0.2**2 / 10)) and times.worst == pytest.approx(0.2)
    assert sum(times.histogram) == 10
    again = Dataset.open(log.with_name(f"{log.name}.d"))
    assert again.times == times
    again.save(tmp_path / "copy")
    assert Dataset.open(tmp_path / "copy").times == times


def test_files_clocks_are_one() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(3, 0.2, 50), rng.normal(3, 0.4, 30)
    both = Times.together([Times.of(one, 3.0, 51, gaps=1, longest_gap=9.0), Times.of(other, 3.0, 31)])
    whole = Times.of(np.concatenate([one, other]), 3.0, 82, gaps=1, longest_gap=9.0)
    assert both is not None and both.deviation == pytest.approx(whole.deviation)
    assert both == replace(whole, deviation=both.deviation)
    assert Times.together([]) is None


def test_jitter_and_lost_rows_are_advised_on_beyond_their_limits() -> None:
    even = Clock.of(Times.of(np.full(100, 3.0), 3.0, 101))
    assert even.verdict == GOOD and "3 s apart, give or take 0 %" in even.finding()
    uneven = Times.of(np.tile([2.6, 3.4], 50), 3.0, 101)
    for resample, remedy in (("", "Log at a fixed cycle, or"), ("hold", "--resample line"), ("line", "smaller, not")):
        check = Clock.of(replace(uneven, resample=resample))
        assert check.verdict == ADVICE and "give or take 13.3 %" in check.finding() and remedy in check.remedy()
    lost = Clock.of(Times.of(np.full(97, 3.0), 3.0, 101, gaps=3, longest_gap=60.0))
    assert lost.verdict == ADVICE and "3 gaps (up to 60 s)" in lost.finding() and "bridge" in lost.remedy()


def test_the_check_of_a_log_tells_its_jitter_and_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    log = timed(tmp_path, (3.0 * np.arange(12)).tolist())
    imported(log, HEATER)
    folder = str(log.with_name(f"{log.name}.d"))
    assert main(["data", "check", folder, "--json", "--pictures", str(tmp_path / "p")]) == 0
    found = json.loads(capsys.readouterr().out)["checks"]["times"]
    assert found["verdict"] == GOOD and found["deviation"] == 0
    assert (tmp_path / "p" / "times.png").is_file()


def test_a_damaged_record_of_times_is_named() -> None:
    good = Times.of(np.full(4, 3.0), 3.0, 5).described()
    assert Times.read(good, "m") == Times.of(np.full(4, 3.0), 3.0, 5)
    for wrong in (good | {"rows": "many"}, good | {"other": 1}, good | {"histogram": [1]}, {}):
        with pytest.raises(UserError, match="m: it is no record of times"):
            Times.read(wrong, "m")
