"""An ONNX graph while it is written: rows of numbers, [b, size], through operators by name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, TypeAlias, final

import numpy as np

from fittedq.errors import UserError

_LARGEST = float(np.finfo(np.float32).max)

Node: TypeAlias = Any
"""An operator, as the package has it."""


def onnx() -> ModuleType:
    """The package, which is optional."""
    try:
        return import_module("onnx")
    except ImportError:
        raise UserError("export: ONNX needs the package onnx; install fittedq[export].") from None


@final
class Graph:
    """A graph while it is written: each call adds a node and gives the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.wide = False
        """Whether numbers are written in double precision."""
        self._scope, self._tables, self._counts = "", "", dict[str, int]()

    def within(self, scope: str, tables: str | None = None) -> None:
        """Names from here on begin so; `tables` are those of constants, which several scopes may share."""
        self._scope, self._tables = scope, scope if tables is None else tables

    def _next(self) -> int:
        self._counts[self._scope] = 1 + self._counts.get(self._scope, -1)
        return self._counts[self._scope]

    def number(self, value: object, kind: type[np.generic] = np.float32) -> str:
        """A constant without a name of its own; equal ones are one."""
        array = self._typed(np.asarray(value, kind))
        name = f"{array.dtype}{list(array.shape)}:{array.reshape(-1).tolist()}" if array.size <= 4 else ""
        name = name.replace(" ", "") or f"{self._scope}.constant{self._next()}"
        return self.constant(name, array)

    def wide_number(self, value: object) -> str:
        """A constant in double precision."""
        return self.number(value, np.float64)

    def whole_number(self, value: object) -> str:
        """A constant of whole numbers, such as places and axes."""
        return self.number(value, np.int64)

    def constant(self, name: str, value: np.ndarray) -> str:
        """A constant by its name."""
        self.constants[name] = value
        return name

    def own(self, name: str, value: np.ndarray) -> str:
        """A constant of the stage that is being written."""
        return self.constant(f"{self._tables}.{name}", self._typed(value))

    def _typed(self, value: np.ndarray) -> np.ndarray:
        return value.astype(np.float64) if self.wide and value.dtype == np.float32 else value

    def __call__(self, kind: str, *inputs: str, out: str | None = None, **attributes: object) -> str:
        """The output of an operator."""
        out = out or f"{self._scope}.{kind.lower()}{self._next()}"
        self.nodes.append(onnx().helper.make_node(kind, list(inputs), [out], name=out, **attributes))
        return out

    def columns(self, x: str, first: int, last: int) -> str:
        """x[:, first:last]."""
        return self("Slice", x, *(self.whole_number([end]) for end in (first, last, 1)))

    def picked(self, x: str, columns: Sequence[int]) -> str:
        """x[:, columns]."""
        return self("Gather", x, self.whole_number(list(columns)), axis=1)

    def filled(self, x: str, value: float) -> str:
        """One number for each row of x, [b, 1]; NaN where the first of the row is not finite."""
        return self("Add", self("Mul", self.columns(x, 0, 1), self.number(0)), self.number(value))

    def where_positive(self, x: str, yes: str, no: str) -> str:
        """yes where x > 0, else no."""
        return self("Where", self("Greater", x, self.number(0)), yes, no)

    def joined(self, *parts: str) -> str:
        """Their columns side by side."""
        return parts[0] if len(parts) == 1 else self("Concat", *parts, axis=1)

    def between(self, x: str, low: str, high: str) -> str:
        """clip(x, low, high), where what is no number stays none."""
        x = self("Where", self("Less", x, low), low, x)
        return self("Where", self("Greater", x, high), high, x)

    def finite(self, x: str) -> str:
        """[b, 1]: whether all numbers of a row are finite."""
        return self.all(self("LessOrEqual", self("Abs", x), self.number(_LARGEST)))

    def any(self, truths: str) -> str:
        """[b, 1]: whether one of a row holds."""
        return self("Greater", self.most(self.double(truths)), self.wide_number(0.5))

    def all(self, truths: str) -> str:
        """[b, 1]: whether all of a row hold."""
        return self("Greater", self.least(self.double(truths)), self.wide_number(0.5))

    def least(self, x: str) -> str:
        """The least number of each row, [b, 1]."""
        return self("ReduceMin", x, axes=[1], keepdims=1)

    def most(self, x: str) -> str:
        """The greatest number of each row, [b, 1]."""
        return self("ReduceMax", x, axes=[1], keepdims=1)

    def total(self, x: str) -> str:
        """The sum of each row, [b, 1]."""
        return self("ReduceSum", x, self.whole_number([1]), keepdims=1)

    def mean(self, x: str) -> str:
        """The mean of each row, [b, 1]."""
        return self("ReduceMean", x, axes=[1], keepdims=1)

    def double(self, x: str) -> str:
        """In double precision."""
        return self("Cast", x, to=onnx().TensorProto.DOUBLE)

    def whole(self, x: str) -> str:
        """As a whole number."""
        return self("Cast", x, to=onnx().TensorProto.INT64)

    def single(self, x: str) -> str:
        """In single precision."""
        return self("Cast", x, to=onnx().TensorProto.FLOAT)
