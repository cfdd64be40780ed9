"""A policy's action, improved by a few steps of a solver when it is about to be taken."""

from __future__ import annotations

import math
import time

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import Arr
from fittedq.errors import UserError
from fittedq.maximize.base import comparable, step_scale, value_and_gradient
from fittedq.settings import real, whole
from fittedq.types import AbstractCritic

MOST_REFINING = 100_000
"""No step is left to gain by long before; of more, one action would take minutes."""


class Climb(eqx.Module):
    """Where each row of a projected ascent is, and how far its next step goes (in half-widths)."""

    action: Float[Arr, "b m"]
    value: Float[Arr, "b"]
    gradient: Float[Arr, "b m"]
    step: Float[Arr, "b 1"]


def checked(refine: object, trust: object, deadline: object) -> int:
    """The steps that `refine` asks for, None or 0 for none; a UserError for what `refined` cannot take."""
    real(trust, "trust", "a share of the half-widths in (0, 2]", low=math.ulp(0.0), high=2)
    if deadline is not None:
        real(deadline, "deadline", "seconds of at least 0")
    return whole(0 if refine is None else refine, "refine", high=MOST_REFINING)


def refined(
    critic: AbstractCritic,
    obs: Float[Arr, "b s"],
    action: Float[Arr, "b m"],
    action_set: AbstractActionSet,
    *,
    steps: int,
    trust: float = 0.1,
    deadline: float | None = None,
) -> Float[np.ndarray, "b m"]:
    """a with q(s, a) ≥ q(s, π(s)) and |a − π(s)| ≤ trust · half_width, after `steps` steps or `deadline` seconds.

    Projected gradient ascent, each row's step doubled after a success and quartered after a failure. The trust region
    keeps the search where the critic was fitted: its errors grow with the distance from what the policy does. In a set
    that is convex the way back to π(s) stays inside; among whole numbers a step that leaves the region is not taken.
    """
    checked(whole(steps, "refine", 1, MOST_REFINING), trust, deadline)
    for name, array in (("observation", obs), ("action", action)):
        if not np.isfinite(array).all():
            row, column = np.argwhere(~np.isfinite(array))[0]
            raise UserError(f"refine: {name}[{column}] in row {row} is {array[row, column]}, expected a finite number.")
    begin = time.perf_counter()
    obs, start = jnp.asarray(obs), jnp.asarray(action)
    climb = _begin(critic, obs, start, trust)
    for _ in range(steps):
        if deadline is not None and time.perf_counter() - begin >= deadline:
            break
        climb = _step(critic, obs, start, climb, trust, action_set)
        if deadline is not None:
            climb.action.block_until_ready()  # pyright: ignore[reportAttributeAccessIssue]
    # Compiled code knows bounds in single precision only.
    return np.asarray(action_set.project(np.asarray(climb.action), np.asarray(obs)))


@eqx.filter_jit
def _begin(critic: AbstractCritic, obs: Float[Arr, "b s"], start: Float[Arr, "b m"], trust: float) -> Climb:
    value, gradient = value_and_gradient(critic, obs, start)
    return Climb(start, value, gradient, jnp.full((start.shape[0], 1), trust / 2, start.dtype))


@eqx.filter_jit
def _step(
    critic: AbstractCritic,
    obs: Float[Arr, "b s"],
    start: Float[Arr, "b m"],
    climb: Climb,
    trust: float,
    action_set: AbstractActionSet,
) -> Climb:
    unit = step_scale(action_set, obs)
    direction = climb.gradient * unit
    direction = direction / jnp.maximum(jnp.max(jnp.abs(direction), axis=-1, keepdims=True), 1e-30)
    moved = action_set.project(climb.action + climb.step * unit * direction, obs)
    half_width = jnp.asarray(action_set.half_width, start.dtype)
    distance = jnp.max(jnp.abs(moved - start) / half_width, axis=-1, keepdims=True)
    pulled = start + (moved - start) * jnp.minimum(1.0, trust / jnp.maximum(distance, 1e-30))
    moved = action_set.project(pulled, obs)
    near = jnp.max(jnp.abs(moved - start) / half_width, axis=-1) <= trust * (1 + 1e-5)
    value, gradient = value_and_gradient(critic, obs, moved)
    better = ((comparable(value) > comparable(climb.value)) & near)[:, None]
    return Climb(
        action=jnp.where(better, moved, climb.action),
        value=jnp.where(better[:, 0], value, climb.value),
        gradient=jnp.where(better, gradient, climb.gradient),
        step=jnp.where(better, 2 * climb.step, climb.step / 4),
    )
