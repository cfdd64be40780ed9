"""Linear bounds of activations over intervals: the only facts about an activation that certified bounds need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from fittedq.approx.networks import ACTIVATIONS, Activation
from fittedq.code import sketch
from fittedq.errors import UserError, nearest

CELLS = 4
"""Cells in which a smooth activation is interpolated: the bound is looser than the tightest by about 1/CELLS²."""

Reals = Float[np.ndarray, "*b n"]


class Band(NamedTuple):
    """|f(z) − slope · z − offset| ≤ error for every z of an interval."""

    slope: Reals
    offset: Reals
    error: Reals


class PiecewiseLinear(NamedTuple):
    """f(z) = max(z, kink · z), 0 ≤ kink < 1: ReLU, leaky ReLU. What is smooth has no kink, None."""

    value: Callable[[Any], Any]
    kink: float
    lipschitz: float = 1.0

    def derivative(self, z: Reals) -> Reals:
        """f'(z), at 0 that of the left."""
        return np.where(z > 0, 1.0, self.kink)

    def range(self, low: Reals, high: Reals) -> tuple[Reals, Reals]:
        """(least, greatest) of f on [low, high]."""
        return self.value(low), self.value(high)

    def band(self, low: Reals, high: Reals) -> Band:
        """Above, the chord from `low` to `high`; below, its parallel through 0."""
        left, right = np.minimum(low, 0), np.maximum(high, 0)
        # An interval that is the point 0 has any slope; the least positive number only avoids 0/0.
        slope = (right - self.kink * left) / np.maximum(right - left, np.finfo(float).tiny)
        error = (self.kink - slope) * left / 2
        return Band(slope, error, error)

    def slope_below(self, band: Band) -> Reals:
        """The slope of a line through 0 that is nowhere above f: of a kinked piece any from `kink` to 1 will do."""
        return self.kink + (1 - self.kink) * (band.slope > (1 + self.kink) / 2)


class Smooth(NamedTuple):
    """f with |f'| ≤ lipschitz and |f''| ≤ curvature, and on any interval its greatest value at an end.

    Its least value is at an end too, or at `lowest` = (z, f(z)).
    """

    value: Callable[[Any], Any]
    lipschitz: float
    curvature: float
    lowest: tuple[float, float] = (-np.inf, -np.inf)
    kink = None

    def derivative(self, z: Reals) -> Reals:
        """f'(z) by a central difference: enough to climb by."""
        return (self.value(z + 1e-5) - self.value(z - 1e-5)) / 2e-5

    def range(self, low: Reals, high: Reals) -> tuple[Reals, Reals]:
        """(least, greatest) of f on [low, high], but for rounding."""
        ends = self.value(low), self.value(high)
        argument, least = self.lowest
        return np.where((low < argument) & (argument < high), least, np.minimum(*ends)), np.maximum(*ends)

    def band(self, low: Reals, high: Reals) -> Band:
        """The slope of the chord, the range of g(z) = f(z) − slope · z bounded cell by cell.

        On a cell of width h, g is within curvature · h²/8 of its own chord; where h is so wide that this says little,
        f lies between its extremes.
        """
        width = high - low
        point = low[None] + width[None] * (np.arange(CELLS + 1) / CELLS).reshape(-1, *[1] * low.ndim)
        point[-1] = high
        f = self.value(point)
        slope = np.where(width > 1e-12, (f[-1] - f[0]) / np.maximum(width, 1e-12), 0)
        line = slope * point
        g = f - line
        bend = self.curvature * (width / CELLS) ** 2 / 8
        f_high, f_low = np.maximum(f[1:], f[:-1]), np.minimum(f[1:], f[:-1])
        argument, least = self.lowest
        f_low = np.where((point[:-1] < argument) & (argument < point[1:]), least, f_low)
        highest = np.minimum(np.maximum(g[1:], g[:-1]) + bend, f_high - np.minimum(line[1:], line[:-1])).max(axis=0)
        lowest = np.maximum(np.minimum(g[1:], g[:-1]) - bend, f_low - np.maximum(line[1:], line[:-1])).min(axis=0)
        return Band(slope, (highest + lowest) / 2, (highest - lowest) / 2)

    def slope_below(self, band: Band) -> Reals:
        """The slope of the line below f, that of the band."""
        return band.slope


Relaxation = PiecewiseLinear | Smooth

RELAXATIONS: dict[str, Relaxation] = {
    "relu": PiecewiseLinear(ACTIVATIONS["relu"], 0.0),
    "leaky_relu": PiecewiseLinear(ACTIVATIONS["leaky_relu"], 0.01),
    "tanh": Smooth(ACTIVATIONS["tanh"], 1.0, 0.7699),
    "silu": Smooth(ACTIVATIONS["silu"], 1.0999, 0.5001, (-1.2784645428, -0.2784645428)),
    "gelu": Smooth(ACTIVATIONS["gelu"], 1.1295, 0.7980, (-0.75246142, -0.1700407506)),
    "softplus": Smooth(ACTIVATIONS["softplus"], 1.0, 0.2501),
    "elu": Smooth(ACTIVATIONS["elu"], 1.0, 1.0001),
}
"""Keys are those of `ACTIVATIONS`; the constants are rounded up."""


def relaxation(activation: Activation) -> Relaxation:
    """The bounds of `activation`, or a UserError that names those there are."""
    if not isinstance(activation, str) or activation not in RELAXATIONS:
        name = sketch(activation)
        raise UserError(
            f"certified maximum: no sound linear bounds are known for the activation {name}; "
            f"use a local maximizer, or train the critic with one of {', '.join(RELAXATIONS)} "
            f"({nearest(name, RELAXATIONS)})"
        )
    return RELAXATIONS[activation]
