"""What a text table looks like: its encoding, delimiter, decimal sign, header and units, told from its first lines."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from fittedq.data.readers.cells import NO_VALUE, SWITCHES, is_number, is_time, without_unit
from fittedq.errors import UserError, in_one_line

Stream: TypeAlias = Any
"""An open file of bytes, packed or not."""

HEAD_BYTES = 2**18
"""Of a file by which its dialect is told."""

PACKED: dict[bytes, Callable[[Stream], Stream]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
"""How a compressed file begins, and what reads it."""

OTHERS = {
    b"PK\x03\x04": "a zip archive or a workbook: unpack it, or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save the sheet as CSV",
    b"PAR1": "a Parquet file: name it .parquet, or give --format parquet",
    b"\x89HDF": "an HDF5 file: name it .hdf5, or give --format d4rl",
    b"(\xb5/\xfd": "packed with zstd: unpack it",
}
"""How files begin that are no text, and what they are."""

MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

DELIMITERS = ("\t", ";", "|", ",", " ")
"""The first that splits all lines alike is taken; a blank stands for any number of blanks."""

COMMENTS = ("#", "%", "//")
"""What a comment line begins with."""

DECIMAL_COMMA = re.compile(r"[+-]?(\d*|\d{1,3}(\.\d{3})+),\d+(e[+-]?\d+)?", re.IGNORECASE)
DECIMAL_POINT = re.compile(r"[+-]?\d*\.\d+(e[+-]?\d+)?", re.IGNORECASE)
GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")


@dataclass(frozen=True)
class Dialect:
    """How a text table is written."""

    encoding: str
    delimiter: str
    names: tuple[str, ...]
    first: int
    """The line of the first row, from 1."""
    comma: frozenset[int] = frozenset()
    """Columns whose numbers have a decimal comma."""
    head: tuple[tuple[str, ...], ...] = ()
    """The header, and rows of units below it, as they may come again."""
    notes: tuple[str, ...] = ()

    def unit(self, name: str) -> str:
        """The unit that a row of units, or the name itself, says of a column: temp [degC], temp (degC)."""
        inside = re.search(r"[\[(]([^\])]*)[\])]\s*$", name)
        row = self.head[1][self.names.index(name)].strip("[]() ") if len(self.head) > 1 else ""
        return (row if row != "-" else "") or (inside[1].strip() if inside else "")


def dialect_of(path: Path, names: Sequence[str] = ()) -> Dialect:
    """The dialect of a text file, by its first `HEAD_BYTES`; `names` stand for those of its header.

    UserError: it is no text, no table, has no header where no `names` are given, or other names than columns.
    """
    with opened(path) as stream:
        head = _filled(stream, HEAD_BYTES + 1)
    encoding = _encoding(head, path)
    text = _decoded(head[:HEAD_BYTES], encoding)
    lines = text.splitlines() if len(head) <= HEAD_BYTES else text.splitlines()[:-1]
    if not any(line.strip() for line in lines):
        raise UserError(
            f"{path} {'is empty' if not head.strip() else 'holds no line in its first 256 KiB'}, expected a table."
        )
    notes = [] if encoding.startswith("utf-8") else [f"{path.name} was read as {encoding}."]
    told, at = _declared(lines)
    delimiter, width = _delimiter(lines[at:], told, path)
    table = [
        (number, cells_of(line, delimiter))
        for number, line in enumerate(lines[at:], at + 1)
        if line.strip() and not line.lstrip().startswith(COMMENTS)
    ]
    if len(table) > 1 or lines[-1].strip():
        table = [(number, cells) for number, cells in table if len(cells) == width]
    found, rows = _header(table, lines, delimiter, width)
    if names:
        if len(names) != width:
            raise UserError(
                f"{path} has {width} columns ({_shown(table[0][1])}), and {len(names)} names are given; give one each.",
                argument="names",
            )
        notes += [f"The header of {path.name} ({_shown(found)}) gives way to the names given."] * bool(found)
    elif not found:
        raise UserError(
            f"{path}: its first row holds numbers ({_shown(table[0][1])}), expected names of columns; name the {width} "
            "columns with --names, as in --names t,u,temp."
        )
    units = 0
    while units + 1 < len(rows) and _is_units(rows[units][1], rows[units + 1 :][:20]):
        notes.append(f"Line {rows[units][0]} of {path.name} holds units ({_shown(rows[units][1])}) and is skipped.")
        units += 1
    head = (found, *(tuple(cells) for _, cells in rows[:units])) if found else ()
    rows = rows[units:]
    if not rows:
        raise UserError(f"{path} holds a header and no row, expected rows below it.")
    columns = list(zip(*(cells for _, cells in rows), strict=True))
    comma = _comma_columns(columns, delimiter)
    if comma:
        notes.append(f"Numbers of {path.name} have a decimal comma.")
    return Dialect(encoding, delimiter, tuple(names) or found, rows[0][0], comma, head, tuple(notes))


@contextmanager
def opened(path: Path) -> Iterator[Stream]:
    """The bytes of a file, unpacked where they are packed; a UserError for what is no text."""
    with path.open("rb") as raw:
        start = raw.read(8)
        raw.seek(0)
        for mark, what in OTHERS.items():
            if start.startswith(mark):
                raise UserError(f"{path} is {what}.")
        unpack = next((unpack for mark, unpack in PACKED.items() if start.startswith(mark)), None)
        try:
            yield raw if unpack is None else unpack(raw)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise UserError(
                f"{path} could not be unpacked to its end ({in_one_line(error)}); it is truncated or damaged: fetch it "
                "again."
            ) from None


def cells_of(line: str, delimiter: str) -> list[str]:
    """One line's cells, without the blanks around them."""
    if delimiter == " ":
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def _filled(stream: Stream, size: int) -> bytes:
    """So many bytes, or all there are; a stream may give fewer at once."""
    parts = io.BytesIO()
    while parts.tell() < size and (part := stream.read(size - parts.tell())):
        parts.write(part)
    return parts.getvalue()


