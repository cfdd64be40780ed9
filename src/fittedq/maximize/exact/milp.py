"""max_a q(s, a) of a ReLU critic as a mixed-integer linear program, solved by HiGHS.

The independent check of `certified`, and the exact maximizer over polytopes and whole numbers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.actions.region import Region
from fittedq.approx.dense import Layer
from fittedq.approx.host import to_host
from fittedq.approx.networks import QNetwork
from fittedq.arrays import Arr
from fittedq.errors import UserError
from fittedq.maximize.base import AbstractMaximizer, Solution, Status, misfit
from fittedq.maximize.highs import Program, Sparse, highs_module, solve_program
from fittedq.maximize.proofs.bounds import FoldedNetwork, Network, dense_of, members_of, unproven
from fittedq.maximize.proofs.combine import combination
from fittedq.maximize.proofs.readings import Reading, reading
from fittedq.maximize.proofs.relax import Relaxation, relaxation
from fittedq.maximize.region import Inequalities, admissible, an_action, region_of, starts_of
from fittedq.slots import POSITIVE, SECONDS
from fittedq.types import AbstractCritic


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
    rows: Inequalities | None = None,
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
    combined = combination("milp", combine)
    region = region_of("milp", action_set, obs, integer, rows)
    obs = np.asarray(obs)
    members = members_of(critic, obs.shape[1], action_set.size, activation)
    _check_piecewise_linear(members, action_set.size)
    folded = [FoldedNetwork(member, obs.astype(float), region.low, region.high) for member in members]
    precision = np.float32 if members[0].unit > 2.0**-53 else np.float64
    given = starts_of("milp", region, warm_start)
    own = np.max([member.own for member in folded], axis=0)
    found: list[tuple[np.ndarray, float, float, int]] = []
    inner = None
    for state in range(len(obs)):
        inner = an_action("milp", region, state, inner)
        row = np.array([state])
        center, radius = region.center_and_radius(state)
        upper = combined.bound([member.upper(row, center[None], radius[None]) for member in folded]).bound[0]
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
        repaired = [admissible(region, state, action, precision) for action in candidates]
        actions = np.stack([action for action in repaired if action is not None])
        each = [member.values(np.repeat(row, len(actions)), actions.astype(float))[0] for member in folded]
        values = combined.value(each, axis=0) - own[state]
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


class MilpArgmax(AbstractMaximizer[QNetwork]):
    """max_{a ∈ A(s)} min_j q_j(s, a) of a (leaky) ReLU critic by mixed-integer programming, to `tol` · max(1, |value|).

    On the host, milliseconds to seconds a state, `state_seconds` at most: for small networks, over polytopes and whole
    numbers too. `upper_bound` holds to HiGHS's rounding (`milp`).
    """

    needs_starts: ClassVar[bool] = False
    on_host: ClassVar[bool] = True
    quick: ClassVar[bool] = False
    tol: float = eqx.field(static=True, default=1e-3, metadata=POSITIVE)
    state_seconds: float = eqx.field(static=True, default=10.0, metadata=SECONDS)

    def __call__(
        self,
        critic: QNetwork,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solution:
        del key
        return milp(
            to_host(critic),
            np.asarray(obs),
            action_set,
            tol=self.tol,
            state_time_limit=self.state_seconds,
            warm_start=None if starts is None else np.asarray(starts),
        )


@misfit.register
def _(maximizer: MilpArgmax, critic: QNetwork, action_set: AbstractActionSet) -> str | None:
    del maximizer
    highs_module()
    net, head = dense_of(critic), reading(critic.head)
    if net is None or head is None:
        return unproven(critic)
    width = (*net.layers, net.last)[0].weight.shape[0]
    if action_set.region(np.zeros((0, width - action_set.size), np.float32)) is None:
        return f"no inequalities describe the action set {type(action_set).__name__}"
    return _no_program(relaxation(net.activation), net.layers, head)


def _no_program(activation: Relaxation, layers: Sequence[Layer], head: Reading) -> str | None:
    """Why no mixed-integer linear program is such a network, or None."""
    if not head.linear:
        return (
            "found a critic whose value is the mean of a softmax (Categorical), which is not piecewise linear; use "
            "`certified`, which bounds it"
        )
    if activation.kink is None:
        return (
            "found an activation that is not piecewise linear, expected relu or leaky_relu; use `certified`, which "
            "bounds smooth ones"
        )
    if any(layer.gain is not None for layer in layers):
        return "found layer norm, which is not piecewise linear; use `certified`, which bounds it"
    if not layers:
        return (
            "found a critic without a hidden layer, expected one at least; q is linear in a, so use "
            "`integer_quadratic` with a LinearCritic"
        )
    return None


def _check_piecewise_linear(members: Sequence[Network], action_size: int) -> None:
    for member in members:
        if len(member.center) != action_size:
            raise UserError(
                f"milp: found an action set of {action_size} dimensions, expected {len(member.center)}, those of the "
                "critic."
            )
        if why := _no_program(member.activation, member.layers, member.reading):
            raise UserError(f"milp: {why}.")


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
    network, kink = member.network, member.network.activation.kink
    assert kink is not None
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
