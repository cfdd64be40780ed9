"""Where a setting is looked for: a span of numbers with its scale, or some values."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import final

from fittedq.errors import UserError

LINEAR, LOG, NEAR_ONE = "linear", "log", "near one"
SCALES = (LINEAR, LOG, NEAR_ONE)
"""Even in x, in log x, or in log(1 − x), as a discount is."""

Sought = bool | int | float | str | tuple[int, ...]


@final
@dataclass(frozen=True)
class Span:
    """low ≤ x ≤ high on a scale; whole numbers where both ends are."""

    low: float
    high: float
    scale: str = LINEAR

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(f"found {self}, expected two numbers, the lower one first.")
        if (self.scale == LOG and self.low <= 0) or (self.scale == NEAR_ONE and self.high >= 1):
            raise UserError(f"found {self}, expected numbers {'above 0' if self.scale == LOG else 'below 1'}.")

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[float, float]:
        """The first and the last value."""
        return self.low, self.high

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}" + ("" if self.scale == LINEAR else f" {self.scale}")


@final
@dataclass(frozen=True)
class Among:
    """One of some values."""

    values: tuple[Sought, ...]

    @property
    def ends(self) -> tuple[Sought, Sought]:
        """The first and the last value."""
        return self.values[0], self.values[-1]

    def __str__(self) -> str:
        return " or ".join(map(word, self.values))


SearchRange = Span | Among


def word(value: object) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(word, value)) + "," * (len(value) == 1)
    return str(value).lower() if isinstance(value, bool) else str(value)


def read(text: str, usual: SearchRange | None) -> SearchRange:
    """`low..high`, `low..high:scale` or `value|value|…`; a scale that is not given is that of the `usual` range.

    UserError: it is none of these.
    """
    ends, _, scale = text.partition(":")
    low, dots, high = ends.partition("..")
    if not dots:
        values = tuple(_value(part.strip()) for part in text.split("|") if part.strip())
        if not values:
            raise _no_range(text)
        return Among(values)
    scale = scale.strip().replace("-", " ") or (usual.scale if isinstance(usual, Span) else LINEAR)
    first, last = _value(low.strip()), _value(high.strip())
    if scale not in SCALES or type(first) not in (int, float) or type(last) not in (int, float):
        raise _no_range(text)
    return Span(first, last, scale)  # pyright: ignore[reportArgumentType]


def _no_range(text: str) -> UserError:
    return UserError(f"found {text!r}, expected LOW..HIGH, LOW..HIGH:SCALE (linear, log or near-one) or VALUE|VALUE.")


def _value(text: str) -> Sought:
    if "," in text:
        return tuple(_value(part) for part in text.split(",") if part.strip())  # pyright: ignore[reportReturnType]
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float | str) else text
