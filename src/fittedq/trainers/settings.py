"""The settings of training itself, whatever is trained."""

from __future__ import annotations

import abc
import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np

from fittedq import memory
from fittedq.data.priorities import PRIORITY_RULES, PriorityRule
from fittedq.envs.parameters import plant_randomized
from fittedq.envs.plant import AbstractPlant
from fittedq.errors import UserError
from fittedq.ranges import LOG, Span
from fittedq.settings import MOST_NUMBER, as_dict, check_settings, setting, setting_fields
from fittedq.template.fqi import FQI, Trailing
from fittedq.template.rates import Linear, over
from fittedq.trainers.assess import Assessment
from fittedq.types import COMPONENTS

LEAST_ENV_BYTES = 2**12
"""What one environment takes, at the very least."""


ANNEALED = Linear(0.4, 1.0)


BATCHES = Span(64, 1024, LOG)
OF_BATCHES = {"n_step": 1, "replay": "uniform", "reset_every": 0, "batch_size": 256}
"""What has no meaning where a method fits all rows anew, as it is by default."""

AVERAGE_SHARE, AVERAGE_WINDOW = 0.3, 500
KEEPS = ("last", "average", "chosen")


class Switch(NamedTuple):
    """The setting `name`: where it is not `on`, those in `moot` have no effect."""

    name: str
    on: object
    moot: tuple[str, ...]
    why: str


AVERAGED = Switch("keep", "average", ("average_share", "average_window"), "so nothing is averaged")
SCALED = Switch("scale_rewards", True, ("return_bound",), "so no return is scaled")
AWAITED = Switch("asynchronous", True, ("env_timeout",), "so no environment is waited for")


@dataclass(frozen=True, kw_only=True)
class AbstractLoop(abc.ABC):
    """What every run's training has."""

    switches: ClassVar[tuple[Switch, ...]] = (AVERAGED,)

    keep: str = setting(
        "last",
        "what an agent acts by: the last networks, the average of a run's end, or the iteration of a fitted method "
        "that is chosen by rows of its dataset held out",
        choices=KEEPS,
    )
    average_share: float = setting(
        AVERAGE_SHARE,
        "with keep=average: the share of a run's updates, at its end, that it is over",
        above=0.0,
        high=1.0,
    )
    average_window: int = setting(AVERAGE_WINDOW, "with keep=average: the most updates that it is over, about", low=1)

    @abc.abstractmethod
    def updates(self, steps: int) -> int:
        """About how many a run of so many steps takes."""

    def keeping(self, fqi: FQI) -> FQI:
        """A method's template with the mean that is kept, where one is."""
        mean = Trailing(self.average_share, self.average_window)
        return dataclasses.replace(fqi, mean=mean) if self.keep == "average" else fqi

    def check_idle(self) -> None:
        """A UserError for what would be without effect."""
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        for switch in self.switches:
            found = getattr(self, switch.name)
            for name in switch.moot if found != switch.on else ():
                if getattr(self, name) != usual[name]:
                    raise UserError(
                        f"setting {name}: {switch.name} is {str(found).lower()}, {switch.why}; leave it out."
                    )


