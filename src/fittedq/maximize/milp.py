"""max_a q(s, a) of a ReLU critic as a mixed-integer linear program, solved by HiGHS.

The independent check of `certified`, and the exact maximizer over polytopes and whole numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from fittedq.actions.base import AbstractActionSet
from fittedq.actions.mixed import Mixed
from fittedq.actions.polytope import Polytope
from fittedq.arrays import Arr, inwards
from fittedq.errors import UserError, nearest
from fittedq.maximize.base import Solution, Status, is_box
from fittedq.maximize.bounds import FoldedNetwork, Network, networks
from fittedq.maximize.certified import COMBINATIONS
from fittedq.maximize.relax import PiecewiseLinear
from fittedq.types import AbstractCritic

FEASIBILITY, LOOSE = 1e-9, 1e-6
"""What HiGHS may violate rows, bounds and integrality by, and its own default, where it fails with less."""
WHOLE = 1e-6
"""A bound of a polytope's hull this near to a whole number is one."""
HULL_ERROR = 1e-6
"""In half-widths: how far a polytope's hull may be off, for it comes from linear programs."""

Rows = tuple[Any, Any]
"""(matrix [p, m], bound [p]): matrix · a ≤ bound."""


def milp(
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
    integer: Sequence[int] = (),
    rows: Rows | None = None,
) -> Solution:
    """max t over a ∈ A(s): t ≤ q_j(s, a) for every j (`combine="min"`) or t ≤ mean_j q_j(s, a) ("mean").

    Each neuron max(z, kink · z) with l ≤ z ≤ u on A(s) becomes z = p − n, 0 ≤ p ≤ u d, 0 ≤ n ≤ −l (1 − d), d ∈ {0, 1},
    its value p − kink · n; where l ≥ 0 or u ≤ 0 there is no d. l and u are the sound ones of `certified`.

    `critic` is a `QNetwork`, or one network as a list of (weight [in, out], bias [out]) over [s, a] in plain units with
    `activation` between; ReLU and leaky ReLU without layer norm. Boxes, state-dependent boxes, polytopes, mixed sets;
    besides, the coordinates in `integer` are whole, and `rows` = (matrix, bound) adds matrix · a ≤ bound, which may
    leave no inside (Σ a = 1 is two rows). Seconds: `time_limit` for the batch, `state_time_limit` for each state.

    `value` is q in real arithmetic at `action`, rounded down; `action` is in the critic's precision, whole where asked,
    within its bounds and rows (rows without an inside: to their rounding). `upper_bound` is HiGHS's dual bound plus
    what its tolerance on each neuron's constraints (1e-9, or 1e-6 where it fails) can add to q, at most the bound of
    `certified` for the whole box. Unlike that one it is no proof in floating point: HiGHS rounds, and its tolerance on
    rows is not counted.
    Status as in `certified`: OPTIMAL where upper_bound − value ≤ tol · max(1, |value|), TIME_LIMIT, else GAP.

    Errors: `UserError` for another activation, layer norm, an empty set (with the rows that conflict), no HiGHS.
    Source: Tjeng et al. 2019 (formulation); Ryu et al. 2020 (CAQL: a critic's maximum by MILP).
    """
    started = time.perf_counter()
    highs_module()
    if not tol > 0:
        raise UserError(f"milp: tol is {tol}, expected a number above 0, for example 1e-3.")
    if combine not in COMBINATIONS:
        raise UserError(f"milp: combine is {combine!r}; {nearest(combine, COMBINATIONS)}")
    region = region_of("milp", action_set, obs, integer, rows)
    obs = np.asarray(obs)
    members = networks(critic, obs.shape[1], action_set.size, activation)
    _check_piecewise_linear(members, action_set.size)
    folded = [FoldedNetwork(member, obs.astype(float), region.low, region.high) for member in members]
    precision = np.float32 if members[0].unit > 2.0**-53 else np.float64
    given = region.starts("milp", warm_start)
    combine_bounds, combine_values = COMBINATIONS[combine]
    own = np.max([member.own for member in folded], axis=0)
    found: list[tuple[np.ndarray, float, float, int]] = []
    inner = None
    for state in range(len(obs)):
        inner = region.inner("milp", state, inner)
        row = np.array([state])
        center, radius = region.center_and_radius(state)
        upper = combine_bounds([member.upper(row, center[None], radius[None]) for member in folded]).bound[0]
        limits = [state_time_limit, None if time_limit is None else time_limit - (time.perf_counter() - started)]
        limit = min((limit for limit in limits if limit is not None), default=np.inf)
        candidates, finished = [inner, *given[state]], False
        if limit > 0:
            encoding = _encode(folded, region, state, combine)
            answer = solve_program("milp", encoding.program, tol=tol / 2, time_limit=limit)
            finished = answer.finished or answer.infeasible
            # There is an action: a program without one is HiGHS's rounding, and says nothing.
            if not answer.infeasible:
                upper = min(upper, answer.bound + answer.tolerance * encoding.sensitivity)
            if answer.x is not None:
                candidates.append(encoding.action(answer.x))
        repaired = [region.admissible(state, action, precision) for action in candidates]
        actions = np.stack([action for action in repaired if action is not None])
        each = [member.values(np.repeat(row, len(actions)), actions.astype(float))[0] for member in folded]
        values = combine_values(each, axis=0) - own[state]
        best = int(np.argmax(values))
        value = float(values[best])
        optimal = upper - value <= tol * max(1.0, abs(value)) * (1 + 1e-9)
        status = Status.OPTIMAL if optimal else Status.GAP if finished else Status.TIME_LIMIT
        found.append((actions[best], value, max(upper, value), status))
    action, value, upper_bound, status = zip(*found, strict=True) if found else ((), (), (), ())
    return Solution(
        action=np.array(action, precision).reshape(len(obs), action_set.size),
        value=np.array(value, float),
        upper_bound=np.array(upper_bound, float),
        status=np.array(status, np.int32),
    )


