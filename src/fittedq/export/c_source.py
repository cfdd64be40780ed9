"""A controller in C99: its functions and tables as text, and the room that it works in."""

from __future__ import annotations

import functools
import json
import re
from importlib import resources
from string import Template
from typing import NamedTuple

import numpy as np

from fittedq.actions.projection import INTERIOR_STEPS, NEWTON_STEPS
from fittedq.export import c_solver
from fittedq.export.c_guard import guard_fields, guard_text, remembered_lines
from fittedq.export.c_stages import (
    BLOCKS,
    IN_PLACE,
    WIDE_NAME,
    CDraft,
    Operand,
    c_calls,
    c_literal,
    c_numbers,
    change_tables,
    indented,
    table_text,
)
from fittedq.export.guarding import refuse_large
from fittedq.export.language import About, Golden
from fittedq.export.program import ControlProgram

SAID_IN_C = (c_solver,)
"""The modules that say in C what this one renders."""


def policy_text(program: ControlProgram, source: CDraft) -> str:
    """The body of `fq_policy`: a value gets a slot of the workspace, free again after its last use."""
    source.wide = program.in_double
    last_use = {read: place for place, line in enumerate(program.lines, 1) for read in line.sources}
    names, sizes, slot_of, free, lines = ["z"], program.sizes, dict[int, int](), set[int](), list[str]()
    if source.wide:
        source.doubles |= {"wide": program.seen, "wide_action": program.action_size}
        names, lines = ["c->wide"], [source.call("widen", program.seen, "z", "c->wide")]
    end = "c->wide_action" if source.wide else "a"
    for place, line in enumerate(program.lines, 1):
        ends = {slot_of[read] for read in line.sources if read in slot_of and last_use[read] == place}
        last = place == len(program.lines)
        open_now = free | (ends if isinstance(line.stage, IN_PLACE) else set())
        if not last:
            slot = min(open_now, key=lambda one: (source.slots[one] < sizes[place], source.slots[one]), default=None)
            if slot is None:
                slot = len(source.slots)
                source.slots.append(0)
            source.slots[slot] = max(source.slots[slot], sizes[place])
            slot_of[place] = slot
            free.discard(slot)
            free |= ends - {slot}
        names.append(end if last else f"c->work{slot_of[place]}")
        read = [Operand(names[one], sizes[one]) for one in line.sources]
        lines += c_calls(line.stage, source, names[-1], *read)
    if source.wide:
        lines.append(source.call("narrowed", program.action_size, end, "a"))
        source.doubles |= {f"work{slot}": size for slot, size in enumerate(source.slots)}
    source.wide = False
    return indented(lines)


# ---------------------------------------------------------------------- pieces


@functools.cache
def template(name: str) -> str:
    """A text of the folder `templates`."""
    return (resources.files("fittedq.export") / "templates" / name).read_text()


@functools.cache
def pieces() -> dict[str, tuple[tuple[str, ...], str]]:
    """{name: (pieces that it needs, text)} of `functions.c`, in order."""
    found = re.split(r"^/\*@ (\w+): ?([\w ]*) ?\*/\n", template("functions.c"), flags=re.MULTILINE)[1:]
    return {
        name: (tuple(needs.split()), text.strip())
        for name, needs, text in zip(found[::3], found[1::3], found[2::3], strict=True)
    }


def functions_text(asked: dict[str, None]) -> str:
    """The pieces that are asked for, and those that they need."""
    known, needed = pieces(), set[str]()
    known = {name + WIDE_NAME: doubled(name, *piece) for name, piece in known.items()} | known
    order = dict.fromkeys(one for name in pieces() for one in (name, name + WIDE_NAME))

    def need(name: str) -> None:
        needed.add(name)
        for other in known[name][0]:
            need(other)

    for name in asked:
        need(name)
    return "\n\n".join(known[name][1] for name in order if name in needed)


OF_LIBM = {"sqrt": "sqrt", "exp": "exp", "tanh": "tanh", "expm1": "expm1", "log1p": "log1p"}
TABLE = re.compile(
    r"const float \*(FQ_RESTRICT |const )?"
    r"(w|b|end|mean|scale|limit|gain|shift|keep|take|center|half_width|low|high|rate|least|most)\b"
)


def is_single(name: str) -> bool:
    """Whether this piece, or one that it needs, computes in single precision."""
    needs, text = pieces().get(name, ((), ""))  # none: it is a double's name already
    return name in OF_LIBM or "float" in text or any(map(is_single, needs))


