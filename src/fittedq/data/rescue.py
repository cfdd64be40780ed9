"""What a collection that was killed leaves: the rows that reached its files become a dataset."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from fittedq.actions.saved import action_set_of
from fittedq.data.dataset import COLUMNS, VECTORS, Dataset, Writer, dtype_of
from fittedq.errors import UserError, in_one_line
from fittedq.files import UNFINISHED, is_free, left_behind, read_signed


def rescued(path: Path) -> Dataset | None:
    """The dataset at `path`, made now, of a collection into it whose process died; None where there is none.

    Every column is appended to in order, so the rows that all of them hold are whole. They are copied: what was left
    goes when the dataset is there, so that this may be killed too. The last row is marked truncated.
    """
    try:
        if not is_free(path):
            return None
        for folder in left_behind(path.parent):
            if not (folder / UNFINISHED).exists():
                continue
            unfinished = read_signed(folder / UNFINISHED)
            if unfinished.get("of") != path.name:
                continue
            left = _left(folder, unfinished)
            made = _copied(left, path) if len(left) else None
            shutil.rmtree(folder, ignore_errors=True)
            if made is not None:
                return made
    except OSError:
        pass  # a folder that is not there, or cannot be read: whoever writes there next says so
    return None


def _copied(left: Dataset, path: Path) -> Dataset:
    with Writer(path, action_set=left.action_set) as writer:
        for part in left.chunks():
            writer.append(left.transitions(part))
        writer.cut()
        return writer.finish(left.origin)


def _left(folder: Path, unfinished: dict[str, Any]) -> Dataset:
    """The rows that are in every column's file, mapped."""
    try:
        columns = {name: _column(folder / f"{name}.npy", name) for name in COLUMNS}
        if columns["obs"].shape[1:] != columns["next_obs"].shape[1:]:
            raise ValueError("obs and next_obs differ in size")
        count = min(map(len, columns.values()))
        action_set = action_set_of(unfinished["action_set"])
        return Dataset({name: column[:count] for name, column in columns.items()}, action_set, unfinished["origin"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"{folder} was left by a collection that was killed, and cannot be read ({in_one_line(error)}); remove it."
        ) from None


def _column(file: Path, name: str) -> np.ndarray:
    """The whole rows of a column's file, whatever its header says of how many there are."""
    if not file.is_file():
        raise ValueError(f"{file.name} is no file")
    with file.open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        start = stream.tell()
    if dtype != dtype_of(name) or len(shape) != 1 + (name in VECTORS):
        raise ValueError(f"{file.name}: found {dtype} of shape {shape}")
    row = dtype.itemsize * int(np.prod(shape[1:]))
    count = (file.stat().st_size - start) // row
    if not count:
        return np.zeros((0, *shape[1:]), dtype)
    return np.memmap(file, dtype, "r", start, (count, *shape[1:]))