@dataclass(frozen=True, kw_only=True)
class AbstractDrawing(AbstractLoop, abc.ABC):
    """How batches are drawn from what is kept; shared by every algorithm that learns from batches."""

    batch_size: int = setting(256, "transitions in a batch", low=1, search=BATCHES)
    n_step: int = setting(1, "steps whose rewards a target sums before it bootstraps", low=1, high=1_000)
    replay: str = setting("uniform", "how rows are drawn: uniform, or by their errors", choices=PRIORITY_RULES)
    priority_exponent: float | None = setting(
        None, "α of priorities; none means 0.6 (prioritized) or 0.4 (lap)", low=0.0
    )
    importance_exponent: float | Linear = setting(
        ANNEALED, "β of prioritized replay, or linear:FIRST:LAST over the run", low=0.0, takes=Linear, kinds=(Linear,)
    )

    reset_every: int = setting(
        0, "updates after which networks and their optimizers start anew, on the replay as it is; 0: never", low=0
    )
    reset_components: tuple[str, ...] | None = setting(
        None, "what starts anew; none means all that the method learns", choices=COMPONENTS
    )

    @property
    def rule(self) -> PriorityRule | None:
        """How rows are drawn by their errors; None: uniformly."""
        return PRIORITY_RULES[self.replay]

    def columns(self, fqi: FQI) -> tuple[str, ...]:
        """What a drawn row has beside its transition (`DrawnRows`), in order."""
        own = ("discount",) * (self.n_step > 1) + ("weight",) * (self.rule is not None)
        return own + ("next_action",) * fqi.reads_next_action

    def fitting(self, fqi: FQI) -> FQI:
        """A method's template for batches so drawn, or a UserError."""
        if self.keep == "chosen":
            raise UserError(
                "setting keep: found chosen, and batches are drawn from all rows, so that none is held out to choose "
                "by; expected average or last."
            )
        fqi.check_batches()
        if self.n_step > 1:
            fqi.check_spans()
        return self.keeping(fqi.robust() if self.rule is not None and self.rule.robust else fqi)

    def beta(self, count: int) -> float:
        """β after so many updates."""
        rate = self.importance_exponent
        return float(rate(np.asarray(count))) if isinstance(rate, Linear) else rate

    def check_drawing(self) -> None:
        """A UserError for what would be without effect."""
        self.check_idle()
        weighted = self.rule is not None and self.rule.weighted
        if self.rule is None and self.priority_exponent is not None:
            raise UserError("setting priority_exponent: replay is uniform and has no priorities; leave it out.")
        if not self.reset_every and self.reset_components is not None:
            raise UserError(
                "setting reset_components: reset_every is 0, so nothing starts anew; set it, or leave this out."
            )
        if self.reset_every and self.keep == "average":
            raise UserError(
                f"setting keep: found average with reset_every = {self.reset_every:,}; a mean of networks from before "
                "and after a reset is neither, so expected last."
            )
        if not weighted and self.importance_exponent != ANNEALED:
            raise UserError(f"setting importance_exponent: replay {self.replay} weighs no errors; leave it out.")


DrawingT = TypeVar("DrawingT", bound=AbstractDrawing)


def in_a_run(drawing: DrawingT, updates: int) -> DrawingT:
    """The settings in a run of so many updates."""
    if drawing.rule is None or not drawing.rule.weighted:
        return drawing
    return dataclasses.replace(drawing, importance_exponent=over(drawing.importance_exponent, updates))


@dataclass(frozen=True, kw_only=True)
class TrainSettings(AbstractDrawing):
    """How data is collected and how much is learned from it; shared by every algorithm."""

    switches: ClassVar[tuple[Switch, ...]] = (AVERAGED, AWAITED, SCALED)

    replay_size: int = setting(1_000_000, "transitions kept; the oldest go first", low=1)
    random_steps: int = setting(1_000, "environment steps with uniform actions before learning begins", low=1)
    updates_per_step: float = setting(1.0, "updates per environment step (updates-to-data ratio)", above=0.0)
    n_envs: int = setting(1, "environments stepped together", low=1)
    asynchronous: bool = setting(False, "a process for each environment (faster for slow environments only)")
    env_timeout: float = setting(
        300.0, "seconds an asynchronous environment may take for one step", above=0.0, high=MOST_NUMBER
    )
    chunk: int = setting(
        1, "environment steps between calls of the learner; the policy that acts is up to so many steps old", low=1
    )
    assess_episodes: int = setting(
        0, "episodes by which a policy is judged before it is learned on; an agent acts by the best; 0: never", low=0
    )
    assess_late: int = setting(20, "with assess_episodes: as many after assess_late_after steps", low=1)
    assess_late_after: int = setting(750_000, "with assess_episodes: steps after which assess_late counts", low=1)
    normalize_obs: bool = setting(False, "normalize observations by their running mean and deviation")
    randomize: float = setting(
        0.0,
        "in a JAX environment: the share by which its parameters are off, drawn anew for each episode",
        low=0.0,
        high=0.99,
    )
    vary: tuple[str, ...] | None = setting(
        None, "with randomize: the parameters that may be off; none means those that the environment names"
    )
    scale_rewards: bool = setting(False, "divide rewards by the running deviation of the discounted return")
    return_bound: float | None = setting(
        None, "with scale_rewards: no scaled return is above it (SimbaV2 takes 5)", above=0.0
    )

    def __post_init__(self) -> None:
        check_settings(self)
        self.check_drawing()
        if self.assess_episodes and self.keep != "last":
            raise UserError(
                f"setting keep: found {self.keep} with assess_episodes = {self.assess_episodes}, by which an agent "
                "acts by the policy of the best episodes; leave one of them out."
            )
        if self.vary is not None and not self.randomize:
            raise UserError("setting vary: randomize is 0, so no parameter is off; set it, or leave this out.")
        memory.require(LEAST_ENV_BYTES * self.n_envs, f"setting n_envs: {self.n_envs:,} environments", "choose fewer")

    @property
    def assessment(self) -> Assessment | None:
        """How policies are judged; None: they are not."""
        if not self.assess_episodes:
            return None
        return Assessment(self.assess_episodes, self.assess_late, self.assess_late_after)

    def trained_on(self, plant: AbstractPlant) -> AbstractPlant:
        """The plant itself, or with other parameters in each episode."""
        return plant_randomized(plant, self.vary or (), self.randomize) if self.randomize else plant

    def updates(self, steps: int) -> int:
        """About how many a run of so many steps takes, to the last `chunk`."""
        return max(0, math.ceil((steps - self.random_steps) * self.updates_per_step))

    @property
    def updates_per_call(self) -> int:
        """Updates in one call of the compiled learner: a whole number, so that one shape is compiled."""
        return max(1, math.floor(self.chunk * self.n_envs * self.updates_per_step))


