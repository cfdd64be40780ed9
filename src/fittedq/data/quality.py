"""What is in a dataset, and what is suspicious about it: counts, ranges, and warnings a sentence each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, UInt

from fittedq.data.dataset import ROWS_SHOWN, Dataset, Faults, not_finite_columns
from fittedq.data.description import Description
from fittedq.errors import plural


@dataclass
class Spread:
    """Smallest, mean and largest of some numbers; None of none."""

    min: float | None = None
    mean: float | None = None
    max: float | None = None

    @staticmethod
    def of(values: np.ndarray) -> Spread:
        if not len(values):
            return Spread()
        return Spread(float(values.min()), float(values.mean(dtype=np.float64)), float(values.max()))


@dataclass
class Found:
    """How many rows have a trait, and the first few of them."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, rows: np.ndarray, offset: int = 0) -> None:
        """Count more rows."""
        self.count += len(rows)
        self.first += [int(row) + offset for row in rows[: ROWS_SHOWN - len(self.first)]]


@dataclass
class Quality:
    """What `check` found."""

    rows: int
    obs_size: int
    action_size: int
    episodes: int
    terminated: int
    truncated: int
    """Episodes that end by a time limit or a cut."""
    unfinished: int
    """1 where the last episode has no end."""
    length: Spread
    returns: Spread
    """Undiscounted returns of the episodes, the unfinished one excepted."""
    reward: Spread
    action_low: list[float]
    action_high: list[float]
    """The declared box."""
    action_min: list[float]
    action_max: list[float]
    """The actions found."""
    at_bounds: list[float]
    """Per action dimension, the share of rows on one of the box's bounds."""
    outside: Found
    """Rows with an action outside the box."""
    not_finite: Found
    """Rows with NaN or infinity."""
    duplicates: Found
    """Rows equal to an earlier one."""
    coarse: bool
    """Whether every column repeats its values so often that rows are equal by chance."""
    copied: int
    """Rows of the longest stretch that is a copy of an earlier one, row by row."""
    broken: Found
    """Rows whose next observation is not the next row's, though no end is marked."""
    constant_obs: list[int]
    constant_action: list[int]
    at_cap: int
    """Episodes that end `terminated` at exactly the greatest length."""
    obs_names: list[str]
    action_names: list[str]
    """The columns' names by the description; none where it does not say them."""
    warnings: list[str] = field(default_factory=list)


def quality_of(dataset: Dataset) -> Quality:
    """Pass over a dataset a chunk at a time; in memory stay one chunk, the episodes and 8 bytes per row."""
    said = dataset.description or Description()
    episodes = np.array(dataset.episodes())
    starts, lengths, last = episodes[:, 0], episodes[:, 1] - episodes[:, 0], episodes[:, 1] - 1
    terminated = dataset.columns["terminated"][last]
    ended = terminated | dataset.columns["truncated"][last]
    with np.errstate(invalid="ignore", over="ignore"):
        returns = np.add.reduceat(dataset.columns["reward"], starts, dtype=np.float64)
        reward = Spread.of(dataset.columns["reward"])
    low, high = (np.asarray(bound, np.float32) for bound in (dataset.action_set.low, dataset.action_set.high))

    outside, not_finite, duplicates, broken = Found(), Found(), Found(), Found()
    at_bounds = np.zeros(dataset.action_size)
    ranges = {name: [np.inf, -np.inf] for name in ("obs", "action")}
    hashes = np.empty(len(dataset), np.uint64)
    faults = Faults("dataset")
    for part in dataset.chunks():
        batch = dataset.transitions(part)
        unsound = np.logical_or.reduce(list(not_finite_columns(batch).values()))
        not_finite.add(np.flatnonzero(unsound), part.start)
        outside.add(np.flatnonzero(~faults.add(batch, dataset.action_set) & ~unsound), part.start)
        at_bounds += ((batch.action == low) | (batch.action == high)).sum(axis=0)
        for name, limits in ranges.items():
            # NaN is reported above; here it would hide a range.
            column = getattr(batch, name)
            limits[0] = np.fmin(limits[0], np.fmin.reduce(column, axis=0))
            limits[1] = np.fmax(limits[1], np.fmax.reduce(column, axis=0))
        hashes[part] = row_hashes(np.asarray(batch.pack()))
    _, first, same = np.unique(hashes, return_index=True, return_inverse=True)
    back = np.arange(len(dataset)) - first[same.reshape(-1)]
    duplicates.add(np.flatnonzero(back))
    broken.add(dataset.broken_links())

    quality = Quality(
        rows=len(dataset),
        obs_size=dataset.obs_size,
        action_size=dataset.action_size,
        episodes=len(episodes),
        terminated=int(terminated.sum()),
        truncated=int((ended & ~terminated).sum()),
        unfinished=int((~ended).sum()),
        length=Spread.of(lengths),
        returns=Spread.of(returns[ended]),
        reward=reward,
        action_low=list(dataset.action_set.low),
        action_high=list(dataset.action_set.high),
        action_min=np.asarray(ranges["action"][0]).tolist(),
        action_max=np.asarray(ranges["action"][1]).tolist(),
        at_bounds=(at_bounds / len(dataset)).tolist(),
        outside=outside,
        not_finite=not_finite,
        duplicates=duplicates,
        coarse=_coarse(dataset),
        copied=_longest(back),
        broken=broken,
        constant_obs=np.flatnonzero(ranges["obs"][0] == ranges["obs"][1]).tolist(),
        constant_action=np.flatnonzero(ranges["action"][0] == ranges["action"][1]).tolist(),
        obs_names=list(said.obs),
        action_names=list(said.action),
        at_cap=int((terminated & (lengths == lengths.max())).sum()),
    )
    quality.warnings = _warnings(quality)
    return quality


