"""Processes of environments end with the one that trains, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# The environment says that it is there, and never answers again; its trainer waits for it.
HANGING = """
import os, sys, time
from functools import partial
from pathlib import Path
from fittedq.envs import workers

workers.GRACE_SECONDS = 0.1

class Hangs:
    def __init__(self, folder): Path(folder, str(os.getpid())).touch()
    def reset(self, *, seed=None): time.sleep(1000)

if __name__ == "__main__":
    workers.Workers([partial(Hangs, sys.argv[1])] * 2, timeout=1000).reset([0, 1])
"""


def alive(group: int) -> list[str]:
    """What runs in a process group; a process that has ended and that nobody has asked after does not."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, its_group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append((process / "cmdline").read_text())
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc who is alive")
def test_workers_that_hang_end_with_a_trainer_that_is_killed(tmp_path: Path) -> None:
    script, folder = tmp_path / "hanging.py", tmp_path / "processes"
    script.write_text(HANGING)
    folder.mkdir()
    trainer = subprocess.Popen([sys.executable, str(script), str(folder)], start_new_session=True)
    try:
        until = time.monotonic() + 60
        while len(list(folder.iterdir())) < 2:
            assert trainer.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        trainer.kill()
        trainer.wait()
        until = time.monotonic() + 20
        while alive(trainer.pid):
            assert time.monotonic() < until, alive(trainer.pid)
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(trainer.pid, signal.SIGKILL)
