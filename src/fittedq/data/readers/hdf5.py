"""HDF5 as a stranger gives it: no links, no external files, sizes before memory."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fittedq.data.readers.columns import check_held, library, row_sizes
from fittedq.errors import UserError, in_one_line
from fittedq.memory import amount

H5Node: TypeAlias = Any
"""An open file of h5py, a group or a dataset in it; h5py has no types."""


def refuse_links(file: H5Node, label: str) -> None:
    """A UserError for a link at the top of a file: what stands under that name lies elsewhere, perhaps in another file.

    Links deeper down are never followed either: `visititems` passes over them.
    """
    for name in file:
        kind = type(file.get(name, getlink=True)).__name__
        if kind != "HardLink":
            raise UserError(
                f"{label}: {name} is a link to another place ({kind}), expected numbers in the file itself."
            )


def numbers_in(group: H5Node, name: str, label: str) -> H5Node:
    """The dataset of a group by that name: numbers, all in the file itself, of a size that is there."""
    item = group[name]
    if not hasattr(item, "dtype") or item.dtype.kind not in "biuf" or item.shape is None:
        raise UserError(f"{label}: {name} has type {getattr(item, 'dtype', 'group')}, expected numbers.")
    if item.external or item.is_virtual:
        raise UserError(f"{label}: {name} is stored in other files, expected numbers in the file itself; copy them in.")
    size, stored = math.prod(item.shape) * item.dtype.itemsize, item.id.get_storage_size()
    if stored != size and (item.chunks is None or (size and not stored)):
        raise UserError(f"{label}: {name} declares {amount(size)} and holds {amount(stored)}; it is damaged.")
    if item.chunks is not None:
        check_held(math.prod(item.chunks) * item.dtype.itemsize, f"{label}: a chunk of {name}")
    return item


MOST_NESTED = 16
"""Spaces within spaces in Minari's layout: more are a circle."""


def whole_array(group: H5Node, name: str, label: str) -> np.ndarray:
    """An episode's numbers by that name."""
    item = numbers_in(group, name, label)
    row_sizes({name: item.shape}, label)
    check_held(math.prod(item.shape) * item.dtype.itemsize, f"{label}: {name}")
    return np.asarray(item)


def flat_array(group: H5Node, name: str, label: str, depth: int = 0) -> np.ndarray:
    """A dataset as [T, size]; a group (Dict or Tuple space) with its parts side by side, in Gymnasium's order."""
    item = group[name]
    if hasattr(item, "keys"):
        if not len(item):
            raise UserError(f"{label}: {item.name} is an empty group, expected numbers.")
        if depth == MOST_NESTED:
            raise UserError(f"{label}: {item.name} lies {depth} groups deep, expected fewer; it is damaged.")
        refuse_links(item, label)
        by_place = sorted(item, key=lambda key: (int(key[7:]), key) if key.startswith("_index_") else (0, key))
        return np.concatenate([flat_array(item, key, label, depth + 1) for key in by_place], axis=1)
    values = whole_array(group, name, label)
    if values.ndim == 1:
        raise UserError(f"{label}: {item.name} has shape {values.shape}, expected (T, …): continuous, not discrete.")
    return values.reshape(len(values), math.prod(values.shape[1:]))


def open_hdf5(path: Path) -> H5Node:
    """An open file, or a UserError that says what is wrong with it."""
    h5py = library("h5py", path)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        try:
            expected, found = hdf5_size(path), path.stat().st_size
        except OSError:
            raise UserError(f"{path} could not be read ({error.strerror or in_one_line(error)}).") from None
        if expected is None:
            raise UserError(f"{path} is no HDF5 file, or its beginning is damaged.") from None
        if found < expected:
            raise UserError(
                f"{path} is truncated: {100 * found / expected:.0f} % of the expected bytes are there ({found:,} of "
                f"{expected:,}); fetch it again."
            ) from None
        raise UserError(f"{path} could not be read ({in_one_line(error)}); it is damaged: fetch it again.") from None


def hdf5_size(path: str | Path) -> int | None:
    """The bytes an HDF5 file should have, from its superblock's end-of-file address; None where there is none.

    Source: HDF5 File Format Specification 3.0, section II.A.
    """
    with open(path, "rb") as file:
        head = file.read(64)
    if not head.startswith(b"\x89HDF\r\n\x1a\n") or len(head) < 64:
        return None
    version = head[8]
    offset_bytes = head[13] if version < 2 else head[9]
    if offset_bytes != 8 or version > 3:
        return None
    # After the base address: one more address, then the end of file.
    start = {0: 24, 1: 28}.get(version, 12)
    base, _, end = struct.unpack_from("<QQQ", head, start)
    return base + end
