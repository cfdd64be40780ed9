"""Checkpoints of a run: the newest few, each whole; a damaged one is passed over for the one before, and named."""

from __future__ import annotations

from pathlib import Path

from fittedq.errors import UserError
from fittedq.files import CHECKPOINT, MANIFEST, load_folder, remove_folder, save_folder, sweep
from fittedq.train import AbstractTrainer

KEEP = 2


def save(folder: Path, trainer: AbstractTrainer) -> Path:
    """Write the trainer's state as `folder/step-…`, and drop all but the newest few.

    Checkpoints of later steps are dropped too: a run that comes to save this one has passed them over as damaged.
    """
    arrays, meta = trainer.snapshot()
    path = folder / f"step-{trainer.step:010d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder, alone=True)
        save_folder(path, CHECKPOINT, arrays, {"trainer": meta})
    except OSError as error:
        raise UserError(
            f"checkpoint {path} cannot be written ({error.strerror}); the last one is intact: make room, then resume."
        ) from None
    kept = [other for other in _newest_first(folder) if other.name <= path.name][:KEEP]
    for other in set(folder.glob("step-[0-9]*")) - set(kept):
        remove_folder(other)
    return path


def restore(folder: Path, trainer: AbstractTrainer) -> tuple[Path, bool, list[str]]:
    """(checkpoint used, whether the environment came back exactly, what was wrong with newer ones)."""
    problems: list[str] = []
    for path in _newest_first(folder):
        try:
            arrays, manifest = load_folder(path, CHECKPOINT)
            if "trainer" not in manifest:
                raise UserError(f"{path / MANIFEST}: the trainer's state is missing; it is damaged or not one of ours.")
        except UserError as error:
            problems.append(str(error))
            continue
        return path, trainer.restore(arrays, manifest["trainer"]), problems
    detail = " ".join(problems)
    raise UserError(
        f"{folder} holds no whole checkpoint to resume from; train again into another folder. {detail}".strip()
    )


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdigit()), reverse=True)
