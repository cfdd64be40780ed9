"""Resuming otherwise: what changes is told in the run's history, what may not change is refused with the reason."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fittedq
from fittedq.actions.base import Box
from fittedq.algorithms.sac import SAC
from fittedq.cli.main import main
from fittedq.cli.verify import verify
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.files import load_folder, read_signed, write_signed
from fittedq.runs.changes import check_same_networks
from fittedq.runs.checkpoint import newest_first
from fittedq.runs.folder import RunFolder
from fittedq.runs.resume import reopened
from fittedq.runs.run import Run

pytestmark = pytest.mark.slow  # many runs; a method composed of slots is resumed in test_slots

TINY: dict[str, Any] = {"hidden": (8,), "batch_size": 8, "replay_size": 1000, "random_steps": 20}
OBS = np.ones((4, 3), np.float32)


def part(folder: Path, until: int, algorithm: str = "ddpg", **given: Any) -> Path:
    """A run of 60 steps that was stopped."""
    more: dict[str, Any] = {"steps": 60, "seed": 1, "report_every": 20} | TINY | given
    for report in fittedq.stream(algorithm, "Pendulum-v1", out=folder, **more):
        if report.step >= until:
            break
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return part(tmp_path_factory.mktemp("changes") / "stopped", 40)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return part(tmp_path_factory.mktemp("changes") / "straight", 60)


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def begun(run: Run) -> None:
    """What a resume changes is written down, and no step taken."""
    run.start()
    run.close()


def agents(*folders: Path) -> list[dict[str, np.ndarray]]:
    return [load_folder(folder / "last", "agent")[0] for folder in folders]


def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray], component: str) -> float:
    names = [name for name in before if name.startswith(f"nets/{component}")]
    return max(float(np.abs(before[name] - after[name]).max()) for name in names)


def test_what_only_looks_changes_nothing_of_the_run(copy: Path, straight: Path) -> None:
    fittedq.resume(copy, set={"eval_every": 10, "eval_episodes": 1, "checkpoint_every": 10})
    one, other = agents(copy, straight)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])
    assert [line["step"] for line in RunFolder(copy).metrics() if "eval_mean" in line] == [50, 60]
    config = read_signed(copy / "config.json")
    assert config["history"] == [
        {"step": 40, "eval_every": [0, 10], "eval_episodes": [5, 1], "checkpoint_every": [10000, 10]}
    ]
    assert verify(copy) == ("run", [])


def test_a_learning_rate_holds_from_here_on_and_in_later_resumes(copy: Path, capsys: Any) -> None:
    (before,) = agents(copy)
    tiny = ("--set", "critic_learning_rate=1e-12", "--set", "policy_learning_rate=0.003")
    assert main(["resume", str(copy), *tiny]) == 0
    (after,) = agents(copy)
    # Adam's step is at most about its rate; twenty of them.
    assert moved(before, after, "critic") < 1e-10 < 1e-4 < moved(before, after, "policy")
    config = read_signed(copy / "config.json")
    line = {"step": 40, "critic_learning_rate": [1e-3, 1e-12], "policy_learning_rate": [3e-4, 3e-3]}
    assert config["history"] == [line]
    assert config["settings"]["critic_learning_rate"] == 1e-12
    assert fittedq.load(copy / "last").algorithm.critic_learning_rate == 1e-12
    fittedq.resume(copy, steps=80, set={"critic_learning_rate": 1e-12})
    assert moved(after, agents(copy)[0], "critic") < 1e-10
    assert read_signed(copy / "config.json")["history"] == [line, {"step": 60, "steps": [60, 80]}]
    assert verify(copy) == ("run", [])
    # The run that it began as is still known.
    with pytest.raises(UserError, match="a run of the same configuration"):
        part(copy, 60)


def test_a_batch_size_may_change_while_batches_wait(tmp_path: Path) -> None:
    def drawn(run: Path) -> tuple[int, tuple[int, ...]]:
        """(updates taken, waiting or owed, what waits)."""
        arrays, manifest = load_folder(newest_first(run / "checkpoints")[0], "checkpoint")
        waiting = arrays["waiting"]
        return manifest["trainer"]["updates"] + len(waiting) + int(manifest["trainer"]["owed"]), waiting.shape

    td3 = part(tmp_path / "run", 40, "td3", policy_delay=4)
    assert drawn(td3) == (21, (1, 8, 10))
    fittedq.resume(td3, set={"batch_size": 16})
    assert drawn(td3) == (41, (1, 16, 10))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"gamma": 0.5}, "keeps its gamma: it says what q is"),
        ({"hidden": (16, 16)}, "keeps its hidden: its networks began with it"),
        ({"n_critics": 2}, "keeps its n_critics: its networks began with it"),
        ({"layer_norm": True}, "keeps its layer_norm: its networks began with it"),
        ({"activation": "tanh"}, "keeps its activation: the weights were learned under it"),
        ({"seed": 2}, "keeps its seed: its random numbers"),
        ({"env": "x"}, "keeps its env"),
        ({"n_envs": 2}, "keeps its n_envs"),
        ({"replay_size": 10}, "keeps its replay_size"),
        ({"normalize_obs": True}, "keeps its normalize_obs"),
        ({"critic_learning_rat": 1}, "did you mean 'critic_learning_rate'"),
        ({"eval_evry": 1}, "did you mean 'eval_every'"),
        ({"critic_learning_rate": -1.0}, "critic_learning_rate: found -1.0, expected a number above 0"),
        ({"eval_every": -1}, "eval_every: found -1"),
    ],
)
def test_what_a_run_keeps_is_refused_and_nothing_is_written(copy: Path, change: dict[str, Any], why: str) -> None:
    before = (copy / "config.json").read_bytes()
    with pytest.raises(UserError) as caught:
        reopened(copy, changes=change)
    assert why in str(caught.value)
    assert (copy / "config.json").read_bytes() == before
    reopened(copy).close()


def test_the_same_value_is_no_change(copy: Path) -> None:
    reopened(copy, changes={"gamma": 0.99, "hidden": (8,), "critic_learning_rate": 0.001, "seed": 1}).close()
    assert read_signed(copy / "config.json")["history"] == []


def test_a_finished_run_takes_changes_with_more_steps_only(straight: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(straight, tmp_path / "run"))
    with pytest.raises(UserError, match="has taken 60 of 60 steps, so the changes would have no effect"):
        reopened(copy, changes={"critic_learning_rate": 1e-4})
    begun(reopened(copy, changes={"critic_learning_rate": 1e-4, "steps": 70}))
    (line,) = read_signed(copy / "config.json")["history"]
    assert line == {"step": 60, "critic_learning_rate": [1e-3, 1e-4], "steps": [60, 70]}


@pytest.mark.parametrize(
    ("before", "kept"),
    [({"temperature": 0.5}, True), ({"initial_temperature": 0.5}, True), ({"target_entropy": -2.0}, False)],
)
def test_a_temperature_in_the_checkpoint_is_not_set_in_vain(before: dict[str, float], kept: bool) -> None:
    (name,) = before
    sac = SAC(hidden=(4,))
    with pytest.raises(UserError, match=f"keeps its {name}: its networks") if kept else contextlib.nullcontext():
        check_same_networks(sac, before, 3, Box((-2.0,), (2.0,)))


def test_a_tolerance_that_ended_a_run_can_be_lowered(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(60, 2)), rng.uniform(-1, 1, (60, 1))
    flags, bounds = np.zeros(60, bool), {"action_low": -1, "action_high": 1}
    columns = {"obs": obs, "action": action, "reward": obs[:, 0], "next_obs": obs, "terminated": flags}
    Dataset.from_arrays(**columns, truncated=flags, **bounds).save(tmp_path / "data")
    out, settings = tmp_path / "run", {"approximator": "polynomial", "tolerance": 1e9}
    fittedq.fit("explicit_fqi", tmp_path / "data", steps=3, out=out, **settings)
    assert [line["step"] for line in RunFolder(out).metrics()] == [1]
    fittedq.resume(out, set={"tolerance": 0})
    assert [line["step"] for line in RunFolder(out).metrics()] == [1, 2, 3]


@pytest.mark.parametrize(
    ("history", "fault"),
    [
        ([{"step": 40, "critic_learning_rate": [1e-3, 5e-4]}], "critic_learning_rate is 0.0001, its history ends"),
        (
            [{"step": 40, "critic_learning_rate": [1e-3, 5e-4]}, {"step": 50, "critic_learning_rate": [3e-4, 1e-4]}],
            "its history has critic_learning_rate at 0.0005 before step 50, and at 0.0003 there",
        ),
        ([{"step": 40, "critic_learning_rate": 1e-4}], "expected [before, after]"),
        ([{"critic_learning_rate": [1e-3, 1e-4]}], "expected a step and what changed there"),
        (["line"], "expected a step and what changed there"),
        ([{"step": 40, "critic_learning_rate": [2e-3, 1e-4]}], "was written by a run of other settings"),
    ],
)
def test_a_history_that_does_not_add_up_is_told(copy: Path, history: list[Any], fault: str) -> None:
    begun(reopened(copy, changes={"critic_learning_rate": 1e-4}))
    assert verify(copy) == ("run", [])
    config = read_signed(copy / "config.json")
    write_signed(copy / "config.json", config | {"history": history})
    kind, wrong = verify(copy)
    assert kind == "run" and any(fault in sentence for sentence in wrong)
    with pytest.raises(UserError):
        reopened(copy)


def test_the_commands_assignments_are_those_of_train(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = itertools.chain.from_iterable(("--set", word) for word in ("noise-sigma=0.4", "eval_every=20", "steps=80"))
    assert main(["resume", str(copy), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["step"] == 80
    assert main(["resume", str(copy), "--set", "hidden=4,4"]) == 2
    assert "--set: a run keeps its hidden" in capsys.readouterr().err