def _check_piecewise_linear(members: Sequence[Network], action_size: int) -> None:
    for member in members:
        if len(member.center) != action_size:
            raise UserError(
                f"milp: found an action set of {action_size} dimensions, expected {len(member.center)}, those of the "
                "critic."
            )
        if not isinstance(member.activation, PiecewiseLinear):
            raise UserError(
                "milp: found an activation that is not piecewise linear, expected relu or leaky_relu; use `certified`, "
                "which bounds smooth ones."
            )
        if any(layer.gain is not None for layer in member.layers):
            raise UserError("milp: found layer norm, which is not piecewise linear; use `certified`, which bounds it.")
        if not member.layers:
            raise UserError(
                "milp: found a critic without a hidden layer, expected one at least; q is linear in a, so use "
                "`integer_quadratic` with a LinearCritic."
            )


class Encoding(NamedTuple):
    """q at one state as a program in x, a = offset + factor · x, and in the neurons' variables.

    `sensitivity` times the solver's tolerance on the neurons is what it can add to q.
    """

    program: Program
    offset: Float[np.ndarray, "m"]
    factor: Float[np.ndarray, "m"]
    sensitivity: float

    def action(self, x: Float[np.ndarray, "n"]) -> Float[np.ndarray, "m"]:
        """a of a solution."""
        return self.offset + self.factor * x[: len(self.offset)]


def _encode(folded: Sequence[FoldedNetwork], region: Region, state: int, combine: str) -> Encoding:
    low, high = region.low[state], region.high[state]
    center, radius = region.center_and_radius(state)
    # Continuous coordinates in units of the box, whole ones from its corner: the tolerance is absolute.
    offset = np.where(region.integer, low, center)
    factor = np.where(region.integer, 1.0, radius)
    builder = _Builder()
    x = builder.columns((low - offset) / factor, (high - offset) / factor, region.integer)
    if len(region.bound):
        length = np.linalg.norm(region.matrix * factor, axis=1)
        length = np.where(length > 0, length, 1.0)
        reach = (region.bound - region.matrix @ offset) / length
        builder.rows([(x, region.matrix * factor / length[:, None])], np.full(len(reach), -np.inf), reach)
    t = builder.columns(np.array([-np.inf]), np.array([np.inf]), np.array([False]))
    builder.cost = t
    outputs, sensitivity = [], 0.0
    for member in folded:
        parts, constant, influence = _member(builder, member, x, offset, factor, state, center, radius)
        outputs.append((parts, constant))
        sensitivity = sensitivity + influence / len(folded) if combine == "mean" else max(sensitivity, influence)
    if combine == "mean":
        count = len(outputs)
        parts = [(columns, weight / count) for parts, _ in outputs for columns, weight in parts]
        outputs = [(parts, sum(constant for _, constant in outputs) / count)]
    for parts, constant in outputs:
        builder.rows(
            [(t, np.ones((1, 1))), *((columns, -weight) for columns, weight in parts)],
            np.array([-np.inf]),
            np.array([constant]),
        )
    return Encoding(builder.program(), offset, factor, 1 + sensitivity)


