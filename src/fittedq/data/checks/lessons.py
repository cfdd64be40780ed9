"""All checks of a log."""

from __future__ import annotations

import numpy as np

from fittedq.control.augmentation import Augmentation
from fittedq.data.checks.base import LOOK_HERE, AbstractCheck, Unsaid
from fittedq.data.checks.clock import Clock
from fittedq.data.checks.closed_loop import ClosedLoop
from fittedq.data.checks.coverage import Coverage
from fittedq.data.checks.excitation import Excitation
from fittedq.data.checks.floor import Floor
from fittedq.data.checks.markov import Markov
from fittedq.data.checks.rewards import Rewards
from fittedq.data.checks.sample import Sample
from fittedq.data.dataset import Dataset


def checks_of(dataset: Dataset, *, gamma: float | None = None, settling: float | None = None) -> list[AbstractCheck]:
    """What this log can teach, a check each; over pieces of a large one (`Sample`).

    γ and the rows in which the plant settles are by default those that the log's description says; else γ is .99, and a
    model tells how fast the plant is.
    """
    if not all(np.isfinite(column).all() for column in dataset.columns.values()):
        return [Unsaid("checks", "some rows hold NaN or infinity", "Leave them out: import with --drop-bad.")]
    said = dataset.description
    if said is not None and said.settling and said.sample:
        settling = said.settling / said.sample if settling is None else settling
        gamma = Augmentation(**said.augmentation()).discount if gamma is None else gamma
    sample = Sample.of(dataset)
    clock = [] if dataset.times is None else [Clock.of(dataset.times)]
    return [
        ClosedLoop.of(sample),
        Coverage.of(sample),
        Excitation.of(sample, settling),
        Markov.of(sample),
        Rewards.of(dataset),
        Floor.of(sample, 0.99 if gamma is None else gamma),
        *clock,
    ]


def doubts(dataset: Dataset, gamma: float) -> list[str]:
    """What may let a controller learned from this log alone fail in silence, a sentence each: nothing to compare an
    action with, and a plant that settles beyond the 1/(1 − γ) rows that γ looks ahead."""
    if not all(np.isfinite(column).all() for column in dataset.columns.values()):
        return []
    sample, ahead = Sample.of(dataset), 1 / (1 - gamma)
    silent = [check for check in (ClosedLoop.of(sample), Coverage.of(sample)) if check.verdict == LOOK_HERE]
    told = [f"{check.title}: {check.finding()}. {check.remedy()}" for check in silent]
    moves = Excitation.of(sample)
    if isinstance(moves, Excitation) and moves.settling is not None and moves.settling > ahead:
        told.append(
            f"gamma is {gamma:.4g} and looks some {ahead:.0f} rows ahead, but the plant settles in about "
            f"{moves.settling:.0f}; say so with --settling and --sample, or in plant.toml, or set gamma."
        )
    return told
