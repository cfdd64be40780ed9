"""Probes: environments so small that q* is one line, each of which isolates one thing a learner can get wrong.

All have one observation and the box [−1, 1], so one compiled learner serves them all.
"""

from __future__ import annotations

import abc

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from fittedq.actions.base import Box
from fittedq.arrays import Arr
from fittedq.envs.native import AbstractJaxEnv


class AbstractProbe(AbstractJaxEnv[Array]):
    """An environment that knows its q*; the inner state is the observation, and episodes begin at s = 0."""

    @property
    def obs_size(self) -> int:
        return 1

    @property
    def action_set(self) -> Box:
        return Box((-1.0,), (1.0,))

    @property
    def episode_length(self) -> int:
        return 2

    def begin(self, key: PRNGKeyArray) -> Float[Array, "1"]:
        return jnp.zeros(1)

    def observe(self, inner: Float[Array, "1"]) -> Float[Array, "1"]:
        return inner

    @abc.abstractmethod
    def q(self, obs: Float[Arr, "b 1"], action: Float[Arr, "b 1"], gamma: float) -> Float[Arr, "b"]:
        """q*(s, a)."""


class OneStep(AbstractProbe):
    """r = 1, then the end: q* = 1. Fails where a critic cannot fit, or bootstraps past the end."""

    def transition(
        self, inner: Float[Array, "1"], action: Float[Array, "1"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "1"], Float[Array, ""], Bool[Array, ""]]:
        return inner, jnp.ones(()), jnp.ones((), bool)

    def q(self, obs: Float[Arr, "b 1"], action: Float[Arr, "b 1"], gamma: float) -> Float[Arr, "b"]:
        return 1.0 + 0.0 * obs[:, 0]


class DelayedReward(AbstractProbe):
    """s = 0 → 1 → end, r = s: q*(0, a) = γ, q*(1, a) = 1. Fails where the discount or the bootstrap is wrong."""

    def transition(
        self, inner: Float[Array, "1"], action: Float[Array, "1"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "1"], Float[Array, ""], Bool[Array, ""]]:
        return inner + 1.0, inner[0], inner[0] > 0.5

    def q(self, obs: Float[Arr, "b 1"], action: Float[Arr, "b 1"], gamma: float) -> Float[Arr, "b"]:
        return gamma + (1.0 - gamma) * obs[:, 0]


class ActionReward(AbstractProbe):
    """r = −(a − ½)², then the end: q* = r, π* = ½. Fails where the critic does not see the action, or π its slope."""

    def transition(
        self, inner: Float[Array, "1"], action: Float[Array, "1"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "1"], Float[Array, ""], Bool[Array, ""]]:
        return inner, -((action[0] - 0.5) ** 2), jnp.ones((), bool)

    def q(self, obs: Float[Arr, "b 1"], action: Float[Arr, "b 1"], gamma: float) -> Float[Arr, "b"]:
        return -((action[:, 0] - 0.5) ** 2)


class DelayedAction(AbstractProbe):
    """r = −a², s' = 1 + a/2; then r = s − (a − ½)² and the end: q*(0, a) = −a² + γ(1 + a/2), q*(s, a) = s − (a − ½)².

    π*(0) = γ/4, π*(s) = ½. Fails where the bootstrap reads the value of logged actions rather than of the best.
    """

    def transition(
        self, inner: Float[Array, "1"], action: Float[Array, "1"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "1"], Float[Array, ""], Bool[Array, ""]]:
        last = inner[0] > 0.25
        reward = jnp.where(last, inner[0] - (action[0] - 0.5) ** 2, -(action[0] ** 2))
        return jnp.where(last, inner, 1.0 + action / 2), reward, last

    def q(self, obs: Float[Arr, "b 1"], action: Float[Arr, "b 1"], gamma: float) -> Float[Arr, "b"]:
        s, a = obs[:, 0], action[:, 0]
        return jnp.where(s > 0.25, s - (a - 0.5) ** 2, -(a**2) + gamma * (1.0 + a / 2))


class Endless(AbstractProbe):
    """r = 1 for ever, cut every two steps by a time limit: q* = 1 / (1 − γ). Fails where a cut ends the bootstrap."""

    def transition(
        self, inner: Float[Array, "1"], action: Float[Array, "1"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "1"], Float[Array, ""], Bool[Array, ""]]:
        return inner, jnp.ones(()), jnp.zeros((), bool)

    def q(self, obs: Float[Arr, "b 1"], action: Float[Arr, "b 1"], gamma: float) -> Float[Arr, "b"]:
        return 1.0 / (1.0 - gamma) + 0.0 * obs[:, 0]


PROBES: tuple[type[AbstractProbe], ...] = (OneStep, DelayedReward, ActionReward, DelayedAction, Endless)
