"""The solver of a controller in Structured Text: one loop in which critics are told forwards and back, in LREAL."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from fittedq.errors import UserError
from fittedq.export.program import (
    LOOK_POINTS,
    AbstractSolver,
    AbstractStage,
    Activate,
    Append,
    Ascend,
    AverageL1,
    Blend,
    Dense,
    Expect,
    Join,
    LayerNorm,
    ProgramLine,
    SearchTrees,
    UnitLength,
)
from fittedq.export.reverse import passes
from fittedq.export.st_block import BlockArray, BlockText, wide_literal
from fittedq.export.st_nearest import nearest_lines
from fittedq.export.st_stages import GELU_TANH, HALF_TANH, activation_text, change_lines, said, told_through

FROM_STARTS_TEXT = "LIMIT(low_q[i], starts[turn_q * {m} + i], high_q[i])"
MOST_NODES = 2**16
"""Of trees where memory is short: 1 MiB of four numbers each."""
HIGHER_TEXT = "q_least > q_best + 1.0E-10 * (1.0 + ABS(q_best))"
STEP_TEXT = """
IF turn_q = {count} THEN FOR i := 0 TO {m1} DO begun_at[i] := {a}[i]; END_FOR; END_IF;
largest := 1.0E-30;
FOR i := 0 TO {m1} DO largest := MAX(largest, ABS(gradient[i] * unit_q[i])); END_FOR;
FOR i := 0 TO {m1} DO moved[i] := {a}[i] + step_q * unit_q[i] * (gradient[i] * unit_q[i] / largest); END_FOR;
"""
WITHIN_TEXT = "FOR i := 0 TO {m1} DO moved[i] := LIMIT(low_q[i], moved[i], high_q[i]); END_FOR;"
BACK_TEXT = """
far_q := 0.0;
FOR i := 0 TO {m1} DO far_q := MAX(far_q, ABS(moved[i] - begun_at[i]) / half_q[i]); END_FOR;
IF far_q > {trust} THEN
    FOR i := 0 TO {m1} DO
        moved[i] := LIMIT(low_q[i], begun_at[i] + (moved[i] - begun_at[i]) * ({trust} / far_q), high_q[i]);
    END_FOR;
END_IF;
"""
INPUT_TEXT = """
FOR i := 0 TO {s1} DO q_in[i] := {s}[i]; END_FOR;
FOR i := 0 TO {m1} DO q_in[{o} + i] := (moved[i] - center_q[i]) / half_q[i]; END_FOR;
"""
LEAST_TEXT = """
IF {lower} THEN
    q_least := {q}[0];
    FOR i := 0 TO {m1} DO
        slopes[i] := {g}[{o} + i] / half_q[i];
        IF NOT (ABS(slopes[i]) <= {largest}) THEN slopes[i] := 0.0; END_IF;
    END_FOR;
END_IF;
"""
KEEP_TEXT = """
IF turn_q = 0 OR {higher} THEN
    q_best := q_least;
    FOR i := 0 TO {m1} DO
        {a}[i] := moved[i];
        gradient[i] := slopes[i];
    END_FOR;
    IF turn_q >= {count} THEN step_q := 2.0 * step_q; END_IF;
