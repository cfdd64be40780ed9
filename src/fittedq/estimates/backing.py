"""Whether the log has anything to say about where a controller goes, and what it does there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fittedq.estimates.chain import Chain
from fittedq.estimates.deciding import Imitating
from fittedq.estimates.evidence import Evidence
from fittedq.estimates.features import Features, Regression

VISITED = 400
"""States and actions of the rollouts that are looked at."""
SIGMAS = 3.0
"""How far from the logged policy's mean an action may be."""
NEAREST, NEAR = 5, 0.99
"""A state is one of the log's where its NEAREST-th neighbour is no farther than this share of the log's own have."""
LEAST_SIGMA = 1e-3
"""Of a half-width: an actuator's own rounding."""


class LoggedPolicy(NamedTuple):
    """u = μ(x) + e: what acted when the log was written, with Cov(e) as rows that were held out tell it."""

    mean: Imitating
    covariance: Float[np.ndarray, "m m"]

    @staticmethod
    def of(log: Chain) -> LoggedPolicy:
        """Fitted to the log's actions."""
        candidates = [Features.of(log.x, pairs=log.setpoint_pairs)]
        candidates += [Features.of(log.x, pairs=log.setpoint_pairs, centres=100, length=c) for c in (1.0, 2.0)]
        regression = Regression.chosen(candidates, log.x, log.u, log.fold)
        design = regression.features(log.x)
        weights = regression.fitted(design, log.u, np.ones(len(log)))
        left = (log.u - design @ weights) * np.sqrt(len(log) / max(len(log) - design.shape[1], 1))
        low, high = (np.asarray(end, np.float64) for end in (log.dataset.action_set.low, log.dataset.action_set.high))
        least = np.diag((LEAST_SIGMA * (high - low) / 2) ** 2)
        return LoggedPolicy(Imitating(regression, weights, low, high), left.T @ left / len(left) + least)

    def distance(self, x: Float[np.ndarray, "b x"], u: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "b"]:
        """√((u − μ)ᵀ Cov⁻¹ (u − μ))."""
        away = u - self.mean.step(None, x)[0]
        return np.sqrt(np.einsum("bi,ij,bj->b", away, np.linalg.inv(self.covariance), away))


class Backing(NamedTuple):
    """Shares of the discounted time in the rollouts."""

    actions: float
    """In which the action is within SIGMAS of what acted in the log."""
    states: float
    """In which the state is near those of the log."""
    both: float

    @staticmethod
    def of(evidence: Evidence, policy: LoggedPolicy) -> Backing:
        """Of the controller whose evidence this is."""
        rolled, log = evidence.rolled, evidence.log
        weight = (evidence.gamma ** np.arange(evidence.horizon))[:, None] * rolled.alive
        rng = np.random.default_rng(0)
        size = rolled.x.shape[2]
        taken = rng.choice(weight.size, VISITED, p=weight.ravel() / weight.sum())
        x, u = rolled.x.reshape(-1, size)[taken], rolled.u.reshape(-1, rolled.u.shape[2])[taken]
        dimensions = u.shape[1]
        acts = policy.distance(x, u) <= SIGMAS * np.sqrt(dimensions)
        goes = _distances(log, x) <= _reach(log)
        return Backing(float(acts.mean()), float(goes.mean()), float((acts & goes).mean()))


def _scaled(log: Chain, x: Float[np.ndarray, "b x"]) -> Float[np.ndarray, "b x"]:
    spread = log.x.std(axis=0)
    return x / np.where(spread > 0, spread, 1)


def _distances(
    log: Chain, x: Float[np.ndarray, "b x"], leave: Float[np.ndarray, "b"] | None = None
) -> Float[np.ndarray, "b"]:
    """To the NEAREST-th row of the log, in its deviations; rows of the block `leave` are none."""
    own, asked = _scaled(log, log.x), _scaled(log, x)
    square = (asked**2).sum(axis=1)[:, None] - 2 * asked @ own.T + (own**2).sum(axis=1)
    if leave is not None:
        square = np.where(leave[:, None] == log.block, np.inf, square)
    return np.sqrt(np.maximum(np.partition(square, NEAREST - 1, axis=1)[:, NEAREST - 1], 0))


def _reach(log: Chain) -> float:
    """How far a row of the log is from the rows of other blocks, but for the farthest."""
    rows = np.unique(np.linspace(0, len(log) - 1, min(len(log), VISITED)).astype(int))
    return float(np.quantile(_distances(log, log.x[rows], log.block[rows].astype(float)), NEAR))
