"""All checks of a log."""

from __future__ import annotations

import numpy as np

from fittedq.data.checks.base import AbstractCheck, Unsaid
from fittedq.data.checks.closed_loop import ClosedLoop
from fittedq.data.checks.coverage import Coverage
from fittedq.data.checks.excitation import Excitation
from fittedq.data.checks.floor import Floor
from fittedq.data.checks.markov import Markov
from fittedq.data.checks.rewards import Rewards
from fittedq.data.checks.sample import Sample
from fittedq.data.dataset import Dataset


def checks_of(dataset: Dataset, *, gamma: float = 0.99, settling: float | None = None) -> list[AbstractCheck]:
    """What this log can teach, a check each; over pieces of a large one (`Sample`)."""
    if not all(np.isfinite(column).all() for column in dataset.columns.values()):
        return [Unsaid("checks", "some rows hold NaN or infinity", "Leave them out: import with --drop-bad.")]
    sample = Sample.of(dataset)
    return [
        ClosedLoop.of(sample),
        Coverage.of(sample),
        Excitation.of(sample, settling),
        Markov.of(sample),
        Rewards.of(dataset),
        Floor.of(sample, gamma),
    ]
