"""Checkpoints: bit for bit in a new process, whole or not there, damaged ones passed over, metrics rewound."""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fittedq.agent import Agent
from fittedq.data.segments import read_rows
from fittedq.errors import UserError
from fittedq.files import CHECKPOINT, MANIFEST, load_folder, save_folder
from fittedq.runs import checkpoint
from fittedq.runs.resume import reopened
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from standing import Recorder

HALF = 120
TINY = {"hidden": (8,), "batch_size": 8, "replay_size": 1000, "random_steps": 50}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "td3": ("td3", "Pendulum-v1", {"normalize_obs": True}),
    "compiled": ("sac", "jax/Pendulum-v1", {"normalize_obs": True}),
}
SLOW_CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "as-observed": ("td3", "Pendulum-v1", {}),
    "two-envs-chunked": ("ddpg", "Pendulum-v1", {"n_envs": 2, "chunk": 4}),
    "replay-wrapped-few-updates": ("sac", "Pendulum-v1", {"replay_size": 70, "updates_per_step": 0.4, "dropout": 0.1}),
    "ddpg": ("ddpg", "Pendulum-v1", {}),
    "sac": ("sac", "Pendulum-v1", {}),
    "sac_v": ("sac_v", "Pendulum-v1", {}),
    "compiled-two-envs": ("ddpg", "jax/Pendulum-v1", {"n_envs": 2, "replay_size": 70}),
}

CONTINUE = """
import sys
from collections.abc import Iterable
from pathlib import Path
from fittedq.runs import checkpoint
from test_checkpoint import HALF, make
for name in sys.argv[3:]:
    trainer = make(name).trainer
    path, exact, problems = checkpoint.restore(Path(sys.argv[1]) / name, trainer)
    assert exact and not problems and trainer.step == HALF
    trainer.advance(HALF)
    checkpoint.save(Path(sys.argv[2]) / name, trainer, before=path)
"""


def make(name: str) -> Run:
    algorithm, env, settings = (CASES | SLOW_CASES)[name]
    return Run(algorithm, env, Schedule(steps=2 * HALF), seed=7, settings=TINY | settings)


# ---------------------------------------------------------------------- bit for bit


def loaded(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, with the replay's rows among them, manifest) of a checkpoint."""
    arrays, manifest = load_folder(path, CHECKPOINT)
    return arrays | {name: log.all() for name, log in read_rows(path, manifest).items()}, manifest


def run_by_halves(cases: Iterable[str], folder: Path) -> dict[str, tuple[Any, Any, Any]]:
    """Of each case: the state at half-time, after a straight run, and after a new process took over at half-time."""
    first, second = folder / "half", folder / "whole"
    halfway, straight = {}, {}
    for name in cases:
        trainer = make(name).trainer
        trainer.advance(HALF)
        halfway[name] = loaded(checkpoint.save(first / name, trainer))
        trainer.advance(HALF)
        checkpoint.save(first / f"{name}-straight", trainer)
        straight[name] = loaded(first / f"{name}-straight" / f"step-{2 * HALF:010d}")
    command = [sys.executable, "-c", CONTINUE, str(first), str(second), *cases]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    resumed = {name: loaded(second / name / f"step-{2 * HALF:010d}") for name in cases}
    return {name: (halfway[name], straight[name], resumed[name]) for name in cases}


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any, Any]]:
    return run_by_halves(CASES, tmp_path_factory.mktemp("halves"))


def check_equal(half: Any, whole: Any, resumed: Any) -> None:
    """Bit for bit, and the second half learned something."""
    (half_arrays, _), (arrays, manifest), (resumed_arrays, resumed_manifest) = half, whole, resumed
    assert manifest["trainer"]["step"] == 2 * HALF
    assert manifest["trainer"]["updates"] > 0
    assert resumed_manifest["trainer"] == manifest["trainer"]
    assert resumed_arrays.keys() == arrays.keys() >= {"replay"}
    assert resumed_manifest["rows"]["replay"]["first"] == manifest["rows"]["replay"]["first"]
    for key, array in arrays.items():
        assert resumed_arrays[key].dtype == array.dtype
        np.testing.assert_array_equal(resumed_arrays[key], array, err_msg=key)
    nets = [key for key in arrays if "nets/policy/net/weights" in key]
    assert nets
    assert not any(np.array_equal(arrays[key], half_arrays[key]) for key in nets), "the second half learned nothing"


