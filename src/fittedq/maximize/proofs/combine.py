"""How an ensemble becomes one critic: of values, and of linear bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fittedq.errors import UserError, nearest
from fittedq.maximize.proofs.bounds import Upper


class Combination(NamedTuple):
    """One upper bound of several, member by member, and one value of several [n, …], along `axis`."""

    bound: Callable[[list[Upper]], Upper]
    value: Callable[..., Any]


def _min_of(uppers: list[Upper]) -> Upper:
    """The least over θ of max_ε θ L_1(ε) + (1 − θ) L_2(ε), member after member: it bounds max_ε min_j L_j(ε).

    Convex and piecewise linear in θ with a kink where a coefficient changes sign: the least is at a kink or an end.
    """
    best = uppers[0]
    for other in uppers[1:]:
        change = best.slope - other.slope
        kinks = np.clip(np.divide(-other.slope, change, out=np.zeros_like(change), where=change != 0), 0, 1)
        share = np.concatenate([np.zeros((len(kinks), 1)), np.ones((len(kinks), 1)), kinks], axis=1)
        constant = share * best.constant[:, None] + (1 - share) * other.constant[:, None]
        slope = share[:, :, None] * best.slope[:, None] + (1 - share)[:, :, None] * other.slope[:, None]
        winner = np.argmin(constant + np.abs(slope).sum(axis=2), axis=1)
        row = np.arange(len(winner))
        chosen = share[row, winner][:, None]
        benefit = chosen * best.benefit + (1 - chosen) * other.benefit
        best = Upper(constant[row, winner], slope[row, winner], benefit)
    return best


def _mean_of(uppers: list[Upper]) -> Upper:
    return Upper(*(np.mean(parts, axis=0) for parts in zip(*uppers, strict=True)))


COMBINATIONS = {"min": Combination(_min_of, np.min), "mean": Combination(_mean_of, np.mean)}


def combination(label: str, name: str) -> Combination:
    """The one of that name, or a `UserError` that begins with `label`."""
    if name not in COMBINATIONS:
        raise UserError(f"{label}: combine is {name!r}; {nearest(name, COMBINATIONS)}")
    return COMBINATIONS[name]
