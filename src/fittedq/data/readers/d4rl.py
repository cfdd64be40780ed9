"""D4RL files: HDF5 with one array a column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fittedq.data.dataset import chunk_rows, chunks
from fittedq.data.readers.columns import (
    Source,
    find_columns,
    library,
    row_sizes,
    same_length,
    source_of,
)
from fittedq.data.readers.hdf5 import numbers_in, open_hdf5, refuse_links
from fittedq.data.shaping import Columns, LogReading, Places
from fittedq.errors import UserError


def read_d4rl(path: Path, reading: LogReading) -> Source:
    """observations, actions, rewards, terminals and, where there are any, timeouts and next_observations [N, …]."""
    label = reading.label
    with open_hdf5(path) as file:
        h5py = library("h5py", path)
        available: list[str] = []
        file.visititems(lambda name, item: available.append(name) if isinstance(item, h5py.Dataset) else None)
        if "episode_0" in file and "observations" not in file:
            raise UserError(f"{path} is laid out as Minari's main_data.hdf5; give the folder above its data/.")
        refuse_links(file, label)
        found = find_columns(available, reading)
        sets = {key: numbers_in(file, key, label) for keys in found.values() for key in keys}
        width = row_sizes({key: values.shape for key, values in sets.items()}, label)
        count = same_length({key: len(values) for key, values in sets.items()}, label)
        size = chunk_rows(width)

    def read() -> Iterator[Columns]:
        ended = not _endless(found, reading)
        with open_hdf5(path) as file:
            for part in chunks(count, size):
                columns = {key: file[key][part] for key in sets}
                ended = ended or any(np.any(columns[key]) for key in found.get("terminated", []))
                yield columns
        if not ended:
            raise UserError(
                f"{label} marks no end of an episode (no timeouts, and no terminal row), and is hardly one episode of "
                f"{count:,} rows; say how long its episodes are, as in --length 1000."
            )

    return source_of(read(), found, available, reading, path, -(-count // size), size=4 * width * count)


def _endless(found: Places, reading: LogReading) -> bool:
    """Whether nothing but terminal rows can say where an episode ends: D4RL's first files mark no time limits."""
    told = {"truncated", "episode", "time", "of_truncated", "of_terminated"}
    return not (told & found.keys() or reading.description.length)
