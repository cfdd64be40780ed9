"""A function block in Structured Text while it is written: declarations and lines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import NamedTuple, final

import numpy as np

LARGEST_REAL = 3.4028234e38
"""The largest REAL, in digits that none take for more."""
SMALLEST = float(np.finfo(np.float32).tiny)
"""What is smaller is written as 0: PLCs treat such numbers in their own ways."""


def literal(value: float, kind: type[np.float32 | np.float64] = np.float32) -> str:
    """A literal with the fewest digits that give the same number; infinity is the largest number."""
    if abs(value) < SMALLEST:
        return "0.0"
    if abs(value) >= LARGEST_REAL:
        return f"{'-' * (value < 0)}3.4028234E38"
    number = kind(value)
    if 1e-4 <= abs(value) < 1e6:
        return np.format_float_positional(number, unique=True, trim="0")
    return np.format_float_scientific(number, unique=True, trim="0", exp_digits=1).replace("e", "E")


def wide_literal(value: float) -> str:
    """A literal of LREAL."""
    return literal(value, np.float64)


class BlockArray(NamedTuple):
    """An array of the block."""

    name: str
    size: int

    def __str__(self) -> str:
        return self.name


@final
class BlockText:
    """A function block while it is written: declarations and lines."""

    def __init__(self) -> None:
        self.constants: list[str] = []
        self.variables: list[str] = []
        self.lines: list[str] = []
        self.kind = "REAL"
        """Of what stages read and make."""
        self._depth = 1

    def real(self, value: float) -> str:
        """A number of single precision as a literal of that kind."""
        return literal(float(np.float32(value)), np.float64 if self.kind == "LREAL" else np.float32)

    def table(self, name: str, values: Iterable[float] | np.ndarray, kind: str = "") -> str:
        """A constant array; its name."""
        kind = kind or self.kind
        wide = np.float64 if kind == "LREAL" else np.float32
        cells = [
            str(int(value)) if kind == "DINT" else literal(float(value), wide)
            for value in np.asarray(values).reshape(-1)
        ]
        rows = textwrap.fill(", ".join(cells), 110, initial_indent=8 * " ", subsequent_indent=8 * " ")
        self._declare(self.constants, f"    {name} : ARRAY[0..{len(cells) - 1}] OF {kind} := [\n{rows}];")
        return name

    def numbers(self, name: str, size: int, kind: str = "", initial: str = "") -> str:
        """An array that is written to; its name."""
        kind = kind or self.kind
        self._declare(self.variables, f"    {name} : ARRAY[0..{size - 1}] OF {kind}{initial};")
        return name

    def scalars(self, kind: str, *names: str) -> None:
        """Variables that are no arrays."""
        for name in names:
            self._declare(self.variables, f"    {name} : {kind};")

    def _declare(self, section: list[str], text: str) -> None:
        """A declaration; what stands there already is declared once."""
        if text not in section:
            section.append(text)

    def line(self, text: str) -> None:
        """Lines of a statement, as deep as those around them."""
        self.lines += [4 * self._depth * " " + row for row in textwrap.dedent(text).strip("\n").splitlines()]

    def begin(self, text: str) -> None:
        """The first line of IF or FOR, below which lines stand deeper, until `end`."""
        self.line(text)
        self._depth += 1

    def end(self, text: str) -> None:
        """END_IF, END_FOR or ELSE."""
        self._depth -= 1
        self.line(text)
        self._depth += text == "ELSE"

    def each(self, count: int, *lines: str) -> None:
        """The lines for i = 0 … count − 1."""
        if count > 0:
            self.begin(f"FOR i := 0 TO {count - 1} DO")
            for text in lines:
                self.line(text)
            self.end("END_FOR;")

    def kept(self, array: str, size: int, low: str, high: str) -> None:
        """array := clip(array, low, high), where what is no number stays none."""
        self.each(
            size,
            f"""
            IF {array}[i] < {low} THEN {array}[i] := {low};
            ELSIF {array}[i] > {high} THEN {array}[i] := {high}; END_IF;
            """,
        )
