"""The nearest point of a polytope in Structured Text: `numeric.nearest_point`, line by line, in LREAL."""

from __future__ import annotations

import numpy as np

from fittedq.export.program import NearestPoint
from fittedq.export.st_block import BlockArray, BlockText

INTERIOR, NEWTON = 25, 5
"""Steps of `numeric.nearest_point`."""

INSIDE = """
inside := TRUE;
FOR i := 0 TO {m1} DO
    {out}[i] := {a}[i];
    wide[i] := {to_wide}({a}[i]);
    IF wide[i] < floor_n[i] OR wide[i] > ceiling_n[i] THEN inside := FALSE; END_IF;
END_FOR;
FOR i := 0 TO {p1} DO
    sum := 0.0;
    FOR j := 0 TO {m1} DO sum := sum + matrix_n[i * {m} + j] * wide[j]; END_FOR;
    IF sum > limits_n[i] THEN inside := FALSE; END_IF;
END_FOR;
"""

BEGIN = """
far := 1.0;
size := 1.0;
FOR i := 0 TO {m1} DO
    point[i] := (wide[i] - center_n[i]) / scale_n[i];
    far := MAX(far, 1.0 + ABS(point[i] - inner_n[i]));
    size := MAX(size, 1.0 + ABS(point[i]));
    x_n[i] := inner_n[i];
END_FOR;
FOR i := 0 TO {w1} DO
    slack[i] := slack_n[i];
    push[i] := far;
END_FOR;
"""

SYSTEM = """
target := 0.0;
FOR i := 0 TO {w1} DO target := target + slack[i] * push[i]; END_FOR;
target := MAX(0.1 * target / {w}.0, 1.0E-10);
FOR i := 0 TO {w1} DO
    weight[i] := push[i] / slack[i];
    share[i] := target / slack[i];
END_FOR;
FOR i := 0 TO {m1} DO
    inverse[i] := 1.0 / (1.0 + weight[{p} + i] + weight[{p} + {m} + i]);
    right[i] := point[i] - x_n[i] - share[{p} + i] + share[{p} + {m} + i];
    FOR j := 0 TO {p1} DO right[i] := right[i] - share[j] * rows_n[j * {m} + i]; END_FOR;
END_FOR;
FOR i := 0 TO {p1} DO
    sum := 0.0;
    FOR k := 0 TO {m1} DO sum := sum + rows_n[i * {m} + k] * inverse[k] * right[k]; END_FOR;
    equations[i * {q} + {p}] := sum;
    FOR j := 0 TO {p1} DO
        sum := 0.0;
        FOR k := 0 TO {m1} DO sum := sum + rows_n[i * {m} + k] * inverse[k] * rows_n[j * {m} + k]; END_FOR;
        equations[i * {q} + j] := sum;
    END_FOR;
    equations[i * {q} + i] := equations[i * {q} + i] * 1.00001 + 1.0 / weight[i];
END_FOR;
"""

SOLVE = """
FOR k := 0 TO {p1} DO
    sum := equations[k * {q} + k];
    FOR j := 0 TO {p} DO equations[k * {q} + j] := equations[k * {q} + j] / sum; END_FOR;
    FOR i := 0 TO {p1} DO
        IF i <> k THEN
            sum := equations[i * {q} + k];
            FOR j := 0 TO {p} DO
                equations[i * {q} + j] := equations[i * {q} + j] - sum * equations[k * {q} + j];
            END_FOR;
        END_IF;
    END_FOR;
END_FOR;
"""
"""Gauss and Jordan's elimination; the matrix is positive definite, so that no rows change places."""

ADVANCE = """
FOR i := 0 TO {p1} DO slack_step[i] := -equations[i * {q} + {p}] / weight[i]; END_FOR;
FOR i := 0 TO {m1} DO
    sum := right[i];
    FOR j := 0 TO {p1} DO sum := sum - equations[j * {q} + {p}] * rows_n[j * {m} + i]; END_FOR;
    slack_step[{p} + i] := -inverse[i] * sum;
    slack_step[{p} + {m} + i] := inverse[i] * sum;
END_FOR;
steepest := 0.99;
FOR i := 0 TO {w1} DO
    push_step[i] := share[i] - push[i] - weight[i] * slack_step[i];
    steepest := MAX(steepest, MAX(-slack_step[i] / slack[i], -push_step[i] / push[i]));
END_FOR;
length := 0.99 / steepest;
FOR i := 0 TO {m1} DO x_n[i] := x_n[i] + length * slack_step[{p} + {m} + i]; END_FOR;
FOR i := 0 TO {w1} DO
    slack[i] := MAX(slack[i] + length * slack_step[i], 1.0E-12);
    push[i] := MAX(push[i] + length * push_step[i], 1.0E-12);
END_FOR;
"""

PRIMAL = """
FOR i := 0 TO {m1} DO
    sum := point[i];
    FOR j := 0 TO {p1} DO sum := sum - {force}[j] * rows_n[j * {m} + i]; END_FOR;
    free[i] := SEL(sum > low_n[i] AND sum < high_n[i], 0.0, 1.0);
    x_at[i] := LIMIT(low_n[i], sum, high_n[i]);
END_FOR;
FOR i := 0 TO {p1} DO
    sum := -bound_n[i];
    FOR j := 0 TO {m1} DO sum := sum + rows_n[i * {m} + j] * x_at[j]; END_FOR;
    outside[i] := sum;
END_FOR;
"""
"""x_at = clip(point − force · rows, low, high), where that is `free`, and outside = rows · x_at − bound."""

RESIDUAL = (
    PRIMAL
    + """
{residual} := 0.0;
FOR i := 0 TO {p1} DO
    {residual} := MAX({residual}, ABS({force}[i] - MAX({force}[i] + outside[i], 0.0)));
END_FOR;
"""
)

