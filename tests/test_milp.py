"""Maxima by mixed-integer programming: against branch and bound, enumeration and dense grids."""

from __future__ import annotations

import sys

import equinox as eqx
import jax
import numpy as np
import pytest

from fittedq.actions.base import Box
from fittedq.actions.mixed import Mixed
from fittedq.actions.polytope import Polytope
from fittedq.actions.state_box import StateBox
from fittedq.approx.networks import QNetwork
from fittedq.errors import UserError
from fittedq.maximize.base import Status
from fittedq.maximize.exact.integer import exhaustive
from fittedq.maximize.exact.milp import milp
from fittedq.maximize.highs import Program, Sparse, solve_program
from fittedq.maximize.proofs.certified import certified
from methods import built, mlp

OBS = 2
TOL = 1e-3


def make_critic(seed: int, m: int, widths=(8, 8), activation="relu", n_critics=1, layer_norm=False) -> QNetwork:
    """Weights large enough for a surface with several hills."""
    box = Box([-1.0] * m, [2.0] * m)
    critic = built(
        QNetwork,
        OBS,
        box,
        widths,
        jax.random.key(seed),
        n_critics=n_critics,
        activation=activation,
        make=mlp(layer_norm),
    )
    weights = tuple(np.asarray(weight) * np.float32(2.5) for weight in critic.net.weights)
    return eqx.tree_at(lambda c: c.net.weights, jax.tree.map(np.asarray, critic), weights)


def make_obs(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, OBS)).astype(np.float32)


def values(critic: QNetwork, obs: np.ndarray, action: np.ndarray, combine=np.min) -> np.ndarray:
    """q in float64, by the critic's own formula."""
    double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), critic)
    return combine(double(np.asarray(obs, float), np.asarray(action, float)), axis=0)


