"""The rows that the checks look at: all of a small log, pieces from everywhere of a large one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Int

from fittedq.data.dataset import Dataset
from fittedq.data.description import Description

MOST_ROWS = 10_000
PIECE = 500
"""Rows in a row of the longest piece."""
FOLDS = 5
FEWEST_GROUPS = 20
"""Runs are cut into blocks until so many groups can be held out in turn."""

Ranges = tuple[Int[np.ndarray, "r"], Int[np.ndarray, "r"]]
"""(starts, stops)."""


@final
@dataclass(frozen=True)
class Sample:
    """n rows of a dataset of N, in pieces of rows that follow one another without a gap, in float64."""

    total: int
    """N."""
    obs: Float[np.ndarray, "n s"]
    action: Float[np.ndarray, "n m"]
    reward: Float[np.ndarray, "n"]
    next_obs: Float[np.ndarray, "n s"]
    terminated: Bool[np.ndarray, "n"]
    integral: Float[np.ndarray, "n s+1"]
    """Σ of the observations since the run's first row, this one included, and the number of these rows."""
    age: Int[np.ndarray, "n"]
    """How many rows before this one are of the same piece."""
    fold: Int[np.ndarray, "n"]
    """0 … FOLDS − 1: rows of an episode, or of a block where episodes are few, are held out together."""
    group: Int[np.ndarray, "n"]
    """The episode or block."""
    low: Float[np.ndarray, "m"]
    high: Float[np.ndarray, "m"]
    """The declared box of the actions."""
    obs_names: tuple[str, ...]
    action_names: tuple[str, ...]
    """The log's names for the columns, where its description has them, else their numbers."""
    history: int
    """Observations that the description lets a controller see."""

    @staticmethod
    def of(dataset: Dataset, most: int = MOST_ROWS) -> Sample:
        """Pieces at even distances, `most` rows in all or a little more."""
        said = dataset.description or Description()
        runs = runs_of(dataset)
        starts, stops, run = _pieces(runs, most)
        age, rows = within(starts, stops)
        run = np.repeat(run, stops - starts)
        group = _groups(run, rows - runs[0][run])
        columns = {name: np.asarray(dataset.columns[name][rows]) for name in dataset.columns}
        vectors = {name: columns[name].astype(np.float64) for name in ("obs", "action", "reward", "next_obs")}
        return Sample(
            total=len(dataset),
            **vectors,
            terminated=columns["terminated"],
            integral=_integrals(dataset, runs, starts, stops, run, rows, vectors["obs"]),
            age=age,
            fold=group % FOLDS,
            group=group,
            low=np.array(dataset.action_set.low, np.float64),
            high=np.array(dataset.action_set.high, np.float64),
            obs_names=_names("observation", dataset.obs_size, said.obs),
            action_names=_names("action", dataset.action_size, said.action),
            history=said.history,
        )

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def whole(self) -> bool:
        """Whether these are all rows."""
        return len(self) == self.total

    @cached_property
    def moving(self) -> Bool[np.ndarray, "s"]:
        """Coordinates of the observation that change."""
        return np.ptp(self.obs, axis=0) > 0

    def follows(self, lags: int) -> Int[np.ndarray, "k"]:
        """Rows with so many rows before them."""
        return np.flatnonzero(self.age >= lags)

    def past(self, column: Float[np.ndarray, "n w"], rows: Int[np.ndarray, "k"], lags: range) -> np.ndarray:
        """The column at these lags of each row, side by side [k, w·lags]."""
        return np.concatenate([column[rows - lag] for lag in lags] or [np.empty((len(rows), 0))], axis=1)


def _names(kind: str, size: int, said: tuple[str, ...]) -> tuple[str, ...]:
    return said if len(said) == size else tuple(f"{kind} {axis}" for axis in range(size))


def runs_of(dataset: Dataset) -> Ranges:
    """Rows that follow one another: episodes, cut where a next observation is not the next row's."""
    ended = dataset.columns["terminated"] | dataset.columns["truncated"]
    ended[dataset.broken_links()] = True
    ended[-1] = True
    stops = np.flatnonzero(ended) + 1
    return np.concatenate([[0], stops[:-1]]), stops


def within(
    starts: Int[np.ndarray, "p"], stops: Int[np.ndarray, "p"]
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """For every row of these ranges: how far it is from its range's start, and its number."""
    lengths = stops - starts
    age = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return age, np.repeat(starts, lengths) + age


def _pieces(runs: Ranges, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(start, stop, run) of the pieces taken."""
    lengths = runs[1] - runs[0]
    if lengths.sum() <= most:
        return *runs, np.arange(len(lengths))
    counts = -(-lengths // PIECE)
    run = np.repeat(np.arange(len(lengths)), counts)
    index, _ = within(np.zeros_like(counts), counts)
    starts = runs[0][run] + index * PIECE
    stops = np.minimum(starts + PIECE, runs[1][run])
    taken = np.linspace(0, len(run) - 1, min(len(run), -(-most * len(run) // int(lengths.sum())))).astype(int)
    return starts[taken], stops[taken], run[taken]


def _groups(run: Int[np.ndarray, "n"], place: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """The run, or its block where runs are few; numbered in the order of the rows."""
    few = len(np.unique(run)) < FEWEST_GROUPS
    block = np.maximum(1, -(-len(run) // FEWEST_GROUPS)) if few else len(place) + place.max() + 1
    _, group = np.unique(np.stack([run, place // block]), axis=1, return_inverse=True)
    return group.reshape(-1)


def _integrals(
    dataset: Dataset,
    runs: Ranges,
    starts: Int[np.ndarray, "p"],
    stops: Int[np.ndarray, "p"],
    run: Int[np.ndarray, "n"],
    rows: Int[np.ndarray, "n"],
    obs: Float[np.ndarray, "n s"],
) -> Float[np.ndarray, "n s+1"]:
    """Σ over the rows of the run up to each row taken, those between the pieces too."""
    edges = np.unique(np.concatenate([runs[0], starts]))
    sums = np.add.reduceat(dataset.columns["obs"], edges, axis=0, dtype=np.float64)
    before = np.cumsum(sums, axis=0) - sums
    lengths = stops - starts
    at_start = (
        before[np.searchsorted(edges, starts)]
        - before[np.searchsorted(edges, runs[0][run[np.cumsum(lengths) - lengths]])]
    )
    inside = np.cumsum(obs, axis=0)
    first = np.cumsum(lengths) - lengths
    inside -= np.repeat(inside[first] - obs[first], lengths, axis=0)
    count = rows - runs[0][run] + 1.0
    return np.concatenate([np.repeat(at_start, lengths, axis=0) + inside, count[:, None]], axis=1)
