"""What all estimators of one controller's worth share: the model's rollouts, and what the log says against them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float, Int

from fittedq.estimates.chain import Chain
from fittedq.estimates.deciding import AbstractDeciding, Begun
from fittedq.estimates.model import LearnedModel, Member, Rolled
from fittedq.estimates.ratio import density_ratios

MEMBERS = 16
"""Weighings of the blocks, drawn with replacement."""
CROSSED = 3
"""Parts of the blocks, each judged by a model of the others."""
MOST_JUDGED = 500
"""Rows at which the model's value is compared with the log."""


class OneEstimate(NamedTuple):
    """What one estimator says: a value, its standard error, and a remark."""

    value: float
    error: float
    said: str

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95 %, of this estimator alone."""
        return self.value - 1.96 * self.error, self.value + 1.96 * self.error


class AbstractEstimator(ABC):
    """One way to say what a controller earns."""

    @abstractmethod
    def __call__(self, evidence: Evidence) -> OneEstimate | None:
        """The estimate; None where this controller or log allows none."""


@final
@dataclass(frozen=True)
class Evidence:
    """A controller's rollouts in the model, and the Bellman residuals of their value in the log.

    q_h(x, u) is what the model earns in h samples from (x, u) on, v_h(x) = q_h(x, π(x)). At row i of the log, with a
    model fitted without row i's part of the blocks,

        δ_h = r + γ v_{h−1}(x') − q_h(x, u)

    is noise around 0 where the model is right.
    """

    log: Chain
    gamma: float
    horizon: int
    begun: Begun
    """Where the rollouts begin, k states."""
    rolled: Rolled
    """Of the model of all blocks."""
    members: Float[np.ndarray, "members"]
    """What the members of the ensemble earn, in the mean over the starts."""
    crossed: Float[np.ndarray, "c"]
    """What the models of the parts earn."""
    rows: Int[np.ndarray, "n"]
    """The rows that are judged, those of a block together; none where the log does not say what would be done there."""
    residual: Float[np.ndarray, "t n"]
    """δ_1 … δ_horizon."""
    weights: Float[np.ndarray, "t n"]
    """w_t of these rows: how much more often than the log the rollouts are there, t samples after the start."""
    inputs: Float[np.ndarray, "n v"]
    """(x, u) of these rows."""
    inputs_after: Float[np.ndarray, "n v"]
    """(x', π(x'))."""
    inputs_start: Float[np.ndarray, "k v"]

    @property
    def value(self) -> float:
        """What a member of the ensemble earns, in the mean: less noise than one model's rollouts have."""
        return float(self.members.mean())

    @property
    def total_weights(self) -> Float[np.ndarray, "n"]:
        """Σ_t w_t."""
        return self.weights.sum(axis=0)

    @property
    def effective_rows(self) -> float:
        """(Σ w)² / Σ w² of the rows' total weights."""
        total = self.total_weights
        return float(total.sum() ** 2 / max((total**2).sum(), 1e-300))

    @property
    def block(self) -> Int[np.ndarray, "n"]:
        """The blocks of the rows that are judged, from 0 on."""
        return np.unique(self.log.block[self.rows], return_inverse=True)[1].reshape(-1)

    @staticmethod
    def of(
        log: Chain,
        model: LearnedModel,
        deciding: AbstractDeciding,
        starts: Float[np.ndarray, "k x"],
        gamma: float,
        horizon: int,
        seed: int,
        *,
        judged: bool,
    ) -> Evidence:
        """All of it, from the states `starts`; the log is asked only where it is to be `judged` by."""
        rng = np.random.default_rng(seed)
        weighings = rng.multinomial(log.blocks, np.full(log.blocks, 1 / log.blocks), MEMBERS)
        fits = [model.fit(weighing[log.block].astype(float)) for weighing in weighings]
        begun = deciding.begin(starts)
        rolled = model.roll([model.fit(np.ones(len(log)))], deciding, begun, gamma, horizon, rng)
        ensemble = model.roll(fits, deciding, deciding.begin(np.tile(starts, (MEMBERS, 1))), gamma, horizon, rng)
        members = ensemble.earned[-1].reshape(MEMBERS, -1).mean(axis=1)
        rows, residual, crossed = np.zeros(0, np.int64), np.zeros((horizon, 0)), np.zeros(0)
        if judged:
            rows = np.unique(np.linspace(0, len(log) - 1, min(len(log), MOST_JUDGED)).astype(int))
            residual, crossed = _residuals(log, model, deciding, starts, rows, gamma, horizon, rng)
        after = deciding.goes_on(log, rows) if len(rows) else Begun(log.after[rows], log.u[rows], None)
        return Evidence(
            log=log,
            gamma=gamma,
            horizon=horizon,
            begun=begun,
            rolled=rolled,
            members=members,
            crossed=crossed,
            rows=rows,
            residual=residual,
            weights=_weights(log, rows, rolled, gamma) if judged else np.zeros((horizon, 0)),
            inputs=_joined(log.x[rows], log.u[rows]),
            inputs_after=_joined(after.x, after.u),
            inputs_start=_joined(begun.x, begun.u),
        )


def _weights(log: Chain, rows: Int[np.ndarray, "n"], rolled: Rolled, gamma: float) -> Float[np.ndarray, "t n"]:
    """Of the rows, by where the rollouts are, γᵗ of them after t samples."""
    share = (gamma ** np.arange(len(rolled.alive)))[:, None] * rolled.alive / rolled.alive.shape[1]
    visited = np.concatenate([rolled.x, rolled.u], axis=2)
    return density_ratios(_joined(log.x[rows], log.u[rows]), log.block[rows], visited, share)


def _joined(x: Float[np.ndarray, "b x"], u: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "b v"]:
    return np.concatenate([x, u], axis=1)


def _residuals(
    log: Chain,
    model: LearnedModel,
    deciding: AbstractDeciding,
    starts: Float[np.ndarray, "k x"],
    rows: Int[np.ndarray, "n"],
    gamma: float,
    horizon: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "t n"], Float[np.ndarray, "c"]]:
    """(δ of the rows, what the models of the parts earn from the starts)."""
    part = rng.permutation(log.blocks)[log.block] % CROSSED
    residual, crossed = np.zeros((horizon, len(rows))), np.zeros(CROSSED)
    for number in range(CROSSED):
        fit: list[Member] = [model.fit((part != number).astype(float))]
        here = np.flatnonzero(part[rows] == number)
        mine = rows[here]
        rollout = model.roll(fit, deciding, deciding.begin(starts), gamma, horizon, rng)
        crossed[number] = rollout.earned[-1].mean()
        q = model.roll(fit, deciding, deciding.went_on(log, mine), gamma, horizon, rng).earned
        v = model.roll(fit, deciding, deciding.goes_on(log, mine), gamma, horizon, rng).earned
        residual[:, here] = log.reward[mine] + gamma * log.goes_on[mine] * v[:-1] - q[1:]
    return residual, crossed
