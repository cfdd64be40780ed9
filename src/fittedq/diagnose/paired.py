"""Differences of means between episodes that began alike."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
"""Of intervals."""


class Interval(NamedTuple):
    """A mean, and where it lies with the probability `LEVEL`; ±∞ from one episode alone."""

    mean: float
    low: float
    high: float

    @staticmethod
    def of(values: Float[np.ndarray, "n"]) -> Interval:
        """mean ± t_{n−1} s / √n, s the sample deviation and t Student's quantile; exact for normal values."""
        from scipy.special import stdtrit

        count, mean = len(values), float(values.mean())
        if count < 2:
            return Interval(mean, -math.inf, math.inf)
        half = float(stdtrit(count - 1, (1 + LEVEL) / 2) * values.std(ddof=1) / math.sqrt(count))
        return Interval(mean, mean - half, mean + half)

    def __str__(self) -> str:
        mean, low, high = (f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}" for value in self)
        return f"{mean} [{low}, {high}]" if math.isfinite(self.low) else mean
