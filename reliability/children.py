"""Processes that are born ready: forks of one that imported everything and started nothing, with faults on order.

JAX does not survive a fork once it runs, so the process that forks (`ready`) never computes anything. Each child is a
process of its own, which can be killed at any moment, and at a chosen call into the file system (`faults.c`).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import itertools
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from campaign import WORK

HERE = Path(__file__).resolve().parent
WATCH, KILL, FULL = 1, 2, 3
LIMIT = 300
"""Seconds that a child may take."""


@dataclass(frozen=True)
class Fault:
    """At the `at`-th call that changes something under `folder`; `log` is where such calls are listed.

    Calls count from the start, or from the `entry`-th time that a function, "module:name" or "module:class.name", is
    called. With `seconds` the process is killed so long after that, whatever it does then.
    """

    how: int
    folder: Path
    at: int = 0
    log: Path | None = None
    within: str | None = None
    entry: int = 1
    seconds: float | None = None

    def prepare(self) -> None:
        """Arm it, or see to it that it is armed in time."""
        if self.within is None:
            self.arm()
        else:
            before_each_call(self.within, self.arm, only=self.entry)

    def arm(self) -> None:
        if self.seconds is not None:
            threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return
        library = ctypes.CDLL(None)
        library.faults_arm.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p)
        library.faults_arm(os.fsencode(self.folder), self.how, self.at, os.fsencode(self.log or ""))


def before_each_call(function: str, do: Callable[[], object], *, only: int | None = None) -> None:
    """Replace a function of the library by one that does something first, each time or only the n-th."""
    module, _, name = function.partition(":")
    owner = importlib.import_module(module)
    *classes, name = name.split(".")
    for part in classes:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), itertools.count(1)

    def replaced(*arguments: Any, **keywords: Any) -> Any:
        if only in (None, next(calls)):
            do()
        return original(*arguments, **keywords)

    setattr(owner, name, replaced)


@dataclass(frozen=True)
class Ended:
    """How a child ended: killed, or with an exit code; what it printed; how long it lived."""

    killed: bool
    code: int
    output: str
    seconds: float
    since: float
    """Seconds from when the file asked for was there."""
    cpu: float
    """Seconds of processor."""

    @property
    def last_line(self) -> str:
        return next((line for line in reversed(self.output.splitlines()) if line.strip()), "")


def ready() -> None:
    """Start this process again with the faults loaded, then import all that children need."""
    library = _built()
    if not hasattr(ctypes.CDLL(None), "faults_arm"):
        os.environ["LD_PRELOAD"] = str(library)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(WORK / "compiled"))
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    import gc

    import h5py  # noqa: F401
    import matplotlib

    matplotlib.use("Agg")
    from jax._src import xla_bridge
    from matplotlib import pyplot  # noqa: F401
    from pyarrow import parquet  # noqa: F401

    import fittedq.cli.main  # noqa: F401
    from fittedq.cli import data, eval, inspect, list, resume, train, verify  # noqa: F401

    gc.freeze()
    assert not xla_bridge.backends_are_initialized(), "JAX runs already: it would not survive a fork"


def run(
    work: Callable[[], int], *, fault: Fault | None = None, kill_after: float | None = None, since: Path | None = None
) -> Ended:
    """Do `work` in a child. SIGKILL it after `kill_after` seconds, counted from when `since` is there (else from now),
    if it still lives, and in any case after 300."""
    reader, writer = os.pipe()
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _live(work, fault, writer)
    os.close(writer)
    os.set_blocking(reader, False)
    descriptor = os.pidfd_open(pid)
    output, clock, moment = b"", None if since else start, LIMIT if kill_after is None else kill_after
    while not select.select([descriptor], [], [], 0.002)[0]:
        output += _available(reader)
        if clock is None and since is not None and since.exists():
            clock = time.monotonic()
        now = time.monotonic()
        if (clock is not None and now >= clock + moment) or now > start + LIMIT:
            os.kill(pid, signal.SIGKILL)
            break
    _, status, used = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    output += _available(reader)
    os.close(reader)
    os.close(descriptor)
    now = time.monotonic()
    text = output.decode(errors="replace") + (f"\nnot done after {LIMIT} s" if now > start + LIMIT else "")
    return Ended(code == -signal.SIGKILL, code, text, now - start, now - (clock or now), used.ru_utime + used.ru_stime)


def fittedq(*words: object) -> Callable[[], int]:
    """The work of `fittedq WORD …`."""

    def work() -> int:
        from fittedq.cli.main import main

        return main([str(word) for word in words])

    return work


def _live(work: Callable[[], int], fault: Fault | None, writer: int) -> NoReturn:
    code = 1
    try:
        for stream in (1, 2):
            os.dup2(writer, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if fault is not None:
            fault.prepare()
        try:
            code = work()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _available(reader: int) -> bytes:
    parts = []
    while True:
        try:
            part = os.read(reader, 65536)
        except BlockingIOError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def _built() -> Path:
    """The compiled faults; compiled once per version of their source."""
    source = HERE / "faults.c"
    library = WORK / f"faults-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}.so"
    if not library.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        temporary = library.with_suffix(f".{os.getpid()}")
        compiler = shlex.split(os.environ.get("CC", "cc"))
        subprocess.run([*compiler, "-O1", "-shared", "-fPIC", "-o", temporary, source, "-ldl"], check=True)
        temporary.replace(library)
    return library
