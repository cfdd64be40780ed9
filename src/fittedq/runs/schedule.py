"""How long a run is, and when it is evaluated and saved."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from fittedq import algorithms
from fittedq.settings import check_counts, setting

USUAL_STEPS = 100_000
"""Steps in an environment, where nothing is said."""


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
    def offline(algorithm: algorithms.Asked, steps: int | None = None, **given: int) -> Schedule:
        """Defaults for learning from a dataset: iterations are long, updates are short."""
        iterations = {"steps": 40, "report_every": 1, "eval_every": 10, "checkpoint_every": 10}
        default = iterations if algorithms.asked_for(algorithm).fitted else {"steps": 50_000}
        return Schedule(**{**default, **({} if steps is None else {"steps": steps}), **given})

    def __post_init__(self) -> None:
        check_counts(self)
