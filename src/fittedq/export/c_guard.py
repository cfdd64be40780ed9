"""The guard of a controller in C: what is strange, and what acts there."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from fittedq.export.c_stages import CDraft, Operand, c_calls, indented
from fittedq.export.program import (
    AbstractRelief,
    ControlProgram,
    GuardStage,
    Kept,
    KnownChange,
    Most,
    Moved,
    PidLoop,
    PidLoops,
    Straight,
    runs_of_neighbours,
)

STRANGE = """/* Whether what is seen is farther from the data, or changed otherwise, than they allow. */
static int fq_strange(fq_controller *c, const float *z)
{{
    int nearest;
{declared}
{place}
{judged}
}}

"""
RELIEVE = """/* What acts where the policy does not know what it sees. */
static void fq_relieve(fq_controller *c, const float *obs, float *a)
{{
{lines}
}}

"""


def guard_text(program: ControlProgram, source: CDraft) -> str:
    """`fq_strange` and `fq_relieve`; none without a guard."""
    guard = program.guard
    if guard is None:
        return ""
    size, count = len(guard.shift), len(guard.landmarks)
    place = [
        source.call("units", size, "z", guard.shift, guard.scale, "c->deviations"),
        "square = " + source.call("far", guard.landmarks, count, size, "c->deviations", "&nearest"),
    ]
    judged = list(_judged(guard, program, source))
    declared = [f"int judged = c->samples >= {guard.change.history} ? 1 : 0;"] if guard.change else []
    declared += ["double square;"] if guard.change is None else ["double square, changed = 0.0;"]
    relief = [*relief_calls(guard.relief, source), *_projected(guard, source)]
    texts = {"declared": indented(declared), "place": indented(place), "judged": indented(judged)}
    return STRANGE.format(**texts) + RELIEVE.format(lines=indented(relief))


def _judged(guard: GuardStage, program: ControlProgram, source: CDraft) -> Iterator[str]:
    """The end of `fq_strange`: the change, the window, and what they say."""
    change, window = guard.change, guard.window
    if change is None:
        yield "(void)nearest;"
    else:
        yield "if (judged != 0) {"
        yield from (f"    {line}" for line in _changed(change, program, source))
        yield "}"
    if window is not None:
        judged = "judged" if change is not None else "0"
        errors = "c->deviations" + ("" if change is None else f" + {len(change.past_shift)}")
        row = f"c->trail + c->turn * {guard.row}"
        sizes = (len(window.distances), "square", errors, judged, guard.row - 1, row)
        yield source.call("row_of", window.distances, window.shares, *sizes)
        yield f"c->turn = (c->turn + 1) % {window.samples};"
        yield f"if (c->samples + 1 >= {window.samples}) {{"
        together = source.call("together", "c->trail", window.samples, guard.row, np.array(window.most))[:-1]
        yield f"    return {together} != 0 || ({_beyond(window.alone, change)});"
        yield "}"
    if change is None and window is None:
        yield "(void)c;"
    yield f"return {_beyond(guard.most, change)};"


def _beyond(most: Most, change: KnownChange | None) -> str:
    """Whether a sample is strange."""
    alone = f"square > {most.alone**2!r}"
    if change is None:
        return alone
    return f"judged != 0 ? (square > {most.place**2!r} || changed > {most.change!r}) : {alone}"


def _changed(change: KnownChange, program: ControlProgram, source: CDraft) -> Iterator[str]:
    """changed = d_2; its errors are written over the newest numbers."""
    x, y = "c->deviations", f"c->deviations + {len(change.past_shift)}"
    if len(change.own):
        yield from _gathered(change.own, change.past_shift, change.past_scale, x, source)
    else:
        o, m = program.obs_size, program.action_size
        for words, part in (((o, "c->last"), slice(0, o)), ((m, "c->executed"), slice(o, o + m))):
            yield source.call("units", *words, change.past_shift[part], change.past_scale[part], f"{x} + {part.start}")
    yield from _gathered(change.newest, change.newest_shift, change.newest_scale, y, source)
    outputs, features = change.weights.shape
    source.multiplications += 3 * change.weights.size
    at_nearest = f"{source.table(change.errors)} + nearest * {outputs}"
    sizes = (len(change.past_shift), features, outputs)
    yield "changed = " + source.call("changed", change.weights, at_nearest, *sizes, x, y)


def _gathered(places: np.ndarray, shift: np.ndarray, scale: np.ndarray, to: str, source: CDraft) -> Iterator[str]:
    """Numbers of z in deviations, a call for each run of neighbours."""
    for part in runs_of_neighbours(places):
        words = (part.stop - part.start, f"z + {places[part.start]}", shift[part], scale[part])
        yield source.call("units", *words, f"{to} + {part.start}")


def _projected(guard: GuardStage, source: CDraft) -> Iterator[str]:
    for line in guard.lines:
        yield from c_calls(line.stage, source, "a", Operand("a", line.stage.size))


@functools.singledispatch
def relief_calls(relief: AbstractRelief, source: CDraft) -> list[str]:
    """The statements that make `a`."""
    raise TypeError(f"{type(relief).__name__} has no formula in C.")


@relief_calls.register
def _(relief: Kept, source: CDraft) -> list[str]:
    return ["(void)obs;", source.call("copy", "FQ_ACTIONS", "c->executed", "a")]


@relief_calls.register
def _(relief: Moved, source: CDraft) -> list[str]:
    return ["(void)obs;", source.call("add", "FQ_ACTIONS", "c->executed", relief.change, "a")]


@relief_calls.register
def _(relief: Straight, source: CDraft) -> list[str]:
    if not relief.weight.any():
        action = np.clip(relief.bias, relief.low, relief.high).astype(np.float32)
        return ["(void)c;", "(void)obs;", source.call("copy", "FQ_ACTIONS", action, "a")]
    source.multiplications += relief.weight.size
    numbers = (relief.weight, relief.bias, relief.low, relief.high)
    return ["(void)c;", source.call("straight", *numbers, "FQ_OBSERVATIONS", "FQ_ACTIONS", "obs", "a")]


@relief_calls.register
def _(relief: PidLoops, source: CDraft) -> list[str]:
    lines = [source.call("copy", "FQ_ACTIONS", relief.hold.astype(np.float32), "a")]
    for place, loop in enumerate(relief.loops):
        numbers = np.array(loop[PidLoop._fields.index("kp") :])
        reference = f"(double)obs[{loop.set_point}]" if loop.set_point >= 0 else repr(float(loop.target))
        states = (f"c->loops + {3 * place}", f"c->next_loops + {3 * place}")
        source.multiplications += 10
        called = source.call("pid", numbers, f"(double)obs[{loop.measured}]", reference, "c->relieved", *states)
        lines.append(f"a[{loop.driven}] = {called}")
    return lines


def remembered_lines(guard: GuardStage, source: CDraft) -> list[str]:
    """What a guard keeps of a sample at which somebody acted."""
    lines = []
    if guard.counted:
        lines.append(f"c->samples += c->samples < {guard.counted} ? 1 : 0;")
    if guard.reads_before:
        lines.append(source.call("copy", "FQ_OBSERVATIONS", "obs", "c->last"))
    if isinstance(guard.relief, PidLoops):
        lines.append(f"memcpy(c->loops, c->next_loops, {3 * len(guard.relief.loops)} * sizeof(double));")
        lines.append("c->relieved = 1;")
    return lines


def guard_fields(program: ControlProgram) -> dict[str, dict[str, int]]:
    """The fields of `fq_controller` that it needs, by type: {name: how many, 0 for no array}."""
    guard = program.guard
    if guard is None:
        return {}
    width, change = len(guard.shift), guard.change
    whole, doubles, floats = dict[str, int](), dict[str, int](), dict[str, int]()
    if change is not None:
        width = max(width, len(change.past_shift) + len(change.newest))
    if guard.counted:
        whole["samples"] = 0
    if guard.window is not None:
        whole["turn"] = 0
        doubles["trail"] = guard.kept
    if guard.reads_before:
        floats["last"] = program.obs_size
    doubles["deviations"] = width
    if isinstance(guard.relief, PidLoops):
        doubles |= {"loops": 3 * len(guard.relief.loops), "next_loops": 3 * len(guard.relief.loops)}
        whole["relieved"] = 0
    return {"double": doubles, "float": floats, "int": whole}
