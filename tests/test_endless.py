"""Evaluation where an episode may never end: it can be stopped, it keeps nothing, and it says so."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces

from fittedq import algorithms
from fittedq.acting import episodes
from fittedq.actions.base import Box
from fittedq.agent import Agent
from fittedq.errors import EnvError
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule

TINY: dict[str, Any] = {"hidden": (8,), "batch_size": 8, "random_steps": 8, "replay_size": 100}


class Endless(gymnasium.Env):
    """One that never ends; `last` steps are an episode where that is given. It counts the steps of all."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    taken = 0

    def __init__(self, last: int | None = None):
        self._last, self._steps = last, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self._steps += 1
        Endless.taken += 1
        return np.full(2, self._steps % 7 / 7, np.float32), 1.0, False, self._steps == self._last, {}


@pytest.fixture(scope="module")
def agent() -> Agent:
    ddpg, box = algorithms.find("ddpg")(hidden=(8,)), Box((-1.0,), (1.0,))
    return Agent(ddpg, 2, box, ddpg.networks(2, box, jax.random.PRNGKey(0)))


def test_an_episode_without_an_end_is_a_sentence(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "MOST_STEPS", 30)
    sentence = "evaluation in Endless, episode 0: it has taken 30 steps, expected an end before; put the environment in"
    with pytest.raises(EnvError, match=sentence):
        agent.evaluate(Endless, 1)
    with pytest.raises(EnvError, match=sentence):
        agent.trajectory(Endless, 5)
    assert agent.evaluate(lambda: Endless(30), 1).tolist() == [30.0]


def test_a_stop_between_steps_leaves_the_returns_that_are_whole(agent: Agent) -> None:
    asked: list[None] = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) == 25

    assert list(agent.episodes(lambda: Endless(10), 5, stop=stop)) == [10.0, 10.0]
    assert len(asked) == 25


def test_an_evaluation_holds_no_transitions(agent: Agent) -> None:
    def peak(length: int) -> int:
        tracemalloc.start()
        agent.evaluate(lambda: Endless(length), 1)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    agent.evaluate(lambda: Endless(50), 1)
    # The less of two: other threads of the process allocate too.
    long, short = (min(peak(length) for _ in range(2)) for length in (1000, 50))
    assert long - short < 100_000, "1 000 transitions, each of three arrays, take above 300 kB"


def test_a_run_that_is_stopped_in_an_evaluation_is_saved_without_it(tmp_path: Path) -> None:
    schedule = Schedule(steps=40, report_every=20, eval_every=20, eval_episodes=1)
    run = Run("ddpg", lambda: Endless(5), schedule, settings=TINY, folder=tmp_path / "run", eval_env=Endless)
    before = Endless.taken
    (report,) = run.reports(stop=lambda: Endless.taken - before > 60)
    assert (report.step, report.eval_returns, run.best) == (20, None, None)
    assert "the evaluation at step 20 was stopped before its end: left out." in run.warnings
    assert (tmp_path / "run" / "last" / "manifest.json").is_file()
