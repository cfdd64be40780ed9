"""Residual networks: each block adds to what came before."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from fittedq.approx.net import AbstractRowNet, for_members
from fittedq.approx.networks import Activation, activated, layer_normalized
from fittedq.approx.sphere import normal, orthogonal
from fittedq.arrays import Arr, namespace
from fittedq.errors import UserError

EXPANSION = 4
"""How much wider a block is inside."""


def of_blocks(sizes: Sequence[int]) -> tuple[int, ...]:
    """(inputs, the width of each block, outputs) → the widths of all layers: embedding, two a block, outputs."""
    inputs, *widths, outputs = sizes
    if len(set(widths)) > 1:
        raise UserError(
            f"hidden layers: found widths {', '.join(map(str, widths))}, expected one width for all blocks of a "
            "network, because each block adds to what came before; give as many equal widths as it shall have blocks."
        )
    return inputs, widths[0], *(len(widths) * (EXPANSION * widths[0], widths[0])), outputs


class ResidualMlp(AbstractRowNet):
    """x ← x W + b;  x ← x + activation(LN(x) W + b) W + b per block, four times as wide inside;  then LN(x) W + b.

    `sizes` are the inputs, the width of each block (all alike) and the outputs. LN normalizes over a row. The first
    and the last layer start orthogonal, those of blocks normal with variance 2/fan_in, biases at 0.
    Source: Lee et al. 2024 (SimBa), figure 4.
    """

    weights: tuple[Float[Arr, "*lead _ _"], ...]
    biases: tuple[Float[Arr, "*lead 1 _"], ...]
    gains: tuple[Float[Arr, "*lead 1 _"], ...]
    shifts: tuple[Float[Arr, "*lead 1 _"], ...]
    activation: Activation = eqx.field(static=True)

    def __init__(
        self, sizes: Sequence[int], key: PRNGKeyArray, *, lead: tuple[int, ...] = (), activation: Activation = "relu"
    ):
        layers = list(itertools.pairwise(of_blocks(sizes)))
        first, *inner, last = normal(key, lead, layers)
        first, last = orthogonal((first, last))
        self.weights = (first, *(weight * (2 / weight.shape[-2]) ** 0.5 for weight in inner), last)
        self.biases = tuple(jnp.zeros((*lead, 1, width)) for _, width in layers)
        norms = len(sizes) - 1
        self.gains = (jnp.ones((*lead, 1, sizes[1])),) * norms
        self.shifts = (jnp.zeros((*lead, 1, sizes[1])),) * norms
        self.activation = activation

    def __call__(self, x: Float[Arr, "... i"], key: PRNGKeyArray | None = None) -> Float[Arr, "... o"]:
        del key
        x = self._dense(for_members(x, self.weights[0]), 0)
        *blocks, last = zip(self.gains, self.shifts, strict=True)
        for block, norm in enumerate(blocks):
            wide = activated(self.activation, self._dense(layer_normalized(x, *norm), 2 * block + 1))
            x = x + self._dense(wide, 2 * block + 2)
        return self._dense(layer_normalized(x, *last), -1)

    def _dense(self, x: Float[Arr, "... i"], layer: int) -> Float[Arr, "... o"]:
        return namespace(x, self.weights[layer]).matmul(x, self.weights[layer]) + self.biases[layer]

    def projected(self) -> ResidualMlp:
        return self
