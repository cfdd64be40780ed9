"""What a set allows at given states, in numbers: what every proof and every solver of programs reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from fittedq.arrays import Arr

WHOLE = 1e-6
"""A bound of a polytope's hull this near to a whole number is one."""


class Region(NamedTuple):
    """A(s) for b states, in double precision: low ≤ a ≤ high, matrix · a ≤ bound, a_i whole where `integer`."""

    low: Float[np.ndarray, "b m"]
    high: Float[np.ndarray, "b m"]
    matrix: Float[np.ndarray, "p m"]
    bound: Float[np.ndarray, "p"]
    integer: Bool[np.ndarray, "m"]

    @staticmethod
    def between(low: Sequence[float] | Arr, high: Sequence[float] | Arr, states: int) -> Region:
        """The box from low to high at every state."""
        low, high = (
            np.array(np.broadcast_to(np.asarray(end), (states, np.shape(end)[-1])), float) for end in (low, high)
        )
        m = low.shape[1]
        return Region(low, high, np.zeros((0, m)), np.zeros(0), np.zeros(m, bool))

    @property
    def row_size(self) -> Float[np.ndarray, "p"]:
        """What the terms of a row amount to at most: its rounding and a solver's tolerance are shares of it."""
        reach = np.maximum(np.abs(self.low), np.abs(self.high)).max(axis=0, initial=0)
        return np.abs(self.matrix) @ reach + np.abs(self.bound)

    def holds(self, action: Float[np.ndarray, "m"], share: float) -> bool:
        """matrix · a ≤ bound to a `share` of the rows' size, in float64."""
        return bool((self.matrix @ action.astype(float) <= self.bound + share * self.row_size).all())

    def center_and_radius(self, state: int) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
        """The box of one state; the centre is rounded, and the radius covers both ends all the same."""
        low, high = self.low[state], self.high[state]
        radius = (high - low) / 2 + 2.0**-51 * np.maximum(np.abs(low), np.abs(high))
        # A side that is the point 0 has a radius all the same, to divide by.
        return (low + high) / 2, np.maximum(radius, np.finfo(float).tiny)
