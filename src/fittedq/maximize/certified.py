"""max_a q(s, a) with a proof: branch and bound over boxes of actions, all states pooled in one queue."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fittedq.errors import UserError, nearest
from fittedq.maximize.base import Solution, is_box
from fittedq.maximize.bounds import FoldedNetwork, Upper, networks
from fittedq.types import AbstractActionSet, AbstractCritic, Arr

OPTIMAL = 5
"""The gap is within the tolerance."""
GAP = 6
"""The gap is what rounding leaves: the critic's own, in its precision, is not small beside the tolerance."""
TIME_LIMIT = 7
"""Stopped by a time limit; the interval is what was proven by then."""

BATCH = 128
"""Boxes bounded at once: enough for the matrix products, few enough for the cache."""
STARTS = 24
CLIMBED, CLIMB_STEPS = 4, 24
"""Starting points looked at per state, those that climb, and the steps they take before the first bound."""
WORTH_ANOTHER_BOUND = 0.3
"""A box that shrank to this share of its volume is bounded again before it is split."""


def certified(
    critic: AbstractCritic | Sequence[tuple[Any, Any]],
    obs: Float[Arr, "b s"],
    action_set: AbstractActionSet,
    *,
    tol: float = 1e-3,
    time_limit: float | None = None,
    state_time_limit: float | None = None,
    warm_start: Float[Arr, "n *k m"] | None = None,
    activation: str = "relu",
    combine: str = "min",
) -> Solution:
    """value(s) ≤ max_{a ∈ A(s)} q(s, a) ≤ upper_bound(s), with upper_bound − value ≤ tol · max(1, |value|).

    q = min_j q_j over the ensemble, or their mean (`combine`). `critic` is a `QNetwork`, or one network as a list of
    (weight [in, out], bias [out]) over [s, a] in plain units with `activation` between. Boxes and state-dependent
    boxes; few action dimensions (m ≤ 8 or so), wide networks.

    The interval holds whenever the search stops: after `time_limit` seconds for the batch, or once a state has had
    `state_time_limit` seconds of work. Status per state: OPTIMAL, TIME_LIMIT, or GAP where rounding stands between the
    bound and the tolerance. `warm_start` actions, the policy's say, are a guarantee: the value is never below theirs.

    `value` is q in real arithmetic at `action`, rounded down; `upper_bound` bounds q in real arithmetic and as the
    critic itself evaluates it on any action of its own precision, sums in any order (not in TF32). Where that rounding
    alone takes more than half of the tolerance, the status is GAP: no search can narrow it.

    Errors: `UserError` for a critic, an activation or an action set that no bound is known for.
    """
    started = time.perf_counter()
    search = _Search(critic, obs, action_set, tol, activation, combine)
    search.seed(warm_start)
    search.run(started, time_limit, state_time_limit)
    return search.solution()


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
        best = Upper(constant[row, winner], slope[row, winner], benefit, np.maximum(best.rounding, other.rounding))
    return best


def _mean_of(uppers: list[Upper]) -> Upper:
    return Upper(*(np.mean(parts, axis=0) for parts in zip(*uppers, strict=True)))


COMBINATIONS = {"min": (_min_of, np.min), "mean": (_mean_of, np.mean)}
"""How an ensemble becomes one critic: its bounds, its values."""


