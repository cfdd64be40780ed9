"""A controller as a function block in Structured Text (IEC 61131-3), for PLCs.

One call a sample: the observations are inputs, the actions and the status are outputs, what is remembered is in the
block. Numbers are REAL. LREAL is used for inequalities between actions and for guards only, since not every PLC has it.
Conditions are written so that a number that is not finite fails them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float, Int

from fittedq.acting.status import ActingStatus
from fittedq.control.augmentation import Error
from fittedq.control.state import AugmentedState
from fittedq.export import st_solver
from fittedq.export.guarding import refuse_large
from fittedq.export.language import About, AbstractExported, AbstractLanguage, Golden
from fittedq.export.plcopen import plcopen_xml
from fittedq.export.program import ControlProgram, GuardStage, Stretch
from fittedq.export.st_block import LARGEST_REAL, BlockArray, BlockText, literal
from fittedq.export.st_guard import forgotten_lines, kept_lines, relief_lines, strange_lines
from fittedq.export.st_reader import KEYWORDS, PLC_TYPES, STANDARD_FUNCTIONS, read_block
from fittedq.export.st_stages import change_lines, told_through

SAID_IN_TEXT = (st_solver,)
"""The modules that say in Structured Text what this one writes."""
NAME = "FittedqController"
STATUSES = "; ".join(f"{int(status)}: {status.name.lower().replace('_', ' ')}" for status in ActingStatus)


class Signal(NamedTuple):
    """An input or output: its name, and what a reader is told of it."""

    name: str
    text: str


def comment(text: str) -> str:
    """Text that may stand in a comment."""
    plain = text.encode("ascii", "replace").decode().replace("(*", "( *").replace("*)", "* )")
    return " ".join(plain.split())


# ---------------------------------------------------------------------- the controller


@final
class PlcNames:
    """PlcNames of inputs and outputs that a PLC takes: letters, digits and single underscores, each once."""

    def __init__(self, taken: Iterable[str]):
        self._taken = {name.upper() for name in taken} | KEYWORDS | set(STANDARD_FUNCTIONS) | set(PLC_TYPES)

    def __call__(self, label: str, otherwise: str) -> str:
        """A name like the label."""
        kept = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in label)
        stem = "_".join(part for part in kept.split("_") if part)
        stem = stem if stem[:1].isalpha() else otherwise
        name, number = stem, 1
        while name.upper() in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name.upper())
        return name


def _difference(error: Error) -> str:
    """y − set-point."""
    return f"y[{error.measured}] - {literal(error.value) if error.set_point is None else f'y[{error.set_point}]'}"


def _remembered(memory: AugmentedState, block: BlockText) -> None:
    """z of y and what an episode left, as `numeric.remembered` has it."""
    added, o, m = memory.augmentation, memory.obs_size, memory.limits.size
    first = o + len(added.errors)
    begin = first + len(added.integrals)
    end, size = begin + (added.history - 1) * o, memory.size
    block.each(o, "z[i] := y[i];")
    for place, error in enumerate(added.errors, o):
        block.line(f"z[{place}] := {_difference(error)};")
    for place, error in enumerate(added.integrals, first):
        block.line(
            f"z[{place}] := SEL(begun, 0.0, seen[{place}]) + {literal(added.sample or 1)} * ({_difference(error)});"
        )
        if added.integral_limit is not None:
            limit = literal(added.integral_limit)
            block.line(
                f"""
                IF z[{place}] < -{limit} THEN z[{place}] := -{limit};
                ELSIF z[{place}] > {limit} THEN z[{place}] := {limit}; END_IF;
                """
            )
    if end == begin and not memory.lags:
        return
    block.begin("IF begun THEN")
    block.each(min(o, end - begin), f"z[{begin} + i] := seen[i];")
    block.each(end - begin - o, f"z[{begin + o} + i] := seen[{begin} + i];")
    block.each((memory.lags - 1) * m, f"z[{end + m} + i] := seen[{end} + i];")
    if end > begin:
        block.end("ELSE")
        block.each(end - begin, f"z[{begin} + i] := y[i MOD {o}];")
    block.end("END_IF;")
    if memory.lags:
        center, half = _limits(memory, block)
        block.each(m, f"z[{end} + i] := (executed[i] - {center}[i]) / {half}[i];")
        block.begin("IF NOT begun THEN")
        block.each((memory.lags - 1) * m, f"z[{end + m} + i] := z[{end} + i MOD {m}];")
        block.end("END_IF;")
    assert size == end + memory.lags * m


def _limits(memory: AugmentedState, block: BlockText) -> tuple[str, str]:
    """The centre and half width of what actions may be."""
    return (
        block.table("center_u", np.asarray(memory.limits.center)),
        block.table("half_width_u", np.asarray(memory.limits.half_width)),
    )


def _checked(block: BlockText, array: str, size: int) -> None:
    """finite := whether all numbers of the array are."""
    block.line("finite := TRUE;")
    block.each(size, f"IF NOT (ABS({array}[i]) <= {literal(LARGEST_REAL)}) THEN finite := FALSE; END_IF;")


def _status(program: ControlProgram, block: BlockText, action: str) -> None:
    """status := OK, or LIMITED where the action is held back, as `numeric.on_edge` has it."""
    edges = program.edges
    block.line(f"status := {int(ActingStatus.OK)};")
    if edges is None:
        return
    limited = f"status := {int(ActingStatus.LIMITED)}"
    if edges.changes is not None:
        near = block.table("near", edges.near)
        stretched = [place for place, line in enumerate(program.lines, 1) if isinstance(line.stage, Stretch)]
        if program.in_double:
            z = BlockArray("z", program.seen)
            block.scalars("REAL", "edge")
            low, high = change_lines(edges.changes, block, "edge", z, "edge")
        else:
            low, high = f"least_change_x{stretched[0]}", f"most_change_x{stretched[0]}"
        block.each(
            program.action_size,
            f"IF {action}[i] <= {low}[i] + {near}[i] OR {action}[i] >= {high}[i] - {near}[i] THEN {limited}; END_IF;",
        )
        return
    count, m = edges.matrix.shape
    matrix, bound = block.table("matrix", edges.matrix, "LREAL"), block.table("bound", edges.bound, "LREAL")
    block.scalars("LREAL", "row")
    block.each(
        count,
        "row := 0.0;",
        f"FOR j := 0 TO {m - 1} DO row := row + {matrix}[i * {m} + j] * REAL_TO_LREAL({action}[j]); END_FOR;",
        f"IF row >= {bound}[i] THEN {limited}; END_IF;",
    )


def _policy(program: ControlProgram, block: BlockText, z: BlockArray) -> BlockArray:
    """The policy's action, in LREAL on its way where the program is in double precision."""
    if not program.in_double:
        return told_through(program.lines, block, z, "x")[-1]
    block.kind = "LREAL"
    seen = BlockArray(block.numbers("wide_z", z.size), z.size)
    block.each(z.size, f"wide_z[i] := REAL_TO_LREAL({z}[i]);")
    action = told_through(program.lines, block, seen, "x")[-1]
    block.kind = "REAL"
    single = BlockArray(block.numbers("single", action.size), action.size)
    block.each(action.size, f"single[i] := LREAL_TO_REAL({action}[i]);")
    return single


