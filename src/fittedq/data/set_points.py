"""Rows of a log with other set-points: no plant reacts to one, and the reward is a formula.

A row (y, w, a, r, y') with the set-point w tells of every other w too: y' stays, and r follows from the formula. So a
log of a few set-points teaches what lies between them, where a critic would extrapolate. Andrychowicz et al. 2017
("Hindsight experience replay") do it with goals that were reached.
"""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float

from fittedq.data.checks.regression import enough, standardized
from fittedq.data.checks.sample import Sample, runs_of
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.errors import UserError
from fittedq.expressions import FOLLOWING, INCREMENT, Expression

USUAL_COPIES = 3
MOST_COPIED = 50_000
"""In all, where nobody says how many copies: a larger log has many set-points of its own."""
USUAL_BLOCK = 100
"""Rows with one set-point, where no settling time says."""
REACTS = 0.2
"""Share of what (y, a) leaves of the next row. A set-point that explains more acts on the plant, by another way."""
EXACT = 1e-6
"""Share of a column's variance that a set-point leaves where the column was computed from it."""


class Copied(NamedTuple):
    """A log, its copies behind it."""

    data: Dataset
    copies: int = 0
    """How many were made."""
    notes: tuple[str, ...] = ()
    """What there is to say of them."""


class _NotCopied(Exception):
    """Why a log's rows tell of its own set-points only."""


