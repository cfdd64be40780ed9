"""What a check says of a log: its figures, a verdict, and what to do where the verdict is bad."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from fittedq.files import Json

GOOD, ADVICE, LOOK_HERE, UNSAID = "good", "advice", "look here", "not said"

Axes = Any
"""Matplotlib's, which is there for pictures only."""


class AbstractCheck(ABC):
    """One question about a log, answered. Fields that are arrays are for the picture."""

    title: ClassVar[str]
    """At most 16 letters."""

    @property
    @abstractmethod
    def verdict(self) -> str:
        """GOOD, ADVICE (learning works, and would work better), LOOK_HERE (it would fail silently) or UNSAID."""

    @abstractmethod
    def finding(self) -> str:
        """The figures beside their limits, as a part of a sentence."""

    @abstractmethod
    def remedy(self) -> str:
        """What to do where the verdict is not GOOD: whole sentences."""

    @abstractmethod
    def draw(self, axes: Axes) -> None:
        """The picture."""

    def told(self) -> str:
        """All of it, as a line."""
        line = f"{self.title:>16}  {self.verdict}: {self.finding()}."
        return line if self.verdict == GOOD else f"{line} {self.remedy()}"

    def figures(self) -> dict[str, Json]:
        """All of it, as JSON."""
        numbers = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if not isinstance(getattr(self, field.name), np.ndarray)
        }
        told = {"verdict": self.verdict, "finding": self.finding()}
        return told | ({} if self.verdict == GOOD else {"remedy": self.remedy()}) | numbers


@final
@dataclass(frozen=True)
class Unsaid(AbstractCheck):
    """A question that this log is too short, or not made, to answer."""

    title: str  # type: ignore[misc]  # of the question
    reason: str
    needed: str
    """What would answer it, a sentence."""

    @property
    def verdict(self) -> str:
        return UNSAID

    def finding(self) -> str:
        return self.reason

    def remedy(self) -> str:
        return self.needed

    def draw(self, axes: Axes) -> None:
        axes.text(0.5, 0.5, f"not said:\n{self.reason}", ha="center", va="center", wrap=True)
        axes.set_axis_off()