@dataclass(frozen=True, kw_only=True)
class FitSettings(AbstractDrawing):
    """How a logged dataset is learned from; shared by every algorithm."""

    switches: ClassVar[tuple[Switch, ...]] = (AVERAGED, SCALED)

    batch_size: int = setting(256, "transitions in a batch (methods that learn batch by batch)", low=1, search=BATCHES)
    normalize_obs: bool = setting(True, "normalize observations by the dataset's mean and deviation")
    scale_rewards: bool = setting(False, "divide rewards by the deviation of the discounted return")
    return_bound: float | None = setting(
        None, "with scale_rewards: no scaled return is above it (SimbaV2 takes 5)", above=0.0
    )
    tolerance: float = setting(
        0.0, "stop when q and the policy change by less than this between iterations; 0: never", low=0.0
    )
    set_point_copies: int | None = setting(
        None,
        "copies of a described log's rows with other set-points, where the reward is a formula; none: 3, of a large "
        "log fewer",
        low=0,
        high=100,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        self.check_drawing()

    def check_iterations(self) -> None:
        """A UserError for what a method that fits all rows anew cannot do."""
        for name, usual in OF_BATCHES.items():
            if getattr(self, name) != usual:
                raise UserError(
                    f"setting {name}: found {getattr(self, name)}, expected {usual}: a fitted method labels every row "
                    "of the data anew, and draws no batches."
                )

    def check_batches(self) -> None:
        """A UserError for what a method that learns from batches does not look at."""
        if self.tolerance:
            raise UserError(
                f"setting tolerance: found {self.tolerance:g}, expected 0: between iterations a fitted method looks at "
                "it, and this one learns from batches."
            )

    def updates(self, steps: int) -> int:
        """A step is one of a batch, or an iteration."""
        return steps


@dataclass(frozen=True, kw_only=True)
class GrowSettings(AbstractLoop):
    """How a fitted method collects its own data: each iteration fits all that was collected so far."""

    random_steps: int = setting(1_000, "environment steps with uniform actions before the first iteration", low=1)
    steps_per_iteration: int = setting(200, "environment steps between iterations", low=1)
    normalize_obs: bool = setting(False, "normalize observations by mean and deviation of the random steps")

    def __post_init__(self) -> None:
        check_settings(self)
        self.check_idle()
        if self.keep == "chosen":
            raise UserError(
                "setting keep: found chosen, and iterations on data that grow are not judged by the same rows; "
                "expected average or last."
            )

    @property
    def of_iterations(self) -> FitSettings:
        """The settings of its iterations."""
        both = {field.name for field in setting_fields(FitSettings)}
        return FitSettings(**{name: value for name, value in as_dict(self).items() if name in both})

    def updates(self, steps: int) -> int:
        """Iterations that so many environment steps call for."""
        return (steps - self.random_steps) // self.steps_per_iteration + 1 if steps >= self.random_steps else 0