def _acted(program: ControlProgram, block: BlockText, z: BlockArray) -> None:
    """The lines from z to the policy's action in `asked`, and `status`."""
    m = program.action_size
    action = _policy(program, block, z)
    block.line("(* the action, its status, and what is remembered *)")
    _checked(block, str(action), m)
    block.line(f"status := {int(ActingStatus.FAILED)};")
    block.begin("IF finite THEN")
    _status(program, block, str(action))
    block.each(m, f"asked[i] := {_before(program)}{action}[i];")
    block.end("END_IF;")


def _before(program: ControlProgram) -> str:
    """What an action is added to, where it is a change."""
    return "" if program.rate is None else "executed[i] + "


def _guarded(guard: GuardStage, program: ControlProgram, block: BlockText, z: BlockArray) -> None:
    """The relief's action where z is strange, else the policy's."""
    m = program.action_size
    block.line("(* what acts where the policy does not know what it sees, and whether that is here *)")
    relief_lines(guard.relief, block, m)
    relief = told_through(guard.lines, block, BlockArray(block.numbers("relief", m), m), "relief_")[-1]
    strange_lines(guard, program, block, z.name)
    block.begin("IF strange THEN")
    block.line(f"status := {int(ActingStatus.UNFAMILIAR)};")
    block.each(m, f"asked[i] := {relief}[i];")
    block.end("ELSE")
    _acted(program, block, z)
    block.end("END_IF;")


