# pyright: reportUnknownMemberType=false
"""Losses of policies that stay near the actions of a log."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from fittedq.arrays import Arr
from fittedq.bellman import soft_value
from fittedq.slots import NOT_NEGATIVE, POSITIVE
from fittedq.template.losses import AbstractLoss, Imitated, Metrics
from fittedq.template.targets import AbstractCombine
from fittedq.types import AbstractDensityPolicy, AbstractPolicy, Components, Greedy, Transition, needed

LEAST_SIZE = 1e-6
"""What mean |q| counts at least, so that q ≡ 0 is divided by a number."""


class Logged(eqx.Module):
    """States and the actions that were taken there."""

    obs: Float[Arr, "b s"]
    action: Float[Arr, "b m"]


class ImproveNear(AbstractLoss[AbstractPolicy, Logged]):
    """mean_s [−α (q(s, π(s)) − β log π) / Z + c ‖(π(s) − a) / half_width‖²], a the action that was logged at s.

    Z = mean_s |q(s, π(s))|, held still, so that α means the same in any unit of reward; `normalized=False`: Z = 1.
    α = 0 clones the log's actions; c = 0 and Z = 1 leave `Improve`.
    Source: Fujimoto & Gu 2021, eqs. 4 and 5; Tarasov et al. 2023 (ReBRAC), section 3.
    """

    spans: ClassVar[bool] = True
    combine: AbstractCombine
    alpha: float = eqx.field(static=True, metadata=NOT_NEGATIVE)
    near: float = eqx.field(static=True, metadata=NOT_NEGATIVE)
    normalized: bool = eqx.field(static=True, default=True)

    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Logged:
        return Logged(batch.obs, batch.action)

    def __call__(
        self, component: AbstractPolicy, nets: Components, data: Logged, key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        action_key, critic_key = jax.random.split(key)
        action, log_prob = component.sample(data.obs, action_key)
        q = self.combine(needed(nets.critic), data.obs, action, critic_key)
        size = jnp.maximum(jnp.mean(jnp.abs(jax.lax.stop_gradient(q))), LEAST_SIZE) if self.normalized else 1.0
        half_width = jnp.asarray(component.action_set.half_width, action.dtype)
        distance = jnp.mean(jnp.sum(((action - data.action) / half_width) ** 2, axis=-1))
        climbed = jnp.mean(soft_value(q, log_prob, jax.lax.stop_gradient(nets.temperature)))
        loss = self.near * distance - self.alpha * climbed / size
        return loss, {"loss": loss, "distance": distance, "log_prob": jnp.mean(log_prob)}


class Clone(AbstractLoss[AbstractDensityPolicy, Logged]):
    """−mean log π(a | s), a the action that was logged at s: what the log did, by maximum likelihood."""

    spans: ClassVar[bool] = True

    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Logged:
        return Logged(batch.obs, batch.action)

    def __call__(
        self, component: AbstractDensityPolicy, nets: Components, data: Logged, key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        loss = -jnp.mean(component.log_density(data.obs, data.action))
        return loss, {"loss": loss}


class ImitateByAdvantage(AbstractLoss[AbstractDensityPolicy, Imitated]):
    """−mean [w log π(a | s)], w = min(exp(k (q̄(s, a) − v(s))), clip), a the action that was logged at s.

    Its minimum over all densities is μ(a | s) w, normalized, μ the log's: nothing but logged actions is ever asked for.
    k is an inverse temperature, in 1 / unit of reward; k = 0 clones. Source: Kostrikov et al. 2022 (IQL), eq. 7.
    """

    spans: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"critic", "value"})
    combine: AbstractCombine
    inverse_temperature: float = eqx.field(static=True, metadata=NOT_NEGATIVE)
    clip: float = eqx.field(static=True, metadata=POSITIVE)

    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Imitated:
        q = self.combine(needed(nets.critic), batch.obs, batch.action, key)
        advantage = q - needed(nets.value)(batch.obs)
        # Clipped before the exponential too, which would overflow.
        power = jnp.minimum(self.inverse_temperature * advantage, jnp.log(jnp.asarray(self.clip, q.dtype)))
        return Imitated(batch.obs, batch.action, jnp.exp(power))

    def __call__(
        self, component: AbstractDensityPolicy, nets: Components, data: Imitated, key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        log_prob = component.log_density(data.obs, data.action)
        loss = -jnp.mean(data.weight * log_prob)
        return loss, {"loss": loss, "log_prob": jnp.mean(log_prob), "weight": jnp.mean(data.weight)}
