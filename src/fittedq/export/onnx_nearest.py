"""The nearest point of a polytope in ONNX: `numeric.nearest_point` for a batch, step by step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fittedq.export.onnx_graph import Graph
from fittedq.export.program import NearestPoint

INTERIOR, NEWTON = 25, 5
"""Steps of `numeric.nearest_point`."""


class Walls(NamedTuple):
    """{x : rows · x ≤ bound, low ≤ x ≤ high} in units, and the point whose nearest one is wanted: names of values."""

    rows: str
    transposed: str
    bound: str
    low: str
    high: str
    walls: str
    eye: str
    point: str
    p: int
    m: int


def _total(graph: Graph, x: str) -> str:
    return graph("ReduceSum", x, graph.whole_number([-1]), keepdims=1)


def _widened(graph: Graph, x: str, axis: int) -> str:
    return graph("Unsqueeze", x, graph.whole_number([axis]))


def _solved(graph: Graph, matrix: str, right: str, p: int) -> str:
    """matrix⁻¹ right, [b, p], for positive definite matrices [b, p, p]: Gauss and Jordan's elimination, written out."""
    table = graph("Concat", matrix, _widened(graph, right, 2), axis=2)
    for k in range(p):
        at = graph.whole_number([k])
        row = graph("Gather", table, at, axis=1)
        row = graph("Div", row, graph("Gather", row, at, axis=2))
        rest = graph("Sub", table, graph("Mul", graph("Gather", table, at, axis=2), row))
        table = graph("Where", graph.own(f"is_row_{k}", (np.arange(p) == k)[:, None]), row, rest)
    return graph("Squeeze", graph("Gather", table, graph.whole_number([p]), axis=2), graph.whole_number([2]))


def _diagonal(graph: Graph, w: Walls, matrix: str) -> str:
    """[b, p] of [b, p, p]."""
    return graph("Squeeze", _total(graph, graph("Mul", matrix, w.eye)), graph.whole_number([2]))


def _gram(graph: Graph, w: Walls, weight: str) -> str:
    """rows · diag(weight) · rowsᵀ, [b, p, p]."""
    return graph("MatMul", graph("Mul", w.rows, _widened(graph, weight, 1)), w.transposed)


def _plus_diagonal(graph: Graph, w: Walls, matrix: str, diagonal: str) -> str:
    return graph("Add", matrix, graph("Mul", w.eye, _widened(graph, diagonal, 2)))


def _interior(graph: Graph, w: Walls, x: str, slack: str, z: str) -> tuple[str, str, str]:
    """One step of the interior-point method."""
    p, m = w.p, w.m
    one = graph.wide_number(1)
    mean = graph("ReduceMean", graph("Mul", slack, z), axes=[1], keepdims=1)
    target = graph("Max", graph("Mul", mean, graph.wide_number(0.1)), graph.wide_number(1e-10))
    weight, share = graph("Div", z, slack), graph("Div", target, slack)
    on_rows = graph.columns(weight, 0, p)
    on_ends = graph("Add", graph.columns(weight, p, p + m), graph.columns(weight, p + m, p + 2 * m))
    inverse = graph("Div", one, graph("Add", one, on_ends))
    right = graph("Sub", graph("Sub", w.point, x), graph("MatMul", share, w.walls))
    system = _gram(graph, w, inverse)
    softened = graph("Mul", _diagonal(graph, w, system), graph.wide_number(1e-5))
    system = _plus_diagonal(graph, w, system, graph("Add", graph("Div", one, on_rows), softened))
    pressure = _solved(graph, system, graph("MatMul", graph("Mul", inverse, right), w.transposed), p)
    x_step = graph("Mul", inverse, graph("Sub", right, graph("MatMul", pressure, w.rows)))
    row_step = graph("Neg", graph("Div", pressure, on_rows))
    slack_step = graph.joined(row_step, graph("Neg", x_step), x_step)
    z_step = graph("Sub", graph("Sub", share, z), graph("Mul", weight, slack_step))
    falls = graph.joined(graph("Div", slack_step, slack), graph("Div", z_step, z))
    steepest = graph.most(graph("Neg", falls))
    length = graph("Div", graph.wide_number(0.99), graph("Max", steepest, graph.wide_number(0.99)))
    moved = [
        graph("Add", part, graph("Mul", length, step)) for part, step in ((x, x_step), (slack, slack_step), (z, z_step))
    ]
    least = graph.wide_number(1e-12)
    return moved[0], graph("Max", moved[1], least), graph("Max", moved[2], least)


def _primal(graph: Graph, w: Walls, force: str) -> str:
    """clip(point − force · rows, low, high)."""
    return graph.between(graph("Sub", w.point, graph("MatMul", force, w.rows)), w.low, w.high)


def _pushed(graph: Graph, w: Walls, force: str, at: str) -> str:
    """force + rows · x(at) − bound."""
    outside = graph("Sub", graph("MatMul", _primal(graph, w, at), w.transposed), w.bound)
    return graph("Add", force, outside)


def _residual(graph: Graph, w: Walls, force: str) -> str:
    """[b, 1]: by how much the forces err at most."""
    wanted = graph("Max", _pushed(graph, w, force, force), graph.wide_number(0))
    return graph.most(graph("Abs", graph("Sub", force, wanted)))


