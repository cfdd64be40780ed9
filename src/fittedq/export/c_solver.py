"""The solver of a controller in C: critics forwards and back, the steps that climb them, looks in trees; in doubles."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from fittedq.export.c_stages import Calls, CDraft, Operand, c_calls, change_tables, in_columns, indented
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

LEAST_OF_CRITICS = """/* min_j q_j at (s, a), and its derivative by a. */
static double fq_least(fq_controller *c, const double *s, const double *a, double *gradient)
{{
    double value;
    int i;
    fq_copy_wide({obs}, s, c->v0);
    for (i = 0; i < FQ_ACTIONS; ++i) {{
        c->v0[{obs} + i] = (a[i] - (double){center}[i]) / (double){half_width}[i];
    }}
{critics}
    return value;
}}

"""
FIRST_CRITIC = """value = fq_critic0(c);
fq_slope({half_width}, FQ_ACTIONS, c->g0 + {obs}, gradient);"""
OTHER = """{{
    const double q = fq_critic{place}(c);
    if (q < value) {{
        value = q;
        fq_slope({half_width}, FQ_ACTIONS, c->g0 + {obs}, gradient);
    }}
}}"""
ASCEND = """/* Projected gradient steps on q = min_j q_j, none of which ends lower. */
static void fq_ascend(fq_controller *c, const double *s, {argument}double *a)
{{
    double value, step = {half};
    int k;
{ends}
{begin}
    fq_copy_wide(FQ_ACTIONS, a, c->start);
    for (k = 0; k < {steps}; ++k) {{
        double q;
        fq_move({unit}, FQ_ACTIONS, step, a, c->gradient, c->moved);
        {nearest}
        fq_move_back({half_width}, c->low, c->high, FQ_ACTIONS, {trust}, c->start, c->moved);
        q = fq_least(c, s, c->moved, c->slopes);
        if (fq_higher(q, value) != 0) {{
            fq_copy_wide(FQ_ACTIONS, c->moved, a);
            fq_copy_wide(FQ_ACTIONS, c->slopes, c->gradient);
            value = q;
            step *= 2.0;
        }} else {{
            step /= 4.0;
        }}
    }}
}}

"""
GIVEN = """fq_copy_wide(FQ_ACTIONS, start, a);
value = fq_least(c, s, a, c->gradient);"""
BEST = """fq_widen(FQ_ACTIONS, {starts}, a);
fq_move_within(FQ_ACTIONS, c->low, c->high, a);
value = fq_least(c, s, a, c->gradient);
for (k = 1; k < {count}; ++k) {{
    double q;
    fq_widen(FQ_ACTIONS, {starts} + k * FQ_ACTIONS, c->moved);
    fq_move_within(FQ_ACTIONS, c->low, c->high, c->moved);
    q = fq_least(c, s, c->moved, c->slopes);
    if (fq_higher(q, value) != 0) {{
        fq_copy_wide(FQ_ACTIONS, c->moved, a);
        fq_copy_wide(FQ_ACTIONS, c->slopes, c->gradient);
        value = q;
    }}
}}"""


SEARCH = """/* The value at the point c->row, of which the first numbers are the state. */
static double fq_at(fq_controller *c)
{{
    return {mean}
}}

/* The best of the points that are looked at, along one axis after another; never below where it begins. */
static void fq_search(fq_controller *c, const double *s, {argument}double *a)
{{
    static const int axes[{steps}] = {{{axes}}};
    double value, q;
    int i, j, k;
    for (i = 0; i < {obs}; ++i) {{
        c->row[i] = (float)s[i];
    }}
{ends}
{begin}
    for (i = 0; i < FQ_ACTIONS; ++i) {{
        const double reach = {trust} * (double){half_width}[i], least = a[i] - reach, most = a[i] + reach;
        c->least[i] = least < c->low[i] ? c->low[i] : (least > c->high[i] ? c->high[i] : least);
        c->most[i] = most < c->low[i] ? c->low[i] : (most > c->high[i] ? c->high[i] : most);
    }}
    for (k = 0; k < {steps}; ++k) {{
        const int axis = axes[k];
        const double middle = a[axis];
        double best = value;
        for (j = 0; j < {points}; ++j) {{
            const double v = middle + {radii}[k] * ((double)(2 * j - {last}) / {last}.0);
            const double kept = v < c->least[axis] ? c->least[axis] : v;
            c->row[{obs} + axis] = (float)(kept > c->most[axis] ? c->most[axis] : kept);
            q = fq_at(c);
            if (fq_higher(q, value) != 0 && q > best) {{
                best = q;
                a[axis] = (double)c->row[{obs} + axis];
            }}
        }}
        c->row[{obs} + axis] = (float)a[axis];
        value = best;
    }}
}}

