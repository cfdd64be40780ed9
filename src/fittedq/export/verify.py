"""An exported controller beside the agent, at ten thousand samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from fittedq.acting.loop import SafeLoop
from fittedq.acting.status import ActingStatus
from fittedq.errors import UserError
from fittedq.export.host import Host
from fittedq.export.language import AbstractExported, Golden
from fittedq.export.program import ControlProgram

SAMPLES = 10_000
EPISODE = 50
"""Samples of the longest episode of those that are compared."""
NOT_FINITE = (np.nan, np.inf, -np.inf)
DRAWS = 8
"""Formulas whose numbers are off at random."""
MOST_UNSURE = 0.01
"""Of the samples: those at which LIMITED is told by one and not by the other, for rounding decides it."""


def samples(
    known: Float[np.ndarray, "N o"], number: int = SAMPLES, seed: int = 0
) -> tuple[Float[np.ndarray, "n o"], Bool[np.ndarray, "n"]]:
    """(observations, where an episode begins): rows that are `known`, corners of their box, points in and around it,
    denormal and huge numbers, NaN and infinities. Episodes are long in the first half, and shorter in the other.
    """
    rng = np.random.default_rng(seed)
    size, (low, high) = known.shape[1], (known.min(0), known.max(0))
    width = np.maximum(high - low, 1e-3 * (1 + np.abs(low)))
    rows = known[rng.integers(len(known), size=number)].astype(np.float64)
    kind = rng.integers(8, size=number)
    corner = np.where(rng.random((number, size)) < 0.5, low, high)
    rows = np.where((kind == 1)[:, None], corner, rows)
    rows = np.where((kind == 2)[:, None], rng.uniform(low, high, (number, size)), rows)
    beyond = 10.0 ** rng.uniform(-1, 2, (number, 1)) * width
    rows = np.where((kind == 3)[:, None], rows + beyond * rng.normal(size=(number, size)), rows)
    odd = rng.choice([0.0, -0.0, 1e-40, -1e-42, 1e-30, 1e20, -1e20], (number, size))
    rows = np.where((kind == 4)[:, None] & (rng.random((number, size)) < 0.5), odd, rows)
    dead = (rng.random(number) < 0.06)[:, None] & (rng.integers(size, size=(number, 1)) == np.arange(size))
    rows = np.where(dead, rng.choice(NOT_FINITE, (number, 1)), rows)
    ends = np.cumsum(rng.integers(1, EPISODE, size=number))
    begins = np.isin(np.arange(number), [0, *ends[ends < number]])
    half = number // 2
    begins[half:] |= rng.random(number - half) < 0.1  # where rows follow that never did, a guard lets no policy act
    return rows.astype(np.float32), begins


def golden(loop: SafeLoop, obs: Float[np.ndarray, "N o"], begins: Bool[np.ndarray, "N"]) -> Golden:
    """What the agent does at these samples."""
    actions, statuses, taken = [], [], []
    for row, begin in zip(obs, begins.tolist(), strict=True):
        if begin:
            loop.reset()
        action, status = loop.step(row)
        actions.append(np.ravel(action))
        statuses.append(int(status))
        taken.append(loop.taken)
    return Golden(obs, begins, np.array(actions, np.float32), np.array(statuses), tuple(taken))


def rounding(program: ControlProgram, expected: Golden, rows: Iterable[int]) -> dict[int, float]:
    """In half-widths: how far single precision may be from the formula, by row, in whatever order it adds.

    It is the most of what the agent itself is off, and of what the formula in double precision moves where its numbers
    are off by up to a unit in the last place, as each product and each sum is rounded (Vignes 1993, CESTAC).
    """
    rng = np.random.default_rng(0)
    exact, *moved = (Host(program, np.float64, draw) for draw in (None, *[rng] * DRAWS))
    half_width, found = _half_width(program), {}
    for row in rows:
        taken = expected.taken[row]
        if taken is not None:
            seen = taken.seen[0].astype(float)
            with np.errstate(all="ignore"):
                others = [taken.action[0], *(one(seen) for one in moved)]
                off = np.max(np.abs(np.array(others) - exact(seen)) / half_width)
            found[row] = float(np.nan_to_num(off, nan=0.0, posinf=0.0))
    return found


def _half_width(program: ControlProgram) -> Float[np.ndarray, "m"]:
    return (program.high.astype(float) - program.low) / 2


ROUNDED_EVERY = 50
"""Samples from one whose rounding is told to the next."""


class Verified(NamedTuple):
    """How an exported controller differs from the agent, in half-widths of the actions."""

    samples: int
    max_error: float
    """The largest difference; where it is above the tolerance, what single precision may be off there is taken off."""
    max_difference: float
    """The largest difference, nothing taken off."""
    max_rounding: float
    """At some of the samples: what single precision may be off from double precision."""
    statuses: dict[str, int]
    """Samples by status."""
    unsure: int
    """Samples at which one tells OK and the other LIMITED."""


def _above(difference: Float[np.ndarray, "N"], tolerance: float) -> list[int]:
    """The rows that are off by more."""
    return np.flatnonzero(~(difference <= tolerance)).tolist()


def verified(running: AbstractExported, expected: Golden, program: ControlProgram, tolerance: float) -> Verified:
    """The comparison; a UserError where an action is off by more than `tolerance`, or a status is another."""
    actions, told = running.run(expected.obs, expected.begins)
    with np.errstate(invalid="ignore"):
        difference = np.max(np.abs(actions - expected.action) / _half_width(program), axis=1)
    sure = (ActingStatus.OK, ActingStatus.LIMITED)
    unsure = (told != expected.status) & np.isin(told, sure) & np.isin(expected.status, sure)
    wrong = np.flatnonzero((told != expected.status) & ~unsure)
    if len(wrong) or unsure.mean() > MOST_UNSURE:
        place = int(wrong[0] if len(wrong) else np.argmax(unsure))
        raise UserError(
            f"export: at the observation {expected.obs[place].tolist()} the exported controller tells the status "
            f"{told[place]}, the agent {expected.status[place]}; nothing was written."
        )
    rounded = rounding(program, expected, {*range(0, len(difference), ROUNDED_EVERY), *_above(difference, tolerance)})
    off = np.where(np.isfinite(difference), difference, np.inf)
    for row in _above(difference, tolerance):
        off[row] = max(off[row] - rounded.get(row, 0.0), 0.0)
    if not off.max() <= tolerance:
        place = int(off.argmax())
        raise UserError(
            f"export: at the observation {expected.obs[place].tolist()} the exported controller is off by "
            f"{difference[place]:.2g} half-widths of its actions, expected at most {tolerance:g}; nothing was written."
        )
    names = {status.value: status.name for status in ActingStatus}
    counts = {
        names[code]: int(number) for code, number in zip(*np.unique(expected.status, return_counts=True), strict=True)
    }
    return Verified(
        samples=len(told),
        max_error=float(off.max()),
        max_difference=float(difference.max()),
        max_rounding=max(rounded.values(), default=0.0),
        statuses={name: count for name, count in counts.items() if count},
        unsure=int(unsure.sum()),
    )