def _decided(program: ControlProgram, block: BlockText) -> None:
    """The lines from y to what is asked for, from there to `executed`, and `status`."""
    memory, guard, m = program.memory, program.guard, program.action_size
    block.numbers("asked", m)
    _checked(block, "y", program.obs_size)
    block.line(f"status := {int(ActingStatus.NOT_FINITE)};")
    block.begin("IF finite THEN")
    z = BlockArray("y" if memory is None else block.numbers("z", program.seen), program.seen)
    if memory is not None:
        _remembered(memory, block)
    if guard is None:
        _acted(program, block, z)
    else:
        _guarded(guard, program, block, z)
    if memory is not None or guard is not None:
        block.begin(f"IF status <> {int(ActingStatus.FAILED)} THEN")
        if memory is not None:
            block.each(program.seen, "seen[i] := z[i];")
            block.line("begun := TRUE;")
        if guard is not None:
            kept_lines(guard, program, block)
        block.end("END_IF;")
    block.end("END_IF;")
    block.begin(f"IF status = {int(ActingStatus.NOT_FINITE)} OR status = {int(ActingStatus.FAILED)} THEN")
    if program.holds:
        block.each(m, "asked[i] := executed[i];")
    else:
        block.each(m, f"asked[i] := {_before(program)}{block.table('fallback', program.fallback)}[i];")
    if guard is not None and guard.counted:
        block.line("samples := 0;")
    block.end("END_IF;")
    if program.rate is not None:
        rate = block.table("rate_u", program.rate)
        block.kept("asked", m, f"executed[i] - {rate}[i]", f"executed[i] + {rate}[i]")
        block.kept("asked", m, f"{block.table('low_u', program.low)}[i]", f"{block.table('high_u', program.high)}[i]")
    block.each(m, "executed[i] := asked[i];")


def structured_text(
    program: ControlProgram, observations: Sequence[Signal], actions: Sequence[Signal], about: str
) -> str:
    """The function block, as text; signals give inputs and outputs their names."""
    refuse_large(program.guard, "Structured Text")
    block, memory = BlockText(), program.memory
    block.numbers("y", program.obs_size)
    block.scalars("DINT", "i", "j")
    block.scalars("LREAL" if program.in_double else "REAL", "total", "e")
    block.scalars("BOOL", "finite")
    start = [literal(number) for number in program.start.tolist()]
    block.numbers("executed", program.action_size, initial=f" := [{', '.join(start)}]")
    if memory is not None:
        block.numbers("seen", program.seen)
        block.scalars("BOOL", "begun")
    if program.remembers:
        block.begin("IF reset THEN")
        if memory is not None:
            block.line("begun := FALSE;")
        if program.guard is not None:
            forgotten_lines(program.guard, block)
        block.each(program.action_size, f"executed[i] := {block.table('start', program.start)}[i];")
        block.end("END_IF;")
    body = len(block.lines)
    _decided(program, block)
    taken = re.findall(r"[A-Za-z]\w*", " ".join(block.variables + block.constants + ["reset", "status", NAME]))
    names = PlcNames(taken)
    inputs = [(names(signal.name, f"observation_{place}"), signal) for place, signal in enumerate(observations)]
    outputs = [(names(signal.name, f"action_{place}"), signal) for place, signal in enumerate(actions)]
    block.lines[body:body] = [f"    y[{place}] := {name};" for place, (name, _) in enumerate(inputs)]
    block.lines += [f"    {name} := executed[{place}];" for place, (name, _) in enumerate(outputs)]
    return "\n".join(
        [
            f"(* {comment(about)} *)",
            f"FUNCTION_BLOCK {NAME}",
            "VAR_INPUT",
            *["    reset : BOOL; (* TRUE begins an episode: what was remembered is forgotten *)"] * program.remembers,
            *(f"    {name} : REAL; (* {comment(signal.text)} *)" for name, signal in inputs),
            "END_VAR",
            "VAR_OUTPUT",
            *(f"    {name} : REAL; (* {comment(signal.text)} *)" for name, signal in outputs),
            f"    status : DINT; (* {STATUSES} *)",
            "END_VAR",
            "VAR CONSTANT",
            *block.constants,
            "END_VAR",
            "VAR",
            *block.variables,
            "END_VAR",
            *block.lines,
            "END_FUNCTION_BLOCK",
            "",
        ]
    )


