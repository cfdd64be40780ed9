"""What this machine is, told without loading a library."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The processor's model and instructions: where a compiled program may run."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    first = {line.partition(":")[0].strip(): line for line in reversed(lines)}
    told = [first[name] for name in ("model name", "flags", "Features") if name in first]
    return "\n".join([platform.machine(), platform.processor(), *told])
