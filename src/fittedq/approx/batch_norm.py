"""A perceptron whose layers are normalized by the statistics of the batch, and its weights kept on the unit sphere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from fittedq.approx.dense import DenseNet, Layer, Terms, dense
from fittedq.approx.net import AbstractNet, ensemble_size, for_members
from fittedq.approx.networks import Activation, activated
from fittedq.approx.sphere import normal, orthogonal, unit
from fittedq.arrays import Arr, namespace
from fittedq.errors import UserError

MOMENTUM, EPSILON = 0.99, 1e-3
"""What is kept of the running statistics at each batch, and what is added to a variance."""
RENORM_AFTER, MOST_RATIO, MOST_SHIFT = 100_000, 3.0, 5.0
"""Renormalization (Ioffe 2017): batches before it begins, the greatest σ_B/σ and |μ_B − μ|/σ that it corrects."""


class Statistics(eqx.Module):
    """Running mean and variance of each layer's input [*lead, 1, width], and the number of batches taken in."""

    mean: tuple[Float[Arr, "*lead 1 _"], ...]
    variance: tuple[Float[Arr, "*lead 1 _"], ...]
    count: Float[Arr, "*lead 1 1"]


class BatchNormMlp(AbstractNet):
    """x ← BN(x);  x ← activation(BN(x W)) per hidden layer;  then x W + b.

    BN(z) = gain · (z − μ) / √(σ² + 1e-3) + shift; the input's has no shift, which the next BN would take away. While
    the network is fitted (`by_batch`) μ and σ² are the batch's own, over all rows. Where it acts or labels they are
    running ones, μ ← .99 μ + .01 μ_B. A BN makes the layer before it blind to the length of its weights. So `spherical`
    keeps every unit's weights at length 1 (`projected`), and a step of the optimizer turns them by the same angle
    however long one trains. With `renorm`, after many batches, what a batch's statistics differ from the running ones
    is put back: ẑ = r (z − μ_B)/σ_B + d, r = σ_B/σ, d = (μ_B − μ)/σ.

    Weights start orthogonal where they are spherical, else normal with variance 1/fan_in.
    Source: Bhatt et al. 2024 (CrossQ); Palenicek et al. 2025 (XQC); Ioffe 2017 (renorm).
    """

    weights: tuple[Float[Arr, "*lead _ _"], ...]
    bias: Float[Arr, "*lead 1 o"]
    gains: tuple[Float[Arr, "*lead 1 _"], ...]
    shifts: tuple[Float[Arr, "*lead 1 _"], ...]
    statistics: Statistics
    activation: Activation = eqx.field(static=True)
    spherical: bool = eqx.field(static=True)
    renorm: bool = eqx.field(static=True)
    momentum: float = eqx.field(static=True)

    def __init__(
        self,
        sizes: Sequence[int],
        key: PRNGKeyArray,
        *,
        lead: tuple[int, ...] = (),
        activation: Activation = "relu",
        spherical: bool = True,
        renorm: bool = False,
        momentum: float = MOMENTUM,
    ):
        layers = list(itertools.pairwise(sizes))
        drawn = normal(key, lead, layers)
        if spherical:
            self.weights = tuple(unit(weight) for weight in orthogonal(drawn))
        else:
            self.weights = tuple(weight / weight.shape[-2] ** 0.5 for weight in drawn)
        self.bias = jnp.zeros((*lead, 1, sizes[-1]))
        widths = sizes[:-1]
        self.gains = tuple(jnp.ones((*lead, 1, width)) for width in widths)
        zeros = tuple(jnp.zeros((*lead, 1, width)) for width in widths)
        self.shifts = zeros[1:]
        self.statistics = Statistics(zeros, self.gains, jnp.zeros((*lead, 1, 1)))
        self.activation, self.spherical, self.renorm, self.momentum = activation, spherical, renorm, momentum

    @property
    def members(self) -> int:
        return ensemble_size(self.bias)

    def __call__(self, x: Float[Arr, "... i"], key: PRNGKeyArray | None = None) -> Float[Arr, "... o"]:
        del key
        z, xp = for_members(x, self.bias), namespace(x, self.bias)
        for layer, (mean, variance) in enumerate(zip(self.statistics.mean, self.statistics.variance, strict=True)):
            z = xp.matmul(self._normalized(z, layer, mean, variance), self.weights[layer])
        return z + self.bias

    def by_batch(
        self, x: Float[Arr, "... b i"], key: PRNGKeyArray | None = None
    ) -> tuple[Float[Arr, "... b o"], Statistics]:
        del key
        if x.shape[-2] < 2:
            raise UserError(
                f"setting batch_size: found {x.shape[-2]}, expected at least 2, because layers are normalized by the "
                "batch."
            )
        means, variances = [], []
        # The input's gain is a factor of the first weights, so that no gradient has to come back to the input.
        weights = (jnp.swapaxes(self.gains[0], -1, -2) * self.weights[0], *self.weights[1:])
        z = for_members(x, self.bias)
        for layer, weight in enumerate(weights):
            mean, variance = jax.lax.stop_gradient(moments(z, in_one_pass=layer > 0))
            x = self._activated(by_own_moments(z, mean, variance, *self._affine(layer, mean, variance)), layer)
            z = jnp.matmul(x, weight)
            means.append(mean)
            variances.append(variance)
        return z + self.bias, Statistics(tuple(means), tuple(variances), self.statistics.count)

    def taking(self, statistics: Statistics) -> BatchNormMlp:
        old, keep = self.statistics, self.momentum
        mixed = jax.tree.map(lambda running, new: keep * running + (1 - keep) * new, old, statistics)
        return self.knowing(Statistics(mixed.mean, mixed.variance, old.count + 1))

    def knowing(self, statistics: Statistics) -> BatchNormMlp:
        return eqx.tree_at(lambda net: net.statistics, self, statistics)

    def projected(self) -> BatchNormMlp:
        if not self.spherical:
            return self
        return eqx.tree_at(lambda net: net.weights[:-1], self, tuple(unit(weight) for weight in self.weights[:-1]))

    def _normalized(
        self, z: Float[Arr, "... w"], layer: int, mean: Float[Arr, "... 1 w"], variance: Float[Arr, "... 1 w"]
    ) -> Float[Arr, "... w"]:
        """activation(BN(z)) by running statistics."""
        scale = self.gains[layer] / namespace(z, self.bias).sqrt(variance + EPSILON)
        if layer == 0:
            return z * scale - mean * scale
        return self._activated(z * scale + (self.shifts[layer - 1] - mean * scale), layer)

    def _activated(self, x: Float[Arr, "... w"], layer: int) -> Float[Arr, "... w"]:
        """activation(x); the input has no activation."""
        return activated(self.activation, x) if layer else x

    def _affine(
        self, layer: int, mean: Float[Arr, "... 1 w"], variance: Float[Arr, "... 1 w"]
    ) -> tuple[Float[Arr, "... 1 w"], Float[Arr, "... 1 w"]]:
        """(A, C) of BN(z) = A (z − μ_B)/σ_B + C: (gain, shift), or (gain r, gain d + shift) with r and d held
        still. The input's gain is in the first weights."""
        gain = self.gains[layer] if layer else jnp.ones_like(mean)
        shift = self.shifts[layer - 1] if layer else jnp.zeros_like(mean)
        if not self.renorm:
            return gain, shift
        running, begun = self.statistics, self.statistics.count >= RENORM_AFTER
        old = jnp.sqrt(running.variance[layer] + EPSILON)
        ratio = jnp.clip(jnp.sqrt(variance + EPSILON) / old, 1 / MOST_RATIO, MOST_RATIO)
        offset = jnp.clip((mean - running.mean[layer]) / old, -MOST_SHIFT, MOST_SHIFT)
        ratio, offset = jax.lax.stop_gradient((jnp.where(begun, ratio, 1.0), jnp.where(begun, offset, 0.0)))
        return gain * ratio, gain * offset + shift


