"""Whether a few rows carry the rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float

from fittedq.data.checks.base import GOOD, LOOK_HERE, AbstractCheck, Axes
from fittedq.data.dataset import ROWS_SHOWN, Dataset

MOST_CARRIED = 0.5
FEW = 0.001
"""The share of rows that may not carry more."""
REPEATED = 5
"""A value that so many rows have is a bonus or a penalty, and no outlier."""


@final
@dataclass(frozen=True)
class Rewards(AbstractCheck):
    """Σ(r − median)² of the FEW rows furthest from the median, as a share of all rows' sum.

    A critic is fitted by squares, so this is the share of its attention. At least one row counts as few; a value that
    REPEATED rows have is not counted, for a rare bonus is what is to be learned.

    Why a half: from there on these rows together outweigh all the others.
    """

    title: ClassVar[str] = "rewards"
    carried: float
    few: int
    rows: list[int]
    """The first of these rows, the furthest first."""
    values: list[float]
    sorted: Float[np.ndarray, "n"]
    """|r − median|, the largest first."""

    @staticmethod
    def of(dataset: Dataset) -> Rewards:
        """The check, over all rows."""
        reward = dataset.columns["reward"].astype(np.float64)
        squares = (reward - np.median(reward)) ** 2
        total = float(squares.sum())
        few = max(1, int(FEW * len(reward)))
        count = min(few * REPEATED, len(reward))
        far = np.argpartition(-squares, count - 1)[:count]
        far = far[np.argsort(-squares[far])]
        values, times = np.unique(reward[far], return_counts=True)
        far = far[~np.isin(reward[far], values[times >= REPEATED])][:few]
        return Rewards(
            carried=float(squares[far].sum()) / total if total > 0 else 0.0,
            few=few,
            rows=far[:ROWS_SHOWN].tolist(),
            values=reward[far[:ROWS_SHOWN]].tolist(),
            sorted=np.sqrt(np.sort(squares[:: max(1, len(squares) // 10_000)])[::-1]),
        )

    @property
    def verdict(self) -> str:
        return LOOK_HERE if self.carried > MOST_CARRIED else GOOD

    def finding(self) -> str:
        one = "the row" if self.few == 1 else f"the {self.few} rows"
        first = f" (row {self.rows[0]}: {self.values[0]:.4g})" if self.rows else ""
        carry = "carries" if self.few == 1 else "carry"
        return (
            f"{one} furthest from the median reward{first} {carry} {100 * self.carried:.3g} % of the squares that a "
            f"critic is fitted to; good up to {100 * MOST_CARRIED:.0f} %"
        )

    def remedy(self) -> str:
        return (
            "If these are faults of the log, leave the rows out; if they are true, limit the reward (clip it, or take "
            "its root)."
        )

    def draw(self, axes: Axes) -> None:
        axes.plot(np.arange(1, len(self.sorted) + 1), np.maximum(self.sorted, 1e-12))
        axes.set(
            xlabel="rows",
            ylabel="|r − median|",
            xscale="log",
            yscale="log",
            title=f"{100 * self.carried:.3g} % carried",
        )
