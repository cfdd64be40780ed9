"""Components linear in features of one state and one action: small enough that every answer is arithmetic."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from fittedq.actions.base import Box
from fittedq.approx.batch_norm import BatchNormMlp
from fittedq.approx.embedding import RangedCritic
from fittedq.bellman import gaussian_log_prob
from fittedq.types import AbstractCritic, AbstractPolicy, AbstractValue, Transition


class QuadraticCritic(AbstractCritic):
    """q_j(s, a) = w_j · (1, s, a, s², sa, a²)."""

    weights: Any
    action_set: ClassVar[Box] = Box([-1.0], [1.0])
    has_gradient: ClassVar[bool] = True

    @property
    def size(self) -> int:
        return self.weights.shape[0]

    def __call__(self, obs, action, key=None):
        return self.weights @ features(obs, action).T

    def subset(self, indices):
        return QuadraticCritic(self.weights[indices])


def features(obs, action):
    """(1, s, a, s², sa, a²), row by row."""
    s, a = obs[:, 0], action[:, 0]
    return jnp.stack([jnp.ones_like(s), s, a, s**2, s * a, a**2], axis=-1)


def critic(*weights) -> QuadraticCritic:
    """The ensemble with these rows of coefficients."""
    return QuadraticCritic(jnp.asarray(weights, jnp.float32))


def flat(value: float, members: int = 1) -> QuadraticCritic:
    """q ≡ value."""
    return critic(*[(value, 0, 0, 0, 0, 0)] * members)


def optimal_critic(problem) -> QuadraticCritic:
    """q* of a scalar LQR."""
    H = problem.H
    return critic((-problem.q_constant, 0, 0, -H[0, 0], -2 * H[0, 1], -H[1, 1]))


class QuadraticValue(AbstractValue):
    """v(s) = w · (1, s²)."""

    weights: Any
    action_set: ClassVar[Box] = Box([-1.0], [1.0])
    has_gradient: ClassVar[bool] = True

    def __call__(self, obs, key=None):
        return self.weights[0] + self.weights[1] * obs[:, 0] ** 2


class LinearPolicy(AbstractPolicy):
    """a = −gain · s, not squashed."""

    gain: Any
    action_set: Box = eqx.field(default=Box((-1.0,), (1.0,)), kw_only=True)

    def act(self, obs, normal):
        return -self.gain * obs

    def sample(self, obs, key):
        return -self.gain * obs, jnp.zeros(obs.shape[0])


class GaussianPolicy(AbstractPolicy):
    """a ~ N(−gain · s, exp(log_std)²), not squashed."""

    gain: Any
    log_std: Any
    action_set: Box = eqx.field(default=Box((-1.0,), (1.0,)), kw_only=True)

    def act(self, obs, normal):
        return -self.gain * obs + jnp.exp(self.log_std) * normal

    def sample(self, obs, key):
        normal = jax.random.normal(key, obs.shape)
        return self.act(obs, normal), gaussian_log_prob(normal, jnp.broadcast_to(self.log_std, obs.shape))


def gaussian_policy(gain: float, std: float) -> GaussianPolicy:
    return GaussianPolicy(jnp.asarray(gain, jnp.float32), jnp.log(jnp.asarray(std, jnp.float32)))


def transitions(obs, action, reward, next_obs, terminated=False, truncated=False) -> Transition:
    """A batch from one-dimensional columns; scalars are repeated."""
    obs = np.asarray(obs, np.float32)

    def column(values, dtype=np.float32):
        return np.broadcast_to(np.asarray(values, dtype), obs.shape)

    batch = Transition(
        obs[:, None],
        column(action)[:, None],
        column(reward),
        column(next_obs)[:, None],
        column(terminated, bool),
        column(truncated, bool),
    )
    return jax.tree.map(jnp.asarray, batch)


def noiseless(problem, size: int = 256, seed: int = 0) -> Transition:
    """Transitions of a scalar LQR without noise, s and a uniform on [−1, 1]."""
    s, a = np.random.default_rng(seed).uniform(-1, 1, (2, size))
    A, B, Q, R = (float(matrix.item()) for matrix in (problem.A, problem.B, problem.Q, problem.R))
    return transitions(s, a, -(Q * s**2 + R * a**2), A * s + B * a)


def with_value(network, value: float):
    """The same network with output ≡ value."""

    def last(network):
        net = network.critic.net.rest if isinstance(network, RangedCritic) else network.net
        return net.weights[-1], net.bias if isinstance(net, BatchNormMlp) else net.biases[-1]

    weight, bias = last(network)
    zeros, values = np.zeros(weight.shape, weight.dtype), np.full(bias.shape, value, bias.dtype)
    return eqx.tree_at(last, network, (jnp.asarray(zeros), jnp.asarray(values)))
