"""Target maps T_q: what a critic or a value network is regressed on."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from fittedq.bellman import least, smooth_max, soft_value, td_target
from fittedq.types import AbstractActionSet, AbstractCritic, Approximators, Arr, Box, Greedy, Transition


class Labelled(eqx.Module):
    """A regression set D: the inputs of a component, row by row, and the targets y."""

    inputs: tuple[Float[Arr, "b _"], ...]
    y: Float[Arr, "b"]


class AbstractCombine(eqx.Module):
    """How an ensemble's values become one."""

    @abc.abstractmethod
    def __call__(
        self, critic: AbstractCritic, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray
    ) -> Float[Arr, "b"]: ...


class MinOverCritics(AbstractCombine):
    """min_j q_j(s, a), over all critics or over a random `subset` of them drawn anew for each batch.

    Source: Fujimoto et al. 2018, section 4 (two critics); Chen et al. 2021 (REDQ: two of ten).
    """

    subset: int | None = eqx.field(static=True, default=None)

    def __call__(
        self, critic: AbstractCritic, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray
    ) -> Float[Arr, "b"]:
        dropout_key, subset_key = jax.random.split(key)
        if self.subset is not None and self.subset < critic.size:
            critic = critic.subset(jax.random.choice(subset_key, critic.size, (self.subset,), replace=False))
        return least(critic(obs, action, dropout_key))


class FirstCritic(AbstractCombine):
    """q_1(s, a)."""

    def __call__(
        self, critic: AbstractCritic, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray
    ) -> Float[Arr, "b"]:
        return critic.subset(slice(0, 1))(obs, action, key)[0]


class MeanOverCritics(AbstractCombine):
    """mean_j q_j(s, a). Source: Chen et al. 2021, algorithm 1, line 12."""

    def __call__(
        self, critic: AbstractCritic, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray
    ) -> Float[Arr, "b"]:
        return jnp.mean(critic(obs, action, key), axis=0)


class AbstractTarget(eqx.Module):
    """`nets` are the frozen components laid over the live ones."""

    @abc.abstractmethod
    def __call__(
        self, nets: Approximators, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray
    ) -> Labelled: ...


class Bellman(AbstractTarget):
    """D = {((s, a), r + γ (1 − terminated) (q̄(s', a') − β log π(a' | s')))}, β = 0 without a temperature."""

    gamma: float = eqx.field(static=True)
    combine: AbstractCombine

    def __call__(self, nets: Approximators, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        assert greedy is not None, "Bellman needs the template's greedy step"
        q = self.combine(nets.critic, batch.next_obs, greedy.action, key)
        next_value = soft_value(q, greedy.log_prob, nets.temperature)
        return Labelled((batch.obs, batch.action), td_target(batch.reward, batch.terminated, next_value, self.gamma))


class BellmanFromValue(AbstractTarget):
    """D = {((s, a), r + γ (1 − terminated) v̄(s'))}. Source: Haarnoja et al. 2018, eq. 8."""

    gamma: float = eqx.field(static=True)

    def __call__(self, nets: Approximators, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        del greedy, key
        next_value = nets.value(batch.next_obs)
        return Labelled((batch.obs, batch.action), td_target(batch.reward, batch.terminated, next_value, self.gamma))


class SoftValue(AbstractTarget):
    """D = {(s, min_j q_j(s, a) − β log π(a | s))}, a ~ π(· | s): both at s, the state being regressed.

    Source: Haarnoja et al. 2018, eq. 5.
    """

    combine: AbstractCombine

    def __call__(self, nets: Approximators, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        del greedy
        action_key, critic_key = jax.random.split(key)
        action, log_prob = nets.policy.sample(batch.obs, action_key)
        q = self.combine(nets.critic, batch.obs, action, critic_key)
        return Labelled((batch.obs,), soft_value(q, log_prob, nets.temperature))


class AbstractNodes(eqx.Module):
    """Actions a_k and log weights whose sum stands for an integral over the outer box: ∫ f(a) da ≈ Σ_k exp(w_k) f(a_k).

    Nodes outside A(s) count for nothing.
    """

    @abc.abstractmethod
    def __call__(
        self, action_set: AbstractActionSet, rows: int, key: PRNGKeyArray
    ) -> tuple[Float[Arr, "rows k m"], Float[Arr, "rows k"]]: ...


class Quadrature(AbstractNodes):
    """The product of Gauss–Legendre rules of `points` nodes per dimension: for m ≤ 2."""

    points: int = eqx.field(static=True, default=17)

    def __call__(
        self, action_set: AbstractActionSet, rows: int, key: PRNGKeyArray
    ) -> tuple[Float[Arr, "rows k m"], Float[Arr, "rows k"]]:
        del key
        node, weight = np.polynomial.legendre.leggauss(self.points)
        mesh = np.stack(np.meshgrid(*[node] * action_set.size, indexing="ij"), axis=-1).reshape(-1, action_set.size)
        log_weight = sum(
            np.log(part).ravel() for part in np.meshgrid(*[weight] * action_set.size, indexing="ij")
        ) + np.sum(np.log(action_set.half_width))
        action = action_set.from_unit(jnp.asarray(mesh, jnp.float32))
        return (
            jnp.broadcast_to(action, (rows, *action.shape)),
            jnp.broadcast_to(jnp.asarray(log_weight, jnp.float32), (rows, len(mesh))),
        )


class UniformSamples(AbstractNodes):
    """`count` actions drawn uniformly from the box, each of weight |A| / count."""

    count: int = eqx.field(static=True, default=64)

    def __call__(
        self, action_set: AbstractActionSet, rows: int, key: PRNGKeyArray
    ) -> tuple[Float[Arr, "rows k m"], Float[Arr, "rows k"]]:
        unit = jax.random.uniform(key, (rows, self.count, action_set.size), minval=-1.0, maxval=1.0)
        log_volume = float(np.sum(np.log(2 * np.asarray(action_set.half_width))))
        return action_set.from_unit(unit), jnp.full((rows, self.count), log_volume - np.log(self.count), jnp.float32)


class SmoothBellman(AbstractTarget):
    """D = {((s, a), r + γ (1 − terminated) v_β(s'))}, v_β(s') = β log ∫_A exp(min_j q̄_j(s', a) / β) da.

    v_β may lie below max q, and never exceeds max q + β log |A|: the box must be bounded for it to contract.
    Source: chapter, "Soft Actor-Critic", the smooth Bellman operator.
    """

    gamma: float = eqx.field(static=True)
    temperature: float = eqx.field(static=True)
    nodes: AbstractNodes

    def __call__(self, nets: Approximators, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        del greedy
        rows = batch.next_obs.shape[0]
        action_set = nets.critic.action_set
        action, log_weight = self.nodes(action_set, rows, key)
        count = action.shape[1]
        obs = jnp.repeat(batch.next_obs, count, axis=0)
        if not isinstance(action_set, Box):
            inside = action_set.contains(action.reshape(rows * count, -1), obs).reshape(rows, count)
            log_weight = jnp.where(inside, log_weight, -jnp.inf)
        q = nets.critic(obs, action.reshape(rows * count, -1)).min(axis=0).reshape(rows, count)
        next_value = smooth_max(q, log_weight, self.temperature)
        return Labelled((batch.obs, batch.action), td_target(batch.reward, batch.terminated, next_value, self.gamma))
