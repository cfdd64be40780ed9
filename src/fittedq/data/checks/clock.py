"""Whether the rows of a log are evenly apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Int

from fittedq.data.checks.base import ADVICE, GOOD, AbstractCheck, Axes
from fittedq.data.times import BINS, FARTHEST, Times
from fittedq.errors import plural

MOST_JITTER = 0.1
MOST_LOST = 0.02
"""Of rows: gaps."""


@final
@dataclass(frozen=True)
class Clock(AbstractCheck):
    """σ = √mean (step / sample − 1)² of the log's time stamps, as they were before they were put on a grid.

    What a plant does in a step is proportional to the step, so σ² is the share of a row's change that the jitter adds
    as noise, and an action takes effect σ samples earlier or later than the row says.

    Why a tenth: 1 % of the change is then noise of the clock, a third of what counts as something hidden (`Markov`).
    Above two gaps in a hundred rows, episodes are as short as the lags and integrals that a controller needs.
    """

    title: ClassVar[str] = "times"
    sample: float
    """Seconds between rows."""
    deviation: float
    """σ."""
    worst: float
    """The largest |step / sample − 1|."""
    gaps: int
    longest_gap: float
    """Seconds."""
    lost: float
    """Gaps a row."""
    doubles: int
    resample: str
    steps: Int[np.ndarray, "b"]
    """Counts over [0, `FARTHEST`) samples."""

    @staticmethod
    def of(times: Times) -> Clock:
        """The check, of what the import remembers."""
        return Clock(
            times.sample, times.deviation, times.worst, times.gaps, times.longest_gap, times.gaps / max(times.rows, 1),
            times.doubles, times.resample, np.array(times.histogram),
        )  # fmt: skip

    @property
    def verdict(self) -> str:
        return ADVICE if self.deviation > MOST_JITTER or self.lost > MOST_LOST else GOOD

    def finding(self) -> str:
        gaps = f", {plural(self.gaps, 'gap', 'gaps')} (up to {self.longest_gap:.4g} s)" if self.gaps else ""
        twice = f", {plural(self.doubles, 'row', 'rows')} twice" if self.doubles else ""
        grid = f"; put on a grid by {self.resample}" if self.resample else ""
        return (
            f"the log's rows are {self.sample:g} s apart, give or take {100 * self.deviation:.3g} % (at most "
            f"{100 * self.worst:.3g} %){gaps}{twice}{grid}; good up to {100 * MOST_JITTER:.0f} % and "
            f"{100 * MOST_LOST:.0f} gaps in 100 rows"
        )

    def remedy(self) -> str:
        if self.lost > MOST_LOST:
            return "Log without losing rows, or bridge short gaps: import with --resample line and a longer --gap."
        if self.resample == "hold":
            return "Import with --resample line: the row before a point of the grid may be a whole sample old."
        if self.resample:
            return "Log at a fixed cycle; lines between rows make the jitter smaller, not none."
        return "Log at a fixed cycle, or put the rows on a grid: import with --resample line."

    def draw(self, axes: Axes) -> None:
        axes.stairs(np.maximum(self.steps, 0.5), np.linspace(0, FARTHEST, BINS + 1), fill=True)
        axes.axvline(1.0, color="0.5", linewidth=0.8)
        axes.set(
            xlabel=f"seconds between rows / {self.sample:g}",
            ylabel="rows",
            yscale="log",
            title=f"give or take {100 * self.deviation:.3g} %",
        )
