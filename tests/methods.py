"""Which methods a test runs through, the quick suite a few, one for each mechanism, and the long suite all; and their
networks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import equinox as eqx
import jax
import pytest

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms import REGISTRY
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.approx.networks import Mlp
from fittedq.types import Components

Built = TypeVar("Built")


def each(*quick: str, of: Iterable[str] = tuple(REGISTRY)) -> list[Any]:
    """Parameters for every method's name; all but those of `quick` are slow."""
    names = list(of)
    assert set(quick) <= set(names), f"{set(quick) - set(names)} are none of them"
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


@eqx.filter_jit
def built(kind: Callable[..., Built], *given: Any, **named: Any) -> Built:
    """`kind(*given, **named)`, a network say, in one program for each shape; outside of it each operation is one."""
    return kind(*given, **named)


@functools.cache
def mlp(layer_norm: bool) -> functools.partial[Mlp]:
    """A kind of network: the same object each time, so that programs are found again."""
    return functools.partial(Mlp, layer_norm=layer_norm)


def made(algorithm: AbstractAlgorithm, obs_size: int, action_set: AbstractActionSet, key: jax.Array) -> Components:
    """Its networks in one program; outside of it each of some hundred operations is one."""
    return jax.jit(lambda key: algorithm.networks(obs_size, action_set, key))(key)
