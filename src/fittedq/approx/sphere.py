"""Weights on the unit sphere, and orthogonal first ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from fittedq.arrays import Arr

STEPS = 20

Weights = tuple[Float[Arr, "*lead _ _"], ...]


def unit(weight: Float[Arr, "... i o"]) -> Float[Arr, "... i o"]:
    """Every unit's weights, a column, at length 1."""
    return weight / jnp.maximum(jnp.sqrt((weight**2).sum(-2, keepdims=True)), 1e-12)


def normal(key: PRNGKeyArray, lead: tuple[int, ...], layers: Sequence[tuple[int, int]]) -> Weights:
    """Weights N(0, 1) of layers (i, o), in one draw: each is a program of its own size to compile."""
    shapes = [(*lead, *layer) for layer in layers]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    pieces = jnp.split(jax.random.normal(key, (int(ends[-1]),)), ends[:-1])
    return tuple(piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True))


def orthogonal(weights: Weights) -> Weights:
    """The nearest with orthonormal columns, or rows where they are fewer, nearly.

    X ← (3 X − X Xᵀ X) / 2 takes all singular values towards 1: products alone, where a compiled QR would call LAPACK.
    """
    start = tuple(weight / jnp.sqrt((weight**2).sum((-1, -2), keepdims=True)) for weight in weights)

    def step(_: Int[Arr, ""], weights: Weights) -> Weights:
        return tuple(1.5 * x - 0.5 * x @ (jnp.swapaxes(x, -1, -2) @ x) for x in weights)

    return jax.lax.fori_loop(0, STEPS, step, start)
