"""Whether the state is one: does a row before this one help to predict the next?"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Bool, Float, Int

from fittedq.data.checks.base import ADVICE, GOOD, AbstractCheck, Axes, Unsaid
from fittedq.data.checks.regression import FEWEST_ROWS, cross_fitted, enough
from fittedq.data.checks.sample import Sample

MOST_LAGS = 4
LEAST_GAIN, LEAST_SHARE, LEAST_SIGMAS = 0.1, 0.03, 3.0


@final
@dataclass(frozen=True)
class Markov(AbstractCheck):
    """e_k: the held-out squared error of s' − s from (s, a) of this row and of the k before, over its variance.

    `history` is 1 + the smallest k after which no more rows help, as the setting counts it: a row helps if it takes
    away a tenth of what is left and .03 of the variance, in one coordinate, and the difference over held-out groups is
    three standard errors.

    Why these: a tenth is worth the inputs that it adds; below .03 of the variance what is left may be the bend of the
    plant, which a row before tells too (a tank that overflows), rather than a hidden state; three standard errors are
    chance once in a thousand.
    """

    title: ClassVar[str] = "markov"
    history: int
    """Observations that make a state, the newest among them."""
    errors: list[list[float]]
    """e_0, e_1, … of each coordinate that changes."""
    place: int
    """The coordinate among these that gains most."""
    name: str
    """What it is called."""
    described: int
    """The history that the log's description has already."""

    @staticmethod
    def of(sample: Sample) -> Markov | Unsaid:
        """The check, for as many lags as the log is long enough for."""
        target = sample.next_obs - sample.obs
        lags = [k for k in range(MOST_LAGS + 1) if _says(sample, k)]
        changing = np.flatnonzero(target[sample.follows(max(lags, default=0))].var(axis=0) > 0)
        if len(lags) < 2 or not len(changing):
            return Unsaid(
                Markov.title,
                f"fewer than {FEWEST_ROWS} rows have a row before them"
                if len(changing)
                else "the observation never changes",
                "A log of longer episodes would tell.",
            )
        rows = sample.follows(lags[-1])
        target = target[rows][:, changing]
        seen = sample.obs[:, sample.moving]
        squares = []
        for k in lags:
            x = np.hstack([sample.past(seen, rows, range(k + 1)), sample.past(sample.action, rows, range(k + 1))])
            squares.append((target - cross_fitted(x, target, sample.fold[rows])) ** 2)
        variance, group = target.var(axis=0), sample.group[rows]
        helps = [_helps(*pair, variance, group) for pair in itertools.pairwise(squares)]
        errors = np.array([square.mean(axis=0) for square in squares]) / variance
        before = next((k for k, helped in enumerate(helps) if not helped.any()), len(helps))
        gains = errors[0] - errors[before]
        place = int(gains.argmax())
        return Markov(before + 1, errors.T.tolist(), place, sample.obs_names[changing[place]], sample.history)

    @property
    def verdict(self) -> str:
        return ADVICE if self.history > self.described else GOOD

    def finding(self) -> str:
        if self.history == 1:
            return "no row before this one helps to predict the next (held out)"
        rows = "the row" if self.history == 2 else f"the {self.history - 1} rows"
        error = self.errors[self.place]
        return (
            f"with {rows} before this one, the error of predicting {self.name} falls from "
            f"{100 * error[0]:.3g} to {100 * error[self.history - 1]:.3g} % of its variance (held out)"
        )

    def remedy(self) -> str:
        return f"The state is not all that matters: train with --history {self.history}, or log what is hidden."

    def draw(self, axes: Axes) -> None:
        for error in self.errors:
            axes.plot(range(len(error)), error, ".-")
        axes.axvline(self.history - 1, color="0.5", linestyle=":")
        axes.set(
            xlabel="rows before this one", ylabel="error / variance", yscale="log", title=f"history {self.history}"
        )


def _says(sample: Sample, lags: int) -> bool:
    rows = sample.follows(lags)
    inputs = (lags + 1) * int(sample.moving.sum() + sample.action.shape[1])
    return enough(len(rows), inputs) and len(np.unique(sample.fold[rows])) > 1


def _helps(
    without: Float[np.ndarray, "n s"],
    using: Float[np.ndarray, "n s"],
    variance: Float[np.ndarray, "s"],
    group: Int[np.ndarray, "n"],
) -> Bool[np.ndarray, "s"]:
    """Per coordinate, whether one more row helps."""
    gain = (without - using).mean(axis=0)
    _, group = np.unique(group, return_inverse=True)
    sums = np.array([np.bincount(group, column) for column in (without - using - gain).T])
    error = np.sqrt((sums**2).sum(axis=1)) / len(without)
    return (gain > LEAST_GAIN * without.mean(axis=0)) & (gain > LEAST_SHARE * variance) & (gain > LEAST_SIGMAS * error)
