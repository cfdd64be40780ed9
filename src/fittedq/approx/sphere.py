"""Weights on the unit sphere, and orthogonal first ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, PRNGKeyArray

from fittedq.arrays import Arr

STEPS = 20


def unit(weight: Float[Arr, "... i o"]) -> Float[Arr, "... i o"]:
    """Every unit's weights, a column, at length 1."""
    return weight / jnp.maximum(jnp.sqrt((weight**2).sum(-2, keepdims=True)), 1e-12)


def orthogonal(key: PRNGKeyArray, lead: tuple[int, ...], rows: int, columns: int) -> Float[Arr, "*lead i o"]:
    """Nearly orthonormal columns, or rows where they are fewer.

    X ← (3 X − X Xᵀ X) / 2 takes all singular values towards 1: products alone, where a compiled QR would call LAPACK.
    """
    start = jax.random.normal(key, (*lead, rows, columns))
    start = start / jnp.sqrt((start**2).sum((-1, -2), keepdims=True))

    def step(_: Int[Arr, ""], x: Float[Arr, "*lead i o"]) -> Float[Arr, "*lead i o"]:
        return 1.5 * x - 0.5 * x @ (jnp.swapaxes(x, -1, -2) @ x)

    return jax.lax.fori_loop(0, STEPS, step, start)
