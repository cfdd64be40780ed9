"""What a process does before it ends at once: it finishes a replacement, and removes the folders it had begun.

Only the standard library is imported here, for it is read before anything slow is.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import NoReturn

PATIENCE = 10.0
"""Seconds that a replacement is waited for: a disk that hangs keeps no process."""

unbroken = threading.RLock()
"""Held while one folder takes the place of another: a process ends before that, or after it."""

begun: set[Path] = set()
"""Folders that are worth nothing without this process."""


def end(code: int) -> NoReturn:
    """The process ends, whatever its other threads do."""
    unbroken.acquire(timeout=PATIENCE)
    for folder in tuple(begun):
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(code)
