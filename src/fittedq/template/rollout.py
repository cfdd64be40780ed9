# pyright: reportUnknownMemberType=false
"""The n-step value of a policy through a model: what SVG's actor climbs, and, as an option, what its critic learns."""

from __future__ import annotations

import abc
import operator
from typing import ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PRNGKeyArray

from fittedq.approx.models import GaussianModel
from fittedq.arrays import Arr, Scalar, Tree
from fittedq.bellman import soft_value, td_target, value_range
from fittedq.slots import BELOW_ONE, NOT_NEGATIVE, SHARE, AbstractSlot
from fittedq.template.losses import AbstractLoss, Metrics
from fittedq.template.targets import AbstractCombine, AbstractTarget, Labelled, entropy_bonus
from fittedq.types import AbstractPolicy, Components, DrawnRows, Greedy, Transition, needed

Drawn = tuple[Float[Arr, "b m"], Float[Arr, "b"]]
"""(a, log π(a | s))."""
Carry = tuple[Tree, Float[Arr, "b"], Float[Arr, "b"]]
"""(x_t, γᵗ c_t, the rewards up to t, each with its weight)."""
Keys = tuple[PRNGKeyArray, PRNGKeyArray]


class AbstractTail(AbstractSlot):
    """What stands for the rewards after the horizon."""

    @abc.abstractmethod
    def __call__(
        self, nets: Components, policy: AbstractPolicy, obs: Float[Arr, "b s"], action: Drawn | None, keys: Keys
    ) -> Float[Arr, "b"]:
        """Its value at s_n; `action` is (a_n, log π) where it is given, and `keys` are the (action's, critic's)."""


class CriticTail(AbstractTail):
    """q(s_n, a_n) − β log π(a_n | s_n), a_n ~ π. Source: chapter, "The SVG Spectrum"."""

    combine: AbstractCombine

    def __call__(
        self, nets: Components, policy: AbstractPolicy, obs: Float[Arr, "b s"], action: Drawn | None, keys: Keys
    ) -> Float[Arr, "b"]:
        drawn, log_prob = policy.sample(obs, keys[0]) if action is None else action
        q = self.combine(needed(nets.critic), obs, drawn, keys[1])
        return soft_value(q, log_prob, jax.lax.stop_gradient(nets.temperature))


class ValueTail(AbstractTail):
    """v(s_n). Source: Heess et al. 2015, section 4."""

    needs: ClassVar[frozenset[str]] = frozenset({"value"})

    def __call__(
        self, nets: Components, policy: AbstractPolicy, obs: Float[Arr, "b s"], action: Drawn | None, keys: Keys
    ) -> Float[Arr, "b"]:
        return needed(nets.value)(obs)


class NoTail(AbstractTail):
    """0: the episode ends at the horizon."""

    def __call__(
        self, nets: Components, policy: AbstractPolicy, obs: Float[Arr, "b s"], action: Drawn | None, keys: Keys
    ) -> Float[Arr, "b"]:
        return jnp.zeros(obs.shape[0], obs.dtype)


class Rollout(AbstractSlot):
    """J_n(s) = Σ_{t<n} γᵗ c_t (r_t − β log π(a_t | s_t)) + γⁿ c_n tail(s_n), c_t the chance of not having terminated.

    s_{t+1}, r_t from the model, a_t ~ π(· | s_t); differentiable in the policy. Where the components hold a horizon,
    n is that, and `horizon` the most it may be.
    """

    horizon: int = eqx.field(static=True, metadata=NOT_NEGATIVE)
    gamma: float = eqx.field(static=True, metadata=SHARE)
    tail: AbstractTail

    def actions_at_once(self, size: int) -> int:
        """One in each step, all kept for the gradient."""
        return max(1, self.horizon)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"model"} if self.horizon > 0 else ())

    def __call__(
        self,
        nets: Components,
        policy: AbstractPolicy,
        obs: Float[Arr, "b s"],
        key: PRNGKeyArray,
        first: Drawn | None = None,
        first_noise: Float[Arr, "b s"] | None = None,
        stored: Float[Arr, "b x"] | None = None,
    ) -> Float[Arr, "b"]:
        """J_n at each row; `first` is (a_0, log π(a_0 | s_0)) and `first_noise` ξ_0, where they come from data, and
        `stored` what was stored beside the rows for a model with a state of its own."""
        action_key, critic_key = jax.random.split(key)
        if self.horizon == 0:
            return self.tail(nets, policy, obs, first, (action_key, critic_key))
        temperature, model = jax.lax.stop_gradient(nets.temperature), needed(nets.model)

        def step(
            carry: Carry, index: Scalar, given: Drawn | None = None, noise: Float[Arr, "b s"] | None = None
        ) -> tuple[Carry, None]:
            state, weight, total = carry
            obs = model.observe(state)
            step_key, noise_key = jax.random.split(jax.random.fold_in(action_key, index))
            action, log_prob = policy.sample(obs, step_key) if given is None else given
            noise = jax.random.normal(noise_key, obs.shape, obs.dtype) if noise is None else noise
            predicted = model(state, action, noise)
            total = total + weight * soft_value(predicted.reward, log_prob, temperature)
            return (predicted.next_state, self.gamma * weight * predicted.continues, total), None

        ones = jnp.ones(obs.shape[0], obs.dtype)
        carry, begin = (model.begin(obs, stored), ones, jnp.zeros_like(ones)), 0
        if first is not None:
            (carry, _), begin = step(carry, 0, first, first_noise), 1
        horizon = self.horizon
        if nets.horizon is None:
            through = step
        else:
            horizon = nets.horizon

            def through(carry: Carry, index: Scalar) -> tuple[Carry, None]:
                def on(carry: Carry) -> Carry:
                    return step(carry, index)[0]

                def stay(carry: Carry) -> Carry:
                    return carry

                return cast("Carry", jax.lax.cond(index < horizon, on, stay, carry)), None

        (last, weight, total), _ = jax.lax.scan(through, carry, jnp.arange(begin, self.horizon))
        tail_key = jax.random.fold_in(action_key, horizon)
        return total + weight * self.tail(nets, policy, model.observe(last), None, (tail_key, critic_key))


