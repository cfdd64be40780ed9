"""A policy where what it sees is familiar, and a fallback elsewhere."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float

from fittedq.acting.episodes import AbstractController, Memory, check_spaces
from fittedq.acting.familiar import Familiarity
from fittedq.acting.recent import Trail
from fittedq.acting.status import Act
from fittedq.actions.base import AbstractActionSet
from fittedq.control.state import AugmentedState
from fittedq.envs.flat import FlatEnv
from fittedq.types import Transition


class AbstractFallback(abc.ABC, Generic[Memory]):
    """What acts where nothing familiar is seen; its memory goes on at every sample, whoever acts."""

    @abc.abstractmethod
    def start(self, number: int) -> Memory:
        """The memory of so many episodes that begin."""

    @abc.abstractmethod
    def step(
        self, memory: Memory, obs: Float[np.ndarray, "b o"], before: Float[np.ndarray, "b m"]
    ) -> tuple[Float[np.ndarray, "b m"], Memory]:
        """(actions, memory) at the newest observations, after the actions `before`."""

    @abc.abstractmethod
    def check(self, env: FlatEnv) -> None:
        """A UserError unless it can act in `env`."""


@final
@dataclass(frozen=True)
class Hold(AbstractFallback[None]):
    """u_t = u_{t−1}, the action that was executed last."""

    def __str__(self) -> str:
        return "hold"

    def start(self, number: int) -> None:
        del number

    def step(
        self, memory: None, obs: Float[np.ndarray, "b o"], before: Float[np.ndarray, "b m"]
    ) -> tuple[Float[np.ndarray, "b m"], None]:
        return before, memory

    def check(self, env: FlatEnv) -> None:
        """Every environment has actions to hold."""


@final
@dataclass(frozen=True)
class Relief(AbstractFallback[Memory]):
    """u_t of another controller, which observes from the first sample on."""

    controller: AbstractController[Memory]

    def __str__(self) -> str:
        return str(self.controller)

    def start(self, number: int) -> Memory:
        return self.controller.start(number)

    def step(
        self, memory: Memory, obs: Float[np.ndarray, "b o"], before: Float[np.ndarray, "b m"]
    ) -> tuple[Float[np.ndarray, "b m"], Memory]:
        return self.controller.step(memory, obs)

    def check(self, env: FlatEnv) -> None:
        self.controller.check(env)


@final
@dataclass(frozen=True)
class Steady(AbstractFallback[None]):
    """u_t = `action`, or u_{t−1} + `action` where an agent's actions are changes."""

    action: tuple[float, ...]
    is_change: bool = False

    def start(self, number: int) -> None:
        del number

    def step(
        self, memory: None, obs: Float[np.ndarray, "b o"], before: Float[np.ndarray, "b m"]
    ) -> tuple[Float[np.ndarray, "b m"], None]:
        action = np.asarray(self.action, np.float32)
        return before + action if self.is_change else np.broadcast_to(action, before.shape), memory

    def check(self, env: FlatEnv) -> None:
        """It is an action of the agent's own set."""


class Watched(NamedTuple):
    """What a guard remembers of b episodes side by side."""

    seen: Float[np.ndarray, "b z"] | None
    obs: Float[np.ndarray, "b o"] | None
    executed: Float[np.ndarray, "b m"]
    samples: int
    trail: Trail | None
    fallback: object
    taken_over: Bool[np.ndarray, "b"]
    """Where the fallback has acted at the last sample."""


class Judged(NamedTuple):
    """One episode."""

    total: float
    """Its return."""
    samples: int
    fallbacks: int
    """Samples at which the fallback acted."""


@final
@dataclass(frozen=True)
class Guarded(AbstractController[Watched]):
    """u = the policy's where familiar(s) ≥ threshold, else the fallback's.

    The policy sees z of `state`, or the observation itself where there is none. z goes on with the action that was
    executed, whoever chose it; a limited rate holds for both.
    """

    act: Act
    known: Familiarity
    threshold: float
    fallback: AbstractFallback[Any]
    obs_size: int
    limits: AbstractActionSet
    """Of the actions that are executed."""
    state: AugmentedState | None = None
    before: Float[np.ndarray, "m"] | None = None
    """The action that stands before the first one, by default the middle of the limits."""
    name: str = "the agent"

    def __str__(self) -> str:
        return self.name

    def start(self, number: int) -> Watched:
        first = np.asarray(self.limits.center if self.before is None else self.before, np.float32)
        executed = np.tile(first, (number, 1))
        return Watched(None, None, executed, 0, None, self.fallback.start(number), np.zeros(number, bool))

    def step(self, memory: Watched, obs: Float[np.ndarray, "b s"]) -> tuple[Float[np.ndarray, "b m"], Watched]:
        obs = np.asarray(obs, np.float32)
        seen, executed = obs, memory.executed
        if self.state is not None:
            z = memory.seen
            seen = np.asarray(self.state.first(obs, executed) if z is None else self.state.after(z, executed, obs))
        strange, trail = self.strange(seen, memory.obs, executed, memory.samples, memory.trail)
        action, known = self.relieved(memory.fallback, obs, executed)
        if not strange.all():
            asked = self.act(seen[~strange])
            action[~strange] = asked if self.state is None else self.state.wanted(executed[~strange], asked)
        if self.state is not None:
            action = np.asarray(self.state.reached(executed, action))
        return action, Watched(seen, obs, action, memory.samples + 1, trail, known, strange)

    def strange(
        self,
        seen: Float[np.ndarray, "b z"],
        obs: Float[np.ndarray, "b s"] | None,
        executed: Float[np.ndarray, "b m"],
        samples: int,
        trail: Trail | None,
    ) -> tuple[Bool[np.ndarray, "b"], Trail | None]:
        """(where familiar < threshold, what goes on); `obs` and `executed` are those of the sample before, of which
        there were so many, and `trail` is what was kept of them."""
        before = None if obs is None else np.concatenate([obs, executed], axis=1)
        found = self.known.seen(seen, self.known.past(seen, before) if samples >= self.history else None)
        familiar, trail = self.known.after(found, trail)
        return familiar < self.threshold, trail

    def relieved(
        self, memory: Any, obs: Float[np.ndarray, "b s"], executed: Float[np.ndarray, "b m"]
    ) -> tuple[Float[np.ndarray, "b m"], Any]:
        """(actions of the fallback that are admissible, its memory)."""
        relief, memory = self.fallback.step(memory, obs, executed)
        return np.array(self.limits.project(np.asarray(relief, np.float32), obs)), memory

    @property
    def history(self) -> int:
        """Samples before the first at which a change can be judged."""
        return 1 if self.state is None else max(1, self.state.augmentation.history - 1)

    def taken_over(self, rows: Transition) -> Bool[np.ndarray, "t"]:
        """At which samples of one whole episode that it played the fallback has acted."""
        memory, found = self.start(1), list[bool]()
        for obs, action in zip(rows.obs, rows.action, strict=True):
            _, memory = self.step(memory, obs[None])
            memory = memory._replace(executed=np.asarray(action, np.float32)[None])
            found.append(bool(memory.taken_over[0]))
        return np.array(found, bool)

    def check(self, env: FlatEnv) -> None:
        check_spaces(env, self.obs_size, self.limits, self.name)
        self.fallback.check(env)
