"""Fitted Q evaluation, begun at the model's q."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float

from fittedq.estimates.evidence import MEMBERS, AbstractEstimator, Evidence, OneEstimate
from fittedq.estimates.features import Features, Regression

CENTRES, LENGTH = 100, 2.0
LEAST_WEIGHT = 1e-6


@final
@dataclass(frozen=True)
class FittedQ(AbstractEstimator):
    """q_h ← argmin_q Σ_i n_i (q(x_i, u_i) − r_i − γ q_{h−1}(x'_i, π(x'_i)))², h = 1 … H, over members n of an ensemble.

    q_h = the model's q_h + Δ_h, so what is fitted is Δ_h to δ_h + γ Δ_{h−1}(x', π(x')): nothing where the log bears the
    model out. Δ is linear in features that were chosen on held-out blocks, where a constant is one choice. All members
    take a step at once; each weighs the blocks as they were drawn with replacement, and the deviation over them is the
    error. Source: Le, Voloshin and Yue 2019 (FQE); Hao et al. 2021 (its bootstrap, over episodes).
    """

    def __call__(self, evidence: Evidence) -> OneEstimate | None:
        if not len(evidence.rows):
            return None
        block, residual, gamma = evidence.block, evidence.residual, evidence.gamma
        blocks = int(block.max()) + 1
        rng, importance = np.random.default_rng(0), _importance(evidence)
        draws = rng.multinomial(blocks, np.full(blocks, 1 / blocks), MEMBERS)
        counts = np.concatenate([np.ones((1, blocks)), draws]).T[block] * importance[:, None]
        inputs, pairs = evidence.inputs, evidence.log.setpoint_pairs
        candidates = [
            Features.of(inputs, columns=[]),
            Features.of(inputs, pairs=pairs),
            Features.of(inputs, pairs=pairs, centres=CENTRES, length=LENGTH),
        ]
        regression = Regression.chosen(candidates, inputs, residual[-1][:, None], block % 5, importance)
        design, start = regression.features(inputs), regression.features(evidence.inputs_start).mean(axis=0)
        after = evidence.log.goes_on[evidence.rows][:, None] * regression.features(evidence.inputs_after)
        solvers = [regression.solver(design, count) for count in counts.T]
        weights, limit = np.zeros((design.shape[1], counts.shape[1])), _largest(evidence)
        for step in range(evidence.horizon):
            target = residual[step][:, None] + gamma * np.clip(after @ weights, -limit, limit)
            moments = design.T @ (counts * target)
            weights = np.stack([solve(moments[:, place]) for place, solve in enumerate(solvers)], axis=1)
        found = evidence.crossed.mean() + start @ weights
        explains = max(0.0, 1 - float(regression.error[0]))
        return OneEstimate(
            float(found[0]), float(found[1:].std(ddof=1)), f"{explains:.0%} of what the log says against q"
        )


def _importance(evidence: Evidence) -> Float[np.ndarray, "n"]:
    """The rows' weights, of mean 1 and none of them 0, so that every draw of blocks can be fitted."""
    total = evidence.total_weights
    return (total / max(float(total.mean()), 1e-300) + LEAST_WEIGHT) / (1 + LEAST_WEIGHT)


def _largest(evidence: Evidence) -> float:
    """max |Σ γʰ r| for rewards as they were logged."""
    total = float((evidence.gamma ** np.arange(evidence.horizon)).sum())
    return total * float(np.ptp(evidence.log.reward) or 1.0)