"""
FIRST_POINT = """for (i = 0; i < FQ_ACTIONS; ++i) {{
    c->row[{obs} + i] = (float)start[i];
    a[i] = (double)c->row[{obs} + i];
}}
value = fq_at(c);"""
FIRST_OF = """value = 0.0;
for (k = 0; k < {count}; ++k) {{
    for (i = 0; i < FQ_ACTIONS; ++i) {{
        const double v = (double){starts}[k * FQ_ACTIONS + i];
        c->row[{obs} + i] = (float)(v < c->low[i] ? c->low[i] : (v > c->high[i] ? c->high[i] : v));
    }}
    q = fq_at(c);
    if (k == 0 || q > value) {{
        value = q;
        fq_widen(FQ_ACTIONS, c->row + {obs}, a);
    }}
}}
for (i = 0; i < FQ_ACTIONS; ++i) {{
    c->row[{obs} + i] = (float)a[i];
}}"""


@c_calls.register
def _(stage: SearchTrees, source: CDraft, y: str, seen: Operand, *start: Operand) -> Calls:
    """A call of `fq_search`, whose text the draft keeps."""
    evaluations = stage.steps * LOOK_POINTS + (1 if start else len(stage.starts))
    source.comparisons += evaluations * stage.trees * stage.depth
    for piece in ("copy", "widen", "higher"):
        source.pieces[piece] = None
    feature, child = stage.feature.astype(np.int32), stage.child.astype(np.int32)
    # That of a leaf is infinite, and is not read.
    threshold = np.minimum(stage.threshold, np.float32(np.finfo(np.float32).max))
    places = (feature, threshold, child, stage.value)
    words = {"half_width": source.table(stage.half_width), "obs": stage.obs_size, "ends": _ends(stage, source)}
    begin = FIRST_POINT if start else FIRST_OF
    source.solver = SEARCH.format(
        mean=source.call("tree_mean", *places, stage.trees, stage.depth, "c->row"),
        argument="const double *start, " if start else "",
        axes=", ".join(str(axis) for axis, _ in stage.looks),
        radii=source.table(np.array([radius for _, radius in stage.looks])),
        begin=_body([begin.format(starts=source.table(stage.starts), count=len(stage.starts), **words)]),
        trust=repr(float(stage.trust)),
        steps=stage.steps,
        points=LOOK_POINTS,
        last=LOOK_POINTS - 1,
        **words,
    )
    source.doubles |= {"least": stage.size, "most": stage.size}
    source.singles["row"] = stage.obs_size + stage.size
    yield f"fq_search(c, {', '.join(operand.name for operand in (seen, *start))}, {y});"


@c_calls.register
def _(stage: Ascend, source: CDraft, y: str, seen: Operand, *start: Operand) -> Calls:
    """A call of `fq_ascend`, whose text the draft keeps."""
    before = source.multiplications, source.functions
    critics = [
        _critic_text(lines, stage.obs_size + stage.size, place, source) for place, lines in enumerate(stage.critics)
    ]
    evaluations = stage.steps + (1 if start else len(stage.starts))
    source.multiplications = before[0] + evaluations * (source.multiplications - before[0])
    source.functions = before[1] + evaluations * (source.functions - before[1])
    for piece in ("copy_wide", "widen", "slope", "higher", "move", "move_back"):
        source.pieces[piece] = None
    names = ("center", "half_width", "unit")
    words = {name: source.table(getattr(stage, name)) for name in names} | {"obs": stage.obs_size}
    words["ends"] = _ends(stage, source)
    told = [FIRST_CRITIC.format(**words), *(OTHER.format(place=place, **words) for place in range(1, len(critics)))]
    nearest = "fq_move_within(FQ_ACTIONS, c->low, c->high, c->moved);"
    if stage.nearest is not None:
        before = source.multiplications
        (nearest,) = c_calls(stage.nearest, source, "c->moved", Operand("c->moved", stage.size))
        source.multiplications = before + stage.steps * (source.multiplications - before)
    begin = GIVEN if start else BEST.format(starts=source.table(stage.starts), count=len(stage.starts))
    source.solver = "".join(critics) + LEAST_OF_CRITICS.format(critics=_body(told), **words)
    source.solver += ASCEND.format(
        argument="const double *start, " if start else "",
        begin=_body([begin]),
        trust=repr(float(stage.trust)),
        half=repr(float(stage.trust) / 2),
        steps=stage.steps,
        nearest=nearest,
        **words,
    )
    source.doubles |= dict.fromkeys(("start", "moved", "slopes", "gradient"), stage.size)
    yield f"fq_ascend(c, {', '.join(operand.name for operand in (seen, *start))}, {y});"


def _ends(stage: AbstractSolver, source: CDraft) -> str:
    """The statements that make c->low and c->high, between which it looks."""
    source.doubles |= {"low": stage.size, "high": stage.size}
    changes = stage.changes
    if changes is None:
        lines = [source.call("widen", stage.size, getattr(stage, end), f"c->{end}") for end in ("low", "high")]
    else:
        before = f"s + {changes.first}"
        lines = [source.call("move_ends", *change_tables(changes), stage.size, before, "c->low", "c->high")]
    return indented(lines)


def _body(parts: Sequence[str]) -> str:
    return indented([line for part in parts for line in part.splitlines()])


def _critic_text(lines: Sequence[ProgramLine], inputs: int, place: int, source: CDraft) -> str:
    """`fq_critic…`: c->v0 to the value, and its derivative in c->g0; value i is c->vi, the derivative by it c->gi."""
    sizes = [inputs, *(line.stage.size for line in lines)]
    for number, size in enumerate(sizes):
        for kind in ("v", "g"):
            source.doubles[f"{kind}{number}"] = max(size, source.doubles.get(f"{kind}{number}", 0))
    operands = [Operand(f"c->v{number}", size) for number, size in enumerate(sizes)]
    body = []
    for number, (stage, sources) in enumerate(lines, 1):
        body += c_calls(stage, source, operands[number].name, *(operands[read] for read in sources))
    forward = source.multiplications
    body.append(f"c->g{len(lines)}[0] = 1.0;")
    for back in passes(lines):
        stage, sources = lines[back.of - 1]
        to = "c->added" if back.adds else f"c->g{back.to}"
        if back.adds:
            source.doubles["added"] = max(sizes[back.to], source.doubles.get("added", 0))
        which = sources.index(back.to)
        reads = [operands[read] for read in sources]
        body += back_calls(stage, source, to, f"c->g{back.of}", operands[back.of].name, which, *reads)
        if back.adds:
            body.append(source.call("add", sizes[back.to], f"c->g{back.to}", "c->added", f"c->g{back.to}"))
    source.multiplications += forward
    body.append(f"return c->v{len(lines)}[0];")
    head = f"/* Critic {place}: its value at c->v0, and the derivative by that in c->g0. */\n"
    return f"{head}static double fq_critic{place}(fq_controller *c)\n{{\n{indented(body)}\n}}\n\n"


@functools.singledispatch
def back_calls(
    stage: AbstractStage, source: CDraft, d: str, g: str, y: str, which: int, *read: Operand
) -> Iterator[str]:
    """The statements that make d, the derivative by the value `which` that is read, of g, that by y."""
    raise TypeError(f"{type(stage).__name__} has no derivative in C.")


@back_calls.register
def _(stage: Dense, source: CDraft, d: str, g: str, y: str, which: int, x: Operand) -> Iterator[str]:
    source.multiplications += stage.weight.size
    yield source.call("back_layer", in_columns(stage.weight, source.block), *stage.weight.shape, g, d)


@back_calls.register
def _(stage: Activate, source: CDraft, d: str, g: str, y: str, which: int, x: Operand) -> Iterator[str]:
    yield source.call(f"back_{stage.function}", stage.size, x.name, y, g, d)


@back_calls.register
def _(stage: LayerNorm, source: CDraft, d: str, g: str, y: str, which: int, x: Operand) -> Iterator[str]:
    yield source.call("back_layer_norm", stage.gain, stage.size, x.name, y, g, d)


@back_calls.register
def _(stage: Expect, source: CDraft, d: str, g: str, y: str, which: int, x: Operand) -> Iterator[str]:
    yield source.call("back_expect", stage.values, x.size, x.name, y, g, d)


@back_calls.register(UnitLength)
@back_calls.register(AverageL1)
def _(stage: UnitLength | AverageL1, source: CDraft, d: str, g: str, y: str, which: int, x: Operand) -> Iterator[str]:
    piece = "back_unit_length" if isinstance(stage, UnitLength) else "back_average_norm"
    yield source.call(piece, stage.size, x.name, y, g, d)


@back_calls.register
def _(stage: Append, source: CDraft, d: str, g: str, y: str, which: int, x: Operand) -> Iterator[str]:
    yield source.call("copy", x.size, g, d)


@back_calls.register
def _(stage: Join, source: CDraft, d: str, g: str, y: str, which: int, x: Operand, other: Operand) -> Iterator[str]:
    yield source.call("copy", (x, other)[which].size, f"{g} + {which * x.size}", d)


@back_calls.register
def _(stage: Blend, source: CDraft, d: str, g: str, y: str, which: int, *read: Operand) -> Iterator[str]:
    yield source.call("back_blend", (stage.keep, stage.take)[which], stage.size, g, d)
