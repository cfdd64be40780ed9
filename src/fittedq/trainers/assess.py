"""When a policy that acts unchanged has been judged by its episodes, and whether it is the best so far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

RESET_SHARE = 0.1
"""The share of the best worth that is taken off where more episodes begin to count: by fewer it was too high."""


@dataclass
class Assessment:
    """A policy acts unchanged over `early` whole episodes, of `late` ones after `late_after` steps; its worth is the
    least of their returns. The best policy is kept. A policy that falls below the best worth is judged at once.

    Source: Fujimoto et al. 2023 (TD7), section 4.3 and appendix.
    """

    early: int
    late: int
    late_after: int
    best: float = -math.inf
    """The worth of the policy that is kept."""
    low: float = math.inf
    """The least return of the episodes that count now, and how many there are."""
    count: int = 0
    is_late: bool = False

    def over(self, episode_return: float, step: int) -> bool | None:
        """Whether the policy is the best so far, where this episode ends its assessment; None: it goes on."""
        if step >= self.late_after and not self.is_late:
            self.best, self.is_late = self.best - RESET_SHARE * abs(self.best), True
        self.low, self.count = min(self.low, episode_return), self.count + 1
        better = self.low >= self.best
        if better and self.count < (self.late if self.is_late else self.early):
            return None
        self.best, self.low, self.count = max(self.best, self.low), math.inf, 0
        return better

    def saved(self) -> dict[str, Any]:
        """What `restore` takes, as JSON: no infinity."""
        return {"best": _finite(self.best), "low": _finite(self.low), "count": self.count, "is_late": self.is_late}

    def restore(self, saved: dict[str, Any]) -> None:
        """Put back what `saved` gave."""
        self.best = -math.inf if saved["best"] is None else saved["best"]
        self.low = math.inf if saved["low"] is None else saved["low"]
        self.count, self.is_late = saved["count"], saved["is_late"]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