def doubled(name: str, needs: tuple[str, ...], text: str) -> tuple[tuple[str, ...], str]:
    """The same piece on values in double precision; the tables that it reads are in single precision still. What it
    needs and holds no single precision is needed as it is."""
    if name in OF_LIBM:
        return ("wide_libm",), f"#define fq_{name}{WIDE_NAME} {OF_LIBM[name]}"
    kept = TABLE.sub(lambda found: found[0].replace("float", "FLOAT"), text)
    kept = re.sub(r"\bfloat\b", "double", kept).replace("FLOAT", "float")
    single = [need for need in needs if is_single(need)]
    own = "|".join((name, *single))
    return tuple(need + WIDE_NAME * (need in single) for need in needs), re.sub(
        rf"\bfq_({own})\b", rf"fq_\1{WIDE_NAME}", kept
    )


# ---------------------------------------------------------------------- the memory


def see_text(program: ControlProgram) -> str:
    """`fq_see`, which makes z of what is remembered and an observation; none where nothing is remembered."""
    memory = program.memory
    if memory is None:
        return ""
    added, o, m = memory.augmentation, program.obs_size, memory.limits.size
    place, lines = o, [f"fq_copy({o}, obs, c->next);"]
    for error in added.errors:
        lines.append(f"c->next[{place}] = obs[{error.measured}] - {_reference(error.set_point, error.value)};")
        place += 1
    limit = np.float32(np.finfo(np.float32).max if added.integral_limit is None else added.integral_limit)
    for error in added.integrals:
        gain = f"{c_literal(np.float32(added.sample or 1.0))} * (obs[{error.measured}] - "
        gain += f"{_reference(error.set_point, error.value)})"
        ends = f"{c_literal(-limit)}, {c_literal(limit)}"
        lines.append(f"c->next[{place}] = fq_clamp((c->begun != 0 ? c->seen[{place}] : 0.0f) + {gain}, {ends});")
        place += 1
    begin, end = place, place + (added.history - 1) * o
    if added.history > 1:
        lines += [f"fq_copy({o}, c->begun != 0 ? c->seen : obs, c->next + {begin});"]
    if added.history > 2:
        lines += [
            f"for (i = {begin + o}; i < {end}; ++i) {{",
            f"    c->next[i] = c->begun != 0 ? c->seen[i - {o}] : obs[(i - {begin}) % {o}];",
            "}",
        ]
    if memory.lags:
        center, half_width = (f"fq_{name}" for name in ("center", "half_width"))
        lines += [
            f"for (i = 0; i < {m}; ++i) {{",
            f"    c->next[{end} + i] = (c->executed[i] - {center}[i]) / {half_width}[i];",
            "}",
        ]
        if memory.lags > 1:
            lines += [
                f"for (i = {end + m}; i < {end + memory.lags * m}; ++i) {{",
                f"    c->next[i] = c->begun != 0 ? c->seen[i - {m}] : c->next[{end} + (i - {end}) % {m}];",
                "}",
            ]
    loops = "    int i;\n" if any("for (i" in line for line in lines) else ""
    head = "/* What the policy sees: the observation, errors, integrals, earlier observations and actions. */\n"
    return f"{head}static void fq_see(fq_controller *c, const float *obs)\n{{\n{loops}{indented(lines)}\n}}\n\n"


def _reference(set_point: int | None, value: float) -> str:
    return c_literal(np.float32(value)) if set_point is None else f"obs[{set_point}]"


def decide_text(program: ControlProgram, source: CDraft) -> str:
    """What `fq_step` does with a finite observation."""
    z, see = ("obs", []) if program.memory is None else ("c->next", ["fq_see(c, obs);"])
    guard, edges = program.guard, program.edges
    kept = []
    if program.memory is not None:
        kept += [f"fq_copy({program.seen}, c->next, c->seen);", "c->begun = 1;"]
    lines = [f"fq_policy(c, {z}, a);", "if (fq_finite(a, FQ_ACTIONS)) {", "    status = FQ_OK;"]
    if edges is not None:
        if edges.changes is None:
            held = source.call("held_by_rows", edges.matrix, edges.bound, len(edges.bound), "FQ_ACTIONS", "a")
        else:
            near = edges.near.astype(np.float32)
            before = f"{z} + {edges.changes.first}"
            held = source.call("held_by_changes", *change_tables(edges.changes), near, "FQ_ACTIONS", "a", before)
        lines += [f"    if ({held[:-1]} != 0) {{", "        status = FQ_LIMITED;", "    }"]
    if program.rate is not None:
        lines.append("    " + source.call("add", "FQ_ACTIONS", "last", "a", "a"))
    if guard is None:
        return indented([*see, *lines, *(f"    {line}" for line in kept), "}"], 2)
    kept += remembered_lines(guard, source)
    return indented(
        [
            *see,
            "fq_relieve(c, obs, a);",
            f"if (fq_strange(c, {z}) != 0) {{",
            "    status = FQ_UNFAMILIAR;",
            "} else {",
            *(f"    {line}" for line in [*lines, "}"]),
            "}",
            *(["if (status != FQ_FAILED) {", *(f"    {line}" for line in kept), "}"] if kept else []),
        ],
        2,
    )


