"""Whether the observation says what the action will be: then a critic has no second action to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float, Int

from fittedq.data.checks.base import GOOD, LOOK_HERE, AbstractCheck, Axes, Unsaid
from fittedq.data.checks.regression import FEWEST_ROWS, cross_fitted, enough
from fittedq.data.checks.sample import Sample

MOST_EXPLAINED = 0.95
MOST_LEVELS = 8
"""Of an action that is switched."""
OWN_PAST = 4
"""Earlier values of the action itself by which it is predicted first."""
NOTHING_LEFT = 1e-7
"""Share of the action's variance below which its own past leaves nothing: float32's rounding."""

Inputs = Callable[[Sample, Int[np.ndarray, "k"]], Float[np.ndarray, "k d"]]
CANDIDATES: dict[str, Inputs] = {
    "the observation": lambda sample, rows: sample.obs[rows],
    "the observation and the one before": lambda sample, rows: sample.past(sample.obs, rows, range(2)),
    "the observation and the two before": lambda sample, rows: sample.past(sample.obs, rows, range(3)),
    "the observation and its integral": lambda sample, rows: np.hstack([sample.obs[rows], sample.integral[rows]]),
}
"""What a controller may have looked at. A PI shows in its integral, or in two rows and its own last action."""


@final
@dataclass(frozen=True)
class ClosedLoop(AbstractCheck):
    """R² = 1 − Σ(a − â(x, past))² / Σ(a − â(past))², held out, for the x of CANDIDATES that is best.

    past is what the action itself was up to OWN_PAST rows before, so that a slow or held exploration, which is
    predictable from itself, is not mistaken for a controller. Rows in which a continuous action is held, or lies on an
    end of its range, are left out: nobody chose anew, or the controller saturated.

    A controller that is bent, such as an actor network, may pass here. `Coverage` compares like states and finds it.

    Why .95: in a regression of q on (s, a), the variance of a's coefficient is inflated by 1 / (1 − R²) (the variance
    inflation factor; Marquardt 1970), so at .95 the log teaches of actions what a twentieth of its rows would.
    """

    title: ClassVar[str] = "closed loop"
    r2: list[float]
    """Of each action; an action that never changes has none (NaN)."""
    actions: tuple[str, ...]
    source: list[str]
    """What predicts it best."""
    action: Float[np.ndarray, "k"]
    predicted: Float[np.ndarray, "k"]
    """Of the action that is predicted best."""

    @staticmethod
    def of(sample: Sample) -> ClosedLoop | Unsaid:
        """The check, made for each action."""
        found = [_predicted(sample, axis) for axis in range(sample.action.shape[1])]
        said = [one for one in found if one is not None]
        if not said:
            return Unsaid(
                ClosedLoop.title,
                f"no action changes in {FEWEST_ROWS} rows or more that have {OWN_PAST} rows before them",
                "A longer log would tell.",
            )
        best = max(said, key=lambda one: one.r2)
        return ClosedLoop(
            r2=[np.nan if one is None else one.r2 for one in found],
            actions=sample.action_names,
            source=["" if one is None else one.source for one in found],
            action=best.action,
            predicted=best.predicted,
        )

    @property
    def worst(self) -> int:
        """The action that is predicted best."""
        return int(np.nanargmax(self.r2))

    @property
    def verdict(self) -> str:
        return LOOK_HERE if self.r2[self.worst] > MOST_EXPLAINED else GOOD

    def finding(self) -> str:
        r2, source = self.r2[self.worst], self.source[self.worst]
        explain = "explain" if " and " in source else "explains"
        return (
            f"{source} {explain} {100 * r2:.3g} % of what {self.actions[self.worst]} does (held-out R² {r2:.3f}; good "
            f"up to {MOST_EXPLAINED})"
        )

    def remedy(self) -> str:
        return (
            "The log was made in closed loop and without exploration: a critic has no second action to compare with, "
            "and what it says of other actions is a guess. Log again with steps or noise added to the action (5 to 10 "
            "% of its range, held for about a third of the settling time), or add a log in which the action was moved "
            "by hand."
        )

    def draw(self, axes: Axes) -> None:
        axes.plot(self.action, self.predicted, ".", markersize=2, alpha=0.4)
        ends = [self.action.min(), self.action.max()]
        axes.plot(ends, ends, color="0.5", linewidth=1)
        axes.set(xlabel=self.actions[self.worst], ylabel="predicted", title=f"R² {self.r2[self.worst]:.3f}")


@dataclass(frozen=True)
class _Predicted:
    r2: float
    source: str
    action: Float[np.ndarray, "k"]
    predicted: Float[np.ndarray, "k"]


def _predicted(sample: Sample, axis: int) -> _Predicted | None:
    """The best of CANDIDATES for one action; None where too few rows say anything."""
    found = [one for rows in _choices(sample, axis) if (one := _over(sample, axis, rows)) is not None]
    return max(found, key=lambda one: one.r2, default=None)


def _choices(sample: Sample, axis: int) -> list[Int[np.ndarray, "k"]]:
    """The rows in which the action was chosen: all, and of a continuous one those where it moved inside its range.

    Where nearly all are the latter, these alone.
    """
    rows = sample.follows(OWN_PAST)
    if not len(rows):
        return [np.arange(len(sample))] if np.ptp(sample.action[:, axis]) > 0 else []
    here, before = sample.action[rows, axis], sample.action[rows - 1, axis]
    ends = sample.action[:, axis].min(), sample.action[:, axis].max()
    inside = ~(np.isin(here, ends) | np.isin(before, ends))
    free = rows[inside & (here != before)]
    return [free] if len(free) > 0.9 * len(rows) else [rows, free]


def _switched(
    inputs: Float[np.ndarray, "n d"], before: Float[np.ndarray, "n"], target: Float[np.ndarray, "n"], fold: np.ndarray
) -> Float[np.ndarray, "n"]:
    """â of each row by a switch: for each action before, the two halves of one input that tell the action best.

    Such is a thermostat. Fitted on the other folds' rows; an input is also the linear regression's prediction.
    """
    z = cross_fitted(inputs, target[:, None], fold)
    inputs, found = np.hstack([inputs, z]), np.full(len(target), target.mean())
    for number in np.unique(fold):
        for level in np.unique(before):
            known = np.flatnonzero((fold != number) & (before == level))
            asked = np.flatnonzero((fold == number) & (before == level))
            if len(known) >= 2 and len(asked):
                axis, edge, low, high = _split(inputs[known], target[known])
                found[asked] = np.where(inputs[asked, axis] <= edge, low, high)
    return found


def _split(inputs: Float[np.ndarray, "n d"], target: Float[np.ndarray, "n"]) -> tuple[int, float, float, float]:
    """(input, edge, mean below, mean above) with the least squared error."""
    order = np.argsort(inputs, axis=0, kind="stable")
    x, y = np.take_along_axis(inputs, order, axis=0), target[order]
    count = np.arange(1, len(target))[:, None]
    below = np.cumsum(y, axis=0)[:-1]
    above = y.sum(axis=0) - below
    # Σ y² is the same for all: the error is least where the means' squares are most.
    gain = np.where(x[1:] > x[:-1], below**2 / count + above**2 / (len(target) - count), -np.inf)
    row, axis = np.unravel_index(int(gain.argmax()), gain.shape)
    if gain[row, axis] == -np.inf:
        return 0, np.inf, float(target.mean()), float(target.mean())
    edge = (x[row, axis] + x[row + 1, axis]) / 2
    return (
        int(axis),
        float(edge),
        float(below[row, axis] / (row + 1)),
        float(above[row, axis] / (len(target) - row - 1)),
    )


def _over(sample: Sample, axis: int, rows: Int[np.ndarray, "k"]) -> _Predicted | None:
    """R² over these rows."""
    target = sample.action[rows, axis][:, None]
    fold = sample.fold[rows]
    if len(np.unique(fold)) < 2 or np.ptp(target) == 0:
        return None
    lagged = bool((sample.age[rows] >= OWN_PAST).all())
    past = sample.past(sample.action[:, axis : axis + 1], rows, range(1, OWN_PAST + 1)) if lagged else target[:, :0]
    spread = float(((target - target.mean()) ** 2).sum())
    alone = float(((target - cross_fitted(past, target, fold)) ** 2).sum()) if lagged else spread
    if alone < NOTHING_LEFT * spread:
        past, alone = target[:, :0], spread
    found = []
    for name, inputs in CANDIDATES.items() if lagged else list(CANDIDATES.items())[:1]:
        x = np.hstack([inputs(sample, rows), past])
        if enough(len(rows), x.shape[1]):
            guesses = [cross_fitted(x, target, fold)[:, 0]]
            if lagged and len(np.unique(target)) <= MOST_LEVELS:
                guesses.append(_switched(inputs(sample, rows), sample.action[rows - 1, axis], target[:, 0], fold))
            for predicted in guesses:
                r2 = max(1 - float(((target[:, 0] - predicted) ** 2).sum()) / alone, 0.0)
                found.append(_Predicted(r2, name, target[:, 0], predicted))
    # Of equals the plainest.
    return max(found, key=lambda one: round(one.r2, 3), default=None)
