"""Plants that are off: the parameters of an environment, another one with some of them scaled, and one that draws them
anew for each episode."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import singledispatch
from typing import Generic, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import Scalar
from fittedq.envs.gymnax import Gymnax, GymnaxWith
from fittedq.envs.native import AbstractJaxEnv, Inner
from fittedq.envs.plant import AbstractPlant, CompiledPlant
from fittedq.errors import UserError, nearest


@singledispatch
def parameters(env: object) -> dict[str, bool]:
    """The names of the plant's parameters, and whether it says itself that a plant of its kind may have others."""
    named = env.varying if isinstance(env, AbstractJaxEnv) else ()
    return dict.fromkeys(named, True)


@parameters.register
def _(env: Gymnax) -> dict[str, bool]:
    # Which of them are physics, and which the task, its author knows.
    fields = vars(env.params) if hasattr(env.params, "__dict__") else {}
    return {name: False for name, value in fields.items() if _is_scalable(value)}


@singledispatch
def scaled(env: object, factors: Mapping[str, Scalar]) -> AbstractJaxEnv:
    """`env` with these parameters multiplied; a factor may be a number inside a compiled program."""
    with _static_numbers():
        return dataclasses.replace(env, **_multiplied(env, factors))  # pyright: ignore


@scaled.register
def _(env: Gymnax, factors: Mapping[str, Scalar]) -> AbstractJaxEnv:
    with _static_numbers():
        return GymnaxWith(env, env.params.replace(**_multiplied(env.params, factors)))  # pyright: ignore


@contextlib.contextmanager
def _static_numbers() -> Iterator[None]:
    """Without Equinox's warning of a program's numbers in static fields: such a plant does not outlive the program."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A JAX array is being set as static")
        yield


def _multiplied(holder: object, factors: Mapping[str, Scalar]) -> dict[str, object]:
    return {name: _times(getattr(holder, name), factor) for name, factor in factors.items()}


def _is_scalable(value: object) -> bool:
    """Whether it is a number that is not whole, or several."""
    if isinstance(value, tuple):
        return bool(value) and all(map(_is_scalable, value))
    return isinstance(value, float) or (hasattr(value, "dtype") and np.issubdtype(value.dtype, np.floating))  # pyright: ignore


def _times(value: object, factor: Scalar) -> object:
    return tuple(_times(one, factor) for one in value) if isinstance(value, tuple) else value * factor  # pyright: ignore


def varied_names(plant: AbstractPlant, names: Sequence[str] = (), argument: str = "vary") -> tuple[str, ...]:
    """`names` of the plant's parameters, by default those that it says may be off; a UserError where there are none."""
    if not plant.compiled:
        raise UserError(
            f"{plant.name or 'the environment'} is stepped on the host and names no parameters to vary; expected an "
            "environment in JAX (jax/…, gymnax/…), or make another one with --env-kwargs.",
            argument=argument,
        )
    known, called = parameters(plant.env), plant.name or type(plant.env).__name__
    if not known:
        raise UserError(
            f"{called} names no parameters to vary; its class may, varying = (FIELD, …).", argument=argument
        )
    for name in names:
        if name not in known:
            raise UserError(f"found {name!r}, no parameter of {called}; {nearest(name, known)}", argument="vary")
    found = tuple(names) or tuple(name for name, own in known.items() if own)
    if not found:
        raise UserError(
            f"{called} does not say which of its parameters may be off; its numbers are {', '.join(known)}. Name those "
            "that are physics with vary.",
            argument=argument,
        )
    return found


def plant_scaled(plant: AbstractPlant, factors: Mapping[str, float]) -> AbstractPlant:
    """The plant with these parameters multiplied."""
    varied_names(plant, tuple(factors))
    return CompiledPlant(scaled(plant.env, factors), plant.wanted)


def plant_randomized(plant: AbstractPlant, names: Sequence[str], share: float, at_ends: bool = False) -> AbstractPlant:
    """The plant whose parameters are drawn anew for each episode (`Randomized`), called as it was."""
    names = varied_names(plant, names, "parameters" if at_ends else "randomize")
    env = Randomized(plant.env, names, share, at_ends)
    return CompiledPlant(env, plant.wanted, plant.name)


PLANT_DRAW = 0x706C616E
"""Folded into an episode's key, for draws that the environment's own are not touched by."""


@final
class Randomized(AbstractJaxEnv[tuple[Inner, Array]], Generic[Inner]):
    """`env`, whose parameters `names` are multiplied by factors drawn anew for each episode and not observed.

    They are uniform in [1 − share, 1 + share], or, `at_ends`, one of the two ends each. Episodes begin as those of
    `env` do with the same key. The inner state is the environment's, and the factors.
    """

    env: AbstractJaxEnv[Inner]
    names: tuple[str, ...] = eqx.field(static=True)
    share: float = eqx.field(static=True)
    at_ends: bool = eqx.field(static=True, default=False)

    @property
    def obs_size(self) -> int:
        return self.env.obs_size

    @property
    def action_set(self) -> AbstractActionSet:
        return self.env.action_set

    @property
    def episode_length(self) -> int:
        return self.env.episode_length

    def _plant(self, factors: Float[Array, "p"]) -> AbstractJaxEnv[Inner]:
        return scaled(self.env, dict(zip(self.names, factors, strict=True)))

    def begin(self, key: PRNGKeyArray) -> tuple[Inner, Array]:
        uniform = jax.random.uniform(jax.random.fold_in(key, PLANT_DRAW), (len(self.names),), minval=-1.0, maxval=1.0)
        factors = 1.0 + self.share * (jnp.sign(uniform) if self.at_ends else uniform)
        return self._plant(factors).begin(key), factors

    def observe(self, inner: tuple[Inner, Array]) -> Float[Array, "s"]:
        return self.env.observe(inner[0])

    def transition(
        self, inner: tuple[Inner, Array], action: Float[Array, "m"], key: PRNGKeyArray
    ) -> tuple[tuple[Inner, Array], Float[Array, ""], Bool[Array, ""]]:
        plant, factors = inner
        after, reward, terminated = self._plant(factors).transition(plant, action, key)
        return (after, factors), reward, terminated
