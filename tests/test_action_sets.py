"""Projections and bounds of the polytope and of state-dependent boxes, against enumeration of every face."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fittedq.actions.base import Box
from fittedq.actions.polytope import Polytope
from fittedq.actions.state_box import StateBox
from fittedq.errors import UserError


def nearest_by_faces(polytope: Polytope, points: np.ndarray) -> np.ndarray:
    """Projections by trying every set of active constraints: the feasible stationary point nearest to each point."""
    m = polytope.size
    walls = np.vstack([np.asarray(polytope.matrix), np.eye(m), -np.eye(m)])
    limits = np.concatenate([polytope.bound, polytope.high, -np.asarray(polytope.low)])
    found, nearest = np.full(len(points), np.inf), points.copy()
    for count in range(m + 1):
        for active in map(list, itertools.combinations(range(len(walls)), count)):
            candidates = points - (points @ walls[active].T - limits[active]) @ np.linalg.pinv(walls[active]).T
            distance = np.linalg.norm(candidates - points, axis=1)
            better = (distance < found) & np.all(candidates @ walls.T <= limits + 1e-9, axis=1)
            found[better], nearest[better] = distance[better], candidates[better]
    return nearest


def random_polytope(rng: np.random.Generator, m: int, rows: int) -> Polytope:
    half_width = 10 ** rng.uniform(-0.5, 0.5, m)
    center = rng.normal(size=m)
    matrix = rng.normal(size=(rows, m)) / half_width
    return Polytope(center - half_width, center + half_width, matrix, matrix @ center + rng.uniform(0.05, 1, rows))


@pytest.mark.parametrize(("m", "rows"), [(1, 1), (2, 4), (4, 3)])
def test_a_polytope_projects_on_the_nearest_point(m, rows):
    """Exact in double precision; in single, rounding of a row moves the corner it cuts."""
    rng = np.random.default_rng(10 * m + rows)
    for trial in range(8):
        polytope = random_polytope(rng, m, rows)
        half_width = np.asarray(polytope.half_width)
        points = np.asarray(polytope.center) + 2.5 * half_width * rng.uniform(-1, 1, (30, m))
        expected = nearest_by_faces(polytope, points)
        np.testing.assert_allclose(polytope.project(points, points), expected, atol=1e-9 * max(half_width))
        single = points.astype(np.float32)
        for array in (single, jnp.asarray(single))[: 2 if trial == 0 else 1]:
            projected = (polytope.project if array is single else jax.jit(polytope.project))(array, array)
            assert isinstance(projected, np.ndarray if array is single else jax.Array)
            assert projected.dtype == np.float32
            np.testing.assert_allclose(projected, expected, atol=5e-5 * max(half_width))
            assert np.all(polytope.contains(np.asarray(projected), np.asarray(projected)))


def test_nearly_parallel_and_repeated_rows_are_projected_on_too():
    """The dual is singular here: λ may be shared between the rows in many ways."""
    angles = np.array([0.0, 0.0, 0.01, -0.02])
    matrix = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    polytope = Polytope([-1, -1], [1, 1], matrix, [0.2, 0.2, 0.2, 0.19])
    points = np.random.default_rng(0).uniform(-3, 3, (60, 2)).astype(np.float32)
    expected = nearest_by_faces(polytope, points.astype(float))
    np.testing.assert_allclose(polytope.project(points, points), expected, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 1e3))
def test_a_projection_lies_in_the_polytope_however_far_the_point(seed, distance):
    rng = np.random.default_rng(seed)
    polytope = random_polytope(rng, 3, 4)
    points = (distance * rng.normal(size=(16, 3))).astype(np.float32)
    assert np.all(polytope.contains(polytope.project(points, points), points))


def test_inside_nothing_moves_and_shapes_are_kept():
    polytope = Polytope([-1, -1], [1, 1], [[1, 1]], [0.5])
    action = np.array([[[0.1, 0.2], [0.25, 0.25]], [[-1, 1], [1, 1]]], np.float32)
    for array, project in ((action, polytope.project), (jnp.asarray(action), jax.jit(polytope.project))):
        projected = np.asarray(project(array, array))
        np.testing.assert_array_equal(projected.reshape(4, 2)[:3], action.reshape(4, 2)[:3])
        np.testing.assert_allclose(projected[1, 1], [0.25, 0.25], atol=1e-5)
        np.testing.assert_allclose(project(action[1, 1], action[1, 1]), [0.25, 0.25], atol=1e-5)


def test_the_jacobian_of_a_projection_is_that_of_its_face():
    """On a facet with normal g, away from the box, the derivative is I − g gᵀ / ‖g‖²; at a corner, 0; inside, I."""
    polytope = Polytope([-1, -1, -1], [1, 1, 1], [[1.0, 2.0, 2.0]], [0.9])
    g = np.array([1.0, 2.0, 2.0])
    jacobian = jax.jit(jax.vmap(jax.jacobian(lambda a: polytope.project(a, a))))
    points = np.float32([[0.3, 0.5, 0.4], [0.0, 0.1, 0.0], [-5.0, -5.0, -5.0]])
    found = np.asarray(jacobian(points))
    np.testing.assert_allclose(found[0], np.eye(3) - np.outer(g, g) / 9, atol=1e-4)
    np.testing.assert_allclose(found[1], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(found[2], np.zeros((3, 3)), atol=1e-6)


def test_bounds_of_a_polytope_are_the_smallest_box_around_it():
    polytope = Polytope([0, 0], [10, 10], [[1, 1], [-1, 0]], [4, -1])
    low, high = polytope.bounds(np.zeros((5, 3), np.float32))
    np.testing.assert_allclose(low, [[1, 0]], atol=1e-6)
    np.testing.assert_allclose(high, [[4, 3]], atol=1e-6)
    assert (polytope.low, polytope.high, polytope.size) == ((0.0, 0.0), (10.0, 10.0), 2)


@pytest.mark.parametrize(
    ("matrix", "bound", "message"),
    [
        ([[1, 1], [-1, -1]], [-1, 0.5], "is empty"),
        ([[1, 1], [-1, -1]], [0.5, -0.5], "no interior"),
        ([[1, 1]], [-2], "no interior"),
        ([[1, 1, 1]], [1], r"shape \(1, 3\)"),
        ([[1, 1]], [1, 2], r"expected \(rows, 2\)"),
        ([[1, np.nan]], [1], "finite"),
        ([[1, 0], [0, 0]], [1, 1], "row 1 of the matrix is zero"),
        ([[1, 0], [0]], [1, 1], "equal rows"),
    ],
)
def test_a_bad_polytope_is_refused_with_a_sentence(matrix, bound, message):
    with pytest.raises(UserError, match=message):
        Polytope([-1, -1], [1, 1], matrix, bound)


def below(obs):
    return obs[..., :2] - 0.5


def above(obs):
    return obs[..., :2] + 0.25


def test_a_state_box_clips_to_its_bounds_inside_the_outer_box():
    state_box = StateBox(below, above, Box([-1, -1], [1, 1]))
    obs = np.array([[0.0, 0.9, 7.0], [-1.0, 0.5, 7.0]], np.float32)
    action = np.array([[2.0, -2.0], [-2.0, 0.6]], np.float32)
    for xp in (np, jnp):
        low, high = state_box.bounds(xp.asarray(obs))
        np.testing.assert_allclose(low, [[-0.5, 0.4], [-1, 0]], atol=1e-6)
        np.testing.assert_allclose(high, [[0.25, 1], [-0.75, 0.75]], atol=1e-6)
        np.testing.assert_allclose(
            state_box.project(xp.asarray(action), xp.asarray(obs)), [[0.25, 0.4], [-1, 0.6]], atol=1e-6
        )
    state_box.check(obs)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (above, below, r"state 0 dimension 0 .* is empty"),
        (lambda obs: obs[:, :1], above, r"low_fn returned shape \(2, 1\)"),
        (lambda obs: obs[:, :2] + 5, lambda obs: obs[:, :2] + 6, "outside the outer box"),
    ],
)
def test_bad_state_dependent_bounds_are_found_by_check(low, high, message):
    with pytest.raises(UserError, match=message):
        StateBox(low, high, Box([-1, -1], [1, 1])).check(np.zeros((2, 3), np.float32))


def test_both_sets_speak_the_units_of_their_outer_box_and_are_static():
    box = Box([-1, 0], [3, 1])
    action = np.array([[3.0, 0.5]], np.float32)
    for action_set in (Polytope(box.low, box.high, [[1, 1]], [2]), StateBox(below, above, box)):
        assert (action_set.center, action_set.half_width) == (box.center, box.half_width)
        np.testing.assert_array_equal(action_set.to_unit(action), [[1, 0]])
        np.testing.assert_array_equal(action_set.from_unit(action_set.to_unit(action)), action)
        assert jax.tree.leaves(action_set) == []
        assert hash(action_set) == hash(action_set)
