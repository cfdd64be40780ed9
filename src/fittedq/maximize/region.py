"""A region under HiGHS: an action in it, one near another, the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from fittedq.actions.base import AbstractActionSet
from fittedq.actions.region import WHOLE, Region
from fittedq.arrays import Arr, inwards
from fittedq.errors import UserError
from fittedq.maximize.highs import FEASIBILITY, Program, Sparse, solve_program

Inequalities = tuple[Any, Any]
"""(matrix [p, m], bound [p]): matrix · a ≤ bound."""


def actions_per_state(label: str, given: Float[Arr, "n *k m"], count: int, m: int) -> Float[np.ndarray, "b k m"]:
    """Warm starts [b, m] or [b, k, m], checked."""
    actions = np.asarray(given, float)
    actions = actions[:, None] if actions.ndim == 2 else actions
    if actions.ndim != 3 or actions.shape[0] != count or actions.shape[2] != m:
        raise UserError(
            f"{label}: warm_start has shape {np.shape(given)}, expected ({count}, {m}) or ({count}, k, {m}): "
            "actions for every state."
        )
    return actions


def starts_of(label: str, region: Region, given: Float[Arr, "n *k m"] | None) -> list[list[np.ndarray]]:
    """Warm starts as a list per state; those that are no numbers are left out."""
    count, m = region.low.shape
    if given is None:
        return [[] for _ in range(count)]
    actions = actions_per_state(label, given, count, m)
    return [[action for action in row if np.isfinite(action).all()] for row in actions]


def program_over(
    region: Region, state: int, cost: Float[np.ndarray, "m"], chosen: slice | list[int] = slice(None)
) -> Program:
    """max cost · a over A(s), or over what the `chosen` rows alone allow."""
    matrix, bound = region.matrix[chosen], region.bound[chosen]
    length = np.linalg.norm(matrix, axis=1)
    length = np.where(length > 0, length, 1.0)
    open_below = np.full(len(bound), -np.inf)
    return Program(
        cost,
        region.low[state],
        region.high[state],
        region.integer,
        Sparse.of(matrix / length[:, None]),
        open_below,
        bound / length,
    )


def an_action(label: str, region: Region, state: int, before: np.ndarray | None) -> Float[np.ndarray, "m"]:
    """Some action of A(s), that of the state before if it will do; `UserError` with the reason if there is none."""
    low, high = region.low[state], region.high[state]
    middle = (low + high) / 2
    middle = np.where(region.integer, np.floor(middle), middle)
    for guess in (middle, before):
        if guess is not None and ((low <= guess) & (guess <= high)).all() and region.holds(guess, FEASIBILITY):
            return guess
    answer = solve_program(label, program_over(region, state, np.zeros(len(low))))
    if answer.x is None:
        raise UserError(emptiness(label, region, state))
    return np.clip(np.where(region.integer, np.round(answer.x), answer.x), low, high)


def admissible(
    region: Region, state: int, action: Float[np.ndarray, "m"], precision: DTypeLike
) -> Float[np.ndarray, "m"] | None:
    """An action of A(s) in `precision` near `action`: in its bounds, its whole coordinates rounded.

    Where a row asks for it, the continuous coordinates move, by the least greatest share of the bounds, to where
    the row holds also in that precision, or, where it leaves no inside, to its rounding. None if nothing will do.
    """
    low, high = region.low[state], region.high[state]
    ends = inwards(low, high, precision)

    def snap(point: np.ndarray) -> np.ndarray:
        return np.clip(np.where(region.integer, np.round(point), point).astype(precision), *ends)

    snapped = snap(action)
    free = ~region.integer & (low < high)
    # Rows of whole numbers alone have no inside to move to, and no need: such sums are exact or rounded alike.
    movable = (region.matrix[:, free] != 0).any(axis=1)
    rounding = np.where(movable, 4 * float(np.finfo(precision).eps) + 4 * FEASIBILITY, -FEASIBILITY) * region.row_size
    if (region.matrix @ snapped.astype(float) <= region.bound - rounding).all():
        return snapped
    if not free.any() or not (region.matrix[~movable] @ snapped <= (region.bound - rounding)[~movable]).all():
        return None
    width, point = (high - low)[free], snapped[free].astype(float)
    rows = region.matrix[movable]
    reach = region.bound[movable] - rows[:, ~free] @ snapped[~free].astype(float)
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
    return snapped if region.holds(snapped, 1e-6) else None


def emptiness(label: str, region: Region, state: int) -> str:
    """Why A(s) is empty: rows whose weighted sum exceeds its bound everywhere (Farkas), or whole numbers."""
    low, high, m = region.low[state], region.high[state], len(region.integer)
    start = f"{label}: at state {state} the action set is empty: "
    length = np.linalg.norm(region.matrix, axis=1)
    length = np.where(length > 0, length, 1.0)
    matrix, bound = region.matrix / length[:, None], region.bound / length
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
    total = weight @ region.matrix
    least, limit = np.minimum(total * low, total * high).sum(), weight @ region.bound
    if least > limit:
        named = np.flatnonzero(weight)
        terms = " + ".join(f"{weight[row]:.4g} · row {row}" for row in named)
        return (
            f"{start}its rows {named.tolist()} conflict; {terms} is at least {least:.6g} within the bounds, "
            f"expected at most {limit:.6g}; relax one of them."
        )
    conflict = conflicting(
        len(bound), lambda chosen: solve_program(label, program_over(region, state, np.zeros(m), chosen)).infeasible
    )
    return (
        f"{start}no whole numbers of dimensions {np.flatnonzero(region.integer).tolist()} within the bounds satisfy "
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
    label: str,
    action_set: AbstractActionSet,
    obs: Float[Arr, "b s"],
    integer: Sequence[int] = (),
    rows: Inequalities | None = None,
) -> Region:
    """A(s) at every state, with `integer` coordinates and `rows` besides those of the set."""
    obs = np.asarray(obs)
    if obs.ndim != 2 or not np.isfinite(obs).all():
        raise UserError(f"{label}: obs has shape {obs.shape}, expected finite numbers of shape (b, s).")
    region, m = action_set.region(obs), action_set.size
    if region is None:
        raise UserError(
            f"{label}: found the action set {type(action_set).__name__}, expected a Box, a StateBox, a Polytope or a "
            "Mixed set of one."
        )
    if any(not 0 <= axis < m for axis in integer):
        raise UserError(f"{label}: found the integer coordinates {list(integer)}, expected some of 0 … {m - 1}.")
    bad = ~((region.low <= region.high) & np.isfinite(region.low) & np.isfinite(region.high))
    if bad.any():
        state, axis = np.argwhere(bad)[0]
        raise UserError(
            f"{label}: at state {state} dimension {axis} is [{region.low[state, axis]}, {region.high[state, axis]}], "
            "expected finite numbers, low ≤ high."
        )
    region = _rounded(label, region, integer)
    return region if rows is None else _narrowed(label, region, rows)


def _rounded(label: str, region: Region, integer: Sequence[int]) -> Region:
    """With further `integer` coordinates, and the ends of all of them whole."""
    whole = region.integer.copy()
    whole[list(integer)] = True
    room = WHOLE if len(region.bound) else 0.0
    least, greatest = np.ceil(region.low - room), np.floor(region.high + room)
    bad = whole & (least > greatest)
    if bad.any():
        state, axis = np.argwhere(bad)[0]
        raise UserError(
            f"{label}: at state {state} dimension {axis} is [{region.low[state, axis]:g}, "
            f"{region.high[state, axis]:g}], which holds no whole number; widen the bounds or let the dimension be "
            "continuous."
        )
    low, high = np.where(whole, least, region.low), np.where(whole, greatest, region.high)
    return region._replace(low=low, high=high, integer=whole)


def _narrowed(label: str, region: Region, rows: Inequalities) -> Region:
    """With matrix · a ≤ bound of `rows` besides its own."""
    m = len(region.integer)
    matrix, bound = (np.asarray(part, float) for part in rows)
    if matrix.ndim != 2 or matrix.shape[1] != m or bound.shape != matrix.shape[:1]:
        raise UserError(
            f"{label}: rows are a matrix of shape {matrix.shape} and a bound of shape {bound.shape}, expected "
            f"(p, {m}) and (p,): one row per inequality, one column per action dimension."
        )
    if not (np.isfinite(matrix).all() and np.isfinite(bound).all()):
        raise UserError(f"{label}: rows must be finite numbers; leave out a row that binds nothing.")
    return region._replace(matrix=np.concatenate([region.matrix, matrix]), bound=np.concatenate([region.bound, bound]))
