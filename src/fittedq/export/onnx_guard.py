"""The guard of a controller in ONNX: what is strange, what acts there, and what it keeps from sample to sample."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from fittedq.acting.familiar import MOST_DEVIATIONS
from fittedq.export.onnx_graph import Graph
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
)


class Guarding(NamedTuple):
    """Names of values of one sample: whether it is strange [b, 1], the admissible action there, what a guard keeps."""

    strange: str
    relief: str
    kept: dict[str, str]

    def left_out(self, graph: Graph, watched: dict[str, str]) -> dict[str, str]:
        """What is kept instead where the sample is left out: the samples are counted anew."""
        return watched | ({"samples": graph.wide_number([[0]])} if "samples" in watched else {})


def kept_sizes(program: ControlProgram) -> dict[str, int]:
    """What a guard keeps, in order and in double precision: the samples since one was left out, the observation of the
    sample before, and the memory of its PID loops, which have none where `relieved` is 0."""
    guard, sizes = program.guard, dict[str, int]()
    if guard is None:
        return sizes
    if guard.counted:
        sizes["samples"] = 1
    if guard.window is not None:
        sizes["trail"] = guard.kept
    if guard.reads_before:
        sizes["last"] = program.obs_size
    if isinstance(guard.relief, PidLoops):
        sizes |= {"relieved": 1, **dict.fromkeys(LOOP_MEMORY, len(guard.relief.loops))}
    return sizes


def unpacked(graph: Graph, packed: str, sizes: dict[str, int]) -> dict[str, str]:
    """The parts of a row of numbers."""
    ends = np.cumsum([0, *sizes.values()]).tolist()
    return {name: graph.columns(packed, first, last) for name, first, last in zip(sizes, ends, ends[1:], strict=False)}


def guard_nodes(guard: GuardStage, graph: Graph, obs: str, z: str, executed: str, kept: dict[str, str]) -> Guarding:
    """What a guard decides at a finite observation, before it is projected."""
    graph.within("guard")
    kept = dict(kept)
    strange = _strange(guard, graph, z, executed, kept)
    graph.within("relief")
    relief, loops = relieved(guard.relief, graph, obs, executed, kept)
    if "samples" in kept:
        kept["samples"] = graph("Add", kept["samples"], graph.wide_number(1))
    if "last" in kept:
        kept["last"] = graph.double(obs)
    return Guarding(strange, relief, kept | loops)


def _in_units(graph: Graph, name: str, x: str, shift: np.ndarray, scale: np.ndarray) -> str:
    """clip((x − shift) / scale, ±100), in double precision."""
    moved = graph("Sub", graph.double(x), graph.own(f"{name}_shift", shift.astype(float)))
    scaled = graph("Div", moved, graph.own(f"{name}_scale", scale.astype(float)))
    return graph.between(scaled, graph.wide_number(-MOST_DEVIATIONS), graph.wide_number(MOST_DEVIATIONS))


def _strange(guard: GuardStage, graph: Graph, z: str, executed: str, kept: dict[str, str]) -> str:
    """[b, 1]: whether z, or how it changed, is stranger than the data allow."""
    landmarks = graph.own("landmarks", guard.landmarks.astype(float))
    apart = graph(
        "Sub",
        graph("Unsqueeze", _in_units(graph, "place", z, guard.shift, guard.scale), graph.whole_number([1])),
        landmarks,
    )
    squares = graph("ReduceSum", graph("Mul", apart, apart), graph.whole_number([2]), keepdims=0)
    square, change = graph.least(squares), guard.change
    seen = SampleTold(square)
    if change is not None:
        nearest = graph("ArgMin", squares, axis=1, keepdims=0)
        own = graph.picked(z, change.own.tolist()) if len(change.own) else ""
        past = own or graph.joined(graph.single(kept["last"]), executed)
        early = graph("Less", kept["samples"], graph.wide_number(change.history))
        seen = SampleTold(square, early, *_changed(change, graph, z, past, nearest))
    strange = seen.beyond(guard.most, graph)
    if guard.window is None:
        return strange
    kept["trail"] = _trail(guard, guard.window, graph, seen, kept["trail"])
    whole = graph("GreaterOrEqual", kept["samples"], graph.wide_number(guard.window.samples - 1))
    together = graph("Or", _together(guard, guard.window, graph, kept["trail"]), seen.beyond(guard.window.alone, graph))
    return _either(graph, whole, together, strange)


def _either(graph: Graph, first: str, yes: str, no: str) -> str:
    """yes where `first` holds, else no; all three are truths."""
    return graph("Or", graph("And", first, yes), graph("And", graph("Not", first), no))


class SampleTold(NamedTuple):
    """Of a sample: d_1², and where a change is judged from some sample on, whether it is too early, d_2, the errors."""

    square: str
    early: str = ""
    change: str = ""
    errors: str = ""

    def beyond(self, most: Most, graph: Graph) -> str:
        """[b, 1]: whether it is strange."""
        alone = graph("Greater", self.square, graph.wide_number(most.alone**2))
        if not self.change:
            return alone
        place = graph("Greater", self.square, graph.wide_number(most.place**2))
        both = graph("Or", place, graph("Greater", self.change, graph.wide_number(most.change)))
        return _either(graph, self.early, alone, both)


def _trail(guard: GuardStage, window: KnownWindow, graph: Graph, seen: SampleTold, trail: str) -> str:
    """The last rows, this sample's the newest: p is a sum of ramps between the distances."""
    d, x, p = graph("Sqrt", seen.square), window.distances, window.shares
    ramps = graph("Div", graph("Sub", d, graph.own("distances", x[:-1])), graph.own("lengths", np.diff(x)))
    ramps = graph.between(ramps, graph.wide_number(0), graph.wide_number(1))
    share = graph("Add", graph("MatMul", ramps, graph.own("falls", np.diff(p)[:, None])), graph.wide_number(p[0]))
    share = graph("Where", graph("Less", d, graph.wide_number(x[0])), graph.wide_number(1), share)
    parts = [graph("Neg", graph("Log", graph("Max", share, graph.wide_number(1e-12))))]
    if seen.errors:
        cut = graph.between(seen.errors, graph.wide_number(-5), graph.wide_number(5))
        parts.append(graph("Where", seen.early, graph.wide_number(0), cut))
    return graph.joined(graph.columns(trail, guard.row, guard.kept), *parts)


