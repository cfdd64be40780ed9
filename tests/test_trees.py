"""Tree ensembles against scikit-learn, and their exact maximum against every cell there is."""

from __future__ import annotations

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.polytope import Polytope
from fittedq.actions.state_box import StateBox
from fittedq.approx.host import host_view
from fittedq.approx.trees import Forest, TreeCritic, _Nodes, _padded, _regressor
from fittedq.errors import UserError
from fittedq.maximize.base import Status
from fittedq.maximize.exact.sweep import TreeSweep, _rank, _unrank

KINDS = ("extra_trees", "random_forest")
BOX = Box([-2], [2])


def data(size: int = 300, obs_size: int = 2, action_size: int = 1, seed: int = 0):
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(size, obs_size)).astype(np.float32)
    action = rng.uniform(-2, 2, (size, action_size)).astype(np.float32)
    y = np.sin(3 * obs[:, 0] * action[:, 0]) - action[:, -1] ** 2 / 4 + 0.1 * rng.normal(size=size)
    return (obs, action), y.astype(np.float32)


def grown(kind: str = "extra_trees", action_set: AbstractActionSet = BOX, **settings) -> TreeCritic:
    settings = {"n_trees": 7, "min_samples_leaf": 2, "n_jobs": 1} | settings
    return TreeCritic.start(action_set, Forest(kind, **settings)).fit(*data(action_size=action_set.size), seed=3)


def handmade(*trees: list[tuple[int, float, float]], action_set: AbstractActionSet = BOX) -> TreeCritic:
    """Trees of at most one split, each [(feature, threshold, 0), (0, ∞, left value), (0, ∞, right value)] or a leaf."""
    forest = Forest(n_trees=len(trees), n_jobs=1)
    nodes = [tree[0] for tree in trees]
    child = []
    for index, tree in enumerate(trees):
        child.append(index if len(tree) == 1 else len(nodes))
        nodes += tree[1:]
    child += range(len(trees), len(nodes))
    feature, threshold, value = zip(*nodes, strict=True)
    return TreeCritic(
        feature=np.array(feature, np.int32),
        threshold=np.array(threshold, np.float32),
        child=np.array(child, np.int32),
        value=np.array(value, np.float32),
        depth=np.array(1, np.int32),
        action_set=action_set,
        forest=forest,
    )


def stump(feature: int, threshold: float, left: float, right: float) -> list[tuple[int, float, float]]:
    return [(feature, threshold, 0.0), (0, np.inf, left), (0, np.inf, right)]


# ---------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action_size", [1, 2])
def test_the_arrays_say_what_scikit_learn_says_also_next_to_the_thresholds(kind, action_size):
    critic = grown(kind, Box([-2] * action_size, [2] * action_size))
    inputs, y = data(action_size=action_size)
    x = np.concatenate(inputs, axis=1)
    reference = _regressor(critic.forest, 3).fit(x, y.astype(np.float64))
    rows = [x]
    for feature in range(x.shape[1]):
        cuts = np.concatenate([tree.tree_.threshold[tree.tree_.feature == feature] for tree in reference.estimators_])
        # The float32 numbers around every threshold: those that a wrong rounding would send the other way.
        near = cuts.astype(np.float32)
        for neighbour in (near, np.nextafter(near, np.float32(-9)), np.nextafter(near, np.float32(9))):
            row = x[np.arange(len(near)) % len(x)]
            row[:, feature] = neighbour
            rows.append(row)
    x = np.concatenate(rows)
    obs, action = x[:, :2], x[:, 2:]
    q = critic(obs, action)
    assert q.shape == (1, len(x))
    assert q[0] == pytest.approx(reference.predict(x), rel=1e-6, abs=1e-6)
    assert np.asarray(eqx.filter_jit(critic)(jnp.asarray(obs), jnp.asarray(action))) == pytest.approx(q, abs=1e-6)
    assert host_view(critic)(obs, action) == pytest.approx(q)


def test_an_input_on_a_threshold_that_float32_cannot_hold():
    inputs = (np.array([[0.0], [1.0]], np.float32), np.zeros((2, 1), np.float32))
    middle = np.float64(1) / 3  # float32 rounds it up, past a float32 input just above a third
    critic = TreeCritic.start(BOX, Forest("random_forest", n_trees=1, min_samples_leaf=1, n_jobs=1))
    reference = _regressor(critic.forest, 0).fit(np.concatenate(inputs, axis=1), [0.0, 1.0])
    assert np.float32(middle) > middle
    tree = reference.estimators_[0].tree_
    if tree.node_count == 1:  # the bootstrap drew one row twice
        reference = _regressor(critic.forest, 1).fit(np.concatenate(inputs, axis=1), [0.0, 1.0])
        tree = reference.estimators_[0].tree_
    assert tree.node_count == 3
    tree.threshold[0] = middle
    critic = TreeCritic(**_padded(_Nodes.of([tree])), action_set=BOX, forest=critic.forest)
    below = np.nextafter(np.float32(middle), np.float32(0))
    obs = np.array([[below], [np.float32(middle)]], np.float32)
    assert critic(obs, np.zeros_like(obs))[0] == pytest.approx([0.0, 1.0])
    assert reference.predict(np.concatenate([obs, np.zeros_like(obs)], axis=1)) == pytest.approx([0.0, 1.0])