def _member(
    builder: _Builder,
    member: FoldedNetwork,
    x: np.ndarray,
    offset: np.ndarray,
    factor: np.ndarray,
    state: int,
    center: np.ndarray,
    radius: np.ndarray,
) -> tuple[list[tuple[np.ndarray, np.ndarray]], float, float]:
    """The neurons of one network: (its output as columns and weights [1, n], their constant, its sensitivity)."""
    network = member.network
    assert isinstance(network.activation, PiecewiseLinear)
    kink = network.activation.kink
    enclosures = member.runs(np.array([state])).enclose(center[None], radius[None])
    # The inputs of a layer: columns with their share in the layer's pre-activations, and a constant.
    by_action = network.layers[0].weight[-len(x) :] / network.half_width[:, None]
    weight = by_action * factor[:, None]
    parts, constant = [(x, weight.T)], member.offset[state] + offset @ by_action
    kept, ranges = [], []
    following = [*network.layers[1:], network.last]
    for enclosure, after in zip(enclosures, following, strict=True):
        low, high = (enclosure.middle[0] + sign * enclosure.spread[0] for sign in (-1, 1))
        # A ReLU that is off for every action has no column.
        active = np.flatnonzero((high > 0) | (kink > 0))
        low, high = low[active], high[active]
        p = builder.columns(np.maximum(low, 0), np.maximum(high, 0))
        n = builder.columns(np.maximum(-high, 0), np.maximum(-low, 0))
        one = np.eye(len(active))
        builder.rows(
            [(p, one), (n, -one), *((columns, -share[active]) for columns, share in parts)],
            constant[active],
            constant[active],
        )
        unstable = np.flatnonzero((low < 0) & (high > 0))
        one, least, greatest = np.eye(len(unstable)), low[unstable], high[unstable]
        d = builder.columns(np.zeros(len(unstable)), np.ones(len(unstable)), np.ones(len(unstable), bool))
        open_below = np.full(len(unstable), -np.inf)
        builder.rows([(p[unstable], one), (d, -one * greatest)], open_below, 0 * greatest)
        builder.rows([(n[unstable], one), (d, -one * least)], open_below, -least)
        parts, constant = [(p, after.weight[active].T)], after.bias
        if kink > 0:
            parts.append((n, -kink * after.weight[active].T))
        kept.append(active)
        ranges.append(np.where((low < 0) & (high > 0), 3 + high - low, 1.0))
    # How much one unit more of each pre-activation can add to the output, backwards.
    sensitivity, influence = 0.0, np.abs(network.last.weight[:, 0])
    for number in range(len(kept) - 1, -1, -1):
        sensitivity += float(influence[kept[number]] @ ranges[number])
        if number > 0:
            influence = np.abs(network.layers[number].weight) @ influence
    sensitivity += float((np.abs(weight) @ influence).sum())
    return parts, float(constant[0]), sensitivity


