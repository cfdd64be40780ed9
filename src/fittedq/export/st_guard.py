"""The guard of a controller in Structured Text: what is strange, what acts there, and what it remembers, in LREAL."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from fittedq.export.program import (
    LOOP_MEMORY,
    AbstractRelief,
    ControlProgram,
    GuardStage,
    Kept,
    KnownChange,
    KnownWindow,
    Most,
    Moved,
    PidLoop,
    PidLoops,
    Straight,
    runs_of_neighbours,
)
from fittedq.export.st_block import BlockText, wide_literal

IN_UNITS_LINES = "{to} := LIMIT(-100.0, (REAL_TO_LREAL({x}) - {shift}) / {scale}, 100.0);"

FAR_LINES = """
square := 1.0E30;
FOR i := 0 TO {c1} DO
    sum_g := 0.0;
    FOR j := 0 TO {n1} DO
        apart := place_g[j] - REAL_TO_LREAL(landmarks_g[i * {n} + j]);
        sum_g := sum_g + apart * apart;
    END_FOR;
    IF sum_g < square THEN
        square := sum_g;
        nearest := i;
    END_IF;
END_FOR;
"""
FEATURES_LINES = """
features_g[0] := 1.0;
FOR i := 0 TO {x1} DO features_g[1 + i] := past_g[i]; END_FOR;
"""
PRODUCTS_LINES = """
place := {x} + 1;
FOR i := 0 TO {x1} DO
    FOR j := i TO {x1} DO
        features_g[place] := past_g[i] * past_g[j];
        place := place + 1;
    END_FOR;
END_FOR;
"""
CHANGED_LINES = """
changed := 0.0;
FOR i := 0 TO {y1} DO
    sum_g := -newest_g[i];
    FOR j := 0 TO {f1} DO sum_g := sum_g + REAL_TO_LREAL(weights_g[i * {f} + j]) * features_g[j]; END_FOR;
    apart := REAL_TO_LREAL(errors_g[nearest * {y} + i]);
    newest_g[i] := sum_g / apart;
    changed := MAX(changed, MAX(ABS(sum_g), 0.001) / apart);
END_FOR;
"""
ROW_LINES = """
FOR i := 0 TO {older} DO trail[i] := trail[i + {row}]; END_FOR;
square := SQRT(square);
sum_g := 1.0;
FOR i := 0 TO {knots} DO
    IF square >= distances_g[i] THEN
        sum_g := shares_g[i + 1];
        IF square < distances_g[i + 1] THEN
            sum_g := shares_g[i] + (square - distances_g[i])
                * ((shares_g[i + 1] - shares_g[i]) / (distances_g[i + 1] - distances_g[i]));
        END_IF;
    END_IF;
END_FOR;
trail[{newest}] := -LN(MAX(sum_g, 1.0E-12));
"""
ERROR_LINES = """
FOR i := 0 TO {y1} DO
    trail[{newest} + 1 + i] := SEL(judged, 0.0, LIMIT(-5.0, newest_g[i], 5.0));
END_FOR;
"""
TOGETHER_LINES = """
FOR i := 0 TO {row1} DO
    sum_g := 0.0;
    apart := 0.0;
    FOR j := 0 TO {samples1} DO
        sum_g := sum_g + trail[j * {row} + i];
        apart := apart + trail[j * {row} + i] * trail[j * {row} + i];
    END_FOR;
    sum_g := sum_g / {samples}.0;
    apart := apart / {samples}.0;
    IF i = 0 THEN strange := strange OR sum_g > {place};
    ELSE strange := strange OR apart > {size} OR ABS(sum_g) > {side}; END_IF;
