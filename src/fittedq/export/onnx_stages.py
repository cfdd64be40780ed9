"""The stages of a controller as nodes of an ONNX graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from fittedq.errors import UserError
from fittedq.export.onnx_graph import Graph
from fittedq.export.onnx_nearest import nearest_nodes
from fittedq.export.program import (
    CUBE,
    GELU,
    LEAK,
    AbstractStage,
    Activate,
    Affine,
    Append,
    AverageL1,
    Blend,
    Clip,
    Dense,
    Expect,
    Join,
    LayerNorm,
    NearestPoint,
    Normalize,
    ProgramLine,
    RoundWhole,
    Stretch,
    UnitLength,
)


@functools.singledispatch
def node(stage: AbstractStage, graph: Graph, *values: str) -> str:
    """The output of the stage on these values; a UserError where ONNX cannot say it."""
    raise UserError(f"export: found the stage {type(stage).__name__}, which has no form in ONNX.")


@node.register
def _(stage: Normalize, graph: Graph, x: str) -> str:
    centered = graph("Sub", x, graph.own("mean", stage.mean))
    scaled = graph("Div", centered, graph.own("deviation", stage.deviation))
    limit = np.minimum(stage.limit, np.float32(np.inf))
    return graph.between(scaled, graph.own("low", -limit), graph.own("high", limit))


@node.register
def _(stage: Dense, graph: Graph, x: str) -> str:
    product = graph("MatMul", x, graph.own("weight", stage.weight))
    return graph("Add", product, graph.own("bias", stage.bias))


def _tanh_sigmoid(graph: Graph, x: str, inner: str) -> str:
    """x (1 + tanh(inner)) / 2."""
    half = graph("Mul", x, graph.number(0.5))
    return graph("Mul", half, graph("Add", graph("Tanh", inner), graph.number(1)))


def _silu(graph: Graph, x: str) -> str:
    return _tanh_sigmoid(graph, x, graph("Mul", x, graph.number(0.5)))


def _gelu(graph: Graph, x: str) -> str:
    cubed = graph("Mul", graph("Mul", graph("Mul", x, x), x), graph.number(CUBE))
    return _tanh_sigmoid(graph, x, graph("Mul", graph("Add", x, cubed), graph.number(GELU)))


def _softplus(graph: Graph, x: str) -> str:
    small = graph("Exp", graph("Neg", graph("Abs", x)))
    return graph("Add", graph("Max", x, graph.number(0)), graph("Log", graph("Add", small, graph.number(1))))


def _elu(graph: Graph, x: str) -> str:
    return graph.where_positive(x, x, graph("Sub", graph("Exp", graph("Min", x, graph.number(0))), graph.number(1)))


ACTIVATION_NODES: dict[str, Callable[[Graph, str], str]] = {
    "relu": lambda graph, x: graph.where_positive(x, x, graph.number(0)),
    "leaky_relu": lambda graph, x: graph.where_positive(x, x, graph("Mul", x, graph.number(LEAK))),
    "tanh": lambda graph, x: graph("Tanh", x),
    "silu": _silu,
    "gelu": _gelu,
    "softplus": _softplus,
    "elu": _elu,
}


@node.register
def _(stage: Activate, graph: Graph, x: str) -> str:
    return ACTIVATION_NODES[stage.function](graph, x)


@node.register
def _(stage: LayerNorm, graph: Graph, x: str) -> str:
    centered = graph("Sub", x, graph.mean(x))
    variance = graph.mean(graph("Mul", centered, centered))
    scaled = graph("Div", centered, graph("Sqrt", graph("Add", variance, graph.number(stage.least))))
    return graph("Add", graph("Mul", scaled, graph.own("gain", stage.gain)), graph.own("shift", stage.shift))


@node.register
def _(stage: UnitLength, graph: Graph, x: str) -> str:
    return graph("Div", x, graph("Sqrt", graph("Add", graph.total(graph("Mul", x, x)), graph.number(stage.least))))


@node.register
def _(stage: AverageL1, graph: Graph, x: str) -> str:
    mean = graph.mean(graph("Abs", x))
    return graph("Div", x, graph("Max", mean, graph.number(stage.least)))


@node.register
def _(stage: Append, graph: Graph, x: str) -> str:
    return graph.joined(x, graph.filled(x, stage.number))


@node.register
def _(stage: Join, graph: Graph, x: str, y: str) -> str:
    return graph.joined(x, y)


@node.register
def _(stage: Blend, graph: Graph, x: str, y: str) -> str:
    kept, taken = graph("Mul", x, graph.own("keep", stage.keep)), graph("Mul", y, graph.own("take", stage.take))
    return graph("Add", kept, taken)


@node.register
def _(stage: Affine, graph: Graph, x: str) -> str:
    moved = graph("Mul", x, graph.own("half_width", stage.half_width))
    return graph("Add", moved, graph.own("center", stage.center))


@node.register
def _(stage: Clip, graph: Graph, x: str) -> str:
    return graph.between(x, graph.own("low", stage.low), graph.own("high", stage.high))


@node.register
def _(stage: RoundWhole, graph: Graph, x: str) -> str:
    rounded = graph("Where", graph.own("whole", stage.whole), graph("Round", x), x)
    return graph.between(rounded, graph.own("low", stage.low), graph.own("high", stage.high))


def change_ends(stage: Stretch, graph: Graph, z: str) -> tuple[str, str]:
    """The ends of what the action before may change by."""
    size = len(stage.rate)
    moved = graph("Mul", graph.columns(z, stage.first, stage.first + size), graph.own("half_width", stage.half_width))
    before = graph("Add", moved, graph.own("center", stage.center))
    most, least = graph.own("rate", stage.rate), graph.own("minus_rate", -stage.rate)
    low = graph.between(graph("Sub", graph.own("least", stage.least), before), least, most)
    return low, graph.between(graph("Sub", graph.own("most", stage.most), before), least, most)


@node.register
def _(stage: Stretch, graph: Graph, unit: str, z: str) -> str:
    low, high = change_ends(stage, graph, z)
    share = graph("Mul", graph("Add", unit, graph.number(1)), graph.number(0.5))
    return graph.between(graph("Add", graph("Mul", share, graph("Sub", high, low)), low), low, high)


@node.register
def _(stage: Expect, graph: Graph, x: str) -> str:
    p = probabilities(graph, x)
    return graph("MatMul", p, graph.own("values", stage.values[:, None]))


def probabilities(graph: Graph, x: str) -> str:
    """softmax(x), by rows."""
    p = graph("Exp", graph("Sub", x, graph.most(x)))
    return graph("Div", p, graph.total(p))


node.register(NearestPoint)(nearest_nodes)


def through(
    lines: Sequence[ProgramLine], graph: Graph, first: str, scope: str = "", tables: str | None = None
) -> list[str]:
    """The values of a program's lines; scopes and tables have names that begin so."""
    values = [first]
    for place, line in enumerate(lines, 1):
        name = f"{type(line.stage).__name__.lower()}_{place}"
        graph.within(f"{scope}{name}", f"{scope if tables is None else tables}{name}")
        values.append(node(line.stage, graph, *(values[source] for source in line.sources)))
    return values
