"""Actions in single precision never leave a set whose ends are in double: in the set's own check, in real numbers, and
out of every solver that proves its answer."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.limits import Limits, narrowed
from fittedq.actions.mixed import Mixed
from fittedq.actions.polytope import Polytope
from fittedq.actions.state_box import StateBox
from fittedq.approx.function import FunctionCritic
from fittedq.approx.linear import LinearCritic, Polynomial
from fittedq.approx.trees import Forest, TreeCritic
from fittedq.arrays import inwards, namespace
from fittedq.maximize.exact.integer import exhaustive, integer_quadratic
from fittedq.maximize.exact.milp import milp
from fittedq.maximize.exact.quadratic import QuadraticArgmax
from fittedq.maximize.exact.sweep import TreeSweep
from fittedq.maximize.exact.trees import TreeArgmax
from fittedq.maximize.local.refine import refined
from fittedq.maximize.proofs.certified import certified

M, ROWS = 3, 16


@st.composite
def ends(draw: st.DrawFn, apart: float = 30) -> tuple[np.ndarray, np.ndarray]:
    """A box of any scale, its coordinates up to 10^`apart` from it, anywhere; it holds numbers of single precision."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    half = 10 ** (draw(st.floats(apart - 30, 30 - apart)) + rng.uniform(-apart, apart, M))
    center = half * rng.normal(size=M) * 10 ** rng.uniform(-3, 3)
    return center - half, center + half


class Constant:
    """A bound in double precision, for every state."""

    def __init__(self, bound: np.ndarray):
        self.bound = bound

    def __call__(self, obs):
        return np.zeros((*obs.shape[:-1], 1)) + self.bound


def around(low: np.ndarray, high: np.ndarray, seed: int) -> np.ndarray:
    """Actions of which every coordinate is outside half of the time."""
    return (low + high) / 2 + (high - low) * np.random.default_rng(seed).uniform(-1, 1, (ROWS, M))


def check(action_set: AbstractActionSet, low: np.ndarray, high: np.ndarray, compiled: bool = True) -> None:
    obs = np.zeros((ROWS, 2), np.float32)
    for dtype in (np.float32, np.float64):
        action = around(low, high, 0).astype(dtype)
        projected = action_set.project(action, obs)
        assert projected.dtype == dtype
        assert action_set.contains(projected, obs).all()
        assert ((low <= projected.astype(float)) & (projected.astype(float) <= high)).all()
    if compiled:
        on_device = np.asarray(action_set.project(jnp.asarray(around(low, high, 1), jnp.float32), jnp.asarray(obs)))
        assert action_set.contains(on_device, obs).all()


@settings(max_examples=40, deadline=None)
@given(ends())
def test_a_box_and_a_state_box_of_any_scale_hold_what_they_project(bounds):
    low, high = bounds
    box = Box(low, high)
    check(box, low, high)
    middle = (low + high) / 2
    # Its functions are in double precision, which compiled code does not have.
    check(StateBox(Constant(low), Constant(middle), box), low, middle, compiled=False)


@settings(max_examples=40, deadline=None)
@given(ends())
def test_whole_coordinates_of_any_bounds_hold_what_they_project(bounds):
    low, high = bounds
    low[0], high[0] = -2.4, 0.99999999999  # 1 is not in it, though single precision says so
    box = Box(low, high)
    assert {setting[0] for setting in Mixed(box, (0,)).settings} == {-2.0, -1.0, 0.0}
    check(Mixed(box, (0,)), low, high)
    check(Mixed(StateBox(Constant(low), Constant(high), box), (0,)), low, high, compiled=False)


@settings(max_examples=25, deadline=None)
@given(ends(apart=4), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_a_polytope_of_any_scale_holds_what_it_projects(bounds, seed, rows):
    """The rows hold in double precision for actions in single, not only as single precision computes them."""
    low, high = bounds
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, M)) / (high - low)
    bound = matrix @ (low + high) / 2 + rng.uniform(0.05, 0.5, rows)
    polytope = Polytope(low, high, matrix, bound)
    check(polytope, low, high, compiled=False)
    action = around(low, high, 2).astype(np.float32)
    assert (polytope.project(action, action).astype(float) @ matrix.T <= bound).all()


