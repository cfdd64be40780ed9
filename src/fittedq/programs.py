"""Compiled programs are kept on disk: what was compiled once starts at once the next time, with any seed."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import warnings
from importlib import metadata
from pathlib import Path

import jax

from fittedq.machine import processor

MIN_FREE = 2**26
"""Bytes free on the disk below which nothing is kept."""


class _Clock:
    """Seconds in which this process traced, lowered or compiled; what lies inside of another counts once."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        self.seconds = 0.0

    def __call__(self, event: str, duration_secs: float, **kwargs: object) -> None:
        if not event.startswith("/jax/core/compile/"):
            return
        end = time.perf_counter()
        start = end - duration_secs
        while self._spans and self._spans[-1][0] >= start:
            first, last = self._spans.pop()
            self.seconds -= last - first
        if self._spans:
            start = max(start, self._spans[-1][1])
        self._spans.append((start, end))
        self.seconds += end - start


_CLOCK = _Clock()
jax.monitoring.register_event_duration_secs_listener(_CLOCK)


def compile_seconds() -> float:
    """Seconds that this process has spent on compiling so far, on reading compiled programs, too."""
    return _CLOCK.seconds


def keep_programs() -> None:
    """Keep compiled programs in the user's cache folder.

    `JAX_COMPILATION_CACHE_DIR` or `jax.config` says where instead, and `FITTEDQ_NO_CACHE` that they are not kept. A
    folder that cannot be written, or is full, costs time and nothing else.
    """
    if "FITTEDQ_NO_CACHE" in os.environ or jax.config.values["jax_compilation_cache_dir"]:
        return
    try:
        folder = cache_folder()
        # Nobody else may write there: a program read from it is run.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # What a full disk cuts off would be in the way for good.
        if shutil.disk_usage(folder).free < MIN_FREE:
            return
    except (OSError, RuntimeError):  # the latter where the user has no home
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default only what took a second is kept; a start compiles a dozen programs, most of them faster.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def cache_folder() -> Path:
    """Where programs are kept: a folder for each processor and each set of versions, which never read another's."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    versions = [f"{name}-{metadata.version(name)}" for name in ("fittedq", "jax", "jaxlib")]
    key = hashlib.sha256("\n".join([*versions, processor()]).encode()).hexdigest()[:16]
    return base / "fittedq" / "compiled" / key
