"""How long a run is, and what is looked at on the way."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from fittedq import algorithms
from fittedq.algorithms.fitted import FittedAlgorithm
from fittedq.settings import settle, whole


@dataclass(frozen=True)
class Schedule:
    """How long to train and how often to look. Evaluation and checkpoints change nothing in the run itself.

    A step is one of the environment's; from a dataset it is an update, or an iteration of a fitted method.
    """

    steps: int
    report_every: int = 1_000
    eval_every: int = 5_000
    eval_episodes: int = 5
    checkpoint_every: int = 10_000
    gap_every: int = 0
    """Steps between looks at the amortization gap on some of the states learned from; 0: none."""

    @staticmethod
    def offline(algorithm: algorithms.Asked, steps: int | None = None, **given: int) -> Schedule:
        """Defaults for learning from a dataset: iterations are long, updates are short."""
        cls = algorithms.class_of(algorithm)
        fitted = issubclass(cls, FittedAlgorithm)
        every = {"report_every": 1, "eval_every": 10, "checkpoint_every": 10} if fitted else {}
        return Schedule(steps=cls.offline_steps if steps is None else steps, **{**every, **given})

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            low = 0 if field.name in ("eval_every", "checkpoint_every", "gap_every") else 1
            settle(self, field.name, whole(getattr(self, field.name), field.name, low))