def mesh(low, high, points: int) -> np.ndarray:
    axes = [np.linspace(a, b, points) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def on_points(critic: QNetwork, obs: np.ndarray, points: np.ndarray) -> np.ndarray:
    """max of q over some points, per state."""
    return np.array([values(critic, np.repeat(row[None], len(points), 0), points).max() for row in obs])


def check_interval(solution, critic, obs, combine=np.min) -> None:
    """Solved to the tolerance; the value is q at the action."""
    q = values(critic, obs, solution.action, combine)
    assert (solution.status == Status.OPTIMAL).all()
    np.testing.assert_allclose(solution.value, q, rtol=0, atol=1e-10)
    assert (solution.value <= solution.upper_bound).all()
    assert (solution.upper_bound <= solution.value + 1.001 * TOL * np.maximum(1, np.abs(solution.value))).all()


def check_instances(seeds: range) -> None:
    """Random critics, one state each: both intervals hold one number."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        m, n_critics = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        combine = ("min", "mean")[int(rng.integers(2))]
        activation = ("relu", "leaky_relu")[int(rng.integers(2))]
        critic = make_critic(seed, m, ((8,), (5, 5), (4, 4, 4))[int(rng.integers(3))], activation, n_critics)
        obs = make_obs(seed, 1)
        one = milp(critic, obs, critic.action_set, combine=combine)
        other = certified(critic, obs, critic.action_set, combine=combine)
        check_interval(one, critic, obs, np.min if combine == "min" else np.mean)
        # 2e-9: neither side counts the other's last digits.
        assert one.value[0] <= other.upper_bound[0] + 2e-9, seed
        assert other.value[0] <= one.upper_bound[0] + 2e-9, seed


def test_intervals_overlap_those_of_branch_and_bound():
    check_instances(range(12))


@pytest.mark.slow
def test_intervals_overlap_those_of_branch_and_bound_300_times():
    check_instances(range(12, 312))


def test_polytopes_against_a_dense_grid():
    critic, obs = make_critic(3, 2), make_obs(3, 4)
    box = critic.action_set
    polytope = Polytope(box.low, box.high, [[1.0, 1.0], [-2.0, 1.0]], [1.5, 1.0])
    solution = milp(critic, obs, polytope)
    points = mesh(box.low, box.high, 301)
    inside = points[polytope.contains(points, points)]
    grid = on_points(critic, obs, inside)
    check_interval(solution, critic, obs)
    assert polytope.contains(solution.action, obs).all()
    assert (solution.upper_bound >= grid).all()
    assert (solution.value >= grid - TOL * np.maximum(1, np.abs(grid))).all()


def test_a_row_that_cuts_off_the_best_action_costs_value():
    critic, obs = make_critic(3, 2), make_obs(3, 1)
    box = critic.action_set
    free = milp(critic, obs, box)
    middle = np.mean([box.low, box.high], axis=0)
    normal = free.action[0] - middle
    half = Polytope(box.low, box.high, normal[None], np.array([normal @ (middle + normal / 2)]))
    cut = milp(critic, obs, half)
    assert half.contains(cut.action, obs).all()
    assert cut.upper_bound[0] < free.value[0] - 10 * TOL


def test_mixed_actions_against_a_dense_grid_of_every_slice():
    critic, obs = make_critic(4, 2), make_obs(4, 4)
    box = critic.action_set
    rows = ([[1.0, 0.5], [-1.0, 2.0]], [1.75, 2.25])
    points = np.concatenate(
        [np.stack([np.full(3001, whole), np.linspace(-1, 2, 3001)], 1) for whole in (-1.0, 0.0, 1.0, 2.0)]
    )
    inside = points[(points @ np.transpose(rows[0]) <= rows[1]).all(axis=1)]
    grid = on_points(critic, obs, inside)
    mixed = Mixed(Polytope(box.low, box.high, *rows), [0])
    for solution in (milp(critic, obs, mixed), milp(critic, obs, box, integer=[0], rows=rows)):
        check_interval(solution, critic, obs)
        assert mixed.contains(solution.action, obs).all()
        assert (solution.upper_bound >= grid).all()
        assert (solution.value >= grid - TOL * np.maximum(1, np.abs(grid))).all()


def test_whole_numbers_against_enumeration():
    critic, obs = make_critic(5, 4, (6, 6), n_critics=2), make_obs(5, 3)
    box, rows = critic.action_set, (np.array([[1.0, 2.0, -1.0, 1.0]]), np.array([2.0]))
    solution = milp(critic, obs, box, integer=range(4), rows=rows, tol=1e-4)
    exact = exhaustive(critic, obs, box, integer=range(4), rows=rows)
    assert (solution.status == Status.OPTIMAL).all()
    assert (solution.action == np.round(solution.action)).all()
    assert (solution.action @ rows[0][0] <= 2).all()
    assert (solution.upper_bound >= exact.value - 1e-5).all()
    assert (solution.value >= exact.value - 2e-4 * np.maximum(1, np.abs(exact.value))).all()


def test_rows_that_leave_no_inside():
    """a_0 + a_1 = 1: a segment."""
    critic, obs = make_critic(6, 2), make_obs(6, 4)
    solution = milp(critic, obs, critic.action_set, rows=([[1.0, 1.0], [-1.0, -1.0]], [1.0, -1.0]))
    along = np.linspace(-1, 2, 3001)
    grid = on_points(critic, obs, np.stack([along, 1 - along], axis=1))
    check_interval(solution, critic, obs)
    np.testing.assert_allclose(solution.action.astype(float).sum(axis=1), 1, atol=1e-6)
    assert (solution.upper_bound >= grid).all()
    assert (solution.value >= grid - 2 * TOL * np.maximum(1, np.abs(grid))).all()


def test_state_dependent_bounds():
    critic, obs = make_critic(7, 2), make_obs(7, 4)
    action_set = StateBox(
        lambda s: np.stack([np.tanh(s[:, 0]), 0.25 + 0 * s[:, 0]], axis=1).astype(np.float32),
        lambda s: np.stack([np.tanh(s[:, 0]) + 0.5, 0.25 + 0 * s[:, 0]], axis=1).astype(np.float32),
        critic.action_set,
    )
    solution = milp(critic, obs, action_set)
    check_interval(solution, critic, obs)
    assert action_set.contains(solution.action, obs).all()
    assert solution.action.dtype == np.float32
    for row, (low, high) in enumerate(zip(*action_set.bounds(obs), strict=True)):
        grid = on_points(critic, obs[[row]], mesh(low, high, 201))[0]
        assert grid <= solution.upper_bound[row]
        assert grid - TOL * max(1, abs(grid)) <= solution.value[row]


def test_a_list_of_layers_is_a_critic_in_plain_units():
    # relu(a_0) − 2 relu(−a_1) + s_0 on [−1, 3] × [−1, 3]: 3 + s_0.
    layers = [
        (np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), np.array([0.0, 0.0, 9.0])),
        (np.array([[1.0], [-2.0], [1.0]]), np.array([-9.0])),
    ]
    obs = np.array([[0.5, 0.0], [-0.25, 0.0]])
    solution = milp(layers, obs, Box([-1.0, -1.0], [3.0, 3.0]), tol=1e-6)
    np.testing.assert_allclose(solution.value, [3.5, 2.75], atol=1e-6)
    np.testing.assert_allclose(solution.upper_bound, [3.5, 2.75], atol=1e-6)
    assert solution.action.dtype == np.float64


@pytest.mark.parametrize("limits", [{"time_limit": 0.0}, {"state_time_limit": 0.0}])
def test_without_time_the_interval_and_the_warm_start_hold(limits):
    critic, obs = make_critic(8, 3), make_obs(8, 4)
    rows = (np.ones((1, 3)), np.array([1.0]))
    solved = milp(critic, obs, critic.action_set, rows=rows)
    stopped = milp(critic, obs, critic.action_set, rows=rows, **limits)
    assert (stopped.status == Status.TIME_LIMIT).all()
    assert (stopped.action.sum(axis=1) <= 1).all()
    assert (stopped.value < solved.value).any()
    assert (stopped.value <= solved.upper_bound).all() and (stopped.upper_bound >= solved.value).all()
    warm = milp(critic, obs, critic.action_set, rows=rows, warm_start=solved.action, **limits)
    np.testing.assert_allclose(warm.value, solved.value, rtol=0, atol=1e-6)  # its action is a float32


def test_the_solver_is_silent_and_its_failures_are_not(capfd):
    critic, obs = make_critic(0, 1), make_obs(0, 1)
    milp(critic, obs, critic.action_set)
    assert capfd.readouterr() == ("", "")
    nothing = np.zeros(0)
    program = Program(
        np.array([1.0]),
        np.zeros(1),
        np.array([np.inf]),
        np.array([True]),
        Sparse.of(np.zeros((0, 1))),
        nothing,
        nothing,
    )
    with pytest.raises(UserError, match="HiGHS ended with"):
        solve_program("milp", program)
    with pytest.raises(UserError, match="HiGHS refused"):
        solve_program("milp", program._replace(low=np.array([np.inf])))


def test_bad_input_is_one_sentence(monkeypatch):
    critic, obs = make_critic(0, 2), make_obs(0, 2)
    box = critic.action_set
    with pytest.raises(UserError, match="not piecewise linear, expected relu"):
        milp(make_critic(0, 2, activation="tanh"), obs, box)
    with pytest.raises(UserError, match="layer norm"):
        milp(make_critic(0, 2, layer_norm=True), obs, box)
    with pytest.raises(UserError, match="without a hidden layer"):
        milp([(np.ones((OBS + 2, 1)), np.zeros(1))], obs, box)
    with pytest.raises(UserError, match="combine is 'max'"):
        milp(critic, obs, box, combine="max")
    with pytest.raises(UserError, match="tol is 0"):
        milp(critic, obs, box, tol=0)
    with pytest.raises(UserError, match="3 dimensions, expected 2"):
        milp(critic, obs, Box([0.0] * 3, [1.0] * 3))
    with pytest.raises(UserError, match="integer coordinates"):
        milp(critic, obs, box, integer=[2])
    with pytest.raises(UserError, match=r"rows are a matrix of shape \(1, 3\)"):
        milp(critic, obs, box, rows=([[1.0, 1.0, 1.0]], [1.0]))
    with pytest.raises(UserError, match="warm_start has shape"):
        milp(critic, obs, box, warm_start=np.zeros((3, 2)))
    with pytest.raises(UserError, match=r"holds\s+no whole number"):
        milp(critic, obs, Box([0.2, 0.0], [0.8, 1.0]), integer=[0])
    # a_0 + a_1 ≤ 1, a_0 ≥ 0.75, a_1 ≥ 0.75: rows 0, 2 and 3 of these.
    rows = ([[1.0, 1.0], [1.0, 0.0], [-1.0, 0.0], [0.0, -2.0]], [1.0, 1.5, -0.75, -1.5])
    with pytest.raises(UserError, match=r"rows \[0, 2, 3\] conflict; 1 · row 0 \+ 1 · row 2 \+ 0.5 · row 3"):
        milp(critic, obs, box, rows=rows)
    # 2 a_0 + 2 a_1 = 1 has fractions only.
    rows = ([[0.0, 1.0], [2.0, 2.0], [-2.0, -2.0]], [1.5, 1.0, -1.0])
    with pytest.raises(UserError, match=r"no whole numbers .* rows \[1, 2\] together"):
        milp(critic, obs, box, integer=[0, 1], rows=rows)
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(UserError, match=r"fittedq\[solvers\]"):
        milp(critic, obs, box)
