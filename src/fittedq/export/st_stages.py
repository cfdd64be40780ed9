"""The stages of a controller in Structured Text: lines that make one array of others."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from fittedq.errors import UserError
from fittedq.export.program import (
    CUBE,
    GELU,
    LEAK,
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
    ProgramLine,
    RoundWhole,
    Stretch,
    UnitLength,
)
from fittedq.export.st_block import BlockArray, BlockText
from fittedq.export.st_nearest import nearest_lines


@functools.singledispatch
def said(stage: AbstractStage, block: BlockText, out: str, *values: BlockArray) -> None:
    """Writes out := stage(values) into the block; `out` ends in the stage's number."""
    raise UserError(f"export: found the stage {type(stage).__name__}, which has no form in Structured Text.")


@said.register
def _(stage: Normalize, block: BlockText, out: str, x: BlockArray) -> None:
    mean, deviation = block.table(f"mean_{out}", stage.mean), block.table(f"deviation_{out}", stage.deviation)
    limit = block.table(f"limit_{out}", stage.limit)
    block.each(stage.size, f"{out}[i] := ({x}[i] - {mean}[i]) / {deviation}[i];")
    block.kept(out, stage.size, f"-{limit}[i]", f"{limit}[i]")


@said.register
def _(stage: Dense, block: BlockText, out: str, x: BlockArray) -> None:
    size, count = stage.weight.shape
    weight, bias = block.table(f"weight_{out}", stage.weight.T), block.table(f"bias_{out}", stage.bias)
    block.begin(f"FOR i := 0 TO {count - 1} DO")
    block.line("total := 0.0;")
    block.line(f"FOR j := 0 TO {size - 1} DO total := total + {weight}[i * {size} + j] * {x}[j]; END_FOR;")
    block.line(f"{out}[i] := total + {bias}[i];")
    block.end("END_FOR;")


TANH = """
e := EXP(-2.0 * ABS({x}));
e := (1.0 - e) / (1.0 + e);
IF {x} < 0.0 THEN e := -e; END_IF;
"""
HALF_TANH = "total := 0.5 * {x};" + TANH.replace("{x}", "total")
"""total := x / 2, e := tanh(total)."""
GELU_TANH = "total := {gelu} * ({x} + {cube} * {x} * {x} * {x});" + TANH.replace("{x}", "total")
ACTIVATION_LINES = {
    "relu": "{out} := SEL({x} > 0.0, 0.0, {x});",
    "leaky_relu": "{out} := SEL({x} > 0.0, {leak} * {x}, {x});",
    "tanh": TANH + "{out} := e;",
    "silu": HALF_TANH + "{out} := total * (1.0 + e);",
    "gelu": GELU_TANH + "{out} := 0.5 * {x} * (1.0 + e);",
    "softplus": "{out} := SEL({x} > 0.0, 0.0, {x}) + LN(1.0 + EXP(-ABS({x})));",
    "elu": "{out} := SEL({x} > 0.0, EXP(SEL({x} > 0.0, {x}, 0.0)) - 1.0, {x});",
}


def activation_text(texts: Mapping[str, str], stage: Activate, block: BlockText, **words: str) -> str:
    """The lines of an activation."""
    numbers = {"leak": block.real(LEAK), "gelu": block.real(GELU), "cube": block.real(CUBE)}
    return texts[stage.function].format(**words, **numbers)


@said.register
def _(stage: Activate, block: BlockText, out: str, x: BlockArray) -> None:
    block.each(stage.size, activation_text(ACTIVATION_LINES, stage, block, x=f"{x}[i]", out=f"{out}[i]"))


def mean_line(block: BlockText, size: int, term: str) -> None:
    """total := the mean of a term over i."""
    block.line("total := 0.0;")
    block.each(size, f"total := total + {term};")
    block.line(f"total := total / {block.real(size)};")


@said.register
def _(stage: LayerNorm, block: BlockText, out: str, x: BlockArray) -> None:
    gain, shift = block.table(f"gain_{out}", stage.gain), block.table(f"shift_{out}", stage.shift)
    mean_line(block, stage.size, f"{x}[i]")
    block.each(stage.size, f"{out}[i] := {x}[i] - total;")
    mean_line(block, stage.size, f"{out}[i] * {out}[i]")
    block.line(f"total := SQRT(total + {block.real(stage.least)});")
    block.each(stage.size, f"{out}[i] := {out}[i] / total * {gain}[i] + {shift}[i];")


@said.register
def _(stage: UnitLength, block: BlockText, out: str, x: BlockArray) -> None:
    block.line(f"total := {block.real(stage.least)};")
    block.each(stage.size, f"total := total + {x}[i] * {x}[i];")
    block.line("total := SQRT(total);")
    block.each(stage.size, f"{out}[i] := {x}[i] / total;")