def moments(z: Float[Arr, "... b w"], in_one_pass: bool = False) -> tuple[Float[Arr, "... 1 w"], Float[Arr, "... 1 w"]]:
    """(μ, σ²) over the batch; `in_one_pass` σ² = mean z² − μ², to 1e-7 (σ² + μ²).

    What a layer makes of normalized inputs has a mean of the size of its deviation, so that this is a rounding. An
    observation may lie a thousand deviations from 0.
    """
    mean = z.mean(-2, keepdims=True)
    if in_one_pass:
        return mean, jnp.maximum((z * z).mean(-2, keepdims=True) - mean * mean, 0.0)
    return mean, ((z - mean) ** 2).mean(-2, keepdims=True)


@jax.custom_vjp
def by_own_moments(
    z: Float[Arr, "... b w"],
    mean: Float[Arr, "... 1 w"],
    variance: Float[Arr, "... 1 w"],
    scale: Float[Arr, "... 1 w"],
    offset: Float[Arr, "... 1 w"],
) -> Float[Arr, "... b w"]:
    """h = scale x̂ + offset,  x̂ = (z − μ)/σ,  σ = √(σ² + 1e-3), where μ and σ² are z's own `moments`.

    Its gradient is that of both ways of z into h, in two passes over the batch, where the chain rule takes more:
    dz = scale/σ (dh − mean dh − x̂ mean(dh x̂)),  d scale = Σ dh x̂,  d offset = Σ dh.
    Source: Ioffe & Szegedy 2015, section 3.
    """
    rate = scale / jnp.sqrt(variance + EPSILON)
    return z * rate + (offset - mean * rate)


