"""A packed tree is the same tree, to the bit, whatever its leaves are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fittedq.approx.host import HostCopy
from fittedq.approx.packing import SMALL, Packing


def make_tree() -> dict:
    """Scalars, a key, NaN with a payload, a negative zero, nothing, bytes, and leaves on both sides of the limit."""
    odd = np.array([0x7FC01234, 0x80000000, 1], np.uint32).view(np.float32)
    return {
        "step": jnp.asarray(7, jnp.int32),
        "key": jax.random.key_data(jax.random.key(3)),
        "odd": jnp.asarray(odd),
        "none": jnp.zeros((0, 3)),
        "flags": jnp.asarray([True, False]),
        "below": jnp.arange(SMALL - 1, dtype=jnp.float32),
        "policy": (jnp.arange(float(2 * SMALL)).reshape(2, SMALL), jnp.ones((1, 5))),
    }


def words(leaf) -> np.ndarray:
    array = np.asarray(leaf)
    return np.frombuffer(array.tobytes(), np.uint8)


def check_same(one, other) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert left.shape == right.shape and left.dtype == right.dtype
        np.testing.assert_array_equal(words(left), words(right))


@pytest.mark.as_shipped
def test_packing_and_unpacking_changes_no_bit_compiled_or_on_the_host():
    tree = make_tree()
    packing = Packing(tree)
    compiled = jax.jit(packing.pack)(tree)
    assert len(compiled) == 3  # the shared one, the flags, the large leaf
    check_same(tree, jax.jit(packing.unpack)(compiled))
    host = packing.pack(jax.tree.map(np.asarray, tree))
    for left, right in zip(compiled, host, strict=True):
        np.testing.assert_array_equal(words(left), words(right))
    check_same(tree, packing.unpack(host))


def test_a_host_copy_holds_what_it_shows_and_follows():
    tree = make_tree()
    packing = Packing(tree)
    copy = HostCopy(packing, packing.pack(tree), lambda tree: tree["policy"])
    large, small = copy.view
    newer = tree | {"policy": (2 * tree["policy"][0], 3 * tree["policy"][1])}
    copy.refresh(packing.pack(newer))
    np.testing.assert_array_equal(large, newer["policy"][0])
    np.testing.assert_array_equal(small, newer["policy"][1])