def test_two_fits_of_the_same_data_agree_bit_for_bit_whatever_the_threads():
    first, second, other = grown(), grown(n_jobs=2), TreeCritic.start(BOX, grown().forest).fit(*data(), seed=4)
    for name in ("feature", "threshold", "child", "value", "depth"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()
    assert not np.array_equal(first(*data()[0]), other(*data()[0]))


def test_refits_share_one_compiled_program_and_nothing_is_learnt_from_gradients():
    (obs, action), y = data()
    compiled = 0

    @jax.jit
    def q(critic, obs, action):
        nonlocal compiled
        compiled += 1
        return critic(obs, action)[0]

    critics = [grown().fit((obs, action), y, seed) for seed in range(4)]
    assert len({int((critic.child != np.arange(len(critic.child))).sum()) for critic in critics}) > 1
    for critic in critics:
        assert np.asarray(q(critic, obs, action)) == pytest.approx(critic(obs, action)[0], abs=1e-6)
    assert compiled == len({critic.child.shape for critic in critics}) <= 2
    slope = jax.grad(lambda a: critics[0](jnp.asarray(obs), a).sum())(jnp.asarray(action))
    assert not slope.any()


def test_the_first_critic_is_zero_and_has_the_shapes_of_a_saved_one():
    (obs, action), y = data()
    start = TreeCritic.start(BOX, Forest(n_trees=5))
    assert not start(obs, action).any()
    assert start.size == start.subset(slice(0, 1)).size == 1
    fitted = start.fit((obs, action), y)
    like = TreeCritic.start(BOX, Forest(n_trees=5), nodes=fitted.child.shape[0])
    assert jax.tree.structure(like) == jax.tree.structure(fitted)
    for mine, theirs in zip(jax.tree.leaves(like), jax.tree.leaves(fitted), strict=True):
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)


def test_min_samples_leaf_and_depth_are_heeded():
    (obs, action), y = data()
    assert int(grown(max_depth=3).depth) == 3
    shallow = grown(n_trees=1, min_samples_leaf=len(y))
    assert shallow(obs, action) == pytest.approx(np.full((1, len(y)), y.mean(), np.float32), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda obs, action, y: (obs, action, np.where(np.arange(len(y)) == 5, np.nan, y)), "row 5"),
        (lambda obs, action, y: (obs[:0], action[:0], y[:0]), "no rows"),
        (
            lambda obs, action, y: (obs.astype(np.float64) + 1e300 * (np.arange(len(y)) == 7)[:, None], action, y),
            "row 7",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_data_that_cannot_be_fitted_is_refused(change, says):
    (obs, action), y = data()
    obs, action, y = change(obs, action, y)
    with pytest.raises(UserError, match=says):
        grown().fit((obs, action), y)


def test_settings_out_of_range_are_refused_and_a_missing_package_is_named(monkeypatch):
    with pytest.raises(UserError, match="extra_trees"):
        Forest("extra_tree")
    with pytest.raises(UserError, match="n_trees"):
        Forest(n_trees=0)
    critic = grown()
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"fittedq\[trees\]"):
        critic.fit(*data())


# ---------------------------------------------------------------------- the exact maximum


def by_brute_force(critic: TreeCritic, obs, low, high) -> np.ndarray:
    """max_a q(s, a) over both sides of every threshold of the action, and the bounds."""
    cuts = critic.threshold[(critic.feature == obs.shape[1]) & np.isfinite(critic.threshold)]
    points = np.unique(np.concatenate([cuts, np.nextafter(cuts, np.float32(np.inf))]))
    best = []
    for row, (left, right) in enumerate(zip(low, high, strict=True)):
        actions = np.concatenate([[left, right], points[(points >= left) & (points <= right)]]).astype(np.float32)
        best.append(critic(np.repeat(obs[row : row + 1], len(actions), axis=0), actions[:, None]).max())
    return np.array(best)