def _encoding(head: bytes, path: Path) -> str:
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    start = head[:1000]
    if b"\0" in start:
        for name, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
            if zeros.count(0) > 0.8 * len(zeros) > 0:
                return name
    if b"\0" in head:
        raise UserError(f"{path} holds zero bytes and is no text; save it as CSV.")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        # 0x80 … 0x9f are controls in Latin-1: who writes them means Windows's signs.
        return "cp1252" if re.search(rb"[\x80\x82-\x8c\x8e\x91-\x9c\x9e\x9f]", head) else "latin-1"
    return "utf-8"


def _decoded(head: bytes, encoding: str) -> str:
    return codecs.getincrementaldecoder(encoding)(errors="replace").decode(head)


def _declared(lines: Sequence[str]) -> tuple[str | None, int]:
    """The delimiter that Excel's `sep=;` names, and the first line after it."""
    if lines[0].lstrip('"').startswith("TOA5"):
        return None, 1  # Campbell's loggers: a line about the station above the header
    said = re.fullmatch(r'"?sep=(.)"?', lines[0].strip(" "), re.IGNORECASE)
    return (None, 0) if said is None else (said[1], 1)


def _delimiter(lines: Sequence[str], told: str | None, path: Path) -> tuple[str, int]:
    """The delimiter, and how many cells it makes of most lines."""
    sample = [line for line in lines if line.strip() and not line.lstrip().startswith(COMMENTS)][:500]
    best: tuple[float, str, int] = (0.0, ",", 1)
    for delimiter in DELIMITERS if told is None else (told,):
        counts = Counter(len(cells_of(line, delimiter)) for line in sample)
        width, often = max(counts.items(), key=lambda item: (item[1], item[0]), default=(1, 0))
        if width > 1 and often / len(sample) > best[0] + 1e-9:
            best = (often / len(sample), delimiter, width)
    _, delimiter, width = best
    if width == 1:
        raise UserError(
            f"{path}: its lines ({(sample or [''])[0][:60]!r}, …) are not split alike by tabs, semicolons, commas, "
            "bars or blanks; expected a table of at least two columns."
        )
    return delimiter, width


Row = tuple[int, list[str]]
"""A line's number and its cells."""


def _header(table: list[Row], lines: Sequence[str], delimiter: str, width: int) -> tuple[tuple[str, ...], list[Row]]:
    """The names of the columns, and the rows below; no names where the first row is one of numbers."""
    first = table[0][1]
    if _is_header(first, [cells for _, cells in table[1:20]]):
        return tuple(first), table[1:]
    for line in reversed(lines[: table[0][0] - 1]):  # NumPy writes its header as a comment
        cells = cells_of(line.lstrip().lstrip("#%/").strip(), delimiter)
        if line.strip() and len(cells) == width and any(map(_is_word, cells)):
            return tuple(cells), table
    return (), table


def _is_header(row: list[str], following: list[list[str]]) -> bool:
    """Whether a row names columns: it holds a word over numbers, or no value at all."""
    columns = zip(*following, strict=True) if following else [()] * len(row)
    words = [_is_word(cell) for cell in row]
    over = any(word and any(map(is_quantity, column)) for word, column in zip(words, columns, strict=True))
    return over or (any(words) and not any(map(is_number, row)))


def is_quantity(cell: str) -> bool:
    """Whether a cell is a number, with or without a unit."""
    return is_number(without_unit(cell))


def _is_word(cell: str) -> bool:
    """Whether a cell is neither a value nor missing."""
    lower = cell.lower()
    return bool(cell) and lower not in NO_VALUE and lower not in SWITCHES and not is_number(cell) and not is_time(cell)


def _is_units(row: list[str], following: list[Row]) -> bool:
    """Whether no cell of a row is a number though the next rows hold some: a row of units."""
    numbers = [any(map(is_quantity, column)) for column in zip(*(cells for _, cells in following), strict=True)]
    values = [bool(cell) and (is_quantity(cell) or is_time(cell)) for cell in row]
    return (
        any(numbers)
        and not any(values)
        and any(bool(cell) and number for cell, number in zip(row, numbers, strict=True))
    )


def _comma_columns(columns: Sequence[Sequence[str]], delimiter: str) -> frozenset[int]:
    """The columns with a decimal comma: where any has one, all but those with decimal points."""
    columns = [list(map(without_unit, column)) for column in columns]
    # Only among commas as delimiters may 1,234 be a thousand.
    grouped = GROUPED if delimiter == "," else re.compile(r"(?!)")
    commas = [
        any(DECIMAL_COMMA.fullmatch(cell) and not grouped.fullmatch(cell) for cell in column) for column in columns
    ]
    if not any(commas):
        return frozenset()
    points = [any(DECIMAL_POINT.fullmatch(cell) for cell in column) for column in columns]
    return frozenset(
        place for place, (comma, point) in enumerate(zip(commas, points, strict=True)) if comma or not point
    )


def _shown(cells: Sequence[str]) -> str:
    return ", ".join(cells[:6]) + (", …" if len(cells) > 6 else "")
