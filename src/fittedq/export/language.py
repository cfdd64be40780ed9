"""What a language is to a controller: its files, and the controller at work, to be verified."""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from fittedq.acting.loop import Taken
from fittedq.export.program import ControlProgram


@dataclass(frozen=True)
class About:
    """What an exported controller says of itself: names, units and order of its numbers, where it comes from."""

    algorithm: str
    env: str | None
    agent: str
    """SHA-256 of the agent's tensors and settings."""
    versions: dict[str, str]
    observations: tuple[str, ...]
    actions: tuple[str, ...]
    units: dict[str, str]
    """By the name of an observation or action, where it is known."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    sample: float | None
    """Seconds between samples, where they are known."""
    fallback: str
    """What acts instead of the policy, in words."""
    threshold: float
    """It acts where what is seen is less familiar; 0: only where there is no action."""
    columns: tuple[str, ...] = ()
    """What the log that was learned from calls the observations and then the actions; empty where it does not say."""
    learned_between: tuple[tuple[float, float], ...] = ()
    """The ends of each observation in what was learned from; empty where they are not known."""

    @property
    def sentence(self) -> str:
        """One line for the head of a file."""
        on = f" for {self.env}" if self.env else ""
        return (
            f"A controller{on}, learned by {self.algorithm}: {len(self.observations)} observations, "
            f"{len(self.actions)} actions. Agent {self.agent[:12]}, fittedq {self.versions['fittedq']}."
        )


class Golden(NamedTuple):
    """Samples and what the agent does at each: what an exported controller is compared with, and can test itself by."""

    obs: Float[np.ndarray, "N o"]
    begins: Bool[np.ndarray, "N"]
    """Where an episode begins."""
    action: Float[np.ndarray, "N m"]
    status: Int[np.ndarray, "N"]
    taken: tuple[Taken | None, ...]
    """What the policy saw and decided."""

    def first(self, number: int) -> Golden:
        """The first samples."""
        obs, begins, action, status, taken = self
        return Golden(obs[:number], begins[:number], action[:number], status[:number], taken[:number])


class AbstractExported(abc.ABC):
    """An exported controller at work."""

    @abc.abstractmethod
    def run(
        self, obs: Float[np.ndarray, "N o"], begins: Bool[np.ndarray, "N"]
    ) -> tuple[Float[np.ndarray, "N m"], Int[np.ndarray, "N"]]:
        """(actions, statuses) of samples one after another; an episode begins where `begins` says so."""


class AbstractRunning(AbstractExported):
    """One that is called sample by sample."""

    @abc.abstractmethod
    def reset(self, before: Float[np.ndarray, "m"] | None = None) -> None:
        """An episode begins, as though the action `before` had been executed until then."""

    @abc.abstractmethod
    def step(self, obs: Float[np.ndarray, "o"]) -> tuple[Float[np.ndarray, "m"], int]:
        """(action, status) at this sample."""

    def run(
        self, obs: Float[np.ndarray, "N o"], begins: Bool[np.ndarray, "N"]
    ) -> tuple[Float[np.ndarray, "N m"], Int[np.ndarray, "N"]]:
        actions, statuses = [], []
        for row, begin in zip(obs, begins.tolist(), strict=True):
            if begin:
                self.reset()
            action, status = self.step(row)
            actions.append(np.ravel(action))
            statuses.append(int(status))
        return np.array(actions, np.float32), np.array(statuses)


class AbstractFollowing(AbstractRunning):
    """One that can also run beside the controller that is in charge."""

    @abc.abstractmethod
    def follow(self, executed: Float[np.ndarray, "m"]) -> None:
        """What was executed instead at the last sample; a vector that is not finite changes nothing."""


class AbstractLanguage(abc.ABC):
    """A language that controllers are written in."""

    name: ClassVar[str]
    title: ClassVar[str]

    @abc.abstractmethod
    def files(self, program: ControlProgram, about: About, golden: Golden) -> dict[str, bytes]:
        """{name: content}; a UserError names what the language cannot say. `golden` is a short one."""

    @abc.abstractmethod
    @contextmanager
    def running(self, folder: Path) -> Iterator[AbstractExported]:
        """The controller of these files at work; a UserError where this machine cannot run it."""


class Accepted(NamedTuple):
    """On what terms a controller is accepted: the largest difference from the agent, in half-widths; and what was
    chosen of its language, as JSON."""

    tolerance: float = 1e-5
    options: Mapping[str, Any] = MappingProxyType({})


@functools.singledispatch
def accepted(language: AbstractLanguage) -> Accepted:
    """The terms of a language; those with options register theirs."""
    del language
    return Accepted()


@functools.singledispatch
def facts(language: AbstractLanguage, program: ControlProgram, about: About, golden: Golden) -> dict[str, Any]:
    """What else is to be told of a controller, such as its memory; languages that know something register it."""
    del language, program, about, golden
    return {}
