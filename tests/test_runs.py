"""Run folders: one process at a time, nothing of the user's replaced, what a kill left completed, edits told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fittedq
from fittedq.cli.main import main
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.files import MANIFEST, digest_of, load_folder, read_signed
from fittedq.runs.folder import RunFolder
from fittedq.runs.resume import reopened
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule

TINY = {"hidden": (8,), "batch_size": 8, "replay_size": 1000, "random_steps": 20}
SCHEDULE = Schedule(steps=60, report_every=20, eval_every=40, eval_episodes=1, checkpoint_every=20)


def run_in(folder: Path, **given: Any) -> Run:
    return Run("ddpg", "Pendulum-v1", SCHEDULE, seed=1, settings=TINY | given, folder=folder)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps with checkpoints at 40 and 60."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    run = run_in(folder)
    run.start()
    list(run.execute())
    return folder


@pytest.fixture
def copy(straight: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(straight, tmp_path / "run"))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """(exit code, what was said) of a command."""

    def said(*arguments: Any) -> tuple[int, str]:
        code = main([str(argument) for argument in arguments])
        found = capsys.readouterr()
        return code, found.out + found.err

    return said


def everything(folder: Path) -> dict[str, Any]:
    return {str(path): path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


def last_agent(folder: Path) -> dict[str, np.ndarray]:
    return load_folder(folder / "last", "agent")[0]


def assert_same_agent(one: Path, other: Path) -> None:
    arrays, others = last_agent(one), last_agent(other)
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name])


# ---------------------------------------------------------------------- one run, one process


def test_a_second_process_is_told_who_writes_there_and_a_reader_is_not_held_up(copy: Path) -> None:
    run = reopened(copy, steps=100)
    sentence = f"in use by process {os.getpid()};"
    for attempt in (lambda: reopened(copy), lambda: RunFolder(copy).open()):
        with pytest.raises(UserError, match=sentence):
            attempt()
    assert fittedq.load(copy).obs_size == 3
    assert len(RunFolder(copy).metrics()) == 3
    run.close()
    reopened(copy).close()


def test_a_run_that_has_just_begun_is_locked(tmp_path: Path) -> None:
    first, second = run_in(tmp_path / "run"), run_in(tmp_path / "run")
    first.start()
    with pytest.raises(UserError, match="in use by process"):
        second.start()
    first.close()
    second.start()
    second.close()


def test_a_resume_that_was_refused_holds_no_lock(copy: Path) -> None:
    for file in (copy / "checkpoints").rglob("tensors-*"):
        file.unlink()
    for _ in range(2):
        with pytest.raises(UserError, match="no whole checkpoint"):
            reopened(copy)


# ---------------------------------------------------------------------- what a kill left


def test_a_run_killed_while_its_last_agent_was_written_is_completed(copy: Path, straight: Path, said: Any) -> None:
    shutil.rmtree(copy / "last")
    (copy / "curve.png").unlink()
    code, text = said("resume", copy)
    assert (code, "Completed" in text) == (0, True)
    assert_same_agent(copy, straight)
    assert (copy / "curve.png").is_file()
    code, text = said("resume", copy)
    assert (code, "give a larger --steps" in text) == (2, True)


def test_an_agent_of_an_earlier_end_is_not_taken_for_the_last(copy: Path, said: Any) -> None:
    before = Path(shutil.copytree(copy / "last", copy.parent / "before"))
    assert said("resume", copy, "--steps", 80)[0] == 0
    shutil.rmtree(copy / "last")
    shutil.move(before, copy / "last")
    assert said("resume", copy)[0] == 0
    assert read_signed(copy / "last" / MANIFEST)["origin"]["step"] == 80


def test_an_agent_of_another_run_is_not_taken_for_this_ones(copy: Path, said: Any) -> None:
    fittedq.load(copy)
    agent = fittedq.load(copy / "last")
    shutil.rmtree(copy / "best", ignore_errors=True)
    agent.keep(copy / "best", origin={"step": 60, "settings": "another's"})
    with pytest.raises(UserError, match=r"best was saved by a run of other settings than .*; put its own back"):
        fittedq.load(copy)
    assert (fittedq.load(copy / "best").act(np.ones(3)) == agent.act(np.ones(3))).all()
    code, text = said("verify", copy)
    assert (code, "best was saved by a run of other settings" in text) == (1, True)


def test_a_finished_run_without_checkpoints_is_not_whole(copy: Path, said: Any) -> None:
    shutil.rmtree(copy / "checkpoints")
    code, text = said("verify", copy)
    assert (code, "checkpoints holds no checkpoint" in text) == (1, True)


def test_a_picture_that_cannot_be_drawn_takes_no_agent_along(copy: Path, said: Any) -> None:
    (copy / "curve.png").unlink(missing_ok=True)
    (copy / "curve.png").mkdir()
    code, text = said("resume", copy, "--steps", 80)
    assert (code, "curve.png is not a picture that fittedq made" in text) == (0, True)
    assert read_signed(copy / "last" / MANIFEST)["origin"]["step"] == 80


def only_begun(straight: Path, folder: Path) -> Path:
    """A run that was killed before its first checkpoint."""
    folder.mkdir()
    shutil.copy(straight / "config.json", folder)
    (folder / "metrics.jsonl").write_text('{"step": 20}\n{"st')
    return folder


def test_a_run_without_a_checkpoint_is_resumed_from_the_start(straight: Path, tmp_path: Path) -> None:
    folder = only_begun(straight, tmp_path / "run")
    run = reopened(folder)
    assert any("begins at step 0" in note for note in run.notes)
    list(run.execute())
    assert_same_agent(folder, straight)
    assert [record["step"] for record in RunFolder(folder).metrics()] == [20, 40, 60]


def test_a_run_without_a_checkpoint_may_be_begun_again_but_not_another(straight: Path, tmp_path: Path) -> None:
    folder = only_begun(straight, tmp_path / "run")
    with pytest.raises(UserError, match="another configuration"):
        run_in(folder, gamma=0.5).start()
    run = run_in(folder)
    run.start()
    list(run.execute())
    assert_same_agent(folder, straight)
    with pytest.raises(UserError, match="the same configuration"):
        run_in(folder).start()


@pytest.mark.parametrize("name", ["last", "best", "checkpoints", "metrics.jsonl", "curve.png", "config.json"])
def test_a_folder_of_the_users_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    if "." in name:
        (tmp_path / name).write_text("mine")
    else:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.csv").write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(UserError, match=name):
        run_in(tmp_path).start()
    with pytest.raises(UserError, match=r"config\.json"):
        reopened(tmp_path)
    assert everything(tmp_path) == before


# ---------------------------------------------------------------------- integrity


def edit(file: Path, signed: bool, **changes: Any) -> None:
    value = json.loads(file.read_text()) | changes
    if signed:
        del value["sha256"]
        value["sha256"] = digest_of(value)
    file.write_text(json.dumps(value))


def test_an_edited_configuration_is_refused_and_what_to_do_is_said(copy: Path) -> None:
    edit(copy / "config.json", signed=False, steps=1000)
    with pytest.raises(UserError, match=r"config.json: its SHA-256 differs.*edited.*fittedq resume --steps"):
        reopened(copy)


def test_settings_that_no_checkpoint_was_written_under_are_refused(copy: Path) -> None:
    settings = read_signed(copy / "config.json")["settings"]
    edit(copy / "config.json", signed=True, settings=settings | {"gamma": 0.5})
    with pytest.raises(UserError, match=r"no whole checkpoint.*step-0000000060 was written by a run of other settings"):
        reopened(copy)


def test_what_a_resume_changed_is_kept_and_cannot_be_taken_back(copy: Path) -> None:
    first = read_signed(copy / "config.json")
    run = reopened(copy, steps=80)
    list(run.execute())
    config = read_signed(copy / "config.json")
    assert config["history"] == [{"step": 60, "steps": [60, 80]}]
    assert config["steps"] == 80
    run = reopened(copy, steps=100)  # the checkpoint before this change fits what came before it
    run.close()
    (copy / "config.json").write_text(json.dumps(first | {"format": 2, "sha256": digest_of(first)}))
    shutil.rmtree(copy / "checkpoints" / "step-0000000060")
    with pytest.raises(UserError, match="step-0000000080 was written by a run of other settings"):
        reopened(copy)


BAD = [b"\xff\xfe\x00", b"[1, 2]", b'{"step": "a"}', b'{"updates": 3}', b'{"step": 20, "eval_mean": "x"}', b"[" * 9999]


def test_no_line_of_metrics_stops_a_resume(copy: Path, straight: Path) -> None:
    lines = (copy / "metrics.jsonl").read_bytes().splitlines()
    (copy / "metrics.jsonl").write_bytes(b"\n".join([BAD[0], lines[0], *BAD[1:], *lines[1:]]) + b'\n{"step": 6')
    run = reopened(copy, steps=80)
    assert any(f"{len(BAD) + 1} lines" in note for note in run.notes)
    list(run.execute())
    assert (copy / "metrics.jsonl").read_bytes().splitlines()[:3] == lines
    assert (copy / "curve.png").is_file()


def test_the_best_so_far_does_not_depend_on_the_metrics(copy: Path) -> None:
    best = max(record["eval_mean"] for record in RunFolder(copy).metrics() if "eval_mean" in record)
    (copy / "metrics.jsonl").unlink()
    run = reopened(copy)
    assert run.best == best
    run.close()


# ---------------------------------------------------------------------- verify


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_verify_finds_a_whole_run_agent_checkpoint_and_dataset_whole(straight: Path, tmp_path: Path, said: Any) -> None:
    columns = {name: np.zeros((4, 2), np.float32) for name in ("obs", "action", "next_obs")}
    flags = {"reward": np.zeros(4, np.float32), "terminated": np.zeros(4, bool)}
    Dataset.from_arrays(**columns, **flags, action_low=-1, action_high=1).save(tmp_path / "data")
    whole = {straight: "run", straight / "last": "agent", tmp_path / "data": "dataset"}
    whole |= {straight / "checkpoints" / "step-0000000060": "checkpoint"}
    for path, kind in whole.items():
        code, text = said("verify", path, "--json")
        assert (code, json.loads(text)) == (0, {"path": str(path), "kind": kind, "wrong": []})
    flip(tmp_path / "data" / "obs.npy")
    code, text = said("verify", tmp_path / "data")
    assert (code, "obs.npy: its SHA-256 differs" in text) == (1, True)


def test_verify_names_everything_that_is_wrong_with_a_run(copy: Path, said: Any) -> None:
    (rows,) = (copy / "checkpoints" / "step-0000000060").glob("rows-*")
    (tensors,) = (copy / "checkpoints" / "step-0000000040").glob("tensors-*")
    flip(rows)
    flip(tensors)
    (copy / "best" / MANIFEST).write_text("{")
    (file,) = (copy / "last").glob("tensors-*")
    file.unlink()
    with open(copy / "metrics.jsonl", "ab") as metrics:
        metrics.write(b"\xff\n")
    edit(copy / "config.json", signed=False, seed=3)
    code, text = said("verify", copy, "--json")
    wrong = json.loads(text)["wrong"]
    assert code == 1
    expected = ["config.json", rows.name, tensors.name, "best", file.name, "metrics.jsonl: 1 of 4 lines"]
    assert len(wrong) == len(expected)
    for words in expected:
        assert any(words in sentence for sentence in wrong), words


def test_a_last_line_that_a_kill_cut_short_is_not_damage(copy: Path, said: Any) -> None:
    with open(copy / "metrics.jsonl", "ab") as metrics:
        metrics.write(b'{"step": 80, "upd')
    assert said("verify", copy)[0] == 0
    with open(copy / "metrics.jsonl", "ab") as metrics:
        metrics.write(b"\n")
    code, text = said("verify", copy)
    assert (code, "metrics.jsonl: 1 of 4 lines" in text) == (1, True)


def test_verify_of_a_checkpoint_from_elsewhere_and_of_nothing(copy: Path, tmp_path: Path, said: Any) -> None:
    settings = read_signed(copy / "config.json")["settings"]
    edit(copy / "config.json", signed=True, settings=settings | {"gamma": 0.5})
    code, text = said("verify", copy)
    assert (code, text.count("was written by a run of other settings")) == (1, 2)
    code, text = said("verify", tmp_path)
    assert (code, "no run, agent, checkpoint, dataset or export" in text) == (2, True)
