"""A controller as one NumPy file and its numbers."""

from __future__ import annotations

import dis
import functools
import inspect
import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from jaxtyping import Float

from fittedq.acting.status import ActingStatus
from fittedq.export import numeric
from fittedq.export.host import Argument, Formula, edge_formula, formula, guard_formulas, memory_formula
from fittedq.export.language import About, AbstractFollowing, AbstractLanguage, AbstractRunning, Golden
from fittedq.export.program import (
    AbstractStage,
    Ascend,
    ControlProgram,
    GuardStage,
    Kept,
    Most,
    Moved,
    PidLoops,
    ProgramLine,
    SearchTrees,
    Straight,
)
from fittedq.export.reverse import ascent_numbers, passes, search_numbers, tree_numbers

FILE = '''"""{about}

    controller = Controller()
    action, status = controller.step(observation)    # once a sample; `reset` begins an episode

A status says whose action it is: {statuses}.
"""

import numpy as np

D = dict(np.load(__file__.removesuffix(".py") + ".npz", allow_pickle=False))
{names} = {numbers}


{functions}


def policy(z):
{steps}


class Controller:
    def __init__(self, before=None):
        self.reset(before)

    def reset(self, before=None):
        """An episode begins, as though the action `before` had been executed until then."""
        self.seen, self.executed = None, D["start"].astype(np.float32)
{start}        self.follow(self.executed if before is None else before)

    def follow(self, executed):
        """What was executed instead at the last sample; a vector that is not finite changes nothing."""
        executed = np.array(executed, np.float32).reshape(self.executed.shape)
        self.executed = executed if np.isfinite(executed).all() else self.executed

    def step(self, obs):
        """(action, status) at this sample; never raises."""
        status, u = MALFORMED, None
        try:
            y = np.asarray(obs, np.float32)
            status = MALFORMED if y.shape != ({obs_size},) else FAILED if np.isfinite(y).all() else NOT_FINITE
            if status == FAILED:
                with np.errstate(all="ignore"):
                    z = {memory}
{decide}
        except Exception:
            pass
        if status in (NOT_FINITE, MALFORMED, FAILED):
            {fallback}
        self.executed = {reached}
        return self.executed.copy(), status
'''

DECIDE = """
a = policy(z)
if np.isfinite(a).all():
    status = LIMITED if {edges} else OK
    self.seen, u = z, {taken}
"""
GUARDED = """
u, relief = {relief}
square, nearest = {far}
{judged}
if {strange}:
    status = UNFAMILIAR
else:
    a = policy(z)
    if np.isfinite(a).all():
        status, u = LIMITED if {edges} else OK, {taken}
if status != FAILED:
    self.seen, self.last, self.samples, self.relief = z, y, self.samples + 1, relief{trail}
"""
START = "        self.last, self.samples, self.relief, self.trail = None, 0, None, None\n"
JUDGED = """
past = {past} if self.samples >= {history} else None
change, error = (None, np.zeros({size})) if past is None else {changed}
"""

SHORT = 16
"""Tables of more numbers are written once."""


class Text:
    """Calls as text, with the functions that they need and the numbers that they read."""

    def __init__(self) -> None:
        self.functions: dict[str, Callable[..., object]] = {}
        self.numbers: dict[str, np.ndarray] = {}
        self.wide = False
        """Whether numbers are written in double precision."""

    def call(self, call: Formula, values: list[str], name: str) -> str:
        """The call on these values; its arrays become the numbers `name.…`."""
        self._need(call.function)
        words = [*values, *(self.word(f"{name}.{key}", value) for key, value in call.constants.items())]
        return f"{call.function.__name__}({', '.join(words)})"

    def _need(self, function: Callable[..., object]) -> None:
        for instruction in dis.get_instructions(inspect.unwrap(function)):
            if instruction.opname == "LOAD_GLOBAL" and instruction.argval != "np":
                other = getattr(numeric, instruction.argval, None)
                if inspect.isfunction(other):
                    self._need(other)
        self.functions[function.__name__] = function

    def word(self, name: str, value: object) -> str:
        """A value as text; an array becomes the numbers `name`."""
        if isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
            if self.wide and array.dtype == np.float32:
                array = array.astype(np.float64)
            for other, known in self.numbers.items():
                if array.size > SHORT and known.dtype == array.dtype and np.array_equal(known, array):
                    return f'D["{other}"]'
            self.numbers[name] = array
            return f'D["{name}"]'
        return repr(value)


