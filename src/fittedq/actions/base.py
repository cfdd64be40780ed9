"""What a set of actions is, and the box."""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from fittedq.actions.region import Region
from fittedq.arrays import Arr, inwards, namespace, shortest, told_apart
from fittedq.errors import UserError


class Whole(NamedTuple):
    """The coordinates that are whole numbers, and the settings they may have together (none: too many)."""

    coordinates: tuple[int, ...] = ()
    settings: tuple[tuple[float, ...], ...] = ()


class AbstractActionSet(eqx.Module):
    """The set A(s) of admissible actions, in the environment's own units.

    A box is the first; a polytope, state-dependent bounds and integer coordinates answer the same questions. All lie in
    an outer box low ≤ a ≤ high, whose units policies and critics use.
    """

    low: eqx.AbstractVar[tuple[float, ...]]
    high: eqx.AbstractVar[tuple[float, ...]]
    separable: ClassVar[bool]
    """Whether A(s) is a box, so that coordinates may be scaled, held and moved one by one."""

    @property
    @abc.abstractmethod
    def whole(self) -> Whole:
        """Which coordinates are whole numbers."""

    @property
    @abc.abstractmethod
    def reads(self) -> tuple[int, ...] | None:
        """The coordinates of s on which A(s) depends; None where they are not known."""

    @property
    @abc.abstractmethod
    def interior(self) -> Float[np.ndarray, "k m"]:
        """Points inside A(s) whatever s is, one for each setting of the whole numbers, as far as they are known."""

    @property
    def reads_obs(self) -> bool:
        """Whether A(s) depends on s."""
        return self.reads != ()

    @property
    def integer(self) -> tuple[int, ...]:
        """The coordinates that are whole numbers."""
        return self.whole.coordinates

    @property
    def size(self) -> int:
        """m, the dimension of an action."""
        return len(self.low)

    @property
    def center(self) -> tuple[float, ...]:
        """The middle of the outer box."""
        return tuple((high + low) / 2 for low, high in zip(self.low, self.high, strict=True))

    @property
    def half_width(self) -> tuple[float, ...]:
        """Half the sides of the outer box."""
        return tuple((high - low) / 2 for low, high in zip(self.low, self.high, strict=True))

    @property
    def log_volume(self) -> float:
        """log |outer box|, at least log |A(s)|."""
        return float(np.sum(np.log(2 * np.asarray(self.half_width))))

    def to_unit(self, action: Float[Arr, "*b m"]) -> Float[Arr, "*b m"]:
        """(a − center) / half_width: the outer box becomes [−1, 1]^m."""
        xp = namespace(action)
        return (action - xp.asarray(self.center, action.dtype)) / xp.asarray(self.half_width, action.dtype)

    def from_unit(self, unit: Float[Arr, "*b m"]) -> Float[Arr, "*b m"]:
        """center + half_width · u, the inverse of `to_unit`; outside a box it may leave A(s)."""
        xp = namespace(unit)
        return xp.asarray(self.center, unit.dtype) + xp.asarray(self.half_width, unit.dtype) * unit

    @abc.abstractmethod
    def admissible(self, unit: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        """Π_A(s)(center + half_width · u) for u in [−1, 1]^m: what a squashed policy does."""

    @abc.abstractmethod
    def bounds(
        self, obs: Float[Arr, "*b s"], dtype: DTypeLike | None = None
    ) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
        """The smallest box around A(s), per state; in `dtype`, else that of `obs`, its ends rounded inwards."""

    @abc.abstractmethod
    def project(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        """Π_A(s)(a), the nearest admissible action in the precision of `action`: one that `contains` accepts."""

    @abc.abstractmethod
    def contains(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Bool[Arr | np.bool_, "*b"]:
        """Whether a ∈ A(s), row by row, without a tolerance."""

    @abc.abstractmethod
    def region(self, obs: Float[np.ndarray, "b s"]) -> Region | None:
        """A(s) in numbers, which proofs and programs read; None where no inequalities describe it."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """The set as JSON, with its `kind`, from which `actions.saved.action_set_of` makes it again."""


def described_apart(one: AbstractActionSet, other: AbstractActionSet) -> tuple[str, str]:
    """Two sets as a sentence compares them."""
    if (one.low, one.high) == (other.low, other.high):
        return str(one), str(other)
    (low, least), (high, most) = told_apart(one.low, other.low), told_apart(one.high, other.high)
    return f"{type(one).__name__} {low} … {high}", f"{type(other).__name__} {least} … {most}"


LARGEST = float(np.finfo(np.float32).max)
"""Of numbers in single precision, which actions have."""


NARROWEST = 1e-30
"""Of intervals of actions: what is divided by less overflows."""


@functools.cache
def _ends(
    low: tuple[float, ...], high: tuple[float, ...], dtype: np.dtype
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """The ends of a box as arrays, made once: acting asks for them at every step."""
    return inwards(np.asarray(low), np.asarray(high), dtype)


class Box(AbstractActionSet):
    """A = {a : low ≤ a ≤ high}, finite and with an inside.

    Bounds are Python numbers, not arrays: nothing trains them, and they compile as constants.
    """

    separable: ClassVar[bool] = True
    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray):
        self.low = tuple(float(bound) for bound in np.ravel(np.asarray(low)))
        self.high = tuple(float(bound) for bound in np.ravel(np.asarray(high)))
        if not self.low or len(self.low) != len(self.high):
            raise UserError(
                f"action bounds: found {len(self.low)} lower and {len(self.high)} upper bounds; "
                "give one of each per action dimension."
            )
        least, most = inwards(np.asarray(self.low), np.asarray(self.high), np.float32)
        for axis, (low_bound, high_bound) in enumerate(zip(self.low, self.high, strict=True)):
            ends = f"[{shortest(low_bound)}, {shortest(high_bound)}]"
            if not (abs(low_bound) <= LARGEST and abs(high_bound) <= LARGEST):
                raise UserError(
                    f"action bounds: dimension {axis} is {ends}, expected finite numbers "
                    f"of size at most {LARGEST:.3g}; rescale the action in the environment "
                    "(gymnasium.wrappers.RescaleAction) or give finite bounds."
                )
            if not low_bound < high_bound:
                raise UserError(
                    f"action bounds: dimension {axis} is {ends}, which is empty or one point; expected low < high."
                )
            if not float(most[axis]) - float(least[axis]) > NARROWEST:
                raise UserError(
                    f"action bounds: dimension {axis} is {ends}, which is too narrow for numbers "
                    "of single precision; rescale the action in the environment (gymnasium.wrappers.RescaleAction)."
                )

    @property
    def whole(self) -> Whole:
        return Whole()

    @property
    def reads(self) -> tuple[int, ...] | None:
        return ()

    @property
    def interior(self) -> Float[np.ndarray, "k m"]:
        return np.asarray(self.center)[None]

    @property
    def hull(self) -> Box:
        """The smallest box around A: itself."""
        return self

    def bounds(
        self, obs: Float[Arr, "*b s"], dtype: DTypeLike | None = None
    ) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
        shape = (1,) * (obs.ndim - 1) + (self.size,)
        low, high = _ends(self.low, self.high, np.dtype(dtype or obs.dtype))
        xp = namespace(obs)
        return xp.asarray(low.reshape(shape)), xp.asarray(high.reshape(shape))

    def project(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        del obs
        return namespace(action).clip(action, *_ends(self.low, self.high, action.dtype))

    def contains(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Bool[Arr | np.bool_, "*b"]:
        del obs
        low, high = _ends(self.low, self.high, action.dtype)
        return namespace(action).all((action >= low) & (action <= high), axis=-1)

    def admissible(self, unit: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        """The unit box is the box: nothing to project."""
        del obs
        return self.from_unit(unit)

    def region(self, obs: Float[np.ndarray, "b s"]) -> Region:
        return Region.between(self.low, self.high, len(obs))

    def describe(self) -> dict[str, Any]:
        return {"kind": "box", "low": self.low, "high": self.high}