class Starts(eqx.Module):
    """The rows that rollouts start from, with the states that were stored beside them."""

    batch: Transition
    stored: Float[Arr, "b x"] | None = None

    def as_drawn(self, drawn: DrawnRows) -> Starts:
        """With what the rows were drawn with."""
        return Starts(self.batch, drawn.state)


class ImproveThrough(AbstractLoss[Tree, Starts]):
    """−mean_s J_n(s): with n = 0 and a critic at the end it is `Improve`, to the bit.

    `inferred` replays the noise of the data: ε = σ_π⁻¹(u − μ_π) and ξ = σ_f⁻¹(s' − μ_f), detached, so that the first
    step is the observed one. Source: Heess et al. 2015, section 4.2.
    """

    rollout: Rollout
    inferred: bool = eqx.field(static=True, default=False)

    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Starts:
        return Starts(batch)

    def __call__(
        self, component: Tree, nets: Components, data: Starts, key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        first, first_noise, batch = None, None, data.batch
        if self.inferred:
            noise = jax.lax.stop_gradient(component.infer(batch.obs, batch.action))
            first = component.replay(batch.obs, noise)
            if self.rollout.horizon > 0:
                first_noise = jax.lax.stop_gradient(needed(nets.model).infer(batch.obs, batch.action, batch.next_obs))
        value = self.rollout(nets, component, batch.obs, key, first, first_noise, data.stored)
        loss = -jnp.mean(value)
        return loss, {"loss": loss, "spread": jnp.std(value)}


class RolloutBellman(AbstractTarget):
    """D = {((s, a), r + γ (1 − terminated) J̄_n(s'))}: model-based value expansion (Feinberg et al. 2018)."""

    needs: ClassVar[frozenset[str]] = frozenset({"policy"})
    gamma: float = eqx.field(static=True, metadata=BELOW_ONE)
    rollout: Rollout

    def __call__(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        next_value = self.rollout(nets, needed(nets.policy), batch.next_obs, key)
        return Labelled((batch.obs, batch.action), td_target(batch.reward, batch.terminated, next_value, self.gamma))

    def value_range(self, nets: Components, reward: tuple[float, float]) -> tuple[float, float]:
        return value_range(reward, self.gamma, entropy_bonus(nets))


def held_out(batch: Transition, one_in: int = 16) -> Bool[Arr, "b"]:
    """Which rows are never trained on: a function of the row, so a row of a replay stays where it is."""
    bits = jax.lax.bitcast_convert_type(jnp.asarray(batch.next_obs, jnp.float32), jnp.uint32)
    mixed = jnp.sum(bits * jnp.uint32(2654435761), axis=-1, dtype=jnp.uint32)
    return (mixed >> 16) % one_in == 0


class Likelihood(AbstractLoss[GaussianModel, Transition]):
    """−mean log p(s', r, terminated | s, a) over the rows of D that are not held out.

    It stops early: while the held-out rows' running loss is more than `max_overfit` nats per number above that of the
    others, its gradient is 0. New data bring the two together again.
    """

    max_overfit: float = eqx.field(static=True)

    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Transition:
        return batch

    def prepare(self, component: GaussianModel, data: Transition) -> GaussianModel:
        component = component.fold(data)
        trained, aside, _ = self._losses(component, data)
        per_number = jnp.stack([trained, aside])[None] / (data.obs.shape[-1] + 1)
        return eqx.tree_at(operator.attrgetter("losses"), component, component.losses.fold(per_number, slowest=0.02))

    def __call__(
        self, component: GaussianModel, nets: Components, data: Transition, key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        trained, aside, error = self._losses(component, data)
        overfit = jax.lax.stop_gradient(component.losses.mean[1] - component.losses.mean[0])
        metrics = {"loss": trained, "held_out": aside, "held_out_error": error, "overfit": overfit}
        return jnp.where(overfit > self.max_overfit, 0.0, trained), metrics

    def _losses(self, component: GaussianModel, data: Transition) -> tuple[Scalar, Scalar, Scalar]:
        """(mean loss of the trained rows, of the held-out ones, mean squared error of the held-out ones)."""
        loss, error = component.loss(data)
        aside = held_out(data).astype(loss.dtype)

        def mean(values: Float[Arr, "b"], weight: Float[Arr, "b"]) -> Scalar:
            return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1.0)

        return mean(loss, 1.0 - aside), mean(loss, aside), mean(error, aside)
