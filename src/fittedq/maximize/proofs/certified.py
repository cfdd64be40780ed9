"""max_a q(s, a) with a proof: branch and bound over boxes of actions, all states pooled in one queue."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from fittedq.actions.base import AbstractActionSet
from fittedq.actions.region import Region
from fittedq.arrays import Arr, Index
from fittedq.errors import UserError
from fittedq.maximize.base import Solution, Status
from fittedq.maximize.proofs.bounds import BoxRuns, FoldedNetwork, PieceAtState, Upper, members_of
from fittedq.maximize.proofs.combine import combination
from fittedq.maximize.region import actions_per_state, region_of
from fittedq.types import AbstractCritic

BOXES_AT_ONCE = 256
"""Boxes bounded at once: enough for the matrix products, few enough for the cache."""
WINDOW = 64
"""Subtrees open at once before another state begins: a bound on memory, since each has a network of its own."""
HALVED = 192
"""Open boxes at which a subtree becomes two, each with a smaller network."""
STARTS = 24
CLIMBED, CLIMB_STEPS = 4, 12
"""Starting points looked at per state, those that climb, and the steps they take before the first bound."""
WORTH_ANOTHER_BOUND = 0.3
"""A box that shrank to this share of its volume is bounded again before it is split."""
DUAL_STEPS = 6
"""Exact steps on one multiplier at a time per bound over a polytope."""


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
    """value(s) ≤ max_{a ∈ A(s)} q(s, a) ≤ upper_bound(s), with upper_bound − value ≤ tol · max(1, |value|) + rounding.

    q = min_j q_j over the ensemble, or their mean (`combine`). `critic` is a `QNetwork`, or one network as a list of
    (weight [in, out], bias [out]) over [s, a] in plain units with `activation` between. Boxes, state-dependent boxes,
    polytopes, and any of them with whole coordinates; few action dimensions (m ≤ 8 or so), wide networks.

    The interval holds whenever the search stops: after `time_limit` seconds for the batch, or once a state has had
    `state_time_limit` seconds of work. Status per state: OPTIMAL, TIME_LIMIT, GAP where double precision ends before
    the tolerance, or ROUNDED where the critic's rounding makes the interval wider than twice the tolerance.
    `warm_start` actions, the policy's say, are a guarantee: the value is never below theirs.

    `value` is q in real arithmetic at `action`, rounded down; `upper_bound` bounds q in real arithmetic and as the
    critic itself evaluates it on any action of its own precision, sums in any order (not in TF32). The tolerance is
    about real arithmetic; what the critic's own rounding may add at worst, far less than 1e-3 · |q| for most, is on
    top: with OPTIMAL no more than the tolerance again, with ROUNDED more.

    Errors: `UserError` for a critic, an activation or an action set that no bound is known for.
    """
    started = time.perf_counter()
    search = _BoxSearch(critic, obs, action_set, tol, activation, combine)
    search.seed(warm_start)
    search.run(started, time_limit, state_time_limit)
    return search.solution()


class _Domain:
    """The region of the search, boxes around what of it they hold, and actions in it, which are of type `dtype`.

    The rows are relaxed by the rounding of `contains`: whatever it accepts is searched.
    """

    def __init__(self, action_set: AbstractActionSet, obs: np.ndarray, region: Region, dtype: type[np.floating]):
        self.action_set, self.obs, self.dtype = action_set, obs, dtype
        self.rows, self.exact_limits, self.whole = region.matrix, region.bound, region.integer
        self.inside = action_set.interior
        """A point inside the polytope, or inside each of its slices."""
        reach = np.maximum(np.abs(np.asarray(action_set.low)), np.abs(np.asarray(action_set.high)))
        self.largest = np.abs(self.rows) @ reach + np.abs(self.exact_limits)
        self.limits = self.exact_limits + 4 * (self.rows.shape[1] + 4) * np.finfo(dtype).eps * self.largest
        self.low, self.high = region.low, region.high
        ends = (np.asarray(end, float) for end in action_set.bounds(obs, dtype))
        self.least, self.most = (np.broadcast_to(end, self.low.shape) for end in ends)
        """The ends of `low` and `high` that are actions: rounded inwards."""
        # What is proven is proven of the set and of its actions.
        self.low, self.high = np.minimum(self.low, self.least), np.maximum(self.high, self.most)

    def points(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Allowed actions nearby, in the critic's own precision."""
        rounded = action.astype(self.dtype)
        if len(self.rows) and self.whole.any():
            # A projection is one per slice; what is allowed stays all the same.
            return np.where(self.allowed(state, action)[:, None], rounded, self.pulled(action)).astype(float)
        if len(self.rows):
            return np.asarray(self.action_set.project(rounded, self.obs[state]), float)
        rounded = np.where(self.whole, np.round(rounded), rounded).astype(float)
        return np.clip(rounded, self.least[state], self.most[state])

    def pulled(self, action: np.ndarray) -> np.ndarray:
        """Allowed points towards the inside of the polytope, or of the slice of the same whole numbers.

        Not the nearest ones, but at a hundredth of a projection's cost.
        """
        rounded = np.where(self.whole, np.round(action), action)
        other = (rounded[:, None, self.whole] != self.inside[None, :, self.whole]).any(axis=2)
        base = self.inside[np.argmin(other, axis=1)]
        away = np.where(other.all(axis=1)[:, None], 0, rounded - base)
        room = (self.exact_limits - 8 * np.finfo(self.dtype).eps * self.largest) - base @ self.rows.T
        needed = away @ self.rows.T
        beyond = needed > np.maximum(room, 0)
        share = np.where(beyond, np.maximum(room, 0) / np.where(beyond, needed, 1), 1).min(axis=1, initial=1)
        return (base + share[:, None] * away).astype(self.dtype).astype(float)

    def allowed(self, state: np.ndarray, action: np.ndarray) -> Bool[np.ndarray, "k"]:
        """Whether points of `points` are in A(s): a projection on a polytope may miss by rounding."""
        if not len(self.rows):
            return np.ones(len(action), bool)
        return np.asarray(self.action_set.contains(action.astype(self.dtype), self.obs[state]))

    def shrunk(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "b"]]:
        """Boxes around what the rows and whole numbers leave of boxes, and whether they leave anything."""
        if len(self.rows):
            up, down = np.maximum(self.rows, 0), np.minimum(self.rows, 0)
            # Row by row: what its least value over the box leaves for any one coordinate to add.
            room = self.limits - low @ up.T - high @ down.T
            empty = np.asarray((room < 0).any(axis=1))
            room = np.maximum(room, 0)[:, :, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                above = np.where(self.rows > 0, room / self.rows, np.inf).min(axis=1)
                below = np.where(self.rows < 0, -room / self.rows, np.inf).min(axis=1)
            rounding = 1e-14 * (np.abs(low) + np.abs(high))
            low, high = np.maximum(low, high - below - rounding), np.minimum(high, low + above + rounding)
        else:
            empty = np.zeros(len(low), bool)
        if self.whole.any():
            low = np.where(self.whole, np.ceil(low - 1e-9), low)
            high = np.where(self.whole, np.floor(high + 1e-9), high)
        return low, high, np.asarray(~empty & (low <= high).all(axis=1))

    def dual(self, upper: Upper, center: np.ndarray, radius: np.ndarray) -> Upper:
        """The linear bound plus λ · (limits − rows a), λ ≥ 0: no less on the polytope, and over the box its least.

        λ from exact steps, each on the row most violated where the bound is greatest: convex and piecewise linear
        along it, so the least is at a kink. Any λ is sound.
        """
        if not len(self.rows):
            return upper
        constant, slope, _ = upper
        box, multiplier = np.arange(len(center)), np.zeros((len(center), len(self.rows)))
        length = np.linalg.norm(self.rows, axis=1)
        size = np.abs(constant) + np.abs(slope).sum(axis=1)
        for _ in range(min(DUAL_STEPS, 2 * len(self.rows))):
            excess = ((center + radius * np.sign(slope)) @ self.rows.T - self.limits) / length
            row = np.argmax(excess, axis=1)
            along = self.rows[row] * radius
            gain = self.limits[row] - (self.rows[row] * center).sum(axis=1)
            kink = np.divide(slope, along, out=np.zeros_like(slope), where=along != 0)
            step = np.maximum(np.concatenate([kink, np.zeros((len(kink), 1))], axis=1), -multiplier[box, row][:, None])
            value = step * gain[:, None] + np.abs(slope[:, None] - step[:, :, None] * along[:, None]).sum(axis=2)
            taken = step[box, np.argmin(value, axis=1)]
            multiplier[box, row] = np.maximum(multiplier[box, row] + taken, 0)
            constant, slope = constant + taken * gain, slope - taken[:, None] * along
        used = multiplier @ (np.abs(self.limits) + self.largest)
        return upper._replace(constant=constant + 1e-13 * (size + used), slope=slope)


class Subtree:
    """Open boxes of one state under networks of their own: those of the critics, linear neurons merged.

    `rounding` is the critic's own, at most, on any of them.
    """

    def __init__(self, state: int, boxes: Boxes, members: Sequence[PieceAtState], rounding: float):
        self.state, self.boxes, self.members, self.rounding = state, boxes, members, rounding

    def take(self, most: int) -> Boxes:
        """Remove the boxes of the greatest bounds."""
        boxes = self.boxes
        if len(boxes.bound) <= most:
            self.boxes = boxes.select(slice(0, 0))
            return boxes
        order = np.argpartition(-boxes.bound, most)
        self.boxes = boxes.select(order[most:])
        return boxes.select(order[:most])


class _BoxSearch:
    """One batch of problems: incumbents, subtrees with open boxes, and what is settled, per state."""

    def __init__(
        self,
        critic: object,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        tol: float,
        activation: str,
        combine: str,
    ):
        if not tol > 0:
            raise UserError(f"certified maximum: tol is {tol}, expected a number above 0, for example 1e-3.")
        self.combination = combination("certified maximum", combine)
        obs, region = np.asarray(obs), region_of("certified maximum", action_set, obs)
        members = members_of(critic, obs.shape[1], action_set.size, activation)
        self.action_type = np.float32 if members[0].unit > 2.0**-53 else np.float64
        self.domain = _Domain(action_set, obs, region, self.action_type)
        self.low, self.high = self.domain.low, self.domain.high
        self.members = [FoldedNetwork(member, obs.astype(float), self.low, self.high) for member in members]
        self.activation = members[0].activation
        self.own = np.max([member.own for member in self.members], axis=0)
        self.tol = tol
        count = len(obs)
        self.action = ((self.low + self.high) / 2).astype(self.action_type)
        self.value = np.full(count, -np.inf)
        self.settled = np.full(count, -np.inf)
        self.reported = np.full(count, -np.inf)
        self.stopped = np.zeros(count, bool)

    def goal(self, state: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
        """What a bound must reach."""
        value = self.value[state]
        return value + self.tol * np.maximum(1, np.abs(value))

    def settle(
        self,
        state: int | Int[np.ndarray, "k"],
        bound: float | Float[np.ndarray, "k"],
        rounding: float | Float[np.ndarray, "k"],
    ) -> None:
        """q ≤ bound on boxes that are looked at no more, and as the critic evaluates it at most `rounding` above."""
        np.maximum.at(self.settled, state, bound)
        np.maximum.at(self.reported, state, bound + rounding)

    def evaluate(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """q rounded down, in float64; −∞ for an action that is not allowed."""
        values = [member.values(state, action)[0] for member in self.members]
        value = self.combination.value(values, axis=0) - self.own[state]
        return np.where(self.domain.allowed(state, action), value, -np.inf)

    def offer(self, state: np.ndarray, action: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Take better incumbents; the states that improved."""
        order = np.lexsort((value, state))
        last = np.append(state[order][1:] != state[order][:-1], True)
        best = order[last]
        best = best[value[best] > self.value[state[best]]]
        self.value[state[best]], self.action[state[best]] = value[best], action[best]
        return state[best]

    def seed(self, warm_start: Float[Arr, "n *k m"] | None) -> None:
        """Incumbents before the first bound: warm starts, the centre and fixed random points; the best climb."""
        count, m = self.low.shape
        fixed = np.random.default_rng(0).uniform(size=(STARTS, m))
        fixed[0] = 0.5
        starts = self.low[:, None] + (self.high - self.low)[:, None] * fixed
        starts[:, : len(self.domain.inside)] = self.domain.inside[:STARTS]
        if warm_start is not None:
            given = actions_per_state("certified maximum", warm_start, count, m)
            given = np.where(np.isfinite(given), given, self.action[:, None])
            starts = np.concatenate([given, starts], axis=1)
        k = starts.shape[1]
        for first in range(0, count, 256):
            rows = np.arange(first, min(first + 256, count))
            state = np.repeat(rows, k)
            action = self.domain.points(state, starts[rows].reshape(-1, m))
            value = self.evaluate(state, action)
            self.offer(state, action, value)
            top = np.argsort(-value.reshape(-1, k), axis=1)[:, :CLIMBED]
            chosen = (np.arange(len(rows))[:, None] * k + top).ravel()
            self.climb(state[chosen], action[chosen], CLIMB_STEPS)
        if not np.isfinite(self.value).all():
            state = int(np.argmin(np.isfinite(self.value)))
            raise UserError(
                f"certified maximum: at state {state} found no action that the action set accepts; widen its limits."
            )

    def climb(self, state: np.ndarray, action: np.ndarray, steps: int) -> None:
        """Projected gradient ascent, each point with its own step: doubled after a success, else quartered."""
        width = self.high[state] - self.low[state]
        value, gradient = self._climbing(state, action)
        step = np.full(len(state), 0.25)
        for _ in range(steps):
            direction = gradient * width
            direction = direction / np.maximum(np.abs(direction).max(axis=1, keepdims=True), 1e-300)
            moved = self.domain.points(state, action + step[:, None] * direction * width)
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
        if self.combination.value is np.mean:
            return value.mean(axis=0), np.mean(gradients, axis=0)
        least = value.argmin(axis=0)
        row = np.arange(len(state))
        return value[least, row], np.stack(gradients)[least, row]

    def run(self, started: float, time_limit: float | None, state_time_limit: float | None) -> None:
        """Until every state is settled or the time is up; a bound for the whole box comes first, for every state."""
        count = len(self.low)
        waiting: deque[tuple[int, Boxes]] = deque()
        for first in range(0, count, BOXES_AT_ONCE):
            waiting.extend(self.roots(np.arange(first, min(first + BOXES_AT_ONCE, count))))
        active: deque[Subtree] = deque()
        spent, before = np.zeros(count), time.perf_counter()
        while waiting or active:
            if waiting and len(active) < WINDOW:
                begun = [waiting.popleft() for _ in range(min(len(waiting), WINDOW // 2))]
                active.extend(self.subtrees(begun))
            batch = self.next_batch(active)
            taken, boxes = [subtree for subtree, _ in batch], [part for _, part in batch]
            counts = [len(part.bound) for part in boxes]
            if batch:
                self.branch(taken, counts, Boxes(*(np.concatenate(parts) for parts in zip(*boxes, strict=True))))
                active.extend(self.continued(taken))
            now = time.perf_counter()
            if state_time_limit is not None and batch:
                states = [subtree.state for subtree in taken]
                np.add.at(spent, states, (now - before) * np.array(counts) / sum(counts))
                self.stopped |= spent > state_time_limit
            before = now
            if time_limit is not None and now - started > time_limit:
                self.stopped[:] = True
                active.extend(self.subtrees(list(waiting)))
                self.next_batch(active)
                return

    def roots(self, state: np.ndarray) -> list[tuple[int, Boxes]]:
        """What is left of each state's whole box once it is bounded, the networks whole."""
        low, high, _ = self.domain.shrunk(self.low[state], self.high[state])
        boxes = Boxes(low, np.maximum(low, high), np.full(len(state), np.inf))
        runs = [member.runs(state) for member in self.members]
        layers, upper, center, radius = self.bounded(runs, boxes)
        rounding = self.rounding(state, layers)
        run, left = self.children(state, np.arange(len(state)), boxes, upper, center, radius, runs, rounding)
        parts = _by_run(run, left, len(state))
        return [(int(row), part) for row, part in zip(state, parts, strict=True) if len(part.bound)]

    def subtrees(self, begun: list[tuple[int, Boxes]]) -> list[Subtree]:
        """Subtrees of boxes of one state each, with the networks that are left on the box around them."""
        if not begun:
            return []
        state = np.array([row for row, _ in begun])
        low = np.stack([boxes.low.min(axis=0) for _, boxes in begun])
        high = np.stack([boxes.high.max(axis=0) for _, boxes in begun])
        center, radius = _around(low, high)
        layers = [member.runs(state).enclose(center, radius) for member in self.members]
        rounding, reach = self.rounding(state, layers), np.maximum(np.abs(low), np.abs(high))
        return [
            Subtree(
                row,
                boxes,
                [
                    member.local(row, enclosed, number, reach[number])
                    for member, enclosed in zip(self.members, layers, strict=True)
                ],
                float(rounding[number]),
            )
            for number, (row, boxes) in enumerate(begun)
        ]

    def rounding(self, state: np.ndarray, layers: list[Any]) -> np.ndarray:
        """The critic's own rounding on the enclosed boxes, the worst member's."""
        errors = [member.rounding(state, enclosed) for member, enclosed in zip(self.members, layers, strict=True)]
        return np.max(errors, axis=0)

    def next_batch(self, active: deque[Subtree]) -> list[tuple[Subtree, Boxes]]:
        """Open boxes of the subtrees whose turn it is; those with nothing to prove, or no time left, settle."""
        batch: list[tuple[Subtree, Boxes]] = []
        room = BOXES_AT_ONCE
        while active and room > 0:
            subtree = active.popleft()
            bound = subtree.boxes.bound
            is_open = (bound > self.goal(np.array([subtree.state]))) & (not self.stopped[subtree.state])
            if not is_open.all():
                self.settle(subtree.state, bound[~is_open].max(), subtree.rounding)
                subtree.boxes = subtree.boxes.select(is_open)
            if is_open.any():
                boxes = subtree.take(room)
                room -= len(boxes.bound)
                batch.append((subtree, boxes))
        return batch

    def branch(self, taken: Sequence[Subtree], counts: list[int], boxes: Boxes) -> None:
        """Bound the boxes taken from subtrees, and give back what is left of them."""
        run = np.repeat(np.arange(len(taken)), counts)
        state = np.array([subtree.state for subtree in taken])
        runs = [
            BoxRuns.of(self.activation, member.reading, [subtree.members[number] for subtree in taken], counts)
            for number, member in enumerate(self.members)
        ]
        _, upper, center, radius = self.bounded(runs, boxes)
        rounding = np.array([subtree.rounding for subtree in taken])
        run, left = self.children(state, run, boxes, upper, center, radius, runs, rounding)
        for subtree, part in zip(taken, _by_run(run, left, len(taken)), strict=True):
            subtree.boxes = _joined(subtree.boxes, part) if len(subtree.boxes.bound) else part

    def continued(self, taken: Sequence[Subtree]) -> list[Subtree]:
        """Those with boxes left; the large ones as two, where that makes smaller networks."""
        kept, halves = [], []
        for subtree in taken:
            count = len(subtree.boxes.bound)
            if count > HALVED and subtree.members[0].piece is not self.members[0].piece:
                halves.extend((subtree.state, part) for part in subtree.boxes.halves())
            elif count:
                kept.append(subtree)
        return kept + self.subtrees(halves)

    def bounded(
        self, runs: list[BoxRuns], boxes: Boxes
    ) -> tuple[list[Any], Upper, Float[np.ndarray, "b m"], Float[np.ndarray, "b m"]]:
        """(the enclosures, a linear upper bound on each box, the box's centre, its radius)."""
        center, radius = _around(boxes.low, boxes.high)
        layers = [member.enclose(center, radius) for member in runs]
        upper = self.combination.bound([member.upper(layer) for member, layer in zip(runs, layers, strict=True)])
        return layers, self.domain.dual(upper, center, radius), center, radius

    def children(
        self,
        state: np.ndarray,
        run: np.ndarray,
        boxes: Boxes,
        upper: Upper,
        center: np.ndarray,
        radius: np.ndarray,
        runs: list[BoxRuns],
        rounding: np.ndarray,
    ) -> tuple[np.ndarray, Boxes]:
        """What is left of bounded boxes, and the run of each; `state` and `rounding` are those of the runs.

        Where the linear bound is greatest the critic is evaluated: a new incumbent, perhaps. What the bound proves to
        be within the tolerance is cut off, and the rest is split.
        """
        self.look(state[run], center, radius, upper, runs)
        # A parent's bound holds for its children, and may be the better one; it says nothing about where to cut.
        slope = np.where((upper.bound > boxes.bound)[:, None], 0.0, upper.slope)
        boxes = boxes._replace(bound=np.minimum(upper.bound, boxes.bound))
        is_open = boxes.bound > self.goal(state[run])
        self.settle(state[run[~is_open]], boxes.bound[~is_open], rounding[run[~is_open]])
        run, boxes = run[is_open], boxes.select(is_open)
        row = state[run]
        smaller = self.cut(row, boxes, slope[is_open], radius[is_open], rounding[run])
        low, high, kept = self.domain.shrunk(smaller.low, smaller.high)
        smaller = Boxes(low, high, boxes.bound).select(kept)
        return self.split(state, run[kept], boxes.select(kept), smaller, upper.benefit[is_open][kept], rounding)

    def look(
        self, state: np.ndarray, center: np.ndarray, radius: np.ndarray, upper: Upper, runs: list[BoxRuns]
    ) -> None:
        """Evaluate the critic where the bounds are greatest; what improves climbs."""
        corner, polytope = center + np.sign(upper.slope) * radius, len(self.domain.rows) > 0
        corner = self.domain.pulled(corner) if polytope else self.domain.points(state, corner)
        value = self.combination.value([member.values(corner) for member in runs], axis=0)
        better = value > self.value[state]
        if not better.any():
            return
        state, corner = state[better], corner[better]
        improved = self.offer(state, corner, self.evaluate(state, corner))
        if len(improved) and not polytope:
            self.climb(improved, self.action[improved].astype(float), 6)

    def cut(
        self, state: np.ndarray, boxes: Boxes, slope: np.ndarray, radius: np.ndarray, rounding: np.ndarray
    ) -> Boxes:
        """The part of each box where its linear bound exceeds the goal.

        Where bound − |A_k| (1 − ε_k sign A_k) ≤ goal there is nothing left to prove.
        """
        goal = self.goal(state)
        # Rounding of this line itself is far below what it adds.
        excess = (boxes.bound - goal) * (1 + 1e-9) + 1e-12 * (np.abs(boxes.bound) + np.abs(goal))
        kept = excess[:, None] / np.maximum(2 * np.abs(slope), excess[:, None])
        smaller, length = kept < 1, kept * 2 * radius
        low = np.where(smaller & (slope > 0), np.maximum(boxes.low, boxes.high - length), boxes.low)
        high = np.where(smaller & (slope < 0), np.minimum(boxes.high, boxes.low + length), boxes.high)
        changed = smaller.any(axis=1)
        self.settle(state[changed], goal[changed], rounding[changed])
        return boxes._replace(low=low, high=high)

    def split(
        self,
        state: np.ndarray,
        run: np.ndarray,
        before: Boxes,
        boxes: Boxes,
        benefit: np.ndarray,
        rounding: np.ndarray,
    ) -> tuple[np.ndarray, Boxes]:
        """Halves across the side of the greatest benefit; a box much smaller than `before` stays whole for now."""
        low, high, bound = boxes
        row, width, old = np.arange(len(low)), high - low, before.high - before.low
        kept = np.divide(width, old, out=np.ones_like(width), where=old > 0)
        whole = self.domain.whole
        middle = (low + high) / 2
        left_end = np.where(whole, np.floor(middle), middle)
        right_end = np.where(whole, left_end + 1, middle)
        divisible = np.where(whole, low < high, (low < middle) & (middle < high))
        again = np.prod(kept, axis=1) < WORTH_ANOTHER_BOUND
        # A box of one point in floating point cannot be split: its bound stands.
        point = ~divisible.any(axis=1) & ~again
        self.settle(state[run[point]], bound[point], rounding[run[point]])
        # Where no side promises a benefit, the widest: relative to the whole box, since units differ.
        share = width / np.maximum((self.high - self.low)[state[run]], np.finfo(float).tiny)
        axis = np.argmax(np.where(divisible, benefit * kept + 1e-12 * share, -1), axis=1)
        halved = ~again & ~point
        left_high, right_low = high.copy(), low.copy()
        left_high[row, axis], right_low[row, axis] = left_end[row, axis], right_end[row, axis]
        parts = (
            boxes.select(again),
            boxes._replace(high=left_high).select(halved),
            boxes._replace(low=right_low).select(halved),
        )
        return np.concatenate([run[again], run[halved], run[halved]]), Boxes(
            *(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        )

    def solution(self) -> Solution:
        """What is proven: every box is settled, be it by the clock."""
        tolerance = self.tol * np.maximum(1, np.abs(self.value))
        upper_bound = np.maximum(self.value, self.reported)
        optimal = self.settled - self.value <= tolerance * (1 + 1e-9)
        proven = np.where(upper_bound - self.value <= 2 * tolerance, Status.OPTIMAL, Status.ROUNDED)
        status = np.where(optimal, proven, np.where(self.stopped, Status.TIME_LIMIT, Status.GAP))
        return Solution(
            action=self.action.astype(self.action_type),
            value=self.value,
            upper_bound=upper_bound,
            status=status.astype(np.int32),
        )


class Boxes(NamedTuple):
    """Boxes of actions, each with a proven bound of q on it."""

    low: Float[np.ndarray, "b m"]
    high: Float[np.ndarray, "b m"]
    bound: Float[np.ndarray, "b"]

    def select(self, rows: Index) -> Boxes:
        """Those at `rows`."""
        return Boxes(*(array[rows] for array in self))

    def halves(self) -> tuple[Boxes, Boxes]:
        """Two sets of boxes on either side of the median centre, across the axis that shrinks most."""
        center = self.low + self.high
        extent = self.high.max(axis=0) - self.low.min(axis=0)
        spread = center.max(axis=0) - center.min(axis=0)
        axis = int(np.argmax(spread / np.maximum(extent, np.finfo(float).tiny)))
        order = np.argsort(center[:, axis], kind="stable")
        return self.select(order[: len(order) // 2]), self.select(order[len(order) // 2 :])


def _joined(first: Boxes, second: Boxes) -> Boxes:
    return Boxes(*(np.concatenate(parts) for parts in zip(first, second, strict=True)))


def _by_run(run: np.ndarray, boxes: Boxes, count: int) -> list[Boxes]:
    """The boxes of runs 0 … count − 1."""
    order = np.argsort(run, kind="stable")
    ends = np.searchsorted(run[order], np.arange(count + 1))
    sorted_boxes = boxes.select(order)
    return [sorted_boxes.select(slice(first, last)) for first, last in itertools.pairwise(ends)]


def _around(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(centre, radius): the centre is rounded, and the radius covers both ends all the same."""
    return (low + high) / 2, (high - low) / 2 + 2.0**-51 * np.maximum(np.abs(low), np.abs(high))
