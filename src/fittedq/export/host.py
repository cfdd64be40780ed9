"""A program on the host: its stages as calls of `numeric`'s functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, final

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from fittedq.control.state import AugmentedState
from fittedq.export import numeric
from fittedq.export.program import (
    AbstractRelief,
    AbstractSolver,
    AbstractStage,
    Activate,
    Affine,
    Append,
    AverageL1,
    Blend,
    Clip,
    ControlProgram,
    Dense,
    Edges,
    Expect,
    GuardStage,
    Join,
    LayerNorm,
    NearestPoint,
    Normalize,
    PidLoop,
    PidLoops,
    RoundWhole,
    Straight,
    Stretch,
    UnitLength,
)

Argument = np.ndarray | np.generic | float
ULP = float(np.finfo(np.float32).eps)


class Formula(NamedTuple):
    """A function of `numeric`, and what it takes after the values that it reads, by name and in order."""

    function: Callable[..., Any]
    constants: dict[str, Argument]


@functools.singledispatch
def formula(stage: AbstractStage) -> Formula:
    """The stage as a call."""
    raise TypeError(f"{type(stage).__name__} has no formula in NumPy.")


@formula.register
def _(stage: Normalize) -> Formula:
    return Formula(numeric.normalize, {"mean": stage.mean, "deviation": stage.deviation, "limit": stage.limit})


@formula.register
def _(stage: Dense) -> Formula:
    return Formula(numeric.layer, {"weight": stage.weight, "bias": stage.bias})


ACTIVATE = {
    function.__name__: function
    for function in (
        numeric.relu,
        numeric.leaky_relu,
        numeric.tanh,
        numeric.silu,
        numeric.gelu,
        numeric.softplus,
        numeric.elu,
    )
}


@formula.register
def _(stage: Activate) -> Formula:
    return Formula(ACTIVATE[stage.function], {})


@formula.register
def _(stage: LayerNorm) -> Formula:
    return Formula(numeric.layer_norm, {"gain": stage.gain, "shift": stage.shift})


@formula.register
def _(stage: UnitLength) -> Formula:
    del stage
    return Formula(numeric.unit_length, {})


@formula.register
def _(stage: AverageL1) -> Formula:
    del stage
    return Formula(numeric.average_norm, {})


@formula.register
def _(stage: Append) -> Formula:
    return Formula(numeric.append, {"number": stage.number})


@formula.register
def _(stage: Join) -> Formula:
    del stage
    return Formula(numeric.join, {})


@formula.register
def _(stage: Expect) -> Formula:
    return Formula(numeric.expect, {"values": stage.values})


@formula.register
def _(stage: Blend) -> Formula:
    return Formula(numeric.blend, {"keep": stage.keep, "take": stage.take})


@formula.register
def _(stage: Affine) -> Formula:
    return Formula(numeric.affine, {"center": stage.center, "half_width": stage.half_width})


@formula.register
def _(stage: Clip) -> Formula:
    return Formula(numeric.clip, {"low": stage.low, "high": stage.high})


@formula.register
def _(stage: RoundWhole) -> Formula:
    return Formula(numeric.round_whole, {"whole": stage.whole, "low": stage.low, "high": stage.high})


@formula.register
def _(stage: Stretch) -> Formula:
    names = ("rate", "least", "most", "center", "half_width", "first")
    return Formula(numeric.stretched, {name: getattr(stage, name) for name in names})


@formula.register
def _(stage: NearestPoint) -> Formula:
    own = ("matrix", "limits", "floor", "ceiling", "center")
    return Formula(numeric.nearest_point, {**{name: getattr(stage, name) for name in own}, **stage.units._asdict()})


def edge_formula(edges: Edges) -> Formula:
    """Whether LIMITED holds, as a call on (a, z)."""
    held = {} if edges.changes is None else formula(edges.changes).constants
    return Formula(numeric.on_edge, {"matrix": edges.matrix, "bound": edges.bound, "near": edges.near, **held})


def memory_formula(memory: AugmentedState) -> Formula:
    """z as a call on (seen, executed, y)."""
    added = memory.augmentation
    errors = [*added.errors, *added.integrals]
    return Formula(
        numeric.remembered,
        {
            "measured": np.array([error.measured for error in errors], int),
            "set_point": np.array([-1 if error.set_point is None else error.set_point for error in errors], int),
            "value": np.array([error.value for error in errors], np.float32),
            "errors": len(added.errors),
            "sample": np.float32(added.sample or 1.0),
            "limit": np.float32(np.inf if added.integral_limit is None else added.integral_limit),
            "history": added.history,
            "lags": memory.lags,
            "center": np.asarray(memory.limits.center, np.float32),
            "half_width": np.asarray(memory.limits.half_width, np.float32),
        },
    )


class GuardFormulas(NamedTuple):
    """Calls on (z), on (z, past, landmark), on (trail, square, errors), and, of a relief, on (y) or (y, its memory);
    None where there is none."""

    far: Formula
    changed: Formula | None
    window: Formula | None
    relief: Formula | None


def guard_formulas(guard: GuardStage) -> GuardFormulas:
    """What a guard computes."""
    change, place = guard.change, {name: getattr(guard, name) for name in ("shift", "scale", "landmarks")}
    names = ("past_shift", "past_scale", "newest", "newest_shift", "newest_scale", "weights", "errors")
    changed = None
    if change is not None:
        changed = Formula(numeric.changed, {name: getattr(change, name) for name in names})
    window = None
    if guard.window is not None:
        kept = {name: getattr(guard.window, name) for name in ("distances", "shares", "samples")}
        window = Formula(numeric.with_row, kept)
    return GuardFormulas(Formula(numeric.far, place), changed, window, relief_formula(guard.relief))


@functools.singledispatch
def relief_formula(relief: AbstractRelief) -> Formula | None:
    """The relief as a call; None where it is the action before, or a change of that."""
    del relief


@relief_formula.register
def _(relief: Straight) -> Formula:
    return Formula(numeric.straight, {name: getattr(relief, name) for name in ("weight", "bias", "low", "high")})


@relief_formula.register
def _(relief: PidLoops) -> Formula:
    columns = {name: np.array([getattr(loop, name) for loop in relief.loops]) for name in PidLoop._fields}
    return Formula(numeric.pid, {**columns, "hold": relief.hold})


@final
class Host:
    """z → a of a program: one after another of its stages, on one state [z] or a batch [b, z], in single or double
    precision. With `rng` each of its numbers is off by up to a unit in the last place of single precision."""

    def __init__(self, program: ControlProgram, dtype: DTypeLike = np.float32, rng: np.random.Generator | None = None):
        def typed(value: Argument) -> Argument:
            if not isinstance(value, np.ndarray) or value.dtype != np.float32:
                return value
            exact = value.astype(dtype)
            return exact if rng is None else exact * (1 + ULP * rng.uniform(-1, 1, value.shape)).astype(dtype)

        self._calls = [
            (call.function, line.sources, tuple(map(typed, call.constants.values())))
            for line in program.lines
            for call in (formula(line.stage),)
        ]
        self.in_batch = not any(isinstance(line.stage, NearestPoint | AbstractSolver) for line in program.lines)
        """Whether it takes batches: the nearest point of a polytope is found for one action, and so does a solver."""

    def __call__(self, seen: Float[np.ndarray, "*b z"]) -> Float[np.ndarray, "*b m"]:
        values = [seen]
        read, keep = values.__getitem__, values.append
        for function, sources, constants in self._calls:
            keep(function(*map(read, sources), *constants))
        return values[-1]
