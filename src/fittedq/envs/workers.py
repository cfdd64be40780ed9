"""Several environments stepped together: in this process, or in one process each, which may fail, die or hang."""

from __future__ import annotations

import abc
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper
from jaxtyping import Float

from fittedq.envs.flat import FlatEnv
from fittedq.errors import UserError

_Told = TypeVar("_Told")
Maker = Callable[[], FlatEnv]
Outcome = tuple[Float[np.ndarray, "s"], float, bool, bool]
"""One environment's (s', r, terminated, truncated)."""
GRACE_SECONDS = 5.0
"""How long a process that was asked to end may take."""


class AbstractFleet(abc.ABC):
    """n environments that wait for one another."""

    @abc.abstractmethod
    def step(self, action: Float[np.ndarray, "n m"]) -> list[Outcome]:
        """One step of each."""

    @abc.abstractmethod
    def reset(self, seeds: Sequence[int | None]) -> dict[int, Float[np.ndarray, "s"]]:
        """First observations of those that have a seed here; the others go on."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release them all."""


class Local(AbstractFleet):
    """In this process, one after another."""

    def __init__(self, envs: Sequence[FlatEnv]):
        self.envs = list(envs)

    def step(self, action: Float[np.ndarray, "n m"]) -> list[Outcome]:
        return [
            self._told(index, lambda env=env, index=index: env.step(action[index])[:4])
            for index, env in enumerate(self.envs)
        ]

    def reset(self, seeds: Sequence[int | None]) -> dict[int, Float[np.ndarray, "s"]]:
        return {
            index: self._told(index, lambda index=index, seed=seed: self.envs[index].reset(seed=seed)[0])
            for index, seed in enumerate(seeds)
            if seed is not None
        }

    def _told(self, index: int, function: Callable[[], _Told]) -> _Told:
        if len(self.envs) == 1:
            return function()
        try:
            return function()
        except UserError as error:
            raise UserError(f"{_which(index)}{error}") from error.__cause__

    def close(self) -> None:
        for env in self.envs:
            env.close()


class Workers(AbstractFleet):
    """In a process each. One that raises, ends, or takes more than `timeout` seconds is a UserError."""

    def __init__(self, makers: Sequence[Maker], timeout: float):
        self._timeout = timeout
        # Not a fork: JAX's threads do not survive one.
        context = multiprocessing.get_context("forkserver")
        # What every worker needs is imported once, by the process that they are forked from; nothing computes there.
        context.set_forkserver_preload(["fittedq.envs.gym"])
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for maker in makers:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, CloudpickleWrapper(maker)), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        try:
            self._answers(range(len(makers)))
        except BaseException:
            self.close()
            raise

    def step(self, action: Float[np.ndarray, "n m"]) -> list[Outcome]:
        everyone = range(len(self._pipes))
        for index in everyone:
            self._send(index, ("step", action[index]))
        return self._answers(everyone)

    def reset(self, seeds: Sequence[int | None]) -> dict[int, Float[np.ndarray, "s"]]:
        chosen = [index for index, seed in enumerate(seeds) if seed is not None]
        for index in chosen:
            self._send(index, ("reset", seeds[index]))
        return dict(zip(chosen, self._answers(chosen), strict=True))

    def _send(self, index: int, message: tuple[str, Any]) -> None:
        # A process that has ended is told of when its answer is missing.
        with contextlib.suppress(OSError):
            self._pipes[index].send(message)

    def _answers(self, indices: Sequence[int]) -> list[Any]:
        until = time.monotonic() + self._timeout
        answers = []
        for index in indices:
            if not self._pipes[index].poll(max(0.0, until - time.monotonic())):
                self._processes[index].kill()
                raise UserError(
                    f"{_which(index)}no answer within {self._timeout:g} s; its process was ended (setting env_timeout)."
                )
            try:
                answer, failure, trace = self._pipes[index].recv()
            except (EOFError, OSError):
                raise UserError(f"{_which(index)}{self._ending(index)}.") from None
            if failure is not None:
                error = UserError(f"{_which(index)}{failure}")
                error.add_note(f"In the process of sub-environment {index}:\n{trace}")
                raise error
            answers.append(answer)
        return answers

    def _ending(self, index: int) -> str:
        process = self._processes[index]
        process.join(GRACE_SECONDS)
        code = process.exitcode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"

    def close(self) -> None:
        for index in range(len(self._pipes)):
            self._send(index, ("close", None))
        until = time.monotonic() + GRACE_SECONDS
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()


def _work(pipe: Connection, maker: Maker) -> None:
    """Answer (answer, None, "") or (None, what failed, its traceback) to each message, until told to close."""
    # A terminal sends its signals to this process too; the one that trains saves, and then closes it.
    for number in {signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)}:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_trainer, name="trainer", daemon=True).start()
    env: FlatEnv | None = None
    method, data = "make", cast("Any", None)
    while method != "close":
        try:
            if env is None:
                answer, env = None, maker()
            elif method == "step":
                answer = env.step(data)[:4]
            else:
                answer = env.reset(seed=data)[0]
            pipe.send((answer, None, ""))
        except Exception as error:
            pipe.send((None, _told(error), traceback.format_exc()))
        try:
            method, data = pipe.recv()
        except EOFError:  # the process that trains has ended
            break
    with contextlib.suppress(Exception):
        if env is not None:
            env.close()
    sys.stdout.flush()


def _end_with_the_trainer() -> None:
    """Once the process that trains has ended, so does this one, though its environment hangs."""
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    trainer.join()
    time.sleep(GRACE_SECONDS)  # an environment that answers is closed meanwhile
    os._exit(1)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}."


def _which(index: int) -> str:
    return f"sub-environment {index}: "