def _together(guard: GuardStage, window: KnownWindow, graph: Graph, trail: str) -> str:
    """[b, 1]: whether the rows of a window are strange on average."""
    rows = graph("Reshape", trail, graph.whole_number([-1, window.samples, guard.row]))
    mean = graph("ReduceMean", rows, axes=[1], keepdims=0)
    place, size, side = (graph.wide_number(most) for most in window.most)
    strange = graph("Greater", graph.columns(mean, 0, 1), place)
    if guard.row == 1:
        return strange
    squares = graph("ReduceMean", graph("Mul", rows, rows), axes=[1], keepdims=0)
    large = graph("Greater", graph.most(graph.columns(squares, 1, guard.row)), size)
    aside = graph("Greater", graph.most(graph("Abs", graph.columns(mean, 1, guard.row))), side)
    return graph("Or", strange, graph("Or", large, aside))


def _changed(change: KnownChange, graph: Graph, z: str, past: str, nearest: str) -> tuple[str, str]:
    """How far the newest numbers are from what the past led one to expect, in usual errors: the most, and each."""
    x = _in_units(graph, "past", past, change.past_shift, change.past_scale)
    size, features = len(change.past_shift), change.weights.shape[1]
    weights = change.weights.T.astype(float)
    expected = graph("MatMul", x, graph.own("linear", weights[1 : 1 + size]))
    expected = graph("Add", expected, graph.own("constant", weights[0]))
    if features > 1 + size:
        i, k = np.triu_indices(size)
        products = graph("Mul", graph.picked(x, i.tolist()), graph.picked(x, k.tolist()))
        quadratic = graph("MatMul", products, graph.own("quadratic", weights[1 + size :]))
        expected = graph("Add", expected, quadratic)
    newest = graph.picked(z, change.newest.tolist())
    y = _in_units(graph, "newest", newest, change.newest_shift, change.newest_scale)
    off = graph("Sub", y, expected)
    usual = graph("Gather", graph.own("errors", change.errors.astype(float)), nearest, axis=0)
    far = graph("Max", graph("Abs", off), graph.wide_number(1e-3))
    return graph.most(graph("Div", far, usual)), graph("Div", off, usual)


