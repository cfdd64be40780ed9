"""What a head makes of a network's outputs, as the certified search needs it: values, linear bounds, rounding."""

from __future__ import annotations

import abc
import functools
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float

from fittedq.approx.dense import Layer, Terms
from fittedq.approx.heads import AbstractHead, Categorical, OneValue, Quantiles

STEEPEST = 50.0
"""Σ |slope| / max |z| up to which the linear bound of a softmax's mean is taken; it is 1 at most at a point."""
MOST_REACH = 200.0
"""Of an output, relative to the others, so that its exponential is a number."""
FLOOR = -600.0
"""Log weights below this are raised to it where a greater weight is on the safe side: e⁻⁶⁰⁰ is still a number."""
ROOM = 1e-12
"""What double precision may lose in this module, as a share of the magnitudes that are added."""

PerOutput = Float[np.ndarray, "b K"]


class Outputs(NamedTuple):
    """The outputs over b boxes: middle + slope · δ ± error, |δ| ≤ radius."""

    radius: Float[np.ndarray, "b m"]
    slope: Float[np.ndarray, "b m K"]
    middle: PerOutput
    error: PerOutput

    def reach(self) -> PerOutput:
        """How far each goes from its middle."""
        return _reach(self.slope, self.radius) + self.error


class Line(NamedTuple):
    """q ≤ slope · outputs + constant, and q ≤ ceiling, on each box.

    `benefit` is as in `bounds.Upper`, of what is lost here alone.
    """

    slope: PerOutput
    constant: Float[np.ndarray, "b"]
    ceiling: Float[np.ndarray, "b"]
    benefit: Float[np.ndarray, "b m"] | Float[np.ndarray, ""]


class Reading(abc.ABC):
    """q of K outputs."""

    linear: ClassVar[bool]
    """Whether q is the one output of the folded last layer: nothing need be known of the outputs for a line above."""

    @abc.abstractmethod
    def folded(self, last: Layer) -> Layer:
        """The last layer with what is linear in the head."""

    @abc.abstractmethod
    def value(self, outputs: PerOutput) -> Float[np.ndarray, "b"]:
        """q."""

    @abc.abstractmethod
    def gradient(self, outputs: PerOutput) -> PerOutput:
        """∂q/∂outputs."""

    @abc.abstractmethod
    def above(self, count: int, outputs: Outputs | None) -> Line:
        """A line above q on `count` boxes; `outputs` only where not `linear`."""

    @abc.abstractmethod
    def rounding(
        self, error: PerOutput, size: PerOutput, unit: float, outputs: Outputs | None = None
    ) -> Float[np.ndarray, "b"]:
        """How far q may be off where outputs of at most `size` err by `error` and q is evaluated with rounding `unit`.

        With the enclosed `outputs`, those of the boxes; without, a line above q, wherever they are.
        """


class MeanOutput(Reading):
    """q = Σ_k output_k / K, which is linear: the last layer becomes one of one output."""

    linear = True

    def folded(self, last: Layer) -> Layer:
        count = last.weight.shape[1]
        if count == 1:
            return last
        terms = Terms(np.abs(last.weight).mean(1, keepdims=True), np.abs(last.bias).mean(keepdims=True), count + 4)
        return Layer(last.weight.mean(1, keepdims=True), last.bias.mean(keepdims=True), terms=terms)

    def value(self, outputs: PerOutput) -> Float[np.ndarray, "b"]:
        return outputs[:, 0]

    def gradient(self, outputs: PerOutput) -> PerOutput:
        return np.ones_like(outputs)

    def above(self, count: int, outputs: Outputs | None) -> Line:
        return Line(np.ones((count, 1)), np.zeros(count), np.full(count, np.inf), np.zeros(()))

    def rounding(
        self, error: PerOutput, size: PerOutput, unit: float, outputs: Outputs | None = None
    ) -> Float[np.ndarray, "b"]:
        return error[:, 0]


