"""The stages of a controller in C99: calls of the pieces of `functions.c`, and the tables that they read."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, final

import numpy as np

from fittedq.actions.projection import INTERIOR_STEPS, NEWTON_STEPS
from fittedq.errors import UserError
from fittedq.export.program import (
    AbstractStage,
    Activate,
    Affine,
    Append,
    AverageL1,
    Blend,
    Clip,
    Dense,
    Expect,
    Join,
    LayerNorm,
    NearestPoint,
    Normalize,
    RoundWhole,
    Stretch,
    UnitLength,
)

BLOCKS = (64, 32)
"""Columns whose sums stay in registers, in vectors of 256 bits too: the most that the widest layer has."""
MOST_SUM = 2**31 - 1
ALWAYS = ("finite", "copy", "crc_floats")
TYPES = {"float32": "float", "float64": "double", "int8": "int8_t", "int32": "int32_t"}


WIDE_NAME = "_wide"
"""The end of a piece's name where its values are in double precision."""
DOUBLE = ("back_", "standardize", "expect", "widen", "narrowed", "slope", "higher", "move", "crc", "tree")
"""How pieces begin that have no other form."""


class Operand(NamedTuple):
    """A value in C: its name, and its numbers."""

    name: str
    size: int


@final
class CDraft:
    """A program while it is rendered: tables, the pieces of `functions.c` that it needs, slots of the workspace."""

    def __init__(self, int8: bool, block: int):
        self.int8, self.block = int8, block
        self.tables: dict[str, np.ndarray] = {}
        self.pieces: dict[str, None] = dict.fromkeys(ALWAYS)
        self.slots: list[int] = []
        self.layers = 0
        self.widest = 0
        """Of a layer's inputs that become whole numbers."""
        self.multiplications, self.functions, self.comparisons = 0, 0, 0
        self.wide = False
        """Whether the values of the calls are in double precision; tables never are."""
        self.doubles: dict[str, int] = {}
        """Arrays of the workspace in double precision, and their sizes."""
        self.singles: dict[str, int] = {}
        """The same in single precision."""
        self.solver = ""
        """The functions of a solver."""
        self.polytope: tuple[int, list[str], float] | None = None
        """Its rows, the names of its tables, its scale."""

    def table(self, array: np.ndarray) -> str:
        """The name of a table of these numbers; the same numbers are one table."""
        array = np.ascontiguousarray(array).reshape(-1)
        for name, other in self.tables.items():
            if other.dtype == array.dtype and other.tobytes() == array.tobytes():
                return name
        name = f"fq_t{len(self.tables)}"
        self.tables[name] = array
        return name

    def call(self, piece: str, *words: str | int | np.ndarray) -> str:
        """A call of a piece: arrays become tables."""
        if self.wide and not piece.startswith(DOUBLE):
            piece += WIDE_NAME
        self.pieces[piece] = None
        texts = [self.table(word) if isinstance(word, np.ndarray) else str(word) for word in words]
        return f"fq_{piece}({', '.join(texts)});"

    @property
    def crc(self) -> int:
        """CRC-32 of all tables, in order, lowest byte first."""
        data = b"".join(table.astype(table.dtype.newbyteorder("<")).tobytes() for table in self.tables.values())
        return zlib.crc32(data)


Calls = Iterator[str]
"""Statements."""


@functools.singledispatch
def c_calls(stage: AbstractStage, source: CDraft, y: str, *read: Operand) -> Calls:
    """The statements that make the value `y` of those that are read."""
    raise TypeError(f"{type(stage).__name__} has no formula in C.")


@c_calls.register
def _(stage: Normalize, source: CDraft, y: str, x: Operand) -> Calls:
    largest = np.float32(np.finfo(np.float32).max)
    if source.wide:
        limit = np.minimum(stage.limit, largest)
        yield source.call("standardize", stage.mean, stage.deviation, limit, stage.size, x.name, y)
        return
    scale = (1 / stage.deviation.astype(float)).astype(np.float32)
    source.multiplications += stage.size
    yield source.call("normalize", stage.mean, scale, np.minimum(stage.limit, largest), stage.size, x.name, y)


