"""How familiar the last samples are together: small errors at every sample, always on one side, are summed up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float, Int

from fittedq.acting.shares import Shares

MOST_ERROR = 5.0
"""Usual errors at which one is cut, so that a single one does not decide about a whole window."""
LEAST_SHARE = 1e-12


class Seen(NamedTuple):
    """What is told of b samples, one by one."""

    familiar: Float[np.ndarray, "b"]
    place: Float[np.ndarray, "b"]
    """The share of the place alone."""
    error: Float[np.ndarray, "b y"]
    """Of the change, in usual errors, signed; 0 where it is not judged."""

    @property
    def row(self) -> Float[np.ndarray, "b f"]:
        """[log familiar, log place, error]: what a window keeps of a sample."""
        shares = np.log(np.maximum(np.stack([self.familiar, self.place], axis=1), LEAST_SHARE))
        return np.concatenate([shares, np.clip(self.error, -MOST_ERROR, MOST_ERROR)], axis=1)


Trail = Float[np.ndarray, "b _ f"]
"""The rows of the last samples, at most as many as a window has."""


@final
@dataclass(frozen=True)
class Recent:
    """familiar of the last k samples = P(T ≥ t), t = −log min_j p_j, over windows of rows that were held out.

    Of a window with place shares π_i and errors e_i in usual errors, cut at ±5, p_1 is the share of −mean log π, p_2 of
    max_c mean e_c², p_3 of max_c |mean e_c|, and p_4 the newest sample's own familiarity. So a share α of windows that
    are like the data is below α, whatever the dependence. Source: the mean over a window is Shewhart's chart with
    memory (Roberts 1959); the least of several p-values, calibrated together, is Tippett's.
    """

    place: Shares
    size: Shares
    side: Shares
    joint: Shares
    samples: Int[np.ndarray, ""]
    """k."""

    @staticmethod
    def of(rows: Float[np.ndarray, "N f"], linked: Bool[np.ndarray, "N"], samples: int) -> Recent | None:
        """Of rows that were held out, `linked` where one follows the one before; None where no window is whole."""
        ends = _whole(linked, samples)
        if not ends.any():
            return None
        means = _means(rows, samples)[ends[samples - 1 :]]
        place, size, side = (Shares.of(column) for column in means.T)
        least = np.minimum(_least([place, size, side], means), np.exp(rows[ends, 0]))
        return Recent(place, size, side, Shares.of(-np.log(least), samples), np.asarray(samples))

    def __call__(self, trail: Float[np.ndarray, "b k f"]) -> Float[np.ndarray, "b"]:
        """familiar of b windows."""
        least = np.minimum(_least([self.place, self.size, self.side], _figures(trail)), np.exp(trail[:, -1, 0]))
        return self.joint(-np.log(np.maximum(least, LEAST_SHARE)))

    def after(self, seen: Seen, trail: Trail | None) -> tuple[Float[np.ndarray, "b"], Trail]:
        """(familiar, the trail that goes on) at the next sample; the newest alone until a window is whole."""
        row = seen.row[:, None]
        trail = row if trail is None else np.concatenate([trail, row], axis=1)[:, -int(self.samples) :]
        return (self(trail) if trail.shape[1] == self.samples else seen.familiar), trail

    def along(self, seen: Seen, linked: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Of consecutive samples: by the last k of them; the newest alone where there are fewer since a gap."""
        found, samples = np.asarray(seen.familiar, np.float64).copy(), int(self.samples)
        ends = np.flatnonzero(_whole(linked, samples))
        if len(ends):
            windows = np.lib.stride_tricks.sliding_window_view(seen.row, samples, axis=0)
            found[ends] = self(np.moveaxis(windows[ends - samples + 1], 2, 1))
        return found


def linked_rows(obs: Float[np.ndarray, "n s"], after: Float[np.ndarray, "n s"]) -> Bool[np.ndarray, "n"]:
    """Where a transition begins where the one before it ended."""
    return np.concatenate([[False], (obs[1:] == after[:-1]).all(axis=1)]) if len(obs) else np.zeros(0, bool)


def _whole(linked: Bool[np.ndarray, "n"], samples: int) -> Bool[np.ndarray, "n"]:
    """Where the last `samples` rows follow one another."""
    place = np.arange(len(linked))
    return place - np.maximum.accumulate(np.where(linked, 0, place)) >= samples - 1


def _means(rows: Float[np.ndarray, "N f"], samples: int) -> Float[np.ndarray, "w 3"]:
    """The figures of all windows, by running sums."""
    parts = np.concatenate([-rows[:, 1:2], rows[:, 2:] ** 2, rows[:, 2:]], axis=1)
    sums = np.cumsum(np.concatenate([np.zeros((1, parts.shape[1])), parts]), axis=0)
    return _joined((sums[samples:] - sums[:-samples]) / samples)


def _figures(trail: Float[np.ndarray, "b k f"]) -> Float[np.ndarray, "b 3"]:
    error = trail[:, :, 2:]
    return _joined(np.concatenate([-trail[:, :, 1:2], error**2, error], axis=2).mean(axis=1))


def _joined(means: Float[np.ndarray, "w p"]) -> Float[np.ndarray, "w 3"]:
    """[−mean log π, max mean e², max |mean e|]."""
    y = (means.shape[1] - 1) // 2
    if not y:
        return np.concatenate([means, np.zeros((len(means), 2))], axis=1)
    return np.stack([means[:, 0], means[:, 1 : 1 + y].max(axis=1), np.abs(means[:, 1 + y :]).max(axis=1)], axis=1)


def _least(parts: list[Shares], figures: Float[np.ndarray, "w 3"]) -> Float[np.ndarray, "w"]:
    shares = [part(column) for part, column in zip(parts, figures.T, strict=True)]
    return np.maximum(np.min(shares, axis=0), LEAST_SHARE)