@functools.singledispatch
def relieved(
    relief: AbstractRelief, graph: Graph, obs: str, executed: str, kept: dict[str, str]
) -> tuple[str, dict[str, str]]:
    """(the action of a relief, what its loops keep)."""
    raise TypeError(f"{type(relief).__name__} has no form in ONNX.")


@relieved.register
def _(relief: Kept, graph: Graph, obs: str, executed: str, kept: dict[str, str]) -> tuple[str, dict[str, str]]:
    return executed, {}


@relieved.register
def _(relief: Moved, graph: Graph, obs: str, executed: str, kept: dict[str, str]) -> tuple[str, dict[str, str]]:
    return graph("Add", executed, graph.own("change", relief.change)), {}


@relieved.register
def _(relief: Straight, graph: Graph, obs: str, executed: str, kept: dict[str, str]) -> tuple[str, dict[str, str]]:
    moved = graph("MatMul", graph.double(obs), graph.own("weight", relief.weight))
    action = graph("Add", moved, graph.own("bias", relief.bias))
    return graph.single(graph.between(action, graph.own("low", relief.low), graph.own("high", relief.high))), {}


@relieved.register
def _(relief: PidLoops, graph: Graph, obs: str, executed: str, kept: dict[str, str]) -> tuple[str, dict[str, str]]:
    """As `numeric.pid` has it, all loops side by side."""
    loops = relief.loops
    of = {
        name: graph.own(name, np.array([getattr(loop, name) for loop in loops], float))
        for name in PidLoop._fields[PidLoop._fields.index("target") :]
    }
    value = graph.double(graph.picked(obs, [loop.measured for loop in loops]))
    given = graph.double(graph.picked(obs, [max(loop.set_point, 0) for loop in loops]))
    r = graph("Where", graph.own("is_target", np.array([loop.set_point < 0 for loop in loops])), of["target"], given)
    before = graph("Where", graph("Greater", kept["relieved"], graph.wide_number(0.5)), kept["measured"], value)
    falls = graph("Mul", of["rate"], graph("Sub", value, before))
    derivative = graph("Sub", graph("Mul", of["keep"], kept["derivative"]), falls)
    gained = graph("Mul", of["gain"], graph("Sub", r, value))
    later = graph("Add", kept["integral"], gained)
    proportional = graph("Mul", of["kp"], graph("Sub", graph("Mul", of["weight"], r), value))
    v = graph("Add", graph("Add", graph("Add", of["bias"], proportional), later), derivative)
    u = graph.between(v, of["low"], of["high"])
    outwards = graph("Greater", graph("Mul", graph("Sub", v, u), gained), graph.wide_number(0))
    tracked = graph("Add", later, graph("Mul", of["track"], graph("Sub", u, v)))
    integral = graph("Where", outwards, kept["integral"], later)
    integral = graph("Where", graph("Greater", of["track"], graph.wide_number(0)), tracked, integral)
    driven = np.zeros((len(loops), relief.size))
    driven[np.arange(len(loops)), [loop.driven for loop in loops]] = 1
    hold = graph.own("hold", np.where(driven.any(axis=0), 0, relief.hold))
    action = graph("Add", graph("MatMul", u, graph.own("driven", driven)), hold)
    one = graph("Add", graph("Mul", kept["relieved"], graph.wide_number(0)), graph.wide_number(1))
    return graph.single(action), {"relieved": one, "integral": integral, "derivative": derivative, "measured": value}
