"""Parquet tables."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fittedq.data.dataset import action_bounds, chunk_rows
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
)
from fittedq.errors import UserError, in_one_line


def read_parquet(path: Path, column_map: ColumnMap) -> Source:
    """A row per transition; vectors are list columns, numbered columns (obs_0, obs_1, …) or mapped ones."""
    library("pyarrow", path)
    import pyarrow as pa
    from pyarrow import parquet

    label = str(path)
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            schema, count = file.schema_arrow, file.metadata.num_rows
            found = find_columns(schema.names, column_map, label)
            width = row_sizes(_parquet_shapes(file.metadata, set(itertools.chain(*found.values()))), label)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path} could not be read as Parquet ({in_one_line(error)}); it is truncated or damaged."
        ) from None
    meta = schema.metadata or {}
    action_set = None
    if b"action_low" in meta and b"action_high" in meta:
        action_set = action_bounds(json.loads(meta[b"action_low"]), json.loads(meta[b"action_high"]))
    columns = list(dict.fromkeys(itertools.chain(*found.values())))
    size = min(chunk_rows(width), 65_536)

    def read() -> Iterator[Columns]:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=size, columns=columns):
                yield table_columns(batch, found, label)

    source = Source(iter(()), -(-count // size), action_set, size=4 * width * count)
    source.notes += notes_on(found, schema.names)
    source.batches = guarded(linked(read(), label, source.notes), path)
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


def table_columns(batch: Any, found: Mapping[str, list[str]], label: str) -> Columns:
    columns = {}
    for name, keys in found.items():
        parts = [_arrow_column(batch.column(key), key, label) for key in keys]
        vector = name in ("obs", "action", "next_obs")
        columns[name] = joined([part[:, None] if vector and part.ndim == 1 else part for part in parts], name, label)
    return columns


def _arrow_column(column: Any, key: str, label: str) -> np.ndarray:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        flat, rows = column.flatten().to_numpy(zero_copy_only=False), len(column)
        widths = column.value_lengths() if not pa.types.is_fixed_size_list(kind) else None
        ragged = widths is not None and len(widths.unique()) > 1
        if column.null_count or ragged or not rows or len(flat) % rows:
            raise UserError(f"{label}: column {key!r} holds lists of different lengths, expected one length.")
        return flat.reshape(rows, -1)
    if column.null_count and not pa.types.is_floating(kind):
        # A gap in a column of whole numbers or flags: NaN, and reported like any.
        column = column.cast(pa.float64())
    return column.to_numpy(zero_copy_only=False)
