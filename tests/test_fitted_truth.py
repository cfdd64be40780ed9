"""The fitted methods' q against truth: Riccati's K and P, and values of bounded actions from a dense grid.

Data keep s' in the box of the states: a target then never asks a critic for what its data do not show. All are drawn
from s' = s + a with s evenly in [−2, 2], and the best trajectories fall towards 0: the truth is that of the whole line.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fittedq
from fittedq.agent import Agent
from fittedq.data.dataset import Dataset
from fittedq.problems.grid import GridValue, value_iteration
from fittedq.problems.lqr import LinearQuadratic

GAMMA = 0.9
SMOOTH = {"gamma": GAMMA, "activation": "silu", "n_critics": 1}
WARM = {**SMOOTH, "hidden": (64, 64), "epochs": 20, "minibatch": 128, "critic_learning_rate": 3e-4}
"""Adam from the last iteration's networks."""
RPROP = {**SMOOTH, "hidden": (32, 32), "optimizer": "rprop", "epochs": 200}
"""Rprop on all rows at once: fewer, larger steps."""


def step(obs: np.ndarray, action: np.ndarray, cost: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """r = −(s² + cost · a²), s' = s + a."""
    return -(obs**2 + cost * action**2)[:, 0], obs + action


def inner_data(rows: int, bound: float, cost: float = 1.0) -> Dataset:
    """Even in (s, a), |s| ≤ 2 and |a| ≤ bound, where |s'| ≤ 2."""
    rng = np.random.default_rng(0)
    obs, action = rng.uniform(-2, 2, (4 * rows, 1)), rng.uniform(-bound, bound, (4 * rows, 1))
    inside = np.flatnonzero(np.abs(obs + action) <= 2)[:rows]
    obs, action = obs[inside], action[inside]
    reward, next_obs = step(obs, action, cost)
    return Dataset.from_arrays(
        obs=obs,
        action=action,
        reward=reward,
        next_obs=next_obs,
        terminated=np.zeros(rows, bool),
        truncated=np.zeros(rows, bool),
        action_low=-bound,
        action_high=bound,
    )


# ---------------------------------------------------------------------- K and P of LQR (G1)


def assert_gain_and_value(agent: Agent) -> None:
    """K from π = −K s, P from v = −P s² − c, each within 3 %, and v itself within 3 % of max |V*|: c* = 0."""
    problem = LinearQuadratic.scalar(gamma=GAMMA, noise=0.0)
    obs = np.linspace(-1.8, 1.8, 37, dtype=np.float32)[:, None]
    action = agent.act(obs)
    value, one = agent.value(obs, action), np.ones_like(obs)
    gain = -np.linalg.lstsq(np.concatenate([obs, one], axis=1), action[:, 0], rcond=None)[0][0]
    P = -np.linalg.lstsq(np.concatenate([obs**2, one], axis=1), value, rcond=None)[0][0]
    assert gain == pytest.approx(problem.gain.item(), rel=0.03)
    assert pytest.approx(problem.P.item(), rel=0.03) == P
    truth = -problem.P.item() * obs[:, 0] ** 2
    assert np.abs(value - truth).max() <= 0.03 * np.abs(truth).max()


@pytest.mark.slow
def test_nfqca_finds_the_gain_and_the_value_of_lqr():
    agent = fittedq.fit("nfqca", inner_data(500, bound=2.0), steps=15, policy_epochs=100, **RPROP)
    assert_gain_and_value(agent)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("explicit_fqi", {}),
        ("amortized_fqi", {"policy_epochs": 10, "solve_share": 0.5}),
        ("nfqca", {"policy_epochs": 10}),
    ],
)
def test_neural_methods_find_the_gain_and_the_value_of_lqr(name, own):
    agent = fittedq.fit(name, inner_data(2_000, bound=2.0), steps=30, **WARM, **own)
    assert_gain_and_value(agent)


# ---------------------------------------------------------------------- bounded actions against a dense grid


def dense_grid(bound: float, cost: float, width: float = 2.0) -> GridValue:
    """V* on |s| ≤ width, spacing .005, 101 actions."""
    axis, actions = np.linspace(-width, width, round(400 * width) + 1), np.linspace(-bound, bound, 101)[:, None]
    return value_iteration(lambda obs, action: step(obs, action, cost), (axis,), actions, GAMMA)


def discounted_return(agent: Agent, obs: np.ndarray, cost: float) -> np.ndarray:
    """Σ γᵗ r_t over the 100 steps after each state, under the agent's actions."""
    total = np.zeros(len(obs))
    for t in range(100):
        reward, obs = step(obs, agent.act(obs), cost)
        total += GAMMA**t * reward
    return total


