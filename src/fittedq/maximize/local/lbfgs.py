"""Projected L-BFGS, batched: every row has its own curvature, its own step and its own backtracking."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import Arr, Scalar
from fittedq.maximize.base import (
    AbstractMaximizer,
    Solution,
    Status,
    best,
    comparable,
    first_order_residual,
    given,
    moved,
    search_rows,
    shorter,
    step_scale,
    value_and_gradient,
)
from fittedq.slots import COUNT, NOT_NEGATIVE, POSITIVE
from fittedq.types import AbstractCritic


class Search(eqx.Module):
    """One local search per row, in units of the step scale D: displacements are D⁻¹ Δa, gradients D ∇q."""

    action: Float[Arr, "n m"]
    value: Float[Arr, "n"]
    gradient: Float[Arr, "n m"]
    direction: Float[Arr, "n m"]
    length: Float[Arr, "n"]
    displacements: Float[Arr, "memory n m"]
    changes: Float[Arr, "memory n m"]
    stalled: Bool[Arr, "n"]


class ProjectedLBFGS(AbstractMaximizer[AbstractCritic]):
    """a ← Π_A(a + t D H D ∇q), H from the last `memory` (displacement, gradient change) pairs, t shortened on failure.

    Each of the `steps` loops evaluates q and its gradient once for every row: a row whose trial point rises enough
    (Armijo, along the projected arc) moves and gets a new direction, any other shortens its step. No row waits for
    another's line search. Coordinates at a bound whose gradient points outward are held, and H is built on the free
    ones; pairs without positive curvature are skipped. Outside boxes, where holding coordinates is not enough, H is the
    scalar of Barzilai and Borwein. Source: Nocedal & Wright 2006, sections 7.2 and 16.7; Birgin et al. 2000.
    """

    needs_starts: ClassVar[bool] = True
    on_host: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    steps: int = eqx.field(static=True, default=50, metadata=NOT_NEGATIVE)
    memory: int = eqx.field(static=True, default=5, metadata=COUNT)
    first_step: float = eqx.field(static=True, default=1.0, metadata=POSITIVE)
    sufficient: float = eqx.field(static=True, default=1e-4)
    tolerance: float = eqx.field(static=True, default=1e-3)

    def __call__(
        self,
        critic: AbstractCritic,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solution:
        del key
        starts = given(starts)
        rows, action = search_rows(obs, starts, action_set)
        scale = step_scale(action_set, rows)

        def begin() -> Search:
            value, gradient = value_and_gradient(critic, rows, action)
            pairs = jnp.zeros((self.memory, *action.shape), action.dtype)
            ones = jnp.ones_like(action[:, 0])
            fresh = Search(action, value, scale * gradient, action, ones, pairs, pairs, ones < 0)
            return eqx.tree_at(lambda search: search.direction, fresh, self.direction(fresh, rows, action_set))

        def step(_: Scalar, search: Search) -> Search:
            trial = moved(search.action, scale * search.length[:, None] * search.direction, action_set, rows)
            value, gradient = value_and_gradient(critic, rows, trial)
            gradient = scale * gradient
            displacement = (trial - search.action) / scale
            gain = self.sufficient * jnp.sum(search.gradient * displacement, axis=-1)
            rises = (comparable(value) > comparable(search.value)) & (
                ~(value < search.value + gain) | ~jnp.isfinite(search.value)
            )
            # The top of the parabola through q and its slope at the action and q at the trial point.
            slope = jnp.sum(search.gradient * displacement, axis=-1)
            top = slope / jnp.maximum(2 * (slope - (value - search.value)), 1e-30)
            shortened = jnp.where(jnp.isfinite(top), jnp.clip(top, 0.1, 0.5), 0.1)
            change = search.gradient - gradient
            curved = jnp.sum(displacement * change, -1) > 1e-6 * norm(displacement) * norm(change)
            remembered = (rises & curved)[None, :, None]
            # A step too short to matter: forget the curvature once, and where there is none to forget, stop.
            spent = ~rises & (search.length * norm(search.direction) < 1e-4)
            bare = ~jnp.any(search.displacements != 0, axis=(0, 2))
            forget = spent[None, :, None]
            following = Search(
                action=jnp.where(rises[:, None], trial, search.action),
                value=jnp.where(rises, value, search.value),
                gradient=jnp.where(rises[:, None], gradient, search.gradient),
                direction=search.direction,
                length=jnp.where(rises | spent, 1.0, shortened * search.length),
                displacements=jnp.where(forget, 0, remember(remembered, search.displacements, displacement)),
                changes=jnp.where(forget, 0, remember(remembered, search.changes, change)),
                stalled=search.stalled | (spent & bare),
            )
            anew = (rises | spent)[:, None]
            direction = jnp.where(anew, self.direction(following, rows, action_set), search.direction)
            return eqx.tree_at(lambda search: search.direction, following, direction)

        search = jax.lax.fori_loop(0, self.steps, step, begin())
        residual = first_order_residual(search.action, search.gradient / scale, scale, action_set, rows)
        status = jnp.where(search.stalled, Status.STALLED, Status.ITERATION_LIMIT)
        status = jnp.where(residual <= self.tolerance, Status.CONVERGED, status)
        b, k, m = starts.shape
        return best(search.action.reshape(b, k, m), search.value.reshape(b, k), status.reshape(b, k))

    def direction(self, search: Search, obs: Float[Arr, "n s"], action_set: AbstractActionSet) -> Float[Arr, "n m"]:
        """H D ∇q on the free coordinates by the two-loop recursion; the scaled gradient where that does not ascend."""
        if action_set.separable:
            low, high = action_set.bounds(obs)
            outward = jnp.where(search.gradient > 0, search.action >= high, search.action <= low)
            free = (~outward).astype(search.gradient.dtype)
        else:
            free = jnp.ones_like(search.gradient)
        gradient = search.gradient * free
        pairs = [(search.displacements[i] * free, search.changes[i] * free) for i in range(self.memory)]
        curvatures = [jnp.sum(s * y, axis=-1, keepdims=True) for s, y in pairs]
        usable = [
            curvature > 1e-6 * (norm(s) * norm(y))[:, None] for (s, y), curvature in zip(pairs, curvatures, strict=True)
        ]
        inverses = [jnp.where(use, 1 / jnp.where(use, c, 1), 0) for use, c in zip(usable, curvatures, strict=True)]
        # Without curvature, the first step moves the steepest coordinate by `first_step`.
        inverse_scale = self.first_step / jnp.maximum(jnp.max(jnp.abs(gradient), axis=-1, keepdims=True), 1e-30)
        for (s, y), use in zip(pairs, usable, strict=True):
            ratio = jnp.sum(s * y, axis=-1, keepdims=True) / jnp.maximum(jnp.sum(y * y, -1, keepdims=True), 1e-30)
            inverse_scale = jnp.where(use, ratio, inverse_scale)
        if not action_set.separable:
            return bounded(inverse_scale * gradient)
        direction, weights = gradient, []
        for (s, y), inverse in zip(reversed(pairs), reversed(inverses), strict=True):
            weights.append(inverse * jnp.sum(s * direction, axis=-1, keepdims=True))
            direction = direction - weights[-1] * y
        steepest = inverse_scale * gradient
        direction = inverse_scale * direction
        for (s, y), inverse, weight in zip(pairs, inverses, reversed(weights), strict=True):
            direction = direction + s * (weight - inverse * jnp.sum(y * direction, axis=-1, keepdims=True))
        ascends = jnp.sum(direction * gradient, -1) > 1e-3 * norm(direction) * norm(gradient)
        return bounded(jnp.where(ascends[:, None], direction, steepest))


@shorter.register
def _(search: ProjectedLBFGS) -> ProjectedLBFGS:
    return dataclasses.replace(search, steps=-(-search.steps // 5))


def remember(
    chosen: Bool[Arr, "1 n 1"], history: Float[Arr, "memory n m"], newest: Float[Arr, "n m"]
) -> Float[Arr, "memory n m"]:
    """The history with `newest` at its end and the oldest gone, in the chosen rows."""
    return jnp.where(chosen, jnp.concatenate([history[1:], newest[None]]), history)


def bounded(direction: Float[Arr, "n m"]) -> Float[Arr, "n m"]:
    """Shortened to at most two half-widths in any coordinate: no bounded set is wider."""
    return direction / jnp.maximum(jnp.max(jnp.abs(direction), axis=-1, keepdims=True) / 2, 1)


def norm(vector: Float[Arr, "*n m"]) -> Float[Arr, "*n"]:
    return jnp.sqrt(jnp.sum(vector**2, axis=-1))
