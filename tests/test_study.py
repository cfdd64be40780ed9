"""Trials in a storage: asked for once, put back where their process is gone, judged at the same places."""

from __future__ import annotations

from pathlib import Path

import pytest

from fittedq.errors import UserError
from fittedq.ranges import LOG, NEAR_ONE, Among, Span
from fittedq.runs.study import Study, check_storage, values_of

pytest.importorskip("optuna")

SPACE = {
    "gamma": Span(0.9, 0.998, NEAR_ONE),
    "tau": Span(0.001, 0.05, LOG),
    "hidden": Among(((8,), (4, 4))),
    "policy_delay": Span(1, 4),
}
PAGE = 4096
"""Bytes of a page of SQLite."""
ASKED = {"algorithm": "td3", "steps": 60}


@pytest.fixture(params=["tune.db", "tune.journal"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def opened(file: Path, trials: int = 3, prune: int = 50, **asked: object) -> Study:
    return Study(file, ASKED | asked, SPACE, trials, prune, seed=0)


def test_trials_are_counted_and_the_best_is_the_highest(file: Path) -> None:
    study = opened(file)
    for score in (1.0, 3.0, 2.0):
        trial = study.ask()
        assert trial is not None and trial.folder == trial.number
        values = values_of(trial.words)
        assert 0.9 <= values["gamma"] <= 0.998 and 0.001 <= values["tau"] <= 0.05
        assert values["hidden"] in ([8], [4, 4]) and values["policy_delay"] in (1, 2, 3, 4)
        study.whole(trial, score, told=True)
    assert study.ask() is None
    assert study.best is not None and (study.best.trial.number, study.best.score) == (1, 3.0)
    study.close()
    again = opened(file, trials=4)
    assert again.ask() is not None and again.ask() is None
    again.close()


def test_what_says_something_is_better_than_what_does_not(file: Path) -> None:
    study = opened(file)
    for score, told in ((9.0, False), (1.0, True), (2.0, True)):
        trial = study.ask()
        assert trial is not None
        study.whole(trial, score, told=told)
    assert study.best is not None and study.best.score == 2.0
    study.close()


def test_a_trial_whose_process_is_gone_goes_on_with_its_settings_in_its_folder(file: Path) -> None:
    gone = opened(file)
    one, two = gone.ask(), gone.ask()
    assert one is not None and two is not None
    other = opened(file)
    assert other.others == 1
    third = other.ask()
    assert third is not None and third.number == 2 and other.ask() is None  # those of the other one are its own
    assert gone._lock is not None
    gone._lock.release()  # as the kernel does where a process is killed
    again = [other.ask(), other.ask()]
    assert {(one.folder, one.words) for one in again if one} == {(one.folder, one.words), (two.folder, two.words)}
    assert other.ask() is None and len(other.outcomes()) == 3
    other.close()


def test_closing_puts_back_what_is_not_over(file: Path) -> None:
    study = opened(file)
    one, two = study.ask(), study.ask()
    assert one is not None and two is not None
    study.whole(one, 1.0, told=True)
    study.close()
    study = opened(file)
    assert [one.state for one in study.outcomes()] == ["whole", "waiting"]
    back = study.ask()
    assert back is not None and (back.folder, back.words) == (two.folder, two.words)
    study.close()


def test_processes_that_share_a_storage_draw_what_one_would(tmp_path: Path) -> None:
    """By the trial's number: the first two of one process are those of two processes."""
    alone, first = opened(tmp_path / "a.db"), opened(tmp_path / "b.db")
    second = opened(tmp_path / "b.db")
    own, shared = [alone.ask(), alone.ask()], [first.ask(), second.ask()]
    assert [one.words for one in own if one] == [one.words for one in shared if one] and own[0] != own[1]
    for study in (alone, first, second):
        study.close()


def test_a_trial_below_the_others_at_the_same_place_is_hopeless(tmp_path: Path) -> None:
    study = opened(tmp_path / "tune.db", trials=9)
    for base in range(5):
        trial = study.ask()
        assert trial is not None
        for seed in (0, 1):
            for step in (30, 60):
                assert not study.take(trial, seed, step, 10.0 * base + step)
        study.whole(trial, 10.0 * base + 60, told=True)
    worse, better = study.ask(), study.ask()
    assert worse is not None and better is not None
    assert not study.take(better, 0, 30, 51.0) and study.take(worse, 0, 30, 49.0)  # the median is 50
    study.ended_early(worse)
    # At the second run's places counts the mean of both: 90 and 14 are 52.
    assert not study.take(better, 1, 30, 14.0 + 39.0)
    states = [one.state for one in study.outcomes()]
    assert states == ["whole"] * 5 + ["ended early", "running"]
    study.close()


def test_none_is_ended_early_where_none_is_to_be(tmp_path: Path) -> None:
    study = opened(tmp_path / "tune.db", trials=9, prune=0)
    for base in (9, 9, 9, 9, 9, 9, -9):
        trial = study.ask()
        assert trial is not None and not study.take(trial, 0, 30, base)
        study.whole(trial, base, told=True)
    study.close()


def test_a_trial_that_failed_counts_and_is_not_tried_again(file: Path) -> None:
    study = opened(file, trials=1)
    trial = study.ask()
    assert trial is not None
    study.failed(trial, "no such thing")
    assert study.ask() is None and study.best is None and [one.state for one in study.outcomes()] == ["failed"]
    study.close()


def test_a_storage_of_other_runs_is_refused(file: Path) -> None:
    opened(file).close()
    with pytest.raises(UserError, match="holds trials with steps 60, and 70 is asked for"):
        opened(file, steps=70)


@pytest.mark.parametrize("name", ["notes.db", "notes.journal", "notes.txt"])
def test_what_is_no_storage_is_not_touched(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text("mine")
    with pytest.raises(UserError, match=r"storage: .*(is no storage of trials|expected the name of a file)"):
        check_storage(file)
    assert file.read_text() == "mine" and list(tmp_path.iterdir()) == [file]


def test_another_programs_database_is_not_touched(tmp_path: Path) -> None:
    import sqlite3

    file = tmp_path / "own.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE mine (a)")
    connection.commit()
    connection.close()
    before = file.read_bytes()
    with pytest.raises(UserError, match="is no storage of trials"):
        check_storage(file)
    assert file.read_bytes() == before


def test_a_damaged_storage_is_told_in_a_sentence_without_a_statement_of_sql(tmp_path: Path) -> None:
    file = tmp_path / "tune.db"
    opened(file).close()
    whole = bytearray(file.read_bytes())
    whole[2 * PAGE : 3 * PAGE] = b"\xff" * PAGE  # the first page, with the names of the tables, is whole
    file.write_bytes(whole)
    check_storage(file)
    with pytest.raises(UserError) as told:
        opened(file).ask()
    assert "tune.db cannot be read or written as a storage of trials (database disk image is malformed); give" in str(
        told.value
    )
    assert "SQL" not in str(told.value) and "\n" not in str(told.value)


def test_a_kill_before_the_first_trial_leaves_a_storage_that_goes_on(file: Path) -> None:
    """What was asked for is written one by one; without a trial, what is missing is written then."""
    opened(file).close()
    study = Study(file, ASKED | {"seeds": 2}, SPACE, 3, 50, seed=0)
    assert study.ask() is not None
    study.close()
    with pytest.raises(UserError, match="holds trials with data None, and log is asked for"):
        Study(file, ASKED | {"seeds": 2, "data": "log"}, SPACE, 3, 50, seed=0)


def test_trials_of_another_program_are_named(file: Path) -> None:
    optuna = pytest.importorskip("optuna")
    where = f"sqlite:///{file}"
    if file.suffix == ".journal":
        where = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    optuna.create_study(storage=where, study_name="fittedq", direction="maximize").optimize(lambda trial: 1.0, 1)
    with pytest.raises(UserError, match="holds trials of another program; give another file"):
        opened(file)


def test_a_line_that_a_crash_tore_is_the_only_one_lost(tmp_path: Path) -> None:
    """The trial was asked for and not yet told: it is asked for again, with its settings."""
    file = tmp_path / "tune.journal"
    study = opened(file)
    one = study.ask()
    assert one is not None
    study.whole(one, 1.0, told=True)
    study.close()
    file.write_bytes(file.read_bytes()[:-20])
    study = opened(file)
    again = study.ask()
    assert again is not None and (again.folder, again.words) == (one.folder, one.words)
    study.whole(again, 2.0, told=True)
    study.close()
    study = opened(file)
    assert study.best is not None and study.best.score == 2.0
    study.close()


@pytest.mark.parametrize("line", [b"{}", b'{"op_code":99,"worker_id":"x"}', bytes(40), b"no line"])
def test_a_damaged_line_of_a_journal_is_told_in_a_sentence(line: bytes, tmp_path: Path) -> None:
    file = tmp_path / "tune.journal"
    opened(file).close()
    lines = file.read_bytes().splitlines()
    lines[2] = line
    file.write_bytes(b"\n".join([*lines, b""]))
    with pytest.raises(UserError, match=r"cannot be read or written as a storage of trials .* give another file"):
        opened(file)