def test_rows_are_tested_in_double_precision_on_the_host():
    """a0 + a1 ≤ 1 + 1e-9: single precision rounds the sum 1 + 6e-8 down to 1."""
    polytope = Polytope([-2.0, -2.0], [2.0, 2.0], [[1.0, 1.0]], [1 + 1e-9])
    over = np.array([[1.0, 2.0**-24]], np.float32)
    assert np.float32(1) + over[0, 1] == 1
    assert not polytope.contains(over, over).any()
    assert polytope.contains(polytope.project(over, over), over).all()


def test_an_end_goes_to_the_next_number_inside():
    low, high = inwards(np.array([0.1, 0.5, -0.1]), np.array([0.3, 0.75, 0.1]), np.float32)
    assert low.dtype == high.dtype == np.float32
    assert (low.astype(float) >= [0.1, 0.5, -0.1]).all() and (high.astype(float) <= [0.3, 0.75, 0.1]).all()
    assert (np.nextafter(low, np.float32(-9)).astype(float) < [0.1, 0.5, -0.1]).all()
    assert (np.nextafter(high, np.float32(9)).astype(float) > [0.3, 0.75, 0.1]).all()
    # Nothing of single precision lies between: one point, the same from every side.
    low, high = inwards(np.array([0.1]), np.array([0.1]), np.float32)
    assert low == high == np.nextafter(np.float32(0.1), np.float32(0)) or low == high == np.float32(0.1)
    point = StateBox(Constant(np.array([0.1])), Constant(np.array([0.1])), Box([-1.0], [1.0]))
    action = np.array([[0.7]], np.float32)
    assert point.contains(point.project(action, action), action).all()


def test_where_a_state_leaves_no_whole_number_the_one_action_is_still_an_action():
    for outer, expected in ((1.0, 1.0), (0.5, 0.0)):
        action_set = Mixed(StateBox(Constant(np.array([0.2])), Constant(np.array([0.4])), Box([-1.0], [outer])), (0,))
        action = np.array([[-1.0], [0.3]], np.float32)
        projected = action_set.project(action, action)
        np.testing.assert_array_equal(projected, [[expected]] * 2)
        assert action_set.contains(projected, action).all()


def test_a_set_written_in_the_units_of_the_environment_fits_its_box():
    """The environment says 0.7 in single precision, which is less than 0.7; the user says 0.7."""
    box = Box(np.array([-0.7], np.float32), np.array([0.7], np.float32))
    assert narrowed(box, Box([-0.7], [0.7]), "env").high == (0.7,)
    assert narrowed(box, Limits(integer=(0,)), "env").integer == (0,)


# ---------------------------------------------------------------------- solvers: the maximum is at an end


