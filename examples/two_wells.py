"""Two wells: a problem with one observation and one action whose q* is known. The course is about it.

r(s, a) = −(s² − 1)²,  s' = clip(s + a, −1.5, 1.5),  |a| ≤ 1
V*(s) = r(s), for every s of [−1.5, 1.5] is one step from −1 or from 1, where nothing is lost any more
q*(s, a) = r(s) + γ r(s'),  π*(s) = 1 − s for s > 0, −1 − s for s < 0

At s = 0 both ways are equally good: q*(0, ·) has two peaks, and their mean, a = 0, is the worst action.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

import fittedq

GAMMA = 0.9


class TwoWells(fittedq.AbstractJaxEnv[Array]):
    """The problem as an environment; an episode is cut after ten steps."""

    @property
    def obs_size(self) -> int:
        return 1

    @property
    def action_set(self) -> fittedq.Box:
        return fittedq.Box((-1.0,), (1.0,))

    @property
    def episode_length(self) -> int:
        return 10

    def begin(self, key: PRNGKeyArray) -> Float[Array, "1"]:
        return jax.random.uniform(key, (1,), minval=-1.5, maxval=1.5)

    def observe(self, inner: Float[Array, "1"]) -> Float[Array, "1"]:
        return inner

    def transition(
        self, inner: Float[Array, "1"], action: Float[Array, "1"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "1"], Float[Array, ""], Bool[Array, ""]]:
        return jnp.clip(inner + action, -1.5, 1.5), reward(inner[0]), jnp.zeros((), bool)


def reward(s):
    """r(s) = −(s² − 1)²."""
    return -((s**2 - 1.0) ** 2)


def true_q(s, a):
    """q*(s, a)."""
    return reward(s) + GAMMA * reward(np.clip(s + a, -1.5, 1.5))


def best_action(s):
    """π*(s); at 0, the one to the right."""
    return np.clip(np.where(s >= 0, 1.0, -1.0) - s, -1.0, 1.0)


def model(obs, action, noise):
    """(s, a, ξ) → (s', r, terminated) of one state, as a model of a method takes it."""
    return jnp.clip(obs + action, -1.5, 1.5), reward(obs[0]), False


def log(rows: int = 1000, seed: int = 0) -> fittedq.Dataset:
    """Transitions of states and actions that were drawn at random."""
    rng = np.random.default_rng(seed)
    s, a = rng.uniform(-1.5, 1.5, (rows, 1)), rng.uniform(-1.0, 1.0, (rows, 1))
    return fittedq.Dataset.from_arrays(
        obs=s.astype(np.float32),
        action=a,
        reward=reward(s[:, 0]),
        next_obs=np.clip(s + a, -1.5, 1.5).astype(np.float32),
        terminated=np.zeros(rows, bool),
        action_low=-1.0,
        action_high=1.0,
    )


def lost(agent: fittedq.Agent, points: int = 81) -> float:
    """mean_s [V*(s) − q*(s, π(s))] on a grid of states: what the policy gives away in its first step."""
    s = np.linspace(-1.5, 1.5, points, dtype=np.float32)
    return float(np.mean(reward(s) - true_q(s, agent.act(s[:, None])[:, 0])))
