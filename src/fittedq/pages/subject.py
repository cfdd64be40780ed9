"""What a report is about: a run's records, its agent, and where that can act, as far as each is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, final

from fittedq.agent import Agent
from fittedq.algorithms.saved import Code
from fittedq.code import check_needed
from fittedq.control.augmentation import Augmentation
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.diagnose.control import Tracked
from fittedq.diagnose.followed import told_to_follow
from fittedq.envs.plant import AbstractPlant, resolve
from fittedq.envs.registry import NamedEnv
from fittedq.errors import UserError
from fittedq.runs.folder import Record, RunFolder
from fittedq.runs.saved import about_agent, find_agent, learned_from

Thing = TypeVar("Thing")


@final
@dataclass(frozen=True)
class Maybe(Generic[Thing]):
    """What is there, or the sentence that says why it is not."""

    value: Thing | None
    why: str = ""

    @staticmethod
    def of(get: Callable[[], Thing]) -> Maybe[Thing]:
        """What `get` gives; a user's mistake is why there is nothing."""
        try:
            return Maybe(get())
        except UserError as error:
            return Maybe(None, error.on_command_line())


@final
@dataclass(frozen=True)
class Wishes:
    """What a user says of a report."""

    env: NamedEnv | None = None
    """Where to play, instead of where it was trained."""
    data: Path | None = None
    """Rows that were not learned from."""
    episodes: int = 3
    seed: int = 0
    code: Code = None
    trust_code: Sequence[str] = ()


@final
class Subject:
    """A run or an agent, read where it is asked for."""

    def __init__(self, path: Path, asked: Wishes):
        self.path, self.asked = path, asked
        folder = next((one for one in (path, path.parent) if (one / "config.json").is_file()), None)
        self.run = None if folder is None else RunFolder(folder)
        self.config: dict[str, Any] = {} if self.run is None else self.run.config()
        self.records: list[Record] = [] if self.run is None else self.run.metrics()
        if self.run is None:
            about_agent(path)  # what is neither a run nor an agent is refused

    @cached_property
    def agent(self) -> Maybe[Agent]:
        """The agent."""
        return Maybe.of(self._agent)

    def _agent(self) -> Agent:
        return find_agent(self.path, self.asked.code, self.asked.trust_code)

    def check_wishes(self) -> None:
        """A UserError where code is trusted that nothing here needs, or it cannot act in the environment asked for."""
        agent = self.agent.value
        if agent is None:
            return
        if self.asked.env is not None and self.plant.value is None:
            raise UserError(self.plant.why)
        check_needed(self.asked.trust_code, agent.env if self.asked.env is None else None, agent.method)

    @cached_property
    def plant(self) -> Maybe[AbstractPlant]:
        """Where the agent can act."""
        return Maybe.of(self._plant)

    def _plant(self) -> AbstractPlant:
        agent = self.agent.value
        if agent is None:
            raise UserError(self.agent.why)
        env = self.asked.env or (agent.env and agent.env.trusted(self.asked.trust_code))
        if env is None:
            raise UserError("No environment is known in which it could act; name one with --env.")
        plant = resolve(env)
        with closing(plant.make()) as made:  # one that cannot be made, or is of other sizes, is told now
            agent.controller().check(made)
        return plant

    @cached_property
    def learned(self) -> Maybe[Dataset | None]:
        """The log that it learned from; None where it learned from none."""
        return Maybe.of(self._learned)

    def _learned(self) -> Dataset | None:
        path = learned_from(self.path)
        return None if path is None else Dataset.open(path)

    @cached_property
    def held_out(self) -> Dataset | None:
        """The rows that were given."""
        return None if self.asked.data is None else Dataset.open(self.asked.data)

    @property
    def log(self) -> Dataset | None:
        """Rows of its plant that somebody logged."""
        return self.held_out or self.learned.value

    @cached_property
    def described(self) -> Description | None:
        """What is known of the plant."""
        if self.log is not None and self.log.description is not None:
            return self.log.description
        said = self.config.get("plant")
        return None if said is None else Description.of(said, f"{self.path}: plant")

    @property
    def told(self) -> list[Augmentation]:
        """What the agent was told of set-points and of time."""
        agent = self.agent.value
        return [] if agent is None or agent.augmented is None else [agent.augmented.augmentation]

    @cached_property
    def tracked(self) -> list[Tracked]:
        """What is to follow what."""
        return told_to_follow(self.told, self.described)

    @property
    def seconds(self) -> float | None:
        """Between two samples, where that is known."""
        said = [(self.described and self.described.sample) or None, *(one.sample for one in self.told)]
        return next((one for one in said if one), None)

    def names(self, agent: Agent) -> tuple[list[str], list[str]]:
        """What the numbers of an observation and of an action are called."""
        spaces, said = agent.spaces, self.described
        own = list(spaces.observation.names("observation")), list(spaces.action.names("action"))
        if said is None:
            return own
        given = [_with_unit(name, said) for name in said.obs], [_with_unit(name, said) for name in said.action]
        return (
            given[0] if len(given[0]) == len(own[0]) else own[0],
            given[1] if len(given[1]) == len(own[1]) else own[1],
        )


def _with_unit(name: str, said: Description) -> str:
    column = said.columns.get(name)
    return f"{name} in {column.unit}" if column is not None and column.unit else name
