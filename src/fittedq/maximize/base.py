"""What every maximizer of a critic takes and returns, and the pieces they share."""

from __future__ import annotations

import abc
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.mixed import Mixed
from fittedq.actions.state_box import StateBox
from fittedq.arrays import Arr
from fittedq.errors import UserError

Objective = Callable[[Any, Any], Any]
"""q(s, ·): (obs [b,s], action [b,m]) → value [b], traceable by JAX, each row on its own.

Give a pytree that holds its arrays (`jax.tree_util.Partial(function, critic)`, an Equinox module): under `jit` its
arrays are then arguments, not constants, and another critic of the same shapes needs no new compilation.
"""


class Status(IntEnum):
    """How a search ended, the same for every solver. Each member has its `sentence`; a new one is one line here."""

    ITERATION_LIMIT = 0, "The budget was spent; nothing is claimed."
    CONVERGED = 1, "A first-order point within the tolerance: a − Π_A(a + ∇q) ≈ 0."
    STALLED = 2, "No ascent along any step tried: a kink of q, or its rounding."
    EXACT = 3, "The maximum, by a method that proves it."
    FAILED = 4, "At no point tried was q a number."
    OPTIMAL = 5, "The bound is proven to be within the tolerance of the value."
    GAP = 6, "The bound is proven, and further off than the tolerance: rounding in double precision leaves no less."
    TIME_LIMIT = 7, "Stopped by a time limit; the bound is what was proven by then."
    ROUNDED = 8, "Within the tolerance in real arithmetic; the critic's own rounding may exceed it."

    sentence: str

    def __new__(cls, value: int, sentence: str) -> Status:
        member = int.__new__(cls, value)
        member._value_, member.sentence = value, sentence
        return member

    def __str__(self) -> str:
        return self.name

    @property
    def label(self) -> str:
        """The name in plain words, as files and terminals show it."""
        return self.name.lower().replace("_", " ")

    @staticmethod
    def counts(status: Any) -> dict[str, int]:
        """How many states ended in which way, by label."""
        found, counts = np.unique(np.asarray(status), return_counts=True)
        return {Status(one).label: int(count) for one, count in zip(found, counts, strict=True)}


class Solution(eqx.Module):
    """a ≈ argmax_{A(s)} q(s, ·) per state: a feasible action, q there, and what is known of the maximum.

    `upper_bound` ≥ max q is proven where it is not None; `status` holds values of `Status`.
    """

    action: Float[Arr, "b m"]
    value: Float[Arr, "b"]
    upper_bound: Float[Arr, "b"] | None
    status: Int[Arr, "b"]


class AbstractMaximizer(eqx.Module):
    """max_{a ∈ A(s)} q(s, a) from k ≥ 1 starts per state, all of which are searched from.

    The answer is the best point seen: feasible, and never below q at the best projected start, so starting from the
    policy's action and from data is a guarantee as well as a hint. A value that is not a number never wins. Actions
    are in the environment's units; steps and tolerances in half-widths of the action set's bounding box.
    """

    @abc.abstractmethod
    def __call__(
        self,
        objective: Objective,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"],
        key: PRNGKeyArray,
    ) -> Solution: ...


class Chunked(AbstractMaximizer):
    """`inner` on at most `rows` states at a time, so that memory does not grow with the number of states."""

    inner: AbstractMaximizer
    rows: int = eqx.field(static=True)

    def __post_init__(self):
        if self.rows < 1:
            raise UserError(f"Chunked: rows is {self.rows}, expected at least 1; give the states to solve at a time.")

    def __call__(
        self,
        objective: Objective,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"],
        key: PRNGKeyArray,
    ) -> Solution:
        count = obs.shape[0]
        if count <= self.rows:
            return self.inner(objective, obs, action_set, starts, key)
        chunks = -(-count // self.rows)

        def split(array: Any) -> Any:
            # The last chunk is filled with copies of the last state: one shape, one compilation.
            filled = jnp.pad(array, [(0, chunks * self.rows - count)] + [(0, 0)] * (array.ndim - 1), mode="edge")
            return filled.reshape(chunks, self.rows, *array.shape[1:])

        solution = jax.lax.map(
            lambda chunk: self.inner(objective, chunk[0], action_set, chunk[1], chunk[2]),
            (split(jnp.asarray(obs)), split(jnp.asarray(starts)), jax.random.split(key, chunks)),
        )
        return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[:count], solution)


@eqx.filter_jit
def solve(
    maximizer: AbstractMaximizer,
    objective: Objective,
    obs: Float[Arr, "b s"],
    action_set: AbstractActionSet,
    starts: Float[Arr, "b k m"],
    key: PRNGKeyArray,
) -> Solution:
    """`maximizer(objective, obs, action_set, starts, key)` in one compiled call, one compilation per shape."""
    return maximizer(objective, obs, action_set, starts, key)


