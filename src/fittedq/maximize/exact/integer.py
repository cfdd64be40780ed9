"""Maxima over whole numbers: of any critic point by point, of a linear or concave quadratic one by its form."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.actions.region import Region
from fittedq.approx.host import to_host
from fittedq.approx.linear import LinearCritic, Polynomial
from fittedq.arrays import Arr, Index
from fittedq.errors import UserError
from fittedq.maximize.base import AbstractMaximizer, Solution, Status, misfit
from fittedq.maximize.exact.quadratic import Quadratic, polynomial_of, quadratic_form
from fittedq.maximize.highs import FEASIBILITY, solve_program
from fittedq.maximize.proofs.combine import combination
from fittedq.maximize.region import Inequalities, admissible, an_action, conflicting, emptiness, program_over, region_of
from fittedq.types import AbstractCritic

ROWS_AT_A_TIME = 65536
NODES_AT_ONCE = 256
"""Nodes whose relaxations are solved at once."""
ROOT_ITERATIONS, ITERATIONS = 300, 60
"""Of the operator splitting, at the first node of each state and at the others, which start from their parent's."""
OVER_RELAXATION = 1.6
FRACTION = 1e-4
"""A whole coordinate of a relaxation this near to a whole number counts as one."""
NARROW = 1e-9
"""A continuous side is not split below this share of its first length."""


