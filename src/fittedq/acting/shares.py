"""The share of rows that lie at least as far away, in a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float

LEVELS = 64
"""Rows of a table of shares."""


@final
@dataclass(frozen=True)
class Shares:
    """p(d) = (1 + #{held-out rows that lie at least as far as d}) / (1 + N), in a table.

    p is linear between `distances` (increasing), 1 up to the first and 0 from twice the last.
    """

    distances: Float[np.ndarray, "q"]
    shares: Float[np.ndarray, "q"]

    @staticmethod
    def of(held_out: Float[np.ndarray, "N"], alike: int = 1) -> Shares:
        """Where rows know of one another, so many of them count as one: p(d) = (n + #{…}) / (n + N)."""
        ordered = np.sort(held_out.astype(np.float32))
        ranks = len(ordered) - np.geomspace(1, len(ordered), LEVELS)
        distances = np.unique(ordered[ranks.astype(int)])
        farther = len(ordered) - np.searchsorted(ordered, distances)
        return Shares(distances, ((alike + farther) / (alike + len(ordered))).astype(np.float32))

    def __call__(self, distance: Float[np.ndarray, "b"]) -> Float[np.ndarray, "b"]:
        return np.interp(distance, *self.knots, left=1.0)

    @property
    def knots(self) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
        """The distances between which p is linear, and p there; 0 at the last."""
        return np.array([*self.distances, self._zero], float), np.array([*self.shares, 0.0], float)

    def distance(self, share: float) -> float:
        """The d beyond which p(d) < share: the inverse of p, which falls."""
        return float(np.interp(share, [0.0, *self.shares[::-1]], [self._zero, *self.distances[::-1]]))

    @property
    def _zero(self) -> float:
        """The distance from which on p is 0."""
        return max(2.0 * float(self.distances[-1]), 1e-30)