END_FOR;
"""
PID_LINES = """
value := REAL_TO_LREAL(y[{measured}]);
set_point := {set_point};
next_derivative[{l}] := {keep} * derivative[{l}] - {rate} * SEL(relieved, 0.0, value - measured[{l}]);
gained := {gain} * (set_point - value);
wanted := {bias} + {kp} * ({weight} * set_point - value) + integral[{l}] + gained + next_derivative[{l}];
reached := LIMIT({low}, wanted, {high});
next_integral[{l}] := {integral};
next_measured[{l}] := value;
relief[{driven}] := LREAL_TO_REAL(reached);
"""
HELD_BACK_LINES = "SEL((wanted - reached) * gained > 0.0, integral[{l}] + gained, integral[{l}])"
TRACKED_LINES = "integral[{l}] + gained + {track} * (reached - wanted)"


def strange_lines(guard: GuardStage, program: ControlProgram, block: BlockText, z: str) -> None:
    """strange := whether z, or how it changed, is stranger than the data allow."""
    block.scalars("BOOL", "strange")
    block.scalars("DINT", "nearest")
    block.scalars("LREAL", "square", "sum_g", "apart")
    count, n = guard.landmarks.shape
    _in_units(block, "place", guard.shift, guard.scale, ((0, z, n),))
    block.table("landmarks_g", guard.landmarks)
    block.line(FAR_LINES.format(c1=count - 1, n1=n - 1, n=n))
    if guard.change is not None:
        block.scalars("BOOL", "judged")
        block.scalars("LREAL", "changed")
        block.line(f"judged := samples >= {guard.change.history};")
        block.begin("IF judged THEN")
        _changed(guard.change, program, block, z)
        block.end("END_IF;")
    if guard.counted:
        block.scalars("DINT", "samples")
    if guard.window is None:
        block.line(f"strange := {_beyond(guard.most, guard)};")
        return
    window = guard.window
    block.begin(f"IF samples >= {window.samples - 1} THEN")
    block.line(f"strange := {_beyond(window.alone, guard)};")
    block.end("ELSE")
    block.line(f"strange := {_beyond(guard.most, guard)};")
    block.end("END_IF;")
    _windowed(guard, window, block)


def _beyond(most: Most, guard: GuardStage) -> str:
    """Whether a sample is strange."""
    alone = f"square > {wide_literal(most.alone**2)}"
    if guard.change is None:
        return alone
    both = f"square > {wide_literal(most.place**2)} OR changed > {wide_literal(most.change)}"
    return f"judged AND ({both}) OR NOT judged AND {alone}"


def _windowed(guard: GuardStage, window: KnownWindow, block: BlockText) -> None:
    """The trail goes on, and strange becomes true where its rows are so together."""
    block.numbers("trail", guard.kept, "LREAL")
    block.table("distances_g", window.distances, "LREAL")
    block.table("shares_g", window.shares, "LREAL")
    words: dict[str, object] = {"older": guard.kept - guard.row - 1, "row": guard.row, "newest": guard.kept - guard.row}
    words |= {"knots": len(window.distances) - 2, "y1": guard.row - 2, "row1": guard.row - 1}
    words |= {"samples": window.samples, "samples1": window.samples - 1}
    words |= dict(zip(("place", "size", "side"), map(wide_literal, window.most), strict=True))
    block.line((ROW_LINES + ERROR_LINES * (guard.row > 1)).format(**words))
    block.begin(f"IF samples >= {window.samples - 1} THEN")
    block.line(TOGETHER_LINES.format(**words))
    block.end("END_IF;")


def _in_units(
    block: BlockText, name: str, shift: np.ndarray, scale: np.ndarray, runs: tuple[tuple[int, str, int], ...]
) -> None:
    """{name}_g := clip((x − shift) / scale, ±100); runs are (place there, array with its offset, how many)."""
    block.numbers(f"{name}_g", len(shift), "LREAL")
    for what, values in (("shift", shift), ("scale", scale)):
        block.table(f"{what}_{name}", values, "LREAL")
    for first, x, size in runs:
        to = f"{first} + i" if first else "i"
        words = {"to": f"{name}_g[{to}]", "shift": f"shift_{name}[{to}]", "scale": f"scale_{name}[{to}]"}
        block.each(size, IN_UNITS_LINES.format(x=x if "[" in x else f"{x}[i]", **words))


def _runs(places: np.ndarray, z: str) -> Iterator[tuple[int, str, int]]:
    """Numbers of z, a run for each stretch of neighbours."""
    for part in runs_of_neighbours(places):
        yield part.start, f"{z}[{places[part.start]} + i]", part.stop - part.start


def _changed(change: KnownChange, program: ControlProgram, block: BlockText, z: str) -> None:
    """changed := d_2; newest_g := the errors of the change, in usual errors."""
    x, (y, f) = len(change.past_shift), change.weights.shape
    own = ((0, "last", program.obs_size), (program.obs_size, "executed", x - program.obs_size))
    if len(change.own):
        own = tuple(_runs(change.own, z))
    _in_units(block, "past", change.past_shift, change.past_scale, own)
    _in_units(block, "newest", change.newest_shift, change.newest_scale, tuple(_runs(change.newest, z)))
    block.numbers("features_g", f, "LREAL")
    block.table("weights_g", change.weights)
    block.table("errors_g", change.errors)
    block.line(FEATURES_LINES.format(x1=x - 1))
    if f > 1 + x:
        block.scalars("DINT", "place")
        block.line(PRODUCTS_LINES.format(x=x, x1=x - 1))
    block.line(CHANGED_LINES.format(y=y, y1=y - 1, f=f, f1=f - 1))


@functools.singledispatch
def relief_lines(relief: AbstractRelief, block: BlockText, actions: int) -> None:
    """relief := what acts where the policy does not know what it sees."""
    raise TypeError(f"{type(relief).__name__} has no form in Structured Text.")


@relief_lines.register
def _(relief: Kept, block: BlockText, actions: int) -> None:
    block.each(actions, "relief[i] := executed[i];")


@relief_lines.register
def _(relief: Moved, block: BlockText, actions: int) -> None:
    block.each(relief.size, f"relief[i] := executed[i] + {block.table('relief_change', relief.change)}[i];")


@relief_lines.register
def _(relief: Straight, block: BlockText, actions: int) -> None:
    o, m = relief.weight.shape
    names = ("weight", "bias", "low", "high")
    tables = {name: block.table(f"relief_{name}", getattr(relief, name), "LREAL") for name in names}
    block.begin(f"FOR i := 0 TO {m - 1} DO")
    block.scalars("LREAL", "sum_g")
    block.line(f"sum_g := {tables['bias']}[i];")
    block.line(
        f"FOR j := 0 TO {o - 1} DO sum_g := sum_g + REAL_TO_LREAL(y[j]) * {tables['weight']}[j * {m} + i]; END_FOR;"
    )
    block.line(f"relief[i] := LREAL_TO_REAL(LIMIT({tables['low']}[i], sum_g, {tables['high']}[i]));")
    block.end("END_FOR;")


@relief_lines.register
def _(relief: PidLoops, block: BlockText, actions: int) -> None:
    block.scalars("LREAL", "value", "set_point", "gained", "wanted", "reached")
    block.scalars("BOOL", "relieved")
    for name in LOOP_MEMORY:
        block.numbers(name, len(relief.loops), "LREAL")
        block.numbers(f"next_{name}", len(relief.loops), "LREAL")
    hold = block.table("relief_hold", relief.hold)
    block.each(relief.size, f"relief[i] := {hold}[i];")
    for place, loop in enumerate(relief.loops):
        block.line(_pid(loop, place))


def _pid(loop: PidLoop, place: int) -> str:
    set_point = f"REAL_TO_LREAL(y[{loop.set_point}])" if loop.set_point >= 0 else wide_literal(loop.target)
    names = PidLoop._fields[PidLoop._fields.index("kp") :]
    words = {name: wide_literal(float(getattr(loop, name))) for name in names} | {"l": place}
    integral = (TRACKED_LINES if loop.track > 0 else HELD_BACK_LINES).format(**words)
    return PID_LINES.format(integral=integral, set_point=set_point, measured=loop.measured, driven=loop.driven, **words)


def kept_lines(guard: GuardStage, program: ControlProgram, block: BlockText) -> None:
    """What a guard keeps of a sample at which somebody acted."""
    if guard.counted:
        block.line(f"IF samples < {guard.counted} THEN samples := samples + 1; END_IF;")
    if guard.reads_before:
        block.numbers("last", program.obs_size)
        block.each(program.obs_size, "last[i] := y[i];")
    if isinstance(guard.relief, PidLoops):
        block.each(len(guard.relief.loops), *(f"{name}[i] := next_{name}[i];" for name in LOOP_MEMORY))
        block.line("relieved := TRUE;")


def forgotten_lines(guard: GuardStage, block: BlockText) -> None:
    """An episode begins."""
    if guard.counted:
        block.line("samples := 0;")
    if isinstance(guard.relief, PidLoops):
        block.line("relieved := FALSE;")
        block.each(len(guard.relief.loops), "integral[i] := 0.0;", "derivative[i] := 0.0;")