BINDING = """
FOR i := 0 TO {p1} DO
    binding[i] := force[i] + outside[i] > 0.0;
    base[i] := SEL(binding[i], 0.0, force[i]);
END_FOR;
"""

NEWTON_SYSTEM = """
FOR i := 0 TO {p1} DO
    sum := 0.0;
    FOR k := 0 TO {m1} DO sum := sum + rows_n[i * {m} + k] * free[k] * rows_n[i * {m} + k]; END_FOR;
    strength[i] := sum;
    binding[i] := binding[i] AND sum > 1.0E-10;
END_FOR;
FOR i := 0 TO {p1} DO
    FOR j := 0 TO {p1} DO
        sum := 0.0;
        IF binding[i] AND binding[j] THEN
            FOR k := 0 TO {m1} DO sum := sum + rows_n[i * {m} + k] * free[k] * rows_n[j * {m} + k]; END_FOR;
        END_IF;
        equations[i * {q} + j] := sum;
    END_FOR;
    equations[i * {q} + i] := equations[i * {q} + i] + SEL(binding[i], 1.0, 1.0E-5 * strength[i]);
    equations[i * {q} + {p}] := SEL(binding[i], 0.0, outside[i]);
END_FOR;
"""

TAKE = """
FOR i := 0 TO {p1} DO force[i] := MAX(base[i] + equations[i * {q} + {p}], 0.0); END_FOR;
"""

BETTER = """
IF error < least_error THEN
    least_error := error;
    FOR i := 0 TO {p1} DO least_n[i] := force[i]; END_FOR;
END_IF;
"""

END = """
share[0] := 1.0;
FOR i := 0 TO {m1} DO
    IF least_error < 3.0E-6 * size THEN x_n[i] := x_at[i]; END_IF;
    x_n[i] := LIMIT(low_n[i], x_n[i], high_n[i]) - inner_n[i];
END_FOR;
FOR i := 0 TO {p1} DO
    sum := 0.0;
    FOR j := 0 TO {m1} DO sum := sum + rows_n[i * {m} + j] * x_n[j]; END_FOR;
    IF sum > room_n[i] THEN share[0] := MIN(share[0], room_n[i] / MAX(sum, 1.0E-30)); END_IF;
END_FOR;
FOR i := 0 TO {m1} DO
    sum := center_n[i] + scale_n[i] * (inner_n[i] + share[0] * x_n[i]);
    {out}[i] := {from_wide}(LIMIT(floor_n[i], sum, ceiling_n[i]));
END_FOR;
"""


def nearest_lines(stage: NearestPoint, block: BlockText, out: str, action: BlockArray) -> None:
    """out := the action, or the admissible one next to it."""
    units = stage.units
    p, m = units.rows.shape
    w, rows, inner = p + 2 * m, units.rows.astype(float), np.asarray(units.inner, float)
    ends = np.concatenate([units.bound, units.high, -units.low]).astype(float)
    tables = {
        "matrix_n": stage.matrix,
        "limits_n": stage.limits,
        "floor_n": stage.floor,
        "ceiling_n": stage.ceiling,
        "center_n": stage.center,
        "scale_n": np.broadcast_to(units.scale, (m,)),
        "inner_n": inner,
        "rows_n": rows,
        "bound_n": units.bound,
        "low_n": np.broadcast_to(units.low, (m,)),
        "high_n": np.broadcast_to(units.high, (m,)),
        "slack_n": ends - np.concatenate([rows, np.eye(m), -np.eye(m)]) @ inner,
        "room_n": np.maximum(units.bound + units.margin / 2 - rows @ inner, 0),
    }
    for name, values in tables.items():
        block.table(name, values, "LREAL")
    wide = ("wide", "point", "x_n", "x_at", "free", "inverse", "right")
    tall = ("force", "least_n", "base", "outside", "strength")
    both = ("slack", "push", "weight", "share", "slack_step", "push_step")
    for size, names in ((m, wide), (p, tall), (w, both), (p * (p + 1), ("equations",))):
        for name in names:
            block.numbers(name, size, "LREAL")
    block.numbers("binding", p, "BOOL")
    block.scalars("LREAL", "sum", "far", "size", "target", "steepest", "length", "error", "least_error")
    block.scalars("DINT", "k", "turn")
    block.scalars("BOOL", "inside")

    casts = {"to_wide": "", "from_wide": ""}
    if block.kind == "REAL":
        casts = {"to_wide": "REAL_TO_LREAL", "from_wide": "LREAL_TO_REAL"}

    def say(text: str, **words: str) -> None:
        words |= casts
        block.line(text.format(out=out, a=action, m=m, m1=m - 1, p=p, p1=p - 1, q=p + 1, w=w, w1=w - 1, **words))

    say(INSIDE)
    block.begin("IF NOT inside THEN")
    say(BEGIN)
    block.begin(f"FOR turn := 1 TO {INTERIOR} DO")
    say(SYSTEM + SOLVE + ADVANCE)
    block.end("END_FOR;")
    say("FOR i := 0 TO {p1} DO force[i] := push[i]; least_n[i] := push[i]; END_FOR;")
    say(RESIDUAL, force="least_n", residual="least_error")
    block.begin(f"FOR turn := 1 TO {NEWTON} DO")
    say(PRIMAL, force="force")
    say(BINDING)
    say(PRIMAL, force="base")
    say(NEWTON_SYSTEM + SOLVE + TAKE)
    say(RESIDUAL, force="force", residual="error")
    say(BETTER)
    block.end("END_FOR;")
    say(PRIMAL, force="least_n")
    say(END)
    block.end("END_IF;")
