"""The greedy step: an action near argmax_a q(s', a) for every s' of a batch, computed once for all updates."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from fittedq.types import Approximators, Arr, Greedy


class AbstractGreedy(eqx.Module):
    """`nets` are the frozen components laid over the live ones."""

    @abc.abstractmethod
    def __call__(self, nets: Approximators, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> Greedy: ...


class PolicyAction(AbstractGreedy):
    """a' = π(s'), or a' ~ π(· | s'): the amortized argmax."""

    def __call__(self, nets: Approximators, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> Greedy:
        action, log_prob = nets.policy.sample(obs, key)
        return Greedy(action, log_prob, jnp.zeros(obs.shape[:-1], bool))


class Smoothed(AbstractGreedy):
    """ã = Π_A(a' + half_width · clip(σ ε, −c, c)): target policy smoothing, the noise clipped first and ã after.

    σ is a standard deviation in units of the box's half-width. Source: Fujimoto et al. 2018, section 5.3.
    """

    inner: AbstractGreedy
    sigma: float = eqx.field(static=True)
    clip: float = eqx.field(static=True)

    def __call__(self, nets: Approximators, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> Greedy:
        inner_key, noise_key = jax.random.split(key)
        greedy = self.inner(nets, obs, inner_key)
        action_set = nets.policy.action_set
        noise = jnp.clip(
            self.sigma * jax.random.normal(noise_key, greedy.action.shape, greedy.action.dtype), -self.clip, self.clip
        )
        half_width = jnp.asarray(action_set.half_width, greedy.action.dtype)
        action = action_set.project(greedy.action + half_width * noise, obs)
        return Greedy(action, greedy.log_prob, greedy.solved)
