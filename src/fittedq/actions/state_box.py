"""A box whose ends are functions of the state."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from fittedq.actions.base import AbstractActionSet, Box, Whole
from fittedq.actions.region import Region
from fittedq.arrays import Arr, inwards, namespace
from fittedq.errors import UserError


class AbstractStateBox(AbstractActionSet):
    """A(s) = {a : low(s) ≤ a ≤ high(s)}, each action in an interval of its own that depends on s."""

    separable: ClassVar[bool] = True

    @property
    def whole(self) -> Whole:
        return Whole()

    @property
    def interior(self) -> Float[np.ndarray, "k m"]:
        return np.zeros((0, self.size))

    @abc.abstractmethod
    def bounds(
        self, obs: Float[Arr, "*b s"], dtype: DTypeLike | None = None
    ) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
        """(low(s), high(s)), rounded inwards to `dtype`, or to that of `obs`."""

    def project(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        low, high = self.bounds(obs, action.dtype)
        return namespace(action, low).clip(action, low, high)

    def contains(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Bool[Arr | np.bool_, "*b"]:
        low, high = self.bounds(obs, action.dtype)
        return namespace(action, low).all((action >= low) & (action <= high), axis=-1)


class StateBox(AbstractStateBox):
    """A(s) = {a : low_fn(s) ≤ a ≤ high_fn(s)} inside the outer `box`.

    `low_fn` and `high_fn` take obs [b,s] and return [b,m], row by row, in array arithmetic that works on what they are
    given (NumPy on the host, JAX in compiled code). They are static: hashable, and never trained. Bounds are clipped to
    the outer box and rounded inwards to the precision of actions; where they cross, A(s) is the one point low_fn(s).
    `check` says whether they do.
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    low_fn: Callable[[Arr], Arr] = eqx.field(static=True)
    high_fn: Callable[[Arr], Arr] = eqx.field(static=True)
    box: Box

    def __init__(self, low_fn: Callable[[Arr], Arr], high_fn: Callable[[Arr], Arr], box: Box):
        self.low_fn, self.high_fn, self.box = low_fn, high_fn, box
        self.low, self.high = box.low, box.high

    @property
    def reads(self) -> tuple[int, ...] | None:
        return None

    @property
    def hull(self) -> Box:
        """The smallest box known around all A(s): the outer one."""
        return self.box

    def admissible(self, unit: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        return self.project(self.from_unit(unit), obs)

    def bounds(
        self, obs: Float[Arr, "*b s"], dtype: DTypeLike | None = None
    ) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
        low, high = inwards(self.low_fn(obs), self.high_fn(obs), dtype or obs.dtype)
        return self.box.project(low, obs), self.box.project(high, obs)

    def region(self, obs: Float[np.ndarray, "b s"]) -> Region:
        low, high = inwards(np.asarray(self.low_fn(obs)), np.asarray(self.high_fn(obs)), np.float64)
        return Region.between(self.box.project(low, obs), self.box.project(high, obs), len(obs))

    def describe(self) -> dict[str, Any]:
        """Its outer box alone, for functions are not saved."""
        return {"kind": "state_box", "low": self.low, "high": self.high}

    def check(self, obs: Float[np.ndarray, "b s"]) -> None:
        """Raise `UserError` unless low_fn(s) ≤ high_fn(s), within the outer box, for every s in `obs`."""
        shape = (obs.shape[0], self.size)
        low, high = np.asarray(self.low_fn(obs)), np.asarray(self.high_fn(obs))
        for name, bound in (("low_fn", low), ("high_fn", high)):
            if bound.shape != shape:
                raise UserError(
                    f"action bounds: {name} returned shape {bound.shape} for obs of shape {obs.shape}, "
                    f"expected {shape}: one row per state, one column per action dimension."
                )
        crossed = ~(low <= high)
        outside = (low > np.asarray(self.high)) | (high < np.asarray(self.low))
        for problem, wrong in (("is empty or not a number", crossed), ("lies outside the outer box", outside)):
            if wrong.any():
                row, axis = np.argwhere(wrong)[0]
                raise UserError(
                    f"action bounds: at state {row} dimension {axis} is [{low[row, axis]}, {high[row, axis]}], which "
                    f"{problem}; expected low_fn(s) ≤ high_fn(s) inside the outer box."
                )
