"""Regression on features of a few numbers: linear in what is fitted, and chosen on blocks that are held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

RIDGES_TRIED = (1e-8, 1e-6, 1e-4, 1e-2)
FREE_RIDGE = 1e-8
"""Of the ridge on the monomials, which say what is simple."""
NEARLY_EXACT = 1e-6
"""A held-out error over the variance, below which no richer features are tried."""
BETTER_BY = 0.05
"""By how much less, in log mean squared error, richer features must miss to be taken."""
MOST_MONOMIALS = 500


@final
@dataclass(frozen=True)
class Features:
    """φ(v) = [1, z, {z_i z_j}, {exp(−((z_j − k_jl) / w_jl)² / 2)}, {exp(−‖z − c_i‖² / 2ℓ²)}].

    z are the `columns` of v, and the differences of pairs of these, in standard units. k_jl are knots over coordinate
    j, and the centres c_i are rows.
    """

    columns: Int[np.ndarray, "c"]
    pairs: Int[np.ndarray, "p 2"]
    mean: Float[np.ndarray, "z"]
    deviation: Float[np.ndarray, "z"]
    products: bool
    knots: Float[np.ndarray, "z k"]
    widths: Float[np.ndarray, "z k"]
    centres: Float[np.ndarray, "m z"]
    length: float

    @staticmethod
    def of(
        inputs: Float[np.ndarray, "n v"],
        *,
        columns: Sequence[int] | None = None,
        pairs: Sequence[tuple[int, int]] = (),
        knots: int = 0,
        centres: int = 0,
        length: float = 1.0,
        seed: int = 0,
    ) -> Features:
        """For rows like `inputs`; `length` is ℓ over √(dim z)."""
        taken = np.arange(inputs.shape[1]) if columns is None else np.asarray(columns, np.int64)
        twos = np.asarray(pairs, np.int64).reshape(-1, 2)
        raw = _read(inputs, taken, twos)
        spread = raw.std(axis=0)
        mean, deviation = raw.mean(axis=0), np.where(spread > 1e-9, spread, 1)
        z = (raw - mean) / deviation
        rows = np.random.default_rng(seed).permutation(len(z))[: min(centres, len(z) // 3)]
        places, widths = _knots(z, knots)
        size = z.shape[1]
        products = size * (size + 3) // 2 < min(MOST_MONOMIALS, len(z) // 3)
        return Features(taken, twos, mean, deviation, products, places, widths, z[rows], length * np.sqrt(max(size, 1)))

    @property
    def free(self) -> int:
        """How many come first and are monomials."""
        size = len(self.mean)
        return 1 + size + (size * (size + 1) // 2 if self.products else 0)

    def __call__(self, inputs: Float[np.ndarray, "n v"]) -> Float[np.ndarray, "n f"]:
        """In double precision, or in single precision where the inputs are: rollouts have no need of more."""
        mean, deviation, knots, widths, centres = (
            part.astype(inputs.dtype) for part in (self.mean, self.deviation, self.knots, self.widths, self.centres)
        )
        z = (_read(inputs, self.columns, self.pairs) - mean) / deviation
        parts = [np.ones((len(z), 1), z.dtype), z]
        if self.products:
            first, second = np.triu_indices(z.shape[1])
            parts.append(z[:, first] * z[:, second])
        if self.knots.size:
            bumps = np.exp(-0.5 * ((z[:, :, None] - knots) / widths) ** 2)
            parts.append(bumps.reshape(len(z), -1))
        if len(self.centres):
            distance = (z**2).sum(axis=1)[:, None] - 2 * z @ centres.T + (centres**2).sum(axis=1)
            parts.append(np.exp(np.maximum(distance, 0) * z.dtype.type(-0.5 / self.length**2)))
        return np.concatenate(parts, axis=1)

    def penalty(self, ridge: float) -> Float[np.ndarray, "f f"]:
        """Per row: little on monomials, `ridge` on the others."""
        size = self.free + self.knots.size + len(self.centres)
        diagonal = np.full(size, ridge)
        diagonal[: self.free] = FREE_RIDGE
        return np.diag(diagonal)


def _read(
    inputs: Float[np.ndarray, "n v"], columns: Int[np.ndarray, "c"], pairs: Int[np.ndarray, "p 2"]
) -> Float[np.ndarray, "n z"]:
    return np.concatenate([inputs[:, columns], inputs[:, pairs[:, 0]] - inputs[:, pairs[:, 1]]], axis=1)


def _knots(z: Float[np.ndarray, "n z"], count: int) -> tuple[Float[np.ndarray, "z k"], Float[np.ndarray, "z k"]]:
    """Knots half-way between quantiles and an even grid, a width apart."""
    if not count:
        return np.zeros((z.shape[1], 0)), np.zeros((z.shape[1], 0))
    quantiles = np.quantile(z, np.linspace(0, 1, count), axis=0).T
    low, high = np.quantile(z, (0.002, 0.998), axis=0)
    knots = (quantiles + np.linspace(low, high, count).T) / 2
    return knots, np.maximum(np.gradient(knots, axis=1), 1e-3)


def solver(gram: Float[np.ndarray, "f f"]) -> Callable[[np.ndarray], np.ndarray]:
    """X ↦ gram⁻¹ X of a symmetric positive matrix; where rounding made it none, of one a little larger."""
    try:
        factor = scipy.linalg.cho_factor(gram, check_finite=False)
    except np.linalg.LinAlgError:
        factor = scipy.linalg.cho_factor(gram + 1e-6 * np.trace(gram) / len(gram) * np.eye(len(gram)))
    return lambda right: scipy.linalg.cho_solve(factor, right, check_finite=False)


class Regression(NamedTuple):
    """Features and a ridge λ: W = argmin Σ_i n_i ‖W φ(v_i) − y_i‖² + λ Σ_i n_i ‖W‖², n_i how often row i counts."""

    features: Features
    ridge: float
    error: Float[np.ndarray, "t"]
    """Held-out squared error over the variance of each target."""

    @staticmethod
    def chosen(
        candidates: Sequence[Features],
        inputs: Float[np.ndarray, "n v"],
        target: Float[np.ndarray, "n t"],
        fold: Int[np.ndarray, "n"],
        count: Float[np.ndarray, "n"] | None = None,
    ) -> Regression:
        """That which predicts rows of held-out folds best; a later candidate only where it is better by far."""
        best, least = None, np.inf
        count = np.ones(len(target)) if count is None else count
        mean = np.average(target, axis=0, weights=count)
        variance = np.maximum(np.average((target - mean) ** 2, axis=0, weights=count), 1e-24)
        for features in candidates:
            if least < np.log(NEARLY_EXACT):
                break
            for ridge, squares in zip(RIDGES_TRIED, _held_out(features, inputs, target, fold, count), strict=True):
                error = np.average(squares, axis=0, weights=count) / variance
                score = float(np.log(error + 1e-12).mean())
                if best is None or score < least - (BETTER_BY if features is not best.features else 0):
                    best, least = Regression(features, ridge, error), score
        assert best is not None
        return best

    def solver(self, design: Float[np.ndarray, "n f"], count: Float[np.ndarray, "n"]) -> Callable[..., np.ndarray]:
        """Σ_i n_i φ_i y_i ↦ W."""
        return solver((design * count[:, None]).T @ design + count.sum() * self.features.penalty(self.ridge))

    def fitted(
        self, design: Float[np.ndarray, "n f"], target: Float[np.ndarray, "n t"], count: Float[np.ndarray, "n"]
    ) -> Float[np.ndarray, "f t"]:
        """W."""
        return self.solver(design, count)(design.T @ (count[:, None] * target))


def _held_out(
    features: Features,
    inputs: Float[np.ndarray, "n v"],
    target: Float[np.ndarray, "n t"],
    fold: Int[np.ndarray, "n"],
    count: Float[np.ndarray, "n"],
) -> list[Float[np.ndarray, "n t"]]:
    """The squared errors of rows that were held out, with each of RIDGES_TRIED."""
    design = features(inputs)
    weighted = design * count[:, None]
    parts = [np.flatnonzero(fold == number) for number in np.unique(fold)]
    grams = [weighted[rows].T @ design[rows] for rows in parts]
    moments = [weighted[rows].T @ target[rows] for rows in parts]
    gram, moment, total = np.sum(grams, axis=0), np.sum(moments, axis=0), count.sum()
    squares = [np.empty_like(target) for _ in RIDGES_TRIED]
    for rows, own, mine in zip(parts, grams, moments, strict=True):
        for square, ridge in zip(squares, RIDGES_TRIED, strict=True):
            left = gram - own + (total - count[rows].sum()) * features.penalty(ridge)
            square[rows] = (design[rows] @ solver(left)(moment - mine) - target[rows]) ** 2
    return squares
