"""NumPy archives, read as streams."""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from fittedq.data.dataset import action_bounds, chunk_rows, chunks
from fittedq.data.readers.columns import (
    Source,
    check_held,
    find_columns,
    row_sizes,
    same_length,
    source_of,
)
from fittedq.data.shaping import Columns, LogReading
from fittedq.errors import UserError, in_one_line
from fittedq.memory import amount


class NpyStream:
    """An .npy inside a stream that cannot seek, a few rows at a time; nothing in it is ever unpickled."""

    def __init__(self, stream: IO[bytes] | zipfile.ZipExtFile, label: str, size: int | None = None):
        """`size` is that of the whole stream, where it is known."""
        self._stream, self._label = stream, label
        try:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, self._fortran, self.dtype = read(stream)
            self.shape: tuple[int, ...] = tuple(shape)
        except (ValueError, EOFError) as error:
            raise UserError(f"{label} could not be read ({in_one_line(error)}); it is damaged or no .npy.") from None
        if self.dtype.hasobject:
            raise UserError(f"{label} holds Python objects, expected numbers; save it again as an array of numbers.")
        if self.dtype.kind not in "biuf" or any(axis < 0 for axis in self.shape):
            raise UserError(f"{label} has type {self.dtype} and shape {self.shape}, expected numbers.")
        self.size = math.prod(self.shape) * self.dtype.itemsize
        if size is not None and stream.tell() + self.size != size:
            raise UserError(
                f"{label} declares {amount(self.size)} and holds {amount(size - stream.tell())}; it is damaged: fetch "
                "it again."
            )
        self._whole: np.ndarray | None = None
        self._at = 0

    def read(self, rows: int) -> np.ndarray:
        """The next rows."""
        count, rest = self.shape[0], self.shape[1:]
        if self._fortran and rest:
            # Its rows are scattered over the file: only reading it whole gives one.
            if self._whole is None:
                check_held(self.size, f"{self._label}, in Fortran's order,")
                self._whole = self._array(self.shape[::-1]).T
            part = self._whole[self._at : self._at + rows]
        else:
            part = self._array((min(rows, count - self._at), *rest))
        self._at += len(part)
        return part

    def whole(self) -> np.ndarray:
        """All of a small one."""
        check_held(self.size, self._label)
        return self._array(self.shape)

    def _array(self, shape: tuple[int, ...]) -> np.ndarray:
        size = math.prod(shape) * self.dtype.itemsize
        data = self._stream.read(size)
        if len(data) != size:
            raise UserError(f"{self._label} ends too early; it is truncated: fetch it again.")
        return np.frombuffer(data, self.dtype).reshape(shape)


def read_npz(path: Path, reading: LogReading) -> Source:
    """Arrays named as in `Dataset.from_arrays` or as D4RL's; action_low and action_high where they are there."""
    label = reading.label
    with _zip(path) as archive:
        available = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        found = find_columns(available, reading)
        shapes = {key: _member(archive, key, path).shape for key in itertools.chain(*found.values())}
        width = row_sizes(shapes, label)
        action_set = None
        if "action_low" in available and "action_high" in available:
            streams = [_member(archive, key, path) for key in ("action_low", "action_high")]
            low, high = (stream.whole() for stream in streams)
            action_set = action_bounds(low, high)
    count, size = same_length({key: shape[0] for key, shape in shapes.items()}, label), chunk_rows(width)

    def read() -> Iterator[Columns]:
        with _zip(path) as archive:
            streams = {key: _member(archive, key, path) for key in shapes}
            for _ in chunks(count, size):
                yield {key: stream.read(size) for key, stream in streams.items()}

    total = -(-count // size)
    return source_of(read(), found, available, reading, path, total, action_set=action_set, size=4 * width * count)


def _zip(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
        for member in archive.infolist():
            # Names stand twice in an archive: where they differ, a column would be missing unnoticed.
            archive.open(member).close()
        return archive
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{path} is no .npz file, or is truncated ({in_one_line(error)}); fetch or save it again."
        ) from None


def _member(archive: zipfile.ZipFile, key: str, path: Path) -> NpyStream:
    size = archive.getinfo(f"{key}.npy").file_size
    return NpyStream(archive.open(f"{key}.npy"), f"{path}: {key}", size)
