"""Parquet tables."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fittedq.data.dataset import action_bounds, chunk_rows
from fittedq.data.readers.cells import Cells
from fittedq.data.readers.columns import Source, find_columns, library, row_sizes, source_of
from fittedq.data.shaping import Columns, LogReading
from fittedq.errors import UserError, in_one_line


def read_parquet(path: Path, reading: LogReading) -> Source:
    """A row per sample; vectors are list columns, numbered columns (obs_0, obs_1, …) or named ones."""
    library("pyarrow", path)
    import pyarrow as pa
    from pyarrow import parquet

    reading.table = True
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            schema, count = file.schema_arrow, file.metadata.num_rows
            found = find_columns(schema.names, reading)
            used = set(itertools.chain(*found.values()))
            width = row_sizes(_parquet_shapes(file.metadata, used), reading.label)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path} could not be read as Parquet ({in_one_line(error)}); it is truncated or damaged."
        ) from None
    meta = schema.metadata or {}
    action_set = None
    if b"action_low" in meta and b"action_high" in meta:
        action_set = action_bounds(json.loads(meta[b"action_low"]), json.loads(meta[b"action_high"]))
    cells, size = Cells(found, reading), min(chunk_rows(width), 65_536)

    def rows() -> Iterator[Columns]:
        first = 0
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=size, columns=cells.columns):
                table = {name: batch.column(name) for name in cells.columns}
                yield cells.read(table, np.arange(first, first + batch.num_rows))
                first += batch.num_rows
        source.notes += cells.notes()

    source = source_of(
        rows(), found, schema.names, reading, path, -(-count // size), action_set=action_set, size=4 * width * count
    )
    return source


def _parquet_shapes(metadata: Any, columns: set[str]) -> dict[str, tuple[int, int]]:
    """(rows, most numbers in a row) of the columns that are used, as the file's footer has them."""
    shapes: dict[str, tuple[int, int]] = dict.fromkeys(columns, (metadata.num_rows, 0))
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        for axis in range(group.num_columns):
            column = group.column(axis)
            name = column.path_in_schema.split(".")[0]
            if name in shapes:
                widest = max(shapes[name][1], -(-column.num_values // max(group.num_rows, 1)))
                shapes[name] = (metadata.num_rows, widest)
    return shapes
