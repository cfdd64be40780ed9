"""How much of the action box was tried at like states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float, Int

from fittedq.data.checks.base import GOOD, LOOK_HERE, AbstractCheck, Axes, Unsaid
from fittedq.data.checks.regression import FEWEST_ROWS, cross_fitted, enough, standardized
from fittedq.data.checks.sample import Sample

LEAST_COVERED = 0.1
NEIGHBOURS, QUERIES = 30, 500
PER_STRETCH = 5
"""Rows taken of a stretch in which the action is held: a plant at rest must not fill a neighbourhood alone."""


@final
@dataclass(frozen=True)
class Coverage(AbstractCheck):
    """Deviation of the actions at like states, in that of uniform actions: √(12 · λ), at most 1.

    λ is a variance in box widths, Var(vᵀa | s) at the median state s: v is each action by itself, and the eigenvector
    of E_s[Cov(a | s)] with the smallest eigenvalue, the direction that is tried least. Uniform actions give 1, Gaussian
    noise of σ box widths around a controller √12 σ, a controller alone 0. Cov(a | s) is that of the NEIGHBOURS states
    nearest to s, after what a regression on s predicts is taken away, so that the controller's slope within the
    neighbourhood does not count as variety.

    Why .1: such noise is 3 % of the box. The argmax over a box of which less was tried is one of an extrapolation.
    """

    title: ClassVar[str] = "coverage"
    covered: list[float]
    """Of each action."""
    least: float
    """In the direction of actions that is tried least."""
    direction: list[float]
    """That direction, in box widths."""
    obs: Float[np.ndarray, "k"]
    action: Float[np.ndarray, "k"]
    low: Float[np.ndarray, "m"]
    high: Float[np.ndarray, "m"]
    shown: tuple[int, int]
    """The coordinate of the observation and the action that the picture shows."""
    names: tuple[str, str]
    """What these are called."""
    actions: tuple[str, ...]

    @staticmethod
    def of(sample: Sample) -> Coverage | Unsaid:
        """The check."""
        width = sample.high - sample.low
        rows = _thinned(sample)
        if len(rows) < FEWEST_ROWS or not (width > 0).all():
            reason = f"{len(rows)} rows differ enough to be compared" if (width > 0).all() else "the box has no width"
            return Unsaid(Coverage.title, reason, f"It takes {FEWEST_ROWS} rows, and a box in which actions differ.")
        seen = sample.obs[:, sample.moving]
        action = sample.action / width
        left = action
        if enough(len(sample), seen.shape[1]) and seen.shape[1]:
            left = action - cross_fitted(seen, action, sample.fold)
        near = 12 * _near(standardized(seen)[rows], left[rows])
        direction = np.linalg.eigh(near.mean(axis=0))[1][:, 0]
        axis = int(np.abs(direction).argmax())
        shown = np.abs(np.nan_to_num(standardized(seen).T @ standardized(action[:, [axis]]))).ravel()
        coordinate = int(np.flatnonzero(sample.moving)[shown.argmax()]) if len(shown) else 0
        return Coverage(
            covered=[_deviation(near[:, axis, axis]) for axis in range(len(width))],
            least=_deviation(direction @ near @ direction),
            direction=direction.tolist(),
            obs=sample.obs[:, coordinate],
            action=sample.action[:, axis],
            low=sample.low,
            high=sample.high,
            shown=(coordinate, axis),
            names=(sample.obs_names[coordinate], sample.action_names[axis]),
            actions=sample.action_names,
        )

    @property
    def verdict(self) -> str:
        return LOOK_HERE if self.least < LEAST_COVERED else GOOD

    def finding(self) -> str:
        pairs = zip(self.actions, self.covered, strict=True)
        each = ", ".join(f"{100 * share:.0f} % of the box of {name}" for name, share in pairs)
        least = f", and {100 * self.least:.0f} % in the direction tried least" if len(self.covered) > 1 else ""
        return f"at like states the actions cover {each}{least}; good from {100 * LEAST_COVERED:.0f} %"

    def remedy(self) -> str:
        if min(self.covered) >= LEAST_COVERED:
            told = " ".join(f"{share:+.2f}·{name}" for share, name in zip(self.direction, self.actions, strict=True))
            return f"The actions move together: {told} hardly changes. Move each of them by itself."
        return (
            "The best action of a critic will lie where nothing was tried. Move the action further from what the "
            "controller asks for, or narrow the box (--action-low, --action-high at import, --limit at training) to "
            "what was tried."
        )

    def draw(self, axes: Axes) -> None:
        axis = self.shown[1]
        axes.plot(self.obs, self.action, ".", markersize=2, alpha=0.4)
        for end in (self.low[axis], self.high[axis]):
            axes.axhline(end, color="0.5", linewidth=1)
        axes.set(xlabel=self.names[0], ylabel=self.names[1], title=f"{100 * self.least:.0f} % covered")


def _deviation(variances: Float[np.ndarray, "q"]) -> float:
    return float(min(np.sqrt(max(np.median(variances), 0)), 1))


def _thinned(sample: Sample) -> Int[np.ndarray, "k"]:
    """PER_STRETCH rows, evenly, of each stretch in which the action is held."""
    new = np.ones(len(sample), bool)
    new[1:] = (sample.action[1:] != sample.action[:-1]).any(axis=1) | (sample.age[1:] == 0)
    starts = np.flatnonzero(new)
    lengths = np.diff(np.append(starts, len(sample)))
    place = np.arange(len(sample)) - np.repeat(starts, lengths)
    length = np.repeat(lengths, lengths)
    # The row begins another of PER_STRETCH equal parts than the row before it.
    return np.flatnonzero((place * PER_STRETCH // length != (place - 1) * PER_STRETCH // length) | (place == 0))


def _near(state: Float[np.ndarray, "n s"], action: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "q m m"]:
    """The actions' covariances in the neighbourhoods of QUERIES states."""
    count = min(NEIGHBOURS, max(10, len(state) // 10))
    queries = np.linspace(0, len(state) - 1, min(QUERIES, len(state))).astype(int)
    distance = (state**2).sum(axis=1) - 2 * state[queries] @ state.T
    near = np.argpartition(distance, count - 1, axis=1)[:, :count]
    of = action[near] - action[near].mean(axis=1, keepdims=True)
    return np.einsum("qki,qkj->qij", of, of) / (count - 1)
