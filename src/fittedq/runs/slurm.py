"""Tasks as a Slurm array: a batch script with a line for each, to be submitted by who may."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fittedq.errors import UserError
from fittedq.files import make_folder, write_table
from fittedq.runs.tasks import Task

SAVING_SECONDS = 120
"""So long before its time is over a run is asked to save itself and end."""
MOST_TASKS = 1000
"""Tasks of an array that Slurm takes where nobody configured it (MaxArraySize)."""


def script(tasks: Sequence[Task], logs: Path, at_once: int | None = None) -> str:
    """The text of an sbatch script that carries out all tasks in the current folder, one for each task of the array.

    `logs` is the folder of what they print, `at_once` how many may run at a time (None: as many as Slurm lets).
    UserError: a path that Slurm cannot be told.
    """
    log = str(logs.absolute() / "slurm")
    if re.search(r"[\x00-\x1f\"'\\]", log):
        raise UserError(f"{log!r} holds a quote or worse, which Slurm does not take in a path; choose another.")
    limit = "" if at_once is None else f"%{at_once}"
    lines = (f"{number}) {_line(task)} ;;" for number, task in enumerate(tasks))
    return "\n".join(
        [
            "#!/bin/bash",
            "# Runs of fittedq, as a Slurm array. Each saves itself before its time is over. Submitted again, all go",
            "# on, and those that are finished end at once.",
            f"#SBATCH --array=0-{len(tasks) - 1}{limit}",
            "#SBATCH --job-name=fittedq --ntasks=1 --cpus-per-task=1 --requeue --open-mode=append",
            f"#SBATCH --signal=B:INT@{SAVING_SECONDS}",
            f'#SBATCH --output="{log.replace("%", "%%")}-%a.txt"',
            "set -eu",
            f"cd -- {shlex.quote(str(Path.cwd()))}",
            "export OMP_NUM_THREADS=1",
            f'fittedq() {{ exec {shlex.quote(sys.executable)} -m fittedq "$@"; }}',
            'case "$SLURM_ARRAY_TASK_ID" in',
            *lines,
            f'*) echo "no task $SLURM_ARRAY_TASK_ID, expected 0 to {len(tasks) - 1}" >&2; exit 2 ;;',
            "esac",
            "",
        ]
    )


def write_script(path: Path, tasks: Sequence[Task], at_once: int | None = None) -> None:
    """`script`, whole at `path`, executable; replaced where it is one of ours."""
    text = script(tasks, path.parent, at_once)
    make_folder(path.parent)
    write_table(path, text, 3)
    path.chmod(0o755)


def _line(task: Task) -> str:
    return shlex.join(["fittedq", *task.words])
