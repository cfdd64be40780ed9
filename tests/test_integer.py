"""Maxima over whole numbers: against enumeration, closed forms and each other."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest

from fittedq.actions.base import Box
from fittedq.actions.mixed import Mixed
from fittedq.actions.polytope import Polytope
from fittedq.actions.state_box import StateBox
from fittedq.approx.linear import LinearCritic, Polynomial, RadialBasis
from fittedq.errors import UserError
from fittedq.maximize.base import Status
from fittedq.maximize.exact.integer import exhaustive, integer_quadratic, top_k
from fittedq.maximize.exact.quadratic import QuadraticArgmax
from fittedq.types import AbstractCritic

OBS = 2


def make_critic(seed: int, box: Box, degree: int = 2, concave: bool = True) -> LinearCritic:
    """q = c + wᵀx + xᵀWx, x = [s, a], with W negative definite or of both signs."""
    rng = np.random.default_rng(seed)
    features, size = Polynomial(degree), OBS + box.size
    root = rng.normal(size=(size, size))
    W = -root @ root.T / size if concave else (root + root.T) / 2
    w = 3 * rng.normal(size=size)
    weights = [
        1.0 if not term else w[term[0]] if len(term) == 1 else W[term[0], term[1]] * (1 if term[0] == term[1] else 2)
        for term in features.monomials(size)
    ]
    return LinearCritic(features, np.array([weights]), box)


def make_obs(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, OBS))


def best_of(critic: AbstractCritic, row: np.ndarray, points: np.ndarray) -> tuple[float, np.ndarray]:
    """(max q, argmax) over some points, one at a time."""
    q = [float(critic(row[None], point[None])[0, 0]) for point in points]
    return max(q), points[int(np.argmax(q))]


def lattice(low, high) -> np.ndarray:
    return np.array(
        list(itertools.product(*(range(int(a), int(b) + 1) for a, b in zip(low, high, strict=True)))), float
    )


def check_against(solution, exact, tol: float = 1e-3) -> None:
    """The interval holds the exact maximum and is as narrow as asked."""
    scale = np.maximum(1, np.abs(exact))
    assert np.isin(solution.status, (Status.OPTIMAL, Status.EXACT)).all()
    assert (solution.value <= exact + 1e-9 * scale).all()
    assert (solution.upper_bound >= exact - 1e-12 * scale).all()
    assert (solution.upper_bound <= solution.value + 1.001 * tol * scale).all()


ROWS = (np.array([[1.0, 2.0, -1.0], [-1.0, 0.5, 2.0]]), np.array([2.0, 1.5]))


def test_exhaustive_is_the_best_of_all_points():
    box = Box([-1.4, 0.0, -2.0], [2.0, 1.0, 1.9])
    obs = make_obs(0, 5)
    features = RadialBasis.from_data((make_obs(1, 200), np.random.default_rng(1).uniform(-2, 2, (200, 3))), 30)
    weights = np.random.default_rng(2).normal(size=(3, 31))
    critic = LinearCritic(features, weights, box)
    points = lattice([-1, 0, -2], [2, 1, 1])
    points = points[(points @ ROWS[0].T <= ROWS[1]).all(axis=1)]
    assert 5 < len(points) < 30
    for combine, function in (("min", np.min), ("mean", np.mean)):
        solution = exhaustive(critic, obs, box, combine=combine, integer=range(3), rows=ROWS)
        assert (solution.status == Status.EXACT).all()
        for row in range(5):
            q = function(critic(np.repeat(obs[[row]], len(points), 0), points), axis=0)
            np.testing.assert_allclose(solution.value[row], q.max(), rtol=1e-12)
            np.testing.assert_array_equal(solution.action[row], points[q.argmax()])
        np.testing.assert_array_equal(solution.value, solution.upper_bound)


def test_exhaustive_in_parts_is_exhaustive_at_once(monkeypatch):
    box, obs = Box([-3.0] * 3, [3.0] * 3), make_obs(3, 40).astype(np.float32)
    critic = make_critic(3, box)
    once = exhaustive(critic, obs, box, integer=range(3))
    monkeypatch.setattr("fittedq.maximize.exact.integer.ROWS_AT_A_TIME", 101)
    parts = exhaustive(critic, obs, box, integer=range(3))
    np.testing.assert_array_equal(once.action, parts.action)
    assert once.action.dtype == np.float32


def state_box(box: Box) -> StateBox:
    """Bounds from −2 − 2 tanh s_0 to 1 + tanh s_1, so that each state has other points."""
    return StateBox(
        lambda s: np.repeat(-2 - 2 * np.tanh(s[:, :1]), box.size, 1),
        lambda s: np.repeat(1 + np.tanh(s[:, 1:]), box.size, 1),
        box,
    )


def test_bounds_that_depend_on_the_state():
    box, obs = Box([-4.0] * 3, [4.0] * 3), make_obs(4, 12)
    action_set = Mixed(state_box(box), range(3))
    critic = make_critic(4, box)
    whole = exhaustive(critic, obs, action_set)
    quadratic = integer_quadratic(critic, obs, action_set)
    linear_critic = make_critic(4, box, degree=1)
    linear = integer_quadratic(linear_critic, obs, action_set, rows=ROWS)
    low, high = action_set.bounds(obs)
    exact, exact_linear = [], []
    for row in range(12):
        points = lattice(low[row], high[row])
        exact.append(best_of(critic, obs[row], points)[0])
        inside = points[(points @ ROWS[0].T <= ROWS[1]).all(axis=1)]
        exact_linear.append(best_of(linear_critic, obs[row], inside)[0])
    np.testing.assert_allclose(whole.value, exact, rtol=1e-12)
    check_against(quadratic, np.array(exact))
    check_against(linear, np.array(exact_linear))


def test_top_k_is_the_best_of_all_binaries():
    rng = np.random.default_rng(5)
    points = lattice([0] * 7, [1] * 7)
    slope = rng.normal(size=(20, 7))
    for least, most in ((-np.inf, 3), (2, 2), (5, 9), (0, np.inf)):
        action = top_k(slope, np.zeros((20, 7)), np.ones((20, 7)), least, most)
        total = points.sum(axis=1)
        inside = points[(total >= least) & (total <= most)]
        np.testing.assert_allclose((slope * action).sum(axis=1), (slope @ inside.T).max(axis=1), rtol=1e-12)
        assert np.isin(action, (0, 1)).all()


@pytest.mark.parametrize("sums", [None, [(1.0, 2.0)], [(-2.0, -3.0)], [(1.0, 1.5), (-1.0, -0.5)]])
def test_linear_q_with_a_bound_on_the_sum_has_a_closed_form(sums, monkeypatch):
    """Also of whole numbers other than binaries, and without a solver."""
    monkeypatch.setitem(sys.modules, "highspy", None)
    box, obs = Box([-1.0, 0.0, 1.0, -2.0], [2.0, 1.0, 1.5, 0.0]), make_obs(6, 15)
    critic = make_critic(6, box, degree=1)
    rows = None if sums is None else (np.repeat([[c] for c, _ in sums], 4, 1), np.array([b for _, b in sums]))
    solution = integer_quadratic(critic, obs, box, integer=range(4), rows=rows)
    points = lattice([-1, 0, 1, -2], [2, 1, 1, 0])
    if rows is not None:
        points = points[(points @ rows[0].T <= rows[1]).all(axis=1)]
    assert (solution.status == Status.EXACT).all()
    check_against(solution, np.array([best_of(critic, row, points)[0] for row in obs]), tol=1e-9)


@pytest.mark.parametrize("rows", [None, ROWS])
def test_concave_quadratics_against_enumeration(rows):
    box, obs = Box([-3.0] * 3, [3.0] * 3), make_obs(7, 25)
    for seed in range(6):
        critic = make_critic(seed, box)
        solution = integer_quadratic(critic, obs, box, integer=range(3), rows=rows, tol=1e-4)
        exact = exhaustive(critic, obs, box, integer=range(3), rows=rows)
        check_against(solution, exact.value, tol=1e-4)
        assert (solution.action == np.round(solution.action)).all()
        np.testing.assert_allclose(solution.value, critic(obs, solution.action)[0], rtol=1e-9)


def test_binaries_need_no_concave_q():
    box = Box([0.0] * 9, [1.0] * 9)
    rows = (np.random.default_rng(0).normal(size=(3, 9)), np.full(3, 0.6))
    for seed in range(4):
        critic, obs = make_critic(seed, box, concave=False), make_obs(seed, 10)
        for given in (None, rows, (np.ones((2, 9)) * [[1.0], [-1.0]], np.array([4.0, -4.0]))):
            solution = integer_quadratic(critic, obs, box, integer=range(9), rows=given)
            check_against(solution, exhaustive(critic, obs, box, integer=range(9), rows=given).value)


@pytest.mark.parametrize("integer", [(), (0,), (0, 1)])
def test_mixed_concave_quadratics_against_slices(integer):
    """For every setting of the whole coordinates the closed form of the others; with rows, a dense grid of them."""
    box, obs = Box([-2.0, -2.0, -1.5], [2.0, 2.0, 1.5]), make_obs(8, 6)
    critic = make_critic(8, box)
    free = integer_quadratic(critic, obs, box, integer=integer, tol=1e-5)
    exact = []
    for numbers in itertools.product(range(-2, 3), repeat=len(integer)):
        # A narrow side stands for a whole number: the others are off by its width, the maximum by the square of that.
        low, high = np.array(box.low), np.array(box.high)
        low[: len(integer)], high[: len(integer)] = numbers, np.array(numbers) + 1e-6
        action = np.array(QuadraticArgmax()(critic, obs, Box(low, high)).action)
        action[:, : len(integer)] = numbers
        exact.append(critic(obs, action)[0])
    check_against(free, np.max(exact, axis=0), tol=1e-4)
    axes = [
        np.arange(-2, 3.0) if axis in integer else np.linspace(low, high, 41)
        for axis, (low, high) in enumerate(zip(box.low, box.high, strict=True))
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    points = points[(points @ ROWS[0].T <= ROWS[1]).all(axis=1)]
    held = integer_quadratic(critic, obs, box, integer=integer, rows=ROWS, tol=1e-4)
    grid = np.array([critic(np.repeat(row[None], len(points), 0), points)[0].max() for row in obs])
    assert (held.status == Status.OPTIMAL).all()
    assert (held.action @ ROWS[0].T <= ROWS[1] + 1e-8).all()
    assert (held.action[:, list(integer)] == np.round(held.action[:, list(integer)])).all()
    assert (held.upper_bound >= grid).all()
    assert (held.value <= free.upper_bound + 1e-9).all()


def test_linear_programs_over_polytopes_end_in_a_corner():
    box = Box([-1.0, -1.0], [1.0, 1.0])
    polytope = Polytope(box.low, box.high, [[1.0, 1.0], [1.0, -1.0]], [1.0, 0.5])
    critic, obs = make_critic(9, box, degree=1), make_obs(9, 10).astype(np.float32)
    corners = np.array([[-1, -1], [-1, 1], [0, 1], [0.75, 0.25], [-0.5, -1]])
    solution = integer_quadratic(critic, obs, polytope)
    exact = np.array([best_of(critic, row.astype(float), corners)[0] for row in obs])
    np.testing.assert_allclose(solution.value, exact, atol=1e-4)
    assert (solution.upper_bound >= exact - 1e-9).all()
    assert polytope.contains(solution.action, obs).all()


def test_without_time_the_interval_holds():
    box, obs = Box([0.0] * 30, [1.0] * 30), make_obs(10, 4)
    critic, rows = make_critic(10, box, concave=False), (np.random.default_rng(1).normal(size=(2, 30)), np.ones(2))
    solved = integer_quadratic(critic, obs, box, integer=range(30), rows=rows)
    stopped = integer_quadratic(critic, obs, box, integer=range(30), rows=rows, time_limit=0.0)
    assert (solved.status == Status.OPTIMAL).all() and (stopped.status == Status.TIME_LIMIT).all()
    assert (stopped.action @ rows[0].T <= rows[1]).all()
    assert (stopped.value <= solved.upper_bound).all() and (stopped.upper_bound >= solved.value).all()
    assert (stopped.upper_bound > solved.upper_bound).all()
    linear = make_critic(10, box, degree=1)
    solved, stopped = (
        integer_quadratic(linear, obs, box, integer=range(30), rows=rows, time_limit=limit) for limit in (None, 0.0)
    )
    assert (stopped.status == Status.TIME_LIMIT).all()
    assert (stopped.value <= solved.upper_bound).all() and (stopped.upper_bound >= solved.value).all()


def test_no_states_and_no_numbers():
    box = Box([0.0] * 3, [1.0] * 3)
    critic = make_critic(0, box)
    for function in (exhaustive, integer_quadratic):
        assert function(critic, np.zeros((0, OBS)), box, integer=range(3)).action.shape == (0, 3)
    nan = LinearCritic(critic.features, critic.weights * np.nan, box)
    assert (exhaustive(nan, np.zeros((2, OBS)), box, integer=range(3)).status == Status.FAILED).all()


def test_bad_input_is_one_sentence():
    box, obs = Box([0.2] * 3, [2.8] * 3), make_obs(0, 2)
    critic, linear = make_critic(0, box), make_critic(0, box, degree=1)
    both = (lambda *a, **k: exhaustive(critic, *a, **k), lambda *a, **k: integer_quadratic(critic, *a, **k))
    for function in both:
        with pytest.raises(UserError, match=r"dimension 1 is \[0.2, 0.8\], which holds no whole number"):
            function(obs, Box([0.2] * 3, [0.8] * 3), integer=[1])
        with pytest.raises(UserError, match=r"integer coordinates \[3\]"):
            function(obs, box, integer=[3])
        with pytest.raises(UserError, match="rows are a matrix"):
            function(obs, box, integer=range(3), rows=([[1.0]], [1.0]))
        with pytest.raises(UserError, match="finite numbers"):
            function(np.full((2, OBS), np.nan), box, integer=range(3))
    # a ∈ {1, 2}³: rows 0, 1 and 2 ask for Σ a ≤ 3 and Σ a ≥ 4; row 3 is satisfied.
    rows = ([[1.0, 1, 0], [0, 0, 1], [-1, -1, -1], [1, -1, 0]], [2.0, 1, -4, 1])
    for wrong in (critic, linear):
        with pytest.raises(UserError, match=r"its rows \[0, 1, 2\] conflict"):
            integer_quadratic(wrong, obs, box, integer=range(3), rows=rows)
    with pytest.raises(UserError, match=r"none of the 8 points within the bounds satisfies rows \[0, 1, 2\] together"):
        exhaustive(critic, obs, box, integer=range(3), rows=rows)
    # 4.4 ≤ Σ a ≤ 4.6 has fractions only.
    rows = ([[1.0, 1, 1], [-1, -1, -1], [1, 0, 0]], [4.6, -4.4, 2])
    for wrong in (critic, linear):
        with pytest.raises(UserError, match=r"no whole numbers .* rows \[0, 1\] together"):
            integer_quadratic(wrong, obs, box, integer=range(3), rows=rows)
    with pytest.raises(UserError, match=r"at state 1 the action set is empty"):
        exhaustive(
            critic,
            np.array([[0.0, 0.0], [0.0, -3.0]]),
            state_box(Box([-4.0] * 3, [4.0] * 3)),
            integer=range(3),
            rows=([[-1.0, 0, 0]], [-1.0]),
        )
    with pytest.raises(UserError, match=r"continuous dimensions \[0, 2\]"):
        exhaustive(critic, obs, box, integer=[1])
    with pytest.raises(UserError, match="found 8 points within the bounds, expected at most 5"):
        exhaustive(critic, obs, box, integer=range(3), most=5)
    with pytest.raises(UserError, match="combine is 'max'"):
        exhaustive(critic, obs, box, integer=range(3), combine="max")
    with pytest.raises(UserError, match="q is not concave"):
        integer_quadratic(make_critic(0, box, concave=False), obs, Box([0.0] * 3, [3.0] * 3), integer=range(3))
    with pytest.raises(UserError, match="observations of 1 and actions of 3"):
        integer_quadratic(critic, obs[:, :1], box, integer=range(3))
    with pytest.raises(UserError, match="tol is 0"):
        integer_quadratic(critic, obs, box, integer=range(3), tol=0)
    cubic = LinearCritic.start(Polynomial(3), OBS, box)
    with pytest.raises(UserError, match=r"Polynomial\(3\)"):
        integer_quadratic(cubic, obs, box, integer=range(3))
