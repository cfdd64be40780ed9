"""Where runs that belong together are carried out: on the cores here, on a Ray cluster, or as a Slurm array."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from fittedq.cli.arguments import MaybeInt, MaybeWord
from fittedq.cli.board import follow_all
from fittedq.errors import UserError, plural
from fittedq.machine import cores
from fittedq.runs.cluster import on_ray
from fittedq.runs.progress import console
from fittedq.runs.slurm import MOST_TASKS, write_script
from fittedq.runs.tasks import Task, side_by_side
from fittedq.settings import whole


@dataclass(frozen=True, kw_only=True)
class CarriesOut:
    """A command that carries out several runs."""

    processes: MaybeInt = None
    """How many runs at a time (default: one for each core)."""
    on: Literal["here", "ray", "slurm"] = "here"
    """Where: on the cores here; on a Ray cluster that is up (needs fittedq[cluster]); as a Slurm array, whose script is
    written for you to submit. Of one run, of a method that searches for actions over --data (explicit_fqi): ray has
    the search done there, --processes shards at a time."""
    address: MaybeWord = None
    """With --on ray: the cluster, HOST:PORT (default: RAY_ADDRESS, or the one on this machine)."""

    def carry_out(self, tasks: Sequence[Task], script: Path, *, as_json: bool, told: str | None = None) -> int:
        """Carry out all tasks where the user says, in sight of the user; the exit code. `script` is Slurm's, and what
        is `told` is said once nothing stands in the way."""
        if self.address is not None and self.on != "ray":
            raise UserError(f"found {self.address}, which belongs to --on ray; give both.", argument="address")

        def begin() -> None:
            if told is not None and not as_json:
                console().print(told, soft_wrap=True)

        return PLACES[self.on](self, tasks, script, begin, as_json)

    @property
    def at_once(self) -> int | None:
        """How many at a time, where that is said."""
        return None if self.processes is None else whole(self.processes, "processes", 1)


Begin = Callable[[], None]
"""Says that it begins, and what."""


def _here(command: CarriesOut, tasks: Sequence[Task], script: Path, begin: Begin, as_json: bool) -> int:
    if (command.at_once or 0) > len(cores()):
        raise UserError(
            f"found {command.at_once}, expected 1 to {len(cores())}, the cores there are.", argument="processes"
        )
    begin()
    return follow_all(tasks, partial(side_by_side, tasks, cores()[: command.at_once]), as_json=as_json)


def _on_slurm(command: CarriesOut, tasks: Sequence[Task], script: Path, begin: Begin, as_json: bool) -> int:
    """Write the script, and say how to go on."""
    write_script(script, tasks, command.at_once)
    begin()
    submit = f"sbatch {shlex.quote(str(script))}"
    if as_json:
        print(json.dumps({"script": str(script), "tasks": len(tasks), "submit": submit}))
        return 0
    tell = console(to_errors=False).print
    tell(f"{script}: {plural(len(tasks), 'task', 'tasks')}, a run each.", soft_wrap=True)
    tell(
        f"Submit it with your partition and time: {submit.replace('sbatch', 'sbatch --time=4:00:00', 1)}",
        soft_wrap=True,
    )
    tell(f"`fittedq runs {script.parent}` shows how far they are. What was cut off goes on when it is submitted again.")
    if len(tasks) > MOST_TASKS:
        tell(f"Slurm takes {MOST_TASKS} tasks unless its MaxArraySize says more; `scontrol show config` tells.")
    return 0


def _on_ray(command: CarriesOut, tasks: Sequence[Task], script: Path, begin: Begin, as_json: bool) -> int:
    with on_ray(tasks, command.address, command.at_once) as carried_out:
        begin()
        return follow_all(tasks, carried_out, as_json=as_json)


PLACES: dict[str, Callable[[CarriesOut, Sequence[Task], Path, Begin, bool], int]] = {
    "here": _here,
    "ray": _on_ray,
    "slurm": _on_slurm,
}
