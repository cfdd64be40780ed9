"""Linear approximators and the closed-form argmax: Riccati iterates, normal equations, dense grids and KKT."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from fittedq.actions.base import Box
from fittedq.actions.polytope import Polytope
from fittedq.approx import linear
from fittedq.approx.host import host_view
from fittedq.approx.linear import Custom, LinearCritic, Polynomial, RadialBasis
from fittedq.errors import UserError
from fittedq.maximize.base import Status
from fittedq.maximize.exact.quadratic import QuadraticArgmax, quadratic_form
from fittedq.problems.lqr import LinearQuadratic

RNG = np.random.default_rng


def pairs(size: int, obs_size: int, action_size: int, seed: int = 0):
    rng = RNG(seed)
    return rng.uniform(-1, 1, (size, obs_size)), rng.uniform(-1, 1, (size, action_size))


# ---------------------------------------------------------------------- fitted Q-iteration on a linear problem


def iterates(problem: LQR, critic: LinearCritic, count: int):
    """Explicit FQI from q_0 = 0: q_{n+1} fitted to r + γ max_a q_n(s', a)."""
    obs, action = pairs(60, problem.A.shape[0], problem.B.shape[1])
    reward = -np.einsum("bi,ij,bj->b", obs, problem.Q, obs) - np.einsum("bi,ij,bj->b", action, problem.R, action)
    next_obs = obs @ problem.A.T + action @ problem.B.T
    for _ in range(count):
        solution = QuadraticArgmax()(critic, next_obs, critic.action_set)
        assert (solution.status == Status.EXACT).all()
        critic = critic.fit((obs, action), reward + problem.gamma * solution.value)
        yield critic


@pytest.mark.parametrize("lowest", [0, 2])
def test_g1_fqi_repeats_the_riccati_iterates(lowest):
    problem, box = LinearQuadratic.scalar(noise=0.0), Box([-50], [50])
    start = LinearCritic.start(Polynomial(2, lowest=lowest), 1, box, np.float64)
    found = []
    for critic in iterates(problem, start, 12):
        solution = QuadraticArgmax()(critic, np.ones((1, 1)), box)
        found.append(-solution.value.item())
    P, exact = np.zeros((1, 1)), []
    for _ in range(12):
        P = problem.riccati(P)
        exact.append(P.item())
    assert found == pytest.approx(exact, abs=1e-9)
    assert found[:4] == pytest.approx([1, 1.473684, 1.570136, 1.585599], abs=1e-6)
    if lowest == 2:
        assert start.weights.shape == (1, 3)  # s², sa, a²


def test_g1_fqi_repeats_the_riccati_iterates_with_two_states_and_two_actions():
    problem = LinearQuadratic(
        A=np.array([[1.0, 0.3], [-0.2, 0.9]]),
        B=np.array([[0.5, 0.1], [0.2, 1.0]]),
        Q=np.array([[1.0, 0.2], [0.2, 0.5]]),
        R=np.array([[0.4, 0.1], [0.1, 0.8]]),
        W=np.zeros((2, 2)),
        gamma=0.9,
    )
    box = Box([-50, -50], [50, 50])
    P, obs = np.zeros((2, 2)), pairs(30, 2, 2, seed=1)[0]
    for critic in iterates(problem, LinearCritic.start(Polynomial(2), 2, box, np.float64), 8):
        H, P = problem.q_matrix(P), problem.riccati(P)
        form = quadratic_form(critic, obs)
        assert form.curvature == pytest.approx(-2 * H[2:, 2:], abs=1e-9)
        assert form.slope == pytest.approx(-2 * obs @ H[:2, 2:], abs=1e-9)
        assert form.constant == pytest.approx(-np.einsum("bi,ij,bj->b", obs, H[:2, :2], obs), abs=1e-9)
        solution = QuadraticArgmax()(critic, obs, box)
        gain = np.linalg.solve(H[2:, 2:], H[2:, :2])
        assert solution.action == pytest.approx(-obs @ gain.T, abs=1e-9)
        assert solution.value == pytest.approx(-np.einsum("bi,ij,bj->b", obs, P, obs), abs=1e-9)


# ---------------------------------------------------------------------- features


def test_polynomial_features_are_the_monomials():
    obs, action = pairs(5, 2, 1)
    s, t, a = obs[:, 0], obs[:, 1], action[:, 0]
    one = np.ones(5)
    expected = [one, s, t, a, s * s, s * t, s * a, t * t, t * a, a * a]
    assert np.array_equal(Polynomial(2)(obs, action), np.stack(expected, axis=1))
    cubic = Polynomial(3, lowest=3)
    assert len(cubic.monomials(3)) == 10
    x = np.concatenate([obs, action], axis=1)
    assert cubic(obs, action) == pytest.approx(
        np.stack([x[:, term].prod(axis=1) for term in cubic.monomials(3)], axis=1)
    )
    assert Polynomial(0)(obs, action).tolist() == [[1.0]] * 5


def test_radial_features_are_gaussians_around_rows_of_the_data():
    inputs = pairs(50, 2, 1)
    x = np.concatenate(inputs, axis=1)
    basis = RadialBasis.from_data(inputs, 6, seed=1, scale=0.5)
    assert all((x == center).all(axis=1).any() for center in basis.centers)
    assert len(np.unique(basis.centers, axis=0)) == 6
    assert basis.width == pytest.approx(x.std(axis=0) / 2)
    distance = ((x[:, None] - basis.centers) / basis.width) ** 2
    assert basis(*inputs)[:, 0].tolist() == [1.0] * 50
    assert basis(*inputs)[:, 1:] == pytest.approx(np.exp(-distance.sum(axis=2) / 2), abs=1e-12)
    assert np.array_equal(basis.centers, RadialBasis.from_data(inputs, 6, seed=1).centers)
    assert not np.array_equal(basis.centers, RadialBasis.from_data(inputs, 6, seed=2).centers)
    constant = RadialBasis.from_data((np.ones((9, 1)), inputs[1][:9]), 2)
    assert np.isfinite(constant(np.ones((9, 1)), inputs[1][:9])).all()


def test_every_feature_map_evaluates_alike_in_numpy_jax_and_on_the_host():
    inputs = tuple(part.astype(np.float32) for part in pairs(30, 2, 1))
    y = np.sin(inputs[0][:, 0]) * inputs[1][:, 0]
    maps = [Polynomial(3), RadialBasis.from_data(inputs, 8), Custom(lambda obs, action: obs * action)]
    for features in maps:
        critic = LinearCritic.start(features, 2, Box([-1], [1])).fit(inputs, y)
        q = critic(*inputs)
        assert q.shape == (1, 30)
        assert q.dtype == critic.weights.dtype == np.float32
        assert host_view(critic)(*inputs) == pytest.approx(q)
        compiled = jax.jit(lambda critic, obs, action: critic(obs, action))(critic, *inputs)
        assert np.asarray(compiled) == pytest.approx(q, abs=2e-5)
        assert critic.subset(slice(0, 1))(*inputs) == pytest.approx(q)


# ---------------------------------------------------------------------- least squares


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_the_fit_solves_the_normal_equations(ridge, monkeypatch):
    monkeypatch.setattr(linear, "BLOCK_ENTRIES", 150)  # many blocks of rows
    inputs = pairs(200, 2, 1)
    y = RNG(1).normal(size=200)
    critic = LinearCritic.start(Polynomial(2), 2, Box([-1], [1]), np.float64).fit(inputs, y, ridge)
    features = Polynomial(2)(*inputs)
    theta = np.linalg.solve(features.T @ features + ridge * np.eye(10), features.T @ y)
    assert critic.weights[0] == pytest.approx(theta, abs=1e-10)
    assert critic(*inputs)[0] == pytest.approx(features @ theta, abs=1e-10)


def test_the_fit_is_exact_where_normal_equations_are_not():
    # Coordinates near 1000, of spread 1e-2 and units apart by 1e6: the normal matrix has condition number over 1e30.
    obs, action = pairs(300, 1, 1)
    obs, action = 1000 + 1e-2 * obs, 1e6 * action
    theta = np.array([3.0, -2.0, 1e-6])
    features = Custom(lambda obs, action: np.concatenate([np.ones_like(obs), obs - 990, action], axis=1))
    y = features(obs, action) @ theta
    critic = LinearCritic.start(features, 1, Box([-1], [1]), np.float64).fit((obs, action), y)
    assert critic.weights[0] == pytest.approx(theta, rel=1e-9)


def test_redundant_features_get_the_shortest_weights_and_few_rows_suffice():
    obs, action = pairs(50, 1, 1)
    twice = Custom(lambda obs, action: np.concatenate([obs, obs, action], axis=1))
    critic = LinearCritic.start(twice, 1, Box([-1], [1]), np.float64).fit((obs, action), 3 * obs[:, 0])
    assert critic.weights[0] == pytest.approx([1.5, 1.5, 0], abs=1e-12)
    one = LinearCritic.start(Polynomial(2), 1, Box([-1], [1]), np.float64).fit((obs[:1], action[:1]), np.array([2.0]))
    assert one(obs[:1], action[:1]) == pytest.approx(2.0)


def test_what_cannot_be_fitted_is_refused():
    obs, action = pairs(20, 1, 1)
    critic = LinearCritic.start(Polynomial(1), 1, Box([-1], [1]), np.float64)
    y = np.zeros(20)
    with pytest.raises(UserError, match="row 7"):
        critic.fit((obs, action), np.where(np.arange(20) == 7, np.inf, y))
    with pytest.raises(UserError, match="no rows"):
        critic.fit((obs[:0], action[:0]), y[:0])
    with pytest.raises(UserError, match="ridge"):
        critic.fit((obs, action), y, ridge=-1.0)
    with pytest.raises(UserError, match="degrees"):
        Polynomial(1, lowest=2)
    with pytest.raises(UserError, match="centers"):
        RadialBasis.from_data((obs, action), 21)
    with pytest.raises(UserError, match="scale"):
        RadialBasis.from_data((obs, action), 2, scale=0.0)


@pytest.mark.annotations
def test_rows_that_do_not_match_are_refused():
    obs, action, y = np.zeros((20, 1)), np.zeros((20, 1)), np.zeros(20)
    critic = LinearCritic.start(Polynomial(1), 1, Box([-1], [1]), np.float64)
    with pytest.raises(TypeCheckError):
        critic.fit((obs, action), y[:-1])


# ---------------------------------------------------------------------- the argmax in a box


def quadratic_critic(size: int, curvature: np.ndarray, box, seed: int = 0, spread: float = 2.0) -> LinearCritic:
    """One of two states with the given curvature; everything else is random."""
    features, rng = Polynomial(2), RNG(seed)
    weights = spread * rng.normal(size=(1, len(features.monomials(2 + size))))
    for index, term in enumerate(features.monomials(2 + size)):
        if len(term) == 2 and min(term) >= 2:
            i, j = term[0] - 2, term[1] - 2
            weights[0, index] = curvature[i, j] / 2 if i == j else curvature[i, j]
    return LinearCritic(features, weights, box)


def random_curvature(size: int, signs: str, seed: int) -> np.ndarray:
    rng = RNG(seed)
    rotation = np.linalg.qr(rng.normal(size=(size, size)))[0]
    eigenvalue = rng.uniform(0.5, 3, size) * {"concave": -1, "convex": 1, "saddle": rng.choice([-1, 1], size)}[signs]
    if signs == "saddle":
        eigenvalue[0] = abs(eigenvalue[0])
    return rotation @ np.diag(eigenvalue) @ rotation.T


def kkt_residual(form, action, low, high) -> np.ndarray:
    """‖a − Π(a + ∇q)‖_∞, zero at a constrained maximum of a concave q."""
    gradient = form.gradient(np.asarray(action)[:, None])[:, 0]
    return np.abs(action - np.clip(action + gradient, low, high)).max(axis=1)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_a_concave_quadratic_meets_the_kkt_conditions_and_its_bound(size):
    box = Box(-np.linspace(0.3, 1, size), np.linspace(0.2, 1.5, size))
    critic = quadratic_critic(size, random_curvature(size, "concave", size), box, seed=size)
    obs = RNG(9).normal(size=(200, 2))
    solution, form = QuadraticArgmax()(critic, obs, box), quadratic_form(critic, obs)
    low, high = np.array(box.low), np.array(box.high)
    assert ((solution.action >= low) & (solution.action <= high)).all()
    assert kkt_residual(form, solution.action, low, high) == pytest.approx(np.zeros(200), abs=1e-9)
    assert (solution.status == Status.EXACT).all()
    assert np.array_equal(solution.value, critic(obs, solution.action)[0])
    assert (solution.upper_bound >= solution.value).all()
    assert solution.upper_bound == pytest.approx(solution.value, abs=1e-9)
    active = (solution.action == low) | (solution.action == high)
    assert active.any()
    assert not active.all()


@pytest.mark.parametrize("signs", ["concave", "convex", "saddle", "flat", "one direction"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_up_to_four_actions_no_point_of_a_dense_grid_is_better(signs, size):
    box = Box([-1.0, -0.5, -2.0][:size], [0.5, 2.0, 1.0][:size])
    if signs == "flat":
        curvature = np.zeros((size, size))
    elif signs == "one direction":
        curvature = -np.ones((size, size))
    else:
        curvature = random_curvature(size, signs, seed=size)
    critic = quadratic_critic(size, curvature, box, seed=3)
    obs = RNG(4).normal(size=(25, 2))
    solution = QuadraticArgmax()(critic, obs, box)
    points = {1: 2001, 2: 81, 3: 25}[size]
    axes = [np.linspace(low, high, points) for low, high in zip(box.low, box.high, strict=True)]
    grid = np.array(list(itertools.product(*axes)))
    on_grid = np.stack([critic(np.repeat(row[None], len(grid), axis=0), grid)[0].max() for row in obs])
    assert (on_grid <= solution.upper_bound).all()
    assert (on_grid <= solution.value + 1e-9).all()
    # Half a cell from the nearest point: the gradient there is at most 40 or so.
    assert solution.value == pytest.approx(on_grid, abs=40 * 3 / points)
    assert (solution.status == Status.EXACT).all()


def test_a_flat_q_reaches_the_value_and_the_bound_of_its_constant():
    box = Box([-1, -1], [1, 1])
    solution = QuadraticArgmax()(LinearCritic.start(Polynomial(2), 1, box, np.float64), np.ones((3, 1)), box)
    assert solution.value.tolist() == solution.upper_bound.tolist() == [0.0] * 3
    assert (solution.status == Status.EXACT).all()


def test_above_four_actions_only_a_concave_q_is_claimed_solved():
    box = Box([-1] * 6, [1] * 6)
    critic = quadratic_critic(6, random_curvature(6, "saddle", 0), box)
    obs = RNG(5).normal(size=(4, 2))
    solution = QuadraticArgmax()(critic, obs, box)
    assert (solution.status == Status.ITERATION_LIMIT).all()
    assert np.isposinf(solution.upper_bound).all()
    assert np.array_equal(solution.value, critic(obs, solution.action)[0])


def test_ill_conditioned_quadratics_are_solved_or_bounded():
    size, box = 8, Box([-1] * 8, [1] * 8)
    rotation = np.linalg.qr(RNG(7).normal(size=(size, size)))[0]
    critic = quadratic_critic(size, rotation @ np.diag(-np.logspace(-4, 2, size)) @ rotation.T, box, seed=8)
    obs = RNG(6).normal(size=(300, 2))
    solution, form = QuadraticArgmax()(critic, obs, box), quadratic_form(critic, obs)
    solved = solution.status == Status.EXACT
    assert solved.mean() > 0.95
    assert kkt_residual(form, solution.action, -1.0, 1.0)[solved] == pytest.approx(0, abs=1e-5)
    corners = RNG(1).uniform(-1, 1, (300, 400, size))
    assert (form.value(corners).max(axis=1) <= solution.upper_bound).all()


@pytest.mark.parametrize("size", [2, 6])
def test_jax_in_float32_agrees_with_numpy_in_float64(size):
    box = Box([-1] * size, [1] * size)
    critic = quadratic_critic(size, random_curvature(size, "concave", 1), box, spread=1.0)
    obs = RNG(2).normal(size=(50, 2))
    exact = QuadraticArgmax()(critic, obs, box)
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), critic)
    solution = jax.jit(lambda critic, obs: QuadraticArgmax()(critic, obs, box))(single, jnp.asarray(obs, jnp.float32))
    assert np.asarray(solution.action) == pytest.approx(exact.action, abs=1e-4)
    assert np.asarray(solution.value) == pytest.approx(exact.value, abs=1e-4)
    assert (np.asarray(solution.upper_bound) >= exact.value - 1e-6).all()
    assert (np.asarray(solution.status) == Status.EXACT).all()


def test_in_a_polytope_the_bound_of_its_box_holds_and_no_cut_point_is_called_exact():
    polytope = Polytope([-1, -1], [1, 1], [[1, 1]], [0.5])
    critic = quadratic_critic(2, -np.eye(2), polytope, spread=3.0)
    obs = RNG(3).normal(size=(40, 2)).astype(np.float32)
    solution = QuadraticArgmax()(critic, obs, polytope)
    inside = np.asarray(solution.action).sum(axis=1) <= 0.5 + 1e-5
    assert inside.all()
    exact = np.asarray(solution.status) == Status.EXACT
    boxed = QuadraticArgmax()(critic, obs, Box([-1, -1], [1, 1]))
    cut = boxed.action.sum(axis=1) > 0.51
    assert cut.any()
    assert not exact[cut].any()
    assert (np.asarray(solution.upper_bound) >= np.asarray(solution.value)).all()


def test_other_features_and_ensembles_are_refused():
    box = Box([-1], [1])
    obs = np.zeros((1, 1), np.float32)
    with pytest.raises(UserError, match=r"Polynomial\(3\)"):
        QuadraticArgmax()(LinearCritic.start(Polynomial(3), 1, box), obs, box)
    with pytest.raises(UserError, match="RadialBasis"):
        QuadraticArgmax()(LinearCritic.start(RadialBasis.from_data((obs, obs), 1), 1, box), obs, box)
    with pytest.raises(UserError, match="2 critics"):
        QuadraticArgmax()(LinearCritic(Polynomial(1), np.zeros((2, 3), np.float32), box), obs, box)
