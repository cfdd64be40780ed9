"""An exported controller in the loop: on the plant as it is, and where sensors, clock and network are off."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import fittedq
from exported import AGENTS, BOX, agent_in
from fittedq.acting.episodes import Memoryless
from fittedq.acting.perturbed import Perturbed
from fittedq.acting.stepwise import Statuses
from fittedq.actions.base import Box
from fittedq.cli.main import main
from fittedq.errors import UserError
from fittedq.export.languages import at_work

needs_c = pytest.mark.skipif(not any(map(shutil.which, ("gcc", "clang", "cc"))), reason="needs a C compiler")


class Tank(gymnasium.Env[np.ndarray, np.ndarray]):
    """x' = 0.9 x + B a; r = −|x|²: no draw but the state that an episode begins in."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(np.float32(BOX.low), np.float32(BOX.high))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.x, self.taken = self.np_random.uniform(size=3), 0
        return self.x.astype(np.float32), {}

    def step(self, action: np.ndarray):
        self.x = 0.9 * self.x + np.array([[0.1, 0.0], [0.0, 0.1], [0.05, 0.05]]) @ action
        self.taken += 1
        return self.x.astype(np.float32), -float(self.x @ self.x), False, self.taken == 12, {}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("loop") / "numpy"
    agent_in(**AGENTS["memory"]).export(out, "numpy", samples=200)
    return out


@needs_c
def test_the_compiled_controller_earns_what_the_agent_earns(tmp_path: Path) -> None:
    agent = agent_in(**AGENTS["memory"])
    agent.export(tmp_path / "c", "c", samples=200)
    with at_work(tmp_path / "c") as (running, told):
        from fittedq.acting.stepwise import Stepwise

        acting = Stepwise(running, 3, Box(told["about"]["low"], told["about"]["high"]))
        rows = {
            row.name: row.returns for row in fittedq.compare({"agent": agent, "c": acting}, Tank(), episodes=3).rows
        }
    np.testing.assert_allclose(rows["c"], rows["agent"], rtol=1e-4)
    assert rows["c"].std() > 1e-3


def test_eval_plays_an_export_and_counts_what_the_fallback_did(
    exported: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "plants.py").write_text("from test_in_the_loop import Tank\n")
    words = ["eval", str(exported), "--env", f"{tmp_path / 'plants.py'}:Tank", "--episodes", "2", "--json"]
    assert main([*words, "--perturb", "dead=1", "--perturb", "sensor_delay=2,drop=0.3"]) == 0
    told = json.loads(capsys.readouterr().out)
    whole, dead, late = told["statuses"]
    assert sum(whole["samples"].values()) == 24 and not whole["fallback"]
    # This environment does not say how long an episode is: the sensor is dead from its beginning.
    assert dead["samples"] == {"NOT_FINITE": 24} and late["fallback"] == []
    spans = [{"episode": episode, "sample": 0, "samples": 12, "status": "NOT_FINITE"} for episode in (0, 1)]
    assert dead["fallback"] == spans
    assert [one["perturbation"] for one in told["robustness"]] == ["dead 1", "sensor delay 2, drop 0.3"]


def test_an_export_in_the_loop_is_the_one_that_was_verified(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no plant"):
        main_raising(["eval", str(exported)])
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    (copy / "controller.py").write_text((copy / "controller.py").read_text() + "\n")
    with pytest.raises(UserError, match="is not the export that was verified"), at_work(copy):
        pass


def main_raising(words: list[str]) -> None:
    from fittedq.cli.arguments import parse
    from fittedq.cli.eval import Eval

    parse(Eval, "fittedq eval", words[1:]).run()


def readings(steps: int = 40, **how: float) -> list[float]:
    """What a controller reads of 0, 1, 2, …"""
    read: list[float] = []

    def act(obs: np.ndarray) -> np.ndarray:
        read.append(float(obs[0, 0]))
        return np.clip(obs / 100, -1, 1)

    loop = Perturbed(Memoryless(act, 1, Box((-1.0,), (1.0,))), Box((-1.0,), (1.0,)), np.zeros(1), **how)
    memory = loop.start(1)
    for sample in range(steps):
        _, memory = loop.step(memory, np.full((1, 1), sample, np.float32))
    return read


def test_sensors_are_late_coarse_silent_or_dead_as_they_say() -> None:
    assert readings(6, sensor_delay=2) == [0, 0, 0, 1, 2, 3]
    assert readings(6, quantum=np.full(1, 2.5)) == [0, 0, 2.5, 2.5, 5, 5]
    assert readings(6, quantum=np.zeros(1)) == [0, 1, 2, 3, 4, 5]
    np.testing.assert_equal(readings(4, dead=0, load_from=2), [0, 1, np.nan, np.nan])
    assert readings(5, drop=1.0) == [0] * 5
    silent = list(pairwise(readings(400, drop=0.25)))
    assert 60 < sum(now == before for before, now in silent) < 140
    assert all(now in (before, at) for at, (before, now) in enumerate(silent, 1))


def test_a_late_decision_leaves_the_action_before() -> None:
    loop = Perturbed(
        Memoryless(lambda obs: obs, 1, Box((-9.0,), (9.0,))), Box((-9.0,), (9.0,)), np.zeros(1), jitter=1.0, load=0.5
    )
    memory, taken = loop.start(1), []
    for sample in range(3):
        action, memory = loop.step(memory, np.full((1, 1), sample + 1, np.float32))
        taken.append(float(action[0, 0]))
    assert taken == [1 + 4.5] * 3


def test_spans_of_the_fallback_are_told_by_their_first_sample() -> None:
    told = Statuses([[0, 1, 1, 0], [3, 0, 0, 0], [0] * 4, [5] * 4], 2, ("one", "two"))
    one, two = told.describe()
    assert one["fallback"] == [
        {"episode": 0, "sample": 1, "samples": 2, "status": "NOT_FINITE"},
        {"episode": 1, "sample": 0, "samples": 1, "status": "FAILED"},
    ]
    assert two["samples"] == {"OK": 4, "LIMITED": 4}
    assert told.table()[0] == ["samples", "OK", "NOT_FINITE", "FAILED", "LIMITED"]
