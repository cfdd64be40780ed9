"""Which trainer a run takes: a table, by where its data come from and by whether a method fits all of them anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.control.augmentation import Augmentation
from fittedq.control.state import AugmentedState
from fittedq.data.dataset import Dataset
from fittedq.envs.augmented import AugmentedEnv, AugmentedSource
from fittedq.envs.gym import AbstractSource
from fittedq.envs.plant import AbstractPlant
from fittedq.errors import UserError
from fittedq.ranges import SearchRange
from fittedq.settings import ranges_of, setting_fields, split_settings
from fittedq.trainers.base import AbstractTrainer
from fittedq.trainers.batches import BatchTrainer
from fittedq.trainers.compiled import CompiledTrainer
from fittedq.trainers.growing import GrowingTrainer
from fittedq.trainers.host import HostTrainer
from fittedq.trainers.iterations import FittedTrainer
from fittedq.trainers.settings import OF_BATCHES, FitSettings, GrowSettings, TrainSettings
from fittedq.trainers.solutions import AbstractSearch, Where
from fittedq.types import needed

Settings = TrainSettings | FitSettings | GrowSettings


Loop = TypeVar("Loop", bound=Settings)


@dataclass(frozen=True)
class Ingredients(Generic[Loop]):
    """What a trainer is made of."""

    algorithm: AbstractAlgorithm
    plant: AbstractPlant | None
    """Where data come from; None: from `data` alone."""
    data: Dataset | None
    settings: Loop
    seed: int
    state: AugmentedState | None = None
    """What the learner sees, where that is not the observation alone."""
    where: Where | None = None
    """Where a solver searches over a dataset; None: in this process."""

    @property
    def search(self) -> AbstractSearch | None:
        """The search of this method over these rows, where that is not in this process."""
        rows = needed(self.rows)
        return None if self.where is None else self.where(self.algorithm, rows.obs_size, rows.action_set)

    @property
    def rows(self) -> Dataset | None:
        """The data as the learner sees them."""
        return None if self.data is None else self.data.augmented(self.state)

    def seen(self, source: AbstractSource) -> AbstractSource:
        """Environments on the host, as the learner sees them."""
        return source if self.state is None else AugmentedSource(source, self.state)


Made = tuple[AbstractTrainer, AbstractSource | None]
"""A trainer, and the environments on the host that it steps."""


class Choice(NamedTuple):
    """The settings of a trainer, and how it is made."""

    settings: type[Settings]
    make: Callable[[Ingredients[Any]], Made]

    def check_searches(self, method: AbstractAlgorithm) -> None:
        """A UserError where no solver searches over a dataset, which might be done elsewhere."""
        if self.make is not _fitted:
            raise UserError(
                f"found {method.name!r} without --seeds, expected a method that searches for actions over --data, such "
                "as explicit_fqi; or give --seeds.",
                argument="on",
            )


def _fitted(parts: Ingredients[FitSettings]) -> Made:
    return FittedTrainer(parts.algorithm, needed(parts.rows), parts.settings, parts.seed, parts.search), None


def _batches(parts: Ingredients[FitSettings]) -> Made:
    return BatchTrainer(parts.algorithm, needed(parts.rows), parts.settings, parts.seed), None


def _growing(parts: Ingredients[GrowSettings]) -> Made:
    source = needed(parts.plant).source(seed=parts.seed)
    return _closing(
        source,
        lambda: GrowingTrainer(parts.algorithm, parts.seen(source), parts.settings, parts.seed, parts.rows),
    )


def _host(parts: Ingredients[TrainSettings]) -> Made:
    settings = parts.settings
    source = needed(parts.plant).source(
        settings.n_envs, asynchronous=settings.asynchronous, seed=parts.seed, env_timeout=settings.env_timeout
    )
    return _closing(source, lambda: HostTrainer(parts.algorithm, parts.seen(source), settings, parts.seed, parts.rows))


def _compiled(parts: Ingredients[TrainSettings]) -> Made:
    if parts.data is not None:
        raise UserError("a JAX environment cannot start from a dataset; use the Gymnasium one.", argument="data")
    plant, state = needed(parts.plant), parts.state
    env = plant.env if state is None else AugmentedEnv(plant.env, state)
    action_set = plant.action_set if state is None else state.action_set
    return CompiledTrainer(parts.algorithm, env, parts.settings, parts.seed, action_set), None


def _none(parts: Ingredients[GrowSettings]) -> Made:
    raise UserError(
        f"algorithm {parts.algorithm.name!r} fits growing data on the host, not inside a compiled JAX environment; use "
        "the Gymnasium one, or collect a dataset first."
    )


CHOICES = {
    ("dataset", True): Choice(FitSettings, _fitted),
    ("dataset", False): Choice(FitSettings, _batches),
    ("host", True): Choice(GrowSettings, _growing),
    ("host", False): Choice(TrainSettings, _host),
    ("compiled", True): Choice(GrowSettings, _none),
    ("compiled", False): Choice(TrainSettings, _compiled),
}
"""(where data come from, whether each step fits all of them anew) → the trainer."""


def choose(method: AbstractAlgorithm | type[AbstractAlgorithm], plant: AbstractPlant | None) -> Choice:
    """The trainer of a method, or of one of its class, on data from `plant`, or from a dataset alone."""
    where = "dataset" if plant is None else "compiled" if plant.compiled else "host"
    if plant is not None and not method.online:
        raise UserError(
            f"algorithm {method.name!r} learns no policy, so it cannot collect data; give it a "
            "dataset (fittedq data collect makes one), and the environment for evaluations only.",
            argument="data",
        )
    return CHOICES[where, method.fitted]


def split_for(
    settings: Mapping[str, Any], method: AbstractAlgorithm | type[AbstractAlgorithm], choice: Choice
) -> tuple[dict[str, Any], ...]:
    """(the method's settings, its training's, what a controller sees), or a UserError that says why another training's
    has no meaning here."""
    cls = method if isinstance(method, type) else type(method)
    here = {field.name for group in (cls, choice.settings) for field in setting_fields(group)}
    elsewhere = {field.name for other in CHOICES.values() for field in setting_fields(other.settings)}
    for name in settings:
        if name in elsewhere - here:
            raise UserError(f"setting {name!r} is unknown here: {_kind(method, choice)}; leave it out.")
    return split_settings(settings, cls, choice.settings, Augmentation)


def _kind(method: AbstractAlgorithm | type[AbstractAlgorithm], choice: Choice) -> str:
    """What kind of training a choice is, in words."""
    because = f", for {' and '.join(method.fitted_for)} needs a whole dataset" if method.fitted_for else ""
    fits = f"{method.name} fits all of its data in each iteration{because}"
    draws = f"{method.name} learns from batches"
    alone = "learns from data that are given, and collects none"
    return {FitSettings: f"{method.name} {alone}", GrowSettings: fits, TrainSettings: draws}[choice.settings]


def settings_of(cls: type[AbstractAlgorithm], where: str) -> type[Settings]:
    """The settings of a method's training where its data come from a "dataset" or the "host"."""
    return CHOICES[where, cls.fitted].settings


def ranges_in(cls: type[AbstractAlgorithm], where: str) -> dict[str, SearchRange | None]:
    """Where each setting of a method and its training may be looked for, with data from a "dataset" or the "host"."""
    found = ranges_of(settings_of(cls, where)) | ranges_of(Augmentation) | ranges_of(cls)
    unread = {*cls.ignores, *(OF_BATCHES if cls.fitted else ())}
    return {name: range for name, range in found.items() if name not in unread}


def tuned(cls: type[AbstractAlgorithm], where: str) -> dict[str, SearchRange]:
    """Those that declare a range: what is looked for where nothing is named."""
    groups = (settings_of(cls, where), Augmentation, cls)
    declared = {one.name for group in groups for one in setting_fields(group) if one.metadata["search"] is not None}
    return {name: found for name, found in ranges_in(cls, where).items() if found is not None and name in declared}


def _closing(source: AbstractSource, make: Callable[[], AbstractTrainer]) -> Made:
    """What is made on `source`, which closes where that fails."""
    try:
        return make(), source
    except BaseException:
        source.close()
        raise