Saved = tuple[Float[Arr, "... b w"], Float[Arr, "... 1 w"], Float[Arr, "... 1 w"], Float[Arr, "... 1 w"]]


def _forward(
    z: Float[Arr, "... b w"],
    mean: Float[Arr, "... 1 w"],
    variance: Float[Arr, "... 1 w"],
    scale: Float[Arr, "... 1 w"],
    offset: Float[Arr, "... 1 w"],
) -> tuple[Float[Arr, "... b w"], Saved]:
    return by_own_moments(z, mean, variance, scale, offset), (z, mean, variance, scale)


def _backward(saved: Saved, slope: Float[Arr, "... b w"]) -> tuple[Float[Arr, "... _ w"], ...]:
    z, mean, variance, scale = saved
    rows, precision = z.shape[-2], 1 / (variance + EPSILON)
    total = slope.sum(-2, keepdims=True)
    along = (slope * z).sum(-2, keepdims=True) - mean * total
    rate, turned = scale * jnp.sqrt(precision), along * precision / rows
    # rate (dh − total/b − (z − μ) turned), as one line in dh and z.
    back = rate * slope - (rate * turned) * z + rate * (turned * mean - total / rows)
    none = jnp.zeros_like(mean)
    return back, none, none, along * jnp.sqrt(precision), total


by_own_moments.defvjp(_forward, _backward)


FOLDED_ROUNDINGS = 64
"""Of a term of a folded layer, beyond a sum's: two normalizations (√, /, ·, +), with room for a device's own √."""


@dense.register
def _(net: BatchNormMlp) -> DenseNet:
    """BN(z) = z s + t, s = gain/√(σ² + 1e-3), t = shift − μ s, is a part of the layer before it:
    BN(x W) = x (W s) + t. The input's, s₀ and t₀, is a part of the first layer: x (s₀ W s) + (t₀ W s + t).

    The network itself evaluates x s₀ − μ₀ s₀ and z s + (shift − μ s) in its own precision, and where |μ| is far above
    σ the differences cancel: it errs by the sizes of what is subtracted, not of what is left. `Terms` has the sizes.
    """
    running = net.statistics
    scales = [
        np.asarray(gain[0] / np.sqrt(v[0] + EPSILON)) for gain, v in zip(net.gains, running.variance, strict=True)
    ]
    away = [mean[0] * scale for mean, scale in zip(running.mean, scales, strict=True)]
    layers = []
    for weight, scale, shift, moved in zip(net.weights, scales[1:], net.shifts, away[1:], strict=False):
        scaled, first = np.asarray(weight * scale), not layers
        bias, size = np.asarray(shift[0] - moved), np.abs(shift[0]) + np.abs(moved)
        if first:
            bias, size = bias - away[0] @ scaled, size + np.abs(away[0]) @ np.abs(scaled)
            scaled = scales[0][:, None] * scaled
        # Inputs that are zero are terms as well once μ s is subtracted.
        more = FOLDED_ROUNDINGS + len(weight) * first
        layers.append(Layer(scaled, bias, terms=Terms(np.abs(scaled), size, more)))
    return DenseNet(tuple(layers), Layer(np.asarray(net.weights[-1]), np.asarray(net.bias[0])), net.activation)