class _Search:
    """One batch of problems: incumbents, a pool of open boxes, and what is settled, per state."""

    def __init__(
        self,
        critic: Any,
        obs: Any,
        action_set: AbstractActionSet,
        tol: float,
        activation: str,
        combine: str,
    ):
        if not is_box(action_set):
            raise UserError(
                f"certified maximum: found the action set {type(action_set).__name__}, expected a Box or a StateBox; "
                "for a polytope use the MILP."
            )
        if not tol > 0:
            raise UserError(f"certified maximum: tol is {tol}, expected a number above 0, for example 1e-3.")
        if combine not in COMBINATIONS:
            raise UserError(f"certified maximum: combine is {combine!r}; {nearest(combine, COMBINATIONS)}")
        obs = np.asarray(obs)
        if obs.ndim != 2 or not np.isfinite(obs).all():
            raise UserError(f"certified maximum: obs has shape {obs.shape}, expected finite numbers of shape (b, s).")
        low, high = (np.asarray(bound, float) for bound in action_set.bounds(obs))
        shape = (len(obs), action_set.size)
        self.low, self.high = (np.array(np.broadcast_to(bound, shape)) for bound in (low, high))
        bad = ~((self.low <= self.high) & np.isfinite(self.low) & np.isfinite(self.high))
        if bad.any():
            row, axis = np.argwhere(bad)[0]
            raise UserError(
                f"certified maximum: at state {row} dimension {axis} is [{self.low[row, axis]}, "
                f"{self.high[row, axis]}], expected finite numbers, low ≤ high."
            )
        members = networks(critic, obs.shape[1], action_set.size, activation)
        self.members = [FoldedNetwork(member, obs.astype(float), self.low, self.high) for member in members]
        self.action_type = np.float32 if members[0].unit > 2.0**-53 else np.float64
        self.combine_bounds, self.combine_values = COMBINATIONS[combine]
        self.own = np.max([member.own for member in self.members], axis=0)
        self.tol = tol
        count = len(obs)
        self.action = ((self.low + self.high) / 2).astype(self.action_type)
        self.value = np.full(count, -np.inf)
        self.settled = np.full(count, -np.inf)
        self.stopped = np.zeros(count, bool)

    def goal(self, state: np.ndarray, rounding: np.ndarray) -> np.ndarray:
        """What a bound in real arithmetic must reach: the critic's own rounding takes up to half of the tolerance."""
        value = self.value[state]
        tolerance = self.tol * np.maximum(1, np.abs(value))
        return value + tolerance - np.minimum(rounding, tolerance / 2)

    def settle(self, state: np.ndarray, bound: np.ndarray, rounding: np.ndarray) -> None:
        """q ≤ bound on boxes that are looked at no more, and as the critic evaluates it at most `rounding` above."""
        np.maximum.at(self.settled, state, bound + rounding)

    def evaluate(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """q rounded down, in float64."""
        values = [member.values(state, action)[0] for member in self.members]
        return self.combine_values(values, axis=0) - self.own[state]

    def rounded(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Actions of A(s) in the critic's own precision."""
        nearest_action = action.astype(self.action_type).astype(float)
        return np.clip(nearest_action, self.low[state], self.high[state])

    def offer(self, state: np.ndarray, action: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Take better incumbents; the states that improved."""
        order = np.lexsort((value, state))
        last = np.append(state[order][1:] != state[order][:-1], True)
        best = order[last]
        best = best[value[best] > self.value[state[best]]]
        self.value[state[best]], self.action[state[best]] = value[best], action[best]
        return state[best]

    def seed(self, warm_start: Any) -> None:
        """Incumbents before the first bound: warm starts, the centre and fixed random points; the best climb."""
        count, m = self.low.shape
        fixed = np.random.default_rng(0).uniform(size=(STARTS, m))
        fixed[0] = 0.5
        starts = self.low[:, None] + (self.high - self.low)[:, None] * fixed
        if warm_start is not None:
            given = np.asarray(warm_start, float)
            given = given[:, None] if given.ndim == 2 else given
            if given.ndim != 3 or given.shape[0] != count or given.shape[2] != m:
                raise UserError(
                    f"certified maximum: warm_start has shape {np.shape(warm_start)}, expected ({count}, {m}) or "
                    f"({count}, k, {m}): actions for every state."
                )
            given = np.where(np.isfinite(given), given, self.action[:, None])
            starts = np.concatenate([given, starts], axis=1)
        k = starts.shape[1]
        for first in range(0, count, 256):
            rows = np.arange(first, min(first + 256, count))
            state = np.repeat(rows, k)
            action = self.rounded(state, starts[rows].reshape(-1, m))
            value = self.evaluate(state, action)
            self.offer(state, action, value)
            top = np.argsort(-value.reshape(-1, k), axis=1)[:, :CLIMBED]
            chosen = (np.arange(len(rows))[:, None] * k + top).ravel()
            self.climb(state[chosen], action[chosen], CLIMB_STEPS)

    def climb(self, state: np.ndarray, action: np.ndarray, steps: int) -> None:
        """Projected gradient ascent, each point with its own step: doubled after a success, else quartered."""
        width = self.high[state] - self.low[state]
        value, gradient = self._climbing(state, action)
        step = np.full(len(state), 0.25)
        for _ in range(steps):
            direction = gradient * width
            direction = direction / np.maximum(np.abs(direction).max(axis=1, keepdims=True), 1e-300)
            moved = self.rounded(state, action + step[:, None] * direction * width)
            new_value, new_gradient = self._climbing(state, moved)
            better = new_value > value
            step = np.where(better, 2 * step, step / 4)
            value = np.where(better, new_value, value)
            action = np.where(better[:, None], moved, action)
            gradient = np.where(better[:, None], new_gradient, gradient)
        self.offer(state, action, self.evaluate(state, action))

    def _climbing(self, state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, gradients = zip(*(member.values(state, action, gradient=True) for member in self.members), strict=True)
        value = np.stack(values)
        if self.combine_values is np.mean:
            return value.mean(axis=0), np.mean(gradients, axis=0)
        least = value.argmin(axis=0)
        row = np.arange(len(state))
        return value[least, row], np.stack(gradients)[least, row]

    def upper(self, state: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[Upper, np.ndarray, np.ndarray]:
        """(a linear upper bound on each box, the box's centre, its radius)."""
        center = (low + high) / 2
        # The centre is rounded: the radius covers both ends all the same.
        radius = (high - low) / 2 + 2.0**-51 * np.maximum(np.abs(low), np.abs(high))
        return self.combine_bounds([member.upper(state, center, radius) for member in self.members]), center, radius

    def run(self, started: float, time_limit: float | None, state_time_limit: float | None) -> None:
        """Until every state is settled or the time is up; a bound for the whole box comes first, for every state."""
        count, m = self.low.shape
        waiting = []
        for first in range(0, count, BATCH):
            rows = np.arange(first, min(first + BATCH, count))
            whole = Boxes(rows, self.low[rows], self.high[rows], np.full(len(rows), np.inf), np.zeros(len(rows)))
            waiting.append(self.children(whole))
        waiting.reverse()
        pool, spent, before = _Pool(m), np.zeros(count), time.perf_counter()
        while waiting or pool.count:
            while waiting and pool.count < BATCH:
                pool.add(waiting.pop())
            boxes = self.next_boxes(pool)
            if len(boxes.state):
                pool.add(self.children(boxes))
            now = time.perf_counter()
            if state_time_limit is not None and len(boxes.state):
                np.add.at(spent, boxes.state, (now - before) / len(boxes.state))
                self.stopped |= spent > state_time_limit
            before = now
            if time_limit is not None and now - started > time_limit:
                for boxes in waiting:
                    pool.add(boxes)
                self.stopped[:] = True
                self.next_boxes(pool)
                return

    def next_boxes(self, pool: _Pool) -> Boxes:
        """The open boxes farthest above their goal; those with nothing to prove, or no time left, settle."""
        state, bound = pool.boxes.state[: pool.count], pool.boxes.bound[: pool.count]
        goal = self.goal(state, pool.boxes.rounding[: pool.count])
        excess = (bound - goal) / np.maximum(1, np.abs(goal))
        over = np.flatnonzero((excess <= 0) | self.stopped[state])
        self.settle(state[over], bound[over], pool.boxes.rounding[over])
        excess[over] = -np.inf
        return pool.take(excess, BATCH)

    def children(self, boxes: Boxes) -> Boxes:
        """What is left of boxes once they are bounded.

        Where the linear bound is greatest the critic is evaluated: a new incumbent, perhaps. What the bound proves to
        be within the tolerance is cut off, and the rest is split.
        """
        upper, center, radius = self.upper(boxes.state, boxes.low, boxes.high)
        corner = np.clip(center + np.sign(upper.slope) * radius, boxes.low, boxes.high)
        corner = self.rounded(boxes.state, corner)
        improved = self.offer(boxes.state, corner, self.evaluate(boxes.state, corner))
        if len(improved):
            self.climb(improved, self.action[improved].astype(float), 6)
        # A parent's bound holds for its children, and may be the better one; it says nothing about where to cut.
        slope = np.where((upper.bound > boxes.bound)[:, None], 0.0, upper.slope)
        boxes = boxes._replace(bound=np.minimum(upper.bound, boxes.bound), rounding=upper.rounding)
        open_boxes = boxes.bound > self.goal(boxes.state, boxes.rounding)
        done = boxes.select(~open_boxes)
        self.settle(done.state, done.bound, done.rounding)
        boxes, slope, radius, benefit = (
            boxes.select(open_boxes),
            *(array[open_boxes] for array in (slope, radius, upper.benefit)),
        )
        boxes, kept = self.cut(boxes, slope, radius)
        return self.split(boxes, kept, benefit)

    def cut(self, boxes: Boxes, slope: np.ndarray, radius: np.ndarray) -> tuple[Boxes, np.ndarray]:
        """The part of each box where its linear bound exceeds the goal, and the share of each side that is left.

        Where bound − |A_k| (1 − ε_k sign A_k) ≤ goal there is nothing left to prove.
        """
        goal = self.goal(boxes.state, boxes.rounding)
        # Rounding of this line itself is far below what it adds.
        excess = (boxes.bound - goal) * (1 + 1e-9) + 1e-12 * (np.abs(boxes.bound) + np.abs(goal))
        kept = excess[:, None] / np.maximum(2 * np.abs(slope), excess[:, None])
        smaller, length = kept < 1, kept * 2 * radius
        low = np.where(smaller & (slope > 0), np.maximum(boxes.low, boxes.high - length), boxes.low)
        high = np.where(smaller & (slope < 0), np.minimum(boxes.high, boxes.low + length), boxes.high)
        cut = smaller.any(axis=1)
        self.settle(boxes.state[cut], goal[cut], boxes.rounding[cut])
        return boxes._replace(low=low, high=high), kept

    def split(self, boxes: Boxes, kept: np.ndarray, benefit: np.ndarray) -> Boxes:
        """Halves across the side of the greatest benefit; a box that the cut made much smaller stays whole for now."""
        state, low, high, bound, rounding = boxes
        row, width = np.arange(len(state)), high - low
        middle = (low + high) / 2
        divisible = (low < middle) & (middle < high)
        # A box of one point in floating point cannot be split: its bound stands.
        point = ~divisible.any(axis=1)
        self.settle(state[point], bound[point], rounding[point])
        # Where no side promises a benefit, the widest: relative to the whole box, since units differ.
        share = width / np.maximum(self.high[state] - self.low[state], np.finfo(float).tiny)
        axis = np.argmax(np.where(divisible, benefit * kept + 1e-12 * share, -1), axis=1)
        again = boxes.select((np.prod(kept, axis=1) < WORTH_ANOTHER_BOUND) & ~point)
        halved = (np.prod(kept, axis=1) >= WORTH_ANOTHER_BOUND) & ~point
        left_high, right_low = high.copy(), low.copy()
        left_high[row, axis] = right_low[row, axis] = middle[row, axis]
        left, right = boxes._replace(high=left_high).select(halved), boxes._replace(low=right_low).select(halved)
        return Boxes(*(np.concatenate(parts) for parts in zip(again, left, right, strict=True)))

    def solution(self) -> Solution:
        """What is proven: every box is settled, be it by the clock."""
        upper_bound = np.maximum(self.value, self.settled)
        optimal = upper_bound - self.value <= self.tol * np.maximum(1, np.abs(self.value)) * (1 + 1e-9)
        status = np.where(optimal, OPTIMAL, np.where(self.stopped, TIME_LIMIT, GAP))
        return Solution(
            action=self.action.astype(self.action_type),
            value=self.value,
            upper_bound=upper_bound,
            status=status.astype(np.int32),
        )


class Boxes(NamedTuple):
    """Boxes of actions, each of one state, with a proven bound of q on it and of the critic's own rounding."""

    state: Int[np.ndarray, "b"]
    low: Float[np.ndarray, "b m"]
    high: Float[np.ndarray, "b m"]
    bound: Float[np.ndarray, "b"]
    rounding: Float[np.ndarray, "b"]

    def select(self, rows: Any) -> Boxes:
        """Those at `rows`."""
        return Boxes(*(array[rows] for array in self))


class _Pool:
    """Open boxes in no order, in arrays that grow."""

    def __init__(self, m: int):
        self.count = 0
        self.boxes = Boxes(
            np.empty(1024, int), np.empty((1024, m)), np.empty((1024, m)), np.empty(1024), np.empty(1024)
        )

    def add(self, boxes: Boxes) -> None:
        """More open boxes."""
        end = self.count + len(boxes.state)
        if end > len(self.boxes.state):
            self.boxes = Boxes(*(np.resize(array, (2 * end, *array.shape[1:])) for array in self.boxes))
        for array, new in zip(self.boxes, boxes, strict=True):
            array[self.count : end] = new
        self.count = end

    def take(self, priority: Float[np.ndarray, "count"], most: int) -> Boxes:
        """Remove the `most` boxes of the greatest priority and return them; those of priority −∞ are dropped."""
        alive = np.flatnonzero(priority > -np.inf)
        if len(alive) > most:
            alive = alive[np.argpartition(-priority[alive], most)]
        taken, kept = self.boxes.select(alive[:most]), alive[most:]
        # Holes are filled from the end rather than moving everything.
        hole = np.ones(self.count, bool)
        hole[kept] = False
        holes = np.flatnonzero(hole[: len(kept)])
        tail = len(kept) + np.flatnonzero(~hole[len(kept) :])
        for array in self.boxes:
            array[holes] = array[tail]
        self.count = len(kept)
        return taken
