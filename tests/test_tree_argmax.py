"""The exact maximum of tree ensembles over several actions, against every cell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fittedq
from fittedq import Box, Polytope, StateBox, UserError
from fittedq.approx.trees import Forest, TreeCritic
from fittedq.maximize.base import Status
from fittedq.maximize.exact.sweep import TreeSweep
from fittedq.maximize.exact.trees import TreeArgmax


def grown(m: int, rows: int = 200, trees: int = 6, kind: str = "extra_trees", leaf: int = 4) -> TreeCritic:
    rng = np.random.default_rng(m)
    box = Box([-1.0] * m, [2.0] * m)
    obs, action = rng.normal(size=(rows, 2)), rng.uniform(-1, 2, (rows, m))
    y = np.sin(3 * action).sum(axis=1) * obs[:, 0] + rng.normal(size=rows)
    return TreeCritic.start(box, Forest(kind=kind, n_trees=trees, min_samples_leaf=leaf)).fit((obs, action), y)


def by_cells(critic: TreeCritic, obs: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """q at the upper corner of every cell between thresholds: q is constant on each."""
    best = []
    for row, state in enumerate(obs):
        axes = []
        for axis in range(len(low[row])):
            cuts = np.unique(critic.threshold[np.asarray(critic.feature) == len(state) + axis])
            inside = cuts[(cuts >= low[row, axis]) & (cuts < high[row, axis])]
            axes.append(np.append(inside, high[row, axis]).astype(np.float32))
        cells = np.array(list(itertools.product(*axes)), np.float32)
        best.append(critic(np.repeat(state[None], len(cells), axis=0), cells)[0].max())
    return np.array(best)


@pytest.mark.parametrize(
    ("m", "rows", "kind"), [(1, 200, "extra_trees"), (2, 200, "random_forest"), (3, 60, "extra_trees")]
)
def test_the_maximum_is_that_of_all_cells(m, rows, kind):
    critic = grown(m, rows, kind=kind)
    obs = np.random.default_rng(9).normal(size=(6, 2)).astype(np.float32)
    solution = TreeArgmax()(critic, obs, critic.action_set)
    low, high = (
        np.tile(np.asarray(end, np.float32), (6, 1)) for end in (critic.action_set.low, critic.action_set.high)
    )
    truth = by_cells(critic, obs, low, high)
    assert (solution.status == Status.EXACT).all()
    np.testing.assert_allclose(solution.value, truth, atol=1e-6)
    np.testing.assert_array_equal(solution.value, critic(obs, solution.action)[0])
    assert (solution.upper_bound >= truth).all()
    np.testing.assert_allclose(solution.upper_bound, truth, atol=1e-5)
    assert critic.action_set.contains(solution.action, obs).all()


def test_one_action_agrees_with_the_sweep():
    critic = grown(1, 500, trees=30, leaf=1)
    obs = np.random.default_rng(1).normal(size=(20, 2)).astype(np.float32)
    one, other = (maximizer(critic, obs, critic.action_set) for maximizer in (TreeArgmax(), TreeSweep()))
    np.testing.assert_allclose(one.value, other.value, atol=1e-6)
    np.testing.assert_allclose(one.upper_bound, other.upper_bound, atol=1e-5)


def lower(obs):
    return np.stack([np.tanh(obs[:, 0]) * 0.5, 0 * obs[:, 0] + 0.25], axis=1).astype(np.float32)


def upper(obs):
    return np.stack([np.tanh(obs[:, 0]) * 0.5 + 0.7, 0 * obs[:, 0] + 0.25], axis=1).astype(np.float32)


def test_bounds_may_depend_on_the_state_and_have_no_width():
    critic = grown(2)
    action_set = StateBox(lower, upper, critic.action_set)
    obs = np.random.default_rng(3).normal(size=(8, 2)).astype(np.float32)
    solution = TreeArgmax()(critic, obs, action_set)
    assert action_set.contains(solution.action, obs).all()
    np.testing.assert_allclose(solution.value, by_cells(critic, obs, lower(obs), upper(obs)), atol=1e-6)


def test_the_interval_holds_when_time_is_up_and_starts_are_a_guarantee():
    critic = grown(4, 600, trees=20, leaf=1)
    obs = np.random.default_rng(4).normal(size=(3, 2)).astype(np.float32)
    stopped = TreeArgmax(state_seconds=0.0)(critic, obs, critic.action_set)
    solved = TreeArgmax()(critic, obs, critic.action_set)
    assert (stopped.status == Status.TIME_LIMIT).all()
    assert (stopped.upper_bound >= solved.value).all()
    assert (stopped.value <= solved.value).all()
    again = TreeArgmax(state_seconds=0.0)(critic, obs, critic.action_set, solved.action[:, None])
    np.testing.assert_array_equal(again.value, solved.value)


def test_a_maximum_that_no_climb_finds_is_found():
    """q = 0.9, but 1 where 0.6 < a₁ ≤ 0.601 and −0.3 < a₂ ≤ −0.299: no line along one action shows the way there."""
    box = Box([-1.0, -1.0], [1.0, 1.0])
    feature, threshold = np.zeros(9, np.int32), np.full(9, np.inf, np.float32)
    feature[[0, 1, 4, 5]], threshold[[0, 1, 4, 5]] = [1, 1, 2, 2], [0.601, 0.6, -0.299, -0.3]
    child, value = np.array([1, 3, 2, 3, 5, 7, 6, 7, 8], np.int32), np.full(9, 0.9, np.float32)
    value[8] = 1
    critic = TreeCritic(box, feature, threshold, child, value, np.array(4, np.int32), Forest(n_trees=1, n_jobs=1))
    obs = np.zeros((1, 1), np.float32)
    climbed, solved = TreeArgmax(state_seconds=0.0)(critic, obs, box), TreeArgmax()(critic, obs, box)
    assert climbed.value == pytest.approx([0.9]) and climbed.upper_bound >= 1
    assert solved.value == pytest.approx([1.0]) and solved.status == Status.EXACT
    assert (solved.action > [0.6, -0.3]).all() and (solved.action <= np.float32([0.601, -0.299])).all()


def test_trees_without_a_cut_on_the_action_and_polytopes():
    box = Box([-1.0, -1.0], [1.0, 1.0])
    flat = TreeCritic.start(box, Forest(n_trees=3))
    solution = TreeArgmax()(flat, np.zeros((2, 2), np.float32), box)
    np.testing.assert_array_equal(solution.value, 0)
    with pytest.raises(UserError, match="maximizer=cem"):
        TreeArgmax()(flat, np.zeros((2, 2), np.float32), Polytope(box.low, box.high, [[1, 1]], [0]))


def test_tree_fqi_with_two_actions_is_solved_exactly():
    """One step: q = r = −‖a − (.5, −.5)‖², so the greedy action is near its peak."""
    rng = np.random.default_rng(0)
    obs, action = rng.uniform(-1, 1, (2, 100, 2))
    data = fittedq.Dataset.from_arrays(
        obs=obs,
        action=action,
        reward=-np.sum((action - [0.5, -0.5]) ** 2, axis=1),
        next_obs=rng.uniform(-1, 1, (100, 2)),
        terminated=np.zeros(100, bool),
        action_low=-1,
        action_high=1,
    )
    agent = fittedq.fit(
        "explicit_fqi", data, steps=2, approximator="extra_trees", maximizer="exact", n_trees=10, gamma=0.5
    )
    seen = obs[:10].astype(np.float32)
    gap = agent.gap(seen)
    np.testing.assert_allclose(gap.upper, 0, atol=1e-4)
    assert np.abs(agent.act(seen) - [0.5, -0.5]).mean() < 0.4
