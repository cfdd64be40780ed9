"""Commands of fittedq side by side, one process for each core, told as they go."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from fittedq.errors import UserError
from fittedq.machine import pin
from fittedq.trainers.base import never

LOOK_EVERY = 0.2
"""Seconds between looks at whether to stop."""
_ENDS_WITH_US = """
import ctypes, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
if hasattr(signal, "pthread_sigmask"):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # it is blocked below Ray, and ignored behind `&`
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):  # it is dead already
    sys.exit(1)
os.execv(sys.executable, [sys.executable, "-m", "fittedq", *sys.argv[2:]])
"""
"""Begins a command that saves and ends, as by Ctrl-C, when the process that began it dies (Linux)."""


@final
@dataclass(frozen=True)
class Task:
    """A command that prints JSON lines; done again it goes on, or does nothing where all was done."""

    name: str
    words: tuple[str, ...]
    about: Mapping[str, Any]
    """What sets it apart from the others, for machines."""
    folder: Path = Path()
    """The run's folder, which its words name."""

    def at(self, folder: Path) -> Task:
        """The same task with its run in another folder."""
        words = (f"--out={folder}" if word == f"--out={self.folder}" else word for word in self.words)
        return replace(self, words=tuple(words), folder=folder)


@final
@dataclass(frozen=True)
class Told:
    """What a task said: an object of its output, or a sentence beside it, or its exit code once it has ended."""

    task: Task
    record: dict[str, Any] | None = None
    text: str | None = None
    code: int | None = None


def check_named_apart(tasks: Sequence[Task]) -> None:
    """A UserError where two tasks have the same name."""
    names = [task.name for task in tasks]
    if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
        raise UserError(f"tasks: found two named {twice!r}, expected a name of its own for each.")


def side_by_side(tasks: Sequence[Task], on: Sequence[int], stop: Callable[[], bool] = never) -> Iterator[Told]:
    """Carry out all tasks, each on a core of its own while it lasts, and tell what they say.

    Where `stop()` is true, or the generator is closed, no other begins, and those at work are asked once to save and
    end, as by Ctrl-C. UserError: two tasks have the same name.
    """
    check_named_apart(tasks)
    yield from as_they_come(tasks, on, stop)


def as_they_come(
    tasks: Iterable[Task | None],
    on: Sequence[int],
    stop: Callable[[], bool] = never,
    over: Callable[[Task], bool] = lambda task: False,
) -> Iterator[Told]:
    """`side_by_side` for tasks that follow from what was told: the next one is asked for once a core is free, and None
    is none yet. A task that is `over` is asked to save and end, and others go on."""
    coming, told = iter(tasks), queue.SimpleQueue[Told]()
    work = _Work(list(on), told)
    dry = asked = False
    try:
        while work.doing or not (dry or asked):
            if not asked and stop():
                asked = True
                work.ask(lambda task: True)
            if not asked:
                work.ask(over)
                dry = dry or work.begin(coming)
            try:
                one = told.get(timeout=LOOK_EVERY if work.doing or not dry else 0)
            except queue.Empty:
                continue
            if one.code is not None:
                work.end(one.task)
            yield one
    finally:
        work.ask(lambda task: True)
        work.wait()


@final
class _Work:
    """Tasks at work, each on a core of its own."""

    def __init__(self, free: list[int], told: queue.SimpleQueue[Told]):
        self.free, self.told = free, told
        self.doing: dict[str, tuple[Task, subprocess.Popen[str], int]] = {}
        self._asked = set[str]()

    def begin(self, coming: Iterator[Task | None]) -> bool:
        """Begin those that come, as long as a core is free; whether none comes any more."""
        while self.free:
            try:
                task = next(coming)
            except StopIteration:
                return True
            if task is None:
                return False
            core = self.free.pop(0)
            self.doing[task.name] = task, _begun(task, core, self.told), core
        return False

    def ask(self, which: Callable[[Task], bool]) -> None:
        """Ask those tasks, each once, to save and end."""
        for name, (task, process, _) in self.doing.items():
            if name not in self._asked and which(task):
                self._asked.add(name)
                process.send_signal(signal.SIGINT)

    def end(self, task: Task) -> None:
        """Its core is free again."""
        self._asked.discard(task.name)
        self.free.append(self.doing.pop(task.name)[2])

    def wait(self) -> None:
        """Until all have ended."""
        for _, process, _ in self.doing.values():
            process.wait()


def _begun(task: Task, core: int, told: queue.SimpleQueue[Told]) -> subprocess.Popen[str]:
    """The task's process. A terminal's Ctrl-C does not reach it: it is asked once, by us."""
    process = subprocess.Popen(
        [sys.executable, "-ISc", _ENDS_WITH_US, str(os.getpid()), *task.words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Libraries make their threads by the cores that they find; together they would make too many.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    pin(process.pid, [core])  # before it has any thread but the first
    assert process.stdout is not None and process.stderr is not None
    readers = [
        threading.Thread(target=_read, args=(process.stdout, task, told, _record)),
        threading.Thread(target=_read, args=(process.stderr, task, told, _sentence)),
    ]
    for reader in readers:
        reader.start()
    threading.Thread(target=_await, args=(process, readers, task, told)).start()
    return process


def _read(lines: Iterable[str], task: Task, told: queue.SimpleQueue[Told], made: Callable[[Task, str], Told]) -> None:
    for line in lines:
        if line.strip():
            told.put(made(task, line.rstrip("\n")))


def _record(task: Task, line: str) -> Told:
    """An object of the task's output; what else an environment prints there is a sentence."""
    try:
        value = json.loads(line)
    except ValueError:
        return _sentence(task, line)
    return Told(task, record=value) if isinstance(value, dict) else _sentence(task, line)


def _sentence(task: Task, line: str) -> Told:
    return Told(task, text=line)


def _await(
    process: subprocess.Popen[str], readers: Sequence[threading.Thread], task: Task, told: queue.SimpleQueue[Told]
) -> None:
    with process:  # its pipes are closed once they are read
        for reader in readers:
            reader.join()
    code = process.wait()
    told.put(Told(task, code=code if code >= 0 else 128 - code))  # as a shell has it where a signal ended a process
