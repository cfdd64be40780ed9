"""Stretches of a log that hardly know of one another: what intervals are counted in, and what is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int

from fittedq.data.checks.excitation import StepModel
from fittedq.data.checks.sample import Ranges, Sample, runs_of
from fittedq.data.dataset import Dataset, Writer
from fittedq.data.description import Description
from fittedq.errors import UserError, plural
from fittedq.settings import real

ENOUGH_RUNS = 20
"""Episodes that are blocks by themselves."""
FIFTIETH = 50
UNTOLD = 20
"""Rows in which a plant of which nobody knows better is taken to settle: a short log is no fifty blocks."""
FEWEST_BLOCKS = 10
"""Blocks that an interval needs."""


def settling_rows(asked: float | None, described: Description, sample: Sample) -> int:
    """Rows in which the plant settles: as asked, else as described, else by a linear model; else a fiftieth of all, and
    `UNTOLD` at least."""
    if asked is not None:
        if not 1 <= asked < np.inf:
            raise UserError(f"found {asked:g}, expected a number of rows of at least 1.", argument="settling")
        return int(np.ceil(asked))
    if described.settling and described.sample:
        return int(np.ceil(described.settling / described.sample))
    model = StepModel.of(sample)
    told = None if model is None else model.settling()
    return int(np.ceil(told)) if told is not None else max(sample.total // FIFTIETH, UNTOLD)


def blocks_of(runs: Ranges, length: int) -> tuple[Int[np.ndarray, "b"], Int[np.ndarray, "b"], str]:
    """(starts, stops, in words): runs of rows, in stretches of `length` or more where there are few of them."""
    starts, stops = runs
    said = plural(len(starts), "episode", "episodes")
    if len(starts) < ENOUGH_RUNS:
        edges = [
            np.linspace(start, stop, max((stop - start) // length, 1) + 1).astype(int)
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]
        starts, stops = (np.concatenate([edge[part] for edge in edges]) for part in (slice(-1), slice(1, None)))
        blocks, rows = plural(len(starts), "block", "blocks"), plural(length, "row", "rows")
        said = f"{blocks}: episodes, or stretches of at least one settling time ({rows}) of longer ones"
    return starts, stops, said


def split(
    dataset: Dataset, learn: str | Path, held_out: str | Path, *, share: float = 0.3, settling: float | None = None
) -> tuple[Dataset, Dataset]:
    """(rows to learn from, rows held out): two folders, `share` of the blocks in the second, from everywhere.

    Where a block ends within an episode, its last row is truncated. UserError: a part without a block.
    """
    share = real(share, "share", "a share between 0 and 1", high=1.0)
    described, runs = dataset.description or Description(), runs_of(dataset)
    starts, stops, said = blocks_of(runs, settling_rows(settling, described, Sample.of(dataset)))
    place = np.floor(np.arange(len(starts) + 1) * share)
    kept = np.diff(place) == 0
    if kept.all() or not kept.any():
        raise UserError(f"found {share:g} of {said}, which leaves one of the two empty.", argument="share")
    with (
        Writer(learn, action_set=dataset.action_set) as first,
        Writer(held_out, action_set=dataset.action_set) as second,
    ):
        for start, stop, learned in zip(starts.tolist(), stops.tolist(), kept.tolist(), strict=True):
            writer = first if learned else second
            writer.append(dataset.transitions(slice(start, stop)))
            writer.cut()
        about = {"split": dataset.path or "arrays", "blocks": said}
        return tuple(  # type: ignore[return-value]
            writer.finish({**about, "part": part, "share": share}, dataset.description)
            for writer, part in ((first, "to learn from"), (second, "held out"))
        )
