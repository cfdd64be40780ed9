"""What a set allows at one state, in numbers: bounds, rows, whole actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from fittedq.actions.base import AbstractActionSet
from fittedq.actions.mixed import Mixed
from fittedq.actions.polytope import Polytope
from fittedq.arrays import Arr, inwards
from fittedq.errors import UserError
from fittedq.maximize.base import is_box
from fittedq.maximize.highs import FEASIBILITY, Program, Sparse, solve_program

WHOLE = 1e-6
"""A bound of a polytope's hull this near to a whole number is one."""


HULL_ERROR = 1e-6
"""In half-widths: how far a polytope's hull may be off, for it comes from linear programs."""


Rows = tuple[Any, Any]
"""(matrix [p, m], bound [p]): matrix · a ≤ bound."""


class Region(NamedTuple):
    """A(s) for b states: low ≤ a ≤ high, matrix · a ≤ bound, a_i whole where `integer`."""

    low: Float[np.ndarray, "b m"]
    high: Float[np.ndarray, "b m"]
    matrix: Float[np.ndarray, "p m"]
    bound: Float[np.ndarray, "p"]
    integer: Bool[np.ndarray, "m"]

    def center_and_radius(self, state: int) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
        """The box of one state; the centre is rounded, and the radius covers both ends all the same."""
        low, high = self.low[state], self.high[state]
        radius = (high - low) / 2 + 2.0**-51 * np.maximum(np.abs(low), np.abs(high))
        # A side that is the point 0 has a radius all the same, to divide by.
        return (low + high) / 2, np.maximum(radius, np.finfo(float).tiny)

    def starts(self, label: str, given: Any) -> list[list[np.ndarray]]:
        """Warm starts [b, m] or [b, k, m] as a list per state; those that are no numbers are left out."""
        count, m = self.low.shape
        if given is None:
            return [[] for _ in range(count)]
        actions = np.asarray(given, float)
        actions = actions[:, None] if actions.ndim == 2 else actions
        if actions.ndim != 3 or actions.shape[0] != count or actions.shape[2] != m:
            raise UserError(
                f"{label}: warm_start has shape {np.shape(given)}, expected ({count}, {m}) or ({count}, k, {m}): "
                "actions for every state."
            )
        return [[action for action in row if np.isfinite(action).all()] for row in actions]

    def program(self, state: int, cost: Float[np.ndarray, "m"], chosen: Any = slice(None)) -> Program:
        """max cost · a over A(s), or over what the `chosen` rows alone allow."""
        matrix, bound = self.matrix[chosen], self.bound[chosen]
        length = np.linalg.norm(matrix, axis=1)
        length = np.where(length > 0, length, 1.0)
        open_below = np.full(len(bound), -np.inf)
        return Program(
            cost,
            self.low[state],
            self.high[state],
            self.integer,
            Sparse.of(matrix / length[:, None]),
            open_below,
            bound / length,
        )

    def inner(self, label: str, state: int, before: np.ndarray | None) -> Float[np.ndarray, "m"]:
        """Some action of A(s), that of the state before if it will do; `UserError` with the reason if there is none."""
        low, high = self.low[state], self.high[state]
        middle = (low + high) / 2
        middle = np.where(self.integer, np.floor(middle), middle)
        for guess in (middle, before):
            if guess is not None and ((low <= guess) & (guess <= high)).all() and self.holds(guess):
                return guess
        answer = solve_program(label, self.program(state, np.zeros(len(low))))
        if answer.x is None:
            raise UserError(self.emptiness(label, state))
        return np.clip(np.where(self.integer, np.round(answer.x), answer.x), low, high)

    def holds(self, action: Float[np.ndarray, "m"], share: float = FEASIBILITY) -> bool:
        """matrix · a ≤ bound to a `share` of the rows' size, in float64."""
        return bool((self.matrix @ action.astype(float) <= self.bound + share * self.row_size).all())

    @property
    def row_size(self) -> Float[np.ndarray, "p"]:
        """The size of each row's terms on the whole of the region: what its rounding is relative to."""
        largest = np.maximum(np.abs(self.low), np.abs(self.high)).max(axis=0, initial=0)
        return np.abs(self.matrix) @ largest + np.abs(self.bound)

    def admissible(self, state: int, action: Float[np.ndarray, "m"], precision: Any) -> Float[np.ndarray, "m"] | None:
        """An action of A(s) in `precision` near `action`: in its bounds, its whole coordinates rounded.

        Where a row asks for it, the continuous coordinates move, by the least greatest share of the bounds, to where
        the row holds also in that precision, or, where it leaves no inside, to its rounding. None if nothing will do.
        """
        low, high = self.low[state], self.high[state]
        ends = inwards(low, high, precision)

        def snap(point: np.ndarray) -> np.ndarray:
            return np.clip(np.where(self.integer, np.round(point), point).astype(precision), *ends)

        snapped = snap(action)
        free = ~self.integer & (low < high)
        # Rows of whole numbers alone have no inside to move to, and no need: such sums are exact or rounded alike.
        movable = (self.matrix[:, free] != 0).any(axis=1)
        rounding = np.where(movable, 4 * float(np.finfo(precision).eps) + 4 * FEASIBILITY, -FEASIBILITY) * self.row_size
        if (self.matrix @ snapped.astype(float) <= self.bound - rounding).all():
            return snapped
        if not free.any() or not (self.matrix[~movable] @ snapped <= (self.bound - rounding)[~movable]).all():
            return None
        width, point = (high - low)[free], snapped[free].astype(float)
        rows = self.matrix[movable]
        reach = self.bound[movable] - rows[:, ~free] @ snapped[~free].astype(float)
        length = np.linalg.norm(rows[:, free] * width, axis=1)
        count, one = len(width), np.eye(len(width))
        # u = (a − point) / width, |u| ≤ r, and −r as great as possible.
        matrix = np.block(
            [
                [rows[:, free] * width / length[:, None], np.zeros((len(rows), 1))],
                [one, -np.ones((count, 1))],
                [-one, -np.ones((count, 1))],
            ]
        )
        for margin in (rounding[movable], 0 * rounding[movable]):
            limits = (reach - margin - rows[:, free] @ point) / length
            program = Program(
                -np.eye(count + 1)[count],
                np.append((low[free] - point) / width, 0),
                np.append((high[free] - point) / width, 2),
                np.zeros(count + 1, bool),
                Sparse.of(matrix),
                np.full(len(matrix), -np.inf),
                np.concatenate([limits, np.zeros(2 * count)]),
            )
            answer = solve_program("action set", program)
            if answer.x is not None:
                moved = snapped.astype(float)
                moved[free] = point + width * answer.x[:count]
                return snap(moved)
        return snapped if self.holds(snapped, 1e-6) else None

    def emptiness(self, label: str, state: int) -> str:
        """Why A(s) is empty: rows whose weighted sum exceeds its bound everywhere (Farkas), or whole numbers."""
        low, high, m = self.low[state], self.high[state], len(self.integer)
        start = f"{label}: at state {state} the action set is empty: "
        length = np.linalg.norm(self.matrix, axis=1)
        length = np.where(length > 0, length, 1.0)
        matrix, bound = self.matrix / length[:, None], self.bound / length
        # max −r, matrix · a − r ≤ bound: the multipliers y ≥ 0 are the weights.
        phase_one = Program(
            -np.eye(m + 1)[m],
            np.append(low, -np.inf),
            np.append(high, np.inf),
            np.zeros(m + 1, bool),
            Sparse.of(np.hstack([matrix, -np.ones((len(bound), 1))])),
            np.full(len(bound), -np.inf),
            bound,
        )
        multiplier = solve_program(label, phase_one).multiplier
        assert multiplier is not None
        weight = np.where(np.abs(multiplier) > 1e-7, np.abs(multiplier), 0) / length
        weight = weight / weight.max()
        total = weight @ self.matrix
        least, limit = np.minimum(total * low, total * high).sum(), weight @ self.bound
        if least > limit:
            named = np.flatnonzero(weight)
            terms = " + ".join(f"{weight[row]:.4g} · row {row}" for row in named)
            return (
                f"{start}its rows {named.tolist()} conflict; {terms} is at least {least:.6g} within the bounds, "
                f"expected at most {limit:.6g}; relax one of them."
            )
        conflict = conflicting(
            len(bound), lambda chosen: solve_program(label, self.program(state, np.zeros(m), chosen)).infeasible
        )
        return (
            f"{start}no whole numbers of dimensions {np.flatnonzero(self.integer).tolist()} within the bounds satisfy "
            f"rows {conflict} together, though fractions do; relax one of them."
        )


