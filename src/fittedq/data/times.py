"""What is known of a log's clock once it has been read: data sets keep no times."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, final

import numpy as np
from jaxtyping import Float

from fittedq.errors import UserError

BINS = 60
"""Of steps between rows, up to `FARTHEST` samples; the last holds the longer ones too."""
FARTHEST = 3.0


@final
@dataclass(frozen=True)
class Times:
    """The steps between a log's rows, as its clock has them, in samples of the log's own."""

    sample: float
    """Seconds."""
    rows: int
    steps: int
    """Between rows of one episode."""
    deviation: float
    """√mean (step − 1)²."""
    worst: float
    """The largest |step − 1|."""
    gaps: int = 0
    longest_gap: float = 0.0
    """Seconds."""
    doubles: int = 0
    """Rows that stood there twice."""
    resample: str = ""
    """How the rows were put on a grid, if they were."""
    histogram: tuple[int, ...] = (0,) * BINS

    @staticmethod
    def of(
        steps: Float[np.ndarray, "k"],
        sample: float,
        rows: int,
        *,
        gaps: int = 0,
        longest_gap: float = 0.0,
        doubles: int = 0,
        resample: str = "",
    ) -> Times:
        """Of steps in seconds."""
        off = steps / sample - 1
        count, _ = np.histogram(np.minimum(off + 1, FARTHEST), BINS, (0, FARTHEST))
        deviation, worst = (float(np.sqrt(np.mean(off**2))), float(np.abs(off).max())) if len(off) else (0.0, 0.0)
        histogram = tuple(count.tolist())
        return Times(
            sample, rows, len(steps), deviation, worst, gaps, longest_gap, doubles, resample, histogram=histogram
        )

    def with_(self, other: Times) -> Times:
        """Both as one log."""
        steps = self.steps + other.steps
        squares = self.steps * self.deviation**2 + other.steps * other.deviation**2
        return dataclasses.replace(
            self,
            rows=self.rows + other.rows,
            steps=steps,
            deviation=math.sqrt(squares / max(steps, 1)),
            worst=max(self.worst, other.worst),
            gaps=self.gaps + other.gaps,
            longest_gap=max(self.longest_gap, other.longest_gap),
            doubles=self.doubles + other.doubles,
            histogram=tuple(a + b for a, b in zip(self.histogram, other.histogram, strict=True)),
        )

    @staticmethod
    def together(several: list[Times]) -> Times | None:
        """All of them as one; None where there are none."""
        return reduce(Times.with_, several) if several else None

    def described(self) -> dict[str, Any]:
        """As JSON, from which `read` makes it again."""
        return dataclasses.asdict(self) | {"histogram": list(self.histogram)}

    @staticmethod
    def read(said: Mapping[str, Any], label: str) -> Times:
        """What a file says; a UserError where it is none of ours."""
        try:
            usual = Times(1.0, 0, 0, 0.0, 0.0)
            kinds = {one.name: type(getattr(usual, one.name)) for one in dataclasses.fields(Times)}
            found = Times(**{name: kinds[name](value) for name, value in said.items()})
            if len(found.histogram) != BINS or not all(type(count) is int for count in found.histogram):
                raise ValueError(f"a histogram of {len(found.histogram)} counts")
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{label}: it is no record of times ({error}); it is damaged.") from None
        return found
