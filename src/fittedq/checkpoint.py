"""Checkpoints of a run: the newest few, each whole; a damaged one is passed over for the one before, and named."""

from __future__ import annotations

import shutil
from pathlib import Path

from fittedq.errors import UserError
from fittedq.files import load_folder, save_folder
from fittedq.train import AbstractTrainer

KEEP = 2


def save(folder: Path, trainer: AbstractTrainer) -> Path:
    """Write the trainer's state as `folder/step-…`, and drop all but the newest few."""
    arrays, meta = trainer.snapshot()
    path = folder / f"step-{trainer.step:010d}"
    save_folder(path, arrays, {"trainer": meta})
    for old in _newest_first(folder)[KEEP:]:
        shutil.rmtree(old)
    return path


def restore(folder: Path, trainer: AbstractTrainer) -> tuple[Path, bool, list[str]]:
    """(checkpoint used, whether the environment came back exactly, what was wrong with newer ones)."""
    problems: list[str] = []
    for path in _newest_first(folder):
        try:
            arrays, manifest = load_folder(path)
        except UserError as error:
            problems.append(str(error))
            continue
        return path, trainer.restore(arrays, manifest["trainer"]), problems
    detail = " ".join(problems)
    raise UserError(f"{folder} holds no whole checkpoint to resume from. {detail}".strip())


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdigit()), reverse=True)
