"""D4RL files: HDF5 with one array a column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fittedq.data.dataset import chunk_rows, chunks
from fittedq.data.readers.columns import (
    ColumnMap,
    Columns,
    Source,
    _find_columns,
    _guarded,
    _import,
    _joined,
    _linked,
    _notes_on,
    _row_sizes,
    _same_length,
)
from fittedq.data.readers.hdf5 import _hdf5, _numbers_in, _refuse_links
from fittedq.errors import UserError


def _read_d4rl(path: Path, column_map: ColumnMap) -> Source:
    """observations, actions, rewards, terminals and, where there are any, timeouts and next_observations [N, …]."""
    label = str(path)
    with _hdf5(path) as file:
        h5py = _import("h5py", path)
        available: list[str] = []
        file.visititems(lambda name, item: available.append(name) if isinstance(item, h5py.Dataset) else None)
        if "episode_0" in file and "observations" not in file:
            raise UserError(f"{path} is laid out as Minari's main_data.hdf5; give the folder above its data/.")
        _refuse_links(file, label)
        found = _find_columns(available, column_map, label)
        sets = {key: _numbers_in(file, key, label) for keys in found.values() for key in keys}
        width = _row_sizes({key: values.shape for key, values in sets.items()}, label)
        count = _same_length({key: len(values) for key, values in sets.items()}, label)
        size = chunk_rows(width)

    def read() -> Iterator[Columns]:
        with _hdf5(path) as file:
            for part in chunks(count, size):
                yield {name: _joined([file[key][part] for key in keys], name, label) for name, keys in found.items()}

    source = Source(iter(()), -(-count // size), size=4 * width * count)
    source.notes += _notes_on(found, available)
    source.batches = _guarded(_linked(read(), label, source.notes), path)
    return source
