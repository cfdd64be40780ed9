"""What a result must say of where it was measured: cores, processor, date, versions, commit, command."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path


def describe(*packages: str) -> dict[str, object]:
    """Machine, date, command line, commit and the versions of the packages named."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "cores": os.cpu_count(),
            "cores_used": len(os.sched_getaffinity(0)),
            "cpu": model,
            "system": platform.system(),
        },
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in packages},
    }


def commit() -> str:
    """The commit of the code that is measured, and whether it has changes."""
    told = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude", "*"], capture_output=True, text=True)
    return told.stdout.strip() or "unknown"
