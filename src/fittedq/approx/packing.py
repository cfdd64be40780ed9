"""A pytree as few buffers, since a call of a compiled function costs the host by the leaf: 5 to 7 µs each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fittedq.arrays import Tree

SMALL = 4096
"""Leaves of fewer numbers share a buffer: biases, counters, keys, metrics. They are cheaper to copy than to pass."""


class Packing:
    """[the small leaves of a tree, bit by bit in one buffer of words; large leaf; large leaf; …]."""

    def __init__(self, like: Tree):
        leaves, self._treedef = jax.tree.flatten(like)
        self._shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
        large = [leaf.size >= SMALL or leaf.dtype.itemsize != 4 for leaf in leaves]
        self._place = [sum(large[: index + 1]) if alone else 0 for index, alone in enumerate(large)]

    def pack(self, tree: Tree) -> list[Any]:
        """The buffers of `tree`; compiled with what made the tree, or in NumPy for NumPy leaves."""
        leaves = jax.tree.leaves(tree)
        join = np.concatenate if isinstance(leaves[0], np.ndarray) else jnp.concatenate
        small = [
            leaf.reshape(-1).view(np.uint32) for leaf, place in zip(leaves, self._place, strict=True) if place == 0
        ]
        return [join(small), *(leaf for leaf, place in zip(leaves, self._place, strict=True) if place)]

    def unpack(self, buffers: Sequence[Any]) -> Tree:
        """The tree; of NumPy buffers its leaves are views, which follow the buffers."""
        leaves, start = [], 0
        for (shape, dtype), place in zip(self._shapes, self._place, strict=True):
            if place:
                leaves.append(buffers[place])
                continue
            words = buffers[0][start : start + math.prod(shape)]
            start += math.prod(shape)
            leaves.append(words.view(dtype).reshape(shape))
        return jax.tree.unflatten(self._treedef, leaves)

    def places(self, part: Callable[[Tree], Tree]) -> list[int]:
        """The buffers that hold `part(tree)`, the shared one always."""
        return sorted({0, *jax.tree.leaves(part(jax.tree.unflatten(self._treedef, self._place)))})
