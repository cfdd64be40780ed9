"""What this machine is, told without loading a library."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path


def cores() -> list[int]:
    """The cores that this process may use; all there are, where the system (macOS) does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def pin(process: int, on: Iterable[int]) -> None:
    """Keep the process (0: this one) on these cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process, on)


def processor() -> str:
    """The processor's model and instructions: where a compiled program may run."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    first = {line.partition(":")[0].strip(): line for line in reversed(lines)}
    told = [first[name] for name in ("model name", "flags", "Features") if name in first]
    return "\n".join([platform.machine(), platform.processor(), *told])
