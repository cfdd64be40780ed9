"""Formulas over columns, written as text: -((temp - 93)/10)**2 - 0.01*d_heater**2."""

from __future__ import annotations

import ast
import csv
import functools
import itertools
import operator
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any, TypeAlias, final

import numpy as np

from fittedq.errors import UserError, in_one_line, nearest, plural

Value: TypeAlias = Any
"""Numbers or truths, one or an array of them, NumPy's or JAX's."""

INCREMENT, FOLLOWING = "d_", "next_"
"""Before a column's name: its change since the row before, and its value in the row that follows."""

LONGEST_FORMULA = 10_000
MOST_DEPTH = 100


@dataclass
class FormulaInputs:
    """What a formula is evaluated at."""

    values: Mapping[str, Value]
    xp: ModuleType
    zeros: list[np.ndarray] = field(default_factory=list)
    """Where divisors were zero; in NumPy only."""


Evaluated = Callable[[FormulaInputs], Value]


def _divided(given: FormulaInputs, over: Callable[[Value, Value], Value], left: Value, right: Value) -> Value:
    if given.xp is np:
        given.zeros.append(np.asarray(right) == 0)
    return over(left, 1.0 * given.xp.asarray(right))


def _called(name: str, given: FormulaInputs, *values: Value) -> Value:
    return getattr(given.xp, name)(*values)


def _folded(name: str, given: FormulaInputs, *values: Value) -> Value:
    return functools.reduce(getattr(given.xp, name), values)


def _compared(operators: Sequence[Callable[[Value, Value], Value]], given: FormulaInputs, *values: Value) -> Value:
    pairs = zip(operators, itertools.pairwise(values), strict=True)
    return _folded("logical_and", given, True, *(compare(*pair) for compare, pair in pairs))


