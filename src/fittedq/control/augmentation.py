"""What set-point control adds to observations, actions and rewards, as settings."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import NamedTuple

from fittedq.errors import UserError
from fittedq.settings import check_settings, setting, settle

MOST_HISTORY = 1_000


class Error(NamedTuple):
    """e = y[measured] − (y[set_point], or `value` where that is None)."""

    measured: int
    set_point: int | None = None
    value: float = 0.0

    def __str__(self) -> str:
        return f"{self.measured}={self.value:g}" if self.set_point is None else f"{self.measured}:{self.set_point}"

    @staticmethod
    def of(text: str, name: str) -> Error:
        """The error that MEASURED:SET_POINT or MEASURED=NUMBER says; `name` is the setting's."""
        found = re.fullmatch(r"\s*(\d{1,9})\s*(?::\s*(\d{1,9})|=\s*([-+.\deE]+))\s*", text)
        try:
            if found is None:
                raise ValueError(text)
            value = float(found[3] or 0.0)
        except ValueError:
            value = math.nan
        if found is None or not math.isfinite(value):
            raise UserError(
                f"setting {name}: found {text!r}, expected MEASURED:SET_POINT, two coordinates of the observation "
                "counted from 0, or MEASURED=NUMBER."
            )
        return Error(int(found[1]), None if found[2] is None else int(found[2]), value)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """z = [y, errors, integrals, earlier y, earlier u], changes of u as actions, and what a change costs.

    Words and numbers only: files hold all of it, and none of it is code. `AugmentedState` binds it to the sizes of an
    environment or a data set, whose rows stay raw.
    """

    history: int = setting(
        1,
        "observations seen: the newest and those before it, with the actions between them",
        low=1,
        high=MOST_HISTORY,
    )
    error: tuple[str, ...] = setting(
        (), "errors seen: MEASURED:SET_POINT (coordinates of the observation, from 0), or MEASURED=NUMBER"
    )
    integral: tuple[str, ...] = setting((), "errors whose integral over time is seen, in the words of error")
    integral_limit: float | None = setting(None, "no integral is larger than this (anti-windup)", above=0.0)
    increments: bool = setting(False, "actions are changes of the action before")
    rate_limit: tuple[float, ...] | None = setting(
        None, "the most an action changes in a sample, one number or one for each action; implies increments", above=0.0
    )
    change_penalty: float = setting(
        0.0, "λ: learned from is r − λ |change of the action|², in half-widths of its limits", low=0.0
    )
    settling: float | None = setting(None, "seconds in which the plant settles; the discount follows", above=0.0)
    sample: float | None = setting(None, "seconds between samples, of which integrals and settling count", above=0.0)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.rate_limit is not None:
            settle(self, "increments", True)
        for name, words in (("error", self.error), ("integral", self.integral)):
            for text in words:
                Error.of(text, name)
        if self.integral_limit is not None and not self.integral:
            raise UserError("setting integral_limit: there is no integral to limit; set integral, or leave this out.")
        if self.settling is not None and self.sample is None:
            raise UserError("setting settling: the discount follows from it and the time of a sample; set sample.")
        if self.settling is not None and self.sample is not None and self.settling < self.sample:
            raise UserError(
                f"setting settling: found {self.settling:g} s, which is shorter than a sample of {self.sample:g} s; "
                "expected the time that the plant takes to settle, many samples."
            )

    @property
    def errors(self) -> tuple[Error, ...]:
        """`error`, read."""
        return tuple(Error.of(text, "error") for text in self.error)

    @property
    def integrals(self) -> tuple[Error, ...]:
        """`integral`, read."""
        return tuple(Error.of(text, "integral") for text in self.integral)

    @property
    def adds_nothing(self) -> bool:
        """Whether observations, actions and rewards stay what they are."""
        return dataclasses.replace(self, settling=None, sample=None) == Augmentation()

    @property
    def discount(self) -> float | None:
        """γ = exp(−sample / settling): what comes one settling time later counts 1/e; None where none is given.

        Source: Doya 2000, "Reinforcement learning in continuous time and space", Neural Computation 12(1), section 2,
        whose time constant is here the settling time.
        """
        if self.settling is None or self.sample is None:
            return None
        return math.exp(-self.sample / self.settling)
