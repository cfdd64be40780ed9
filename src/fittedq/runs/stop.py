"""A run's own rule for stopping, such as `eval_mean > -150`: read by a small grammar, never run as code."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

from fittedq.errors import UserError, nearest
from fittedq.expressions import COMPARE
from fittedq.runs.report import EVALUATED, FIGURES, Report
from fittedq.runs.schedule import Schedule
from fittedq.settings import real
from fittedq.trainers.iterations import FITTED_FIGURES
from fittedq.types import COMPONENTS

Rule = Callable[[Report], bool]
"""Whether to stop after a report."""
Reports = Generator[Report, None, None]

FAMILIES = (*COMPONENTS, "gap", "health")
"""What stands before the slash in the name of a figure, as in `critic/loss`."""
SLASH = "·"
"""Stands for that slash in what `ast` parses, where it would divide: Python takes it as a letter."""

MOST_LETTERS = 500
ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
FUNCTIONS = {"abs": abs, "min": min, "max": max}

GRAMMAR = (
    "expected a comparison of figures and numbers such as 'eval_mean > -150', made of + - * /, abs, min, max, and, or "
    "and not"
)


class StopWhen:
    """Whether a condition on the newest figure of each name holds.

    A figure that was not there yet has no value, and no comparison with it is decided: `a and b` is false where one of
    them is, `a or b` true where one of them is (Kleene's logic).
    """

    def __init__(self, text: str, figures: Mapping[str, float] | None = None):
        self.text = text
        self._tree = _parsed(text)
        # Everything is evaluated whatever is known, so this meets all that the grammar lacks.
        _truth(self._tree, {})
        self._names = _names(self._tree)
        for name in self._names:
            _check_name(name)
        self._figures = dict(figures or {})

    def __str__(self) -> str:
        return self.text

    def checked(self, schedule: Schedule) -> StopWhen:
        """Itself, or a UserError where it asks for a figure that a run of this schedule will never have."""
        for name in self._names:
            if name in EVALUATED and not schedule.eval_every:
                raise _refused(f"{name} is never known, since nothing is evaluated; give eval_every.")
            if name.startswith("gap/") and not schedule.gap_every:
                raise _refused(f"{name} is never known, since the gap is never looked at; give gap_every.")
        return self

    @property
    def holds(self) -> bool:
        """Whether it holds by the figures that are known so far."""
        return _truth(self._tree, self._figures) is True

    def __call__(self, report: Report) -> bool:
        self._figures |= report.figures()
        if report.metrics:
            for name in self._names:
                self._check_known(name)
        return self.holds

    def _check_known(self, name: str) -> None:
        """A UserError where this run has other figures of that kind: it will never have this one."""
        family = name.partition("/")[0] + "/"
        known = [other for other in self._figures if other.startswith(family)]
        if name in self._figures or name in FIGURES or ("/" in name and not known):
            return
        raise _refused(f"{name!r} is no figure of this run; {nearest(name, self._figures)}")


def until(reports: Reports, rule: Rule | None) -> Reports:
    """The reports up to the first whole one after which `rule` says to stop; closing them saves the run."""
    with closing(reports):
        for report in reports:
            yield report
            if rule is not None and report.fraction == 0 and rule(report):
                return


# ---------------------------------------------------------------------- the grammar


def _parsed(text: str) -> ast.expr:
    """The expression; a figure's slash is written so that it does not divide."""
    named = re.sub(rf"\b({'|'.join(FAMILIES)})\s*/\s*(?=[A-Za-z_])", rf"\1{SLASH}", text)
    if len(text) > MOST_LETTERS:
        raise _refused(f"found {len(text):,} letters, expected at most {MOST_LETTERS}.")
    try:
        return ast.parse(named.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _refused(f"found {text!r}, {GRAMMAR}.") from None


def _names(tree: ast.expr) -> list[str]:
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called)
    return sorted({_name(node) for node in names})


def _name(node: ast.Name) -> str:
    return node.id.replace(SLASH, "/")


def _check_name(name: str) -> None:
    family, slash, _ = name.partition("/")
    if name not in (*FIGURES, *FITTED_FIGURES) and not (slash and family in FAMILIES):
        families = [f"{family}/…" for family in FAMILIES]
        raise _refused(f"figure {name!r} is unknown; {nearest(name, [*FIGURES, *FITTED_FIGURES, *families])}")


def _truth(node: ast.expr, figures: Mapping[str, float]) -> bool | None:
    """True, false, or None where that is not decided yet."""
    match node:
        case ast.BoolOp(op=op, values=parts):
            decides = isinstance(op, ast.Or)
            found = [_truth(part, figures) for part in parts]
            return decides if decides in found else None if None in found else not decides
        case ast.UnaryOp(op=ast.Not(), operand=part):
            value = _truth(part, figures)
            return None if value is None else not value
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in COMPARE for op in ops):
            values = [_number(part, figures) for part in (left, *others)]
            pairs = zip(ops, values, values[1:], strict=False)
            found = [None if a is None or b is None else COMPARE[type(op)](a, b) for op, a, b in pairs]
            return False if False in found else None if None in found else True
    raise _refused(f"found {_words(node)!r}, {GRAMMAR}.")


def _number(node: ast.expr, figures: Mapping[str, float]) -> float | None:
    """The value, or None where it is not known yet, or no finite number."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return real(value, "stop_when", "finite numbers", low=-math.inf)
        case ast.Name():
            return figures.get(_name(node))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=part):
            return _applied(operator.neg if isinstance(op, ast.USub) else operator.pos, [_number(part, figures)])
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            return _applied(ARITHMETIC[type(op)], [_number(left, figures), _number(right, figures)])
        case ast.Call(func=ast.Name(id=called), args=parts, keywords=[]) if called in FUNCTIONS:
            if len(parts) != 1 if called == "abs" else len(parts) < 2:
                raise _refused(
                    f"found {_words(node)!r}, expected {'one number' if called == 'abs' else 'two or more'}."
                )
            return _applied(FUNCTIONS[called], [_number(part, figures) for part in parts])
    raise _refused(f"found {_words(node)!r}, {GRAMMAR}.")


def _applied(function: Callable[..., Any], values: Sequence[float | None]) -> float | None:
    if None in values:
        return None
    try:
        result = function(*values)
    except (ZeroDivisionError, OverflowError):
        return None
    return float(result) if math.isfinite(result) else None


def _words(node: ast.expr) -> str:
    return ast.unparse(node).replace(SLASH, "/")


def _refused(sentence: str) -> UserError:
    return UserError(sentence, argument="stop_when")
