"""Rows of transitions: normalized, ranged over, sampled evenly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fittedq.actions.base import AbstractActionSet, described_apart
from fittedq.approx.host import to_host
from fittedq.data.dataset import Dataset
from fittedq.data.statistics import ReturnScale, RunningMoments
from fittedq.errors import UserError
from fittedq.trainers.settings import FitSettings
from fittedq.types import REWARD, Transition


def normalize_rows(rows: np.ndarray, moments: RunningMoments, obs_size: int, action_size: int) -> None:
    """Normalize s and s' of packed rows, in place."""
    end = obs_size + action_size
    for columns in (slice(0, obs_size), slice(end, end + obs_size)):
        rows[..., columns] = moments.normalize(rows[..., columns])


def reward_range(data: Dataset) -> tuple[float, float]:
    """(smallest, largest) reward."""
    reward = data.columns["reward"]
    parts = [reward[first : first + 2**20] for first in range(0, len(reward), 2**20)]
    return min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)


def evenly(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` rows from the first to the last, or all where there are no more."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def consecutive(rows: np.ndarray, count: int, length: int) -> np.ndarray:
    """About `count` rows, in stretches of `length` that lie evenly; all where there are no more."""
    if len(rows) <= count:
        return rows
    firsts = np.linspace(0, len(rows) - length, max(1, count // length)).astype(int)
    return rows[np.unique(firsts[:, None] + np.arange(length))]


CHUNK = 4096
"""Rows labelled in one compiled call."""


def index_chunks(indices: np.ndarray, size: int = CHUNK) -> Iterator[np.ndarray]:
    """`indices`, a chunk at a time."""
    return (indices[first : first + size] for first in range(0, len(indices), size))


def filled(rows: np.ndarray, least: int = 1) -> np.ndarray:
    """`rows` filled up to a whole chunk (few: to a power of two, not below `least`) with copies of the last: chunks
    share a shape."""
    size = min(CHUNK, max(least, 1 << (len(rows) - 1).bit_length())) if len(rows) else 1
    return (
        rows
        if len(rows) == size
        else np.concatenate([rows, np.broadcast_to(rows[-1:], (size - len(rows), *rows.shape[1:]))])
    )


HELD_IN_MEMORY = 2**30
"""Bytes of packed rows up to which a dataset is read into memory once."""


def check_same_plant(data: Dataset, obs_size: int, action_set: AbstractActionSet) -> None:
    """A UserError where a dataset is not from an environment of these sizes and actions."""
    if (data.obs_size, data.action_set) != (obs_size, action_set):
        own, others = described_apart(data.action_set, action_set)
        raise UserError(
            f"dataset: its observations have {data.obs_size} numbers and its actions lie in {own}, the environment has "
            f"{obs_size} and {others}; use the environment it was taken from."
        )


def check_same_moments(given: RunningMoments | None, own: RunningMoments | None) -> None:
    """A UserError where networks that were learned under `given` would read a dataset normalized by its `own`."""
    if given is not None and own is not None:
        if all(np.array_equal(one, other) for one, other in zip(vars(given).values(), vars(own).values(), strict=True)):
            return
        raise UserError(
            "its networks read observations normalized by other data than these; train it in an environment, or "
            "take an agent that was fitted to the same dataset or with normalize_obs=false.",
            argument="start",
        )


def reward_scale(dataset: Dataset, gamma: float, settings: FitSettings) -> float:
    """What the rewards of a dataset are divided by: `ReturnScale` over its rows in order; 1 where none is asked for."""
    if not settings.scale_rewards:
        return 1.0
    scale = ReturnScale.start(1, gamma, settings.return_bound)
    columns = (dataset.columns[name] for name in ("reward", "terminated", "truncated"))
    return float(scale.over(*(np.asarray(column) for column in columns)).scale)


class Rows:
    """A dataset's packed rows, observations normalized; read into memory once where they fit.

    `moments` are taken over where given, else computed from the data where `normalize` asks for them. Rewards are
    divided by `reward_scale`.
    """

    def __init__(
        self, dataset: Dataset, normalize: bool, moments: RunningMoments | None = None, reward_scale: float = 1.0
    ):
        self.reward_scale = reward_scale
        self.size, self.obs_size, self.action_size = len(dataset), dataset.obs_size, dataset.action_size
        self.width = Transition.width(self.obs_size, self.action_size)
        self.moments = moments
        if normalize and moments is None:
            moments = RunningMoments.start(self.obs_size, dataset.action_set.reads or ())
            with np.errstate(over="ignore", invalid="ignore"):
                for rows in self._slices():
                    moments = moments.update(np.asarray(dataset.transitions(rows).obs))
                    dataset.forget()
            _check_moments(moments)
            self.moments = to_host(moments)
        self._dataset = dataset
        self._held = None
        if self.size * self.width * 4 <= HELD_IN_MEMORY:
            self._held = np.empty((self.size, self.width), np.float32)
            for rows in self._slices():
                self._held[rows] = self._read(rows)
                dataset.forget()

    @property
    def held(self) -> bool:
        """Whether all of them are in memory."""
        return self._held is not None

    def __call__(self, rows: slice | np.ndarray) -> np.ndarray:
        """The packed rows at an index or in a slice."""
        if self._held is not None:
            return self._held[rows]
        packed = self._read(rows)
        self._dataset.forget()
        return packed

    def taken(self, count: int) -> Transition:
        """Up to `count` rows, spread evenly, as the dataset has them."""
        return self._dataset.transitions(evenly(np.arange(self.size), count))

    def _slices(self) -> Iterator[slice]:
        return (slice(first, min(first + 16 * CHUNK, self.size)) for first in range(0, self.size, 16 * CHUNK))

    def _read(self, rows: slice | np.ndarray) -> np.ndarray:
        packed = np.array(self._dataset.rows(rows), np.float32)
        if self.moments is not None:
            normalize_rows(packed, self.moments, self.obs_size, self.action_size)
        if self.reward_scale != 1.0:
            packed[..., REWARD] /= np.float32(self.reward_scale)
        return packed


def _check_moments(moments: RunningMoments) -> None:
    """A UserError where observations are too large for their squares in float32."""
    wrong = np.flatnonzero(~(np.isfinite(moments.mean) & np.isfinite(moments.squares)))
    if len(wrong):
        raise UserError(
            f"dataset: observation [{wrong[0]}] is too large to be normalized (float32 cannot hold the sum of its "
            "squares); rescale it, or leave out rows where it stands for a missing value."
        )