def assert_exact(critic: TreeCritic, obs, action_set: AbstractActionSet) -> None:
    solution = TreeSweep()(critic, obs, action_set)
    low, high = (np.broadcast_to(bound, (len(obs), 1))[:, 0] for bound in action_set.bounds(obs))
    action = np.asarray(solution.action)
    assert ((action[:, 0] >= low) & (action[:, 0] <= high)).all()
    assert np.array_equal(solution.value, critic(obs, action)[0])
    truth = by_brute_force(critic, obs, low, high)
    scale = float(np.abs(critic.value).max())
    assert solution.value == pytest.approx(truth, abs=1e-6 * scale)
    assert (solution.upper_bound >= truth).all()
    assert solution.upper_bound == pytest.approx(truth, abs=1e-5 * scale)
    assert (solution.status == Status.EXACT).all()


MOVING = StateBox(lambda obs: obs[:, :1] / 4 - 0.3, lambda obs: obs[:, :1] / 4 + 0.3, BOX)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action_set", [BOX, Box([-0.1], [0.4]), MOVING])
def test_the_sweep_finds_the_best_of_all_cells(kind, action_set):
    obs = np.random.default_rng(5).normal(size=(40, 2)).astype(np.float32)
    assert_exact(grown(kind, n_trees=12), obs, action_set)


def test_states_swept_in_several_parts(monkeypatch):
    obs = np.random.default_rng(6).normal(size=(23, 2)).astype(np.float32)
    whole = TreeSweep()(grown(), obs, BOX)
    monkeypatch.setattr("fittedq.maximize.exact.sweep.MAX_ROWS", 4)
    assert np.array_equal(TreeSweep()(grown(), obs, BOX).action, whole.action)


def test_thresholds_outside_the_box_and_single_leaves():
    obs = np.zeros((3, 1), np.float32)
    critic = handmade(stump(1, -3.0, 9.0, 1.0), stump(1, 2.0, 2.0, 9.0), [(0, np.inf, 5.0)])
    solution = TreeSweep()(critic, obs, BOX)
    assert solution.value == pytest.approx([8 / 3] * 3)  # never the nines: one is below −2, the other above 2
    assert solution.action[:, 0] == pytest.approx([0.0] * 3)  # the middle of the one cell
    assert_exact(critic, obs, BOX)
    assert_exact(handmade([(0, np.inf, 5.0)]), obs, BOX)
    assert_exact(TreeCritic.start(BOX, Forest(n_trees=3)), obs, BOX)


def test_cells_of_one_float_and_the_two_zeros():
    one = np.nextafter(np.float32(0.5), np.float32(1))
    # Best only at `one`: right of 0.5, left of or at the next float.
    narrow = handmade(stump(1, 0.5, 0.0, 1.0), stump(1, float(one), 1.0, 0.0))
    obs = np.array([[0.0], [-0.0]], np.float32)
    assert (TreeSweep()(narrow, obs, BOX).action == one).all()
    assert_exact(narrow, obs, BOX)
    # −0 and 0 fall on the same side, as states, thresholds and bounds.
    for zero in (0.0, -0.0):
        state_cut = handmade(stump(0, zero, 3.0, 1.0), stump(1, zero, 2.0, 0.0))
        assert TreeSweep()(state_cut, obs, BOX).value == pytest.approx([2.5, 2.5])
        assert_exact(state_cut, obs, Box([zero], [1]))
        assert_exact(state_cut, obs, Box([-1], [zero]))


def test_a_state_on_a_threshold_is_left_of_it_and_the_next_float_is_right():
    on = np.float32(0.5)
    obs = np.array([[np.nextafter(on, -on)], [on], [np.nextafter(on, 2 * on)]], np.float32)
    swept = TreeSweep()(handmade(stump(0, 0.5, 3.0, 1.0)), obs, BOX)
    assert swept.value == pytest.approx([3, 3, 1])
    assert swept.upper_bound == pytest.approx([3, 3, 1], abs=1e-5)


def test_ranks_count_the_floats():
    x = np.array(
        [-np.inf, -3.0, -1e-45, 0.0, 1e-45, 1.0, np.nextafter(np.float32(1), np.float32(2)), np.inf], np.float32
    )
    assert (np.diff(_rank(x).astype(np.int64)) > 0).all()
    assert np.array_equal(_unrank(_rank(x)), x)
    assert _rank(np.float32([-0.0])) == _rank(np.float32([0.0])) == 0
    assert _rank(x[6:7]) - _rank(x[5:6]) == 1


def test_several_actions_other_sets_and_bounds_that_are_no_numbers_are_refused():
    obs = np.zeros((2, 2), np.float32)
    two = Box([-1, -1], [1, 1])
    with pytest.raises(UserError, match="2 action dimensions"):
        TreeSweep()(grown(action_set=two), obs, two)
    with pytest.raises(UserError, match="Polytope"):
        TreeSweep()(grown(), obs, Polytope([-1], [1], [[1]], [0.5]))
    with pytest.raises(UserError, match="state 1 "):
        TreeSweep()(grown(), obs, StateBox(lambda obs: obs[:, :1] * [[1], [np.nan]], lambda obs: obs[:, :1] + 1, BOX))
