"""A trainer advances by steps, reports, and can be saved whole between any two of them."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fittedq.actions.base import AbstractActionSet
from fittedq.approx.net import of_its_kind
from fittedq.data.segments import RowLog
from fittedq.data.statistics import RunningMoments
from fittedq.template.fqi import LearnerState
from fittedq.trainers.divergence import Watch
from fittedq.trainers.state import Arrays
from fittedq.types import Components, Transition


@dataclass
class Progress:
    """Where a run is, after each report interval."""

    step: int
    updates: int
    episodes: int
    returns: list[float]
    """Returns of the episodes that ended in this interval."""
    metrics: dict[str, float] = field(default_factory=dict)
    fraction: float = 0.0
    """How much of the next step is done, where a step is long."""


class Snapshot(NamedTuple):
    """The whole state of a run."""

    arrays: Arrays
    meta: dict[str, Any]
    """JSON."""
    rows: dict[str, RowLog]
    """What only grows."""


def never() -> bool:
    """The stop condition of a run that nobody interrupts."""
    return False


KNOWN = 4_096
"""States at which the layers of a mean of networks are looked at."""
EXAMINED = 64
"""States in which a component without a gradient is looked at."""


class AbstractTrainer(abc.ABC):
    """A run that can be advanced, looked at, saved and brought back."""

    translates: ClassVar[bool] = False
    """Whether networks that read normalized observations, or scaled rewards, learn through known physics."""

    step: int
    updates: int
    obs_size: int
    action_set: AbstractActionSet
    finished: str | None = None
    """Why there is nothing left to do, in words."""
    assessed: Components = Components()
    """The policy that did best in whole episodes (`Assessment`); empty where none is judged."""
    watch: Watch
    """The rewards seen, and what is to be said of them and of the figures."""

    @abc.abstractmethod
    def advance(self, steps: int, stop: Callable[[], bool] = never) -> Progress:
        """Take about `steps` environment steps (whole vector steps and chunks) and the updates that go with them,
        fewer where `stop()` turns true. A UserError where learning has diverged: no state that is not finite is ever
        reported, evaluated or saved."""

    def examined(self, state: LearnerState) -> dict[str, float]:
        """The figures of a learner's state on the host; a UserError where learning has diverged."""
        self.watch.scale = self.reward_scale
        figures = self.watch.check(state)
        self.judge(figures.get("critic/max_abs", 0.0), figures, state.nets, int(state.step))
        return figures

    def judge(self, value: float, figures: Mapping[str, float], nets: Components, step: int) -> None:
        """Have the watch look at some states where a critic's largest |value|, or a gradient, gives it cause to."""
        largest = figures.get("largest_value", math.inf)
        if self.watch.doubts(value, largest):
            self.watch.judge_values(value, largest, self.seen_obs(EXAMINED))
        self.watch.judge_bins(figures)
        for component in self.watch.still(figures, step):
            self.watch.judge_spread(component, nets, self.seen_obs(EXAMINED))

    @abc.abstractmethod
    def nets(self) -> Components:
        """The live components."""

    @abc.abstractmethod
    def preferred(self) -> Components:
        """What an agent takes instead of the live components: the mean of what acts, summed up, or an earlier
        iteration's; empty where it takes the last networks."""

    @property
    @abc.abstractmethod
    def acts_by(self) -> str:
        """What an agent acts by, in words."""

    def kept(self) -> Components:
        """What an agent is made of: the preferred components, else the policy that was assessed as best, else the live
        ones."""
        preferred = self.preferred()
        if preferred.policy is not None:
            seen = self.seen_obs(KNOWN)
            policy = of_its_kind(preferred.policy, seen) if len(seen) > 1 else preferred.policy
            preferred = preferred.replace("policy", policy)
        return preferred.over(self.assessed.over(self.nets()))

    @abc.abstractmethod
    def begin_with(self, nets: Components, moments: RunningMoments | None) -> None:
        """Before the first step: `nets`, of the same shapes, become the live and the frozen components, and `moments`,
        under which they were learned, the normalization."""

    @abc.abstractmethod
    def moments(self) -> RunningMoments | None:
        """The normalization of observations, where there is one."""

    @property
    @abc.abstractmethod
    def reward_scale(self) -> float:
        """What rewards are divided by before they are learned from: critics' values times it are in their unit."""

    @abc.abstractmethod
    def seen_obs(self, count: int) -> np.ndarray:
        """Up to `count` of the states it learns from, spread evenly, as its networks see them [b, s]."""

    @abc.abstractmethod
    def seen_rows(self, count: int) -> Transition:
        """Up to `count` of the transitions it learns from, spread evenly and in order, in their own units."""

    @abc.abstractmethod
    def snapshot(self) -> Snapshot:
        """The whole state of the run; its rows are views, good until it goes on."""

    @abc.abstractmethod
    def restore(self, arrays: Arrays, meta: dict[str, Any], rows: dict[str, RowLog]) -> bool:
        """Take a snapshot back; False where the environment could not be brought back exactly."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the environments."""


def advance_to(
    trainer: AbstractTrainer, steps: int, report_every: Sequence[int] = (1_000,), stop: Callable[[], bool] = never
) -> Iterator[Progress]:
    """Advance `trainer` to `steps` steps in all, or until it has finished, or until `stop()`.

    Reports at the multiples of every number in `report_every`.
    """
    while trainer.step < steps and trainer.finished is None and not stop():
        next_report = min((trainer.step // every + 1) * every for every in report_every)
        yield trainer.advance(min(next_report, steps) - trainer.step, stop)
