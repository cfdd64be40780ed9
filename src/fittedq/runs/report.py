"""What a run tells of itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fittedq.agent import Agent
from fittedq.errors import UserError
from fittedq.template.fqi import LAST

EVALUATED = ("eval_mean", "eval_min", "eval_max", "best")
"""Figures of an evaluation; `best` is the best mean so far."""
FIGURES = (
    "step",
    "updates",
    "episodes",
    "seconds",
    "steps_per_second",
    "updates_per_second",
    "train_return",
    *EVALUATED,
)
"""Figures that reports of every method have; the others are named after what is learned, as `critic/loss`."""


@dataclass(frozen=True)
class Report:
    """One interval of a run."""

    step: int
    steps: int
    updates: int
    episodes: int
    seconds: float
    """Seconds of training in this process; evaluation, files and compiling are not in it."""
    steps_per_second: float
    updates_per_second: float
    train_return: float | None
    """Mean return of the training episodes that ended in this interval."""
    eval_returns: list[float] | None
    best: float | None
    metrics: dict[str, float]
    fraction: float = 0.0
    """How much of the next step is done; above 0 the report only shows that, and is not recorded."""
    finished: str | None = None
    """Why the run ends before its last step."""
    compiling: float = 0.0
    """Seconds of compiling in this interval, in none of the figures above."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each stage in this interval; saving is that of the checkpoint before."""
    warnings: tuple[str, ...] = ()
    """What the user should know of rewards and values, each said once."""
    acts_by: str = LAST
    """What the agent acts by, in words."""
    live: Callable[[], Agent] | None = field(default=None, repr=False, compare=False)

    @property
    def agent(self) -> Agent:
        """A copy of the agent at this report. Ask for it before training goes on."""
        if self.live is None:
            raise UserError("report: it belongs to no run that goes on, so it has no agent.")
        return self.live()

    @property
    def eta_seconds(self) -> float:
        return (self.steps - self.step - self.fraction) / max(self.steps_per_second, 1e-9)

    def record(self) -> dict[str, Any]:
        """The line of `metrics.jsonl`."""
        row: dict[str, Any] = {
            "step": self.step,
            "updates": self.updates,
            "episodes": self.episodes,
            "seconds": round(self.seconds, 3),
            "steps_per_second": round(self.steps_per_second, 1),
            "updates_per_second": round(self.updates_per_second, 1),
            "train_return": self.train_return,
        }
        if self.eval_returns is not None:
            row |= {
                "eval_mean": float(np.mean(self.eval_returns)),
                "eval_min": min(self.eval_returns),
                "eval_max": max(self.eval_returns),
                "eval_returns": self.eval_returns,
            }
        if self.stages:
            row["stages"] = {name: round(seconds, 3) for name, seconds in self.stages.items()}
        if self.acts_by != LAST:
            row["acts_by"] = self.acts_by
        if self.finished is not None:
            row["finished"] = self.finished
        if self.warnings:
            row["warnings"] = list(self.warnings)
        return row | self.metrics

    def figures(self) -> dict[str, float]:
        """The finite numbers of `record`, and the best evaluation so far."""
        return figures_of(self.record() | {"best": self.best})


def figures_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line of metrics."""
    numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
