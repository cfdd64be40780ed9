# pyright: reportUnknownMemberType=false
"""What a regression of the critics adds to its loss, so that actions that nobody took are not guessed high."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from fittedq.arrays import Arr
from fittedq.bellman import smooth_max
from fittedq.slots import COUNT, NOT_NEGATIVE
from fittedq.template.losses import AbstractPenalty, Metrics
from fittedq.template.targets import Labelled, UniformSamples
from fittedq.types import AbstractCritic, Components, Transition, needed

LEAST_SLOPE = 1e-6
"""What ‖∇_a q‖ counts at least beside itself, so that a slope of 0 has a direction of length 0."""


class Candidates(eqx.Module):
    """Actions a_k at each s, with the log weights of ∫ f(a) da ≈ Σ_k exp(log_weight_k) f(a_k), and what q(s, a_k)
    counts at least."""

    action: Float[Arr, "b k m"]
    log_weight: Float[Arr, "b k"]
    floor: Float[Arr, "b k"]


class Conservative(AbstractPenalty):
    """α Σ_j mean_s [log ∫_A exp q_j(s, a') da' − q_j(s, a)], a the action that was logged at s.

    It is least where exp q_j / ∫ exp q_j is the density of the log's actions: q is pushed down where it is high and
    raised where there are data. The integral takes 3 · `count` actions: uniform ones, and those of π at s and at s',
    each weighed by its density. Actions outside A(s) are projected. `calibrated`: the policy's actions count as
    max(q_j, v(s)), v the value of the log's own policy; nothing is pushed below what the log earned.
    Source: Kumar et al. 2020 (CQL), eq. 4 and appendix F; Nakamoto et al. 2023 (Cal-QL), eq. 5.1.
    """

    alpha: float = eqx.field(static=True, metadata=NOT_NEGATIVE)
    count: int = eqx.field(static=True, default=10, metadata=COUNT)
    calibrated: bool = eqx.field(static=True, default=False)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"policy", "value"} if self.calibrated else {"policy"})

    def actions_at_once(self, size: int) -> int:
        """Its candidates, and the logged action."""
        return 3 * self.count + 1

    def label(self, nets: Components, batch: Transition, key: PRNGKeyArray) -> Candidates:
        policy, rows, count = needed(nets.policy), len(batch.obs), self.count
        uniform_key, here_key, there_key = jax.random.split(key, 3)
        action_set = policy.action_set
        uniform, volume = UniformSamples(count)(action_set, batch.obs, uniform_key)
        groups, weights = [jnp.asarray(uniform)], [jnp.asarray(volume)]
        for obs, draw_key in ((batch.obs, here_key), (batch.next_obs, there_key)):
            drawn, log_prob = policy.sample(jnp.repeat(obs, count, axis=0), draw_key)
            groups.append(jnp.reshape(drawn, (rows, count, -1)))
            weights.append(-jnp.reshape(log_prob, (rows, count)) - np.log(count))
        action = jnp.concatenate(groups, axis=1)
        beside = jnp.repeat(batch.obs, 3 * count, axis=0)
        action = action_set.project(action.reshape(3 * rows * count, -1), beside).reshape(action.shape)
        floor = jnp.full((rows, 3 * count), -jnp.inf)
        if self.calibrated:
            value = needed(nets.value)(batch.obs)
            floor = floor.at[:, count:].set(jnp.asarray(value)[:, None])
        return Candidates(action, jnp.concatenate(weights, axis=1) - np.log(3), floor)

    def __call__(
        self, critic: AbstractCritic, logged: Float[Arr, "n b"], data: Labelled
    ) -> tuple[Float[Arr, ""], Metrics]:
        (obs, _), tried = data.inputs, data.aside
        assert isinstance(tried, Candidates)
        rows, count, size = tried.action.shape
        q = critic(jnp.repeat(obs, count, axis=0), tried.action.reshape(rows * count, size))
        q = jnp.maximum(q.reshape(-1, rows, count), tried.floor)
        above = jnp.mean(smooth_max(q, tried.log_weight, 1.0) - logged, axis=-1)
        return self.alpha * jnp.sum(above), {"above_log": jnp.mean(above)}


class Diverse(AbstractPenalty):
    """η mean_s [Σ_{i≠j} ⟨u_i, u_j⟩ / (n − 1)], u_j the direction of ∇_a q_j(s, a) at the logged a, in half-widths.

    Critics whose slopes point the same way agree on which way out of the data is up, and their minimum there is no
    lower than one of them: so few critics do what needs many. Σ_{i≠j} ⟨u_i, u_j⟩ = ‖Σ_j u_j‖² − Σ_j ‖u_j‖².
    Source: An et al. 2021 (EDAC), eq. 7.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    eta: float = eqx.field(static=True, metadata=NOT_NEGATIVE)

    def label(self, nets: Components, batch: Transition, key: PRNGKeyArray) -> None:
        """Nothing is drawn."""

    def __call__(
        self, critic: AbstractCritic, logged: Float[Arr, "n b"], data: Labelled
    ) -> tuple[Float[Arr, ""], Metrics]:
        obs, action = data.inputs

        def value(action: Array, index: Array) -> Array:
            return jnp.sum(jnp.asarray(critic.subset(index[None])(obs, action)))

        slope = cast("Callable[[Arr, Array], Array]", jax.grad(value))
        half_width = jnp.asarray(critic.action_set.half_width, action.dtype)
        slopes = half_width * jax.vmap(slope, in_axes=(None, 0))(action, jnp.arange(critic.size))
        unit = slopes / jnp.sqrt(jnp.sum(slopes**2, axis=-1, keepdims=True) + LEAST_SLOPE**2)
        pairs = jnp.sum(jnp.sum(unit, axis=0) ** 2, axis=-1) - jnp.sum(unit**2, axis=(0, 2))
        alike = jnp.mean(pairs) / max(critic.size - 1, 1)
        return self.eta * alike, {"alike": alike}
