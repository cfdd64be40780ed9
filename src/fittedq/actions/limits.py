"""Limits written as text: |a0| + |a1| <= 1."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.mixed import Mixed
from fittedq.actions.polytope import Polytope
from fittedq.actions.saved import check_kind
from fittedq.arrays import inwards, told_apart
from fittedq.errors import UserError

TERM = re.compile(r"(?P<number>\d+\.?\d*(e[+-]?\d+)?|\.\d+)?\*?(?P<bar>\|?)a(?P<axis>\d*)(?P=bar)")


MOST_SIGNS = 8


@dataclass(frozen=True)
class Limits:
    """An action set in words, to be laid over an environment's box.

    `rows` are inequalities such as "a0 + 2*a1 <= 1" or "|a0| + |a1| <= 1.5"; "a" and "|a|" without a number sum over
    all dimensions. `integer` lists the coordinates that are whole numbers.
    """

    rows: tuple[str, ...] = ()
    integer: tuple[int, ...] = ()

    def within(self, box: Box) -> AbstractActionSet:
        """The part of `box` that they allow."""
        inner: Box | Polytope = box
        if self.rows:
            parts = [_inequalities(row, box.size) for row in self.rows]
            matrix, bound = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            inner = Polytope(box.low, box.high, matrix, bound)
        return Mixed(inner, self.integer) if self.integer else inner


def _inequalities(text: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(matrix, bound): a sum of absolute values is as many rows as it has signs."""
    left, sign, right = re.sub(r"\s", "", text).replace("≤", "<=").replace("≥", ">=").partition("<=")
    if not sign:
        left, sign, right = left.partition(">=")
    try:
        bound = float(right)
    except ValueError:
        bound = np.nan
    if not sign or not np.isfinite(bound):
        raise UserError(f"limit {text!r}: expected a sum of actions, <= or >=, and a number, as in 'a0 + |a1| <= 1.5'.")
    linear, absolute, position, scale = np.zeros(size), np.zeros(size), 0, 1.0 if sign == "<=" else -1.0
    while position < len(left):
        plus_minus = left[position] if left[position] in "+-" else ""
        term = TERM.match(left, position + len(plus_minus))
        if term is None or (position and not plus_minus):
            raise UserError(
                f"limit {text!r}: cannot read {left[position:]!r}, expected terms such as a0, 2*a1 or |a2|."
            )
        axes = range(size) if term["axis"] == "" else (int(term["axis"]),)
        if max(axes) >= size:
            raise UserError(f"limit {text!r}: found a{max(axes)}, expected a0 … a{size - 1}; actions count from 0.")
        coefficient = scale * (-1.0 if plus_minus == "-" else 1.0) * float(term["number"] or 1)
        (absolute if term["bar"] else linear)[list(axes)] += coefficient
        position = term.end()
    signed = np.flatnonzero(absolute)
    if (absolute < 0).any():
        raise UserError(f"limit {text!r}: a sum of |a| can only be bounded from above, or the set is not convex.")
    if len(signed) > MOST_SIGNS:
        raise UserError(f"limit {text!r}: found {len(signed)} absolute values, expected at most {MOST_SIGNS}.")
    matrix: list[np.ndarray] = []
    for signs in itertools.product((1.0, -1.0), repeat=len(signed)):
        row = linear.copy()
        row[signed] += np.asarray(signs) * absolute[signed]
        matrix.append(row)
    return np.asarray(matrix), np.full(len(matrix), scale * bound)


def inside(action_set: AbstractActionSet, box: Box) -> bool:
    """Whether the outer box of `action_set` lies in `box`, both as actions in single precision see them."""
    if action_set.size != box.size:
        return False
    low, high = inwards(np.asarray(box.low), np.asarray(box.high), np.float32)
    least, most = inwards(np.asarray(action_set.low), np.asarray(action_set.high), np.float32)
    return bool((least >= low).all() and (most <= high).all())


def narrowed(box: Box, wanted: AbstractActionSet | Limits | None, label: str) -> AbstractActionSet:
    """`wanted`, checked to lie in `box`; `box` itself where nothing is wanted."""
    if wanted is None:
        return box
    action_set = wanted.within(box) if isinstance(wanted, Limits) else wanted
    check_kind(action_set)
    if not inside(action_set, box):
        (low, least), (high, most) = (
            told_apart(*ends) for ends in ((action_set.low, box.low), (action_set.high, box.high))
        )
        raise UserError(
            f"action set: found one between {low} and {high}, expected it inside {label}'s box between {least} and "
            f"{most}."
        )
    return action_set
