"""q linear in features of (s, a), fitted by least squares."""

from __future__ import annotations

import abc
import functools
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import Arr, Index, namespace
from fittedq.errors import UserError
from fittedq.types import AbstractCritic

BLOCK_ENTRIES = 2**22
"""Entries of the feature matrix held at once by a fit."""


class AbstractFeatures(eqx.Module):
    """φ(s, a), in the environment's units; a fit leaves their own arrays as they are."""

    @abc.abstractmethod
    def __call__(self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"]) -> Float[Arr, "b k"]:
        """The k features of each row."""


class Polynomial(AbstractFeatures):
    """All monomials x_i x_j … of x = [s, a] of total degree `lowest` … `degree`: Polynomial(2) is 1, x_i, x_i x_j."""

    degree: int = eqx.field(static=True)
    lowest: int = eqx.field(static=True, default=0)

    def __check_init__(self):
        if not 0 <= self.lowest <= self.degree:
            raise UserError(f"Polynomial: found degrees {self.lowest} to {self.degree}, expected 0 ≤ lowest ≤ degree.")

    def __call__(self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"]) -> Float[Arr, "b k"]:
        xp = namespace(obs, action)
        x = xp.concatenate([xp.asarray(obs), xp.asarray(action)], axis=-1)
        column, columns = xp.ones_like(x[:, :1]), []
        for degree in range(self.degree + 1):
            if degree > 0:
                prefix, factor = _factors(x.shape[1], degree)
                column = xp.take(column, prefix, axis=1) * xp.take(x, factor, axis=1)
            if degree >= self.lowest:
                columns.append(column)
        return xp.concatenate(columns, axis=-1)

    def monomials(self, variables: int) -> tuple[tuple[int, ...], ...]:
        """For each feature, the coordinates of x it multiplies: () for 1, (0, 2) for x_0 x_2."""
        return tuple(term for degree in range(self.lowest, self.degree + 1) for term in _monomials(variables, degree))


@functools.cache
def _monomials(variables: int, degree: int) -> tuple[tuple[int, ...], ...]:
    return tuple(itertools.combinations_with_replacement(range(variables), degree))


@functools.cache
def _factors(variables: int, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Each monomial of `degree` as one of degree − 1 times a coordinate."""
    smaller = {term: index for index, term in enumerate(_monomials(variables, degree - 1))}
    terms = _monomials(variables, degree)
    return np.array([smaller[term[:-1]] for term in terms]), np.array([term[-1] for term in terms])


class RadialBasis(AbstractFeatures):
    """φ_0 = 1, φ_j = exp(−½ Σ_i ((x_i − c_ji) / width_i)²), x = [s, a]."""

    centers: Float[Arr, "j sm"]
    width: Float[Arr, "sm"]

    @staticmethod
    def from_data(
        inputs: tuple[Float[Arr, "b s"], Float[Arr, "b m"]], count: int, seed: int = 0, scale: float = 1.0
    ) -> RadialBasis:
        """`count` rows of the data, drawn without replacement, as centers; widths are `scale` standard deviations."""
        x = np.concatenate([np.asarray(part) for part in inputs], axis=-1)
        if not 1 <= count <= len(x):
            raise UserError(f"RadialBasis: found {count} centers and {len(x)} rows, expected 1 ≤ centers ≤ rows.")
        if not scale > 0:
            raise UserError(f"RadialBasis: found scale {scale}, expected a number above 0.")
        centers = x[np.random.default_rng(seed).choice(len(x), count, replace=False)]
        spread = x.std(axis=0)
        # A constant coordinate tells no two rows apart, whatever its width.
        return RadialBasis(centers, np.where(spread > 0, scale * spread, 1).astype(x.dtype))

    def __call__(self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"]) -> Float[Arr, "b k"]:
        xp = namespace(obs, action, self.centers)
        x = xp.concatenate([xp.asarray(obs), xp.asarray(action)], axis=-1) / self.width
        # One coordinate at a time: expanding the square would lose digits, broadcasting all at once memory.
        distance = sum((x[:, i, None] - self.centers[:, i] / self.width[i]) ** 2 for i in range(x.shape[1]))
        return xp.concatenate([xp.ones_like(x[:, :1]), xp.exp(-0.5 * distance)], axis=-1)


class Custom(AbstractFeatures):
    """φ(s, a) = function(s, a), row by row: [b, s], [b, m] → [b, k], in NumPy, JAX or both."""

    function: Callable[[Any, Any], Any] = eqx.field(static=True)

    def __call__(self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"]) -> Float[Arr, "b k"]:
        return self.function(obs, action)


class LinearCritic(AbstractCritic):
    """q_j(s, a) = φ(s, a)ᵀ θ_j; `weights` holds θ, a row per critic. In float64 where its inputs and weights are."""

    features: AbstractFeatures
    weights: Float[Arr, "n k"]
    action_set: AbstractActionSet
    has_gradient: ClassVar[bool] = True

    def __init__(self, features: AbstractFeatures, weights: Float[Arr, "n k"], action_set: AbstractActionSet):
        self.features, self.weights, self.action_set = features, weights, action_set

    @staticmethod
    def start(
        features: AbstractFeatures, obs_size: int, action_set: AbstractActionSet, dtype: DTypeLike = np.float32
    ) -> LinearCritic:
        """q_0 = 0, one critic."""
        one = features(np.zeros((1, obs_size), dtype), np.zeros((1, action_set.size), dtype))
        return LinearCritic(features, np.zeros((1, one.shape[1]), dtype), action_set)

    @property
    def size(self) -> int:
        return self.weights.shape[0]

    def subset(self, indices: Index) -> LinearCritic:
        return LinearCritic(self.features, self.weights[indices], self.action_set)

    def __call__(
        self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray | None = None
    ) -> Float[Arr, "n b"]:
        del key
        features = self.features(obs, action)
        # An accelerator's default would round the factors to ten bits.
        with jax.default_matmul_precision("highest"):
            return namespace(features, self.weights).matmul(self.weights, features.T)

    def fit(
        self, inputs: tuple[Float[Arr, "b s"], Float[Arr, "b m"]], y: Float[Arr, "b"], ridge: float = 0.0
    ) -> LinearCritic:
        """θ = argmin Σ (φᵀθ − y)² + ridge ‖θ‖², one critic, the shortest θ where there are several.

        By an orthogonal factorization in float64, block of rows by block of rows: one block's features are held, and
        no digits are lost to normal equations. θ has the dtype of the inputs.
        """
        obs, action = (np.asarray(part) for part in inputs)
        y = np.asarray(y, np.float64)
        if len(y) == 0:
            raise UserError("linear critic: found no rows to fit, expected at least one.")
        if not (np.isfinite(ridge) and ridge >= 0):
            raise UserError(f"linear critic: found ridge {ridge}, expected a number of at least 0.")
        size = self.weights.shape[1]
        # [R | z], triangular: the rows seen so far, rotated; ridge is as many rows again.
        factor = np.concatenate([np.sqrt(ridge) * np.eye(size), np.zeros((size, 1))], axis=1)
        rows = max(1, BLOCK_ENTRIES // (size + 1))
        for first in range(0, len(y), rows):
            part = slice(first, first + rows)
            features = np.asarray(self.features(obs[part], action[part]), np.float64)
            block = np.concatenate([features, y[part, None]], axis=1)
            bad = ~np.isfinite(block).all(axis=1)
            if bad.any():
                raise UserError(
                    f"linear critic: row {first + int(bad.argmax())} has a feature or a target that is not finite, "
                    "expected numbers; drop such rows, or rescale them."
                )
            factor = np.asarray(np.linalg.qr(np.concatenate([factor, block]), mode="r"))
        triangle, target = factor[:size, :size], factor[:size, size]
        # Columns of length one: which directions count as lost must not depend on the units of s and a.
        length = np.sqrt((triangle**2).sum(axis=0))
        length = np.where(length > 0, length, 1.0)
        theta = np.linalg.lstsq(triangle / length, target, rcond=None)[0] / length
        dtype = np.result_type(obs.dtype, action.dtype)
        return LinearCritic(self.features, theta[None].astype(dtype), self.action_set)
