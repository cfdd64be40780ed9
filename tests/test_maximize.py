"""Every maximizer against truth: closed forms, enumerated kinks, active sets, and SciPy's L-BFGS-B."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, minimize

from fittedq.actions.base import Box
from fittedq.actions.polytope import Polytope
from fittedq.actions.state_box import StateBox
from fittedq.approx.function import FunctionCritic
from fittedq.approx.networks import QNetwork
from fittedq.errors import UserError
from fittedq.maximize.base import (
    AbstractMaximizer,
    Chunked,
    Status,
    best,
    first_order_residual,
    solve,
)
from fittedq.maximize.base import random_starts as uncompiled_starts
from fittedq.maximize.exact.grid import Grid
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.maximize.local.cem import CrossEntropy
from fittedq.maximize.local.lbfgs import ProjectedLBFGS
from fittedq.maximize.local.reference import ScipyLBFGSB
from methods import built

# Outside of a program each of its operations would be one.
random_starts = eqx.filter_jit(uncompiled_starts)
KEY = jax.random.PRNGKey(0)
ASCENT, LBFGS, CEM, GRID, SCIPY = ProjectedAscent(), ProjectedLBFGS(), CrossEntropy(), Grid(), ScipyLBFGSB()
LOCAL, ALL = (ASCENT, LBFGS, SCIPY), (ASCENT, LBFGS, CEM, Grid(9), SCIPY)
NAMED = {"ids": lambda maximizer: type(maximizer).__name__}


class Quadratic(eqx.Module):
    """q(s, a) = −½ (a − s)ᵀ H (a − s)."""

    H: jax.Array

    def __call__(self, obs, action):
        return -0.5 * jnp.einsum("bi,ij,bj->b", action - obs, self.H, action - obs)


def found_by(maximizer: AbstractMaximizer, objective, obs, action_set, starts, key=KEY):
    critic = FunctionCritic(objective, action_set)
    if maximizer.on_host:
        return maximizer(critic, obs, action_set, starts, key)
    return solve(maximizer, critic, obs, action_set, starts, key)


def states(count: int, size: int, scale: float = 2.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-scale, scale, (count, size)).astype(np.float32)


# ---------------------------------------------------------------------- concave quadratics


@pytest.mark.parametrize("maximizer", [ASCENT, LBFGS, CEM, SCIPY], **NAMED)
def test_a_separable_quadratic_is_maximized_at_the_clipped_centre(maximizer):
    """Half-widths of 10 and 0.1 at once: steps are in half-widths."""
    box, obs = Box([-10, 0], [10, 0.2]), states(24, 2) * np.float32([8.0, 0.2])
    q = Quadratic(jnp.asarray(np.diag([0.02, 200.0]), jnp.float32))
    solution = found_by(maximizer, q, obs, box, random_starts(box, obs, 2, KEY))
    error = np.abs(solution.action - box.project(obs, obs)) / np.asarray(box.half_width)
    assert np.max(error) < (5e-2 if maximizer is CEM else 1e-2 if maximizer is ASCENT else 1e-3)


def spd(m: int, seed: int) -> jax.Array:
    root = np.random.default_rng(seed).normal(size=(m, m))
    return jnp.asarray(root @ root.T / m + 0.3 * np.eye(m), jnp.float32)


@pytest.mark.parametrize("maximizer", LOCAL, **NAMED)
def test_a_coupled_quadratic_in_a_box_satisfies_projected_kkt(maximizer):
    box, obs, H = Box([-1] * 3, [1] * 3), states(24, 3), spd(3, 1)
    solution = found_by(maximizer, Quadratic(H), obs, box, random_starts(box, obs, 1, KEY))
    action = np.asarray(solution.action)
    gradient = -(action - obs) @ np.asarray(H)
    residual = np.max(np.abs(action - box.project(action + gradient, obs)), axis=1)
    assert np.max(residual) < (2e-2 if maximizer is ASCENT else 2e-3)
    if maximizer is LBFGS:
        assert np.all(np.asarray(solution.status) == Status.CONVERGED)


@pytest.mark.parametrize("maximizer", [ASCENT, LBFGS], **NAMED)
def test_a_coupled_quadratic_in_a_polytope_against_slsqp(maximizer):
    """Unequal half-widths: a step scaled per coordinate would stop at the wrong point of a facet."""
    matrix, bound = np.array([[1.0, 0.5, 0.2], [-0.3, 1.0, 0.4]]), np.array([0.6, 0.5])
    polytope = Polytope([-1, -2, -1], [1, 2, 1], matrix, bound)
    obs, H = states(8, 3), spd(3, 2)
    starts = np.zeros((8, 1, 3), np.float32)
    solution = found_by(maximizer, Quadratic(H), obs, polytope, starts)
    for row, s in enumerate(np.asarray(obs, float)):
        exact = minimize(
            lambda a, s=s: 0.5 * (a - s) @ np.asarray(H, float) @ (a - s),
            np.zeros(3),
            bounds=list(zip(polytope.low, polytope.high, strict=True)),
            constraints=LinearConstraint(matrix, -np.inf, bound),
            method="SLSQP",
            options={"ftol": 1e-12},
        )
        assert float(solution.value[row]) == pytest.approx(-exact.fun, abs=1e-2 if maximizer is ASCENT else 1e-3)
    action = np.asarray(solution.action)
    assert np.all(polytope.contains(action, action))


def shifted_low(obs):
    return obs[..., :2] - 0.5


def shifted_high(obs):
    return obs[..., :2] + 0.5


@pytest.mark.parametrize("maximizer", [LBFGS, GRID, SCIPY], **NAMED)
def test_state_dependent_bounds_hold_per_state(maximizer):
    """q peaks at 0, so the answer is 0 clipped to [s − ½, s + ½]."""
    action_set, obs = StateBox(shifted_low, shifted_high, Box([-3, -3], [3, 3])), states(16, 2)
    solution = found_by(
        maximizer, lambda obs, a: -jnp.sum(a**2, -1), obs, action_set, random_starts(action_set, obs, 1, KEY)
    )
    expected = np.clip(0, obs - 0.5, obs + 0.5)
    np.testing.assert_allclose(solution.action, expected, atol=2e-2 if maximizer is GRID else 1e-3)


# ---------------------------------------------------------------------- kinks and peaks


def relu_line(seed: int) -> tuple[QNetwork, Box]:
    box = Box([-2], [3])
    return built(QNetwork, 1, box, (16,), jax.random.PRNGKey(seed)), box


@jax.jit
def first_value(critic, obs, action):
    return critic(obs, action)[0]


@pytest.mark.parametrize("maximizer", [ASCENT, LBFGS, CEM], **NAMED)
def test_a_relu_network_of_one_action_is_maximized_at_a_breakpoint(maximizer):
    """q(s, ·) is piecewise linear: its maximum lies where a unit switches, or at an end."""
    critic, box = relu_line(3)
    obs = states(16, 1)
    weight, bias = np.asarray(critic.net.weights[0][0], float), np.asarray(critic.net.biases[0][0, 0], float)
    kinks = -(np.asarray(obs, float) @ weight[:1] + bias) / weight[1] * 2.5 + 0.5
    candidates = np.concatenate([np.clip(kinks, -2, 3), np.tile([-2.0, 3.0], (16, 1))], axis=1).astype(np.float32)
    values = np.asarray(first_value(critic, np.repeat(obs, candidates.shape[1], 0), candidates.reshape(-1, 1)))
    exact = np.max(values.reshape(candidates.shape), axis=1)
    q = jax.tree_util.Partial(first_value, critic)
    solution = found_by(maximizer, q, obs, box, random_starts(box, obs, 8, KEY))
    spread = np.max(exact) - np.min(values)
    assert np.max(np.abs(exact - solution.value)) < 5e-3 * spread


@pytest.mark.parametrize("maximizer", ALL, **NAMED)
def test_of_two_peaks_the_higher_is_found_from_starts_on_both_sides(maximizer):
    """q = −(a² − 1)² + 0.1 s a has its peaks near ±1, the higher on the side of s; one start may see the lower."""
    box, obs = Box([-2], [2]), np.float32([[1.0], [-1.0]])

    def q(obs, a):
        return (-((a**2 - 1) ** 2) + 0.1 * obs * a)[:, 0]

    starts = np.tile(np.float32([[[-1.2], [1.2]]]), (2, 1, 1))
    solution = found_by(maximizer, q, obs, box, starts)
    peak = max(np.roots([-4, 0, 4, 0.1]).real)
    assert np.asarray(solution.action)[:, 0] == pytest.approx(
        [peak, -peak], abs=0.25 if type(maximizer) is Grid else 0.03
    )
    if maximizer is SCIPY:
        lower = found_by(maximizer, q, obs, box, np.full((2, 2, 1), -1.05, np.float32))
        assert float(np.asarray(lower.action)[0, 0]) == pytest.approx(min(np.roots([-4, 0, 4, 0.1]).real), abs=0.03)


@pytest.mark.slow
def test_random_relu_critics_are_maximized_as_well_as_by_scipy():
    box = Box([-1] * 3, [1] * 3)
    obs = states(8, 4, 1.0)
    starts = random_starts(box, obs, 2, KEY)
    mean = dict.fromkeys((ASCENT, LBFGS, SCIPY), 0.0)
    for seed in range(2):
        q = jax.tree_util.Partial(first_value, QNetwork(4, box, (32, 32), jax.random.PRNGKey(seed)))
        for maximizer in mean:
            mean[maximizer] += float(np.mean(found_by(maximizer, q, obs, box, starts).value))
    assert min(mean[ASCENT], mean[LBFGS]) >= mean[SCIPY] - 1e-3


# ---------------------------------------------------------------------- the contract


POLYTOPE = Polytope([-1, -1], [1, 1], [[1, 1], [1, -2]], [0.5, 1])
STATE_BOX = StateBox(shifted_low, shifted_high, Box([-1, -1], [1, 1]))
SETS = (Box([-1, -1], [1, 1]), STATE_BOX, POLYTOPE)


class Waves(eqx.Module):
    """A rough function that is not a number on part of the set."""

    frequency: jax.Array
    hole: jax.Array

    def __call__(self, obs, action):
        value = jnp.sum(jnp.sin(action @ self.frequency), -1) + jnp.sum(obs * action, -1)
        return jnp.where(action[:, 0] > self.hole, jnp.nan, value)


@jax.jit
def value_of(q: Waves, obs, action):
    return q(obs, action)


QUICK = ProjectedLBFGS(steps=12, memory=2)
CONTRACT = (
    (ASCENT, POLYTOPE),
    (QUICK, STATE_BOX),
    (QUICK, POLYTOPE),
    (CrossEntropy(8, 3, 4), STATE_BOX),
    (Grid(5), POLYTOPE),
)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(CONTRACT), st.integers(0, 10**6), st.floats(0.5, 2, width=32))
def test_a_solution_is_feasible_and_never_below_a_start(pair, seed, hole):
    maximizer, action_set = pair
    rng = np.random.default_rng(seed)
    q = Waves(jnp.asarray(rng.normal(size=(2, 3)) * 3, jnp.float32), jnp.asarray(hole))
    obs = rng.uniform(-0.4, 0.4, (5, 2)).astype(np.float32)
    starts = (2 * rng.normal(size=(5, 3, 2))).astype(np.float32)
    solution = found_by(maximizer, q, obs, action_set, starts, KEY)
    action = np.asarray(solution.action)
    np.testing.assert_allclose(action_set.project(action, obs), action, atol=1e-6)
    for start in range(3):
        value = np.asarray(value_of(q, obs, action_set.project(starts[:, start], obs)))
        assert np.all((np.asarray(solution.value) >= value - 1e-5) | np.isnan(value))
    np.testing.assert_allclose(solution.value, value_of(q, obs, action), atol=1e-4)
    assert solution.action.dtype == solution.value.dtype == jnp.float32
    assert solution.status.dtype == jnp.int32
    assert solution.upper_bound is None


@pytest.mark.parametrize("maximizer", ALL, **NAMED)
def test_what_is_not_a_number_is_not_an_answer(maximizer):
    """A network of `where(x > 0, x, 0)` maps a NaN action to a finite value, so a NaN start must not be tried."""
    box, obs = Box([-1, -1], [1, 1]), np.float32([[0, 0], [0, 0], [1, 0], [1, 0]])
    starts = np.float32([[[np.nan] * 2]] * 2 + [[[0, 0]]] * 2)

    def q(obs, a):
        """In the last two states it is no number anywhere."""
        return jnp.where(obs[:, 0] > 0, jnp.nan * a[:, 0], jnp.where(a[:, 0] > -2, -jnp.sum(a**2, -1), 9.0))

    solution = found_by(maximizer, q, obs, box, starts)
    action, value, status = (np.asarray(found) for found in (solution.action, solution.value, solution.status))
    assert np.all(np.isfinite(action)) and np.all(value[:2] <= 0)
    assert np.all(status[:2] != Status.FAILED) and np.all(status[2:] == Status.FAILED)


def test_the_best_candidate_wins_per_state_and_nan_never_does():
    action = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    value = np.float32([[1.0, np.nan, 3.0], [-np.inf, np.nan, -np.inf]])
    solution = jax.jit(best)(action, value, np.array([[0, 1, 2], [0, 1, 2]]))
    np.testing.assert_array_equal(solution.action, action[[0, 1], [2, 0]])
    np.testing.assert_array_equal(solution.value, [3, -jnp.inf])
    np.testing.assert_array_equal(solution.status, [2, 0])


def test_chunks_change_nothing():
    box, obs = Box([-1, -1], [1, 1]), states(11, 2)
    starts = random_starts(box, obs, 2, KEY)
    round_hill = Quadratic(jnp.asarray(np.eye(2), jnp.float32))
    whole = found_by(QUICK, round_hill, obs, box, starts, KEY)
    for rows in (4, 100):
        parts = found_by(Chunked(QUICK, rows), round_hill, obs, box, starts, KEY)
        np.testing.assert_allclose(parts.action, whole.action, atol=1e-5)
        np.testing.assert_array_equal(parts.status, whole.status)


def test_another_critic_of_the_same_shapes_compiles_nothing_new():
    traces = []

    def counted(H, obs, action):
        traces.append(1)
        return Quadratic(H)(obs, action)

    box, obs = Box([-1, -1], [1, 1]), states(4, 2)
    for scale in (1.0, 2.0, 3.0):
        q = jax.tree_util.Partial(counted, jnp.asarray(scale * np.eye(2), jnp.float32))
        starts = random_starts(box, obs, 1, KEY)
        found_by(QUICK, q, obs + np.float32(scale), box, starts, jax.random.PRNGKey(int(scale)))
        traced = len(traces) if scale == 1.0 else traced
    assert len(traces) == traced > 0


@pytest.mark.parametrize("action_set", SETS, ids=lambda action_set: type(action_set).__name__)
def test_random_starts_are_feasible_spread_and_repeatable(action_set):
    obs = states(64, 2, 0.4)
    starts = random_starts(action_set, obs, 5, KEY)
    assert starts.shape == (64, 5, 2)
    np.testing.assert_array_equal(starts, random_starts(action_set, obs, 5, KEY))
    flat = np.asarray(starts).reshape(-1, 2)
    np.testing.assert_allclose(action_set.project(flat, np.repeat(obs, 5, axis=0)), flat, atol=1e-6)
    assert np.min(np.std(flat, axis=0)) > 0.3


def test_bad_settings_are_refused_with_a_sentence():
    box, obs = Box([-1] * 6, [1] * 6), jnp.zeros((2, 1))
    with pytest.raises(UserError, match="at most 1e\\+06; lower points"):
        found_by(Grid(33), lambda obs, a: a[:, 0], obs, box, jnp.zeros((2, 1, 6)))
    with pytest.raises(UserError, match="at least 2"):
        Grid(1)
    with pytest.raises(UserError, match="lower elites"):
        CrossEntropy(population=4, elites=8)
    with pytest.raises(UserError, match="no starts"):
        found_by(LBFGS, lambda obs, a: a[:, 0], obs, box, jnp.zeros((2, 0, 6)))
    with pytest.raises(UserError, match="rows is 0"):
        Chunked(LBFGS, 0)
    with pytest.raises(UserError, match="expected a box; use ProjectedLBFGS"):
        found_by(SCIPY, lambda obs, a: a[:, 0], jnp.zeros((1, 2)), POLYTOPE, jnp.zeros((1, 1, 2)))


def test_the_first_order_residual_is_in_half_widths():
    """D = 2, ∇q = .1: Π(0 + D² ∇q) = .4 is .2 half-widths away; at 1.9 the bound leaves .05 of them."""
    box = Box([-2.0], [2.0])
    obs, gradient, scale = np.zeros((2, 1), np.float32), np.full((2, 1), 0.1), np.full((2, 1), 2.0)
    found = eqx.filter_jit(first_order_residual)(np.float32([[0.0], [1.9]]), gradient, scale, box, obs)
    np.testing.assert_allclose(found, [0.2, 0.05], atol=1e-6)


def test_curvature_is_remembered_where_the_gradient_alone_would_crawl():
    """Curvatures 1 to 1000: thirty steps end at the maximum, as steepest ascent would not (it is .4 away)."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    quadratic = Quadratic(jnp.asarray(axes @ np.diag([1, 10, 100, 1000.0]) @ axes.T, jnp.float32))
    obs = states(8, 4, 0.5)
    solution = found_by(
        ProjectedLBFGS(steps=30), quadratic, obs, Box([-1.0] * 4, [1.0] * 4), np.zeros((8, 1, 4), np.float32)
    )
    np.testing.assert_allclose(solution.action, obs, atol=1e-2)
