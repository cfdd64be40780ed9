"""What few seeds tell of a method: robust means with intervals, profiles, and who is better how often.

`scores` are of one method, by task: an array of its runs' scores for each task. Tasks are to be on one scale.
Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from fittedq.diagnose.paired import LEVEL, Interval

Scores = Sequence[Float[np.ndarray, "_"]]
RESAMPLES = 10_000
"""Bootstrap samples of an interval."""


def interquartile_mean(scores: Float[np.ndarray, "*r n"]) -> Float[np.ndarray, "*r"]:
    """The mean of the middle half: of n sorted scores ⌊n/4⌋ are left out at either end."""
    count = scores.shape[-1]
    cut = count // 4
    return np.asarray(np.sort(scores, axis=-1)[..., cut : count - cut].mean(-1))


def interval(
    scores: Scores, figure: Callable[[Float[np.ndarray, "*r n"]], Float[np.ndarray, "*r"]] = interquartile_mean
) -> Interval:
    """`figure` of all scores, with the percentile interval of a stratified bootstrap: runs are drawn anew, with
    replacement, within each task.

    Of one run a task there is nothing to draw, and the interval is that one value.
    """
    drawn = np.concatenate([_resampled(task, seed) for seed, task in enumerate(scores)], axis=-1)
    low, high = np.quantile(figure(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(figure(np.concatenate(list(scores)))), float(low), float(high))


def probability_of_improvement(ours: Scores, theirs: Scores) -> Interval:
    """P(X > Y) + ½ P(X = Y) for a run X of ours and a run Y of theirs on the same task, averaged over tasks.

    On each task that is Mann and Whitney's U over the number of pairs. The interval is a stratified bootstrap's.
    """

    def mean_over_tasks(resampled: bool) -> Float[np.ndarray, "*r"]:
        pairs = []
        for seed, (x, y) in enumerate(zip(ours, theirs, strict=True)):
            if resampled:
                x, y = _resampled(x, seed), _resampled(y, len(ours) + seed)
            pairs.append((np.sign(x[..., :, None] - y[..., None, :]).mean((-2, -1)) + 1) / 2)
        return np.asarray(np.mean(pairs, axis=0))

    low, high = np.quantile(mean_over_tasks(True), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(mean_over_tasks(False)), float(low), float(high))


def performance_profile(scores: Scores, at: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """The share of runs whose score is above each value τ of `at`: 1 − the empirical distribution function."""
    return np.mean([(task[:, None] > at).mean(0) for task in scores], axis=0)


def _resampled(scores: Float[np.ndarray, "n"], seed: int) -> Float[np.ndarray, "r n"]:
    place = np.random.default_rng(seed).integers(len(scores), size=(RESAMPLES, len(scores)))
    return scores[place]


def held_by_range(runs: int) -> float:
    """1 − 2^{1−n}: how often the range from the least to the greatest of n scores holds the median of what they are
    drawn from. A bootstrap's interval lies within that range."""
    return 1 - 2.0 ** (1 - runs)
