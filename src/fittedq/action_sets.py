"""Action sets beyond the box: a polytope, bounds that depend on the state, coordinates that are whole numbers."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.arrays import Arr, inwards, namespace
from fittedq.errors import UserError

Rows = tuple[tuple[float, ...], ...]


class StateBox(AbstractActionSet):
    """A(s) = {a : low_fn(s) ≤ a ≤ high_fn(s)} inside the outer `box`.

    `low_fn` and `high_fn` take obs [b,s] and return [b,m], row by row, in array arithmetic that works on what they are
    given (NumPy on the host, JAX in compiled code). They are static: hashable, and never trained. Bounds are clipped to
    the outer box and rounded inwards to the precision of actions; where they cross, A(s) is the one point low_fn(s).
    `check` says whether they do.
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    low_fn: Callable[[Any], Any] = eqx.field(static=True)
    high_fn: Callable[[Any], Any] = eqx.field(static=True)
    box: Box

    def __init__(self, low_fn: Callable[[Any], Any], high_fn: Callable[[Any], Any], box: Box):
        self.low_fn, self.high_fn, self.box = low_fn, high_fn, box
        self.low, self.high = box.low, box.high

    def bounds(self, obs: Float[Arr, "*b s"], dtype: Any = None) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
        low, high = inwards(self.low_fn(obs), self.high_fn(obs), dtype or obs.dtype)
        return self.box.project(low, obs), self.box.project(high, obs)

    def project(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        low, high = self.bounds(obs, action.dtype)
        return namespace(action, low).clip(action, low, high)

    def contains(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Any:
        low, high = self.bounds(obs, action.dtype)
        return namespace(action, low).all((action >= low) & (action <= high), axis=-1)

    def check(self, obs: Float[np.ndarray, "b s"]) -> None:
        """Raise `UserError` unless low_fn(s) ≤ high_fn(s), within the outer box, for every s in `obs`."""
        shape = (obs.shape[0], self.size)
        low, high = np.asarray(self.low_fn(obs)), np.asarray(self.high_fn(obs))
        for name, bound in (("low_fn", low), ("high_fn", high)):
            if bound.shape != shape:
                raise UserError(
                    f"action bounds: {name} returned shape {bound.shape} for obs of shape {obs.shape}, "
                    f"expected {shape}: one row per state, one column per action dimension."
                )
        crossed = ~(low <= high)
        outside = (low > np.asarray(self.high)) | (high < np.asarray(self.low))
        for problem, wrong in (("is empty or not a number", crossed), ("lies outside the outer box", outside)):
            if wrong.any():
                row, axis = np.argwhere(wrong)[0]
                raise UserError(
                    f"action bounds: at state {row} dimension {axis} is [{low[row, axis]}, {high[row, axis]}], which "
                    f"{problem}; expected low_fn(s) ≤ high_fn(s) inside the outer box."
                )


class Polytope(AbstractActionSet):
    """A = {a : low ≤ a ≤ high, matrix · a ≤ bound}, with an inside.

    Numbers, not arrays, as in `Box`. `hull` is the smallest box around A and `inner` the centre of the greatest ball in
    A, both in the environment's units (the ball in the outer box's half-widths); linear programs find them once.
    Whether an action holds is computed in double precision on the host, in its own in compiled code.
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    box: Box
    matrix: Rows = eqx.field(static=True)
    bound: tuple[float, ...] = eqx.field(static=True)
    hull: Box
    inner: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self,
        low: Sequence[float] | np.ndarray,
        high: Sequence[float] | np.ndarray,
        matrix: Sequence[Sequence[float]] | np.ndarray,
        bound: Sequence[float] | np.ndarray,
    ):
        self.box = Box(low, high)
        self.low, self.high = self.box.low, self.box.high
        try:
            rows, limits = np.atleast_2d(np.asarray(matrix, float)), np.atleast_1d(np.asarray(bound, float))
        except ValueError as error:
            raise UserError(f"polytope: matrix and bound must be numbers in equal rows ({error}).") from error
        if rows.ndim != 2 or rows.shape[1] != self.box.size or limits.shape != rows.shape[:1]:
            raise UserError(
                f"polytope: found a matrix of shape {rows.shape} and a bound of shape {limits.shape}, expected "
                f"(rows, {self.box.size}) and (rows,): one row per inequality, one column per action dimension."
            )
        if not (np.isfinite(rows).all() and np.isfinite(limits).all()):
            raise UserError("polytope: matrix and bound must be finite numbers; leave out a row that binds nothing.")
        if not np.any(rows, axis=1).all():
            raise UserError(
                f"polytope: row {int(np.argmin(np.any(rows, axis=1)))} of the matrix is zero; leave it out."
            )
        self.matrix = tuple(tuple(float(entry) for entry in row) for row in rows)
        self.bound = tuple(float(limit) for limit in limits)
        self.inner, self.hull = inner_and_hull(self.box, rows, limits)

    def bounds(self, obs: Float[Arr, "*b s"], dtype: Any = None) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
        return self.hull.bounds(obs, dtype)

    def project(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        """argmin_{x ∈ A} ‖x − a‖₂, in A, and exact up to rounding: single precision gives about 1e-5 half-widths.

        An interior-point method finds which rows bind. The dual has one multiplier λ ≥ 0 per row,
        x = clip(a − matrixᵀ λ), and Newton steps make λ exact. The last one is differentiated, and alone carries the
        exact Jacobian.
        Source: Wright 1997 (primal-dual interior-point methods); Qi & Sun 1993 (semismooth Newton).
        """
        xp = namespace(action)
        if xp is np and np.all(self._holds(action)):
            return action
        scale = max(self.half_width)
        center, low, high = np.asarray(self.center), np.asarray(self.low), np.asarray(self.high)
        matrix, bound = np.asarray(self.matrix), np.asarray(self.bound)
        length = np.linalg.norm(matrix, axis=1)
        # The rows are moved inwards by what rounding can undo: what is found then satisfies them without a tolerance.
        largest = np.abs(matrix) @ np.maximum(np.abs(low), np.abs(high)) + np.abs(bound)
        margin = max(4, self.size) * float(np.finfo(action.dtype).eps) * largest

        def constant(array: Any) -> Any:
            return xp.asarray(array, action.dtype)

        dual = Dual(
            point=(action - constant(center)) / constant(scale),
            low=constant((low - center) / scale),
            high=constant((high - center) / scale),
            rows=constant(matrix / length[:, None]),
            bound=constant((bound - margin - matrix @ center) / (length * scale)),
            margin=constant(margin / (length * scale)),
        )
        inner = constant((np.asarray(self.inner) - center) / scale)
        # Acting asks for one action at a time: some thirty rounds of tiny NumPy calls would take milliseconds.
        one = action.size == self.size and action.dtype == np.float32
        unit = dual.solve(inner) if xp is np and not one else compiled_solve(dual, inner)
        nearest = constant(center) + constant(scale) * (np.asarray(unit) if xp is np else unit)
        # Rounding of the units must not undo what the pull towards the inside made sure of.
        nearest = self.box.project(nearest, nearest)
        return xp.where(self._holds(action)[..., None], action, nearest)

    def contains(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Any:
        del obs
        return self._holds(action)

    def _holds(self, action: Float[Arr, "*b m"]) -> Any:
        xp = namespace(action)
        dtype = float if xp is np else action.dtype
        matrix, bound = xp.asarray(self.matrix, dtype), xp.asarray(self.bound, dtype)
        rows = xp.all(xp.asarray(action, dtype) @ matrix.T <= bound, axis=-1)
        return rows & self.box.contains(action, action)


MOST_SLICES = 64
"""Most settings of the integer coordinates inside a polytope: one projection is computed for each."""


class Mixed(AbstractActionSet):
    """A = {a ∈ inner : a_i ∈ ℤ for i in `integer`}, `inner` a box, a state-dependent box or a polytope.

    In a polytope every admissible setting of the integer coordinates makes one slice of the others; `slices` holds
    them. A projection is the nearest point of the nearest slice; gradients pass to the continuous coordinates as they
    do there, and to the whole ones as if they were not rounded (straight through).
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    inner: Box | StateBox | Polytope
    coordinates: tuple[int, ...] = eqx.field(static=True)
    settings: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    slices: tuple[Polytope | Box | None, ...]
    """Each setting of the integer coordinates, where they are few; in a polytope with the set of the others, if any."""

    def __init__(self, inner: Box | StateBox | Polytope, integer: Sequence[int]):
        self.inner, self.coordinates = inner, tuple(sorted({int(axis) for axis in integer}))
        self.low, self.high = inner.low, inner.high
        if not self.coordinates or self.coordinates[0] < 0 or self.coordinates[-1] >= inner.size:
            raise UserError(
                f"integer actions: found coordinates {list(integer)}, expected some of 0 … {inner.size - 1}."
            )
        hull = inner.hull if isinstance(inner, Polytope) else inner
        # The hull of a polytope was found by a linear program; other bounds are exact.
        room = 1e-9 if isinstance(inner, Polytope) else 0.0
        # Ranges, not arrays: bounds of 1e12 must not claim the memory of as many numbers.
        whole = [
            range(math.ceil(hull.low[axis] - room), math.floor(hull.high[axis] + room) + 1) for axis in self.coordinates
        ]
        for axis, numbers in zip(self.coordinates, whole, strict=True):
            if numbers.stop <= numbers.start:
                raise UserError(
                    f"integer actions: dimension {axis} is [{hull.low[axis]:g}, {hull.high[axis]:g}], which holds no "
                    "whole number; widen the bounds or let the dimension be continuous."
                )
        if isinstance(inner, Polytope):
            found = _slices(inner, self.coordinates, whole)
            self.settings, self.slices = tuple(numbers for numbers, _ in found), tuple(others for _, others in found)
        else:
            few = _combinations(whole) <= MOST_SLICES
            settings = itertools.product(*whole) if few else ()
            self.settings, self.slices = tuple(tuple(map(float, numbers)) for numbers in settings), ()

    @property
    def integer(self) -> tuple[int, ...]:
        return self.coordinates

    def bounds(self, obs: Float[Arr, "*b s"], dtype: Any = None) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
        xp = namespace(obs)
        low, high = self.inner.bounds(obs, dtype)
        whole, room = self._whole(), 1e-6 if self.slices else 0.0
        least, most = xp.ceil(low - room), xp.floor(high + room)
        # Where a state's bounds hold no whole number, the next one in the outer box is the only action.
        least = xp.where((least > most) & (least > xp.asarray(self.high, least.dtype)), most, least)
        return xp.where(whole, least, low), xp.where(whole, xp.maximum(least, most), high)

    def project(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        xp = namespace(action)
        if not self.slices:
            low, high = self.bounds(obs, action.dtype)
            continuous = xp.clip(action, low, high)
            return xp.where(
                self._whole(), _straight_through(xp.clip(xp.round(action), low, high), continuous), continuous
            )
        rest = [axis for axis in range(self.size) if axis not in self.coordinates]
        order = np.argsort([*self.coordinates, *rest])
        candidates = []
        for numbers, others in zip(self.settings, self.slices, strict=True):
            part = action[..., rest]
            fixed = xp.broadcast_to(xp.asarray(numbers, action.dtype), (*action.shape[:-1], len(numbers)))
            moved = fixed if others is None else xp.concatenate([fixed, others.project(part, part)], axis=-1)
            candidates.append(moved[..., order])
        points = xp.stack(candidates, axis=-2)
        distance = xp.sum(((points - action[..., None, :]) / xp.asarray(self.half_width, action.dtype)) ** 2, axis=-1)
        nearest = xp.take_along_axis(points, xp.argmin(distance, axis=-1)[..., None, None], axis=-2)[..., 0, :]
        return xp.where(self._whole(), _straight_through(nearest, action), nearest)

    def contains(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Any:
        xp = namespace(action)
        whole = xp.all((action == xp.round(action)) | ~self._whole(), axis=-1)
        if self.slices:
            return whole & self.inner.contains(action, obs)
        low, high = self.bounds(obs, action.dtype)
        return whole & xp.all((action >= low) & (action <= high), axis=-1)

    def _whole(self) -> np.ndarray:
        return np.isin(np.arange(self.size), self.coordinates)


def _straight_through(rounded: Any, smooth: Any) -> Any:
    """`rounded`, with the derivative of `smooth`."""
    if isinstance(rounded, np.ndarray):
        return rounded
    return jax.lax.stop_gradient(rounded) + (smooth - jax.lax.stop_gradient(smooth))


def _combinations(whole: list[range]) -> int:
    """Settings of whole numbers from these ranges, however large."""
    return math.prod(numbers.stop - numbers.start for numbers in whole)


def _slices(
    inner: Polytope, coordinates: tuple[int, ...], whole: list[range]
) -> list[tuple[tuple[float, ...], Polytope | Box | None]]:
    rest = [axis for axis in range(inner.size) if axis not in coordinates]
    matrix, bound = np.asarray(inner.matrix), np.asarray(inner.bound)
    count = _combinations(whole)
    if count > MOST_SLICES:
        raise UserError(
            f"integer actions: inside a polytope found {count} settings of dimensions {list(coordinates)}, expected at "
            f"most {MOST_SLICES}; narrow their bounds, or leave the rows out."
        )
    found = []
    for numbers in itertools.product(*whole):
        limits = bound - matrix[:, coordinates] @ np.asarray(numbers)
        rows = matrix[:, rest]
        empty = ~np.any(rows, axis=1) if rest else np.ones(len(limits), bool)
        if (limits[empty] < -1e-9).any():
            continue
        values = tuple(float(number) for number in numbers)
        if not rest:
            found.append((values, None))
            continue
        low, high = np.asarray(inner.low)[rest], np.asarray(inner.high)[rest]
        if empty.all():
            found.append((values, Box(low, high)))
            continue
        try:
            found.append((values, Polytope(low, high, rows[~empty], limits[~empty])))
        except UserError:
            continue  # no inside: nothing that single precision can reach
    if not found:
        raise UserError(
            f"integer actions: no setting of dimensions {list(coordinates)} leaves room in the polytope; relax rows."
        )
    return found


def reads_obs(action_set: AbstractActionSet) -> bool:
    """Whether A(s) depends on s."""
    return isinstance(action_set.inner if isinstance(action_set, Mixed) else action_set, StateBox)


def describe(action_set: AbstractActionSet) -> dict[str, Any]:
    """The set as JSON; of a `StateBox` only its outer box, for functions are not saved."""
    outer = {"low": action_set.low, "high": action_set.high}
    match action_set:
        case Polytope():
            return {"kind": "polytope", **outer, "matrix": action_set.matrix, "bound": action_set.bound}
        case Mixed():
            return {"kind": "mixed", "inner": describe(action_set.inner), "integer": action_set.coordinates}
        case StateBox():
            return {"kind": "state_box", **outer}
        case _:
            return {"kind": "box", **outer}


def described(description: Any, given: AbstractActionSet | None = None) -> AbstractActionSet:
    """The set of `describe`; for one with bounds that depend on the state, `given`, which must have its outer box."""
    if given is not None:
        _check_kind(given)
        if plain(describe(given)) != plain(description):
            raise UserError(
                f"action set: found {plain(describe(given))}, expected the one saved, {plain(description)}."
            )
        return given
    match description["kind"]:
        case "box":
            return Box(description["low"], description["high"])
        case "polytope":
            return Polytope(*(description[name] for name in ("low", "high", "matrix", "bound")))
        case "mixed" if description["inner"]["kind"] in ("box", "polytope"):
            return Mixed(cast("Box | Polytope", described(description["inner"])), description["integer"])
        case _:
            raise UserError(
                "action set: its bounds are functions of the state, which no file holds; give it again (action_set=)."
            )


def _check_kind(given: Any) -> None:
    if not isinstance(given, AbstractActionSet):
        raise UserError(
            f"found {type(given).__name__}, expected a set such as Polytope(…), or Limits((…,)).", argument="action_set"
        )


def plain(value: Any) -> Any:
    """Lists for tuples, in depth, as JSON has them."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


TERM = re.compile(r"(?P<number>\d+\.?\d*(e[+-]?\d+)?|\.\d+)?\*?(?P<bar>\|?)a(?P<axis>\d*)(?P=bar)")
MOST_SIGNS = 8


@dataclass(frozen=True)
class Limits:
    """An action set in words, to be laid over an environment's box.

    `rows` are inequalities such as "a0 + 2*a1 <= 1" or "|a0| + |a1| <= 1.5"; "a" and "|a|" without a number sum over
    all dimensions. `integer` lists the coordinates that are whole numbers.
    """

    rows: tuple[str, ...] = ()
    integer: tuple[int, ...] = ()

    def within(self, box: Box) -> AbstractActionSet:
        """The part of `box` that they allow."""
        inner: Box | Polytope = box
        if self.rows:
            parts = [_inequalities(row, box.size) for row in self.rows]
            matrix, bound = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            inner = Polytope(box.low, box.high, matrix, bound)
        return Mixed(inner, self.integer) if self.integer else inner


def _inequalities(text: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(matrix, bound): a sum of absolute values is as many rows as it has signs."""
    left, sign, right = re.sub(r"\s", "", text).replace("≤", "<=").replace("≥", ">=").partition("<=")
    if not sign:
        left, sign, right = left.partition(">=")
    try:
        bound = float(right)
    except ValueError:
        bound = np.nan
    if not sign or not np.isfinite(bound):
        raise UserError(f"limit {text!r}: expected a sum of actions, <= or >=, and a number, as in 'a0 + |a1| <= 1.5'.")
    linear, absolute, position, scale = np.zeros(size), np.zeros(size), 0, 1.0 if sign == "<=" else -1.0
    while position < len(left):
        plus_minus = left[position] if left[position] in "+-" else ""
        term = TERM.match(left, position + len(plus_minus))
        if term is None or (position and not plus_minus):
            raise UserError(
                f"limit {text!r}: cannot read {left[position:]!r}, expected terms such as a0, 2*a1 or |a2|."
            )
        axes = range(size) if term["axis"] == "" else (int(term["axis"]),)
        if max(axes) >= size:
            raise UserError(f"limit {text!r}: found a{max(axes)}, expected a0 … a{size - 1}; actions count from 0.")
        coefficient = scale * (-1.0 if plus_minus == "-" else 1.0) * float(term["number"] or 1)
        (absolute if term["bar"] else linear)[list(axes)] += coefficient
        position = term.end()
    signed = np.flatnonzero(absolute)
    if (absolute < 0).any():
        raise UserError(f"limit {text!r}: a sum of |a| can only be bounded from above, or the set is not convex.")
    if len(signed) > MOST_SIGNS:
        raise UserError(f"limit {text!r}: found {len(signed)} absolute values, expected at most {MOST_SIGNS}.")
    matrix = []
    for signs in itertools.product((1.0, -1.0), repeat=len(signed)):
        row = linear.copy()
        row[signed] += np.asarray(signs) * absolute[signed]
        matrix.append(row)
    return np.asarray(matrix), np.full(len(matrix), scale * bound)


def inside(action_set: AbstractActionSet, box: Box) -> bool:
    """Whether the outer box of `action_set` lies in `box`, both as actions in single precision see them."""
    if action_set.size != box.size:
        return False
    low, high = inwards(np.asarray(box.low), np.asarray(box.high), np.float32)
    least, most = inwards(np.asarray(action_set.low), np.asarray(action_set.high), np.float32)
    return bool((least >= low).all() and (most <= high).all())


def narrowed(box: Box, wanted: AbstractActionSet | Limits | None, label: str) -> AbstractActionSet:
    """`wanted`, checked to lie in `box`; `box` itself where nothing is wanted."""
    if wanted is None:
        return box
    action_set = wanted.within(box) if isinstance(wanted, Limits) else wanted
    _check_kind(action_set)
    if not inside(action_set, box):
        raise UserError(
            f"action set: found one between {action_set.low} and {action_set.high}, expected it inside {label}'s box "
            f"between {box.low} and {box.high}."
        )
    return action_set


INTERIOR_STEPS = 25
CENTERING = 0.1
LEAST_COMPLEMENTARITY = 1e-10
SHARING = 1e-5
"""Two rows that say the same make a system singular; this much on its diagonal shares their multiplier."""
NEWTON_STEPS = 4
SETTLED = 3e-6
"""Residual of the dual, relative to the point, below which a Newton step is taken for the answer."""


class Dual(eqx.Module):
    """max_{λ ≥ 0} min_{low ≤ x ≤ high} ½‖x − point‖² + λ · (rows x − bound), rows of length one.

    Concave and once differentiable in λ; its gradient is the rows' excess rows x(λ) − bound.
    """

    point: Float[Arr, "*b m"]
    low: Float[Arr, "m"]
    high: Float[Arr, "m"]
    rows: Float[Arr, "p m"]
    bound: Float[Arr, "p"]
    margin: Float[Arr, "p"]

    def primal(self, multiplier: Float[Arr, "*b p"]) -> Float[Arr, "*b m"]:
        """x(λ) = clip(point − rowsᵀ λ)."""
        return namespace(multiplier).clip(self.point - multiplier @ self.rows, self.low, self.high)

    def excess(self, multiplier: Float[Arr, "*b p"]) -> Float[Arr, "*b p"]:
        """rows x(λ) − bound."""
        return self.primal(multiplier) @ self.rows.T - self.bound

    def residual(self, multiplier: Float[Arr, "*b p"]) -> Any:
        """‖λ − max(0, λ + excess)‖_∞, zero exactly at the solution."""
        xp = namespace(multiplier)
        return xp.max(xp.abs(multiplier - xp.maximum(multiplier + self.excess(multiplier), 0)), axis=-1)

    def newton(self, multiplier: Float[Arr, "*b p"]) -> Float[Arr, "*b p"]:
        """One semismooth Newton step on the rows that bind."""
        xp = namespace(multiplier)
        binding = multiplier + self.excess(multiplier) > 0
        base = xp.where(binding, multiplier, 0)
        unclipped = self.point - base @ self.rows
        free = ((unclipped > self.low) & (unclipped < self.high)).astype(base.dtype)
        curvature = xp.einsum("pm,...m,qm->...pq", self.rows, free, self.rows)
        strength = xp.diagonal(curvature, axis1=-2, axis2=-1)
        binding = binding & (strength > 1e-10)
        curvature = xp.where(binding[..., :, None] & binding[..., None, :], curvature, 0)
        diagonal = xp.where(binding, SHARING * strength, 1.0).astype(base.dtype)
        curvature = curvature + diagonal[..., None] * xp.eye(self.rows.shape[0], dtype=base.dtype)
        excess = xp.where(binding, self.excess(base), 0)
        step = solve_positive(curvature, excess)
        return xp.maximum(base + step, 0)

    def polished(self, multiplier: Float[Arr, "*b p"]) -> Float[Arr, "*b p"]:
        """The λ of least residual on a path of Newton steps, which need not fall at each of them."""
        xp = namespace(multiplier)

        def step(_: Any, state: Any) -> Any:
            current, least = state
            current = self.newton(current)
            return current, xp.where((self.residual(current) < self.residual(least))[..., None], current, least)

        return repeat(xp, NEWTON_STEPS, step, (multiplier, multiplier))[1]

    def interior(self, inner: Float[Arr, "m"]) -> tuple[Float[Arr, "*b m"], Float[Arr, "*b p"]]:
        """(x, λ) near the solution, by a primal-dual interior-point method from the strictly feasible `inner`.

        Constraints walls · x + slack = limits, walls = [rows; I; −I]; target a tenth of the mean of z · slack. Each
        step solves (I + wallsᵀ (z / slack) walls) Δx = point − x − wallsᵀ (target / slack), by way of the rows'
        multipliers, which keeps single precision where z / slack is huge.
        """
        xp, dtype, (p, m) = namespace(self.point), self.point.dtype, self.rows.shape
        walls = xp.concatenate([self.rows, xp.eye(m, dtype=dtype), -xp.eye(m, dtype=dtype)])
        limits = xp.concatenate([self.bound, self.high, -self.low])

        def step(_: Any, state: Any) -> Any:
            x, slack, z = state
            target = xp.maximum(CENTERING * xp.mean(slack * z, axis=-1, keepdims=True), LEAST_COMPLEMENTARITY)
            weight = z / slack
            inverse = 1 / (1 + weight[..., p : p + m] + weight[..., p + m :])
            right = self.point - x - (target / slack) @ walls
            system = xp.einsum("pm,...m,qm->...pq", self.rows, inverse, self.rows)
            strength = xp.diagonal(system, axis1=-2, axis2=-1)
            diagonal = 1 / weight[..., :p] + SHARING * strength
            system = system + diagonal[..., None] * xp.eye(p, dtype=dtype)
            pressure = solve_positive(system, (inverse * right) @ self.rows.T)
            x_step = inverse * (right - pressure @ self.rows)
            # A row's slack moves by what its multiplier says: rows · Δx would be lost to rounding where slack is small.
            slack_step = xp.concatenate([-pressure / weight[..., :p], -x_step, x_step], axis=-1)
            z_step = target / slack - z - weight * slack_step
            shrinking = xp.maximum(xp.max(-slack_step / slack, -1), xp.max(-z_step / z, -1))
            length = xp.minimum(0.99 / xp.maximum(shrinking, 0.99), 1.0).astype(dtype)[..., None]
            return (
                x + length * x_step,
                xp.maximum(slack + length * slack_step, 1e-12),
                xp.maximum(z + length * z_step, 1e-12),
            )

        x = xp.broadcast_to(inner, self.point.shape)
        slack = xp.broadcast_to(limits - walls @ inner, (*self.point.shape[:-1], len(limits)))
        size = 1 + xp.max(xp.abs(self.point - inner), axis=-1, keepdims=True)
        state = repeat(xp, INTERIOR_STEPS, step, (x, slack, xp.broadcast_to(size, slack.shape).astype(dtype)))
        return state[0], state[2][..., :p]

    def solve(self, inner: Float[Arr, "m"]) -> Float[Arr, "*b m"]:
        """The nearest feasible point, with the derivative of a Newton step from it: the implicit function theorem."""
        xp = namespace(self.point)
        fixed = self if xp is np else jax.lax.stop_gradient(self)
        safe, multiplier = fixed.interior(inner)
        last = self.newton(fixed.polished(multiplier))
        settled = fixed.residual(last) < SETTLED * (1 + xp.max(xp.abs(fixed.point), axis=-1))
        return self.pulled_inside(xp.where(settled[..., None], self.primal(last), safe), inner)

    def pulled_inside(self, x: Float[Arr, "*b m"], inner: Float[Arr, "m"]) -> Float[Arr, "*b m"]:
        """inner + t (x − inner) with the greatest t ≤ 1 that keeps half the margin: t = 1 but for a rare inexact x."""
        xp = namespace(x)
        x = xp.clip(x, self.low, self.high)
        slack = xp.maximum(self.bound + self.margin / 2 - self.rows @ inner, 0)
        needed = (x - inner) @ self.rows.T
        t = xp.min(xp.where(needed > slack, slack / xp.maximum(needed, 1e-30), 1), axis=-1, keepdims=True)
        return inner + (t if xp is np else jax.lax.stop_gradient(t)) * (x - inner)


compiled_solve = jax.jit(Dual.solve)
"""Compiled once per shape also where the caller is not."""


MOST_UNROLLED = 10


def solve_positive(matrix: Float[Arr, "*b p p"], right: Float[Arr, "*b p"]) -> Float[Arr, "*b p"]:
    """matrix⁻¹ right, for symmetric positive definite matrices.

    Compiled for small p, Cholesky's method is written out over the batch: a library call for each tiny matrix takes
    longer than the arithmetic of all of them.
    """
    xp, p = namespace(matrix, right), right.shape[-1]
    if xp is np or p > MOST_UNROLLED:
        return xp.linalg.solve(matrix, right[..., None])[..., 0]
    factor: dict[tuple[int, int], Any] = {}
    forward: list[Any] = []
    for row in range(p):
        for column in range(row + 1):
            rest = matrix[..., row, column] - sum(factor[row, k] * factor[column, k] for k in range(column))
            factor[row, column] = xp.sqrt(rest) if row == column else rest / factor[column, column]
        known = sum(factor[row, k] * forward[k] for k in range(row))
        forward.append((right[..., row] - known) / factor[row, row])
    solution: dict[int, Any] = {}
    for row in reversed(range(p)):
        known = sum(factor[k, row] * solution[k] for k in range(row + 1, p))
        solution[row] = (forward[row] - known) / factor[row, row]
    return xp.stack([solution[row] for row in range(p)], axis=-1)


def repeat(xp: Any, count: int, step: Callable[[Any, Any], Any], state: Any) -> Any:
    """`step` applied `count` times, compiled once on the side of JAX."""
    if xp is not np:
        return jax.lax.fori_loop(0, count, step, state)
    for index in range(count):
        state = step(index, state)
    return state


SMALLEST_RADIUS = 1e-4
"""In half-widths: a polytope whose greatest ball is smaller has no inside that single precision can see."""


def inner_and_hull(box: Box, matrix: np.ndarray, bound: np.ndarray) -> tuple[tuple[float, ...], Box]:
    """(the centre of the greatest ball in the polytope, the smallest box around it), by linear programs."""
    from scipy.optimize import (
        linprog,
    )  # JAX itself requires SciPy; importing it takes a moment that a box need not wait

    center, half_width, m = np.asarray(box.center), np.asarray(box.half_width), box.size
    rows, limits = matrix * half_width, bound - matrix @ center
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows, limits = rows / norms, limits / norms[:, 0]
    # The ball: rows · u + r ≤ limits, ±u_j + r ≤ 1, r as great as possible. Feasible for some r, perhaps negative.
    walls = np.vstack([rows, np.eye(m), -np.eye(m)])
    reach = np.concatenate([limits, np.ones(2 * m)])
    ball = linprog(
        np.eye(m + 1)[m] * -1.0,
        A_ub=np.hstack([walls, np.ones((len(walls), 1))]),
        b_ub=reach,
        bounds=[(None, None)] * (m + 1),
    )
    if not ball.success:
        raise UserError(f"polytope: its linear program failed ({ball.message}); rescale the matrix and the bound.")
    radius = ball.x[m]
    if radius < SMALLEST_RADIUS:
        kind = "is empty" if radius < -1e-9 else "has no interior"
        raise UserError(
            f"polytope: {{a in the box: matrix · a ≤ bound}} {kind} (its greatest ball has radius {radius:.2g} "
            f"half-widths, expected at least {SMALLEST_RADIUS:g}); relax the rows, or remove the dimension they fix."
        )
    ends = np.empty((2, m))
    for axis in range(m):
        for end, sign in enumerate((1.0, -1.0)):
            extreme = linprog(sign * np.eye(m)[axis], A_ub=rows, b_ub=limits, bounds=[(-1, 1)] * m)
            if not extreme.success:
                raise UserError(f"polytope: its linear program failed ({extreme.message}); rescale the matrix.")
            ends[end, axis] = extreme.x[axis]
    ends = np.clip(ends, -1, 1)
    inner = tuple(float(entry) for entry in center + half_width * ball.x[:m])
    return inner, Box(center + half_width * ends[0], center + half_width * ends[1])
