"""Trials in a process of their own: a crash, a hang or a claim of memory ends that process, and not the campaign."""

from __future__ import annotations

import multiprocessing
import re
import resource
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from campaign import Outcome

READING, COMPILING = 2 * 2**30, 8 * 2**30
"""Addresses that a trial may claim beyond what its process held when it began: to read, `columns.MOST_HELD` twice; a
compiler reserves more than it uses."""
SENTENCE = 600
"""Characters of the longest sentence."""


@dataclass
class Isolated:
    """`work(case, folder)` in a process that is made anew after a crash or after `seconds` without an answer."""

    work: Callable[[Any, Path], Outcome]
    room: int = READING
    seconds: float = 60.0
    _child: Any = None
    _line: Connection | None = None

    def __call__(self, case: Any) -> Outcome:
        if self._line is None:
            context = multiprocessing.get_context("spawn")
            self._line, other = context.Pipe()
            self._child = context.Process(target=_serve, args=(self.work, self.room, other), daemon=True)
            self._child.start()
            other.close()
            assert self._line.poll(120), "the process of the trials did not start"
            self._line.recv()
        self._line.send(case)
        try:
            if self._line.poll(self.seconds):
                return self._line.recv()
            cause = f"no answer after {self.seconds:g} s"
        except EOFError:
            self._child.join()
            cause = f"the process ended with exit code {self._child.exitcode}"
        self._child.kill()
        self._child.join()
        self._line = None
        return Outcome("not finished", False, cause)


def _serve(work: Callable[[Any, Path], Outcome], room: int, line: Connection) -> None:
    import fittedq.data.importers  # noqa: F401  (what every trial needs is loaded before memory is limited)

    line.send("ready")
    while True:
        try:
            case = line.recv()
        except EOFError:
            return
        line.send(limited(work, case, room))


def limited(work: Callable[[Any, Path], Outcome], case: Any, room: int = READING) -> Outcome:
    """`work` in a folder of its own, with `room` to claim at most; what leaves it is a loss."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    folder = Path(tempfile.mkdtemp(prefix="trial-"))
    resource.setrlimit(resource.RLIMIT_AS, (held + room, before[1]))
    try:
        return work(case, folder)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome("not finished", False, f"{type(error).__name__} in {where.name}: {error}"[:SENTENCE])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        shutil.rmtree(folder, ignore_errors=True)


def sentence(error: Exception) -> str | None:
    """What is wrong with the sentence of a `UserError`; None where nothing is."""
    text = str(error)
    if "\n" in text or not text.endswith((".", "?")) or len(text) > SENTENCE:
        return f"not one sentence: {text[:200]!r}"
    if re.search(r"memory ran out|malloc|(not|unable to|failed to) alloc", text):
        return f"memory was claimed: {text[:200]!r}"
    return None


if sys.platform == "win32":
    raise SystemExit("These campaigns limit a process's memory, which Windows cannot.")
