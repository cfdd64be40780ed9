# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnnecessaryIsInstance=false
"""Learning rates, a number or a schedule over the updates of a run; and the optimizers that take them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from fittedq.arrays import Scalar, Tree
from fittedq.code import sketch
from fittedq.errors import UserError
from fittedq.settings import MOST_NUMBER, check_settings, setting

Rate = float | Callable[[Scalar], Scalar]
"""A number, or a function of the update k = 0, 1, … of the run: a `Linear`, one of optax's schedules, or your own."""
Optimizer = Callable[..., optax.GradientTransformation]
"""A learning rate → the optimizer that has it."""


@dataclass(frozen=True)
class Linear:
    """rate_k = first + (last − first) · min(k / updates, 1).

    k counts the run's updates from 0; those of a fitted method are its iterations. Without `updates` it takes as many
    as the run whose setting it is; outside a run, which has no end, it stays at `first`. In a method made of slots it
    stands in `scheduled(optax.adam, Linear(1e-3, 0.0, updates=10_000))`, with its length.
    """

    first: float = setting(dataclasses.MISSING, "the rate of the first update", low=0.0)
    last: float = setting(dataclasses.MISSING, "the rate that it comes to", low=0.0)
    updates: int | None = setting(None, "updates until it is there", low=1, high=1000 * MOST_NUMBER)

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, count: Scalar) -> Scalar:
        if self.updates is None:
            if _traced(count):
                raise UserError(
                    f"{sketch(self)} has no length inside an optimizer, and would stay at {self.first:g}; give "
                    "updates=, in Descend(scheduled(optax.adam, Linear(…, updates=…)))."
                )
            return self.first
        return self.first + (self.last - self.first) * jnp.minimum(count / self.updates, 1.0)


@dataclass(frozen=True)
class Adam:
    """A learning rate → Adam with these decays. Source: Kingma & Ba 2015."""

    b1: float = setting(0.9, "decay of the gradient's running mean", low=0.0, below=1.0)
    b2: float = setting(0.999, "decay of its running square", low=0.0, below=1.0)

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, rate: Scalar) -> optax.GradientTransformation:
        return optax.adam(cast("float", rate), self.b1, self.b2)


def over(rate: Rate, updates: int) -> Rate:
    """The rate in a run of so many updates."""
    if isinstance(rate, Linear) and rate.updates is None:
        return dataclasses.replace(rate, updates=updates)
    return rate


def over_a_run(rate: object, usual: object) -> bool:
    """Whether a rate is the usual `Linear`, but over the updates of a run."""
    if not (isinstance(rate, Linear) and isinstance(usual, Linear)):
        return False
    return usual.updates is None and (rate.first, rate.last) == (usual.first, usual.last)


def first_rate(rate: Rate) -> float:
    """The rate of the first update."""
    return float(_at(rate, 0))


def check_schedule(name: str, rate: Rate, updates: int) -> None:
    """A UserError unless the function `rate`, setting `name`, is a rate at both ends of a run and can be compiled."""
    if isinstance(rate, Linear):
        return
    for k in (0, min(updates, 2**31) - 1):
        value = float(_at(rate, k))
        if not math.isfinite(value):
            raise UserError(f"setting {name}: {words(rate)} is {value:g} in update {k:,}, expected a finite number.")
    try:
        jax.eval_shape(partial(_at, rate), jax.ShapeDtypeStruct((), np.int32))
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):
        raise UserError(
            f"setting {name}: {words(rate)} cannot be compiled: it asks what k is, which is known in training only; "
            "write jnp.where(k < …) for `if k < …`, or take one of optax's schedules."
        ) from None


def _at(rate: Rate, k: Scalar) -> Scalar:
    """The rate of update k, in a program that is being compiled too; a UserError where it is no number."""
    value = rate(np.asarray(k, np.int32) if isinstance(k, int) else k) if callable(rate) else rate
    if not isinstance(value, float | int | np.generic | np.ndarray | jax.Array) or np.shape(value):
        raise UserError(f"learning rate {words(rate)}: it returned {value!r}, expected a number for each update.")
    if not _traced(value) and value < 0:
        raise UserError(f"learning rate {words(rate)}: it returned {float(value):g}, expected a number of at least 0.")
    return value


def _traced(value: object) -> bool:
    return isinstance(value, Tracer)


def words(rate: Rate) -> str:
    """A rate as a sentence names it."""
    return sketch(rate) if callable(rate) else f"{rate:g}"


def scheduled(optimizer: Optimizer, rate: Rate) -> optax.GradientTransformation:
    """The optimizer whose rate in update k of a run is `rate(k)`, as `Descend` takes it: `scheduled(optax.adam, f)`.

    k is the learner's own count, which every checkpoint has: its state is the one that it has with a number. A
    `Linear` needs its length here; as a setting of a method it takes the run's.
    """
    if isinstance(rate, Linear) and rate.updates is None:
        raise UserError(f"scheduled: found {sketch(rate)}, expected one with its length; give updates=.")
    return at_rate(optimizer, rate)


def at_rate(optimizer: Optimizer, rate: Rate) -> optax.GradientTransformation:
    """As `scheduled`; a `Linear` that is in no run stays at its first rate."""
    if isinstance(rate, Linear) and rate.updates is None:
        rate = rate.first
    if not callable(rate):
        return _made(optimizer, rate)

    def init(params: Tree) -> Tree:
        return _made(optimizer, _at(rate, 0)).init(params)

    def update(updates: Tree, state: Tree, params: Tree = None, *, count: Scalar, **_: Scalar) -> tuple[Tree, Tree]:
        """`count` is as in `Tick`: from one."""
        return _made(optimizer, rate(count - 1)).update(updates, state, params)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _made(optimizer: Optimizer, rate: Scalar) -> optax.GradientTransformation:
    made = optimizer(rate)
    if not isinstance(made, optax.GradientTransformation):
        raise UserError(
            f"setting optimizer: it made a {type(made).__name__}, expected a GradientTransformation of optax."
        )
    return made
