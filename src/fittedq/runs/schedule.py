"""How long a run is, and when it is evaluated and saved."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from fittedq import algorithms
from fittedq.settings import check_counts, setting

USUAL_STEPS, USUAL_UPDATES = 100_000, 50_000
"""Steps in an environment, and updates from a dataset, where nothing is said."""

HORIZONS = 5
"""What comes so many horizons 1/(1 − γ) later counts exp(−5) = .7 %."""
FEWEST_ITERATIONS, MOST_ITERATIONS = 40, 500
"""Of a fitted method, where nobody says how many."""


@dataclass(frozen=True)
class Schedule:
    """How long to train and how often to look. Evaluation and checkpoints change nothing in the run itself.

    A step is one of the environment's; from a dataset it is an update, or an iteration of a fitted method.
    """

    steps: int = setting(dataclasses.MISSING, "steps in all", low=1)
    report_every: int = setting(1_000, "steps between reports", low=1)
    eval_every: int = setting(5_000, "steps between evaluations; 0: none", low=0)
    eval_episodes: int = setting(5, "episodes in each evaluation", low=1)
    checkpoint_every: int = setting(10_000, "steps between checkpoints; 0: only at the end", low=0)
    gap_every: int = setting(0, "steps between looks at the gap on some of the states learned from; 0: none", low=0)

    @staticmethod
    def offline(algorithm: algorithms.Asked, steps: int | None = None, **given: int) -> Offline:
        """Defaults for learning from a dataset: iterations are long, updates are short."""
        if not algorithms.asked_for(algorithm).fitted:
            return Offline(USUAL_UPDATES if steps is None else steps, given)
        return Offline(steps, {"report_every": 1, "eval_every": 10, "checkpoint_every": 10} | given)

    def at(self, gamma: float) -> Schedule:
        """The schedule of a run with this discount."""
        del gamma
        return self

    def __post_init__(self) -> None:
        check_counts(self)


@final
@dataclass(frozen=True)
class Offline:
    """The schedule of a run from a dataset; without `steps`, as many iterations as its discount asks for."""

    steps: int | None
    given: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.at(0.0)

    def at(self, gamma: float) -> Schedule:
        """The schedule. An iteration carries what is known one step back, so n of them plan n samples ahead: 5/(1 − γ)
        of them, in `FEWEST_ITERATIONS` … `MOST_ITERATIONS`."""
        ahead = math.ceil(HORIZONS / max(1.0 - gamma, HORIZONS / MOST_ITERATIONS) - 1e-6)
        steps = max(ahead, FEWEST_ITERATIONS) if self.steps is None else self.steps
        return Schedule(steps=steps, **self.given)
