"""Hyperspherical networks: features and every unit's weights are of length 1."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from fittedq.approx.net import AbstractRowNet, for_members
from fittedq.approx.networks import Activation, activated
from fittedq.approx.residual import of_blocks
from fittedq.approx.sphere import normal, orthogonal, unit
from fittedq.arrays import Arr, namespace

SHIFT = 3.0
"""The constant beside the inputs: their length is kept in the angle to it."""


def of_spherical_blocks(sizes: Sequence[int]) -> tuple[int, ...]:
    """(inputs, the width of each block, outputs) → the widths of all layers, the constant among the inputs."""
    inputs, *inner, outputs = of_blocks(sizes)
    return inputs + 1, *inner, inner[-1], outputs


class HypersphericalMlp(AbstractRowNet):
    """x ← ‖s ∘ ‖x, 3‖ W‖;  x ← ‖(1 − α) ∘ x + α ∘ ‖activation(s ∘ x W) W‖‖ per block;  then (s ∘ x W) W + b.

    ‖·‖ makes a row one of length 1. The blocks are four times as wide inside, and go from x to what they make of it by
    a learned share α of each feature (LERP). The columns of W stay of length 1 (`projected`); each layer's s scales its
    w outputs.

    W starts orthogonal, s at √(2/w), b at 0, and α at 1/(blocks + 1): it is held as α (blocks + 1) / √h, h the width of
    a block, so that Adam moves all alike. `sizes` are the inputs, the width of each block (all alike) and the outputs.
    Source: Lee et al. 2025 (SimbaV2), section 4.
    """

    weights: tuple[Float[Arr, "*lead _ _"], ...]
    bias: Float[Arr, "*lead 1 o"]
    scales: tuple[Float[Arr, "*lead 1 _"], ...]
    shares: tuple[Float[Arr, "*lead 1 h"], ...]
    activation: Activation = eqx.field(static=True)

    def __init__(
        self, sizes: Sequence[int], key: PRNGKeyArray, *, lead: tuple[int, ...] = (), activation: Activation = "relu"
    ):
        layers = list(itertools.pairwise(of_spherical_blocks(sizes)))
        self.weights = tuple(unit(weight) for weight in orthogonal(normal(key, lead, layers)))
        self.bias = jnp.zeros((*lead, 1, sizes[-1]))
        # A scale follows each product whose length is not taken away right after: the first of each pair.
        self.scales = tuple(
            jnp.full((*lead, 1, width), (2 / width) ** 0.5) for _, width in (layers[0], *layers[1:-1:2])
        )
        self.shares = (jnp.full((*lead, 1, sizes[1]), sizes[1] ** -0.5),) * (len(sizes) - 2)
        self.activation = activation

    def __call__(self, x: Float[Arr, "... i"], key: PRNGKeyArray | None = None) -> Float[Arr, "... o"]:
        del key
        xp = namespace(x, self.bias)
        x = xp.concatenate([x, xp.full_like(x[..., :1], SHIFT)], axis=-1)
        embed, *inner, first, last = self.weights
        scale, *scales, last_scale = self.scales
        x = of_length_1(xp.matmul(for_members(of_length_1(x), self.weights[0]), embed) * scale)
        pairs = zip(inner[::2], inner[1::2], strict=True)
        for (up, down), scale, share in zip(pairs, scales, self.shares, strict=True):
            wide = activated(self.activation, xp.matmul(x, up) * scale)
            alpha = share * (share.shape[-1] ** 0.5 / (len(self.shares) + 1))
            x = of_length_1(x + alpha * (of_length_1(xp.matmul(wide, down)) - x))
        return xp.matmul(xp.matmul(x, first) * last_scale, last) + self.bias

    def projected(self) -> HypersphericalMlp:
        return eqx.tree_at(lambda net: net.weights, self, tuple(unit(weight) for weight in self.weights))


def of_length_1(x: Float[Arr, "... w"]) -> Float[Arr, "... w"]:
    """x / |x|, row by row; a row of zeros stays one, and its slope a number."""
    return x / namespace(x).sqrt((x**2).sum(-1, keepdims=True) + 1e-12)