def assert_values(bound: float, cost: float, rows: int, **settings: Any) -> None:
    """q(s, π(s)), and what π earns, within 2 % of V*: the largest error over |s| ≤ 1.9, as a share of max |V*|."""
    agent = fittedq.fit("explicit_fqi", inner_data(rows, bound, cost), **RPROP | settings)
    obs = np.linspace(-1.9, 1.9, 39, dtype=np.float32)[:, None]
    truth = dense_grid(bound, cost)(obs)
    assert np.abs(agent.value(obs, agent.act(obs)) - truth).max() <= 0.02 * np.abs(truth).max()
    assert np.abs(discounted_return(agent, obs, cost) - truth).max() <= 0.02 * np.abs(truth).max()


@pytest.mark.slow
def test_explicit_fqi_values_the_lqr_of_a_box():
    """|a| ≤ ½, which binds where |s| > .85: no closed form."""
    assert_values(0.5, 1.0, 400, steps=12)


@pytest.mark.slow
def test_explicit_fqi_with_proven_maxima_values_the_lqr_of_a_box():
    """Every label is a certified maximum of the last critic."""
    assert_values(0.5, 1.0, 400, steps=12, maximizer="certified")


@pytest.mark.slow
@pytest.mark.parametrize(("bound", "cost"), [(0.5, 1.0), (1.0, 0.0)], ids=["box_lqr", "g7"])
def test_explicit_fqi_values_bounded_actions(bound, cost):
    assert_values(bound, cost, 600, steps=25, epochs=300)


# ---------------------------------------------------------------------- the grid itself


def test_the_grid_agrees_with_riccati_and_with_the_formula_of_g7():
    problem, obs = LinearQuadratic.scalar(gamma=GAMMA, noise=0.0), np.linspace(-2, 2, 201)[:, None]
    free = dense_grid(2.0, 1.0)
    assert free(obs) == pytest.approx(-problem.P.item() * obs[:, 0] ** 2, abs=5e-3)
    assert free.action == pytest.approx(-problem.gain.item() * free.points, abs=0.03)
    bounded = dense_grid(1.0, 0.0)
    expected = -sum(GAMMA**k * np.maximum(np.abs(obs[:, 0]) - k, 0) ** 2 for k in range(3))
    assert bounded(obs) == pytest.approx(expected, abs=1e-4)


def test_a_bound_on_the_action_costs_and_a_wider_grid_changes_nothing():
    obs = np.linspace(-1.9, 1.9, 39)[:, None]
    boxed, wider, free = (dense_grid(*args)(obs) for args in ((0.5, 1.0), (0.5, 1.0, 3.0), (2.0, 1.0)))
    np.testing.assert_allclose(boxed, wider, atol=1e-6)
    # Where the bound does not bind it must not matter, and 2 % must be able to tell where it does.
    inner = np.abs(obs[:, 0]) < 0.8
    np.testing.assert_allclose(boxed[inner], free[inner], atol=5e-3)
    assert np.abs(boxed - free).max() > 0.1 * np.abs(boxed).max()


def test_the_grid_of_two_dimensions_agrees_with_riccati():
    """A contraction of the plane, so that s' stays on the grid; K s stays inside the actions tried."""
    A, B = np.array([[0.7, 0.2], [-0.2, 0.7]]), np.array([[0.0], [0.3]])
    problem = LinearQuadratic(A, B, np.eye(2), 0.1 * np.eye(1), np.zeros((2, 2)), GAMMA)

    def move(obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return -(obs**2).sum(axis=1) - 0.1 * action[:, 0] ** 2, obs @ A.T + action @ B.T

    axis = np.linspace(-1, 1, 61)
    grid = value_iteration(move, (axis, axis), np.linspace(-2, 2, 41)[:, None], GAMMA, 1e-6)
    obs = np.random.default_rng(0).uniform(-0.8, 0.8, (200, 2))
    truth = -np.einsum("bi,ij,bj->b", obs, problem.P, obs)
    assert np.abs(grid(obs) - truth).max() <= 0.01 * np.abs(truth).max()


def test_states_that_a_grid_does_not_hold_are_refused():
    axis, actions = np.linspace(-1, 1, 11), np.array([[3.0]])
    with pytest.raises(ValueError, match="every action leaves the grid"):
        value_iteration(step, (axis,), actions, GAMMA)
    grid = value_iteration(step, (axis,), np.zeros((1, 1)), GAMMA)
    with pytest.raises(ValueError, match="outside the grid"):
        grid(np.array([[1.5]]))