class _Builder:
    """A linear program, columns and dense blocks of rows at a time."""

    def __init__(self):
        self.count, self.cost = 0, np.zeros(0, int)
        self.low: list[np.ndarray] = []
        self.high: list[np.ndarray] = []
        self.integer: list[np.ndarray] = []
        self.row_low: list[np.ndarray] = []
        self.row_high: list[np.ndarray] = []
        self.blocks: list[list[tuple[np.ndarray, np.ndarray]]] = []

    def columns(self, low: np.ndarray, high: np.ndarray, integer: np.ndarray | None = None) -> np.ndarray:
        """The indices of new variables."""
        first, self.count = self.count, self.count + len(low)
        self.low.append(low)
        self.high.append(high)
        self.integer.append(np.zeros(len(low), bool) if integer is None else integer)
        return np.arange(first, self.count)

    def rows(self, parts: list[tuple[np.ndarray, np.ndarray]], low: np.ndarray, high: np.ndarray) -> None:
        """low ≤ Σ weight · x[columns] ≤ high over the parts (columns [n], weight [p, n])."""
        self.blocks.append(parts)
        self.row_low.append(low)
        self.row_high.append(high)

    def program(self) -> Program:
        """max Σ x[cost]."""
        height, values, indices, counts = 0, [], [], []
        for parts in self.blocks:
            columns = np.concatenate([columns for columns, _ in parts])
            weight = np.concatenate([weight for _, weight in parts], axis=1)
            row, place = np.nonzero(weight)
            values.append(weight[row, place])
            indices.append(columns[place])
            counts.append(np.bincount(row, minlength=len(weight)))
            height += len(weight)
        start = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        cost = np.zeros(self.count)
        cost[self.cost] = 1
        return Program(
            cost,
            np.concatenate(self.low),
            np.concatenate(self.high),
            np.concatenate(self.integer),
            Sparse(start, np.concatenate(indices), np.concatenate(values)),
            np.concatenate(self.row_low),
            np.concatenate(self.row_high),
        )


class Sparse(NamedTuple):
    """Rows of a matrix: row i has the values value[start_i : start_{i+1}] in those columns."""

    start: np.ndarray
    column: np.ndarray
    value: np.ndarray

    @staticmethod
    def of(matrix: Float[np.ndarray, "p n"]) -> Sparse:
        """A dense matrix without its zeros."""
        row, column = np.nonzero(matrix)
        start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(matrix)))])
        return Sparse(start, column, matrix[row, column])


class Program(NamedTuple):
    """max offset + cost · x: low ≤ x ≤ high, row_low ≤ matrix · x ≤ row_high, x_i whole where `integer`."""

    cost: Float[np.ndarray, "n"]
    low: Float[np.ndarray, "n"]
    high: Float[np.ndarray, "n"]
    integer: Bool[np.ndarray, "n"]
    matrix: Sparse
    row_low: Float[np.ndarray, "p"]
    row_high: Float[np.ndarray, "p"]
    offset: float = 0.0


class Answer(NamedTuple):
    """The best x found (None: none), an upper bound of the maximum, whether the search ended, whether none exists.

    `multiplier` are the rows' dual values of a program without whole numbers; rows hold to `tolerance`.
    """

    x: Float[np.ndarray, "n"] | None
    bound: float
    finished: bool
    infeasible: bool
    multiplier: Float[np.ndarray, "p"] | None
    tolerance: float


def highs_module() -> Any:
    """The module `highspy`."""
    try:
        import highspy
    except ImportError:
        raise UserError(
            "milp: highspy is not installed, expected the extra `solvers`; run pip install 'fittedq[solvers]'."
        ) from None
    return highspy


def solve_program(
    label: str, program: Program, *, tol: float = 0.0, time_limit: float = np.inf, tolerance: float = FEASIBILITY
) -> Answer:
    """The program by HiGHS until bound − value ≤ tol · max(1, |value|) or `time_limit` seconds are over."""
    highspy = highs_module()
    mixed = bool(program.integer.any())
    # The C++ class itself: the subclass that highspy exports prints a banner when it is made.
    solver = highspy.Highs.__base__()
    # `threads` stays as it is: HiGHS fails without a word where it changes between models.
    options = {
        "output_flag": False,
        "mip_rel_gap": tol,
        "mip_abs_gap": tol,
        "primal_feasibility_tolerance": tolerance,
        "dual_feasibility_tolerance": tolerance,
        "mip_feasibility_tolerance": tolerance,
    }
    if np.isfinite(time_limit):
        options["time_limit"] = float(time_limit)
    accepted = [solver.setOptionValue(name, value) for name, value in options.items()]
    accepted.append(
        solver.passModel(
            len(program.cost),
            len(program.row_low),
            len(program.matrix.value),
            int(highspy.MatrixFormat.kRowwise),
            int(highspy.ObjSense.kMaximize),
            program.offset,
            program.cost,
            program.low,
            program.high,
            program.row_low,
            program.row_high,
            program.matrix.start.astype(np.int32),
            program.matrix.column.astype(np.int32),
            program.matrix.value,
            program.integer.astype(np.int32),
        )
    )
    if any(status == highspy.HighsStatus.kError for status in accepted):
        raise UserError(f"{label}: HiGHS refused the model; rescale actions and rows to sizes near 1.")
    outcome, status = solver.run(), solver.getModelStatus()
    known = highspy.HighsModelStatus
    infeasible = status == known.kInfeasible
    if outcome == highspy.HighsStatus.kError or not (infeasible or status in (known.kOptimal, known.kTimeLimit)):
        if tolerance < LOOSE:
            return solve_program(label, program, tol=tol, time_limit=time_limit, tolerance=LOOSE)
        raise UserError(
            f"{label}: HiGHS ended with {solver.modelStatusToString(status)!r}; rescale actions and rows to sizes "
            "near 1, or use another maximizer."
        )
    info, solution = solver.getInfo(), solver.getSolution()
    finished = status == known.kOptimal
    feasible = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    bound = info.mip_dual_bound if mixed else info.objective_function_value if finished else np.inf
    return Answer(
        x=np.array(solution.col_value) if feasible and not infeasible else None,
        bound=-np.inf if infeasible else float(bound),
        finished=finished,
        infeasible=infeasible,
        multiplier=np.array(solution.row_dual) if finished and not mixed else None,
        tolerance=tolerance,
    )


