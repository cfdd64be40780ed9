"""The reverse pass of a critic: each stage as the formulas that lead a derivative back through it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import numpy as np

from fittedq.errors import UserError
from fittedq.export import numeric
from fittedq.export.host import Formula, formula
from fittedq.export.program import (
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
    NearestPoint,
    ProgramLine,
    SearchTrees,
    UnitLength,
)


@functools.singledispatch
def backward(stage: AbstractStage) -> tuple[Formula, ...]:
    """For each value that the stage reads a call on (g, the values that it reads, the value that it makes)."""
    raise UserError(
        f"export: found the stage {type(stage).__name__} in a critic, through which no exported solver leads a "
        "derivative back; leave refine out, for the policy alone."
    )


@backward.register
def _(stage: Dense) -> tuple[Formula, ...]:
    return (Formula(numeric.back_layer, {"weight": stage.weight}),)


@backward.register
def _(stage: Activate) -> tuple[Formula, ...]:
    return (Formula(getattr(numeric, f"back_{stage.function}"), {}),)


@backward.register
def _(stage: LayerNorm) -> tuple[Formula, ...]:
    return (Formula(numeric.back_layer_norm, {"gain": stage.gain}),)


@backward.register
def _(stage: UnitLength) -> tuple[Formula, ...]:
    return (Formula(numeric.back_unit_length, {}),)


@backward.register
def _(stage: AverageL1) -> tuple[Formula, ...]:
    return (Formula(numeric.back_average_norm, {}),)


@backward.register
def _(stage: Append) -> tuple[Formula, ...]:
    return (Formula(numeric.back_append, {}),)


@backward.register
def _(stage: Join) -> tuple[Formula, ...]:
    return Formula(numeric.back_join_first, {}), Formula(numeric.back_join_second, {})


@backward.register
def _(stage: Expect) -> tuple[Formula, ...]:
    return (Formula(numeric.back_expect, {"values": stage.values}),)


@backward.register
def _(stage: Blend) -> tuple[Formula, ...]:
    return Formula(numeric.back_blend, {"share": stage.keep}), Formula(numeric.back_blend, {"share": stage.take})


class Back(NamedTuple):
    """One call of the reverse pass: the derivative by value `to`, of that by `of`; `adds` to what is there already."""

    call: Formula
    of: int
    to: int
    reads: tuple[int, ...]
    adds: bool


def passes(lines: Sequence[ProgramLine]) -> list[Back]:
    """The reverse pass, from the last value to value 0. A value of one reader is written once."""
    reached, found = {len(lines)}, list[Back]()
    for place in range(len(lines), 0, -1):
        stage, sources = lines[place - 1]
        for call, source in zip(backward(stage), sources, strict=True):
            found.append(Back(call, place, source, (*sources, place), source in reached))
            reached.add(source)
    return found


@final
class HostSolver:
    """The stage `Ascend` on arrays in double precision: (s, a_0) → a, or (s) → a."""

    def __init__(self, stage: Ascend):
        critics = [HostCritic(lines) for lines in stage.critics]
        nearest = None if stage.nearest is None else HostProjection(stage.nearest)
        self._given = (critics, nearest, *_widened(ascent_numbers(stage)))

    def __call__(self, seen: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        return numeric.ascended(seen, start, *self._given)


@final
class HostProjection:
    """a → its nearest point, in double precision."""

    def __init__(self, stage: NearestPoint):
        self._function, self._constants = _wide(formula(stage))

    def __call__(self, action: np.ndarray) -> np.ndarray:
        return self._function(action, *self._constants)


@final
class HostCritic:
    """x → (q, ∂q/∂x) of one critic."""

    def __init__(self, lines: Sequence[ProgramLine]):
        self._forward = [(*_wide(formula(line.stage)), line.sources) for line in lines]
        self._backward = [(*_wide(back.call), back) for back in passes(lines)]

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        values = [x]
        for function, constants, sources in self._forward:
            values.append(function(*(values[source] for source in sources), *constants))
        slopes: dict[int, np.ndarray] = {len(values) - 1: np.ones(1)}
        for function, constants, back in self._backward:
            slope = function(slopes[back.of], *(values[place] for place in back.reads), *constants)
            slopes[back.to] = slopes[back.to] + slope if back.adds else slope
        return float(values[-1][0]), slopes[0]


def wide(array: np.ndarray) -> np.ndarray:
    """In double precision."""
    return np.asarray(array, np.float64)


def _wide(call: Formula) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return call.function, tuple(wide(one) if isinstance(one, np.ndarray) else one for one in call.constants.values())


@formula.register
def _(stage: Ascend) -> Formula:
    return Formula(HostSolver(stage), {})


@formula.register
def _(stage: SearchTrees) -> Formula:
    return Formula(HostSearch(stage), {})


@final
class HostSearch:
    """The stage `SearchTrees` on arrays in double precision: (s, a_0) → a, or (s) → a."""

    def __init__(self, stage: SearchTrees):
        self._forest, self._given = tree_numbers(stage), search_numbers(stage)

    def __call__(self, seen: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        return numeric.looked_along(seen, start, tuple(self._forest.values()), *_widened(self._given))


def tree_numbers(stage: SearchTrees) -> dict[str, Any]:
    """What `numeric.tree_mean` takes."""
    return {name: getattr(stage, name) for name in ("feature", "threshold", "child", "value", "trees", "depth")}


def search_numbers(stage: SearchTrees) -> dict[str, Any]:
    """What `numeric.looked_along` takes after the trees."""
    names = ("starts", "looks", "trust", "half_width", "low", "high")
    return {name: getattr(stage, name) for name in names} | _held(stage)


def ascent_numbers(stage: Ascend) -> dict[str, Any]:
    """What `numeric.ascended` takes after the critics and the projection."""
    names = ("starts", "steps", "trust", "center", "half_width", "unit", "low", "high")
    return {name: getattr(stage, name) for name in names} | _held(stage)


def _held(stage: AbstractSolver) -> dict[str, Any]:
    """What the changes that are allowed are told by."""
    held = {} if stage.changes is None else formula(stage.changes).constants
    return {f"held_{name}": value for name, value in held.items()}


def _widened(numbers: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(wide(one) if isinstance(one, np.ndarray) else one for one in numbers.values())