def random_starts(
    action_set: AbstractActionSet, obs: Float[Arr, "b s"], count: int, key: PRNGKeyArray
) -> Float[Arr, "b {count} m"]:
    """Uniform in the smallest box around A(s), then projected on A(s); settings of whole numbers take turns."""
    low, high = action_set.bounds(jnp.asarray(obs))
    unit = jax.random.uniform(key, (obs.shape[0], count, action_set.size), low.dtype)
    actions = low[:, None] + (high - low)[:, None] * unit
    if isinstance(action_set, Mixed) and action_set.settings:
        turns = [action_set.settings[turn % len(action_set.settings)] for turn in range(count)]
        actions = jnp.asarray(actions).at[..., jnp.asarray(action_set.integer)].set(jnp.asarray(turns, low.dtype))
    return search_rows(obs, actions, action_set)[1].reshape(actions.shape)


def best(
    action: Float[Arr, "b k m"], value: Float[Arr, "b k"], status: Int[Arr, "b k"], upper_bound: Any = None
) -> Solution:
    """The candidate of the greatest value per state, the first among equals; one that is not a number never wins."""
    winner = jnp.argmax(comparable(value), axis=1)[:, None]
    chosen_value = jnp.take_along_axis(value, winner, axis=1)[:, 0]
    chosen_status = jnp.take_along_axis(status, winner, axis=1)[:, 0]
    return Solution(
        action=jnp.take_along_axis(action, winner[..., None], axis=1)[:, 0],
        value=chosen_value,
        upper_bound=upper_bound,
        status=jnp.where(jnp.isnan(chosen_value), Status.FAILED, chosen_status).astype(jnp.int32),
    )


def search_rows(
    obs: Float[Arr, "b s"], starts: Float[Arr, "b k m"], action_set: AbstractActionSet
) -> tuple[Float[Arr, "n s"], Float[Arr, "n m"]]:
    """One row per (state, start), n = b·k, the starts projected.

    A start that is not finite becomes the middle of the bounds: a network may map it to a finite value, and that wins.
    """
    if starts.shape[1] < 1:
        raise UserError("maximizer: found no starts, expected at least one per state; give the policy's action, say.")
    obs, starts = jnp.asarray(obs), jnp.asarray(starts)
    rows = jnp.repeat(obs, starts.shape[1], axis=0)
    low, high = action_set.bounds(rows)
    flat = starts.reshape(-1, starts.shape[2])
    flat = jnp.where(jnp.isfinite(flat), flat, (low + high) / 2)
    return rows, action_set.project(flat, rows)


def is_box(action_set: AbstractActionSet) -> bool:
    """Whether A(s) is a box, so that coordinates may be scaled and held one by one."""
    return isinstance(action_set, Box | StateBox)


def step_scale(action_set: AbstractActionSet, obs: Float[Arr, "n s"]) -> Float[Arr, "*#n _"]:
    """The unit of a step: half-widths per coordinate [n,m] in a box, elsewhere the greatest of them [n,1].

    a = Π(a + D ∇q) is a first-order condition for any diagonal D > 0 in a box, but only for D = scalar · I elsewhere,
    where the projection mixes coordinates.
    """
    low, high = action_set.bounds(obs)
    half_width = (high - low) / 2
    return half_width if is_box(action_set) else jnp.max(half_width, axis=-1, keepdims=True)


def moved(
    action: Float[Arr, "n m"], step: Float[Arr, "n m"], action_set: AbstractActionSet, obs: Float[Arr, "n s"]
) -> Float[Arr, "n m"]:
    """Π_A(a + step); coordinates of the step that are not finite do not move."""
    return action_set.project(action + jnp.where(jnp.isfinite(step), step, 0), obs)


def value_and_gradient(
    objective: Objective, obs: Float[Arr, "n s"], action: Float[Arr, "n m"]
) -> tuple[Float[Arr, "n"], Float[Arr, "n m"]]:
    """(q, ∂q/∂a) row by row; a gradient that is not finite counts as zero."""
    value, pullback = jax.vjp(lambda a: objective(obs, a), action)
    (gradient,) = pullback(jnp.ones_like(value))
    return value, jnp.where(jnp.isfinite(gradient), gradient, 0)


def first_order_residual(
    action: Float[Arr, "n m"],
    gradient: Float[Arr, "n m"],
    scale: Float[Arr, "*#n _"],
    action_set: AbstractActionSet,
    obs: Float[Arr, "n s"],
) -> Float[Arr, "n"]:
    """‖(a − Π_A(a + D² ∇q)) / D‖_∞ with D = `scale`: zero exactly at a first-order point, in half-widths."""
    return jnp.max(jnp.abs(moved(action, scale**2 * gradient, action_set, obs) - action) / scale, axis=-1)


def comparable(value: Float[Arr, "*n"]) -> Float[Arr, "*n"]:
    """q with NaN as −∞, so that comparisons never choose it."""
    return jnp.where(jnp.isnan(value), -jnp.inf, value)
