"""How well some numbers predict others, judged on rows that were held out."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from fittedq.data.checks.sample import FOLDS

BENT = 200
"""Random bent features beside the linear ones."""
FEWEST_ROWS, ROWS_PER_FEATURE = 60, 5
"""Below these a regression says nothing."""
RIDGES = (1e-9, 1e-3)
"""Per row, on features of deviation 1: the first leaves an exact relation exact, the second holds noise down."""


def cross_fitted(
    inputs: Float[np.ndarray, "n d"], target: Float[np.ndarray, "n t"], fold: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n t"]:
    """ŷ of each row from a ridge regression on the other folds' rows.

    On [1, x], on these and the products x_i x_j where they are few, and on these and tanh(Wx + b), W and b random
    (an extreme learning machine, Huang, Zhu and Siew 2006), each with a small and a large ridge. For each target, that
    which predicts best where it was held out.
    """
    features, widths = _features(inputs)
    mean = target.mean(axis=0)
    best, least = np.broadcast_to(mean, target.shape).copy(), np.full(target.shape[1], np.inf)
    for width in widths:
        for predicted in _by_folds(features[:, :width], target - mean, fold):
            predicted += mean
            error = ((predicted - target) ** 2).sum(axis=0)
            better = error < least
            best[:, better], least[better] = predicted[:, better], error[better]
    return best


def enough(rows: int, inputs: int) -> bool:
    """Whether so many rows say anything of a regression on so many inputs."""
    return rows >= max(FEWEST_ROWS, ROWS_PER_FEATURE * (inputs + 1))


def standardized(values: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Mean 0, deviation 1; a column that never changes is 0."""
    deviation = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1)


def _features(inputs: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "n f"], list[int]]:
    """The features, and how many of them each regression takes."""
    x = standardized(inputs)
    count = min(BENT, len(x) // ROWS_PER_FEATURE)
    first, second = np.triu_indices(x.shape[1] if x.shape[1] * (x.shape[1] + 1) // 2 <= count else 0)
    rng = np.random.default_rng(0)
    slopes = rng.normal(size=(x.shape[1], count)) * rng.uniform(0.2, 2.0, count) / np.sqrt(max(x.shape[1], 1))
    bent = np.tanh(x @ slopes + rng.uniform(-2, 2, count))
    parts = [np.ones((len(x), 1)), x, standardized(x[:, first] * x[:, second]), standardized(bent)]
    widths = np.cumsum([part.shape[1] for part in parts])[1:]
    return np.concatenate(parts, axis=1), list(dict.fromkeys(widths.tolist()))


def _by_folds(
    features: Float[np.ndarray, "n f"], target: Float[np.ndarray, "n t"], fold: Int[np.ndarray, "n"]
) -> list[Float[np.ndarray, "n t"]]:
    """The predictions with each of RIDGES."""
    parts = [np.flatnonzero(fold == number) for number in range(FOLDS)]
    grams = [features[rows].T @ features[rows] for rows in parts]
    moments = [features[rows].T @ target[rows] for rows in parts]
    gram, moment = sum(grams), sum(moments)
    found = [np.empty_like(target) for _ in RIDGES]
    for rows, own, mine in zip(parts, grams, moments, strict=True):
        for predicted, ridge in zip(found, RIDGES, strict=True):
            penalty = ridge * max(len(target) - len(rows), 1) * np.eye(features.shape[1])
            predicted[rows] = features[rows] @ np.linalg.solve(gram - own + penalty, moment - mine)
    return found