def _newton(graph: Graph, w: Walls, force: str, least: str) -> tuple[str, str]:
    """One step of Newton's method on the rows that bind; `least` are the forces that err least so far."""
    zero, one = graph.wide_number(0), graph.wide_number(1)
    binding = graph("Greater", _pushed(graph, w, force, force), zero)
    base = graph("Where", binding, force, zero)
    x = graph("Sub", w.point, graph("MatMul", base, w.rows))
    free = graph("And", graph("Greater", x, w.low), graph("Less", x, w.high))
    system = _gram(graph, w, graph.double(free))
    strength = _diagonal(graph, w, system)
    binding = graph("And", binding, graph("Greater", strength, graph.wide_number(1e-10)))
    both = graph("And", _widened(graph, binding, 2), _widened(graph, binding, 1))
    softened = graph("Where", binding, graph("Mul", strength, graph.wide_number(1e-5)), one)
    system = _plus_diagonal(graph, w, graph("Where", both, system, zero), softened)
    outside = graph("Sub", graph("MatMul", _primal(graph, w, base), w.transposed), w.bound)
    change = _solved(graph, system, graph("Where", binding, outside, zero), w.p)
    force = graph("Max", graph("Add", base, change), zero)
    better = graph("Less", _residual(graph, w, force), _residual(graph, w, least))
    return force, graph("Where", better, force, least)


def nearest_nodes(stage: NearestPoint, graph: Graph, action: str) -> str:
    """The action, or the admissible one next to it."""
    units = stage.units
    (p, m), rows = units.rows.shape, units.rows.astype(float)
    walls = np.concatenate([rows, np.eye(m), -np.eye(m)])
    ends = np.concatenate([units.bound, units.high, -units.low])
    wide = graph.double(action)
    center, scale = graph.own("center", stage.center), graph.own("scale", np.asarray(units.scale, float))
    w = Walls(
        rows=graph.own("rows", rows),
        transposed=graph.own("rows_transposed", np.ascontiguousarray(rows.T)),
        bound=graph.own("bound_in_units", np.asarray(units.bound, float)),
        low=graph.own("low", np.asarray(units.low, float)),
        high=graph.own("high", np.asarray(units.high, float)),
        walls=graph.own("walls", walls),
        eye=graph.own("eye", np.eye(p)),
        point=graph("Div", graph("Sub", wide, center), scale),
        p=p,
        m=m,
    )
    inner, nothing = graph.own("inner", np.asarray(units.inner, float)), graph("Mul", w.point, graph.wide_number(0))
    far = graph.most(graph("Abs", graph("Sub", w.point, inner)))
    first = graph("Add", graph("MatMul", nothing, graph.own("zeros", np.zeros((m, p + 2 * m)))), graph.wide_number(1))
    x = graph("Add", nothing, inner)
    slack = graph("Mul", first, graph.own("slack", ends - walls @ np.asarray(units.inner, float)))
    z = graph("Mul", first, graph("Add", far, graph.wide_number(1)))
    for _ in range(INTERIOR):
        x, slack, z = _interior(graph, w, x, slack, z)
    force = least = graph.columns(z, 0, p)
    for _ in range(NEWTON):
        force, least = _newton(graph, w, force, least)
    size = graph.most(graph("Abs", w.point))
    near = graph("Mul", graph("Add", size, graph.wide_number(1)), graph.wide_number(3e-6))
    x = graph("Where", graph("Less", _residual(graph, w, least), near), _primal(graph, w, least), x)
    x = graph.between(x, w.low, w.high)
    found = graph("Add", graph("Mul", _pulled(graph, stage, w, x, inner), scale), center)
    floor, ceiling = graph.own("floor", stage.floor), graph.own("ceiling", stage.ceiling)
    found = graph.between(found, floor, ceiling)
    inside = _inside(graph, stage, wide, floor, ceiling)
    return graph("Where", inside, action, found if graph.wide else graph.single(found))


def _pulled(graph: Graph, stage: NearestPoint, w: Walls, x: str, inner: str) -> str:
    """x, or as much of the way to it from the inside as keeps half the margin."""
    units = stage.units
    room = np.maximum(units.bound + units.margin / 2 - units.rows @ np.asarray(units.inner, float), 0)
    way = graph("Sub", x, inner)
    needed, room = graph("MatMul", way, w.transposed), graph.own("room", room)
    share = graph("Div", room, graph("Max", needed, graph.wide_number(1e-30)))
    share = graph("Where", graph("Greater", needed, room), share, graph.wide_number(1))
    return graph("Add", inner, graph("Mul", graph.least(share), way))


def _inside(graph: Graph, stage: NearestPoint, wide: str, floor: str, ceiling: str) -> str:
    """[b, 1]: whether the action is admissible already."""
    matrix = graph.own("matrix", np.ascontiguousarray(stage.matrix.T))
    held = graph.all(graph("LessOrEqual", graph("MatMul", wide, matrix), graph.own("limits", stage.limits)))
    ends = graph("And", graph("GreaterOrEqual", wide, floor), graph("LessOrEqual", wide, ceiling))
    return graph("And", held, graph.all(ends))