def fallback_text(program: ControlProgram, source: CDraft) -> str:
    """What `fq_step` does where the policy has no action."""
    lines = ["c->samples = 0;"] if program.guard is not None and program.guard.counted else []
    if program.holds:
        lines.append(source.call("copy", "FQ_ACTIONS", "last", "a"))
    elif program.rate is not None:
        lines.append(source.call("add", "FQ_ACTIONS", "last", "fq_fallback", "a"))
    else:
        lines.append(source.call("copy", "FQ_ACTIONS", "fq_fallback", "a"))
    return indented(lines, 2)


def reached_text(program: ControlProgram, source: CDraft) -> str:
    """How `fq_step` makes u of what is wanted, whoever wants it."""
    if program.rate is None:
        return source.call("copy", "FQ_ACTIONS", "a", "c->executed")
    limits = (f"fq_{name}" for name in ("rate", "low", "high"))
    return source.call("reached", "FQ_ACTIONS", "a", "last", *limits, "c->executed")


# ---------------------------------------------------------------------- the files


class Rendered(NamedTuple):
    """The two files, and what they take."""

    header: str
    code: str
    constants: int
    """Bytes of tables."""
    state: int
    """Bytes of `fq_controller`."""
    multiplications: int
    functions: int
    """Evaluations of tanh, exp and the like."""
    comparisons: int
    """Of numbers with thresholds of trees."""


def rendered(program: ControlProgram, about: About, golden: Golden, int8: bool, tolerance: float) -> Rendered:
    """`controller.h` and `controller.c`."""
    refuse_large(program.guard, "C")
    widest = max(program.sizes)
    source = CDraft(int8, next((block for block in BLOCKS if block <= widest), BLOCKS[-1]))
    policy = policy_text(program, source)
    guard = guard_text(program, source)
    decide, fallback, see = decide_text(program, source), fallback_text(program, source), see_text(program)
    reached = reached_text(program, source)
    if "fq_clamp(" in see:
        source.pieces["clamp"] = None
    source.tables |= {f"fq_{name}": array for name, array in _named(program).items()}
    crcs = [_crc(source, name, table) for name, table in source.tables.items()]
    state, size = _state(program, source)
    words = {
        "about": about.sentence,
        "observations": program.obs_size,
        "actions": program.action_size,
        "crc": f"0x{source.crc:08x}",
        "state": state,
        "block": source.block,
        "defines": _defines(source),
        "functions": functions_text(source.pieces),
        "tables": _tables(program, source, tolerance),
        "see": see,
        "solver": source.solver,
        "policy": policy if "c->" in policy else policy + "\n    (void)c;",
        "guard": guard,
        "decide": decide,
        "fallback": fallback,
        "reached": reached,
        **_golden_words(golden),
        "crcs": indented(crcs),
        "metadata": indented([f"{json.dumps(line)}," for line in metadata(about)]),
    }
    constants = sum(table.nbytes for table in source.tables.values())
    header, code = (Template(template(name)).substitute(words) for name in ("controller.h", "controller.c"))
    return Rendered(header, code, constants, size, source.multiplications, source.functions, source.comparisons)


def _named(program: ControlProgram) -> dict[str, np.ndarray]:
    """Tables that `fq_step` reads."""
    named = {"start": program.start} if program.holds else {"fallback": program.fallback, "start": program.start}
    named["width"] = program.width
    if program.rate is not None:
        named |= {"rate": program.rate, "low": program.low, "high": program.high}
    if program.memory is not None and program.memory.lags:
        limits = program.memory.limits
        named |= {"center": np.asarray(limits.center, np.float32)}
        named |= {"half_width": np.asarray(limits.half_width, np.float32)}
    return named