class Region(NamedTuple):
    """A(s) for b states: low ≤ a ≤ high, matrix · a ≤ bound, a_i whole where `integer`."""

    low: Float[np.ndarray, "b m"]
    high: Float[np.ndarray, "b m"]
    matrix: Float[np.ndarray, "p m"]
    bound: Float[np.ndarray, "p"]
    integer: Bool[np.ndarray, "m"]

    def center_and_radius(self, state: int) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
        """The box of one state; the centre is rounded, and the radius covers both ends all the same."""
        low, high = self.low[state], self.high[state]
        radius = (high - low) / 2 + 2.0**-51 * np.maximum(np.abs(low), np.abs(high))
        # A side that is the point 0 has a radius all the same, to divide by.
        return (low + high) / 2, np.maximum(radius, np.finfo(float).tiny)

    def starts(self, label: str, given: Any) -> list[list[np.ndarray]]:
        """Warm starts [b, m] or [b, k, m] as a list per state; those that are no numbers are left out."""
        count, m = self.low.shape
        if given is None:
            return [[] for _ in range(count)]
        actions = np.asarray(given, float)
        actions = actions[:, None] if actions.ndim == 2 else actions
        if actions.ndim != 3 or actions.shape[0] != count or actions.shape[2] != m:
            raise UserError(
                f"{label}: warm_start has shape {np.shape(given)}, expected ({count}, {m}) or ({count}, k, {m}): "
                "actions for every state."
            )
        return [[action for action in row if np.isfinite(action).all()] for row in actions]

    def program(self, state: int, cost: Float[np.ndarray, "m"], chosen: Any = slice(None)) -> Program:
        """max cost · a over A(s), or over what the `chosen` rows alone allow."""
        matrix, bound = self.matrix[chosen], self.bound[chosen]
        length = np.linalg.norm(matrix, axis=1)
        length = np.where(length > 0, length, 1.0)
        open_below = np.full(len(bound), -np.inf)
        return Program(
            cost,
            self.low[state],
            self.high[state],
            self.integer,
            Sparse.of(matrix / length[:, None]),
            open_below,
            bound / length,
        )

    def inner(self, label: str, state: int, before: np.ndarray | None) -> Float[np.ndarray, "m"]:
        """Some action of A(s), that of the state before if it will do; `UserError` with the reason if there is none."""
        low, high = self.low[state], self.high[state]
        middle = (low + high) / 2
        middle = np.where(self.integer, np.floor(middle), middle)
        for guess in (middle, before):
            if guess is not None and ((low <= guess) & (guess <= high)).all() and self.holds(guess):
                return guess
        answer = solve_program(label, self.program(state, np.zeros(len(low))))
        if answer.x is None:
            raise UserError(self.emptiness(label, state))
        return np.clip(np.where(self.integer, np.round(answer.x), answer.x), low, high)

    def holds(self, action: Float[np.ndarray, "m"], share: float = FEASIBILITY) -> bool:
        """matrix · a ≤ bound to a `share` of the rows' size, in float64."""
        return bool((self.matrix @ action.astype(float) <= self.bound + share * self.row_size).all())

    @property
    def row_size(self) -> Float[np.ndarray, "p"]:
        """The size of each row's terms on the whole of the region: what its rounding is relative to."""
        largest = np.maximum(np.abs(self.low), np.abs(self.high)).max(axis=0, initial=0)
        return np.abs(self.matrix) @ largest + np.abs(self.bound)

    def admissible(self, state: int, action: Float[np.ndarray, "m"], precision: Any) -> Float[np.ndarray, "m"] | None:
        """An action of A(s) in `precision` near `action`: in its bounds, its whole coordinates rounded.

        Where a row asks for it, the continuous coordinates move, by the least greatest share of the bounds, to where
        the row holds also in that precision, or, where it leaves no inside, to its rounding. None if nothing will do.
        """
        low, high = self.low[state], self.high[state]
        ends = inwards(low, high, precision)

        def snap(point: np.ndarray) -> np.ndarray:
            return np.clip(np.where(self.integer, np.round(point), point).astype(precision), *ends)

        snapped = snap(action)
        free = ~self.integer & (low < high)
        # Rows of whole numbers alone have no inside to move to, and no need: such sums are exact or rounded alike.
        movable = (self.matrix[:, free] != 0).any(axis=1)
        rounding = np.where(movable, 4 * float(np.finfo(precision).eps) + 4 * FEASIBILITY, -FEASIBILITY) * self.row_size
        if (self.matrix @ snapped.astype(float) <= self.bound - rounding).all():
            return snapped
        if not free.any() or not (self.matrix[~movable] @ snapped <= (self.bound - rounding)[~movable]).all():
            return None
        width, point = (high - low)[free], snapped[free].astype(float)
        rows = self.matrix[movable]
        reach = self.bound[movable] - rows[:, ~free] @ snapped[~free].astype(float)
        length = np.linalg.norm(rows[:, free] * width, axis=1)
        count, one = len(width), np.eye(len(width))
        # u = (a − point) / width, |u| ≤ r, and −r as great as possible.
        matrix = np.block(
            [
                [rows[:, free] * width / length[:, None], np.zeros((len(rows), 1))],
                [one, -np.ones((count, 1))],
                [-one, -np.ones((count, 1))],
            ]
        )
        for margin in (rounding[movable], 0 * rounding[movable]):
            limits = (reach - margin - rows[:, free] @ point) / length
            program = Program(
                -np.eye(count + 1)[count],
                np.append((low[free] - point) / width, 0),
                np.append((high[free] - point) / width, 2),
                np.zeros(count + 1, bool),
                Sparse.of(matrix),
                np.full(len(matrix), -np.inf),
                np.concatenate([limits, np.zeros(2 * count)]),
            )
            answer = solve_program("action set", program)
            if answer.x is not None:
                moved = snapped.astype(float)
                moved[free] = point + width * answer.x[:count]
                return snap(moved)
        return snapped if self.holds(snapped, 1e-6) else None

    def emptiness(self, label: str, state: int) -> str:
        """Why A(s) is empty: rows whose weighted sum exceeds its bound everywhere (Farkas), or whole numbers."""
        low, high, m = self.low[state], self.high[state], len(self.integer)
        start = f"{label}: at state {state} the action set is empty: "
        length = np.linalg.norm(self.matrix, axis=1)
        length = np.where(length > 0, length, 1.0)
        matrix, bound = self.matrix / length[:, None], self.bound / length
        # max −r, matrix · a − r ≤ bound: the multipliers y ≥ 0 are the weights.
        phase_one = Program(
            -np.eye(m + 1)[m],
            np.append(low, -np.inf),
            np.append(high, np.inf),
            np.zeros(m + 1, bool),
            Sparse.of(np.hstack([matrix, -np.ones((len(bound), 1))])),
            np.full(len(bound), -np.inf),
            bound,
        )
        multiplier = solve_program(label, phase_one).multiplier
        assert multiplier is not None
        weight = np.where(np.abs(multiplier) > 1e-7, np.abs(multiplier), 0) / length
        weight = weight / weight.max()
        total = weight @ self.matrix
        least, limit = np.minimum(total * low, total * high).sum(), weight @ self.bound
        if least > limit:
            named = np.flatnonzero(weight)
            terms = " + ".join(f"{weight[row]:.4g} · row {row}" for row in named)
            return (
                f"{start}its rows {named.tolist()} conflict; {terms} is at least {least:.6g} within the bounds, "
                f"expected at most {limit:.6g}; relax one of them."
            )
        conflict = conflicting(
            len(bound), lambda chosen: solve_program(label, self.program(state, np.zeros(m), chosen)).infeasible
        )
        return (
            f"{start}no whole numbers of dimensions {np.flatnonzero(self.integer).tolist()} within the bounds satisfy "
            f"rows {conflict} together, though fractions do; relax one of them."
        )


