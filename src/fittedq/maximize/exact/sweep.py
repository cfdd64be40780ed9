"""The exact maximum of a tree ensemble over one action: every tree a step function of it, their sum swept once."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.approx.host import to_host
from fittedq.approx.trees import TreeCritic
from fittedq.arrays import Arr
from fittedq.errors import UserError
from fittedq.maximize.base import AbstractMaximizer, Solution, Status

MAX_ROWS = 512
"""States swept at once at most: more gain nothing."""

LEAF = -1


class TreeSweep(AbstractMaximizer[TreeCritic]):
    """max_a q(s, a) = max over the cells of (1/T) Σ_t value_t(cell), for one action and every state of a batch.

    For a fixed s each tree is a step function of a, found by walking down it with the interval of actions that reaches
    each node. The ends of all intervals, sorted, cut the bounds into cells on which q is constant; running sums in
    float64 give its value there. The answer is the middle of the best cell.

    Actions are float32, as the trees compare them, and intervals are kept as ranks of float32 numbers: no rounding
    enters before the sum. `upper_bound` allows for the rounding of any order of summation in float32, so it holds for
    `critic` as NumPy and as JAX evaluate it. States are taken some at a time: memory does not grow with the batch.
    """

    needs_starts: ClassVar[bool] = False
    on_host: ClassVar[bool] = True

    def __call__(
        self,
        critic: TreeCritic,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solution:
        del starts, key
        if action_set.size != 1:
            raise UserError(
                f"TreeSweep: found {action_set.size} action dimensions, expected 1; use a maximizer for several."
            )
        if not action_set.separable:
            raise UserError(
                f"TreeSweep: found the action set {type(action_set).__name__}, expected a Box or a StateBox; "
                "of one action, give the interval itself."
            )
        critic, obs = to_host(critic), np.asarray(obs, np.float32)
        low, high = (np.broadcast_to(bound, (len(obs), 1))[:, 0] for bound in action_set.bounds(obs))
        low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        if not (low <= high).all():
            row = int((~(low <= high)).argmax())
            raise UserError(f"TreeSweep: state {row} has bounds [{low[row]}, {high[row]}], expected low ≤ high.")
        forest = _Ranked(critic, obs.shape[1])
        rows = forest.rows_at_once()
        action, total = np.empty(len(obs), np.float32), np.empty(len(obs))
        for first in range(0, len(obs), rows):
            part = slice(first, first + rows)
            action[part], total[part] = forest.sweep(obs[part], low[part], high[part])
        # Each of T additions, the division and the bound's own cast round by at most 2^-24 of the largest leaf.
        trees = critic.forest.n_trees
        margin = (trees + 4) * 2.0**-24 * float(np.abs(critic.value).max())
        return Solution(
            action=action[:, None],
            value=critic(obs, action[:, None])[0],
            upper_bound=(total / trees + margin).astype(np.float32),
            status=np.full(len(obs), Status.EXACT, np.int32),
        )


class _Ranked:
    """The ensemble with each threshold as the rank after it: x ≤ threshold where rank(x) < cut."""

    def __init__(self, critic: TreeCritic, action_column: int):
        self.child, self.value, self.trees = critic.child, critic.value, critic.forest.n_trees
        self.cut = _rank(critic.threshold) + np.int32(1)
        self.feature = np.where(critic.child == np.arange(len(critic.child)), np.int32(LEAF), critic.feature)
        self.action_column = action_column

    def rows_at_once(self) -> int:
        """As many rows as always leave room for (row, rank, number of the end) in one 64-bit key."""
        ends = 2 * (self.trees + int((self.feature == self.action_column).sum()))
        rows = 1
        while rows < MAX_ROWS and (2 * rows) * (2 * rows * ends) < 2**32:
            rows *= 2
        return rows

    def sweep(self, obs: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(an action of greatest Σ_t value_t, that sum) per row."""
        row, start, stop, value = self.steps(obs, _rank(low), _rank(high) + np.int32(1))
        # A step of height v on [start, stop) is +v at its start and −v at its stop; each row's sum ends at zero again.
        change = np.concatenate([value, -value])
        place = np.concatenate([start, stop]).astype(np.int64) + 2**31
        place |= np.concatenate([row, row]).astype(np.int64) << 32
        # Sorting keys that carry the number of each end in their low bits is several times faster than `argsort`.
        bits = np.uint64(len(place).bit_length())
        keys = (place.view(np.uint64) << bits) | np.arange(len(place), dtype=np.uint64)
        keys.sort()
        place = (keys >> bits).view(np.int64)
        number = (keys & ((np.uint64(1) << bits) - np.uint64(1))).view(np.int64)
        total = np.cumsum(change.take(number))
        # A cell begins at the last of the ends at one place; what follows a row's last end is no cell.
        last = np.flatnonzero(place[1:] != place[:-1])
        cell_row = place.take(last) >> 32
        inside = np.flatnonzero(cell_row == place.take(last + 1) >> 32)
        last, cell_row = last.take(inside), cell_row.take(inside)
        cell_total = total.take(last)
        best = np.maximum.reduceat(cell_total, np.searchsorted(cell_row, np.arange(len(obs))))
        winners = np.flatnonzero(cell_total == best.take(cell_row))
        _, first_winner = np.unique(cell_row.take(winners), return_index=True)
        winner = last.take(winners.take(first_winner))
        first, final = (
            _unrank((place.take(winner + offset) & (2**32 - 1)) - 2**31 - offset).astype(np.float64)
            for offset in (0, 1)
        )
        return np.clip(((first + final) / 2).astype(np.float32), first, final).astype(np.float32), best

    def steps(
        self, obs: np.ndarray, start: np.ndarray, stop: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Each tree's steps on [start, stop), in ranks: (row, start, stop, value); all rows and trees at once."""
        width = obs.shape[1]
        state = _rank(obs).reshape(-1)
        row = np.tile(np.arange(len(obs), dtype=np.int32), self.trees)
        node = np.repeat(np.arange(self.trees, dtype=np.int32), len(obs))
        start, stop = start.take(row), stop.take(row)
        rows, starts, stops, values = [], [], [], []
        while len(node):
            feature, cut, child = self.feature.take(node), self.cut.take(node), self.child.take(node)

            leaf = np.flatnonzero(feature == LEAF)
            rows.append(row.take(leaf))
            starts.append(start.take(leaf))
            stops.append(stop.take(leaf))
            values.append(self.value.take(node.take(leaf)).astype(np.float64))

            on_state = np.flatnonzero((feature != LEAF) & (feature != self.action_column))
            state_row = row.take(on_state)
            right = state.take(state_row * width + feature.take(on_state)) >= cut.take(on_state)
            state_node = child.take(on_state) + right

            on_action = np.flatnonzero(feature == self.action_column)
            cut, child = cut.take(on_action), child.take(on_action)
            action_row, from_start, to_stop = row.take(on_action), start.take(on_action), stop.take(on_action)
            left, right = np.flatnonzero(from_start < cut), np.flatnonzero(to_stop > cut)

            row = np.concatenate([state_row, action_row.take(left), action_row.take(right)])
            node = np.concatenate([state_node, child.take(left), child.take(right) + np.int32(1)])
            start = np.concatenate(
                [start.take(on_state), from_start.take(left), np.maximum(from_start, cut).take(right)]
            )
            stop = np.concatenate([stop.take(on_state), np.minimum(to_stop, cut).take(left), to_stop.take(right)])
        return np.concatenate(rows), np.concatenate(starts), np.concatenate(stops), np.concatenate(values)


def _rank(x: Arr) -> np.ndarray:
    """The float32 numbers in order, as int32: neighbours differ by one, and −0 is 0."""
    bits = (np.asarray(x, np.float32) + np.float32(0)).view(np.int32)
    return np.where(bits < 0, bits ^ np.int32(2**31 - 1), bits)


def _unrank(rank: np.ndarray) -> np.ndarray:
    """The inverse of `_rank`."""
    bits = rank.astype(np.int32)
    return np.where(bits < 0, bits ^ np.int32(2**31 - 1), bits).view(np.float32)