@said.register
def _(stage: AverageL1, block: BlockText, out: str, x: BlockArray) -> None:
    mean_line(block, stage.size, f"ABS({x}[i])")
    least = block.real(stage.least)
    block.line(f"IF total < {least} THEN total := {least}; END_IF;")
    block.each(stage.size, f"{out}[i] := {x}[i] / total;")


@said.register
def _(stage: Append, block: BlockText, out: str, x: BlockArray) -> None:
    block.each(stage.size - 1, f"{out}[i] := {x}[i];")
    block.line(f"{out}[{stage.size - 1}] := {block.real(stage.number)};")


@said.register
def _(stage: Join, block: BlockText, out: str, x: BlockArray, y: BlockArray) -> None:
    block.each(x.size, f"{out}[i] := {x}[i];")
    block.each(y.size, f"{out}[{x.size} + i] := {y}[i];")


@said.register
def _(stage: Blend, block: BlockText, out: str, x: BlockArray, y: BlockArray) -> None:
    keep, take = block.table(f"keep_{out}", stage.keep), block.table(f"take_{out}", stage.take)
    block.each(stage.size, f"{out}[i] := {keep}[i] * {x}[i] + {take}[i] * {y}[i];")


@said.register
def _(stage: Affine, block: BlockText, out: str, x: BlockArray) -> None:
    center, half = block.table(f"center_{out}", stage.center), block.table(f"half_width_{out}", stage.half_width)
    block.each(stage.size, f"{out}[i] := {center}[i] + {half}[i] * {x}[i];")


@said.register
def _(stage: Clip, block: BlockText, out: str, x: BlockArray) -> None:
    low, high = block.table(f"low_{out}", stage.low), block.table(f"high_{out}", stage.high)
    block.each(stage.size, f"{out}[i] := {x}[i];")
    block.kept(out, stage.size, f"{low}[i]", f"{high}[i]")


@said.register
def _(stage: RoundWhole, block: BlockText, out: str, x: BlockArray) -> None:
    low, high = block.table(f"low_{out}", stage.low), block.table(f"high_{out}", stage.high)
    block.each(stage.size, f"{out}[i] := {x}[i];")
    block.kept(out, stage.size, f"{low}[i]", f"{high}[i]")
    for axis in np.flatnonzero(stage.whole):
        one, kind = f"{out}[{axis}]", block.kind
        block.line(f"IF ABS({one}) <= 1.0E9 THEN {one} := DINT_TO_{kind}({kind}_TO_DINT({one})); END_IF;")


def change_lines(stage: Stretch, block: BlockText, out: str, z: BlockArray, before: str = "total") -> tuple[str, str]:
    """The arrays of what the action before may change by, at least and at most."""
    center, half = block.table(f"center_{out}", stage.center), block.table(f"half_width_{out}", stage.half_width)
    rate = block.table(f"rate_{out}", stage.rate)
    least, most = block.table(f"least_{out}", stage.least), block.table(f"most_{out}", stage.most)
    low, high = block.numbers(f"least_change_{out}", stage.size), block.numbers(f"most_change_{out}", stage.size)
    block.each(
        stage.size,
        f"{before} := {center}[i] + {half}[i] * {z}[{stage.first} + i];",
        f"{low}[i] := {least}[i] - {before};",
        f"{high}[i] := {most}[i] - {before};",
    )
    block.kept(low, stage.size, f"-{rate}[i]", f"{rate}[i]")
    block.kept(high, stage.size, f"-{rate}[i]", f"{rate}[i]")
    return low, high


@said.register
def _(stage: Stretch, block: BlockText, out: str, unit: BlockArray, z: BlockArray) -> None:
    low, high = (f"{end}[i]" for end in change_lines(stage, block, out, z))
    block.each(stage.size, f"{out}[i] := {low} + 0.5 * ({unit}[i] + 1.0) * ({high} - {low});")
    block.kept(out, stage.size, low, high)


said.register(NearestPoint)(nearest_lines)


EXPECT = """
total := {x}[0];
FOR i := 1 TO {last} DO total := MAX(total, {x}[i]); END_FOR;
e := 0.0;
{out}[0] := 0.0;
FOR i := 0 TO {last} DO
    e := e + EXP({x}[i] - total);
    {out}[0] := {out}[0] + EXP({x}[i] - total) * {values}[i];
END_FOR;
{out}[0] := {out}[0] / e;
"""


@said.register
def _(stage: Expect, block: BlockText, out: str, x: BlockArray) -> None:
    block.line(EXPECT.format(x=x, out=out, last=x.size - 1, values=block.table(f"values_{out}", stage.values)))


def told_through(lines: Sequence[ProgramLine], block: BlockText, first: BlockArray, prefix: str) -> list[BlockArray]:
    """The lines that make one value after another; all values."""
    values = [first]
    for place, line in enumerate(lines, 1):
        out = block.numbers(f"{prefix}{place}", line.stage.size)
        block.line(f"(* {place}: {type(line.stage).__name__} *)")
        said(line.stage, block, out, *(values[source] for source in line.sources))
        values.append(BlockArray(out, line.stage.size))
    return values