def exhaustive(
    critic: AbstractCritic,
    obs: Float[Arr, "b s"],
    action_set: AbstractActionSet,
    *,
    combine: str = "min",
    integer: Sequence[int] = (),
    rows: Inequalities | None = None,
    most: int = 1_000_000,
) -> Solution:
    """max of q(s, ·) over every a ∈ A(s), all coordinates whole, for any critic, as it evaluates itself on the host.

    q = min_j q_j over the ensemble, or their mean (`combine`). The whole coordinates are those of the set and those in
    `integer`; `rows` = (matrix, bound) adds matrix · a ≤ bound. Each state is evaluated at every point of the box
    around all A(s) that satisfies the rows, ROWS_AT_A_TIME rows at once. Ties go to the first in lexicographic order.

    Errors: `UserError` for a continuous coordinate, more than `most` points in the box, or none in A(s).
    """
    combined = combination("exhaustive maximum", combine)
    region = region_of("exhaustive maximum", action_set, obs, integer, rows)
    points = _lattice(region, most)
    obs, critic = np.asarray(obs), to_host(critic)
    count, m = region.low.shape
    action = points[np.zeros(count, int)]
    value, reached = np.full(count, -np.inf), np.zeros(count, bool)
    group = max(1, ROWS_AT_A_TIME // max(count, 1))
    for first in range(0, len(points) if count else 0, group):
        part = points[first : first + group]
        crowd = np.broadcast_to(part.astype(obs.dtype), (count, len(part), m)).reshape(-1, m)
        each = np.asarray(critic(np.repeat(obs, len(part), axis=0), crowd))
        q = combined.value(each, axis=0).reshape(count, len(part))
        inside = np.all((part >= region.low[:, None]) & (part <= region.high[:, None]), axis=2)
        reached |= np.any(inside, axis=1)
        q = np.where(inside & ~np.isnan(q), q, -np.inf)
        winner = q.argmax(axis=1)
        top = q[np.arange(count), winner]
        better = top > value
        action = np.where(better[:, None], part[winner], action)
        value = np.where(better, top, value)
    if not reached.all():
        raise UserError(
            f"exhaustive maximum: at state {int(np.argmin(reached))} the action set is empty: no point within its "
            "bounds satisfies all rows; relax one of them."
        )
    status = np.where(value > -np.inf, Status.EXACT, Status.FAILED).astype(np.int32)
    return Solution(action.astype(obs.dtype), value, value, status)


class Exhaustive(AbstractMaximizer[AbstractCritic]):
    """max of min_j q_j(s, ·) over every a ∈ A(s), all coordinates whole, for any critic, on the host (`exhaustive`)."""

    needs_starts: ClassVar[bool] = False
    on_host: ClassVar[bool] = True
    quick: ClassVar[bool] = False
    most: int = eqx.field(static=True, default=100_000)
    """Points of the box around A(s), at most."""

    def __call__(
        self,
        critic: AbstractCritic,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solution:
        del starts, key
        return exhaustive(critic, np.asarray(obs), action_set, most=self.most)


@misfit.register
def _(maximizer: Exhaustive, critic: AbstractCritic, action_set: AbstractActionSet) -> str | None:
    del critic
    loose = sorted(set(range(action_set.size)) - set(action_set.integer))
    if loose:
        return f"found the continuous dimensions {loose}, expected whole numbers only"
    points = float(np.prod(np.floor(action_set.high) - np.ceil(action_set.low) + 1))
    if points > maximizer.most:
        return f"found {points:.3g} points within the bounds, expected at most {maximizer.most} (most)"
    return None


class IntegerArgmax(AbstractMaximizer[LinearCritic]):
    """max_{a ∈ A(s)} c(s) + g(s)ᵀa + ½ aᵀHa, some or all of a whole, to `tol` · max(1, |value|) (`integer_quadratic`).

    On the host, for critics that are polynomials of degree 1 or 2. One that is not concave in a is refused when it is
    met, unless every coordinate is whole and has two values.
    """

    needs_starts: ClassVar[bool] = False
    on_host: ClassVar[bool] = True
    quick: ClassVar[bool] = False
    tol: float = eqx.field(static=True, default=1e-3)

    def __call__(
        self,
        critic: LinearCritic,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solution:
        del starts, key
        return integer_quadratic(to_host(critic), np.asarray(obs), action_set, tol=self.tol)


@misfit.register
def _(maximizer: IntegerArgmax, critic: LinearCritic, action_set: AbstractActionSet) -> str | None:
    del maximizer, action_set
    if polynomial_of(critic) is None or critic.size != 1:
        return "found features that are no polynomial of degree 1 or 2, or several critics, expected one such critic"
    return None


def _lattice(region: Region, most: int) -> Float[np.ndarray, "n m"]:
    """The points of the box around all A(s) that satisfy the rows."""
    if not len(region.low):
        return np.zeros((0, len(region.integer)))
    low, high = region.low.min(axis=0), region.high.max(axis=0)
    loose = ~region.integer & (low < high)
    if loose.any():
        raise UserError(
            f"exhaustive maximum: found the continuous dimensions {np.flatnonzero(loose).tolist()}, expected whole "
            "numbers only; name them in integer=, or use `certified` or `milp`."
        )
    lengths = (high - low).astype(int) + 1
    total = float(np.prod(lengths.astype(float)))
    if total > most:
        raise UserError(
            f"exhaustive maximum: found {total:.3g} points within the bounds, expected at most {most}; raise most=, "
            "narrow the bounds, or use `milp` (neural critics) or `integer_quadratic` (linear ones)."
        )
    points = low + np.stack(np.unravel_index(np.arange(int(total)), lengths), axis=1)
    holds = points @ region.matrix.T <= region.bound + FEASIBILITY * region.row_size
    if not holds.all(axis=1).any():
        conflict = conflicting(len(region.bound), lambda chosen: not holds[:, chosen].all(axis=1).any())
        raise UserError(
            f"exhaustive maximum: the action set is empty: none of the {int(total)} points within the bounds "
            f"satisfies rows {conflict} together; relax one of them."
        )
    return points[holds.all(axis=1)]


def top_k(
    slope: Float[np.ndarray, "b m"],
    low: Float[np.ndarray, "b m"],
    high: Float[np.ndarray, "b m"],
    least: float,
    most: float,
) -> Float[np.ndarray, "b m"]:
    """argmax slope · a, low ≤ a ≤ high, least ≤ Σ a ≤ most: for binaries the k greatest slopes.

    The sum starts at Σ low; the units of the greatest slopes enter first, all positive ones as far as `most` allows,
    negative ones as far as `least` demands. Whole where all bounds are. The sums must be possible.
    """
    order = np.argsort(-slope, axis=1, kind="stable")
    gain, width = (np.take_along_axis(array, order, axis=1) for array in (slope, high - low))
    wanted = np.where(gain > 0, width, 0).sum(axis=1)
    floor = low.sum(axis=1)
    total = np.clip(wanted, least - floor, most - floor)
    before = np.cumsum(width, axis=1) - width
    fill = np.clip(total[:, None] - before, 0, width)
    units = np.empty_like(fill)
    np.put_along_axis(units, order, fill, axis=1)
    return low + units


def integer_quadratic(
    critic: LinearCritic,
    obs: Float[Arr, "b s"],
    action_set: AbstractActionSet,
    *,
    tol: float = 1e-3,
    time_limit: float | None = None,
    integer: Sequence[int] = (),
    rows: Inequalities | None = None,
) -> Solution:
    """max_{a ∈ A(s)} c(s) + g(s)ᵀa + ½ aᵀHa, some or all of a whole, upper_bound − value ≤ tol · max(1, |value|).

    H = 0 (q linear in a): in closed form where the only rows bound Σ a (`top_k`), else a MILP by HiGHS, one per state.

    H negative semidefinite, or any H where all coordinates are whole and each has two values, l and u = l + 1: there
    (a_i − l_i)(a_i − u_i) = 0, and subtracting enough of it makes q concave between them. Branch and bound, nodes of
    all states in one pool; a relaxation is solved approximately by operator splitting, (x, λ), and bounded by

        max_{l ≤ a ≤ u, matrix · a ≤ bound} q(a) ≤ L(x) + Σ_i max_{l_i ≤ a_i ≤ u_i} ∂_i L(x) (a_i − x_i),

    L(a) = q(a) + λᵀ(bound − matrix · a), which holds for any x and λ ≥ 0.

    The whole coordinates are those of the set and those in `integer`; `rows` = (matrix, bound) adds
    matrix · a ≤ bound, to 1e-9 of a row's size. `action` has the precision of `obs`; `value` is q at `action` in
    float64; `upper_bound` has a margin for rounding, except that HiGHS's own rounding, where it is used on a linear q,
    is taken to be its tolerance (1e-9) of the terms' size. Status per state: EXACT (closed form), OPTIMAL, TIME_LIMIT
    after `time_limit` seconds for the batch, or GAP where rounding stands between the bound and the tolerance.

    Errors: `UserError` for other critics, a q that is not concave, an empty set.
    Source: Stellato et al. 2020 (OSQP: the splitting); Hammer & Rubin 1970 (binaries made concave).
    """
    started = time.perf_counter()
    label = "integer maximum"
    if not isinstance(critic, LinearCritic):
        raise UserError(
            f"{label}: found a critic of type {type(critic).__name__}, expected a LinearCritic; use `milp` for neural "
            "ones, `exhaustive` for any."
        )
    if not tol > 0:
        raise UserError(f"{label}: tol is {tol}, expected a number above 0, for example 1e-3.")
    region = region_of(label, action_set, obs, integer, rows)
    obs = np.asarray(obs)
    double = LinearCritic(critic.features, np.asarray(critic.weights, float), action_set)
    largest = np.maximum(np.abs(region.low), np.abs(region.high))
    features = np.asarray(double.features(np.abs(obs.astype(float)), largest))
    if features.shape[1] != double.weights.shape[1]:
        raise UserError(
            f"{label}: found observations of {obs.shape[1]} and actions of {action_set.size} numbers, which make "
            f"{features.shape[1]} features, expected {double.weights.shape[1]}, those of the critic."
        )
    form = _form(double, obs.astype(float))
    # Every monomial at the size of the state and the greatest action: no sum of the terms rounds by more.
    size = features @ np.abs(np.asarray(double.weights)[0])
    margin = 8 * (double.weights.shape[1] + action_set.size) * np.finfo(float).eps * size
    problem = Problem(label, form, region, obs.dtype, margin, tol, started, time_limit)
    linear = len(obs) == 0 or not np.asarray(form.curvature).any()
    return _linear(problem, size) if linear else _NodeSearch(problem).solved()


def _form(critic: LinearCritic, obs: np.ndarray) -> Quadratic:
    """q as a function of a; of degree one without the matrices of degree two, for there may be a thousand actions."""
    features, m = critic.features, critic.action_set.size
    if not isinstance(features, Polynomial) or features.degree != 1 or critic.size != 1:
        return quadratic_form(critic, obs)
    weights = np.asarray(critic.weights)[0]
    offset, linear = weights[: len(weights) - obs.shape[1] - m].sum(), weights[len(weights) - obs.shape[1] - m :]
    slope = np.repeat(linear[None, obs.shape[1] :], len(obs), axis=0)
    return Quadratic(offset + obs @ linear[: obs.shape[1]], slope, np.zeros((m, m)))


class Problem(NamedTuple):
    """A batch of problems; `margin` bounds the rounding of q per state, seconds count from `started`."""

    label: str
    form: Quadratic
    region: Region
    precision: np.dtype
    margin: Float[np.ndarray, "b"]
    tol: float
    started: float
    time_limit: float | None

    def seconds_left(self) -> float:
        """Until the time limit."""
        return np.inf if self.time_limit is None else self.time_limit - (time.perf_counter() - self.started)

    def tolerance(self, value: Float[np.ndarray, "b"]) -> Float[np.ndarray, "b"]:
        """The gap that counts as none."""
        return self.tol * np.maximum(1, np.abs(value))

    def solution(
        self, action: Float[np.ndarray, "b m"], bound: Float[np.ndarray, "b"], stopped: bool | Bool[np.ndarray, "b"]
    ) -> Solution:
        """What is known of the maximum at these actions of A(s); `bound` in real arithmetic."""
        actions = []
        for state, row in enumerate(action):
            moved = admissible(self.region, state, row, self.precision)
            # Rows that only hold to their rounding in float64 may not in less.
            actions.append(row.astype(self.precision) if moved is None else moved)
        rounded = np.array(actions, self.precision).reshape(action.shape)
        value = np.asarray(self.form.value(rounded.astype(float)[:, None]))[:, 0]
        upper_bound = np.maximum(value, bound + self.margin)
        optimal = upper_bound - value <= self.tolerance(value) * (1 + 1e-9)
        status = np.where(optimal, Status.OPTIMAL, np.where(stopped, Status.TIME_LIMIT, Status.GAP))
        return Solution(rounded, value, upper_bound, status.astype(np.int32))


def _linear(problem: Problem, size: np.ndarray) -> Solution:
    region, slope, constant = problem.region, np.asarray(problem.form.slope), np.asarray(problem.form.constant)
    low, high = region.low, region.high
    limits = _limits_of_the_sum(problem)
    if limits is not None:
        action = top_k(slope, low, high, *limits) if len(region.bound) else np.where(slope > 0, high, low)
        bound = constant + (slope * action).sum(axis=1)
        solution = problem.solution(action, bound, False)
        return Solution(
            solution.action, solution.value, solution.upper_bound, np.full(len(action), Status.EXACT, dtype=np.int32)
        )
    bound = constant + np.maximum(slope * low, slope * high).sum(axis=1)
    action, stopped, inner = low.copy(), np.ones(len(low), bool), None
    for state in range(len(low)):
        left = problem.seconds_left()
        if left <= 0:
            action[state] = inner = an_action(problem.label, region, state, inner)
            continue
        program = program_over(region, state, slope[state])._replace(offset=float(constant[state]))
        answer = solve_program(problem.label, program, tol=problem.tol / 2, time_limit=left)
        if answer.infeasible:
            raise UserError(emptiness(problem.label, region, state))
        action[state] = an_action(problem.label, region, state, inner) if answer.x is None else answer.x
        bound[state] = min(bound[state], answer.bound + answer.tolerance * size[state])
        stopped[state] = not answer.finished
    return problem.solution(action, bound, stopped)


def _limits_of_the_sum(problem: Problem) -> tuple[float, float] | None:
    """(least, most) with which the rows say least ≤ Σ a ≤ most of whole numbers; None where they say something else."""
    region = problem.region
    share = region.matrix[:, :1]
    if (region.matrix != share).any():
        return None
    if len(share) and not region.integer.all():
        return None
    share, error = share[:, 0], FEASIBILITY * region.row_size
    least, most = -np.inf, np.inf
    for weight, bound in zip(share, region.bound + error, strict=True):
        if weight > 0:
            most = min(most, np.floor(bound / weight))
        elif weight < 0:
            least = max(least, np.ceil(bound / weight))
    empty = (least > region.high.sum(axis=1)) | (most < region.low.sum(axis=1)) | (least > most)
    empty |= bool((region.bound + error)[share == 0].min(initial=0) < 0)
    if empty.any():
        raise UserError(emptiness(problem.label, region, int(np.argmax(empty))))
    return least, most


class Nodes(NamedTuple):
    """Boxes of actions, each of one state, a bound of q on it, and where its relaxation starts from (unit x, y)."""

    state: Int[np.ndarray, "k"]
    low: Float[np.ndarray, "k m"]
    high: Float[np.ndarray, "k m"]
    bound: Float[np.ndarray, "k"]
    x: Float[np.ndarray, "k m"]
    y: Float[np.ndarray, "k pm"]

    def select(self, rows: Index) -> Nodes:
        """Those at `rows`."""
        return Nodes(*(array[rows] for array in self))

    @staticmethod
    def joined(*parts: Nodes) -> Nodes:
        """All of them."""
        return Nodes(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class _Relaxation:
    """max g · a + ½ aᵀHa, low ≤ a ≤ high, matrix · a ≤ bound, for many (g, low, high) at once, approximately.

    In units u = (a − middle) / half, by the alternating directions method of multipliers (OSQP), one factor for all.
    """

    def __init__(self, H: np.ndarray, region: Region):
        low, high = region.low.min(axis=0), region.high.max(axis=0)
        self.middle = (low + high) / 2
        self.half = np.where(high > low, (high - low) / 2, 1)
        rows = region.matrix * self.half
        length = np.linalg.norm(rows, axis=1)
        self.length = np.where(length > 0, length, 1.0)
        self.H = H
        self.rows = np.concatenate([rows / self.length[:, None], np.eye(len(self.half))])
        self.limit = (region.bound - region.matrix @ self.middle) / self.length
        curvature = -self.half[:, None] * H * self.half
        self.step = max(float(np.diagonal(curvature).mean()), 1e-12)
        self.inertia = 1e-6 * self.step
        system = curvature + self.inertia * np.eye(len(H)) + self.step * self.rows.T @ self.rows
        self.inverse = np.linalg.inv(system)

    def start(self, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) at the middle, its gradient as the multipliers of the bounds."""
        gradient = (slope + self.middle @ self.H) * self.half
        return np.zeros_like(slope), np.concatenate([np.zeros((len(slope), len(self.limit))), gradient], axis=1)

    def iterate(self, slope: np.ndarray, nodes: Nodes, iterations: int) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) after `iterations` from those of the nodes."""
        gradient = (slope + self.middle @ self.H) * self.half
        count, p = len(slope), len(self.limit)
        low, high = ((end - self.middle) / self.half for end in (nodes.low, nodes.high))
        low = np.concatenate([np.full((count, p), -np.inf), low], axis=1)
        high = np.concatenate([np.broadcast_to(self.limit, (count, p)), high], axis=1)
        x, y = nodes.x, nodes.y
        z = np.clip(x @ self.rows.T, low, high)
        for _ in range(iterations):
            x_new = (self.inertia * x + gradient + (self.step * z - y) @ self.rows) @ self.inverse
            w = OVER_RELAXATION * (x_new @ self.rows.T) + (1 - OVER_RELAXATION) * z
            x = OVER_RELAXATION * x_new + (1 - OVER_RELAXATION) * x
            z = np.clip(w + y / self.step, low, high)
            y = y + self.step * (w - z)
        return x, y

    def point_and_multiplier(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """a, and λ ≥ 0 of the rows, in the units of the problem."""
        return self.middle + self.half * x, np.maximum(y[:, : len(self.limit)], 0) / self.length


class _NodeSearch:
    """Incumbents, open nodes, and what is settled, per state."""

    def __init__(self, problem: Problem):
        self.problem, region = problem, problem.region
        self.region = region
        low, high, H = region.low, region.high, np.asarray(problem.form.curvature)
        free = (low < high).any(axis=0)
        scale = np.abs(H).sum(axis=1).max()
        top = float(np.linalg.eigvalsh(H[np.ix_(free, free)]).max(initial=-np.inf)) if free.any() else 0.0
        form, self.bend = problem.form, np.zeros(len(low))
        two_valued = region.integer & (high - low <= 1).all(axis=0)
        if two_valued[free].all():
            # Just concave: the tightest relaxation of this kind.
            shift = np.where(free, top + 1e-12 * scale, 0)
            form = Quadratic(
                form.constant - (shift * low * high).sum(axis=1) / 2,
                form.slope + shift * (low + high) / 2,
                H - np.diag(shift),
            )
        elif top > 1e-9 * scale:
            raise UserError(
                f"{problem.label}: q is not concave in a (its greatest curvature is {top:.3g}); use `exhaustive`, or "
                "let every dimension be whole with two values."
            )
        else:
            self.bend = max(top, 0) * ((high - low) ** 2).sum(axis=1) / 2
        self.form, self.slope = form, np.asarray(form.slope)
        self.relaxation = _Relaxation(np.asarray(form.curvature), region)
        self.side = np.maximum((high - low).max(axis=0, initial=0), np.finfo(float).tiny)
        self.value, self.action = np.full(len(low), -np.inf), low.copy()
        self.settled, self.stopped = np.full(len(low), -np.inf), False
        self.room = FEASIBILITY * region.row_size

    def q(self, state: np.ndarray, action: np.ndarray, form: Quadratic) -> np.ndarray:
        """The form at one action per row."""
        quadratic = np.einsum("ki,ki->k", action @ form.curvature, action) / 2
        return form.constant[state] + (form.slope[state] * action).sum(axis=1) + quadratic

    def goal(self, state: np.ndarray) -> np.ndarray:
        """What a bound must reach; half of the tolerance is left to rounding."""
        value = self.value[state]
        return np.where(value > -np.inf, value + self.problem.tolerance(np.maximum(value, -1e300)) / 2, -np.inf)

    def run(self) -> None:
        """Until every node is settled or the time is up."""
        count = len(self.value)
        pool = []
        for first in range(0, count, NODES_AT_ONCE):
            state = np.arange(first, min(first + NODES_AT_ONCE, count))
            root = Nodes(
                state,
                self.region.low[state],
                self.region.high[state],
                np.full(len(state), np.inf),
                *self.relaxation.start(self.slope[state]),
            )
            pool.append(self.children(root, ROOT_ITERATIONS))
        nodes = Nodes.joined(*pool)
        while len(nodes.state):
            goal = self.goal(nodes.state)
            # Without an incumbent nothing is done yet.
            excess = np.where(goal > -np.inf, nodes.bound - goal, np.inf) / np.maximum(
                1, np.abs(self.value[nodes.state])
            )
            done = excess <= 0
            self.stopped = self.problem.seconds_left() <= 0
            self.settle(nodes.select(slice(None) if self.stopped else done))
            if self.stopped:
                return
            nodes, excess = nodes.select(~done), excess[~done]
            order = np.argpartition(-excess, NODES_AT_ONCE) if len(excess) > NODES_AT_ONCE else np.arange(len(excess))
            taken, rest = nodes.select(order[:NODES_AT_ONCE]), nodes.select(order[NODES_AT_ONCE:])
            nodes = Nodes.joined(rest, self.children(taken, ITERATIONS)) if len(taken.state) else rest

    def settle(self, nodes: Nodes) -> None:
        """q ≤ bound on nodes that are looked at no more."""
        np.maximum.at(self.settled, nodes.state, nodes.bound)

    def offer(self, state: np.ndarray, action: np.ndarray) -> None:
        """Take better incumbents among actions of A(s)."""
        value = self.q(state, action, self.problem.form)
        order = np.lexsort((value, state))
        last = order[np.append(state[order][1:] != state[order][:-1], True)] if len(order) else order
        better = last[value[last] > self.value[state[last]]]
        self.value[state[better]], self.action[state[better]] = value[better], action[better]

    def children(self, nodes: Nodes, iterations: int) -> Nodes:
        """What is left of nodes once the rows have narrowed them and their relaxations are bounded: their halves."""
        nodes, empty = self.narrowed(nodes)
        if iterations == ROOT_ITERATIONS and empty.any():
            raise UserError(emptiness(self.problem.label, self.region, int(nodes.state[np.argmax(empty)])))
        nodes = nodes.select(~empty)
        x, y = self.relaxation.iterate(self.slope[nodes.state], nodes, iterations)
        point, multiplier = self.relaxation.point_and_multiplier(x, y)
        point = np.clip(point, nodes.low, nodes.high)
        bound, gap = self.bounds(nodes, point, multiplier)
        nodes = nodes._replace(bound=np.minimum(nodes.bound, bound), x=x, y=y)
        self.incumbents(nodes, point, iterations == ROOT_ITERATIONS)
        opened = nodes.bound > self.goal(nodes.state)
        self.settle(nodes.select(~opened))
        return self.split(nodes.select(opened), point[opened], gap[opened])

    def narrowed(self, nodes: Nodes) -> tuple[Nodes, np.ndarray]:
        """Bounds as the rows imply them, one row at a time; which nodes no row leaves anything of."""
        low, high, empty = nodes.low.copy(), nodes.high.copy(), np.zeros(len(nodes.state), bool)
        for row, bound, room in zip(self.region.matrix, self.region.bound, self.room, strict=True):
            least = np.minimum(row * low, row * high)
            slack = bound + room - least.sum(axis=1)
            empty |= slack < 0
            reach = (least + np.maximum(slack, 0)[:, None]) / np.where(row == 0, 1, row)
            whole = self.region.integer
            ceiling = np.where(whole, np.floor(reach + 1e-9), reach + 1e-12 * np.abs(reach))
            floor = np.where(whole, np.ceil(reach - 1e-9), reach - 1e-12 * np.abs(reach))
            high = np.where(row > 0, np.maximum(np.minimum(high, ceiling), low), high)
            low = np.where(row < 0, np.minimum(np.maximum(low, floor), high), low)
        return nodes._replace(low=low, high=high), empty

    def bounds(self, nodes: Nodes, point: np.ndarray, multiplier: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(bound, what each coordinate adds to it), by the better of the multiplier found and none."""
        value = self.q(nodes.state, point, self.form)
        gradient = self.slope[nodes.state] + point @ self.form.curvature
        results = []
        for weight in (multiplier, 0 * multiplier)[: 1 + bool(len(self.room))]:
            slope = gradient - weight @ self.region.matrix
            gap = np.maximum(slope * (nodes.high - point), slope * (nodes.low - point))
            slack = ((self.region.bound + self.room - point @ self.region.matrix.T) * weight).sum(axis=1)
            results.append((value + slack + gap.sum(axis=1) + self.bend[nodes.state], gap))
        (bound, gap), (other, other_gap) = results[0], results[-1]
        return np.minimum(bound, other), np.where((other < bound)[:, None], other_gap, gap)

    def incumbents(self, nodes: Nodes, point: np.ndarray, first: bool) -> None:
        """Relaxations with their whole coordinates rounded, where the rows allow it; an action of A(s) at the first."""
        region = self.region
        rounded = np.where(region.integer, np.clip(np.round(point), nodes.low, nodes.high), point)
        holds = (rounded @ region.matrix.T <= region.bound + self.room).all(axis=1)
        self.offer(nodes.state[holds], rounded[holds])
        if not len(region.bound):
            return
        if first:
            for index in np.flatnonzero(self.value[nodes.state] == -np.inf):
                state = int(nodes.state[index])
                # The best action by the tangent there.
                slope = self.slope[state] + point[index] @ self.form.curvature
                answer = solve_program(self.problem.label, program_over(region, state, slope), tol=0.1, time_limit=1.0)
                action = an_action(self.problem.label, region, state, None) if answer.x is None else answer.x
                action = np.where(region.integer, np.round(action), action)
                self.offer(nodes.state[[index]], np.clip(action, region.low[state], region.high[state])[None])
        # With all whole coordinates decided, the others may only need to be moved into the rows.
        decided = ((nodes.low == nodes.high) | ~region.integer).all(axis=1) & ~holds
        for index in np.flatnonzero(decided & (nodes.bound > self.goal(nodes.state))):
            moved = admissible(region, int(nodes.state[index]), rounded[index], float)
            if moved is not None:
                self.offer(nodes.state[[index]], moved[None])

    def split(self, nodes: Nodes, point: np.ndarray, gap: np.ndarray) -> Nodes:
        """Halves: of a whole coordinate on both sides of its fraction, else where the bound is loosest."""
        width, whole = nodes.high - nodes.low, self.region.integer
        divisible = np.where(whole, width > 0.5, width > NARROW * self.side)
        settled = ~divisible.any(axis=1)
        self.settle(nodes.select(settled))
        nodes, point, gap, width, divisible = (
            nodes.select(~settled),
            *(array[~settled] for array in (point, gap, width, divisible)),
        )
        fraction = point - np.floor(point)
        distance = np.minimum(fraction, 1 - fraction)
        fractional = divisible & whole & (distance > FRACTION)
        curvature = np.abs(np.diagonal(self.form.curvature))
        by_fraction = np.where(
            fractional, distance * (1 - distance) * (curvature + 1e-6 * curvature.max() + 1e-300), -1
        )
        by_gap = np.where(divisible, gap + 1e-12 * width / self.side, -1)
        axis = np.where(fractional.any(axis=1), by_fraction.argmax(axis=1), by_gap.argmax(axis=1))
        row = np.arange(len(axis))
        at, low, high = point[row, axis], nodes.low[row, axis], nodes.high[row, axis]
        below = np.clip(np.floor(at), low, high - 1)
        left_end = np.where(whole[axis], below, (low + high) / 2)
        right_end = np.where(whole[axis], below + 1, (low + high) / 2)
        left_high, right_low = nodes.high.copy(), nodes.low.copy()
        left_high[row, axis], right_low[row, axis] = left_end, right_end
        return Nodes.joined(nodes._replace(high=left_high), nodes._replace(low=right_low))

    def solved(self) -> Solution:
        """What is proven by the time limit."""
        self.run()
        return self.problem.solution(self.action, np.maximum(self.value, self.settled), self.stopped)
