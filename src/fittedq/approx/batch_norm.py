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
        for layer, (mean, variance) in enumerate(zip(self.statistics.mean, self.statistics.variance, strict=True)):
            x = self._normalized(self._product(x, layer), layer, mean, variance)
        return self._last(x)

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
        for layer in range(len(self.weights)):
            z = self._product(x, layer)
            mean = z.mean(-2, keepdims=True)
            variance = ((z - mean) ** 2).mean(-2, keepdims=True)
            x = self._normalized(z, layer, *self._corrected(layer, mean, variance))
            means.append(mean)
            variances.append(variance)
        return self._last(x), jax.lax.stop_gradient(Statistics(tuple(means), tuple(variances), self.statistics.count))

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

    def _product(self, x: Float[Arr, "... i"], layer: int) -> Float[Arr, "... w"]:
        """What layer `layer` normalizes: x itself for the first, else x W."""
        if layer == 0:
            return for_members(x, self.bias)
        return namespace(x, self.bias).matmul(x, self.weights[layer - 1])

    def _normalized(
        self, z: Float[Arr, "... w"], layer: int, mean: Float[Arr, "... 1 w"], variance: Float[Arr, "... 1 w"]
    ) -> Float[Arr, "... w"]:
        """activation(BN(z)); the input has no activation."""
        scale = self.gains[layer] / namespace(z, self.bias).sqrt(variance + EPSILON)
        if layer == 0:
            return z * scale - mean * scale
        return activated(self.activation, z * scale + (self.shifts[layer - 1] - mean * scale))

    def _last(self, x: Float[Arr, "... w"]) -> Float[Arr, "... o"]:
        return namespace(x, self.bias).matmul(x, self.weights[-1]) + self.bias

    def _corrected(
        self, layer: int, mean: Float[Arr, "... 1 w"], variance: Float[Arr, "... 1 w"]
    ) -> tuple[Float[Arr, "... 1 w"], Float[Arr, "... 1 w"]]:
        """μ and σ² that make r (z − μ_B)/σ_B + d of BN: σ = σ_B / r, μ = μ_B − σ d. r and d pass no gradient."""
        if not self.renorm:
            return mean, variance
        running, begun = self.statistics, self.statistics.count >= RENORM_AFTER
        deviation, old = jnp.sqrt(variance + EPSILON), jnp.sqrt(running.variance[layer] + EPSILON)
        ratio = jnp.where(begun, jnp.clip(deviation / old, 1 / MOST_RATIO, MOST_RATIO), 1.0)
        offset = jnp.where(begun, jnp.clip((mean - running.mean[layer]) / old, -MOST_SHIFT, MOST_SHIFT), 0.0)
        ratio, offset = jax.lax.stop_gradient((ratio, offset))
        deviation = deviation / ratio
        return mean - deviation * offset, deviation**2 - EPSILON


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
