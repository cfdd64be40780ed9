# pyright: reportUnknownMemberType=false
"""The actions that a log supports, as a set over which a maximization is solved."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import equinox as eqx
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from fittedq.actions.base import AbstractActionSet
from fittedq.actions.region import Region
from fittedq.actions.state_box import AbstractStateBox
from fittedq.approx.networks import ClippedGaussianPolicy
from fittedq.arrays import Arr, namespace
from fittedq.errors import UserError
from fittedq.slots import POSITIVE, AbstractSlot
from fittedq.types import Components, needed


class NearLog(AbstractStateBox):
    """A_D(s) = {a ∈ A(s) : |a_i − m_i(s)| ≤ c σ_i(s), all i}, N(m(s), σ(s)²) the log's own actions at s.

    In each coordinate these are the actions whose density is at least exp(−c²/2) of the largest. A(s) is a box. Where
    the interval misses A(s), the nearest end of A(s) is all there is.
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    deviations: float = eqx.field(static=True)
    inner: AbstractActionSet
    behaviour: ClippedGaussianPolicy

    def __init__(self, inner: AbstractActionSet, behaviour: ClippedGaussianPolicy, deviations: float):
        self.inner, self.behaviour, self.deviations = inner, behaviour, deviations
        self.low, self.high = inner.low, inner.high

    @property
    def reads(self) -> tuple[int, ...] | None:
        return None

    def admissible(self, unit: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        return self.project(self.from_unit(unit), obs)

    def bounds(
        self, obs: Float[Arr, "*b s"], dtype: DTypeLike | None = None
    ) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
        xp = namespace(obs, self.behaviour.log_std)
        mean, log_std = self.behaviour.parameters(obs)
        reach = self.deviations * xp.exp(log_std)
        ends = (self.from_unit(mean - reach), self.from_unit(mean + reach))
        low, high = (self.inner.project(end.astype(dtype or obs.dtype), obs) for end in ends)
        return low, high

    def region(self, obs: Float[np.ndarray, "b s"]) -> Region:
        low, high = self.bounds(obs)
        return Region.between(np.asarray(low), np.asarray(high), len(obs))

    def describe(self) -> dict[str, Any]:
        """Its own words: it is made of an agent's networks, and no file names it."""
        return {"kind": "near_log", "deviations": self.deviations, "inner": self.inner.describe()}


class Support(AbstractSlot):
    """A_D(s) of `NearLog`, around the component `behaviour`, which imitates the log."""

    needs: ClassVar[frozenset[str]] = frozenset({"behaviour", "critic"})
    deviations: float = eqx.field(static=True, metadata=POSITIVE)

    def check_components(self, nets: Components) -> None:
        """A UserError where the actions have no intervals, or the behaviour says no deviation."""
        action_set, behaviour = needed(nets.critic).action_set, nets.behaviour
        if not action_set.separable or action_set.integer:
            raise UserError(
                "setting support: found whole-numbered actions, or limits that join several of them; expected a box, "
                "in which each action has an interval of its own. Leave support out."
            )
        if not isinstance(behaviour, ClippedGaussianPolicy):
            raise UserError(
                f"Support: found a behaviour of type {type(behaviour).__name__}, expected ClippedGaussianPolicy(…, "
                "by_state=True), which says a mean and a deviation."
            )

    def __call__(self, nets: Components) -> NearLog:
        behaviour = cast("ClippedGaussianPolicy", needed(nets.behaviour))
        return NearLog(needed(nets.critic).action_set, behaviour, self.deviations)


def searched(support: Support | None, nets: Components) -> AbstractActionSet:
    """The set over which q is maximized: A(s), or what the log supports of it."""
    return needed(nets.critic).action_set if support is None else support(nets)
