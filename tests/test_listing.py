"""The table of runs: what a folder says of itself, whatever state it is in."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest

from fittedq import RunRecord, UserError, list_runs
from fittedq.cli.main import main
from fittedq.files import write_signed
from fittedq.runs.folder import RunFolder

CONFIG = {
    "algorithm": "td3",
    "env": "Pendulum-v1",
    "eval_env": None,
    "data": None,
    "action_set": None,
    "seed": 3,
    "steps": 2000,
    "settings": {},
    "preset": None,
    "method": None,
    "package": None,
}


def made(path: Path, **other: object) -> RunFolder:
    """A run that nobody writes to, with two evaluations of which the first was the better one."""
    folder = RunFolder(path)
    folder.create(CONFIG | other)
    for step, mean in ((1000, -150.0), (2000, -160.0)):
        folder.append({"step": step, "eval_mean": mean})
    folder.close()
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """One run in each state, two of them deeper."""
    root = tmp_path / "runs"
    made(root / "a" / "begun")
    (made(root / "a" / "stopped", env={"id": "Hopper-v5", "kwargs": {"x": 1}}).checkpoints / "step-1000").mkdir(
        parents=True
    )
    made(root / "done").last.mkdir()
    config = made(root / "harmed").config_file
    config.write_text(config.read_text().replace("td3", "sac"))
    (root / "other").mkdir()
    (root / "other" / "config.json").write_text("{}")  # somebody else's
    made(root / "done" / "best" / "inner")  # inside a run: no run of its own
    return root


def test_every_state_is_told_and_others_folders_are_left(runs: Path) -> None:
    found = {Path(one.path).name: one for one in list_runs(runs)}
    assert {name: one.state for name, one in found.items()} == {
        "begun": "begun",
        "stopped": "stopped",
        "done": "finished",
        "harmed": "damaged",
    }
    done = found["done"]
    assert (done.algorithm, done.env, done.seed, done.step, done.steps) == ("td3", "Pendulum-v1", 3, 2000, 2000)
    assert (done.best, done.last) == (-150.0, -160.0)
    assert found["stopped"].env == "Hopper-v5, x=1"
    assert "config.json" in str(found["harmed"].fault)


def test_a_run_that_is_written_to_is_running_and_stays_so(runs: Path) -> None:
    writing = RunFolder(runs / "a" / "stopped")
    writing.open()
    assert {one.state for one in list_runs(runs / "a")} == {"begun", "running"}
    assert writing.claimed
    writing.close()
    assert {one.state for one in list_runs(runs / "a")} == {"begun", "stopped"}


def test_one_whose_trainer_had_no_more_to_do_is_finished(tmp_path: Path) -> None:
    folder = made(tmp_path / "solved", steps=9000)
    folder.last.mkdir()
    assert [one.state for one in list_runs(tmp_path)] == ["stopped"]
    with open(folder.metrics_file, "a") as file:
        file.write('{"step": 2000, "finished": "no label changes"}\n')
    assert [one.state for one in list_runs(tmp_path)] == ["finished"]


def test_the_command_prints_a_table_csv_and_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(runs)]) == 0
    printed = capsys.readouterr()
    head, *rows = printed.out.splitlines()
    assert head.split()[0] == "run" and len(rows) == 4
    assert any(row.startswith("a/begun") and row.endswith("begun") for row in rows)
    assert "harmed" in printed.err
    assert main(["runs", str(runs), "--csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert main(["runs", str(runs), "--json"]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert objects == [dataclasses.asdict(one) for one in list_runs(runs)]
    assert [row["state"] for row in table] == [one["state"] for one in objects]
    assert list(table[0]) == [field.name for field in dataclasses.fields(RunRecord)]


def test_a_folder_that_is_itself_a_run_is_its_only_row(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(runs / "done")]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("done")


def test_what_cannot_be_listed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="found no folder there"):
        list_runs(tmp_path / "none")
    assert main(["runs", str(tmp_path), "--csv", "--json"]) == 2
    assert main(["runs", str(tmp_path)]) == 0
    assert "holds no runs" in capsys.readouterr().out
    write_signed(tmp_path / "config.json", {"kind": "run"})
    (tmp_path / "metrics.jsonl").touch()
    assert [one.state for one in list_runs(tmp_path)] == ["damaged"]
