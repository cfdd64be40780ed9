"""A trained network as what it is where it acts: dense layers, in double precision. Certified bounds read no other."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fittedq.approx.net import AbstractNet, Activation

Vector = Float[np.ndarray, "_"]
Matrix = Float[np.ndarray, "_ _"]


class Terms(NamedTuple):
    """What the network itself adds up where a layer was folded: x · (± weight) ± bias, in sizes, every term with
    `roundings` more than one sum of the inputs has. A difference of two large numbers errs by their sizes."""

    weight: Matrix
    bias: Vector
    roundings: int


class Layer(NamedTuple):
    """z = x · weight + bias, then, where `gain` is not None, gain · (z − mean z) / sqrt(var z + 1e-5) + shift.

    `terms` is None where the network evaluates just that.
    """

    weight: Matrix
    bias: Vector
    gain: Vector | None = None
    shift: Vector | None = None
    terms: Terms | None = None


class DenseNet(NamedTuple):
    """x ← activation(layer(x)), then last(x)."""

    layers: tuple[Layer, ...]
    last: Layer
    activation: Activation


@functools.singledispatch
def dense(net: AbstractNet) -> DenseNet | None:
    """One network, without leading axes and in float64, as dense layers; None: it is none, or nobody said how."""
    del net
    return None
