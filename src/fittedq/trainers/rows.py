"""Rows of transitions: normalized, ranged over, sampled evenly."""

from __future__ import annotations

import numpy as np

from fittedq.data.dataset import Dataset
from fittedq.data.statistics import RunningMoments


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


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` rows from the first to the last, or all where there are no more."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
