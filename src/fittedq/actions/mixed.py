"""Sets in which some actions are whole numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from fittedq.actions.base import AbstractActionSet, Box, Whole
from fittedq.actions.polytope import Polytope
from fittedq.actions.region import WHOLE, Region
from fittedq.actions.state_box import StateBox
from fittedq.arrays import Arr, namespace
from fittedq.errors import UserError

MOST_SLICES = 64
"""Most settings of the integer coordinates inside a polytope: one projection is computed for each."""


class Mixed(AbstractActionSet):
    """A = {a ∈ inner : a_i ∈ ℤ for i in `integer`}, `inner` a box, a state-dependent box or a polytope.

    In a polytope every admissible setting of the integer coordinates makes one slice of the others; `slices` holds
    them. A projection is the nearest point of the nearest slice; gradients pass to the continuous coordinates as they
    do there, and to the whole ones as if they were not rounded (straight through).
    """

    separable: ClassVar[bool] = False
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
        hull = inner.hull
        # The hull of a polytope was found by a linear program; other bounds are exact.
        room = 0.0 if inner.separable else 1e-9
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
        if not isinstance(inner, Polytope):
            few = _combinations(whole) <= MOST_SLICES
            settings = itertools.product(*whole) if few else ()
            self.settings, self.slices = tuple(tuple(map(float, numbers)) for numbers in settings), ()
        else:
            found = _slices(inner, self.coordinates, whole)
            self.settings, self.slices = tuple(numbers for numbers, _ in found), tuple(others for _, others in found)

    @property
    def whole(self) -> Whole:
        return Whole(self.coordinates, self.settings)

    @property
    def reads(self) -> tuple[int, ...] | None:
        return self.inner.reads

    @property
    def interior(self) -> Float[np.ndarray, "k m"]:
        points = np.empty((len(self.slices), self.size))
        for point, numbers, others in zip(points, self.settings, self.slices, strict=False):
            point[list(self.coordinates)] = numbers
            if others is not None:
                point[~self._whole()] = others.interior[0]
        return points

    def admissible(self, unit: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        return self.project(self.from_unit(unit), obs)

    def bounds(
        self, obs: Float[Arr, "*b s"], dtype: DTypeLike | None = None
    ) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
        return self._rounded(*self.inner.bounds(obs, dtype))

    def region(self, obs: Float[np.ndarray, "b s"]) -> Region:
        region = self.inner.region(obs)
        low, high = self._rounded(region.low, region.high)
        return region._replace(low=low, high=high, integer=self._whole())

    def describe(self) -> dict[str, Any]:
        return {"kind": "mixed", "inner": self.inner.describe(), "integer": self.coordinates}

    def _rounded(
        self, low: Float[Arr, "*b m"], high: Float[Arr, "*b m"]
    ) -> tuple[Float[Arr, "*b m"], Float[Arr, "*b m"]]:
        """The ends of [low, high], those of whole coordinates the whole numbers next to them from inside."""
        xp = namespace(low, high)
        whole, room = self._whole(), WHOLE if self.slices else 0.0
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
        candidates: list[Arr] = []
        for numbers, others in zip(self.settings, self.slices, strict=True):
            part = action[..., rest]
            fixed = xp.broadcast_to(xp.asarray(numbers, action.dtype), (*action.shape[:-1], len(numbers)))
            moved = fixed if others is None else xp.concatenate([fixed, others.project(part, part)], axis=-1)
            candidates.append(moved[..., order])
        points = xp.stack(candidates, axis=-2)
        distance = xp.sum(((points - action[..., None, :]) / xp.asarray(self.half_width, action.dtype)) ** 2, axis=-1)
        nearest = xp.take_along_axis(points, xp.argmin(distance, axis=-1)[..., None, None], axis=-2)[..., 0, :]
        return xp.where(self._whole(), _straight_through(nearest, action), nearest)

    def contains(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Bool[Arr | np.bool_, "*b"]:
        xp = namespace(action)
        whole = xp.all((action == xp.round(action)) | ~self._whole(), axis=-1)
        if self.slices:
            return whole & self.inner.contains(action, obs)
        low, high = self.bounds(obs, action.dtype)
        return whole & xp.all((action >= low) & (action <= high), axis=-1)

    def _whole(self) -> np.ndarray:
        return np.isin(np.arange(self.size), self.coordinates)


def _straight_through(rounded: Arr, smooth: Arr) -> Arr:
    """`rounded`, with the derivative of `smooth`."""
    if namespace(rounded) is np:
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
    found: list[tuple[tuple[float, ...], Polytope | Box | None]] = []
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