ELSIF turn_q >= {count} THEN step_q := 0.25 * step_q; END_IF;
"""


@said.register
def _(stage: Ascend, block: BlockText, out: str, seen: BlockArray, *start: BlockArray) -> None:
    """Turns before `count` look at starts, and those after it are steps; the critics stand once."""
    m, o, count = stage.size, stage.obs_size, 1 if start else len(stage.starts)
    first = f"{start[0]}[i]" if start else FROM_STARTS_TEXT.format(m=m)
    block.table("starts", stage.starts)
    block.table("center_q", stage.center)
    block.table("half_q", stage.half_width)
    block.table("unit_q", stage.unit)
    _ends(stage, block, out, seen)
    for name in ("moved", "begun_at", "gradient", "slopes"):
        block.numbers(name, m)
    x = BlockArray(block.numbers("q_in", o + m), o + m)
    block.scalars("LREAL", "step_q", "largest", "far_q", "q_least", "q_best")
    block.scalars("DINT", "turn_q")
    words = {"a": out, "s": seen, "o": o, "m1": m - 1, "s1": o - 1, "count": count}
    words |= {"trust": wide_literal(stage.trust), "higher": HIGHER_TEXT, "largest": wide_literal(3.0e38)}
    block.line(f"step_q := {wide_literal(stage.trust / 2)};")
    block.begin(f"FOR turn_q := 0 TO {count + stage.steps - 1} DO")
    block.begin(f"IF turn_q < {count} THEN")
    block.each(m, f"moved[i] := {first};")
    block.end("ELSE")
    block.line(STEP_TEXT.format(**words))
    if stage.nearest is None:
        block.line(WITHIN_TEXT.format(**words))
    else:
        nearest_lines(stage.nearest, block, "moved", BlockArray("moved", m))
    block.line(BACK_TEXT.format(**words))
    block.end("END_IF;")
    block.line(INPUT_TEXT.format(**words))
    for j, lines in enumerate(stage.critics):
        block.line(f"(* critic {j}, forwards and back *)")
        q, g = _critic(lines, block, x, j)
        block.line(LEAST_TEXT.format(q=q, g=g, lower=f"{q}[0] < q_least" if j else "TRUE", **words))
    block.line(KEEP_TEXT.format(**words))
    block.end("END_FOR;")


def _ends(stage: AbstractSolver, block: BlockText, out: str, seen: BlockArray) -> None:
    """low_q and high_q, between which it looks."""
    if stage.changes is None:
        block.table("low_q", stage.low)
        block.table("high_q", stage.high)
        return
    low, high = change_lines(stage.changes, block, f"{out}_q", seen)
    block.numbers("low_q", stage.size)
    block.numbers("high_q", stage.size)
    block.each(stage.size, f"low_q[i] := {low}[i];", f"high_q[i] := {high}[i];")


def _critic(lines: Sequence[ProgramLine], block: BlockText, x: BlockArray, j: int) -> tuple[str, str]:
    """(the array of a critic's value, that of its derivative by x)."""
    values = told_through(lines, block, x, f"q{j}_")
    slopes = [BlockArray(block.numbers(f"g{j}_{place}", value.size), value.size) for place, value in enumerate(values)]
    block.line(f"{slopes[-1]}[0] := 1.0;")
    for back in passes(lines):
        stage, sources = lines[back.of - 1]
        to, which = slopes[back.to], sources.index(back.to)
        into = BlockArray(block.numbers(f"added{j}_{back.to}", to.size), to.size) if back.adds else to
        back_said(stage, block, into, slopes[back.of], values[back.of], which, *(values[one] for one in sources))
        if back.adds:
            block.each(to.size, f"{to}[i] := {to}[i] + {into}[i];")
    return values[-1].name, slopes[0].name


# ---------------------------------------------------------------------- back through a stage


@functools.singledispatch
def back_said(
    stage: AbstractStage, block: BlockText, d: BlockArray, g: BlockArray, y: BlockArray, which: int, *read: BlockArray
) -> None:
    """Writes d, the derivative by the value `which` that a stage reads, of g, that by what it makes, y."""
    raise TypeError(f"{type(stage).__name__} has no derivative in Structured Text.")


@back_said.register
def _(stage: Dense, block: BlockText, d: BlockArray, g: BlockArray, y: BlockArray, which: int, x: BlockArray) -> None:
    size, count = stage.weight.shape
    block.begin(f"FOR i := 0 TO {size - 1} DO")
    block.line("total := 0.0;")
    block.line(f"FOR j := 0 TO {count - 1} DO total := total + weight_{y}[j * {size} + i] * {g}[j]; END_FOR;")
    block.line(f"{d}[i] := total;")
    block.end("END_FOR;")


BACK_LINES = {
    "relu": "{d} := SEL({x} > 0.0, 0.0, {g});",
    "leaky_relu": "{d} := SEL({x} > 0.0, {leak} * {g}, {g});",
    "tanh": "{d} := {g} * (1.0 - {y} * {y});",
    "silu": HALF_TANH + "{d} := {g} * 0.5 * (1.0 + e + total * (1.0 - e * e));",
    "gelu": GELU_TANH
    + "{d} := {x} * (1.0 - e * e) * {gelu} * (1.0 + 3.0 * {cube} * {x} * {x});\n"
    + "{d} := {g} * 0.5 * (1.0 + e + {d});",
    "softplus": HALF_TANH + "{d} := {g} * 0.5 * (1.0 + e);",
    "elu": "{d} := SEL({x} > 0.0, {g} * ({y} + 1.0), {g});",
}


@back_said.register
def _(
    stage: Activate, block: BlockText, d: BlockArray, g: BlockArray, y: BlockArray, which: int, x: BlockArray
) -> None:
    words = {name: f"{array}[i]" for name, array in (("x", x), ("y", y), ("g", g), ("d", d))}
    block.each(stage.size, activation_text(BACK_LINES, stage, block, **words))


BACK_LAYER_NORM = """
e := 0.0;
FOR i := 0 TO {n1} DO e := e + {x}[i]; END_FOR;
e := e / {n};
total := 0.0;
FOR i := 0 TO {n1} DO
    {d}[i] := {x}[i] - e;
    total := total + {d}[i] * {d}[i];
END_FOR;
root_q := SQRT(total / {n} + {least});
total := 0.0;
e := 0.0;
FOR i := 0 TO {n1} DO
    total := total + {g}[i] * {gain}[i];
    e := e + {g}[i] * {gain}[i] * {d}[i] / root_q;
END_FOR;
FOR i := 0 TO {n1} DO
    {d}[i] := ({g}[i] * {gain}[i] - total / {n} - {d}[i] / root_q * (e / {n})) / root_q;
END_FOR;
"""
BACK_UNIT_LENGTH = """
total := {least};
e := 0.0;
FOR i := 0 TO {n1} DO
    total := total + {x}[i] * {x}[i];
    e := e + {y}[i] * {g}[i];
END_FOR;
root_q := SQRT(total);
FOR i := 0 TO {n1} DO {d}[i] := ({g}[i] - {y}[i] * e) / root_q; END_FOR;
"""
BACK_AVERAGE = """
total := 0.0;
e := 0.0;
FOR i := 0 TO {n1} DO
    total := total + ABS({x}[i]);
    e := e + {y}[i] * {g}[i];
END_FOR;
root_q := total / {n};
FOR i := 0 TO {n1} DO
    IF root_q > {least} THEN
        {d}[i] := {g}[i] / root_q - SEL({x}[i] > 0.0, SEL({x}[i] < 0.0, 0.0, -1.0), 1.0) * e / total;
    ELSE {d}[i] := {g}[i] / {least}; END_IF;
END_FOR;
"""
BACK_EXPECT = """
total := {x}[0];
FOR i := 1 TO {n1} DO total := MAX(total, {x}[i]); END_FOR;
e := 0.0;
FOR i := 0 TO {n1} DO
    {d}[i] := EXP({x}[i] - total);
    e := e + {d}[i];
END_FOR;
FOR i := 0 TO {n1} DO {d}[i] := {g}[0] * {d}[i] / e * ({values}[i] - {y}[0]); END_FOR;
"""


@back_said.register(LayerNorm)
@back_said.register(UnitLength)
@back_said.register(AverageL1)
def _(
    stage: LayerNorm | UnitLength | AverageL1,
    block: BlockText,
    d: BlockArray,
    g: BlockArray,
    y: BlockArray,
    which: int,
    x: BlockArray,
) -> None:
    block.scalars("LREAL", "root_q")
    words = {"n": wide_literal(stage.size), "n1": stage.size - 1, "gain": f"gain_{y}", "least": block.real(stage.least)}
    block.line(NORMS[type(stage)].format(x=x, y=y, g=g, d=d, **words))


NORMS: dict[type[AbstractStage], str] = {
    LayerNorm: BACK_LAYER_NORM,
    UnitLength: BACK_UNIT_LENGTH,
    AverageL1: BACK_AVERAGE,
}


@back_said.register
def _(stage: Append, block: BlockText, d: BlockArray, g: BlockArray, y: BlockArray, which: int, x: BlockArray) -> None:
    block.each(x.size, f"{d}[i] := {g}[i];")


@back_said.register
def _(
    stage: Join, block: BlockText, d: BlockArray, g: BlockArray, y: BlockArray, which: int, x: BlockArray, z: BlockArray
) -> None:
    block.each((x, z)[which].size, f"{d}[i] := {g}[{which * x.size} + i];")


@back_said.register
def _(
    stage: Blend, block: BlockText, d: BlockArray, g: BlockArray, y: BlockArray, which: int, *read: BlockArray
) -> None:
    block.each(stage.size, f"{d}[i] := {g}[i] * {('keep', 'take')[which]}_{y}[i];")


@back_said.register
def _(stage: Expect, block: BlockText, d: BlockArray, g: BlockArray, y: BlockArray, which: int, x: BlockArray) -> None:
    block.line(BACK_EXPECT.format(x=x, y=y, g=g, d=d, n1=x.size - 1, values=f"values_{y}"))


# ---------------------------------------------------------------------- trees

WALK_TEXT = """
q_least := 0.0;
FOR tree := 0 TO {t1} DO
    node := tree;
    FOR j := 1 TO {depth} DO
        IF child_q[node] <> node THEN
            IF row_q[feature_q[node]] > threshold_q[node] THEN node := child_q[node] + 1;
            ELSE node := child_q[node]; END_IF;
        END_IF;
    END_FOR;
    q_least := q_least + REAL_TO_LREAL(value_q[node]);
END_FOR;
q_least := q_least / {trees};
"""
"""q_least := the mean of the trees at row_q."""
FIRST_TEXT = """
IF turn_q = 0 OR q_least > q_best THEN
    q_best := q_least;
    FOR i := 0 TO {m1} DO {a}[i] := REAL_TO_LREAL(row_q[{o} + i]); END_FOR;
END_IF;
"""
REACH_TEXT = """
FOR i := 0 TO {m1} DO
    row_q[{o} + i] := LREAL_TO_REAL({a}[i]);
    least_q[i] := LIMIT(low_q[i], {a}[i] - {trust} * half_q[i], high_q[i]);
    most_q[i] := LIMIT(low_q[i], {a}[i] + {trust} * half_q[i], high_q[i]);
END_FOR;
"""
LOOK_TEXT = """
middle_q := {a}[axis_q[look]];
q_line := q_best;
FOR turn_q := 0 TO {last} DO
    far_q := middle_q + radius_q[look] * (DINT_TO_LREAL(2 * turn_q - {last}) / {last}.0);
    far_q := LIMIT(least_q[axis_q[look]], far_q, most_q[axis_q[look]]);
    row_q[{o} + axis_q[look]] := LREAL_TO_REAL(far_q);
"""
CHOSEN_TEXT = """
    IF q_least > q_line AND {higher} THEN
        q_line := q_least;
        {a}[axis_q[look]] := REAL_TO_LREAL(row_q[{o} + axis_q[look]]);
    END_IF;
END_FOR;
row_q[{o} + axis_q[look]] := LREAL_TO_REAL({a}[axis_q[look]]);
q_best := q_line;
"""


@said.register
def _(stage: SearchTrees, block: BlockText, out: str, seen: BlockArray, *start: BlockArray) -> None:
    """The trees stand twice: where it begins, and where it looks."""
    if len(stage.child) > MOST_NODES:
        raise UserError(
            f"export: found {len(stage.child):,} nodes of trees, expected at most {MOST_NODES:,} in Structured Text; "
            "export to c, or learn with fewer trees (n_trees) or larger leaves (min_samples_leaf)."
        )
    m, o, count = stage.size, stage.obs_size, 1 if start else len(stage.starts)
    _tables(stage, block)
    _ends(stage, block, out, seen)
    block.scalars("LREAL", "q_least", "q_best", "q_line", "far_q", "middle_q")
    block.scalars("DINT", "turn_q", "tree", "node", "look")
    block.numbers("row_q", o + m, "REAL")
    block.numbers("least_q", m)
    block.numbers("most_q", m)
    words = {"a": out, "o": o, "m1": m - 1, "last": LOOK_POINTS - 1, "trust": wide_literal(stage.trust)}
    words |= {"t1": stage.trees - 1, "depth": max(stage.depth, 1), "trees": wide_literal(stage.trees)}
    first = f"{start[0]}[i]" if start else FROM_STARTS_TEXT.format(m=m)
    block.each(o, f"row_q[i] := LREAL_TO_REAL({seen}[i]);")
    block.begin(f"FOR turn_q := 0 TO {count - 1} DO")
    block.each(m, f"row_q[{o} + i] := LREAL_TO_REAL({first});")
    block.line((WALK_TEXT + FIRST_TEXT).format(**words))
    block.end("END_FOR;")
    block.line(REACH_TEXT.format(**words))
    block.begin(f"FOR look := 0 TO {stage.steps - 1} DO")
    block.line((LOOK_TEXT + WALK_TEXT + CHOSEN_TEXT).format(higher=HIGHER_TEXT, **words))
    block.end("END_FOR;")


def _tables(stage: SearchTrees, block: BlockText) -> None:
    """The numbers of the trees and of the looks."""
    block.table("feature_q", stage.feature, "DINT")
    block.table("child_q", stage.child, "DINT")
    block.table("threshold_q", np.where(np.isfinite(stage.threshold), stage.threshold, 0), "REAL")
    block.table("value_q", stage.value, "REAL")
    block.table("starts", stage.starts)
    block.table("half_q", stage.half_width)
    block.table("axis_q", [axis for axis, _ in stage.looks], "DINT")
    block.table("radius_q", [radius for _, radius in stage.looks])
