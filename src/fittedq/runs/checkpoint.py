"""Checkpoints of a run: the newest few, each whole. If one is damaged, it is named and the one before it is taken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fittedq.data.segments import read_rows, write_rows
from fittedq.errors import UserError
from fittedq.files import (
    CHECKPOINT,
    MANIFEST,
    load_folder,
    read_manifest,
    remove_folder,
    replacing,
    sweep,
    write_manifest,
    write_tensors,
)
from fittedq.trainers.base import AbstractTrainer

KEEP = 2


def save(
    folder: Path, trainer: AbstractTrainer, *, run: Mapping[str, Any] | None = None, before: Path | None = None
) -> Path:
    """Write the trainer's state as `folder/step-…`, and drop all but the newest few.

    Rows that the checkpoint `before`, the last that this trainer saved or restored, holds are not written again. `run`
    says whose state it is (JSON). Checkpoints of later steps are dropped too: a run that comes to save this one has
    passed them over as damaged.
    """
    path = folder / name(trainer.step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder, alone=True)
        _write(path, trainer, dict(run or {}), before)
    except OSError as error:
        raise UserError(
            f"checkpoint {path} cannot be written ({error.strerror}); the last one is intact: make room, then resume."
        ) from None
    kept = [other for other in newest_first(folder) if other.name <= path.name][:KEEP]
    for other in set(newest_first(folder)) - set(kept):
        remove_folder(other)
    return path


def _write(path: Path, trainer: AbstractTrainer, run: dict[str, Any], before: Path | None) -> None:
    arrays, meta, logs = trainer.snapshot()
    earlier: dict[str, Any] = {}
    try:
        earlier = {} if before is None else read_manifest(before, CHECKPOINT)
    except UserError:
        before = None
    with replacing(path, CHECKPOINT) as into:
        files, rows = write_rows(into, logs, before, earlier)
        meta = {"run": run, "trainer": meta, "rows": rows}
        write_manifest(into, CHECKPOINT, files | write_tensors(into, arrays), meta)


def restore(
    folder: Path, trainer: AbstractTrainer, *, run: Mapping[str, Any] | None = None
) -> tuple[Path, bool, list[str]]:
    """(checkpoint used, whether the environment came back exactly, what was wrong with newer ones).

    With `run`, one that says it belongs to another run counts as wrong.
    """
    problems: list[str] = []
    for path in newest_first(folder):
        try:
            arrays, manifest = load_folder(path, CHECKPOINT)
            if run is not None:
                check_run(path, manifest, run)
            return path, trainer.restore(arrays, manifest["trainer"], read_rows(path, manifest)), problems
        except KeyError as error:
            problems.append(f"{path / MANIFEST}: {error} is missing; it is damaged or not one of ours.")
        except UserError as error:
            problems.append(str(error))
    detail = " ".join(problems)
    raise UserError(
        f"{folder} holds no whole checkpoint to resume from; train again into another folder. {detail}".strip()
    )


def check_run(path: Path, manifest: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """A UserError unless a checkpoint was written under the settings of `run`, and its history is the run's so far."""
    found = manifest["run"]
    history = found.get("history", [])
    if found.get("settings") != run["settings"] or history != run["history"][: len(history)]:
        raise UserError(f"{path} was written by a run of other settings; put its own config.json back.")


def name(step: int) -> str:
    """A checkpoint's name in its folder."""
    return f"step-{step:010d}"


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder."""
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdigit()), reverse=True)