def row_hashes(rows: Float[np.ndarray, "k width"]) -> UInt[np.ndarray, "k"]:
    """64 bits per row, equal for equal rows and, but for 1 pair in 2^64, only for these.

    Σ_j mix(x_j + c_j) with the finalizer of SplitMix64 (Steele, Lea and Flood, 2014) and its increment as c.
    """
    # −0 equals 0 and must hash as it does.
    bits = (rows + np.float32(0)).view(np.uint32).astype(np.uint64)
    bits += np.arange(1, rows.shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (bits ^ (bits >> np.uint64(31))).sum(axis=1, dtype=np.uint64)


DISTINCT, LOOKED_AT = 0.9, 10_000
"""The share of a column's values that differ where rows can be told apart by it, in so many rows."""
COPIED = 20
"""Rows of a stretch that no chance makes a copy."""


def _coarse(dataset: Dataset) -> bool:
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), LOOKED_AT)).astype(int))
    columns = [dataset.columns[name][rows].reshape(len(rows), -1) for name in ("obs", "action", "reward")]
    return all(len(np.unique(column)) < DISTINCT * len(rows) for part in columns for column in part.T)


def _longest(back: Int[np.ndarray, "n"]) -> int:
    """The longest stretch of rows that are equal to those the same number of rows before."""
    edges = np.flatnonzero(np.diff(back, prepend=-1, append=-1))
    lengths = np.diff(edges)
    return int(lengths[back[edges[:-1]] > 0].max(initial=0))


CAP_EPISODES, CAP_SHARE = 3, 0.05
"""How many episodes, and which share, must end `terminated` at the greatest length to look like a time limit."""
AT_BOUNDS_SHARE = 0.5


def _warnings(quality: Quality) -> list[str]:
    gap = (
        "a next observation that is not the next row's, though no end is marked: returns and n-step targets would run "
        "across the gap"
    )
    faults = (
        (quality.not_finite, "NaN or infinity"),
        (quality.outside, "an action outside the declared box"),
        (quality.broken, gap),
    )
    found = [f"{_rows(rows)} {fault}." for rows, fault in faults if rows.count]
    if quality.duplicates.count and (not quality.coarse or quality.copied >= COPIED):
        found.append(
            f"{_rows(quality.duplicates)} an exact copy earlier in the data, up to {quality.copied} in a row: they "
            "count twice; import each file once."
        )
    constant = (
        ("observation", quality.constant_obs, quality.obs_names, "what is learned holds for this value alone"),
        ("action", quality.constant_action, quality.action_names, "nothing is learned of what it does"),
    )
    for kind, columns, names, meaning in constant:
        if columns:
            found.append(
                f"{kind} {_list(columns, names)} never {'changes' if len(columns) == 1 else 'change'}: {meaning}."
            )
    if quality.reward.min == quality.reward.max:
        found.append(f"the reward is {quality.reward.min:g} in every row: there is nothing to learn from it.")
    if quality.at_cap >= max(CAP_EPISODES, CAP_SHARE * quality.episodes):
        found.append(
            f"{quality.at_cap} of {quality.episodes} episodes end `terminated` at exactly {quality.length.max:.0f} "
            "steps, the greatest length: if that is a time limit, they should be `truncated`, for a terminal state is "
            "taken to be worth nothing."
        )
    saturated = [axis for axis, share in enumerate(quality.at_bounds) if share >= AT_BOUNDS_SHARE]
    if saturated:
        shares = ", ".join(f"{100 * quality.at_bounds[axis]:.0f} %" for axis in saturated)
        found.append(f"action {_list(saturated, quality.action_names)} lies on its bounds in {shares} of the rows.")
    if quality.terminated + quality.truncated == 0:
        found.append("no end of an episode is marked: all rows count as one unfinished episode.")
    return found


def _rows(found: Found) -> str:
    more = ", …" if found.count > len(found.first) else ""
    return f"{plural(found.count, 'row has', 'rows have')} (row {', '.join(map(str, found.first))}{more})"


def _list(axes: list[int], names: list[str]) -> str:
    return ", ".join(names[axis] if names else f"[{axis}]" for axis in axes[:10]) + (", …" if len(axes) > 10 else "")