@final
@dataclass(frozen=True)
class NumpyFile(AbstractLanguage):
    """`controller.py`, which needs NumPy alone, and its numbers in `controller.npz`."""

    name: ClassVar[str] = "numpy"
    title: ClassVar[str] = "one file of Python that needs NumPy alone, and its numbers"

    def files(self, program: ControlProgram, about: About, golden: Golden) -> dict[str, bytes]:
        del golden
        return numpy_files(program, about.sentence)

    @contextmanager
    def running(self, folder: Path) -> Iterator[AbstractRunning]:
        yield Running(folder)


@final
class Running(AbstractFollowing):
    """The `Controller` of such a file, which is run as it stands."""

    def __init__(self, folder: Path):
        file = folder / "controller.py"
        self._names: dict[str, Any] = {"__file__": str(file), "__name__": "controller"}
        exec(compile(file.read_text(), str(file), "exec"), self._names)
        self.reset()

    def reset(self, before: Float[np.ndarray, "m"] | None = None) -> None:
        self._controller = self._names["Controller"](before)

    def follow(self, executed: Float[np.ndarray, "m"]) -> None:
        self._controller.follow(executed)

    def step(self, obs: Float[np.ndarray, "o"]) -> tuple[Float[np.ndarray, "m"], int]:
        return self._controller.step(obs)


def numpy_files(program: ControlProgram, about: str) -> dict[str, bytes]:
    """{name: content}."""
    text, memory = Text(), program.memory
    critics = _critics(program, text)
    steps = "\n".join(_policy(program, text))
    text.numbers |= {"fallback": program.fallback, "start": program.start}
    seen = "y"
    if memory is not None:
        seen = text.call(memory_formula(memory), ["self.seen", "self.executed", "y"], "memory")
    before, reached = "", "u"
    if program.rate is not None:
        limits: dict[str, Argument] = {"rate": program.rate, "low": program.low, "high": program.high}
        before = "self.executed + "
        reached = text.call(Formula(numeric.reached, limits), ["u", "self.executed"], "reached")
    taken, fallback = f"{before}a", "u = self.executed" if program.holds else f'u = {before}D["fallback"]'
    edges = "False" if program.edges is None else text.call(edge_formula(program.edges), ["a", "z"], "edges")
    decide = DECIDE.format(edges=edges, taken=taken)
    if program.guard is not None:
        decide = GUARDED.format(edges=edges, taken=taken, **_guard_words(program.guard, text))
        fallback = f"{fallback}; self.last, self.samples, self.trail = None, 0, None"
    functions = "\n\n\n".join(inspect.getsource(function).strip() for function in text.functions.values())
    functions = "\n\n\n".join([functions, *critics])
    source = FILE.format(
        about=about,
        statuses="; ".join(f"{int(status)}, {status.name.lower().replace('_', ' ')}" for status in ActingStatus),
        names=", ".join(status.name for status in ActingStatus),
        numbers=", ".join(str(int(status)) for status in ActingStatus),
        functions=functions,
        steps=steps,
        obs_size=program.obs_size,
        memory=seen,
        start="" if program.guard is None else START,
        decide=textwrap.indent(decide.strip(), 20 * " "),
        fallback=fallback,
        reached=reached,
    )
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **text.numbers)
    return {"controller.py": source.encode(), "controller.npz": file.getvalue()}


def _guard_words(guard: GuardStage, text: Text) -> dict[str, str]:
    """What `GUARDED` leaves open."""
    call, change = guard_formulas(guard), guard.change
    match guard.relief:
        case Kept():
            relief = "self.executed"
        case Moved():
            text.numbers["relief.change"] = guard.relief.change
            relief = 'self.executed + D["relief.change"]'
        case Straight():
            assert call.relief is not None
            relief = text.call(call.relief, ["y"], "relief")
        case _:
            assert call.relief is not None
            relief = text.call(call.relief, ["y", "self.relief"], "relief")
    kept = isinstance(guard.relief, PidLoops)
    projected = "\n".join(_steps(guard.lines, text, "u", "relief"))
    relief = f"{relief}\n{projected}" if kept else f"{relief}, None\n{projected}"
    judged, window = "change, error = None, np.zeros(0)", guard.window
    if change is not None and call.changed is not None:
        text.numbers["own"] = change.own
        past = 'z[D["own"]]' if len(change.own) else "np.concatenate([self.last, self.executed])"
        changed = text.call(call.changed, ["z", "past", "nearest"], "change")
        words = {"past": past, "history": change.history, "size": len(change.newest), "changed": changed}
        judged = JUDGED.format(**words).strip()

    def alone(most: Most) -> str:
        return text.call(Formula(numeric.is_strange, most._asdict()), ["square", "change"], "")

    strange = alone(guard.most)
    if window is not None and call.window is not None:
        judged += "\ntrail = " + text.call(call.window, ["self.trail", "square", "error"], "window")
        place, size, side = window.most
        figures: dict[str, Argument] = {"place": place, "size": size, "side": side}
        together = text.call(Formula(numeric.is_strange_together, figures), ["trail"], "")
        strange = f"({together} or {alone(window.alone)}) if len(trail) == {window.samples} else {strange}"
    trail = "" if window is None else "\n    self.trail = trail"
    far = text.call(call.far, ["z"], "place")
    return {"relief": relief, "far": far, "judged": judged, "strange": strange, "trail": trail}


