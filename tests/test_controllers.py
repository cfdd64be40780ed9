"""Controllers with a memory, in episodes: what is asked of them, and what reaches the plant."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

from fittedq.acting.episodes import AbstractController, Memoryless, episodes, returns_at_once
from fittedq.actions.base import Box
from fittedq.envs.flat import FlatEnv
from fittedq.envs.native import AbstractJaxEnv
from fittedq.envs.plant import resolve
from fittedq.errors import UserError


class Counter(gymnasium.Env):
    """s' = s + a from 0 for three samples, r = a, a in [−1, 2]."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 2.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level, self.taken = 0.0, 0
        return np.array([self.level], np.float32), {}

    def step(self, action):
        self.level, self.taken = self.level + float(action[0]), self.taken + 1
        return np.array([self.level], np.float32), float(action[0]), False, self.taken == 3, {}


@dataclass(frozen=True)
class Ramp(AbstractController[int]):
    """a = slope · k at the k-th sample of an episode."""

    slope: float

    def start(self, number: int) -> int:
        return 0

    def step(self, memory: int, obs: np.ndarray) -> tuple[np.ndarray, int]:
        return np.full((len(obs), 1), self.slope * memory), memory + 1

    def check(self, env: FlatEnv) -> None:
        return None


def test_a_memory_begins_anew_with_each_episode() -> None:
    np.testing.assert_array_equal(Ramp(0.5).evaluate(Counter(), 3), [1.5, 1.5, 1.5])
    loop = Ramp(0.5).loop()
    assert [loop.act(np.zeros(1)).item() for _ in range(3)] == [0.0, 0.5, 1.0]
    loop.reset()
    assert loop.act(np.zeros(1)).item() == 0.0


def test_an_action_reaches_the_plant_within_its_limits() -> None:
    """And is recorded as it reached it."""
    rows = next(episodes(Ramp(3.0), resolve(Counter()), seed=0))
    np.testing.assert_array_equal(rows.action[:, 0], [0.0, 2.0, 2.0])
    np.testing.assert_array_equal(rows.next_obs[:, 0], [0.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda obs: np.zeros((len(obs), 2)), r"mine gives an action of shape \(2,\), expected \(1,\)"),
        (lambda obs: np.full((len(obs), 1), np.nan), r"mine gives the action \[nan\], expected finite numbers"),
    ],
)
def test_an_action_that_is_none_is_one_sentence(act, said: str) -> None:
    with pytest.raises(UserError, match=f"episode 0, step 0: {said}"):
        Memoryless(act, 1, Box((-1.0,), (2.0,)), "mine").evaluate(Counter(), 1)


def test_a_controller_of_another_plant_is_refused() -> None:
    with pytest.raises(UserError, match=r"its observations have shape \(1,\), mine's have \(3,\)"):
        Memoryless(lambda obs: obs, 3, Box((-1.0,), (2.0,)), "mine").evaluate(Counter(), 1)


class Three(AbstractJaxEnv):
    """s' = s + a; r = s; it ends after the third sample."""

    obs_size = 1
    action_set = Box((-1.0,), (1.0,))
    episode_length = 9

    def begin(self, key):
        return jnp.zeros(2)

    def observe(self, inner):
        return inner[:1]

    def transition(self, inner, action, key):
        return inner + jnp.stack([action[0], 1.0]), inner[0], inner[1] == 2.0


def test_episodes_side_by_side_are_as_those_one_by_one() -> None:
    """Each with a memory of its own, cut to the limits, and counted to its end: 0 + 0 + .5."""
    env = Three()
    np.testing.assert_array_equal(returns_at_once(Ramp(0.5), env, 2, 0), [0.5, 0.5])
    np.testing.assert_array_equal(Ramp(0.5).evaluate(env, 2), [0.5, 0.5])
    np.testing.assert_array_equal(returns_at_once(Ramp(5.0), env, 2, 0), [1.0, 1.0])
