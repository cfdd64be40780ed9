"""CSV tables."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from fittedq.data.readers.columns import (
    ColumnMap,
    Columns,
    Source,
    check_columns,
    find_columns,
    guarded,
    library,
    linked,
    notes_on,
)
from fittedq.data.readers.parquet import table_columns
from fittedq.errors import UserError, in_one_line

PARSED_BYTES = 2**23
"""Of a file that Arrow parses at once."""


def read_csv(path: Path, column_map: ColumnMap) -> Source:
    """A header and a row per transition; vectors are numbered columns (obs_0, obs_1, …) or mapped ones."""
    library("pyarrow", path)
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    block = arrow_csv.ReadOptions(block_size=PARSED_BYTES)
    label = str(path)
    # Before Arrow guesses a type for each, which takes seconds where they are many.
    with path.open("rb") as file:
        check_columns(file.readline(PARSED_BYTES).count(b",") + 1, label)
    try:
        with arrow_csv.open_csv(path, read_options=block) as reader:
            available, kinds = list(reader.schema.names), reader.schema.types
            found = find_columns(available, column_map, label)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} could not be read as CSV ({in_one_line(error)}).") from None
    # Named, since the first block's integers may be followed by fractions.
    numbers = [
        key for name, keys in found.items() if name not in ("terminated", "truncated", "episode") for key in keys
    ]
    switches = {key for key, kind in zip(available, kinds, strict=True) if pa.types.is_boolean(kind)}
    convert = arrow_csv.ConvertOptions(
        include_columns=list(dict.fromkeys(itertools.chain(*found.values()))),
        # Switches are 0 and 1, however a file spells them.
        column_types={key: pa.bool_() if key in switches else pa.float64() for key in numbers},
    )

    def read() -> Iterator[Columns]:
        try:
            with arrow_csv.open_csv(path, read_options=block, convert_options=convert) as reader:
                for batch in reader:
                    if batch.num_rows:
                        yield table_columns(batch, found, label)
        except pa.ArrowInvalid:
            _refuse_words(path, numbers, convert.null_values)
            raise

    source = Source(iter(()), -(-path.stat().st_size // PARSED_BYTES))
    source.notes += notes_on(found, available)
    source.batches = guarded(linked(read(), label, source.notes), path)
    return source


def _refuse_words(path: Path, numbers: Sequence[str], empty: Sequence[str]) -> None:
    """A UserError that names the first cell of these columns that is no number and not empty: Arrow names no line."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = csv.reader(file)
        header = next(rows)
        places = [header.index(key) for key in numbers]
        for row in rows:
            for place in places:
                if place < len(row) and row[place] not in empty and not _is_number(row[place]):
                    raise UserError(
                        f"{path}: line {rows.line_num} has {row[place][:40]!r} in column {header[place]!r}, expected "
                        "a number; correct it, or leave the cell empty and import with --drop-bad."
                    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