def upwards(low: list[float], high: list[float]) -> list[tuple[AbstractActionSet, np.ndarray, np.ndarray]]:
    """Sets whose ends no single-precision number hits: 0.1 rounds up, −0.7 down."""
    box, ends = Box(low, high), (np.array(low), np.array(high))
    inner = StateBox(Constant(ends[0]), Constant(ends[1]), Box([-5.0] * len(low), [5.0] * len(high)))
    return [(box, *ends), (inner, *ends)]


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_a_proven_action_is_in_its_set(precision):
    obs = np.zeros((2, 1), precision)
    layers = [(np.array([[0.0, 0], [1, 0], [0, -1]]), np.zeros(2) + 9), (np.ones((2, 1)), np.zeros(1))]
    layers = [(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers]
    tried = 0
    for action_set, low, high in upwards([-0.7, -0.7], [0.1, 0.1]):
        corner = np.array([0.1, -0.7])
        linear = LinearCritic.start(Polynomial(1), 1, action_set, np.float32)
        concave = LinearCritic.start(Polynomial(2), 1, action_set, np.float32)
        names = concave.features.monomials(3)
        weights = np.array(
            [{(1,): 1.0, (2,): -1.0, (1, 1): -0.1, (2, 2): -0.1}.get(tuple(term), 0.0) for term in names], np.float32
        )
        concave = LinearCritic(concave.features, weights[None], action_set)
        linear = LinearCritic(linear.features, np.array([[0, 0, 1, -1]], np.float32), action_set)
        solutions = [
            certified(layers, obs, action_set),
            milp(layers, obs, action_set),
            integer_quadratic(linear, obs, action_set),
            integer_quadratic(concave, obs, action_set),
            QuadraticArgmax()(concave, obs, action_set),
        ]
        for solution in solutions:
            action = np.asarray(solution.action)
            assert action_set.contains(action, obs).all()
            assert ((low <= action.astype(float)) & (action.astype(float) <= high)).all()
            np.testing.assert_allclose(action, np.tile(corner, (2, 1)), atol=1e-3)
            tried += 1
    assert tried == 10


def test_trees_stay_in_sets_of_double_precision():
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(80, 1)), rng.uniform(-2, 2, (80, 1))
    critic = TreeCritic.start(Box([-5.0], [5.0]), Forest(n_trees=3)).fit((obs, action), action[:, 0])
    states = obs[:4].astype(np.float32)
    for action_set, low, high in upwards([-0.7], [0.1]):
        for solver in (TreeSweep(), TreeArgmax()):
            found = np.asarray(solver(critic, states, action_set).action)
            assert action_set.contains(found, states).all()
            assert ((low <= found.astype(float)) & (found.astype(float) <= high)).all()


def test_whole_actions_are_inside_double_precision_bounds():
    """1 is outside [−2.4, 1 − 1e-12]; rounded to the nearest it would be the maximum of q = a."""
    box = Box([-2.4], [1 - 1e-12])
    obs = np.zeros((1, 1), np.float32)
    layers = [(np.array([[0.0], [1.0]], np.float32), np.full(1, 9, np.float32)), (np.ones((1, 1)), np.zeros(1))]
    linear = LinearCritic(Polynomial(1), np.array([[0, 0, 1]], np.float32), box)
    for solution in (
        certified(layers, obs, Mixed(box, (0,))),
        milp(layers, obs, box, integer=(0,)),
        exhaustive(linear, obs, Mixed(box, (0,))),
        integer_quadratic(linear, obs, Mixed(box, (0,))),
    ):
        assert float(np.asarray(solution.action)[0, 0]) == 0.0


def rising(obs, action):
    return jnp.sum(action, axis=-1)


def test_a_refined_action_is_in_its_set():
    """Compiled, the bound 0.1 is the number of single precision nearest to it, which is above."""
    box = Box([-1.0], [1.0])
    action_set = StateBox(
        lambda obs: namespace(obs).asarray(obs, float) - 0.7, lambda obs: namespace(obs).asarray(obs, float) + 0.1, box
    )
    obs = np.zeros((2, 1), np.float32)
    found = refined(FunctionCritic(rising, action_set), obs, np.full((2, 1), 0.09, np.float32), action_set, steps=5)
    assert action_set.contains(found, obs).all()
    np.testing.assert_allclose(found, 0.1, atol=1e-6)


def test_refining_takes_no_step_to_a_whole_number_outside_the_trust_region():
    """0.54 of the way up rounds to 1, which is farther than 0.6 half-widths."""
    action_set = Mixed(Box([-1.0, -1.0], [1.0, 1.0]), (1,))
    start = np.zeros((1, 2), np.float32)
    found = refined(FunctionCritic(rising, action_set), start, start, action_set, steps=4, trust=0.6)
    assert found[0, 1] == 0 and 0.2 < found[0, 0] <= 0.6 + 1e-5
