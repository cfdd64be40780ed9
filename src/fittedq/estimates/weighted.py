"""The model's value, corrected by the log where the controller goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from fittedq.estimates.evidence import AbstractEstimator, Evidence, OneEstimate


@final
@dataclass(frozen=True)
class Weighted(AbstractEstimator):
    """V = v_H(starts) + Σ_{t<H} mean_i w_{t, i} δ_{H−t, i}: doubly robust.

    w_t says how much more often than the log the controller is at (x, u) after t samples, so that no logging policy has
    to be known. V is right where the model's q is, and where it is wrong as far as the weights are right. The q of a
    row is not fitted to its own part of the blocks, and the weights know of no rewards. The error is that of a mean
    over blocks. Source: Kallus and Uehara 2020 (double reinforcement learning).
    """

    def __call__(self, evidence: Evidence) -> OneEstimate | None:
        if not len(evidence.rows):
            return None
        correction = (evidence.weights * evidence.residual[::-1]).sum(axis=0)
        sums = np.bincount(evidence.block, correction - correction.mean())
        error = np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(correction)
        said = f"an effective sample of {evidence.effective_rows:,.0f} of {len(correction):,} rows"
        return OneEstimate(float(evidence.crossed.mean() + correction.mean()), float(error), said)
