"""CSV tables, and all that is called so."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fittedq.data.description import Description
from fittedq.data.readers.cells import NO_VALUE, ArrowArray, Cells
from fittedq.data.readers.columns import Source, find_columns, library, source_of
from fittedq.data.readers.dialect import COMMENTS, Dialect, cells_of, dialect_of, opened
from fittedq.data.shaping import Columns, LogReading
from fittedq.errors import UserError, in_one_line

PARSED_BYTES = 2**23
"""Of a file that Arrow parses at once; no line is longer."""

NULLS = sorted({form for word in NO_VALUE for form in (word, word.upper(), word.capitalize(), "NaN")})


def read_csv(path: Path, reading: LogReading) -> Source:
    """A row per sample, in whatever dialect (`dialect_of`); vectors are numbered columns (obs_0, obs_1, …) or named."""
    library("pyarrow", path)
    dialect = dialect_of(path, reading.description.names)
    reading.unit, reading.table = "line", True
    found = find_columns(dialect.names, reading)
    places = {name: place for place, name in enumerate(dialect.names)}
    commas = frozenset(name for name, place in places.items() if place in dialect.comma)
    cells = Cells(found, reading, commas)
    read = [places[name] for name in cells.columns]
    cells.clock = next((dialect.unit(name).lower() for name in found.get("time", [])), "")
    reading.units |= {name: unit for name in cells.columns if (unit := dialect.unit(name))}
    cells.head = [[row[place] for place in read] for row in dialect.head]

    def rows() -> Iterator[Columns]:
        for block, lines in _blocks(path, dialect, source.notes):
            if not len(lines):
                continue
            table, odd = _parsed(block, lines, dialect, read, reading)
            kept = np.delete(lines, [row for row, _ in odd])
            columns = cells.read(dict(zip(cells.columns, table, strict=True)), kept)
            yield _with_odd(columns, lines, odd, reading)
        source.notes += cells.notes()

    source = source_of(rows(), found, dialect.names, reading, path, -(-path.stat().st_size // PARSED_BYTES))
    source.notes[:0] = dialect.notes
    return source


def text_of(path: Path, dialect: Dialect) -> Iterator[list[ArrowArray]]:
    """All columns as text, a block of rows at a time."""
    reading = LogReading(Description(), str(path), drop_bad=True, unit="line")
    for block, lines in _blocks(path, dialect, []):
        if len(lines):
            yield _parsed(block, lines, dialect, list(range(len(dialect.names))), reading)[0]


Block = tuple[bytes, np.ndarray]
"""Whole lines of rows in UTF-8, and each line's number in its file."""

Odd = list[tuple[int, str]]
"""Rows of a block with more or fewer cells than columns, and their text."""


def _blocks(path: Path, dialect: Dialect, notes: list[str]) -> Iterator[Block]:
    """The rows of a file, without comments and empty lines."""
    decoder = None if dialect.encoding == "utf-8" else codecs.getincrementaldecoder(dialect.encoding)()
    rest, line = b"", 1
    with opened(path) as stream:
        while part := stream.read(PARSED_BYTES):
            try:
                rest += part if decoder is None else decoder.decode(part).encode()
            except UnicodeError as error:
                raise UserError(
                    f"{path} is no {dialect.encoding} from line {line} on ({in_one_line(error)})."
                ) from None
            # A carriage return at the end may have its line feed in the next part.
            cut = max(rest.rfind(b"\n"), rest.rfind(b"\r", 0, -1)) + 1
            if not cut and len(rest) > PARSED_BYTES:
                raise UserError(f"{path}: line {line} is longer than 8 MiB; expected a table of short lines.")
            block, rest = _plain(rest[:cut]), rest[cut:]
            yield _rows(block, line, dialect)
            line += block.count(b"\n")
    rest = _plain(rest)
    if rest.strip() and len(cells_of(rest.decode(), dialect.delimiter)) < len(dialect.names):
        notes.append(
            f"The last line of {path.name} is cut short ({rest[:60].decode(errors='ignore')!r}): it is left out."
        )
    else:
        yield _rows(rest, line, dialect)


def _plain(block: bytes) -> bytes:
    """Lines in UTF-8 that end in line feeds; bytes that are no UTF-8 are taken for Windows's."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        block.decode()
    except UnicodeDecodeError:
        block = block.decode("cp1252", errors="replace").encode()
    return block


def _rows(block: bytes, first: int, dialect: Dialect) -> Block:
    """The lines of a block that are rows; `first` is its first line's number."""
    delimiter = dialect.delimiter.encode()
    skipped = max(dialect.first - first, 0)
    marks = tuple(mark.encode() for mark in COMMENTS)
    begun, signs = b"\n" + block, (b"\n", delimiter * 2, b" ", b"\t", *marks)
    if not skipped and delimiter != b" " and not any(b"\n" + sign in begun for sign in signs):
        return block, np.arange(first, first + block.count(b"\n") + (not block.endswith(b"\n") and bool(block)))
    lines = block.split(b"\n")
    blanks = delimiter + b' \t"'
    kept = [
        number
        for number in range(skipped, len(lines))
        if lines[number].strip(blanks) and not lines[number].lstrip().startswith(marks)
    ]
    rows = [lines[number] for number in kept]
    if delimiter == b" ":
        rows = [b" ".join(row.split()) for row in rows]
    return b"\n".join(rows), np.array(kept, int) + first


def _parsed(
    block: bytes, lines: np.ndarray, dialect: Dialect, read: list[int], reading: LogReading
) -> tuple[list[ArrowArray], Odd]:
    """The columns of a block as Arrow's text, and the rows that are none of this table."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    odd: Odd = []

    def note(row: ArrowArray) -> str:
        odd.append((row.number - 1, row.text))
        return "skip"

    names = [str(place) for place in range(len(dialect.names))]
    included = [names[place] for place in read]
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(block),
            arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(block) + 1),
            arrow_csv.ParseOptions(delimiter=dialect.delimiter, invalid_row_handler=note),
            arrow_csv.ConvertOptions(
                include_columns=included,
                column_types=dict.fromkeys(included, pa.string()),
                null_values=NULLS,
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        ).combine_chunks()
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{reading.label}: lines {lines[0]} to {lines[-1]} could not be read as a table ({in_one_line(error)})."
        ) from None
    if table.num_rows + len(odd) != len(lines):
        raise UserError(
            f"{reading.label}: a quote is opened between lines {lines[0]} and {lines[-1]} and not closed in its line; "
            "expected each row on one line."
        )
    return [_one(column) for column in table.columns], odd


def _one(column: ArrowArray) -> ArrowArray:
    """A column in one piece."""
    import pyarrow as pa

    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _with_odd(columns: Columns, lines: np.ndarray, odd: Odd, reading: LogReading) -> Columns:
    """Rows of another length are refused, or stand there without numbers, and are dropped as such rows are."""
    for row, text in odd:
        if not reading.drop_bad:
            raise UserError(
                f"{reading.label}: line {lines[row]} has another number of cells than the header ({text[:60]!r}); "
                "correct it, or leave such rows out with --drop-bad."
            )
    if not odd:
        return columns
    at = [row - before for before, (row, _) in enumerate(odd)]
    return {
        name: np.insert(values.astype(float), at, np.nan, axis=0)
        if values.dtype != object and name != "\n"
        else np.insert(values, at, values[np.maximum(np.array(at) - 1, 0)])
        for name, values in columns.items()
    }