MOST_ROWS_NAMED = 64
"""With more rows than this, an empty set of whole numbers is reported with all of them."""


def conflicting(rows: int, empty: Callable[[list[int]], bool]) -> list[int]:
    """Rows that leave nothing together, while without any one of them something is left."""
    conflict = list(range(rows))
    for row in conflict if rows <= MOST_ROWS_NAMED else ():
        others = [other for other in conflict if other != row]
        if empty(others):
            conflict = others
    return conflict


def region_of(
    label: str, action_set: AbstractActionSet, obs: Float[Arr, "b s"], integer: Sequence[int], rows: Rows | None
) -> Region:
    """A(s) at every state, with `integer` coordinates and `rows` besides those of the set."""
    obs = np.asarray(obs)
    if obs.ndim != 2 or not np.isfinite(obs).all():
        raise UserError(f"{label}: obs has shape {obs.shape}, expected finite numbers of shape (b, s).")
    inner, m = action_set.inner if isinstance(action_set, Mixed) else action_set, action_set.size
    matrix, bound = np.zeros((0, m)), np.zeros(0)
    if isinstance(inner, Polytope):
        # The hull comes from linear programs, so it is widened by their error.
        room = HULL_ERROR * np.asarray(inner.half_width)
        ends = inwards(
            np.maximum(inner.low, np.asarray(inner.hull.low) - room),
            np.minimum(inner.high, np.asarray(inner.hull.high) + room),
            obs.dtype,
        )
        matrix, bound = np.asarray(inner.matrix), np.asarray(inner.bound)
    elif is_box(inner):
        ends = action_set.bounds(obs)
    else:
        raise UserError(
            f"{label}: found the action set {type(inner).__name__}, expected a Box, a StateBox, a Polytope or a Mixed "
            "set of one."
        )
    low, high = (np.array(np.broadcast_to(np.asarray(end), (len(obs), m)), float) for end in ends)
    whole = np.zeros(m, bool)
    axes = [int(axis) for axis in (*integer, *action_set.integer)]
    if any(not 0 <= axis < m for axis in axes):
        raise UserError(f"{label}: found the integer coordinates {list(integer)}, expected some of 0 … {m - 1}.")
    whole[axes] = True
    bad = ~((low <= high) & np.isfinite(low) & np.isfinite(high))
    if bad.any():
        state, axis = np.argwhere(bad)[0]
        raise UserError(
            f"{label}: at state {state} dimension {axis} is [{low[state, axis]}, {high[state, axis]}], expected finite "
            "numbers, low ≤ high."
        )
    room = WHOLE if isinstance(inner, Polytope) else 0.0
    least, greatest = np.ceil(low - room), np.floor(high + room)
    bad = whole & (least > greatest)
    if bad.any():
        state, axis = np.argwhere(bad)[0]
        raise UserError(
            f"{label}: at state {state} dimension {axis} is [{low[state, axis]:g}, {high[state, axis]:g}], which holds "
            "no whole number; widen the bounds or let the dimension be continuous."
        )
    if rows is not None:
        more, limits = (np.asarray(part, float) for part in rows)
        if more.ndim != 2 or more.shape[1] != m or limits.shape != more.shape[:1]:
            raise UserError(
                f"{label}: rows are a matrix of shape {more.shape} and a bound of shape {limits.shape}, expected "
                f"(p, {m}) and (p,): one row per inequality, one column per action dimension."
            )
        if not (np.isfinite(more).all() and np.isfinite(limits).all()):
            raise UserError(f"{label}: rows must be finite numbers; leave out a row that binds nothing.")
        matrix, bound = np.concatenate([matrix, more]), np.concatenate([bound, limits])
    return Region(np.where(whole, least, low), np.where(whole, greatest, high), matrix, bound, whole)
