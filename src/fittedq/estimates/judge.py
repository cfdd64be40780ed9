"""From three estimates to one interval and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from fittedq.diagnose.paired import Interval
from fittedq.estimates.backing import SIGMAS, Backing
from fittedq.estimates.evidence import OneEstimate
from fittedq.estimates.result import AS_GOOD_AS, BETTER, CANNOT, WORSE

LEAST_BACKED = 0.85
"""Of the discounted time, where the log has something to say."""
LEAST_EFFECTIVE = 10.0
"""Rows."""
AS_GOOD = 0.1
"""Of the log's return: how far an interval may reach on either side of it to say that a controller is as good."""


def combined(parts: Sequence[OneEstimate]) -> tuple[float, float]:
    """(Σ w v, B Σ w e) with w ∝ 1 / e², B² = max(1, Σ ((v − mean) / e)² / (n − 1)).

    The error is that of estimates that err together, for they are made of one log; B is Birge's ratio, by which they
    differ more than their errors say. Source: Birge 1932; the scale factor of the Particle Data Group.
    """
    value, error = (np.array([getattr(part, name) for part in parts]) for name in ("value", "error"))
    error = np.maximum(error, 1e-9 * np.maximum(np.abs(value), 1e-9))
    weight = error**-2 / (error**-2).sum()
    mean = float(weight @ value)
    birge = np.sqrt(max(1.0, float((((value - mean) / error) ** 2).sum()) / max(len(parts) - 1, 1)))
    return mean, float(birge * (weight @ error))


def agreement(parts: Mapping[str, OneEstimate]) -> str:
    """What the parts say of one another: each pair differs by more than its errors allow, or does not."""
    if len(parts) == 1:
        return "The model alone tells: this controller remembers what no row of a log holds, so that no row checks it."
    apart = [
        f"{first} and {second} differ by {abs(one.value - other.value):.3g}"
        for (first, one), (second, other) in combinations(parts.items(), 2)
        if abs(one.value - other.value) > 1.96 * np.hypot(one.error, other.error)
    ]
    return f"{'; '.join(apart)}: more than their errors." if apart else f"{', '.join(parts)} agree within their errors."


def verdict(
    low: float, high: float, log: Interval, backing: Backing, effective: float | None
) -> tuple[str, tuple[str, ...]]:
    """(the verdict, the reasons where it is that this log cannot tell)."""
    reasons = list(_unsupported(backing))
    if effective is not None and effective < LEAST_EFFECTIVE:
        reasons.append(f"its weights rest on {effective:.3g} rows")
    if reasons:
        return CANNOT, tuple(reasons)
    if low > log.mean:
        return BETTER, ()
    if high < log.mean:
        return WORSE, ()
    tolerance = max(AS_GOOD * abs(log.mean), log.mean - log.low, log.high - log.mean)
    if max(log.mean - low, high - log.mean) <= tolerance:
        return AS_GOOD_AS, ()
    return CANNOT, (f"the interval [{low:.4g}, {high:.4g}] holds the log's {log.mean:.4g} and is wide",)


def _unsupported(backing: Backing) -> Sequence[str]:
    """Why the log has nothing to say of where the controller goes."""
    if backing.both >= LEAST_BACKED:
        return ()
    told = []
    if backing.actions < LEAST_BACKED:
        told.append(
            f"in {1 - backing.actions:.0%} of the time it acts more than {SIGMAS:g} deviations from the log's policy"
        )
    if backing.states < LEAST_BACKED:
        told.append(f"in {1 - backing.states:.0%} of the time it is at states that are far from the log's")
    return told or [f"in {1 - backing.both:.0%} of the time it acts or is where the log has nothing"]