@pytest.mark.parametrize("name", CASES)
def test_a_run_resumed_in_a_new_process_equals_the_straight_one_bit_for_bit(name: str, halves: Any) -> None:
    check_equal(*halves[name])


@pytest.mark.slow
def test_so_does_a_run_of_any_other_kind(tmp_path: Path) -> None:
    for states in run_by_halves(SLOW_CASES, tmp_path).values():
        check_equal(*states)
        check_counted(*states)


def test_the_cut_was_in_the_middle_of_an_episode(halves: Any) -> None:
    (arrays, _), _, _ = halves["td3"]
    assert len(arrays["source/history0"]) == HALF


def test_a_straight_run_is_reproducible_and_undisturbed_by_saving(halves: Any) -> None:
    trainer = make("td3").trainer
    trainer.advance(2 * HALF)
    arrays, meta, rows = trainer.snapshot()
    arrays |= {name: log.all() for name, log in rows.items()}
    _, (saved_between, manifest), _ = halves["td3"]
    assert json.loads(json.dumps(meta)) == manifest["trainer"]
    for key, array in saved_between.items():
        np.testing.assert_array_equal(arrays[key], array, err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_a_snapshot_counts_the_updates_that_the_learner_made(name: str, halves: Any) -> None:
    check_counted(*halves[name])


def check_counted(half: Any, whole: Any, resumed: Any) -> None:
    arrays, manifest = whole
    (step,) = (array for key, array in arrays.items() if key in ("learner/step", "loop/learner/step"))
    assert manifest["trainer"]["updates"] == int(step)


def test_a_compiled_run_counts_its_updates_where_random_steps_are_no_whole_number_of_vector_steps() -> None:
    settings = TINY | {"n_envs": 4, "random_steps": 50}
    trainer = Run("ddpg", "jax/Pendulum-v1", Schedule(steps=80), settings=settings).trainer
    progress = trainer.advance(80)
    assert progress.updates == int(trainer.snapshot()[0]["loop/learner/step"])


# ---------------------------------------------------------------------- whole or not there


def saved(folder: Path, *steps: int) -> list[Path]:
    return [checkpoint.save(folder, Recorder(step)) for step in steps]


def restored(folder: Path) -> tuple[int, list[str]]:
    trainer = Recorder()
    _, exact, problems = checkpoint.restore(folder, trainer)
    assert exact
    return trainer.step, problems


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_two_are_kept_and_the_newest_is_restored(tmp_path: Path) -> None:
    saved(tmp_path, 5, 10, 15)
    assert names(tmp_path) == ["step-0000000010", "step-0000000015"]
    assert restored(tmp_path) == (15, [])


def tensors(folder: Path) -> Path:
    (file,) = folder.glob("tensors-*.safetensors")
    return file


def truncate(path: Path) -> None:
    tensors(path).write_bytes(tensors(path).read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(tensors(path).read_bytes())
    data[len(data) // 2] ^= 4
    tensors(path).write_bytes(data)


def edit_manifest(signed: bool = True, **changes: Any) -> Any:
    """Change the manifest; its own hash is made to fit unless `signed` is off."""

    def edit(path: Path) -> None:
        manifest = json.loads((path / MANIFEST).read_text()) | changes
        manifest = {key: value for key, value in manifest.items() if value is not None}
        if signed:
            del manifest["sha256"]
            content = json.dumps(manifest, sort_keys=True)
            manifest["sha256"] = hashlib.sha256(content.encode()).hexdigest()
        (path / MANIFEST).write_text(json.dumps(manifest))

    return edit


DAMAGES: dict[str, tuple[Any, str]] = {
    "truncated-tensors": (truncate, "truncated"),
    "flipped-bit": (flip, "SHA-256 differs"),
    "empty-tensors": (lambda path: tensors(path).write_bytes(b""), "has 0 bytes"),
    "missing-tensors": (lambda path: tensors(path).unlink(), "is missing"),
    "missing-manifest": (lambda path: (path / MANIFEST).unlink(), "no folder that holds manifest.json"),
    "cut-manifest": (
        lambda path: (path / MANIFEST).write_text((path / MANIFEST).read_text()[:60]),
        "could not be read as JSON",
    ),
    "binary-manifest": (lambda path: (path / MANIFEST).write_bytes(b"\xff\x00\xfe" * 9), "could not be read as JSON"),
    "list-manifest": (lambda path: (path / MANIFEST).write_text("[1, 2]"), "SHA-256 is missing"),
    "edited-manifest": (edit_manifest(signed=False, trainer={"step": 3}), "SHA-256 differs from its content"),
    "no-files": (edit_manifest(files={}), "lists 0 safetensors files"),
    "files-of-another-kind": (edit_manifest(files=[3]), "list of files cannot be read"),
    "no-hash": (edit_manifest(files={"tensors": {"bytes": 3}}), "list of files cannot be read"),
    "no-trainer": (edit_manifest(trainer=None), "'trainer' is missing"),
    "other-format": (edit_manifest(format=99), "another version"),
    "a-file": (lambda path: (shutil.rmtree(path), path.write_text("")), "no folder that holds manifest.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_named(damage: str, tmp_path: Path) -> None:
    _, newest = saved(tmp_path, 10, 20)
    apply, words = DAMAGES[damage]
    apply(newest)
    step, (problem,) = restored(tmp_path)
    assert step == 10
    assert newest.name in problem
    assert words in problem


def test_without_a_whole_checkpoint_the_user_is_told_so(tmp_path: Path) -> None:
    for path in saved(tmp_path, 10, 20):
        flip(path)
    with pytest.raises(UserError, match=r"no whole checkpoint.*step-0000000020.*SHA-256.*step-0000000010"):
        restored(tmp_path)
    with pytest.raises(UserError, match="no whole checkpoint"):
        restored(tmp_path / "nothing")


def test_saving_after_a_fall_back_drops_what_was_passed_over(tmp_path: Path) -> None:
    _, newest = saved(tmp_path, 10, 20)
    flip(newest)
    saved(tmp_path, 12)
    assert names(tmp_path) == ["step-0000000010", "step-0000000012"]


class Crash(BaseException):
    """The process ends here."""


def crash_at(monkeypatch: pytest.MonkeyPatch, count: int, error: type[BaseException]) -> None:
    """The `count`-th call into the file system from now on raises instead."""
    calls = iter(range(1, 1000))

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if next(calls) == count:
                raise error(28, "No space left on device")
            return function(*arguments, **keywords)

        return call

    for module, name in ((os, "replace"), (os, "fsync"), (shutil, "rmtree"), (builtins, "open"), (os, "mkdir")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))


@pytest.mark.parametrize("again", [False, True], ids=["new-step", "same-step"])
def test_a_crash_at_any_moment_of_a_save_leaves_a_whole_checkpoint(again: bool, tmp_path: Path) -> None:
    step = 10 if again else 20
    crashes = 0
    for count in range(1, 50):
        folder = tmp_path / str(count)
        saved(folder, 10)
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, count, Crash)
            try:
                checkpoint.save(folder, Recorder(step))
                finished = True
            except Crash:
                finished = False
        crashes += not finished
        found, problems = restored(folder)
        assert found in (10, step)
        assert problems == []
        saved(folder, 30)
        assert restored(folder) == (30, [])
        assert not [name for name in names(folder) if not name[5:].isdigit()]
        if finished:
            break
    assert finished
    assert crashes >= 5


def test_a_failed_rename_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 10)

    def fail(*paths: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(UserError, match="step-0000000020 cannot be written"):
            checkpoint.save(tmp_path, Recorder(20))
    assert restored(tmp_path) == (10, [])


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20, 20)
    for folder in tmp_path.iterdir():
        assert set(names(folder)) == {MANIFEST, tensors(folder).name}


def test_arrays_of_every_shape_and_type_come_back_equal(tmp_path: Path) -> None:
    arrays = {
        "scalar": np.array(3.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "column-order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "strided": np.arange(10)[::3],
        "flags": np.array([True, False]),
        "key": np.array([1, 2**32 - 1], np.uint32),
    }
    save_folder(tmp_path / "folder", CHECKPOINT, arrays, {"note": "π"})
    loaded, manifest = load_folder(tmp_path / "folder", CHECKPOINT)
    assert manifest["note"] == "π"
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (loaded[name].shape, loaded[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(loaded[name], array)


# ---------------------------------------------------------------------- runs in folders


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 240 steps with checkpoints at 160 and 240 and evaluations at every 80."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    schedule = Schedule(steps=240, report_every=40, eval_every=80, eval_episodes=1, checkpoint_every=80)
    run = Run("ddpg", "Pendulum-v1", schedule, seed=3, settings=TINY, folder=folder)
    run.start()
    assert [report.step for report in run.execute()] == [40, 80, 120, 160, 200, 240]
    return folder


def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if "second" not in key and key != "stages"}


def test_a_finished_run_leaves_its_files_and_no_temporary_ones(finished: Path) -> None:
    assert {"config.json", "metrics.jsonl", "checkpoints", "best", "last"} <= set(names(finished))
    assert names(finished / "checkpoints") == ["step-0000000160", "step-0000000240"]
    assert [path.name for path in finished.rglob(".fittedq-*")] == [".fittedq-lock"]


def test_resume_after_damage_falls_back_says_so_and_repeats_the_lost_part_exactly(
    finished: Path, tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path)
    before = metrics(folder)
    truncate(folder / "checkpoints" / "step-0000000240")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 280, "upd')

    run = reopened(folder)
    note, lines = run.notes
    assert "1 line of" in lines
    assert "step-0000000240" in note
    assert "truncated" in note
    assert "Falling back to step-0000000160" in note
    assert run.trainer.step == 160
    assert [record["step"] for record in metrics(folder)] == [40, 80, 120, 160]
    assert run.best == max(record["eval_mean"] for record in before if "eval_mean" in record and record["step"] <= 160)

    assert [report.step for report in run.execute()] == [200, 240]
    assert [untimed(record) for record in metrics(folder)] == [untimed(record) for record in before]
    original, _ = load_folder(finished / "checkpoints" / "step-0000000240", CHECKPOINT)
    repeated, _ = load_folder(folder / "checkpoints" / "step-0000000240", CHECKPOINT)
    for key, array in original.items():
        np.testing.assert_array_equal(repeated[key], array, err_msg=key)


def test_a_run_stopped_between_reports_and_resumed_has_strictly_increasing_steps(
    finished: Path, tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path)
    run = reopened(folder, steps=400)
    asked = iter(range(10_000))
    list(run.execute(stop=lambda: next(asked) > 55))
    assert 240 < run.trainer.step < 400

    run = reopened(folder)
    assert run.schedule.steps == 400, "the extension is remembered"
    # Asked once by the loop around, then in the trainer: stopped before a step was taken.
    asked_again = iter([False, True, True, True])
    list(run.execute(stop=lambda: next(asked_again)))

    run = reopened(folder)
    list(run.execute())
    steps = [record["step"] for record in metrics(folder)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 400


def test_resume_without_a_whole_checkpoint_is_a_user_error(finished: Path, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match="no whole checkpoint"):
        reopened(folder)


def test_an_agent_that_was_being_replaced_at_a_crash_is_still_there(finished: Path, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path)
    agent = Agent.load(folder / "best")
    with pytest.MonkeyPatch.context() as patch:
        replace, calls = os.replace, []

        def crash_at_last(source: Any, target: Any) -> None:
            calls.append(target)
            if Path(target) == folder / "best" / MANIFEST:
                raise Crash
            replace(source, target)

        patch.setattr(os, "replace", crash_at_last)
        with pytest.raises(Crash):
            agent.keep(folder / "best")
    obs = np.ones(3, np.float32)
    np.testing.assert_array_equal(Agent.load(folder / "best").act(obs), agent.act(obs))