def with_set_points(data: Dataset, copies: int | None) -> Copied:
    """The log followed by so many copies, in which each block of rows has a set-point uniform in the log's range.

    A block is an episode, about as long as the plant settles; s and s' have its set-point. Where `copies` is None there
    are three, fewer of a large log, and none where the log does not allow it, which is said. UserError: `copies` are
    asked for and not possible.
    """
    count = min(USUAL_COPIES, MOST_COPIED // max(len(data), 1) - 1) if copies is None else copies
    if count < 1:
        return Copied(data)
    try:
        rows = _rows_of(data)
    except _NotCopied as error:
        if copies:
            raise UserError(f"setting set_point_copies: found {copies}, but {error}; leave it out.") from None
        return Copied(data, 0, (f"Rows are learned from with their own set-points only: {error}.",))
    if rows is None:
        if copies:
            raise UserError(f"setting set_point_copies: found {copies}, and no set-point changes; leave it out.")
        return Copied(data)
    rng = np.random.default_rng(0)  # the same rows for every run, or none could start with another's networks
    parts = [data.columns, *(rows.copy(rng) for _ in range(count))]
    other = Dataset(
        {name: np.concatenate([part[name] for part in parts]) for name in data.columns}, data.action_set, data.origin
    )
    other.path, other.description = data.path, data.description
    drawn = ", ".join(f"{name} from {low:.4g} to {high:.4g}" for name, low, high in rows.ranges)
    times = "once" if count == 1 else f"{count} times"
    note = f"No plant reacts to a set-point: the rows are learned from {times} more, with others ({drawn})."
    return Copied(other, count, (f"{note} With set_point_copies=0 they are not." if copies is None else note,))


def _rows_of(data: Dataset) -> _Rows | None:
    """The rows, where a set-point changes; or why they cannot have another."""
    said = data.description
    if said is None or (len(said.obs), len(said.action)) != (data.obs_size, data.action_size):
        return None
    obs = data.columns["obs"]
    roles = {name: column.role for name, column in said.columns.items()}
    aims = [place for place, name in enumerate(said.obs) if roles.get(name) == "set-point" and np.ptp(obs[:, place])]
    if not aims:
        return None
    points = {said.obs[place] for place in aims}
    for name, formula in said.formulas().items():
        if points & {column.removeprefix(INCREMENT) for column in formula.names}:
            points.add(name)
            if name in said.obs:
                raise _NotCopied(f"{name} is computed from a set-point")
    rows = _Rows(data, said, aims)
    _check_unaffected(data, said, aims)
    return rows


@final
class _Rows:
    """The rows of a log whose reward is a formula of what is observed and done."""

    def __init__(self, data: Dataset, said: Description, aims: list[int]):
        self._columns, self._said, self._aims = data.columns, said, aims
        self._starts, stops = runs_of(data)
        self._reward = self._formula(said.reward)
        if said.terminated and said.terminated not in said.obs:
            ends = _names(said.terminated, "terminated")
            if any(said.obs[place] in ends for place in aims):
                raise _NotCopied("a formula of a set-point ends episodes")
        given = np.asarray(self._columns["reward"], float)
        if not np.allclose(self._rewards(self._columns["obs"], self._columns["next_obs"]), given, 1e-3, _size(given)):
            raise _NotCopied("the formula of the reward does not give the rewards of the rows")
        low, high = (end(self._columns["obs"][:, aims], axis=0).astype(float) for end in (np.min, np.max))
        self.ranges = list(zip((said.obs[place] for place in aims), low.tolist(), high.tolist(), strict=True))
        """Of each set-point: its name, its least and its greatest value."""
        self._block = np.concatenate(
            [self._blocks(int(start), int(stop)) for start, stop in zip(self._starts, stops, strict=True)]
        )
        self._low, self._high = low, high
        ends = np.flatnonzero(np.diff(self._block, append=-1))
        self._ends = np.isin(np.arange(len(self._block)), ends)

    def copy(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """All rows again, each block with set-points of its own."""
        columns = self._columns
        _, block = np.unique(self._block, return_inverse=True)
        drawn = rng.uniform(self._low, self._high, (block.max() + 1, len(self._aims)))[block]
        obs, after = np.array(columns["obs"]), np.array(columns["next_obs"])
        obs[:, self._aims] = after[:, self._aims] = drawn
        reward = self._rewards(obs, after).astype(np.float32)
        truncated = (columns["truncated"] | self._ends) & ~columns["terminated"]
        return dict(columns) | {"obs": obs, "next_obs": after, "reward": reward, "truncated": truncated}

    def _blocks(self, start: int, stop: int) -> np.ndarray:
        """For each row of an episode the number of its block's first row."""
        said = self._said
        length = round(said.settling / said.sample) if said.settling and said.sample else USUAL_BLOCK
        count = max(1, round((stop - start) / max(length, 10 * said.history)))
        firsts = np.linspace(start, stop, count, endpoint=False).astype(int)
        return np.repeat(firsts, np.diff(firsts, append=stop))

    def _formula(self, text: str) -> Expression:
        known = (*self._said.obs, *self._said.action)
        if not text or (text in self._said.columns and text not in known):
            raise _NotCopied("the reward is a column of the log, and no formula")
        formula = Expression(text)
        try:
            read = formula.columns(known).values()
        except UserError:
            raise _NotCopied(f"the reward, {text}, reads more than what is observed and done") from None
        if any(shift == FOLLOWING and column in self._said.action for column, shift in read):
            raise _NotCopied(f"the reward, {text}, reads the action of the next row")
        return formula

    def _rewards(self, obs: Float[np.ndarray, "n s"], after: Float[np.ndarray, "n s"]) -> Float[np.ndarray, "n"]:
        """The formula, in which a set-point never changes from row to row."""
        known = (*self._said.obs, *self._said.action)
        here = np.concatenate([obs, self._columns["action"]], axis=1).astype(float)
        values = self._reward.read(known, here, after.astype(float))
        for name, (column, shift) in self._reward.columns(known).items():
            if shift == INCREMENT:
                steps = np.diff(values[name], prepend=values[name][0])
                steps[self._starts] = 0.0
                values[name] = np.zeros_like(steps) if known.index(column) in self._aims else steps
        return np.broadcast_to(np.asarray(self._reward(values), float), len(here))


def _names(text: str, argument: str) -> set[str]:
    return set(Expression(text, argument).names)


def _size(values: np.ndarray) -> float:
    """What counts as equal among such values."""
    return 1e-3 * float(values.std()) + 1e-6


def _check_unaffected(data: Dataset, said: Description, aims: list[int]) -> None:
    """`_NotCopied` where anything observed depends on a set-point: the next row, or a column computed from it."""
    sample = Sample.of(data)
    others = [place for place in np.flatnonzero(sample.moving).tolist() if place not in aims]
    rows = sample.follows(1)
    if not others or not enough(len(rows), 2 * (len(others) + data.action_size) + len(aims)):
        return
    points = sample.obs[rows][:, aims]
    past = np.hstack([sample.past(sample.obs[:, others], rows, range(2)), sample.past(sample.action, rows, range(2))])
    change = (sample.next_obs - sample.obs)[rows][:, others]
    without, known = _left(past, change), _left(np.hstack([past, points]), change)
    for place in np.flatnonzero(known < (1 - REACTS) * without):
        raise _NotCopied(f"{said.obs[others[place]]} reacts to a set-point beside the action")
    for place in others:
        rest = sample.obs[rows][:, [other for other in others if other != place]]
        own = sample.obs[rows][:, [place]]
        if _left(np.hstack([rest, points]), own)[0] < EXACT < 1e-3 < _left(rest, own)[0]:
            raise _NotCopied(f"{said.obs[place]} is computed from a set-point")


def _left(inputs: Float[np.ndarray, "n d"], target: Float[np.ndarray, "n t"]) -> Float[np.ndarray, "t"]:
    """1 − R² of each target, by least squares."""
    features = np.hstack([np.ones((len(inputs), 1)), standardized(inputs)])
    weights, *_ = np.linalg.lstsq(features, target, rcond=None)
    return ((target - features @ weights) ** 2).mean(axis=0) / np.maximum(target.var(axis=0), 1e-30)
