"""What is called sample by sample and tells a status, such as an agent's loop or an exported one, as a controller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
from jaxtyping import Float

from fittedq.acting.episodes import AbstractController, check_spaces
from fittedq.acting.status import ActingStatus
from fittedq.actions.base import AbstractActionSet
from fittedq.envs.flat import FlatEnv
from fittedq.errors import UserError


@runtime_checkable
class StepsOnce(Protocol):
    """`SafeLoop`, and whatever steps as it does."""

    def reset(self, before: Float[np.ndarray, "m"] | None = None) -> None: ...

    def step(self, obs: Float[np.ndarray, "o"]) -> tuple[np.ndarray, int]: ...


@final
class Stepwise(AbstractController[int]):
    """u_t = the loop's, one episode after another; `statuses` are those of every sample of every episode.

    The loop remembers by itself, so that one episode ends before the next begins; a memory is an episode's number.
    """

    def __init__(self, loop: StepsOnce, obs_size: int, action_set: AbstractActionSet, name: str = "the controller"):
        self._loop, self._obs_size, self._set, self._name = loop, obs_size, action_set, name
        self.statuses: list[list[int]] = []
        """By episode."""

    def __str__(self) -> str:
        return self._name

    def start(self, number: int) -> int:
        if number != 1:
            raise UserError(f"{self._name}: it acts in one episode at a time, found {number}.")
        self._loop.reset()
        self.statuses.append([])
        return len(self.statuses)

    def step(self, memory: int, obs: Float[np.ndarray, "b s"]) -> tuple[Float[np.ndarray, "b m"], int]:
        if memory != len(self.statuses) or len(obs) != 1:
            raise UserError(f"{self._name}: it acts in one episode at a time, and another one has begun.")
        action, status = self._loop.step(obs[0])
        self.statuses[-1].append(int(status))
        return np.ravel(action)[None], memory

    def check(self, env: FlatEnv) -> None:
        check_spaces(env, self._obs_size, self._set, self._name)


@final
@dataclass(frozen=True)
class Statuses:
    """What a `Stepwise` told in the same `episodes` of each of several loops, one loop after another."""

    told: Sequence[Sequence[int]]
    episodes: int
    loops: Sequence[str]

    def describe(self) -> list[dict[str, Any]]:
        """As JSON: by loop, its samples by status, and each span of samples in which the fallback acted."""
        return [
            {"loop": loop, "samples": _counted(told), "fallback": list(_spans(told))} for loop, told in self._by_loop()
        ]

    def table(self) -> list[list[str]]:
        """Cells: a row for each loop, a column for each status."""
        counts = {loop: _counted(told) for loop, told in self._by_loop()}
        names = [str(status) for status in ActingStatus if any(str(status) in count for count in counts.values())]
        return [
            ["samples", *names],
            *([loop, *(f"{one.get(name, 0):,}" for name in names)] for loop, one in counts.items()),
        ]

    def _by_loop(self) -> Iterator[tuple[str, Sequence[Sequence[int]]]]:
        for number, loop in enumerate(self.loops):
            yield loop, self.told[number * self.episodes : (number + 1) * self.episodes]


def _counted(told: Iterable[Iterable[int]]) -> dict[str, int]:
    counts = Counter(chain.from_iterable(told))
    return {str(ActingStatus(status)): counts[status] for status in sorted(counts)}


def _spans(told: Iterable[Iterable[int]]) -> Iterator[dict[str, Any]]:
    for number, episode in enumerate(told):
        at = 0
        for status, samples in groupby(episode):
            count = len(list(samples))
            if ActingStatus(status).is_fallback:
                yield {"episode": number, "sample": at, "samples": count, "status": str(ActingStatus(status))}
            at += count
