"""Controllers beside one another: the same episodes for each, differences with intervals, the best first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

import numpy as np
from jaxtyping import Float

from fittedq.acting.episodes import AbstractController, episodes
from fittedq.agent import Agent
from fittedq.baselines.named import of_object
from fittedq.data.dataset import Dataset
from fittedq.diagnose.control import Tracked, control_figures
from fittedq.diagnose.paired import Interval
from fittedq.envs.plant import AbstractPlant, AnyEnv, resolve
from fittedq.errors import UserError
from fittedq.settings import MOST_SEED, whole
from fittedq.types import Transition

LOG = "the log"
"""What a log is called beside controllers."""


@final
@dataclass(frozen=True)
class Compared:
    """One controller's episodes, and how they differ from the first one's."""

    name: str
    returns: Float[np.ndarray, "n"]
    mean: Interval
    ahead: Interval | None
    """By how much its returns are above those of the first controller, episode by episode; None for the first itself,
    and for a log, whose episodes began otherwise."""
    control: dict[str, Any] | None
    """`control_figures`, where set-points are known."""

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name,
            "returns": self.returns.tolist(),
            "mean": self.mean._asdict(),
            "ahead": None if self.ahead is None else self.ahead._asdict(),
            "control": self.control,
        }


@final
@dataclass(frozen=True)
class Comparison:
    """What `compare` found: the controller of the highest mean return stands first."""

    rows: tuple[Compared, ...]
    first: str
    """The controller that the others are compared with."""
    episodes: Mapping[str, Sequence[Transition]]
    """Of each controller that was played, in the order in which they were given."""

    @property
    def verdict(self) -> str:
        """Who stands first among those that were played, and whether the next one's distance may be chance."""
        best, *others = (row for row in self.rows if row.name in self.episodes)
        if not others:
            return f"{best.name} was played alone."
        between = Interval.of(best.returns - others[0].returns)
        sure = "more than chance explains" if between.low > 0 else "which chance may explain"
        return f"{best.name} is ahead of {others[0].name} by {between}: {sure}."


def controller_of(value: object, name: str) -> AbstractController[Any]:
    """What acts: an agent's policy, a controller, a class of one, or a function of one observation."""
    return value.controller() if isinstance(value, Agent) else of_object(value, name)


def compare(
    controllers: Mapping[str, object],
    env: AnyEnv | AbstractPlant,
    *,
    episodes: int = 20,
    seed: int = 0,
    tracked: Sequence[Tracked] = (),
    dt: float = 1.0,
    log: Dataset | None = None,
) -> Comparison:
    """Play the same `episodes` with each controller: agents, `fittedq.baselines`, functions obs [s] → action [m].

    Episode e is reset with a seed of (seed, e), whoever acts. Each mean return has a 95 % t-interval, and so has the
    mean of the paired differences from the first controller. With `tracked` set-points each controller has
    `control_figures`, in units of `dt` seconds a sample. The episodes of a `log` stand beside them, unpaired.
    """
    plant, count = resolve(env), whole(episodes, "episodes", 1)
    return compared(list(islice(rounds(controllers, plant, seed, tracked), count)), plant, tracked, dt, log)


def rounds(
    controllers: Mapping[str, object], plant: AbstractPlant, seed: int, tracked: Sequence[Tracked] = ()
) -> Iterator[dict[str, Transition]]:
    """One episode after another, without end: that of each controller, all reset with the same seed.

    A UserError where a controller cannot act in `plant`, or cannot be judged by what is `tracked`.
    """
    if not controllers:
        raise UserError("compare: found no controllers, expected at least one.")
    seed = whole(seed, "seed", high=MOST_SEED)
    acting = {name: controller_of(value, name) for name, value in controllers.items()}
    made = plant.make()
    try:
        for one in tracked:
            one.check(made.spaces.observation.size)
        for controller in acting.values():
            controller.check(made)
    finally:
        made.close()
    with ExitStack() as stack:
        playing = {
            name: stack.enter_context(closing(episodes(controller, plant, seed))) for name, controller in acting.items()
        }
        while True:
            yield {name: next(rows) for name, rows in playing.items()}


def compared(
    played: Sequence[Mapping[str, Transition]],
    plant: AbstractPlant,
    tracked: Sequence[Tracked] = (),
    dt: float = 1.0,
    log: Dataset | None = None,
) -> Comparison:
    """The comparison of what `rounds` gave."""
    each = {name: [one[name] for one in played] for name in played[0]}
    returns = {name: np.array([sum(rows.reward.tolist()) for rows in several]) for name, several in each.items()}
    first, limits = next(iter(each)), (plant.action_set.low, plant.action_set.high)
    rows = []
    for name, own in returns.items():
        ahead = None if name == first else Interval.of(own - returns[first])
        control = control_figures(each[name], tracked, *limits, dt) if tracked else None
        rows.append(Compared(name, own, Interval.of(own), ahead, control))
    if log is not None:
        logged = np.array([float(log.columns["reward"][start:stop].sum()) for start, stop in log.episodes()])
        rows.append(Compared(LOG, logged, Interval.of(logged), None, None))
    return Comparison(tuple(sorted(rows, key=lambda row: -row.mean.mean)), first, each)
