"""Controllers that are there already: a constant action, and code of the user's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float

from fittedq.acting.episodes import AbstractController
from fittedq.actions.base import AbstractActionSet
from fittedq.envs.flat import FlatEnv
from fittedq.errors import UserError

OfOne = Callable[[Float[np.ndarray, "s"]], Any]
"""obs [s] → action [m], or one number."""


@final
@dataclass(frozen=True)
class Constant(AbstractController[None]):
    """a = `action` (m numbers), whatever is observed."""

    action: tuple[float, ...]

    def __str__(self) -> str:
        return f"Constant({', '.join(f'{value:g}' for value in self.action)})"

    def start(self, number: int) -> None:
        del number

    def step(self, memory: None, obs: Float[np.ndarray, "b s"]) -> tuple[Float[np.ndarray, "b m"], None]:
        return np.tile(np.asarray(self.action, np.float64), (len(obs), 1)), memory

    def check(self, env: FlatEnv) -> None:
        self.check_in(env.box, "the environment")

    def check_in(self, box: AbstractActionSet, whose: str) -> None:
        """A UserError unless it is an action of `whose` box: outside another one would be executed."""
        if len(self.action) != box.size:
            raise UserError(f"{self}: found {len(self.action)} numbers, {whose} takes {box.size} actions.")
        for place, (value, low, high) in enumerate(zip(self.action, box.low, box.high, strict=True)):
            if not np.float32(low) <= np.float32(value) <= np.float32(high):
                raise UserError(
                    f"{self}: found {value:g} for action [{place}], which {whose} takes between {low:g} and {high:g}; "
                    "give one in between."
                )


@final
@dataclass(frozen=True)
class Called(AbstractController[list[OfOne]]):
    """a = function(s), of one observation [s] in flat numbers: a function, or an object that may remember.

    Each episode begins with a copy of the object as it was given, so that nothing is carried from one to the next.
    """

    function: OfOne
    name: str = "the function"

    def __str__(self) -> str:
        return self.name

    def start(self, number: int) -> list[OfOne]:
        return [copy.deepcopy(self.function) for _ in range(number)]

    def step(self, memory: list[OfOne], obs: Float[np.ndarray, "b s"]) -> tuple[Float[np.ndarray, "b m"], list[OfOne]]:
        return np.stack([self._one(function, row) for function, row in zip(memory, obs, strict=True)]), memory

    def _one(self, function: OfOne, obs: Float[np.ndarray, "s"]) -> Float[np.ndarray, "m"]:
        try:
            return np.atleast_1d(np.asarray(function(obs), np.float64))
        except (Exception, SystemExit) as error:
            raise UserError(f"{self.name} raised {type(error).__name__}: {error}.") from error

    def check(self, env: FlatEnv) -> None:
        """What it gives is seen at each sample."""
