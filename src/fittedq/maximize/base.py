"""What every maximizer of a critic takes and returns, which one a class of critic has, and the pieces they share."""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import Arr
from fittedq.errors import UserError
from fittedq.slots import AbstractSlot, written_for
from fittedq.types import AbstractCritic


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
    def counts(status: Sequence[int] | Int[Arr, "b"]) -> dict[str, int]:
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


class Effort(NamedTuple):
    """What a proof may cost: a tolerance as a share of max(1, |q|), seconds for the batch and for each state.

    None leaves it to the maximizer.
    """

    tol: float | None = None
    seconds: float | None = None
    state_seconds: float | None = None

    def named(self, *names: str) -> dict[str, Any]:
        """What is given of these, as a maximizer's own settings."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


Critic = TypeVar("Critic", bound=AbstractCritic, contravariant=True)
"""The critics that a maximizer reads: any, or those of one class."""


class AbstractMaximizer(AbstractSlot, Generic[Critic]):
    """max_{a ∈ A(s)} q(s, a) for every state of a batch, q = min_j q_j (`AbstractCritic.least`).

    `starts` hold k ≥ 1 actions per state. One that `needs_starts` searches from all of them, and its answer is never
    below q at the best projected start: starting from the policy's action and from data is a guarantee as well as a
    hint. Others may take them as a hint, and need none. `key` draws what is random in the search.

    The answer is feasible. A value that is not a number never wins. Actions are in the environment's units; steps and
    tolerances in half-widths of the action set's bounding box.
    """

    needs_starts: ClassVar[bool]
    on_host: ClassVar[bool]
    """Whether it runs in NumPy, outside compiled code."""
    needs_gradient: ClassVar[bool] = False
    """Whether it climbs the critic's gradient."""
    quick: ClassVar[bool] = True
    """Whether a state takes microseconds: what `choose.auto` asks of an exact one."""

    @abc.abstractmethod
    def __call__(
        self,
        critic: Critic,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solution:
        """An action for each state, q there, how its search ended, and a bound on the maximum where one is proven."""


@functools.singledispatch
def exact(critic: AbstractCritic, action_set: AbstractActionSet, effort: Effort) -> AbstractMaximizer | None:
    """A maximizer that ends with max_a q of this class of critic over such a set; None: there is none.

    Every one enters itself, `@exact.register` beside its class.
    """
    del critic, action_set, effort


@functools.singledispatch
def proven(critic: AbstractCritic, action_set: AbstractActionSet, effort: Effort) -> AbstractMaximizer | None:
    """A maximizer whose `upper_bound` on max_a q is proven: the exact one, where no other is registered."""
    return exact(critic, action_set, effort)


@functools.singledispatch
def misfit(maximizer: AbstractMaximizer, critic: AbstractCritic, action_set: AbstractActionSet) -> str | None:
    """Why a maximizer cannot solve for a critic of the class that it reads, or over this set; None: it can.

    One that has limits enters itself, `@misfit.register` beside its class. It looks at shapes only, for the critic
    may be one that is being compiled.
    """
    del maximizer, critic, action_set


@functools.singledispatch
def shorter(maximizer: AbstractMaximizer[Any]) -> AbstractMaximizer[Any] | None:
    """The same search, going on from an answer that is nearly right: some fifth of the work, and nearer by. None: there
    is none.

    A local search enters itself, `@shorter.register` beside its class.
    """
    del maximizer


def refuse_misfit(maximizer: AbstractMaximizer[Any], critic: AbstractCritic, action_set: AbstractActionSet) -> None:
    """A UserError where it cannot: before it is asked for an answer."""
    name, reads = type(maximizer).__name__, written_for(type(maximizer), AbstractMaximizer)
    if reads is not None and not isinstance(critic, reads):
        why = f"found a {type(critic).__name__}, expected a {reads.__name__}"
    elif maximizer.needs_gradient and not critic.has_gradient:
        why = f"found a {type(critic).__name__}, which has no gradient to climb"
    else:
        why = misfit(maximizer, critic, action_set)
    if why is not None:
        raise UserError(f"setting maximizer: {name}: {why}; take maximizer=auto, or another.")


class Chunked(AbstractMaximizer[AbstractCritic]):
    """`inner`, a compiled one, on at most `rows` states at a time: memory does not grow with the number of states."""

    inner: AbstractMaximizer
    rows: int = eqx.field(static=True)
    needs_starts: ClassVar[bool] = True
    on_host: ClassVar[bool] = False

    def __post_init__(self):
        if self.inner.on_host:
            raise UserError(f"Chunked: found {type(self.inner).__name__}, which runs on the host; give it all states.")
        if self.rows < 1:
            raise UserError(f"Chunked: rows is {self.rows}, expected at least 1; give the states to solve at a time.")

    def __call__(
        self,
        critic: AbstractCritic,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solution:
        count = obs.shape[0]
        if count <= self.rows:
            return self.inner(critic, obs, action_set, starts, key)
        key = a_key(key)
        chunks = -(-count // self.rows)

        def split(array: Arr) -> Arr:
            # The last chunk is filled with copies of the last state: one shape, one compilation.
            filled = jnp.pad(array, [(0, chunks * self.rows - count)] + [(0, 0)] * (array.ndim - 1), mode="edge")
            return filled.reshape(chunks, self.rows, *array.shape[1:])

        solution = jax.lax.map(
            lambda chunk: self.inner(critic, chunk[0], action_set, chunk[1], chunk[2]),
            (split(jnp.asarray(obs)), split(given(starts)), jax.random.split(key, chunks)),
        )
        return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[:count], solution)


@shorter.register
def _(maximizer: Chunked) -> Chunked | None:
    inner = shorter(maximizer.inner)
    return None if inner is None else Chunked(inner, maximizer.rows)


class BestStart(AbstractMaximizer[AbstractCritic]):
    """The start of the greatest q, as it is: k values a state, and a gradient where q has one.

    It is CONVERGED where a = Π_A(a + D ĝ), ĝ = D ∇q / ‖D ∇q‖_∞, D in half-widths: it lies where A(s) ends, or on a
    plateau, and no search that climbs would move it, however small q is.
    """

    needs_starts: ClassVar[bool] = True
    on_host: ClassVar[bool] = False
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
        starts, obs = given(starts), jnp.asarray(obs)
        b, k, m = starts.shape
        rows, action = search_rows(obs, starts, action_set)
        value = critic.least(rows, action).reshape(b, k)
        found = best(action.reshape(b, k, m), value, jnp.full((b, k), Status.ITERATION_LIMIT))
        if not critic.has_gradient:
            return found
        scale = step_scale(action_set, obs)
        ascent = value_and_gradient(critic, obs, found.action)[1]
        ascent /= jnp.maximum(jnp.max(jnp.abs(scale * ascent), axis=-1, keepdims=True), 1e-30)
        stays = first_order_residual(found.action, ascent, scale, action_set, obs) <= self.tolerance
        status = jnp.where(stays & jnp.isfinite(found.value), Status.CONVERGED, found.status)
        return Solution(found.action, found.value, None, status.astype(jnp.int32))


@eqx.filter_jit
def solve(
    maximizer: AbstractMaximizer,
    critic: AbstractCritic,
    obs: Float[Arr, "b s"],
    action_set: AbstractActionSet,
    starts: Float[Arr, "b k m"],
    key: PRNGKeyArray,
) -> Solution:
    """`maximizer(critic, obs, action_set, starts, key)` in one compiled call, one compilation per shape."""
    return maximizer(critic, obs, action_set, starts, key)


def random_starts(
    action_set: AbstractActionSet, obs: Float[Arr, "b s"], count: int, key: PRNGKeyArray
) -> Float[Arr, "b {count} m"]:
    """Uniform in the smallest box around A(s), then projected on A(s); settings of whole numbers take turns."""
    low, high = action_set.bounds(jnp.asarray(obs))
    unit = jax.random.uniform(key, (obs.shape[0], count, action_set.size), low.dtype)
    actions = low[:, None] + (high - low)[:, None] * unit
    if settings := action_set.whole.settings:
        turns = [settings[turn % len(settings)] for turn in range(count)]
        actions = jnp.asarray(actions).at[..., jnp.asarray(action_set.integer)].set(jnp.asarray(turns, low.dtype))
    return search_rows(obs, actions, action_set)[1].reshape(actions.shape)


def best(
    action: Float[Arr, "b k m"],
    value: Float[Arr, "b k"],
    status: Int[Arr, "b k"],
    upper_bound: Float[Arr, "b"] | None = None,
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


def given(starts: Float[Arr, "b k m"] | None) -> Float[jax.Array, "b k m"]:
    """The starts, of which there is at least one per state."""
    if starts is None or starts.shape[1] < 1:
        raise UserError("maximizer: found no starts, expected at least one per state; give the policy's action, say.")
    return jnp.asarray(starts)


def a_key(key: PRNGKeyArray | None) -> PRNGKeyArray:
    """The key, or always the same one."""
    return jax.random.key_data(jax.random.key(0)) if key is None else key


def search_rows(
    obs: Float[Arr, "b s"], starts: Float[Arr, "b k m"], action_set: AbstractActionSet
) -> tuple[Float[Arr, "n s"], Float[Arr, "n m"]]:
    """One row per (state, start), n = b·k, the starts projected.

    A start that is not finite becomes the middle of the bounds: a network may map it to a finite value, and that wins.
    """
    obs = jnp.asarray(obs)
    rows = jnp.repeat(obs, starts.shape[1], axis=0)
    low, high = action_set.bounds(rows)
    flat = starts.reshape(-1, starts.shape[2])
    flat = jnp.where(jnp.isfinite(flat), flat, (low + high) / 2)
    return rows, action_set.project(flat, rows)


def step_scale(action_set: AbstractActionSet, obs: Float[Arr, "n s"]) -> Float[Arr, "*#n _"]:
    """The unit of a step: half-widths per coordinate [n,m] in a box, elsewhere the greatest of them [n,1].

    a = Π(a + D ∇q) is a first-order condition for any diagonal D > 0 in a box, but only for D = scalar · I elsewhere,
    where the projection mixes coordinates.
    """
    low, high = action_set.bounds(obs)
    half_width = (high - low) / 2
    return half_width if action_set.separable else jnp.max(half_width, axis=-1, keepdims=True)


def moved(
    action: Float[Arr, "n m"], step: Float[Arr, "n m"], action_set: AbstractActionSet, obs: Float[Arr, "n s"]
) -> Float[Arr, "n m"]:
    """Π_A(a + step); coordinates of the step that are not finite do not move."""
    return action_set.project(action + jnp.where(jnp.isfinite(step), step, 0), obs)


def value_and_gradient(
    critic: AbstractCritic, obs: Float[Arr, "n s"], action: Float[Arr, "n m"]
) -> tuple[Float[Arr, "n"], Float[Arr, "n m"]]:
    """(q, ∂q/∂a) row by row; a gradient that is not finite counts as zero."""
    value, pullback = jax.vjp(lambda a: critic.least(obs, a), action)
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
