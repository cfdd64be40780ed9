"""The solver of a controller in ONNX: critics forwards and back, looks and steps, written out one by one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fittedq.export.onnx_graph import Graph
from fittedq.export.onnx_nearest import nearest_nodes
from fittedq.export.onnx_stages import change_ends, node, probabilities, through
from fittedq.export.program import (
    CUBE,
    GELU,
    LEAK,
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
    SearchTrees,
    UnitLength,
)
from fittedq.export.reverse import passes


class Point(NamedTuple):
    """An action [b, m], its value [b, 1], and, where there is one, the derivative by it [b, m]: names."""

    action: str
    value: str
    gradient: str = ""

    def or_better(self, other: Point, graph: Graph) -> tuple[Point, str]:
        """(the other where its value is higher by more than rounding, where that is)."""
        size = graph("Add", graph("Abs", self.value), graph.number(1))
        margin = graph("Mul", size, graph.wide_number(1e-10))
        better = graph("Greater", other.value, graph("Add", self.value, margin))
        return Point(
            *(graph("Where", better, new, old) if new else "" for new, old in zip(other, self, strict=True))
        ), better


def _repeated(graph: Graph, x: str, times: int) -> str:
    """[b, times, n] of [b, n]."""
    return graph("Expand", graph("Unsqueeze", x, graph.whole_number([1])), graph.whole_number([1, times, 1]))


class SearchEnds(NamedTuple):
    """Between which actions are looked for, [m] or [b, m]: names."""

    low: str
    high: str

    def kept(self, graph: Graph, points: str) -> str:
        """clip(points, low, high) of points [b, k, m]."""
        axis = graph.whole_number([-2])
        return graph.between(points, *(graph("Unsqueeze", end, axis) for end in self))


def _ends(stage: AbstractSolver, graph: Graph, seen: str) -> SearchEnds:
    """Between which actions it looks at s."""
    graph.within("ends")
    if stage.changes is not None:
        return SearchEnds(*change_ends(stage.changes, graph, seen))
    return SearchEnds(graph.own("low", stage.low), graph.own("high", stage.high))


def _starts(stage: AbstractSolver, graph: Graph, seen: str, ends: SearchEnds) -> str:
    """[b, count, m]: the starts, inside the ends."""
    nothing = graph("Unsqueeze", graph.filled(seen, 0), graph.whole_number([1]))
    return ends.kept(graph, graph("Add", nothing, graph.own("starts", stage.starts)))


# ---------------------------------------------------------------------- gradient steps


@node.register
def _(stage: Ascend, graph: Graph, seen: str, *start: str) -> str:
    ends = _ends(stage, graph, seen)
    point = _valued(stage, graph, "begin", seen, start[0]) if start else _best_start(stage, graph, seen, ends)
    begun, step = point.action, graph.wide_number([[stage.trust / 2]])
    for k in range(stage.steps):
        graph.within(f"step_{k}", "solver")
        moved = _moved_along(stage, graph, begun, point, step, ends, k)
        other = _valued(stage, graph, f"step_{k}", seen, moved)
        graph.within(f"step_{k}", "solver")
        point, better = point.or_better(other, graph)
        factor = graph("Where", better, graph.wide_number(2), graph.wide_number(0.25))
        step = graph("Mul", step, factor)
    return point.action


def _moved_along(stage: Ascend, graph: Graph, begun: str, point: Point, step: str, ends: SearchEnds, k: int) -> str:
    """A step along the gradient, in the box and no farther from where it began than `trust`."""
    half, unit = graph.own("half_width", stage.half_width), graph.own("unit", stage.unit)
    direction = graph("Mul", point.gradient, unit)
    largest = graph("Max", graph.most(graph("Abs", direction)), graph.wide_number(1e-30))
    change = graph("Mul", graph("Mul", step, unit), graph("Div", direction, largest))
    moved, (low, high) = graph("Add", point.action, change), ends
    if stage.nearest is None:
        moved = graph.between(moved, low, high)
    else:
        graph.within(f"nearest_{k}", "nearest")
        moved = nearest_nodes(stage.nearest, graph, moved)
        graph.within(f"back_{k}", "solver")
    way, trust = graph("Sub", moved, begun), graph.wide_number(stage.trust)
    far = graph.most(graph("Div", graph("Abs", way), half))
    share = graph("Div", trust, graph("Max", far, trust))
    return graph.between(graph("Add", begun, graph("Mul", way, share)), low, high)


def _best_start(stage: Ascend, graph: Graph, seen: str, ends: SearchEnds) -> Point:
    """The best of the starts, all of them evaluated at once."""
    count, m = stage.starts.shape
    graph.within("starts", "solver")
    rows = graph("Reshape", _repeated(graph, seen, count), graph.whole_number([-1, stage.obs_size]))
    points = _starts(stage, graph, seen, ends)
    rows_of = _valued(stage, graph, "starts", rows, graph("Reshape", points, graph.whole_number([-1, m])))
    graph.within("starts", "solver")
    value = graph("Reshape", rows_of.value, graph.whole_number([-1, count]))
    gradient = graph("Reshape", rows_of.gradient, graph.whole_number([-1, count, m]))

    def at(k: int) -> Point:
        action, slope = (graph("Gather", part, graph.whole_number(k), axis=1) for part in (points, gradient))
        return Point(action, graph.columns(value, k, k + 1), slope)

    best = at(0)
    for k in range(1, count):
        best, _ = best.or_better(at(k), graph)
    return best


def _valued(stage: Ascend, graph: Graph, scope: str, seen: str, action: str) -> Point:
    """min_j q_j at (s, a), and its derivative by a."""
    graph.within(f"{scope}_in", "solver")
    center, half = graph.own("center", stage.center), graph.own("half_width", stage.half_width)
    x = graph.joined(seen, graph("Div", graph("Sub", action, center), half))
    one, found = graph.filled(x, 1), None
    for j, lines in enumerate(stage.critics):
        values = through(lines, graph, x, f"{scope}_critic{j}_", f"critic{j}_")
        slopes = {len(lines): one}
        for back in passes(lines):
            read, sources = lines[back.of - 1]
            graph.within(f"{scope}_back{j}_{back.of}_{back.to}", f"critic{j}_back{back.of}")
            which, of = sources.index(back.to), [values[source] for source in sources]
            slope = back_node(read, graph, slopes[back.of], values[back.of], which, *of)
            slopes[back.to] = graph("Add", slopes[back.to], slope) if back.adds else slope
        graph.within(f"{scope}_least{j}", "solver")
        slope = graph("Div", graph.columns(slopes[0], stage.obs_size, stage.obs_size + stage.size), half)
        if found is None:
            found = Point(action, values[-1], slope)
        else:
            lower = graph("Less", values[-1], found.value)
            pairs = ((values[-1], found.value), (slope, found.gradient))
            found = Point(action, *(graph("Where", lower, new, old) for new, old in pairs))
    assert found is not None
    is_number = graph("LessOrEqual", graph("Abs", found.gradient), graph.wide_number(np.finfo(np.float64).max))
    return found._replace(gradient=graph("Where", is_number, found.gradient, graph.number(0)))


# ---------------------------------------------------------------------- back through a stage


@functools.singledispatch
def back_node(stage: AbstractStage, graph: Graph, g: str, y: str, which: int, *read: str) -> str:
    """The derivative by the value `which` that a stage reads, of g, that by what it makes, y; `reverse.backward`."""
    raise TypeError(f"{type(stage).__name__} has no derivative in ONNX.")


@back_node.register
def _(stage: Dense, graph: Graph, g: str, y: str, which: int, x: str) -> str:
    return graph("MatMul", g, graph.own("transposed", np.ascontiguousarray(stage.weight.T)))


def _one_less_square(graph: Graph, t: str) -> str:
    return graph("Sub", graph.number(1), graph("Mul", t, t))


def _back_silu(graph: Graph, g: str, x: str, y: str) -> str:
    half = graph("Mul", x, graph.number(0.5))
    t = graph("Tanh", half)
    rise = graph("Add", graph("Add", t, graph.number(1)), graph("Mul", half, _one_less_square(graph, t)))
    return graph("Mul", graph("Mul", g, graph.number(0.5)), rise)


def _back_gelu(graph: Graph, g: str, x: str, y: str) -> str:
    c, d = graph.number(GELU), graph.number(CUBE)
    square = graph("Mul", x, x)
    t = graph("Tanh", graph("Mul", c, graph("Add", x, graph("Mul", d, graph("Mul", square, x)))))
    inner = graph("Mul", c, graph("Add", graph("Mul", graph("Mul", d, graph.number(3)), square), graph.number(1)))
    rise = graph("Mul", graph("Mul", x, _one_less_square(graph, t)), inner)
    return graph("Mul", graph("Mul", g, graph.number(0.5)), graph("Add", graph("Add", t, graph.number(1)), rise))


def _back_softplus(graph: Graph, g: str, x: str, y: str) -> str:
    t = graph("Tanh", graph("Mul", x, graph.number(0.5)))
    return graph("Mul", graph("Mul", g, graph.number(0.5)), graph("Add", t, graph.number(1)))


BACK_ACTIVATION: dict[str, Callable[[Graph, str, str, str], str]] = {
    "relu": lambda graph, g, x, y: graph.where_positive(x, g, graph.number(0)),
    "leaky_relu": lambda graph, g, x, y: graph.where_positive(x, g, graph("Mul", g, graph.number(LEAK))),
    "tanh": lambda graph, g, x, y: graph("Mul", g, _one_less_square(graph, y)),
    "silu": _back_silu,
    "gelu": _back_gelu,
    "softplus": _back_softplus,
    "elu": lambda graph, g, x, y: graph.where_positive(x, g, graph("Mul", g, graph("Add", y, graph.number(1)))),
}


@back_node.register
def _(stage: Activate, graph: Graph, g: str, y: str, which: int, x: str) -> str:
    return BACK_ACTIVATION[stage.function](graph, g, x, y)


@back_node.register
def _(stage: LayerNorm, graph: Graph, g: str, y: str, which: int, x: str) -> str:
    centered, g = graph("Sub", x, graph.mean(x)), graph("Mul", g, graph.own("gain", stage.gain))
    scale = graph("Sqrt", graph("Add", graph.mean(graph("Mul", centered, centered)), graph.number(stage.least)))
    unit = graph("Div", centered, scale)
    along = graph("Mul", unit, graph.mean(graph("Mul", g, unit)))
    return graph("Div", graph("Sub", graph("Sub", g, graph.mean(g)), along), scale)


@back_node.register
def _(stage: UnitLength, graph: Graph, g: str, y: str, which: int, x: str) -> str:
    along = graph("Mul", y, graph.total(graph("Mul", y, g)))
    length = graph("Sqrt", graph("Add", graph.total(graph("Mul", x, x)), graph.number(stage.least)))
    return graph("Div", graph("Sub", g, along), length)


@back_node.register
def _(stage: AverageL1, graph: Graph, g: str, y: str, which: int, x: str) -> str:
    mean, least = graph.mean(graph("Abs", x)), graph.number(stage.least)
    share = graph("Div", graph.total(graph("Mul", y, g)), graph("Mul", mean, graph.number(stage.size)))
    free = graph("Sub", graph("Div", g, mean), graph("Mul", graph("Sign", x), share))
    return graph("Where", graph("Greater", mean, least), free, graph("Div", g, least))


@back_node.register
def _(stage: Append, graph: Graph, g: str, y: str, which: int, x: str) -> str:
    return graph.columns(g, 0, stage.size - 1)


@back_node.register
def _(stage: Join, graph: Graph, g: str, y: str, which: int, x: str, other: str) -> str:
    return graph.columns(g, stage.first, stage.width) if which else graph.columns(g, 0, stage.first)


@back_node.register
def _(stage: Blend, graph: Graph, g: str, y: str, which: int, x: str, other: str) -> str:
    name = ("keep", "take")[which]
    return graph("Mul", g, graph.own(name, getattr(stage, name)))


@back_node.register
def _(stage: Expect, graph: Graph, g: str, y: str, which: int, x: str) -> str:
    off = graph("Sub", graph.own("values_row", stage.values[None]), y)
    return graph("Mul", graph("Mul", g, probabilities(graph, x)), off)


# ---------------------------------------------------------------------- trees


@node.register
def _(stage: SearchTrees, graph: Graph, seen: str, *start: str) -> str:
    """Each look is a row of points [b, 16, m], whose values come out of the trees together."""
    low, high = ends = _ends(stage, graph, seen)
    graph.within("begin", "trees")
    m, half = stage.size, graph.own("half_width", stage.half_width)
    if start:
        a = graph.double(graph.single(start[0]))
        point = Point(a, _tree_values(stage, graph, seen, graph("Unsqueeze", a, graph.whole_number([1])), 1))
    else:
        point = _first_of(stage, graph, seen, ends)
    reach = graph("Mul", half, graph.wide_number(stage.trust))
    least, most = (graph.between(graph(kind, point.action, reach), low, high) for kind in ("Sub", "Add"))
    for k, (axis, radius) in enumerate(stage.looks):
        graph.within(f"look_{k}", "trees")
        offsets = radius * ((2 * np.arange(LOOK_POINTS) - (LOOK_POINTS - 1)) / (LOOK_POINTS - 1))
        line = graph("Add", graph.columns(point.action, axis, axis + 1), graph.own(f"line_{k}", offsets[None]))
        ends = (graph.columns(end, axis, axis + 1) for end in (least, most))
        line = graph.double(graph.single(graph.between(line, *ends)))
        parts = [_repeated(graph, graph.columns(point.action, i, i + 1), LOOK_POINTS) for i in range(m)]
        parts[axis] = graph("Unsqueeze", line, graph.whole_number([2]))
        values = _tree_values(stage, graph, seen, graph("Concat", *parts, axis=2), LOOK_POINTS)
        at = graph("ArgMax", values, axis=1, keepdims=1)
        chosen = graph("GatherElements", line, at, axis=1)
        kept = [graph.columns(point.action, i, i + 1) for i in range(m)]
        kept[axis] = chosen
        point, _ = point.or_better(Point(graph.joined(*kept), graph.most(values)), graph)
    return point.action


def _first_of(stage: SearchTrees, graph: Graph, seen: str, ends: SearchEnds) -> Point:
    """The best of the starts."""
    points = graph.double(graph.single(_starts(stage, graph, seen, ends)))
    values = _tree_values(stage, graph, seen, points, len(stage.starts))
    at = graph("Unsqueeze", graph("ArgMax", values, axis=1, keepdims=1), graph.whole_number([2]))
    at = graph("Expand", at, graph.whole_number([1, 1, stage.size]))
    best = graph("GatherElements", points, at, axis=1)
    return Point(graph("Squeeze", best, graph.whole_number([1])), graph.most(values))


def _tree_values(stage: SearchTrees, graph: Graph, seen: str, points: str, count: int) -> str:
    """q [b, count] at points [b, count, m]: all trees are walked side by side, level by level."""
    x = graph.single(graph("Concat", _repeated(graph, seen, count), points, axis=2))
    tables = {
        "feature": stage.feature.astype(np.int64),
        "child": stage.child.astype(np.int64),
        "value": stage.value.astype(np.float64),
    }
    names = {name: graph.own(name, table) for name, table in tables.items()}
    names["threshold"] = graph.constant("trees.threshold", stage.threshold)
    roots = graph.whole_number(list(range(stage.trees)))
    read = graph("Gather", x, graph("Gather", names["feature"], roots), axis=2)
    node_of = roots
    for level in range(max(stage.depth, 1)):
        if level:
            read = graph("GatherElements", x, graph("Gather", names["feature"], node_of), axis=2)
        right = graph("Greater", read, graph("Gather", names["threshold"], node_of))
        child = graph("Gather", names["child"], node_of)
        node_of = graph("Add", child, graph.whole(right))
    leaves = graph("Gather", names["value"], node_of)
    total = graph("ReduceSum", leaves, graph.whole_number([2]), keepdims=0)
    return graph("Div", total, graph.wide_number(stage.trees))
