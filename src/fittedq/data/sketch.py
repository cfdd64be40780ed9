"""Whether two sets of rows have rows in common, told by a few numbers that are kept of one of them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt

from fittedq.data.dataset import Dataset
from fittedq.data.quality import row_hashes

HASHES_KEPT = 512
MOST_HASHED = 2_000_000
"""Rows, the first ones of a large dataset."""


def sketch_of(data: Dataset) -> UInt[np.ndarray, "k"]:
    """The HASHES_KEPT smallest hashes of the rows (s, a, r, s'): the same for the same rows in any order.

    Source: Broder 1997 (bottom-k sketches).
    """
    return np.unique(_hashes(data))[:HASHES_KEPT]


def shared_rows(kept: UInt[np.ndarray, "k"], data: Dataset) -> float:
    """The share of the rows of `data` that are among those of which `kept` is the sketch, by the rows that would be
    in it."""
    found = _hashes(data)
    told = found[found <= kept[-1]] if len(kept) == HASHES_KEPT else found
    return float(np.isin(told, kept).mean()) if len(told) else 0.0


def _hashes(data: Dataset) -> UInt[np.ndarray, "n"]:
    columns = [data.columns[name] for name in ("obs", "action", "reward", "next_obs")]
    parts = [part for part in data.chunks() if part.start < MOST_HASHED]
    return np.concatenate([row_hashes(_joined([column[part] for column in columns])) for part in parts])


def _joined(columns: list[np.ndarray]) -> Float[np.ndarray, "k width"]:
    return np.concatenate([np.asarray(column, np.float32).reshape(len(column), -1) for column in columns], axis=1)
