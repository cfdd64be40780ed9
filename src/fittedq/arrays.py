# pyright: reportUnknownMemberType=false
"""Arrays on the host or the device, and the functions that fit them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Int

Arr = jax.Array | np.ndarray
"""An array on either side: the same formula serves the compiled learner (JAX) and acting on the host (NumPy)."""

Side = TypeVar("Side", bound=Arr)
"""The side that is asked is the side that answers."""


Scalar = float | Arr
"""One number: Python's, or an array without axes."""

Index = slice | Arr | np.bool_
"""Which rows: a slice, their numbers, or a truth for each."""

Tree: TypeAlias = Any
"""Any tree of arrays: a component, an optimizer's state, a regression set."""


HOST_TYPES = (np.ndarray, np.generic)


def namespace(*arrays: object) -> ModuleType:
    """`numpy` where every array is NumPy's, `jax.numpy` where JAX has or traces one."""
    return np if all(isinstance(array, HOST_TYPES) for array in arrays) else jnp


def all_finite(array: np.ndarray) -> bool:
    """Whether no number is NaN or infinite; of a small array in a third of the time that `.all()` takes."""
    return bool(np.count_nonzero(np.isfinite(array)) == array.size)


Looped = TypeVar("Looped")


def repeat(count: int | Int[Arr, ""], step: Callable[[Looped], Looped], carry: Looped) -> Looped:
    """`step` applied `count` times, a loop inside compiled code where `carry` holds arrays of JAX."""

    def numbered(_: Scalar, carry: Looped) -> Looped:
        return step(carry)

    if namespace(*jax.tree.leaves(carry)) is not np:
        return cast("Looped", jax.lax.fori_loop(0, count, numbered, carry))
    for _ in range(int(count)):
        carry = step(carry)
    return carry


def inwards(low: Side, high: Side, dtype: DTypeLike) -> tuple[Side, Side]:
    """The ends of [low, high] as the numbers of `dtype` nearest to them from inside.

    To the nearest from anywhere would let an action out of its set. An interval that holds no number of `dtype`
    becomes one point, the first above `low`.
    """
    xp = namespace(low, high)
    low, high = xp.asarray(low), xp.asarray(high)
    if low.dtype != dtype or high.dtype != dtype:
        with np.errstate(over="ignore"):
            least, most = xp.asarray(low, dtype), xp.asarray(high, dtype)
        low = xp.where(least < low, xp.nextafter(least, xp.asarray(np.inf, dtype)), least)
        high = xp.where(most > high, xp.nextafter(most, xp.asarray(-np.inf, dtype)), most)
    return low, xp.maximum(low, high)


def at(tree: Tree, index: int | tuple[int, ...] | Arr) -> Tree:
    """Every leaf at `index`."""

    def one(leaf: Arr) -> Arr:
        return leaf[index]

    return jax.tree.map(one, tree)


def strong(tree: Tree) -> Tree:
    """The same arrays without weak types, which would compile a second program for the same shapes."""

    def one(leaf: Arr) -> Arr:
        return jax.lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(one, tree)


def told_apart(*several: Iterable[float]) -> list[str]:
    """Numbers of single precision as a sentence has them: of the fewest digits, six at least, by which all that differ
    look different."""
    rows = [[float(number) for number in numbers] for numbers in several]
    texts: list[list[str]] = []
    for digits in range(6, 18):
        texts = [[f"{number:.{digits}g}" for number in row] for row in rows]
        columns = zip(zip(*rows, strict=False), zip(*texts, strict=False), strict=True)
        if all(len(set(numbers)) == len(set(words)) for numbers, words in columns):
            break
    return [f"({', '.join(row)})" for row in texts]


def shortest(number: float) -> str:
    """A number of single precision in its fewest digits: .1 rather than .10000000149011612."""
    with np.errstate(over="ignore"):
        single = np.float32(number)
    return str(single) if float(single) == number else repr(float(number))
