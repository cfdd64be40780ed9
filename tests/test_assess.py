"""Policies that are judged by whole episodes before they are learned on, and the best that an agent acts by."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import pytest

from fittedq.algorithms.saved import as_saved
from fittedq.algorithms.td3 import TD3
from fittedq.algorithms.td7 import TD7
from fittedq.envs.gym import GymSource
from fittedq.envs.native import Pendulum
from fittedq.errors import UserError
from fittedq.runs import resume
from fittedq.settings import as_json
from fittedq.trainers.assess import Assessment
from fittedq.trainers.compiled import CompiledTrainer
from fittedq.trainers.host import HostTrainer
from fittedq.trainers.settings import TrainSettings
from strange_envs import Shaped

SETTINGS = TrainSettings(random_steps=5, batch_size=2, replay_size=100, assess_episodes=2)


def authors(returns: list[float], episodes: int) -> list[bool]:
    """The loop of the authors' program: which assessments end with a new checkpoint."""
    best, low, count, told = -1e8, 1e8, 0, []
    for value in returns:
        count, low = count + 1, min(low, value)
        if low < best or count == episodes:
            told.append(not low < best)
            best = best if low < best else low
            low, count = 1e8, 0
    return told


def test_a_policy_is_judged_by_its_worst_episode_and_given_up_at_the_first_that_is_worse() -> None:
    returns = np.random.default_rng(0).normal(size=200).cumsum().round(1).tolist()
    for episodes in (1, 3):
        rule = Assessment(episodes, 20, 10**9)
        found = [verdict for value in returns if (verdict := rule.over(value, 0)) is not None]
        assert found == authors(returns, episodes)
        assert True in found and False in found


def test_late_more_episodes_count_and_the_mark_is_lowered() -> None:
    rule = Assessment(1, 2, 100)
    assert rule.over(50.0, 99) is True
    assert rule.over(46.0, 100) is None and rule.best == 45.0
    copy = Assessment(1, 2, 100)
    copy.restore(rule.saved())
    assert copy == rule
    assert rule.over(47.0, 101) is True and rule.best == 46.0
    assert Assessment(1, 2, 100).saved()["best"] is None
    negative = Assessment(1, 2, 100)
    assert negative.over(-50.0, 0) is True
    negative.over(-54.0, 100)
    assert negative.best == -55.0


class Paid(Shaped):
    """Episodes of 5 steps whose returns are as listed, five times over."""

    returns = (5.0, 9.0, 1.0, 8.0, 9.0, 7.0, 7.0, 7.0)
    played = -1

    def reset(self, **given: Any) -> Any:
        self.played += 1
        return super().reset(**given)

    def step(self, action: Any) -> Any:
        obs, _, terminated, truncated, info = super().step(action)
        return obs, self.returns[self.played % len(self.returns)] / 5, terminated, truncated, info


class Drawn(Shaped):
    """Episodes whose returns are a function of their seeds, as a resume finds them again."""

    def _observe(self) -> Any:
        return np.full(3, self.time / 5, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.pays = 0.0 if seed is None else seed % 7 / 5
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        obs, _, terminated, truncated, info = super().step(action)
        return obs, self.pays, terminated, truncated, info


def trainer(env: type[Shaped]) -> HostTrainer:
    return HostTrainer(TD3(hidden=(4,)), GymSource(env, seed=0), SETTINGS, 0)


def leaves(policy: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(policy)]


def same(one: Any, other: Any) -> bool:
    return all(map(np.array_equal, leaves(one), leaves(other)))


def test_updates_wait_for_an_assessments_end_and_an_agent_acts_by_the_best() -> None:
    """Episodes of 5 steps return 5 (random), 9: judged after 10 steps. Then 1 is below 5, and ends it at once. 8, 9 are
    the best so far. TD3 waits with an odd batch for the policy's next update."""
    run = trainer(Paid)
    assert run.kept().policy is not None and run.assessed.policy is None
    seen = {}
    for _ in range(25):
        before = run.nets().policy
        run.advance(1)
        seen[run.step] = (run.updates, before)
    assert [seen[step][0] for step in (5, 9, 10, 14, 15, 16, 24, 25)] == [0, 0, 6, 6, 10, 10, 10, 20]
    assert same(run.kept().policy, seen[25][1]) and not same(run.kept().policy, run.nets().policy)
    assert run.acts_by == "the policy of the best episodes"
    run.close()


def test_a_run_stopped_amid_an_assessment_and_amid_its_updates_goes_on_as_one_that_nobody_stopped() -> None:
    whole, stopped, amid = trainer(Drawn), trainer(Drawn), set()
    whole.advance(40)
    while stopped.step < 40:
        calls = iter([False] * 3 + [True] * 100)  # at most three questions: before steps, or before updates
        stopped.advance(40 - stopped.step, lambda calls=calls: next(calls))
        if stopped._paying not in amid:
            amid.add(stopped._paying)
            snapshot, stopped = stopped.snapshot(), trainer(Drawn)
            stopped.restore(snapshot.arrays, snapshot.meta, snapshot.rows)
    assert amid == {True, False} and stopped.assessed.policy is not None
    stopped._pay(lambda: False) if stopped._paying else None
    assert stopped.updates == whole.updates
    for part in ("nets", "kept"):
        for one, other in zip(*(leaves(getattr(run, part)()) for run in (stopped, whole)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_td7_has_them_and_older_runs_of_it_go_on_without() -> None:
    assert TD7.training["assess_episodes"] == 1
    saved = as_saved(TD7()) | as_json(TrainSettings(replay="lap"))
    for name in ("assess_episodes", "assess_late", "assess_late_after"):
        del saved[name]
    config = {"algorithm": "td7", "settings": saved}
    assert resume._saved_algorithm(config, {}, {}, "run", ())[1]["assess_episodes"] == 0


def test_where_they_have_no_meaning_a_sentence_says_so() -> None:
    with pytest.raises(UserError, match="keep: found average with assess_episodes = 1"):
        TrainSettings(keep="average", assess_episodes=1)
    with pytest.raises(UserError, match="assess_episodes: found 2, expected 0 for a JAX environment"):
        CompiledTrainer(TD3(hidden=(4,)), Pendulum(), SETTINGS, 0)
    assert math.isinf(Assessment(1, 1, 1).best)
