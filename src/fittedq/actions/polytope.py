"""Actions under linear inequalities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from fittedq.actions.base import AbstractActionSet, Box, Whole
from fittedq.actions.projection import Dual, compiled_nearest, inner_and_hull
from fittedq.actions.region import Region
from fittedq.arrays import Arr, namespace
from fittedq.errors import UserError

Coefficients = tuple[tuple[float, ...], ...]

HULL_ERROR = 2e-6
"""In half-widths: how far a hull may be off, for it comes from linear programs."""


class InUnits(NamedTuple):
    """A polytope around its center, in units of `scale`: what a projection onto it reads."""

    scale: float
    low: Float[np.ndarray, "m"]
    high: Float[np.ndarray, "m"]
    rows: Float[np.ndarray, "p m"]
    bound: Float[np.ndarray, "p"]
    margin: Float[np.ndarray, "p"]
    inner: Float[np.ndarray, "m"]


class Polytope(AbstractActionSet):
    """A = {a : low ≤ a ≤ high, matrix · a ≤ bound}, with an inside.

    Numbers, not arrays, as in `Box`. `hull` is the smallest box around A and `inner` the centre of the greatest ball in
    A, both in the environment's units (the ball in the outer box's half-widths); linear programs find them once.
    Whether an action holds is computed in double precision on the host, in its own in compiled code.
    """

    separable: ClassVar[bool] = False
    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    box: Box
    matrix: Coefficients = eqx.field(static=True)
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

    @property
    def whole(self) -> Whole:
        return Whole()

    @property
    def reads(self) -> tuple[int, ...] | None:
        return ()

    @property
    def interior(self) -> Float[np.ndarray, "k m"]:
        return np.asarray(self.inner)[None]

    def admissible(self, unit: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        return self.project(self.from_unit(unit), obs)

    def bounds(
        self, obs: Float[Arr, "*b s"], dtype: DTypeLike | None = None
    ) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
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
        units, center = self.in_units(action.dtype), np.asarray(self.center)

        def constant(array: np.ndarray | float) -> Arr:
            return xp.asarray(array, action.dtype)

        scale, inner = constant(units.scale), constant(units.inner)
        dual = Dual((action - constant(center)) / scale, *(constant(array) for array in units[1:-1]))
        # Acting asks for one action at a time: some thirty rounds of tiny NumPy calls would take milliseconds.
        one = action.size == self.size and action.dtype == np.float32
        unit = dual.nearest(inner) if xp is np and not one else compiled_nearest(dual, inner)
        nearest = constant(center) + scale * (np.asarray(unit) if xp is np else unit)
        # Rounding of the units must not undo what the pull towards the inside made sure of.
        nearest = self.box.project(nearest, nearest)
        return xp.where(xp.expand_dims(self._holds(action), -1), action, nearest)

    def in_units(self, dtype: DTypeLike) -> InUnits:
        """The set around its center, in its greatest half-width, the rows of length one.

        The rows are moved inwards by what rounding to `dtype` can undo: what is found then satisfies them without a
        tolerance.
        """
        scale, center, low, high = max(self.half_width), *map(np.asarray, (self.center, self.low, self.high))
        matrix, bound = np.asarray(self.matrix), np.asarray(self.bound)
        length = np.linalg.norm(matrix, axis=1)
        largest = np.abs(matrix) @ np.maximum(np.abs(low), np.abs(high)) + np.abs(bound)
        margin = max(4, self.size) * float(np.finfo(dtype).eps) * largest
        return InUnits(
            scale=scale,
            low=(low - center) / scale,
            high=(high - center) / scale,
            rows=matrix / length[:, None],
            bound=(bound - margin - matrix @ center) / (length * scale),
            margin=margin / (length * scale),
            inner=(np.asarray(self.inner) - center) / scale,
        )

    def contains(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Bool[Arr | np.bool_, "*b"]:
        del obs
        return self._holds(action)

    def region(self, obs: Float[np.ndarray, "b s"]) -> Region:
        """The hull is widened by the error of the linear programs that it comes from."""
        room = HULL_ERROR * np.asarray(self.half_width)
        low = np.maximum(self.low, np.asarray(self.hull.low) - room)
        high = np.minimum(self.high, np.asarray(self.hull.high) + room)
        box = Region.between(low, high, len(obs))
        return box._replace(matrix=np.asarray(self.matrix), bound=np.asarray(self.bound))

    def describe(self) -> dict[str, Any]:
        outer = {"kind": "polytope", "low": self.low, "high": self.high}
        return outer | {"matrix": self.matrix, "bound": self.bound}

    def _holds(self, action: Float[Arr, "*b m"]) -> Bool[Arr | np.bool_, "*b"]:
        xp = namespace(action)
        dtype = float if xp is np else action.dtype
        matrix, bound = xp.asarray(self.matrix, dtype), xp.asarray(self.bound, dtype)
        rows = xp.all(xp.asarray(action, dtype) @ matrix.T <= bound, axis=-1)
        return rows & self.box.contains(action, action)
