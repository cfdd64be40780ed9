"""D4RL files: HDF5 with one array a column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fittedq.data.dataset import chunk_rows, chunks
from fittedq.data.readers.columns import (
    ColumnMap,
    Columns,
    Source,
    find_columns,
    guarded,
    joined,
    library,
    linked,
    notes_on,
    row_sizes,
    same_length,
)
from fittedq.data.readers.hdf5 import numbers_in, open_hdf5, refuse_links
from fittedq.errors import UserError


def read_d4rl(path: Path, column_map: ColumnMap) -> Source:
    """observations, actions, rewards, terminals and, where there are any, timeouts and next_observations [N, …]."""
    label = str(path)
    with open_hdf5(path) as file:
        h5py = library("h5py", path)
        available: list[str] = []
        file.visititems(lambda name, item: available.append(name) if isinstance(item, h5py.Dataset) else None)
        if "episode_0" in file and "observations" not in file:
            raise UserError(f"{path} is laid out as Minari's main_data.hdf5; give the folder above its data/.")
        refuse_links(file, label)
        found = find_columns(available, column_map, label)
        sets = {key: numbers_in(file, key, label) for keys in found.values() for key in keys}
        width = row_sizes({key: values.shape for key, values in sets.items()}, label)
        count = same_length({key: len(values) for key, values in sets.items()}, label)
        size = chunk_rows(width)

    def read() -> Iterator[Columns]:
        with open_hdf5(path) as file:
            for part in chunks(count, size):
                yield {name: joined([file[key][part] for key in keys], name, label) for name, keys in found.items()}

    source = Source(iter(()), -(-count // size), size=4 * width * count)
    source.notes += notes_on(found, available)
    source.batches = guarded(linked(read(), label, source.notes), path)
    return source
