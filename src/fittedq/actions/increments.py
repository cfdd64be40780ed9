"""Changes of an action, limited by a rate and by what the action itself may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from fittedq.actions.base import Box
from fittedq.actions.region import Region
from fittedq.actions.state_box import AbstractStateBox
from fittedq.arrays import Arr, inwards, namespace


class Increments(AbstractStateBox):
    """A(z) = {Δ : |Δ| ≤ rate, low ≤ u₋ + Δ ≤ high}, u₋ the action before, which z holds in the unit box of `limits`.

    A box that depends on the state, and is data: `columns` say where in z the m numbers of u₋ stand. Never empty, for
    Δ = 0 keeps u₋. Source: the velocity form of linear and of model predictive control, e.g. Rawlings, Mayne & Diehl
    2017, section 1.5.
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    limits: Box
    """What the action itself may be."""
    columns: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, limits: Box, rate: Sequence[float], columns: Sequence[int]):
        changes = Box([-step for step in rate], rate)
        self.low, self.high, self.limits = changes.low, changes.high, limits
        self.columns = tuple(int(column) for column in columns)

    @property
    def reads(self) -> tuple[int, ...] | None:
        return self.columns

    def before(self, obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        """u₋, in its own units."""
        return self.limits.from_unit(obs[..., np.asarray(self.columns)])

    def admissible(self, unit: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        """The unit box stretched onto A(z): a policy at a limit of the action keeps its gradient."""
        low, high = self.bounds(obs, unit.dtype)
        return self.project(low + 0.5 * (unit + 1.0) * (high - low), obs)

    def bounds(
        self, obs: Float[Arr, "*b s"], dtype: DTypeLike | None = None
    ) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
        xp, before = namespace(obs), self.before(obs)
        low, high = (xp.asarray(end, before.dtype) for end in (self.low, self.high))
        least, most = (xp.asarray(end, before.dtype) - before for end in (self.limits.low, self.limits.high))
        return inwards(xp.clip(least, low, high), xp.clip(most, low, high), dtype or obs.dtype)

    def region(self, obs: Float[np.ndarray, "b s"]) -> Region:
        return Region.between(*self.bounds(obs, np.float64), len(obs))

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "increments",
            "low": self.limits.low,
            "high": self.limits.high,
            "rate": self.high,
            "columns": self.columns,
        }
