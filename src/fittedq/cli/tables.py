"""Tables of every command: no wider than the terminal, and nothing cut; where there is none, a line for each row."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

BETWEEN_CELLS = 2
"""Columns of the terminal between cells."""
USUAL_WIDTH, WIDEST_TEXT = 80, 120
"""Of text, where there is no terminal, and on a wide one."""
FOLDED = 16
"""Cells wider than this may be folded between words."""


def print_rows(rows: Sequence[Sequence[str]], *, head: bool = True) -> None:
    """Cells under one another, on standard output; the first row is a `head`, or there is none."""
    if not sys.stdout.isatty():
        for line in table_lines(rows, None, head=head):
            print(line)
        return
    from rich.text import Text

    from fittedq.runs.progress import console

    for line, leads in _laid_out(rows, terminal_width(), head=head):
        console(to_errors=False).print(Text(line, style="bold" if leads else ""), soft_wrap=True)


def terminal_width() -> int | None:
    """The columns of the terminal; None where standard output is none."""
    return max(shutil.get_terminal_size().columns, FOLDED) if sys.stdout.isatty() else None


def folded(text: str, indent: int = 0) -> str:
    """Text in lines of the terminal's width, or of 80, all but the first one `indent` columns to the right."""
    width = min(terminal_width() or USUAL_WIDTH, WIDEST_TEXT)
    return textwrap.fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)


def beside(name: str, text: str, indent: int) -> str:
    """A name and what it is, `indent` columns to the right."""
    return folded(f"{name:<{indent - 1}} {text}", indent)


def table_lines(rows: Sequence[Sequence[str]], width: int | None, *, head: bool) -> list[str]:
    """The lines of a table of at most `width` columns: cells under one another, wide ones folded; where that is too
    narrow for them, the cells of each row below its first one, after the words of the head."""
    return [line for line, _ in _laid_out(rows, width, head=head)]


def _laid_out(rows: Sequence[Sequence[str]], width: int | None, *, head: bool) -> Iterator[tuple[str, bool]]:
    """(line of `table_lines`, whether it leads: it is of the head, or of a first cell that others stand below)."""
    widths = _widths(rows, width) if rows else []
    if widths is not None:
        for place, row in enumerate(rows):
            yield from ((line, head and place == 0) for line in _folded(row, widths))
        return
    assert width is not None
    names = list(rows[0]) if head else [""] * len(rows[0])
    for row in rows[head:]:
        yield from ((line, not line.startswith(" ")) for line in _below(row, names, width))


def without(rows: Sequence[Sequence[str]], names: Sequence[str], width: int) -> list[list[str]]:
    """The rows below a head without its columns `names`, the first ones first, as far as the rest is too wide."""
    kept = [list(row) for row in rows]
    for name in names:
        if kept and sum(_natural(kept)) + BETWEEN_CELLS * (len(kept[0]) - 1) > width and name in kept[0]:
            place = kept[0].index(name)
            kept = [row[:place] + row[place + 1 :] for row in kept]
    return kept


def _natural(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _widths(rows: Sequence[Sequence[str]], width: int | None) -> list[int] | None:
    """The width of each column; None where words would be broken."""
    natural = _natural(rows)
    if width is None or sum(natural) + BETWEEN_CELLS * (len(natural) - 1) <= width:
        return natural
    words = [max(len(word) for cell in column for word in (cell.split() or [""])) for column in zip(*rows, strict=True)]
    found = [min(all_of_it, max(FOLDED, word)) for all_of_it, word in zip(natural, words, strict=True)]
    left = width - BETWEEN_CELLS * (len(found) - 1) - sum(found)
    if left < 0:
        return None
    needs = sorted(range(len(found)), key=lambda place: natural[place] - found[place])
    for done, place in enumerate(needs):  # who needs little leaves the rest to the others
        more = min(natural[place] - found[place], left // (len(needs) - done))
        found[place] += more
        left -= more
    return found


def _folded(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """The lines of a row."""
    cells = [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
    for parts in zip_longest(*cells, fillvalue=""):
        padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
        yield (" " * BETWEEN_CELLS).join(padded).rstrip()


def _below(row: Sequence[str], names: Sequence[str], width: int) -> Iterator[str]:
    """The first cell, and the others below it; a name that takes half of the width has a line of its own."""
    yield from _wrapped(row[0], width)
    indent = max((len(name) for name in names[1:] if 2 * len(name) <= width), default=0)
    for name, cell in zip(names[1:], row[1:], strict=True):
        before = f"{'':{BETWEEN_CELLS}}{name:<{indent}}{'':{BETWEEN_CELLS if indent else 0}}"
        if cell and 2 * len(name) > width:
            yield from (" " * BETWEEN_CELLS + one for one in _wrapped(name, width - BETWEEN_CELLS))
            before = " " * (2 * BETWEEN_CELLS)
        if cell:
            first, *others = _wrapped(cell, width - len(before))
            yield before + first
            yield from (" " * len(before) + one for one in others)


def _wrapped(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]
