"""What learners are fed: batches normalized in s and in s', by the moments of all that was seen."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fittedq.actions.base import Box
from fittedq.algorithms.ddpg import DDPG
from fittedq.data.dataset import Dataset
from fittedq.data.statistics import RunningMoments
from fittedq.envs.gym import GymSource
from fittedq.envs.native import AbstractJaxEnv
from fittedq.template.fqi import FQI
from fittedq.trainers.batches import BatchTrainer
from fittedq.trainers.compiled import CompiledTrainer
from fittedq.trainers.host import HostTrainer
from fittedq.trainers.settings import FitSettings, TrainSettings
from fittedq.types import Transition

STEP, START, LENGTH = np.array([7.0, 0.1], np.float32), np.array([50.0, -3.0], np.float32), 4
"""s' = s + STEP · a, from START, for LENGTH steps: coordinates far from zero and of unlike scales."""
STEPS = 40
ALGORITHM = DDPG(hidden=(4,))


class Walk(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.state, self.time = START.copy(), 0
        return self.state, {}

    def step(self, action):
        self.state, self.time = (self.state + STEP * action).astype(np.float32), self.time + 1
        return self.state, 0.0, False, self.time == LENGTH, {}


class JaxWalk(AbstractJaxEnv):
    obs_size, action_set, episode_length = 2, Box((-1.0,), (1.0,)), LENGTH

    def begin(self, key):
        return jnp.asarray(START)

    def observe(self, inner):
        return inner

    def transition(self, inner, action, key):
        return inner + STEP * action, jnp.zeros(()), jnp.zeros((), bool)


def log(rows: int = 30) -> Dataset:
    """Steps of the walk from states of their own, far from START."""
    rng = np.random.default_rng(1)
    obs, action = 2 * START + [7.0, 1.0] * rng.normal(size=(rows, 2)), rng.uniform(-1, 1, (rows, 1))
    return Dataset.from_arrays(
        obs=obs,
        action=action,
        reward=np.zeros(rows),
        next_obs=obs + STEP * action,
        terminated=np.zeros(rows, bool),
        truncated=np.zeros(rows, bool),
        action_low=-1.0,
        action_high=1.0,
    )


Fed = list[tuple[Transition, RunningMoments]]
"""Batches as the learner got them, and the moments of the time."""


def recording(trainer: HostTrainer | BatchTrainer) -> Fed:
    """What its learner is given from now on, instead of learning."""
    fed: Fed = []

    def learn(rows: np.ndarray) -> None:
        moments = trainer.moments()
        assert moments is not None
        fed.append((Transition.unpack(rows.reshape(-1, rows.shape[-1]), 2, 1), moments))

    trainer.learner.learn = learn
    return fed


def fed_by_the_host(data: Dataset | None = None) -> tuple[Fed, HostTrainer]:
    settings = TrainSettings(random_steps=10, batch_size=16, replay_size=200, normalize_obs=True)
    trainer = HostTrainer(ALGORITHM, GymSource(Walk()), settings, seed=0, data=data)
    fed = recording(trainer)
    trainer.advance(STEPS)
    return fed, trainer


def fed_in_the_loop() -> tuple[Fed, CompiledTrainer]:
    """Learning begins with the last step, so that the moments at the end are those of the batches."""
    settings = TrainSettings(random_steps=STEPS, batch_size=64, replay_size=200, normalize_obs=True, n_envs=2)
    trainer, batches = CompiledTrainer(ALGORITHM, JaxWalk(), settings, seed=0), []

    class Recorded:
        """The template, but for what it learns."""

        def __init__(self, fqi: FQI):
            self.fqi = fqi

        def __getattr__(self, name: str) -> Any:
            return getattr(self.fqi, name)

        def learn(self, learner: Any, batch: Transition, drawn: Any = None) -> Any:
            jax.debug.callback(lambda *columns: batches.append(Transition(*map(np.asarray, columns))), *batch)
            return learner

    trainer._fqi = Recorded(trainer._fqi)
    trainer.advance(STEPS)
    jax.effects_barrier()
    moments = trainer.moments()
    assert moments is not None
    return [(batch, moments) for batch in batches], trainer


def fed_from_a_log() -> tuple[Fed, BatchTrainer]:
    trainer = BatchTrainer(ALGORITHM, log(), FitSettings(batch_size=16), seed=0)
    fed = recording(trainer)
    trainer.advance(3)
    return fed, trainer


@pytest.mark.parametrize("feed", [fed_by_the_host, fed_in_the_loop, fed_from_a_log])
def test_batches_are_normalized_in_both_states_and_hold_the_step_that_was_taken(feed):
    """n = (s − mean) / std turned round: s' − s = STEP · a on every row, at the end of an episode as well."""
    fed, _ = feed()
    assert fed
    for batch, moments in fed:
        std = np.sqrt(moments.squares / moments.count)
        obs, next_obs = (std * np.asarray(part) + moments.mean for part in (batch.obs, batch.next_obs))
        np.testing.assert_allclose(next_obs - obs, STEP * np.asarray(batch.action), rtol=1e-3, atol=2e-3)
        # Unit scale, or what was turned round was never normalized.
        assert np.abs(batch.obs).max() < 6
        assert np.abs(batch.next_obs).max() < 6
    if feed is not fed_from_a_log:
        ended = np.concatenate([batch.truncated for batch, _ in fed])
        assert ended.any()


@pytest.mark.parametrize("begin", [None, log], ids=["empty", "from a dataset"])
def test_moments_are_those_of_every_s_that_the_replay_holds(begin):
    """Mean and deviation of all s', those of the dataset it began with and those collected, each counted once."""
    _, trainer = fed_by_the_host(None if begin is None else begin())
    next_obs = Transition.unpack(trainer.snapshot().rows["replay"].all(), 2, 1).next_obs
    assert len(next_obs) == STEPS + (30 if begin else 0)
    assert_moments(trainer.moments(), next_obs)


def test_moments_of_the_loop_and_of_a_log_are_those_of_what_they_hold():
    _, loop = fed_in_the_loop()
    rows = np.asarray(loop._state.replay.rows)[:STEPS]
    assert_moments(loop.moments(), Transition.unpack(rows, 2, 1).next_obs)
    assert_moments(fed_from_a_log()[1].moments(), log().columns["obs"])


def assert_moments(moments: RunningMoments | None, obs: Any) -> None:
    assert moments is not None
    assert float(moments.count) == len(obs)
    np.testing.assert_allclose(moments.mean, np.mean(obs, axis=0, dtype=np.float64), rtol=1e-5)
    std = np.std(np.asarray(obs, np.float64), axis=0)
    np.testing.assert_allclose(np.sqrt(moments.squares / moments.count), std, rtol=1e-3)