UNARY: dict[type[ast.unaryop], Callable[[FormulaInputs, Value], Value]] = {
    # A truth is 1 or 0 wherever it is added or multiplied.
    ast.USub: lambda given, value: -1.0 * value,
    ast.UAdd: lambda given, value: 1.0 * value,
    ast.Not: lambda given, value: given.xp.logical_not(value),
}
BINARY: dict[type[ast.operator], Callable[[FormulaInputs, Value, Value], Value]] = {
    ast.Add: lambda given, left, right: 1.0 * left + right,
    ast.Sub: lambda given, left, right: 1.0 * left - right,
    ast.Mult: lambda given, left, right: 1.0 * left * right,
    ast.Div: lambda given, left, right: _divided(given, operator.truediv, left, right),
    ast.Mod: lambda given, left, right: _divided(given, operator.mod, left, right),
    ast.Pow: lambda given, left, right: given.xp.power(1.0 * left, right),
}
COMPARE: dict[type[ast.cmpop], Callable[[Value, Value], Value]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
CALLS: dict[str, tuple[str, int]] = {
    **{name: (name, 1) for name in ("abs", "exp", "log", "sqrt", "sin", "cos", "tan", "tanh", "sign", "floor", "ceil")},
    "min": ("minimum", 2),
    "max": ("maximum", 2),
    "where": ("where", 3),
    "clip": ("clip", 3),
}
"""Name → NumPy's, and how many arguments; `min` and `max` take more."""

SLIPS = {
    ast.BitXor: "^ is no power here; write **",
    ast.BitAnd: "write `and` for &",
    ast.BitOr: "write `or` for |",
    ast.FloorDiv: "write floor(a / b) for a // b",
}


@final
class Expression:
    """A formula of numbers and columns' names: + − * / ** %, comparisons, and/or/not, `a if c else b`, `CALLS`.

    A name with blanks or other signs stands in quotes: "Temp °C" - 20. Nothing in it is ever run as Python; values are
    arrays of NumPy or, with `xp=jax.numpy`, of JAX. UserError: text outside this grammar; `argument` says what the
    formula is for.
    """

    def __init__(self, text: str, argument: str = "reward"):
        self.text, self.argument = text.strip(), argument
        self._names: dict[str, None] = {}
        self._formula = self._compiled(self._parsed())
        self.names = tuple(self._names)
        """Every name in it."""

    def columns(self, available: Collection[str]) -> dict[str, tuple[str, str]]:
        """name → (column, prefix): the columns that it reads, each as it is, as an increment, or of the next row."""
        found = {}
        # As Python reads names: a micro sign is a mu.
        known = {unicodedata.normalize("NFKC", name): name for name in available}
        known |= {name: name for name in available}
        for name in self.names:
            prefix = next((one for one in (INCREMENT, FOLLOWING) if name.startswith(one)), "")
            if name in known:
                found[name] = (known[name], "")
            elif prefix and name[len(prefix) :] in known:
                found[name] = (known[name[len(prefix) :]], prefix)
            else:
                raise self._wrong(f"there is no column {name!r}; {nearest(name, available)}")
        return found

    def read(self, known: Sequence[str], here: Value, after: Value) -> dict[str, Value]:
        """name → the values of its column, of `here` [..., k], whose columns are `known`, or of the next rows `after`.

        Of an increment these are the values that it is taken of.
        """
        return {
            name: (after if shift == FOLLOWING else here)[..., known.index(column)]
            for name, (column, shift) in self.columns(known).items()
        }

    @property
    def shifts(self) -> bool:
        """Whether a name in it may be that of another row."""
        return any(name.startswith((INCREMENT, FOLLOWING)) for name in self.names)

    def __call__(self, values: Mapping[str, Value], xp: ModuleType = np) -> Value:
        """The formula's value at each name's array."""
        return self._formula(FormulaInputs(values, xp))

    def checked(self, values: Mapping[str, np.ndarray], place: Callable[[int], str]) -> np.ndarray:
        """The formula in NumPy, or a UserError that counts the rows where it is not finite though its columns are.

        `place` says where a row is in its file.
        """
        given = FormulaInputs(values, np)
        with np.errstate(all="ignore"):
            result = self._formula(given)
        count = len(next(iter(values.values()))) if values else 1
        result = np.broadcast_to(np.asarray(result, float), (count,))
        sound = np.logical_and.reduce([np.ones(count, bool), *(np.isfinite(array) for array in values.values())])
        bad = sound & ~np.isfinite(result)
        if bad.any():
            divided = bad & np.logical_or.reduce([np.broadcast_to(zero, (count,)) for zero in (False, *given.zeros)])
            worst, what = (divided, "divides by zero") if divided.any() else (bad, "is not finite")
            first, number = int(np.argmax(worst)), int(worst.sum())
            at = ", ".join(f"{name} = {array[first]:.6g}" for name, array in values.items())
            raise self._wrong(
                f"it {what} in {number:,} of {count:,} rows (the first is {place(first)}: {at}); guard it, as in "
                "where(b != 0, a/b, 0)."
            )
        return result

    def _parsed(self) -> ast.expr:
        if len(self.text) > LONGEST_FORMULA:
            raise self._wrong(f"it has {len(self.text):,} letters, expected at most {LONGEST_FORMULA:,}.")
        try:
            return ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            raise self._wrong(
                f"it cannot be read ({error.msg}); write a formula of columns and numbers, such as "
                "-abs(temp - setpoint), with == to compare, and names with blanks or other signs in quotes."
            ) from None
        except (ValueError, MemoryError, RecursionError) as error:
            raise self._wrong(f"it cannot be read ({in_one_line(error)}).") from None

    def _compiled(self, node: ast.expr, depth: int = 0) -> Evaluated:
        """What gives a node's value; a UserError for all that the grammar lacks."""
        if depth > MOST_DEPTH:
            raise self._wrong(f"it is nested deeper than {MOST_DEPTH}.")
        function, parts = self._meaning(node)
        formulas = [self._compiled(part, depth + 1) for part in parts]
        return lambda given: function(given, *(formula(given) for formula in formulas))

    def _meaning(self, node: ast.expr) -> tuple[Callable[..., Value], Sequence[ast.expr]]:
        """A node as a function of its parts' values, and these parts."""
        match node:
            case ast.Name(id=name) | ast.Constant(value=str(name)):
                self._names[name] = None
                return lambda given: given.values[name], ()
            case ast.Constant(value=int() | float() as value):
                number = self._number(value)
                return lambda given: number, ()
            case ast.UnaryOp(op=op, operand=part) if type(op) in UNARY:
                return UNARY[type(op)], (part,)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
                return BINARY[type(op)], (left, right)
            case ast.BoolOp(op=op, values=parts):
                return partial(_folded, "logical_and" if isinstance(op, ast.And) else "logical_or"), parts
            case ast.Compare(left=left, ops=ops, comparators=rest) if all(type(op) in COMPARE for op in ops):
                return partial(_compared, [COMPARE[type(op)] for op in ops]), [left, *rest]
            case ast.IfExp(test=test, body=body, orelse=other):
                return partial(_called, "where"), (test, body, other)
            case ast.Call(func=ast.Name(id=name), args=parts, keywords=[]):
                return self._function(name, len(parts)), parts
        raise self._wrong(self._lacking(node))

    def _number(self, value: float) -> float:
        if abs(value) > sys.float_info.max:
            raise self._wrong("it holds a number beyond 1e308.")
        return float(value)

    def _function(self, name: str, count: int) -> Callable[..., Value]:
        if name not in CALLS:
            raise self._wrong(f"there is no function {name!r}; {nearest(name, CALLS)}")
        of_numpy, expected = CALLS[name]
        if count != expected and not (name in ("min", "max") and count > expected):
            raise self._wrong(f"{name} has {plural(count, 'argument', 'arguments')}, expected {expected}.")
        return partial(_folded if name in ("min", "max") else _called, of_numpy)

    def _lacking(self, node: ast.expr) -> str:
        slip = SLIPS.get(type(node.op)) if isinstance(node, ast.BinOp) else None
        found = ast.get_source_segment(self.text, node) or type(node).__name__
        return (
            f"{found[:60]!r} is no part of a formula here; "
            + (slip or "expected numbers, names, + - * / **, comparisons, and/or, and functions such as abs or where")
            + "."
        )

    def _wrong(self, what: str) -> UserError:
        return UserError(f"{self.text[:80]!r}: {what}", argument=self.argument)


def split_names(text: str, argument: str) -> tuple[str, ...]:
    """`temp,"set,point"` as names; blanks around a comma do not count."""
    try:
        names = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise UserError(
            f"found {text!r} ({in_one_line(error)}), expected names, a comma between.", argument=argument
        ) from None
    found = tuple(name.strip() for name in names)
    if not found or not all(found):
        raise UserError(f"found {text!r}, expected names of columns, a comma between.", argument=argument)
    return found


def joined_names(names: Iterable[str]) -> str:
    """Names as `split_names` reads them."""
    return ",".join(f'"{name}"' if "," in name or name != name.strip() else name for name in names)
