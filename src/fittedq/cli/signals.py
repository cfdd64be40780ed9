"""Ctrl-C, terminate and hang-up: before a run begins they end the process; during it the first one saves and stops.

Python runs a signal's handler in the main thread, between two of its instructions: not while that thread compiles or
waits in a compiled program, and what a handler raises may be swallowed by a module that is being imported. So a thread
reads the numbers of the signals from a pipe, which the interpreter fills at once, and it decides. Only the standard
library is imported here, and `ending`, so that the thread stands before anything slow is imported.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO, final

from fittedq.ending import end

INTERRUPTED = 130
"""The exit code of a command that was interrupted."""
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = "\x1b[?25h"


@final
class Outlet(io.TextIOBase):
    """A standard stream that may be lost, as a reader or a terminal goes away: from then on it leads nowhere."""

    def __init__(self, stream: TextIO | io.TextIOBase):
        self._stream, self._failed, self._terminal = stream, False, stream.isatty()

    def write(self, text: str, /) -> int:
        with self._losing():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._losing():
            self._stream.flush()

    @contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._failed = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            # What is buffered, and what else writes to this descriptor, must not fail again.
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    @property
    def lost(self) -> bool:
        """Whether a write has failed, or the terminal is none any more: then nobody may write to it at all."""
        return self._failed or (self._terminal and not self._stream.isatty())

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._stream.encoding


@final
class Stop:
    """True once a signal asked to stop, or a standard stream was lost; `first` and `then` are what is said of it."""

    def __init__(self, outlets: tuple[Outlet, ...], first: str, then: str):
        self.signals: list[int] = []
        self.first, self.then = first, then
        self._outlets = outlets

    def __bool__(self) -> bool:
        return bool(self.signals) or any(outlet.lost for outlet in self._outlets)


class _Watch:
    """Who is told of the first signal; nobody: it ends the process."""

    stop: Stop | None = None


def install() -> None:
    """From now on signals stop this process as this module says; those it was started to ignore stay ignored."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the process was started with it closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        # A terminal that knows no γ, or a file's name that is no text, must not end a command.
        getattr(sys, name).reconfigure(errors="replace")
    for number in _STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _left_to_the_thread)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_left_to_the_parent)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()


@contextmanager
def interruptible(first: str = "saving first", then: str = "") -> Iterator[Stop]:
    """What to look at between steps: while this lasts, the first signal or a lost stream asks to save and stop.

    `first` says what is done then, and `then` what a second signal leaves to do.
    """
    before = sys.stdout, sys.stderr
    outlets = Outlet(sys.stdout), Outlet(sys.stderr)
    sys.stdout, sys.stderr = outlets
    _Watch.stop = Stop(outlets, first, then)
    try:
        yield _Watch.stop
    finally:
        _Watch.stop = None
        sys.stdout, sys.stderr = before


def _watch(reading: int) -> None:
    while True:
        for number in os.read(reading, 64):
            if number in _STOPPING:
                _asked(number)


def _asked(number: int) -> None:
    stop = _Watch.stop
    if stop is not None and not stop.signals:
        stop.signals.append(number)
        _say(f"\nStopping: {stop.first}. (Ctrl-C again stops at once.)\n")
    elif stop is None or number != signal.SIGHUP:  # a terminal that closes may hang up twice
        _say(f"\nfittedq: interrupted; {stop.then}\n" if stop and stop.then else "\nfittedq: interrupted.\n")
        end(INTERRUPTED)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, ((_SHOW_CURSOR if os.isatty(2) else "") + text).encode())


def _left_to_the_thread(number: int, frame: FrameType | None) -> None:
    """A handler that exists so that the pipe is written to."""


def _left_to_the_parent() -> None:
    """In a forked worker: the process that started it decides when it ends."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
