"""The exact maximum of a tree ensemble over a box of actions: branch and bound between the trees' own cuts."""

from __future__ import annotations

import heapq
import itertools
import time
from typing import ClassVar, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float, Float32, Float64, Int, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.approx.host import to_host
from fittedq.approx.trees import TreeCritic
from fittedq.arrays import Arr, Index
from fittedq.errors import UserError
from fittedq.maximize.base import AbstractMaximizer, Effort, Solution, Status, exact
from fittedq.maximize.exact.sweep import TreeSweep

STARTS, CLIMBED = 48, 6
"""Points looked at per state, and how many of the best climb coordinate by coordinate."""
CUTS = 12
"""Cuts tried per side of a box."""


class TreeArgmax(AbstractMaximizer[TreeCritic]):
    """max_a q(s, a) = (1/T) max_a Σ_t value_t(leaf of [s, a]), exact for any number of actions.

    For a fixed s each tree is a partition of the box of actions. A box of actions is bounded by Σ_t of the greatest
    leaf of tree t that meets it; it is cut where that lowers the bounds of both halves most, at a threshold of some
    tree, and dropped once its bound is no better than the best point known. Where one leaf of each tree is left, the
    bound is the value. Cells are half-open, (low, high] in float32, as the trees compare, so the upper corner of a cell
    is an action.

    A state has `state_seconds` at most: then the status is TIME_LIMIT, and `upper_bound` still holds. It allows for the
    rounding of any order of summation in float32.
    """

    needs_starts: ClassVar[bool] = False
    on_host: ClassVar[bool] = True
    quick: ClassVar[bool] = False
    state_seconds: float = eqx.field(static=True, default=10.0)

    def __call__(
        self,
        critic: TreeCritic,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solution:
        del key
        if not action_set.separable:
            raise UserError(
                f"TreeArgmax: found the action set {type(action_set).__name__}, expected a Box or a StateBox; "
                "use the cross-entropy method (maximizer=cem)."
            )
        critic, obs = to_host(critic), np.asarray(obs, np.float32)
        shape = (len(obs), action_set.size)
        low, high = (np.asarray(np.broadcast_to(bound, shape), np.float32) for bound in action_set.bounds(obs))
        action = np.empty(shape, np.float32)
        bound, status = np.empty(len(obs)), np.empty(len(obs), np.int32)
        for row in range(len(obs)):
            leaves = project(critic, obs[row], low[row], high[row])
            given = np.empty((0, shape[1]), np.float32) if starts is None else np.asarray(starts[row], np.float32)
            given = np.clip(given[np.isfinite(given).all(axis=1)], low[row], high[row])
            action[row], bound[row], proven = _maximize(leaves, low[row], high[row], given, self.state_seconds)
            status[row] = Status.EXACT if proven else Status.TIME_LIMIT
        trees = critic.forest.n_trees
        # Each of T additions, the division and the bound's own cast round by at most 2^-24 of the largest leaf.
        margin = (trees + 4) * 2.0**-24 * float(np.abs(critic.value).max())
        return Solution(
            action=action,
            value=np.asarray(critic(obs, action)[0]),
            upper_bound=(bound / trees + margin).astype(np.float32),
            status=status,
        )


@exact.register
def _(critic: TreeCritic, action_set: AbstractActionSet, effort: Effort) -> AbstractMaximizer | None:
    """Over one action the sweep, which needs no search."""
    del critic
    if not action_set.separable:
        return None
    return TreeSweep() if action_set.size == 1 else TreeArgmax(**effort.named("state_seconds"))


class Leaves(NamedTuple):
    """The leaves of every tree that some action of a box reaches, tree by tree: low < a ≤ high."""

    low: Float32[np.ndarray, "n m"]
    high: Float32[np.ndarray, "n m"]
    value: Float64[np.ndarray, "n"]
    tree: Int[np.ndarray, "n"]

    def select(self, rows: Index) -> Leaves:
        """Those at `rows`."""
        return Leaves(*(array[rows] for array in self))

    def firsts(self) -> Int[np.ndarray, "T"]:
        """Where each tree begins."""
        return np.flatnonzero(np.diff(self.tree, prepend=-1))

    def bound(self) -> float:
        """Σ_t max of tree t's leaves."""
        return float(np.maximum.reduceat(self.value, self.firsts()).sum())

    def at(self, action: Float32[np.ndarray, "k m"]) -> Float64[np.ndarray, "k"]:
        """Σ_t value_t at each action."""
        inside = ((self.low[None] < action[:, None]) & (action[:, None] <= self.high[None])).all(axis=2)
        return inside @ self.value


def project(
    critic: TreeCritic, obs: Float32[np.ndarray, "s"], low: Float32[np.ndarray, "m"], high: Float32[np.ndarray, "m"]
) -> Leaves:
    """Each tree as a function of the action alone: its leaves at this s, all trees walked at once."""
    trees, width, m = critic.forest.n_trees, len(obs), len(low)
    is_leaf = critic.child == np.arange(len(critic.child))
    value = np.asarray(critic.value, float)
    node = np.arange(trees)
    tree = node.copy()
    # The box is closed: just below `low` is outside.
    start = np.tile(np.nextafter(low, np.float32(-np.inf)), (trees, 1))
    stop = np.tile(high, (trees, 1))
    parts: list[Leaves] = []
    while len(node):
        done = is_leaf[node]
        parts.append(Leaves(start[done], stop[done], value[node[done]], tree[done]))
        node, tree, start, stop = (array[~done] for array in (node, tree, start, stop))
        feature, threshold, child = critic.feature[node], critic.threshold[node], critic.child[node]
        on_state = feature < width
        right = obs[np.minimum(feature, width - 1)] > threshold
        axis, row = np.clip(feature - width, 0, m - 1), np.arange(len(node))
        goes_left = np.where(on_state, ~right, start[row, axis] < threshold)
        goes_right = np.where(on_state, right, stop[row, axis] > threshold)
        left_stop, right_start = stop.copy(), start.copy()
        cut = ~on_state
        left_stop[row[cut], axis[cut]] = np.minimum(stop[row, axis], threshold)[cut]
        right_start[row[cut], axis[cut]] = np.maximum(start[row, axis], threshold)[cut]
        node = np.concatenate([child[goes_left], child[goes_right] + 1])
        tree = np.concatenate([tree[goes_left], tree[goes_right]])
        start = np.concatenate([start[goes_left], right_start[goes_right]])
        stop = np.concatenate([left_stop[goes_left], stop[goes_right]])
    leaves = Leaves(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return leaves.select(np.argsort(leaves.tree, kind="stable"))


def _maximize(
    leaves: Leaves, low: np.ndarray, high: np.ndarray, given: np.ndarray, seconds: float
) -> tuple[np.ndarray, float, bool]:
    """(the best action, a bound on Σ_t value_t, whether the bound is its value)."""
    began = time.perf_counter()
    best, value = _climbed(leaves, low, high, given)
    order = itertools.count()
    first = leaves.bound()
    heap = [(-first, next(order), np.nextafter(low, np.float32(-np.inf)), high, leaves)]
    while heap:
        bound, _, start, stop, inside = heapq.heappop(heap)
        # Sums of the same leaves in another order differ by rounding alone.
        if -bound <= value + 1e-12 * max(1.0, abs(value)):
            return best, max(value, -bound), True
        if time.perf_counter() - began > seconds:
            return best, -bound, False
        for start_half, stop_half, half in _halves(inside, start, stop, value):
            half_bound = half.bound()
            if half_bound <= value:
                continue
            point = stop_half[None]
            at_point = float(half.at(point)[0])
            if at_point > value:
                best, value = _swept(leaves, point[0], at_point, low)
            if len(half.value) > half.tree[-1] + 1:
                heapq.heappush(heap, (-half_bound, next(order), start_half, stop_half, half))
    return best, value, True


def _halves(
    leaves: Leaves, start: np.ndarray, stop: np.ndarray, value: float
) -> list[tuple[np.ndarray, np.ndarray, Leaves]]:
    """The two parts of a box, cut where the excess of their bounds over `value` is least."""
    axes, cuts = [], []
    for axis in range(len(start)):
        ends = np.unique(leaves.high[:, axis])
        ends = ends[(ends > start[axis]) & (ends < stop[axis])]
        if len(ends) > CUTS:
            ends = ends[np.linspace(0, len(ends) - 1, CUTS + 2).astype(int)[1:-1]]
        axes.append(np.full(len(ends), axis))
        cuts.append(ends)
    axis, cut = np.concatenate(axes), np.concatenate(cuts)
    firsts = leaves.firsts()
    left = np.where(cut[:, None] > leaves.low[:, axis].T, leaves.value, -np.inf)
    right = np.where(cut[:, None] < leaves.high[:, axis].T, leaves.value, -np.inf)
    bounds = np.stack([np.maximum.reduceat(side, firsts, axis=1).sum(axis=1) for side in (left, right)])
    # Both halves have to be searched: what counts is how much is left in both.
    chosen = int(np.argmin(np.maximum(bounds - value, 0).sum(axis=0)))
    axis, cut = int(axis[chosen]), cut[chosen]
    left_stop, right_start = stop.copy(), start.copy()
    left_stop[axis] = right_start[axis] = cut
    return [
        (start, left_stop, leaves.select(leaves.low[:, axis] < cut)),
        (right_start, stop, leaves.select(leaves.high[:, axis] > cut)),
    ]


def _climbed(leaves: Leaves, low: np.ndarray, high: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, float]:
    """The best of some points, each climbed by exact sweeps along one coordinate after another."""
    share = np.random.default_rng(0).uniform(size=(STARTS, len(low)))
    points = np.concatenate([given, np.clip((low + share * (high - low)).astype(np.float32), low, high)])
    values = np.concatenate([leaves.at(points[first : first + 8]) for first in range(0, len(points), 8)])
    best, value = points[0], -np.inf
    for row in np.argsort(-values, kind="stable")[:CLIMBED]:
        point, reached = _swept(leaves, points[row], float(values[row]), low)
        if reached > value:
            best, value = point, reached
    return best, value


def _swept(leaves: Leaves, point: np.ndarray, value: float, low: np.ndarray) -> tuple[np.ndarray, float]:
    """Coordinate ascent to a point that no single coordinate improves."""
    point, since = point.copy(), 0
    for axis in itertools.cycle(range(len(point))):
        others = [other for other in range(len(point)) if other != axis]
        on_line = ((leaves.low[:, others] < point[others]) & (point[others] <= leaves.high[:, others])).all(axis=1)
        line = leaves.select(on_line)
        # Σ_t value_t changes only where a leaf ends: its value at every such end.
        place, sign = np.concatenate([line.low[:, axis], line.high[:, axis]]), len(line.value)
        order = np.argsort(place, kind="stable")
        total = np.cumsum(np.concatenate([line.value, -line.value])[order])
        ends = place[order]
        last = np.flatnonzero(np.append(ends[1:] != ends[:-1], True))[:-1]
        best = int(np.argmax(total[last])) if sign and len(last) else -1
        if best >= 0 and total[last][best] > value + 1e-9 * max(1.0, abs(value)):
            point[axis] = max(ends[last[best] + 1], low[axis])
            value, since = float(leaves.at(point[None])[0]), 0
        else:
            since += 1
        if since == len(point):
            return point, value
    return point, value