MOST_ROWS_NAMED = 64
"""With more rows than this, an empty set of whole numbers is reported with all of them."""


def conflicting(rows: int, empty: Callable[[list[int]], bool]) -> list[int]:
    """Rows that leave nothing together, while without any one of them something is left."""
    conflict = list(range(rows))
    for row in conflict if rows <= MOST_ROWS_NAMED else ():
        others = [other for other in conflict if other != row]
        if empty(others):
            conflict = others
    return conflict


def region_of(
    label: str, action_set: AbstractActionSet, obs: Float[Arr, "b s"], integer: Sequence[int], rows: Rows | None
) -> Region:
    """A(s) at every state, with `integer` coordinates and `rows` besides those of the set."""
    obs = np.asarray(obs)
    if obs.ndim != 2 or not np.isfinite(obs).all():
        raise UserError(f"{label}: obs has shape {obs.shape}, expected finite numbers of shape (b, s).")
    inner, m = action_set.inner if isinstance(action_set, Mixed) else action_set, action_set.size
    matrix, bound = np.zeros((0, m)), np.zeros(0)
    if isinstance(inner, Polytope):
        # The hull comes from linear programs, so it is widened by their error.
        room = HULL_ERROR * np.asarray(inner.half_width)
        ends = inwards(
            np.maximum(inner.low, np.asarray(inner.hull.low) - room),
            np.minimum(inner.high, np.asarray(inner.hull.high) + room),
            obs.dtype,
        )
        matrix, bound = np.asarray(inner.matrix), np.asarray(inner.bound)
    elif is_box(inner):
        ends = action_set.bounds(obs)
    else:
        raise UserError(
            f"{label}: found the action set {type(inner).__name__}, expected a Box, a StateBox, a Polytope or a Mixed "
            "set of one."
        )
    low, high = (np.array(np.broadcast_to(np.asarray(end), (len(obs), m)), float) for end in ends)
    whole = np.zeros(m, bool)
    axes = [int(axis) for axis in (*integer, *action_set.integer)]
    if any(not 0 <= axis < m for axis in axes):
        raise UserError(f"{label}: found the integer coordinates {list(integer)}, expected some of 0 … {m - 1}.")
    whole[axes] = True
    bad = ~((low <= high) & np.isfinite(low) & np.isfinite(high))
    if bad.any():
        state, axis = np.argwhere(bad)[0]
        raise UserError(
            f"{label}: at state {state} dimension {axis} is [{low[state, axis]}, {high[state, axis]}], expected finite "
            "numbers, low ≤ high."
        )
    room = WHOLE if isinstance(inner, Polytope) else 0.0
    least, greatest = np.ceil(low - room), np.floor(high + room)
    bad = whole & (least > greatest)
    if bad.any():
        state, axis = np.argwhere(bad)[0]
        raise UserError(
            f"{label}: at state {state} dimension {axis} is [{low[state, axis]:g}, {high[state, axis]:g}], which holds "
            "no whole number; widen the bounds or let the dimension be continuous."
        )
    if rows is not None:
        more, limits = (np.asarray(part, float) for part in rows)
        if more.ndim != 2 or more.shape[1] != m or limits.shape != more.shape[:1]:
            raise UserError(
                f"{label}: rows are a matrix of shape {more.shape} and a bound of shape {limits.shape}, expected "
                f"(p, {m}) and (p,): one row per inequality, one column per action dimension."
            )
        if not (np.isfinite(more).all() and np.isfinite(limits).all()):
            raise UserError(f"{label}: rows must be finite numbers; leave out a row that binds nothing.")
        matrix, bound = np.concatenate([matrix, more]), np.concatenate([bound, limits])
    return Region(np.where(whole, least, low), np.where(whole, greatest, high), matrix, bound, whole)