class SoftmaxMean(Reading):
    """q = Σ_i p_i z_i, p = softmax(outputs), z rising."""

    linear = False

    def __init__(self, support: Float[np.ndarray, "K"]):
        self.support = support
        self.size = float(np.abs(support).max())

    def folded(self, last: Layer) -> Layer:
        """A softmax does not see what is added to all outputs: their mean goes."""
        return last._replace(
            weight=last.weight - last.weight.mean(1, keepdims=True),
            bias=last.bias - last.bias.mean(),
            terms=Terms(np.abs(last.weight), np.abs(last.bias), 0),
        )

    def value(self, outputs: PerOutput) -> Float[np.ndarray, "b"]:
        return np.exp(_log_softmax(outputs)) @ self.support

    def gradient(self, outputs: PerOutput) -> PerOutput:
        p = np.exp(_log_softmax(outputs))
        return p * (self.support - (p @ self.support)[:, None])

    def above(self, count: int, outputs: Outputs | None) -> Line:
        """With p⁰, q⁰ at the middle c and d_i = (l_i − c_i) − Σ_j p⁰_j (l_j − c_j), |d_i| ≤ r_i, what is asked for is

            q − q⁰ = N / S,  N = Σ p⁰_i (z_i − q⁰) (e^{d_i} − 1),  S = Σ p⁰_i e^{d_i}.

        e^d − 1 lies below its chord cosh r − 1 + d sinh r / r (taken where z_i > q⁰) and above its tangent d (taken
        elsewhere), which makes N ≤ L, linear in the outputs. 1 ≤ S by Jensen's inequality, since Σ p⁰_i d_i = 0, and
        S ≤ S̄ by the chords. So N / S ≤ L where L ≥ 0, else L / S̄ ≤ L + max(0, −min L) (1 − 1/S̄). What is lost is of
        second order in r, as with any smooth activation. The ceiling is that of `greatest_mean`.
        """
        assert outputs is not None
        log_p, z = _log_softmax(outputs.middle), self.support
        p = np.exp(log_p)
        q = p @ z
        reach = self._relative_reach(outputs, p)
        ceiling = greatest_mean(np.broadcast_to(z, p.shape), log_p, reach) + ROOM * self.size
        r = np.minimum(reach, MOST_REACH)
        chord = np.where(r > 1e-6, np.sinh(r) / np.maximum(r, 1e-6), 1 + r**2 / 6 + 1e-12)
        bulge = np.cosh(r) - 1
        lever = p * (z - q[:, None])
        above = lever > 0
        slope = lever * np.where(above, chord, 1.0)
        slope = slope - p * slope.sum(axis=1, keepdims=True)
        wide = (reach > r).any(axis=1) | (np.abs(slope).sum(axis=1) > STEEPEST * self.size)
        loss = np.where(above, lever * bulge, 0.0)
        constant = loss.sum(axis=1)
        # S ≤ Σ p⁰ (cosh r + (chord − 1) d), for Σ p⁰ d = 0.
        greatest = 1 + (p * (bulge + (chord - 1) * r)).sum(axis=1)
        linear = _reach((outputs.slope @ slope[:, :, None]), outputs.radius)[:, 0] + _dot(np.abs(slope), outputs.error)
        constant += np.maximum(linear - constant, 0) * (1 - 1 / greatest)
        size = _dot(np.abs(slope), np.abs(outputs.middle) + outputs.reach())
        constant += q - _dot(slope, outputs.middle) + ROOM * (self.size + size)
        flat = np.where(wide[:, None], 0.0, slope)
        loss = np.where(wide[:, None], p * r, loss)
        share = loss / np.maximum(outputs.reach(), np.finfo(float).tiny)
        benefit = (np.abs(outputs.slope) @ share[:, :, None])[..., 0]
        return Line(flat, np.where(wide, ceiling, constant), ceiling, benefit)

    def _relative_reach(self, outputs: Outputs, p: PerOutput) -> PerOutput:
        """r: how far outputs go relative to their mean under p."""
        slope = outputs.slope - (outputs.slope @ p[:, :, None])
        return _reach(slope, outputs.radius) + outputs.error + _dot(outputs.error, p)[:, None]

    def rounding(
        self, error: PerOutput, size: PerOutput, unit: float, outputs: Outputs | None = None
    ) -> Float[np.ndarray, "b"]:
        """∂q along D is Cov_p(z, D), at most e · sd_p(z) for |D| ≤ e; sd_p(z)² ≤ E_p (z − c)², c any number.

        Errors of e^{l − max l} are errors of l: of the difference, and of the exponential. The two sums and the
        quotient err by γ Σ p |z|; exponentials below the least number add nothing to speak of.
        """
        elementary = 32 * unit + 2 * unit * (size + size.max(axis=1, keepdims=True) + error.max(axis=1, keepdims=True))
        e = np.max(error + elementary, axis=1)
        # No sd on [low, high] is above half of it; a linear bound's slope may be larger.
        deviation = np.full(len(e), STEEPEST * self.size)
        if outputs is not None:
            deviation = np.full(len(e), (self.support[-1] - self.support[0]) / 2)
            log_p = _log_softmax(outputs.middle)
            p = np.exp(log_p)
            reach = self._relative_reach(outputs, p) + e[:, None]
            square = (self.support - (p @ self.support)[:, None]) ** 2
            order = np.argsort(square, axis=1)
            square, log_p, reach = (np.take_along_axis(rows, order, 1) for rows in (square, log_p, reach))
            deviation = np.minimum(deviation, np.sqrt(greatest_mean(square, log_p, reach) + ROOM * self.size**2))
        count = self.support.size + 8
        return deviation * e + 2 * self.size * count * unit / (1 - count * unit) + 1e-30


def greatest_mean(values: PerOutput, log_weight: PerOutput, reach: PerOutput) -> Float[np.ndarray, "b"]:
    """max Σ w_i v_i / Σ w_i over |log w_i − log_weight_i| ≤ reach_i, v rising along each row.

    A quotient of linear functions of w is greatest at a corner, the greatest weights where v is above the maximum, the
    least elsewhere: one of K thresholds.
    """
    high, low = log_weight + reach, log_weight - reach
    top = high.max(axis=1, keepdims=True)
    high, low = np.exp(np.maximum(high - top, FLOOR)), np.exp(low - top)
    above = (np.cumsum(rows[:, ::-1], axis=1)[:, ::-1] for rows in (high, high * values))
    below = (np.cumsum(rows, axis=1) - rows for rows in (low, low * values))
    (mass_above, sum_above), (mass_below, sum_below) = above, below
    return ((sum_above + sum_below) / (mass_above + mass_below)).max(axis=1)


def _log_softmax(x: PerOutput) -> PerOutput:
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def _dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.einsum("bn,bn->b", left, right)


def _reach(slope: Float[np.ndarray, "b m n"], radius: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "b n"]:
    return (radius[:, None] @ np.abs(slope))[:, 0]


@functools.singledispatch
def reading(head: AbstractHead) -> Reading | None:
    """How the search reads the outputs under a head; None: nothing is proven of it."""
    del head
    return None


@reading.register(OneValue)
@reading.register(Quantiles)
def _(head: AbstractHead) -> Reading:
    del head
    return MeanOutput()


@reading.register
def _(head: Categorical) -> Reading:
    return SoftmaxMean(head.support.astype(float))