# ---------------------------------------------------------------------- the language


def _signals(names: Sequence[str], about: About) -> list[Signal]:
    units = (about.units.get(name, "") for name in names)
    return [Signal(name, f"{name} [{unit}]" if unit else name) for name, unit in zip(names, units, strict=True)]


@final
@dataclass(frozen=True)
class PlcBlock(AbstractLanguage):
    """`controller.st`, a function block, and the same in `controller.xml`, to be imported."""

    name: ClassVar[str] = "st"
    title: ClassVar[str] = "a function block in Structured Text (IEC 61131-3), and as PLCopen XML"

    def files(self, program: ControlProgram, about: About, golden: Golden) -> dict[str, bytes]:
        del golden
        inputs, outputs = _signals(about.observations, about), _signals(about.actions, about)
        text = structured_text(program, inputs, outputs, about.sentence)
        block = read_block(text)
        ports = (variable for section in ("VAR_INPUT", "VAR_OUTPUT") for variable in block.of(section))
        told = [signal.text for signal in (*inputs, *outputs)]
        names = [port.name for port in ports if port.name not in ("reset", "status")]
        texts = dict(zip(names, told, strict=True)) | {"status": STATUSES}
        xml = plcopen_xml(block, about.versions["fittedq"], texts)
        return {"controller.st": text.encode(), "controller.xml": xml}

    @contextmanager
    def running(self, folder: Path) -> Iterator[AbstractExported]:
        yield BlockRunning(folder / "controller.st")


@final
class BlockRunning(AbstractExported):
    """The block as `st_reader` runs it."""

    def __init__(self, path: Path):
        block = read_block(path.read_text(), path.name)
        reals = [variable.name for variable in block.of("VAR_INPUT") if variable.kind == "REAL"]
        self._inputs, self._remembers = reals, len(reals) < len(block.of("VAR_INPUT"))
        self._outputs = [variable.name for variable in block.of("VAR_OUTPUT") if variable.kind == "REAL"]
        self._instances = block.instances()

    def run(
        self, obs: Float[np.ndarray, "N o"], begins: Bool[np.ndarray, "N"]
    ) -> tuple[Float[np.ndarray, "N m"], Int[np.ndarray, "N"]]:
        """Side by side: all samples where nothing is remembered, else all episodes, the shorter ones running on."""
        starts = np.flatnonzero(begins) if self._remembers else np.arange(len(obs))
        lengths = np.diff(starts, append=len(obs))
        actions, statuses = np.zeros((len(obs), len(self._outputs)), np.float32), np.zeros(len(obs), int)
        self._instances.begin()
        for place in range(int(lengths.max())):
            rows = starts + np.minimum(place, lengths - 1)
            found, told = self._called(obs[rows])
            here = place < lengths
            actions[rows[here]], statuses[rows[here]] = found[here], told[here]
        return actions, statuses

    def _called(self, obs: Float[np.ndarray, "k o"]) -> tuple[Float[np.ndarray, "k m"], Int[np.ndarray, "k"]]:
        given = dict(zip(self._inputs, obs.T, strict=True))
        out = self._instances(**given, **({"reset": False} if self._remembers else {}))
        told = [np.broadcast_to(out[name], len(obs)) for name in (*self._outputs, "status")]
        return np.stack(told[:-1], axis=1).astype(np.float32), told[-1].astype(int)