def _policy(program: ControlProgram, text: Text) -> Iterator[str]:
    """The lines of π(z)."""
    name, text.wide = "z", program.in_double
    if text.wide:
        yield "    z = z.astype(float)"
    for step in _steps(program.lines, text, "z", ""):
        name = step.split(" = ")[0]
        yield f"    {step}"
    yield f"    return {name}{'.astype(np.float32)' * text.wide}"
    text.wide = False


def _critics(program: ControlProgram, text: Text) -> list[str]:
    """The functions `critic0`, … of a solver: x → (q, ∂q/∂x), forwards and back."""
    text.wide = True
    found = []
    for stage in (line.stage for line in program.lines if isinstance(line.stage, Ascend)):
        for place, lines in enumerate(stage.critics):
            body = "\n    ".join(_forward_and_back(lines, text, f"critic{place}"))
            found.append(f"def critic{place}(x0):\n    {body}")
    text.wide = False
    return found


def _forward_and_back(lines: Sequence[ProgramLine], text: Text, name: str) -> Iterator[str]:
    for place, line in enumerate(lines, 1):
        values = [f"x{source}" for source in line.sources]
        yield f"x{place} = {text.call(formula(line.stage), values, f'{name}.{place}')}"
    yield f"g{len(lines)} = np.ones(1)"
    for back in passes(lines):
        values = [f"g{back.of}", *(f"x{place}" for place in back.reads)]
        call = text.call(back.call, values, f"{name}.{back.of}to{back.to}")
        yield f"g{back.to} = {f'g{back.to} + ' * back.adds}{call}"
    yield f"return x{len(lines)}[0], g0"


@functools.singledispatch
def stage_call(stage: AbstractStage, text: Text, values: Sequence[str], name: str) -> str:
    """The call that a stage is on these values; its numbers are `name.…`."""
    return text.call(formula(stage), [*values], name)


@stage_call.register
def _(stage: SearchTrees, text: Text, values: Sequence[str], name: str) -> str:
    seen, start = values[0], values[1] if len(values) > 1 else "None"
    forest = [text.word(f"{name}.{key}", value) for key, value in tree_numbers(stage).items()]
    return text.call(
        Formula(numeric.looked_along, search_numbers(stage)), [seen, start, f"({', '.join(forest)})"], name
    )


@stage_call.register
def _(stage: Ascend, text: Text, values: Sequence[str], name: str) -> str:
    seen, start = values[0], values[1] if len(values) > 1 else "None"
    critics, nearest = ", ".join(f"critic{place}" for place in range(len(stage.critics))), "None"
    if stage.nearest is not None:
        nearest = f"lambda u: {text.call(formula(stage.nearest), ['u'], f'{name}.walls')}"
    values = [seen, start, f"[{critics}]", nearest]
    return text.call(Formula(numeric.ascended, ascent_numbers(stage)), values, name)


def _steps(lines: Sequence[ProgramLine], text: Text, first: str, prefix: str) -> Iterator[str]:
    """Statements that make one value after another; a value takes the name of the last one, unless that is read again
    later."""
    names = [first]
    for place, line in enumerate(lines, 1):
        later = {source for after in lines[place:] for source in after.sources}
        old = [names[source] for source in line.sources]
        free = [names[source] for source in line.sources if (source or prefix) and source not in later]
        name = free[0] if free else f"x{place}"
        names.append(name)
        yield f"{name} = {stage_call(line.stage, text, old, f'{prefix}{place}')}"