def _crc(source: CDraft, name: str, table: np.ndarray) -> str:
    """The statement that takes a table into the CRC."""
    piece = {"float32": "crc_floats", "float64": "crc_doubles", "int8": "crc_bytes", "int32": "crc_words"}[
        table.dtype.name
    ]
    return f"crc = {source.call(piece, 'crc', name, table.size)}"


def _state(program: ControlProgram, source: CDraft) -> tuple[str, int]:
    """The fields of `fq_controller`, and their bytes."""
    own = guard_fields(program)
    floats = {"executed": program.action_size, **own.get("float", {})}
    if program.memory is not None:
        floats |= {"seen": program.seen, "next": program.seen}
    floats |= source.singles
    if not program.in_double:
        floats |= {f"work{slot}": size for slot, size in enumerate(source.slots)}
    doubles, whole = {**own.get("double", {}), **source.doubles}, own.get("int", {})
    fields = [f"    double {name}[{count}];" for name, count in doubles.items()]
    fields += [f"    float {name}[{count}];" for name, count in floats.items()]
    fields += [f"    int {name};" for name in whole]
    size = 8 * sum(doubles.values()) + 4 * (sum(floats.values()) + len(whole))
    fields.append("    int crossing;")
    size += 4
    if program.memory is not None:
        fields.append("    int begun;")
        size += 4
    if source.widest:
        fields.append(f"    int16_t whole[{source.widest}];")
        size += 2 * source.widest + 2 * (source.widest % 2)
    return "\n".join(fields), size + -size % (8 if doubles else 4)


POLYTOPE = """#define FQ_ROWS {rows}
#define FQ_WALLS (FQ_ROWS + 2 * FQ_ACTIONS)
#define FQ_INTERIOR {interior}
#define FQ_NEWTON {newton}

/* The limits of the actions: matrix a <= limits, floor <= a <= ceiling, and the same in units around the center. */
typedef struct {{
    const double *matrix, *limits, *floor, *ceiling, *center, *low, *high, *rows, *bound, *margin, *inner;
    double scale;
}} fq_polytope;
"""


def _defines(source: CDraft) -> str:
    if source.polytope is None:
        return ""
    return POLYTOPE.format(rows=source.polytope[0], interior=INTERIOR_STEPS, newton=NEWTON_STEPS + 1)


def _tables(program: ControlProgram, source: CDraft, tolerance: float) -> str:
    """All tables, and how far off the self-test's actions may be: twice what is verified, for another compiler."""
    half_width = (program.high.astype(float) - program.low) / 2
    own = {"fq_tolerance": (2 * tolerance * half_width).astype(np.float32)}
    texts = [table_text(name, table) for name, table in (source.tables | own).items()]
    if source.polytope is not None:
        _, fields, scale = source.polytope
        texts.append(f"static const fq_polytope fq_limits = {{\n    {', '.join(fields)},\n    {c_literal(scale)},\n}};")
    return "\n\n".join(texts)


def _golden_words(golden: Golden) -> dict[str, object]:
    """Samples of the self-test; observations by their bits, for some are no numbers."""
    bits = [f"0x{word:08x}u" for word in golden.obs.astype(np.float32).reshape(-1).view(np.uint32).tolist()]
    return {
        "golden": len(golden.obs),
        "golden_obs": "\n".join("    " + ", ".join(bits[at : at + 8]) + "," for at in range(0, len(bits), 8)),
        "golden_action": c_numbers(golden.action.astype(np.float32)),
        "golden_status": ", ".join(map(str, golden.status.tolist())),
        "golden_begins": ", ".join(str(int(begins)) for begins in golden.begins),
    }


def metadata(about: About) -> list[str]:
    """What a controller says of itself, line by line."""

    def one(kind: str, place: int, name: str, more: str = "") -> str:
        unit = about.units.get(name)
        return f"{kind} {place}: {name}{f' [{unit}]' if unit else ''}{more}"

    ends = zip(about.low, about.high, strict=True)
    return [
        about.sentence,
        f"agent: {about.agent}",
        f"versions: {', '.join(f'{name} {version}' for name, version in about.versions.items())}",
        f"sample: {'not said' if about.sample is None else f'{about.sample:g} s'}",
        f"fallback: {about.fallback}{f', where familiar is below {about.threshold:g}' if about.threshold else ''}",
        *(one("observation", place, name) for place, name in enumerate(about.observations)),
        *(
            one("action", place, name, f", {low:g} to {high:g}")
            for place, (name, (low, high)) in enumerate(zip(about.actions, ends, strict=True))
        ),
    ]