@c_calls.register
def _(stage: Dense, source: CDraft, y: str, x: Operand) -> Calls:
    inputs, outputs = stage.weight.shape
    source.multiplications += inputs * outputs
    # The first layer reads the plant's own scales; in 8 bits the small ones would vanish.
    if not source.int8 or not source.layers:
        source.layers += 1
        piece = "layer" if outputs >= source.block else "narrow_layer"
        yield source.call(piece, in_columns(stage.weight, source.block), stage.bias, inputs, outputs, x.name, y)
        return
    scale = np.maximum(np.abs(stage.weight).max(0), np.float32(1e-30)) / np.float32(127)
    whole = np.round(stage.weight / scale).astype(np.int8)
    most = min(2**15 - 1, MOST_SUM // (127 * inputs))
    source.widest = max(source.widest, inputs)
    sizes = (f"{most}.0f", inputs, outputs)
    yield source.call(
        "layer8", blocked(whole, source.block), scale.astype(np.float32), stage.bias, *sizes, x.name, "c->whole", y
    )


def in_columns(weight: np.ndarray, block: int) -> np.ndarray:
    """Whole blocks of columns, each row by row, then the columns that are left, one by one."""
    end = weight.shape[1] - weight.shape[1] % block
    blocks = [weight[:, first : first + block].reshape(-1) for first in range(0, end, block)]
    return np.concatenate([*blocks, weight[:, end:].T.reshape(-1)])


def blocked(weight: np.ndarray, block: int) -> np.ndarray:
    """Blocks of columns, each row by row."""
    return np.concatenate([weight[:, first : first + block].reshape(-1) for first in range(0, weight.shape[1], block)])


PIECES = {"tanh": "tanhs"}
"""Activations whose piece has another name."""
CHEAP = frozenset({"relu", "leaky_relu"})


@c_calls.register
def _(stage: Activate, source: CDraft, y: str, x: Operand) -> Calls:
    source.functions += 0 if stage.function in CHEAP else stage.size
    yield source.call(PIECES.get(stage.function, stage.function), stage.size, x.name, y)


@c_calls.register
def _(stage: LayerNorm, source: CDraft, y: str, x: Operand) -> Calls:
    source.multiplications += 4 * stage.size
    source.functions += 1
    yield source.call("layer_norm", stage.gain, stage.shift, stage.size, x.name, y)


@c_calls.register
def _(stage: UnitLength, source: CDraft, y: str, x: Operand) -> Calls:
    source.multiplications += 2 * stage.size
    source.functions += 1
    yield source.call("unit_length", stage.size, x.name, y)


@c_calls.register
def _(stage: AverageL1, source: CDraft, y: str, x: Operand) -> Calls:
    source.multiplications += stage.size
    yield source.call("average_norm", stage.size, x.name, y)


@c_calls.register
def _(stage: Append, source: CDraft, y: str, x: Operand) -> Calls:
    yield source.call("copy", x.size, x.name, y)
    yield f"{y}[{x.size}] = {c_literal(np.float32(stage.number))};"


@c_calls.register
def _(stage: Expect, source: CDraft, y: str, x: Operand) -> Calls:
    source.functions += x.size
    yield source.call("expect", stage.values, x.size, x.name, y)


@c_calls.register
def _(stage: Join, source: CDraft, y: str, x: Operand, other: Operand) -> Calls:
    del stage
    yield source.call("copy", x.size, x.name, y)
    yield source.call("copy", other.size, other.name, f"{y} + {x.size}")


@c_calls.register
def _(stage: Blend, source: CDraft, y: str, x: Operand, other: Operand) -> Calls:
    source.multiplications += 2 * stage.size
    yield source.call("blend", stage.keep, stage.take, stage.size, x.name, other.name, y)


@c_calls.register
def _(stage: Affine, source: CDraft, y: str, x: Operand) -> Calls:
    source.multiplications += stage.size
    yield source.call("affine", stage.center, stage.half_width, stage.size, x.name, y)


@c_calls.register
def _(stage: Clip, source: CDraft, y: str, x: Operand) -> Calls:
    yield source.call("clip", stage.low, stage.high, stage.size, x.name, y)


@c_calls.register
def _(stage: RoundWhole, source: CDraft, y: str, x: Operand) -> Calls:
    whole = stage.whole.astype(np.float32)
    yield source.call("round_whole", whole, stage.low, stage.high, stage.size, x.name, y)


@c_calls.register
def _(stage: Stretch, source: CDraft, y: str, x: Operand, z: Operand) -> Calls:
    source.multiplications += 3 * stage.size
    yield source.call("stretch", *change_tables(stage), stage.size, x.name, f"{z.name} + {stage.first}", y)


def change_tables(stage: Stretch) -> tuple[np.ndarray, ...]:
    """What the pieces on changes read."""
    return stage.rate, stage.least, stage.most, stage.center, stage.half_width


@c_calls.register
def _(stage: NearestPoint, source: CDraft, y: str, x: Operand) -> Calls:
    rows, size = stage.matrix.shape
    source.multiplications += (INTERIOR_STEPS + NEWTON_STEPS + 1) * (rows * rows * (size + rows) + 6 * rows * size)
    units = stage.units
    own = (stage.matrix, stage.limits, stage.floor, stage.ceiling, stage.center)
    inside = (units.low, units.high, units.rows, units.bound, units.margin, units.inner)
    fields = [source.table(array) for array in (*own, *inside)]
    if source.polytope not in (None, (rows, fields, units.scale)):
        raise UserError("export: found a policy in another polytope than the agent's; C has room for one.")
    source.polytope = rows, fields, units.scale
    yield source.call("nearest_point", "&fq_limits", x.name, y)


IN_PLACE = (Normalize, Activate, LayerNorm, UnitLength, AverageL1, Blend, Affine, Clip, RoundWhole, Stretch)
"""Stages whose value may take the place of one that they read."""


def indented(lines: list[str], depth: int = 1) -> str:
    """Statements in a body."""
    return "\n".join("    " * depth + line for line in lines)


def c_literal(value: np.floating[Any] | np.integer[Any] | float) -> str:
    """A number in C, exact."""
    kind = np.asarray(value).dtype
    if kind.kind == "i":
        return str(int(value))
    single = kind == np.float32
    text = f"{float(value):.9g}" if single else f"{float(value):.17g}"
    if not re.search(r"[.e]", text):
        text += ".0"
    return text + "f" * single


def c_numbers(array: np.ndarray) -> str:
    """Numbers of a table, some to a line."""
    words = [c_literal(value) for value in array.reshape(-1)]
    return "\n".join("    " + ", ".join(words[at : at + 8]) + "," for at in range(0, len(words), 8))


def table_text(name: str, array: np.ndarray) -> str:
    """One table."""
    return f"static const {TYPES[array.dtype.name]} {name}[{array.size}] = {{\n{c_numbers(array)}\n}};"
