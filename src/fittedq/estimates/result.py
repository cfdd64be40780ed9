"""An estimate of what a controller is worth, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from fittedq.diagnose.paired import Interval
from fittedq.estimates.backing import Backing
from fittedq.estimates.evidence import OneEstimate

BETTER, AS_GOOD_AS, WORSE, CANNOT = "better than the log", "as good as the log", "worse than the log", "cannot tell"


@final
@dataclass(frozen=True)
class Estimate:
    """What a controller would earn: Σ_{t<horizon} γᵗ r_t, in the mean over the states that episodes begin in.

    `low` to `high` holds it with 95 %.
    """

    value: float
    low: float
    high: float
    verdict: str
    """BETTER, AS_GOOD_AS, WORSE, or CANNOT: this log cannot tell."""
    reasons: tuple[str, ...]
    """Why it cannot, each the end of a sentence."""
    agreement: str
    """What the parts say of one another."""
    parts: Mapping[str, OneEstimate]
    """`fitted_q`, `weighted` and `model`; of a controller that remembers what no row holds, only the last."""
    log: Interval
    """What the log itself earned from its first states; from other states, what a clone of its policy would earn."""
    cloned: OneEstimate
    """What the log's mean action would earn."""
    backing: Backing
    effective_rows: float | None
    """Of the weights; None where there are none."""
    gamma: float
    horizon: int
    starts: int
    rows: int
    said: str
    """What the blocks are."""
    rewards: tuple[float, float]
    """The least and the largest of the log."""
    allowed: tuple[float, float]
    """What a return can be where no reward is other than these: `value`, `low` and `high` are cut to it."""
    notes: tuple[str, ...] = ()
    """What else there is to know."""

    def __str__(self) -> str:
        first = f"{Interval(self.value, self.low, self.high)}, {self.sentence()}"
        rows = [f"{label:>10}  {interval}  {said}".rstrip() for label, interval, said in self.lines()]
        return "\n".join([first, *rows, self.agreement, *self.notes])

    def lines(self) -> list[tuple[str, Interval, str]]:
        """The parts, then what the log and its clone earn: a name, an interval, a remark."""
        parts = [*self.parts.items(), ("its clone", self.cloned)]
        told = [(name, as_interval(part), part.said) for name, part in parts]
        return [*told[:-1], ("the log", self.log, ""), told[-1]]

    def sentence(self) -> str:
        """The verdict, with its reasons."""
        if self.verdict == CANNOT:
            return f"this log cannot tell, for {'; '.join(self.reasons)}."
        return f"{self.verdict}."

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "agreement": self.agreement,
            "parts": {name: _as_json(part) for name, part in self.parts.items()},
            "log": {"value": self.log.mean, "low": self.log.low, "high": self.log.high},
            "cloned": _as_json(self.cloned),
            "backing": self.backing._asdict(),
            "effective_rows": self.effective_rows,
            "gamma": self.gamma,
            "horizon": self.horizon,
            "starts": self.starts,
            "rows": self.rows,
            "blocks": self.said,
            "rewards": list(self.rewards),
            "allowed": list(self.allowed),
            "notes": list(self.notes),
        }


def as_interval(part: OneEstimate) -> Interval:
    """A value and its 95 %."""
    return Interval(part.value, *part.interval)


def _as_json(part: OneEstimate) -> dict[str, Any]:
    return {"value": part.value, "low": part.interval[0], "high": part.interval[1], "said": part.said}
