"""The runs below a folder, a record each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from fittedq.envs.registry import NamedEnv
from fittedq.errors import UserError
from fittedq.files import place
from fittedq.runs.folder import RunFolder

FINISHED, RUNNING, STOPPED, BEGUN, DAMAGED = "finished", "running", "stopped", "begun", "damaged"
"""States: all steps taken and the last agent written; a process writes there; a checkpoint to resume from; none yet;
what the folder says of itself cannot be read."""


@final
@dataclass(frozen=True)
class RunRecord:
    """A row of a table of runs; None where a damaged folder does not tell it, or it was never measured."""

    path: str
    algorithm: str | None = None
    preset: str | None = None
    env: str | None = None
    data: str | None = None
    seed: int | None = None
    step: int | None = None
    """Steps that its metrics have come to."""
    steps: int | None = None
    """Steps in all, as asked."""
    best: float | None = None
    """The highest mean return of an evaluation."""
    last: float | None = None
    """The mean return of the last evaluation."""
    state: str = DAMAGED
    fault: str | None = None
    """What is wrong with a damaged one."""


def list_runs(path: str | Path = ".") -> list[RunRecord]:
    """A record of each run in `path` or below, by path; pandas and polars make a table of them as they are.

    Nothing is written, and a run may go on meanwhile. UserError: `path` is no folder.
    """
    root = place(path, "path")
    if not root.is_dir():
        raise UserError(f"{root}: found no folder there, expected one that holds runs, or is one.")
    return [record(RunFolder(folder)) for folder in sorted(_runs(root))]


def _runs(root: Path) -> Iterator[Path]:
    """Folders of runs; none is looked for inside another."""
    for name, below, files in os.walk(root):
        folder = Path(name)
        # Others have a config.json too: a run's stands beside its metrics.
        if "config.json" in files and (folder / "metrics.jsonl").exists():
            below.clear()
            yield folder


def record(folder: RunFolder) -> RunRecord:
    """What a run's folder says of it."""
    try:
        config, metrics = folder.config(), folder.metrics()
        env = NamedEnv.of(config["env"] or config.get("eval_env"), str(folder.config_file))
    except UserError as error:
        return RunRecord(str(folder.path), fault=str(error))
    evaluated = [one["eval_mean"] for one in metrics if one.get("eval_mean") is not None]
    return RunRecord(
        path=str(folder.path),
        algorithm=config["algorithm"],
        preset=config.get("preset"),
        env=None if env is None else str(env),
        data=config.get("data"),
        seed=config["seed"],
        step=metrics[-1]["step"] if metrics else 0,
        steps=config["steps"],
        best=max(evaluated, default=None),
        last=evaluated[-1] if evaluated else None,
        state=_state(folder),
    )


def _state(folder: RunFolder) -> str:
    if folder.in_use:
        return RUNNING
    if folder.finished:
        return FINISHED
    return STOPPED if folder.begun else BEGUN
