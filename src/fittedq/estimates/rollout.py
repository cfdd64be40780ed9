"""What the controller earns in a model of the plant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from fittedq.estimates.evidence import AbstractEstimator, Evidence, OneEstimate


@final
@dataclass(frozen=True)
class ModelRollout(AbstractEstimator):
    """V = 1/k Σ_j Σ_{h<H} γʰ r̂_h from the starts j; its error is the deviation over the ensemble.

    Each member is fitted to blocks drawn with replacement. It is consistent where the state of the model is one, and
    tells of all controllers, those with a memory of their own too.
    """

    def __call__(self, evidence: Evidence) -> OneEstimate:
        error = float(evidence.members.std(ddof=1))
        return OneEstimate(evidence.value, error, f"an ensemble of {len(evidence.members)} models, rolled out")
