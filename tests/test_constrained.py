"""Action sets from declaration to controller: limits in words, whole numbers, agents that never leave A(s)."""

from __future__ import annotations

import itertools
import json

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fittedq
from fittedq import Box, Limits, Mixed, Polytope, StateBox, UserError
from fittedq.actions.saved import action_set_of
from fittedq.cli.main import main
from fittedq.envs.flat import LimitActions
from fittedq.envs.gym import GymSource

SMALL = {"hidden": (8,), "batch_size": 8, "random_steps": 20}
TRIANGLE = Polytope([-1, -1], [1, 1], [[1, 1]], [0.5])


class Valley(gymnasium.Env):
    """r = −‖a − (0.8, 0.8)‖², ten steps an episode: the best action is known for every action set."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.seen = []
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        self.seen.append(action)
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return obs, float(-np.sum((action - 0.8) ** 2)), False, self.steps == 10, {}


# ---------------------------------------------------------------------- in words


@pytest.mark.parametrize(
    ("text", "matrix", "bound"),
    [
        ("a0 + 2*a1 <= 1", [[1, 2, 0]], [1]),
        ("-a0+.5a2<=1e-1", [[-1, 0, 0.5]], [0.1]),
        ("a0 - a1 >= -2", [[-1, 1, 0]], [2]),
        ("a <= 1.5", [[1, 1, 1]], [1.5]),
        ("|a1| + a0 ≤ 1", [[1, 1, 0], [1, -1, 0]], [1, 1]),
        ("2*|a| <= 3", 2.0 * np.array(list(itertools.product((1, -1), repeat=3))), [3] * 8),
        ("-|a0| >= -1", [[1, 0, 0], [-1, 0, 0]], [1, 1]),
    ],
)
def test_a_limit_in_words_is_its_rows(text, matrix, bound):
    polytope = Limits((text,)).within(Box([-2] * 3, [2] * 3))
    np.testing.assert_allclose(polytope.matrix, matrix)
    np.testing.assert_allclose(polytope.bound, bound)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a0 + b1 <= 1", "cannot read '\\+b1'"),
        ("a0 < 1", "expected a sum of actions"),
        ("a0 <= lots", "expected a sum of actions"),
        ("a7 <= 1", "found a7, expected a0 … a2"),
        ("|a0| >= 1", "only be bounded from above"),
        ("a0 <= -9", "polytope: .* is empty"),
        ("a0 a1 <= 1", "cannot read"),
    ],
)
def test_a_limit_that_cannot_be_read_is_one_sentence(text, message):
    with pytest.raises(UserError, match=message):
        Limits((text,)).within(Box([-2] * 3, [2] * 3))


# ---------------------------------------------------------------------- whole numbers


@pytest.mark.parametrize(
    ("inner", "integer"),
    [
        (Box([-1.5, -2], [2.5, 2]), [0]),
        (Box([-1.5, -2], [2.5, 2]), [0, 1]),
        (Polytope([-2, -2], [2, 2], [[1, 0.7], [-1, 2]], [1.3, 2.2]), [1]),
        (Polytope([-2, -2], [2, 2], [[1, 0.7], [-1, 2]], [1.3, 2.2]), [0, 1]),
    ],
)
def test_a_mixed_projection_is_the_nearest_point_of_a_dense_grid(inner, integer):
    mixed = Mixed(inner, integer)
    axes = [
        np.arange(np.ceil(low), np.floor(high) + 1) if axis in integer else np.linspace(low, high, 801)
        for axis, (low, high) in enumerate(zip(inner.low, inner.high, strict=True))
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    grid = grid[inner.contains(grid, grid)]
    points = np.random.default_rng(0).uniform(-3, 3, (200, 2))
    projected = mixed.project(points, points)
    assert mixed.contains(projected, projected).all()
    scale = np.asarray(mixed.half_width)
    distance = np.linalg.norm((projected - points) / scale, axis=1)
    nearest = np.min(np.linalg.norm((grid[None] - points[:, None]) / scale, axis=2), axis=1)
    np.testing.assert_allclose(distance, nearest, atol=0.01)
    single = points.astype(np.float32)
    compiled = jax.jit(lambda a: mixed.project(a, a))(jnp.asarray(single))
    assert np.array_equal(np.asarray(compiled)[:, integer], np.round(np.asarray(compiled)[:, integer]))
    np.testing.assert_allclose(compiled, mixed.project(single, single), atol=1e-4)
    assert jax.tree.leaves(mixed) == []


def test_a_rounded_coordinate_passes_gradients_straight_through():
    mixed = Mixed(Box([-2, -2], [2, 2]), [0])
    jacobian = jax.jit(jax.jacobian(lambda a: mixed.project(a, a)))(np.float32([0.7, 0.7]))
    np.testing.assert_array_equal(jacobian, np.eye(2))


@pytest.mark.parametrize(
    ("inner", "integer", "message"),
    [
        (Box([0.2, 0], [0.8, 1]), [0], r"dimension 0 is \[0.2, 0.8\], which holds no whole number"),
        (Box([0, 0], [1, 1]), [2], r"found coordinates \[2\]"),
        (Polytope([-90, -90], [90, 90], [[1, 1]], [0]), [0], "181 settings"),
        (Polytope([-1, -1], [1, 1], [[1, 0], [-1, 0]], [0.9, -0.1]), [0], "holds no whole number"),
    ],
)
def test_bad_whole_numbers_are_one_sentence(inner, integer, message):
    with pytest.raises(UserError, match=message):
        Mixed(inner, integer)


@pytest.mark.parametrize("action_set", [Box([-1], [2]), TRIANGLE, Mixed(TRIANGLE, [0]), Mixed(Box([-1], [2]), [0])])
def test_a_set_survives_json(action_set):
    assert action_set_of(json.loads(json.dumps(action_set.describe()))) == action_set


# ---------------------------------------------------------------------- controllers


def low_of(obs):
    return obs[..., :2] * 0 - 0.5


def high_of(obs):
    return obs[..., :2] * 0.5 + 0.3


SETS = {
    "polytope": TRIANGLE,
    "integer": Mixed(Box([-1, -1], [1, 1]), [1]),
    "integer polytope": Mixed(TRIANGLE, [1]),
    "state": StateBox(low_of, high_of, Box([-1, -1], [1, 1])),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("td3", "state"),
        *(pytest.param("td3", kind, marks=pytest.mark.slow) for kind in SETS if kind != "state"),
        *(pytest.param("sac", kind, marks=pytest.mark.slow) for kind in SETS),
    ],
)
def test_what_an_online_algorithm_does_stores_and_learns_is_admissible(name, kind, tmp_path):
    action_set, env = SETS[kind], Valley()
    agent = fittedq.train(name, env, steps=40, action_set=action_set, **SMALL)
    obs = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    assert action_set.contains(agent.act(obs), obs).all()
    agent.save(tmp_path / "agent")
    given = {"action_set": action_set} if kind == "state" else None
    loaded = fittedq.load(tmp_path / "agent", code=given)
    assert loaded.action_set == action_set
    np.testing.assert_array_equal(loaded.act(obs), agent.act(obs))
    if kind == "state":
        with pytest.raises(UserError, match="functions of the state"):
            fittedq.load(tmp_path / "agent")


def test_a_source_executes_and_a_dataset_keeps_admissible_actions_only(tmp_path):
    from fittedq.acting.collect import collect
    from fittedq.data.dataset import Writer

    limited = LimitActions(Valley(), Limits(("a <= 0.5",)))
    assert GymSource(limited).action_set == TRIANGLE
    with Writer(tmp_path / "data") as writer:
        for _ in collect(limited, 300, writer):
            pass
        data = writer.finish()
    assert data.action_set == TRIANGLE
    action = np.asarray(data.columns["action"])
    assert TRIANGLE.contains(action, action).all()
    assert (action.sum(axis=1) > 0.49).any()
    assert fittedq.Dataset.open(tmp_path / "data").action_set == TRIANGLE


@pytest.mark.parametrize(
    ("action_set", "best"),
    [
        (Limits(("a <= 0.5",)), (0.25, 0.25)),
        pytest.param(Limits((), (1,)), (0.8, 1.0), marks=pytest.mark.slow),
        pytest.param(Limits(("a <= 1.2",), (1,)), (0.2, 1.0), marks=pytest.mark.slow),
        pytest.param(Limits(("|a0| <= 0.3",)), (0.3, 0.8), marks=pytest.mark.slow),
    ],
)
def test_explicit_fqi_finds_the_best_admissible_action(action_set, best):
    """q = −‖a − (.8, .8)‖² after one iteration; clipping the unconstrained answer would not be best on a polytope."""
    rng = np.random.default_rng(0)
    obs, action = rng.uniform(-1, 1, (2, 300, 2))
    data = fittedq.Dataset.from_arrays(
        obs=obs,
        action=action,
        reward=-np.sum((action - 0.8) ** 2, axis=1),
        next_obs=obs,
        terminated=np.ones(300, bool),
        action_low=-1,
        action_high=1,
    )
    agent = fittedq.fit(
        "explicit_fqi",
        data,
        steps=1,
        approximator="polynomial",
        clip_targets=False,
        normalize_obs=False,
        action_set=action_set,
    )
    acted = agent.act(obs[:5].astype(np.float32))
    assert agent.action_set.contains(acted, obs[:5].astype(np.float32)).all()
    np.testing.assert_allclose(acted, np.tile(best, (5, 1)), atol=0.01)


def test_bounds_that_read_observations_need_them_in_their_own_units():
    with pytest.raises(UserError, match="normalize_obs to false"):
        fittedq.train("td3", Valley(), steps=1, action_set=SETS["state"], normalize_obs=True, **SMALL)


def test_a_set_outside_the_environments_box_is_refused():
    with pytest.raises(UserError, match="expected it inside"):
        fittedq.train("td3", Valley(), steps=1, action_set=Polytope([-2, -2], [1, 1], [[1, 1]], [0.5]), **SMALL)


@pytest.mark.slow
def test_limits_on_the_command_line_hold_through_a_resume(tmp_path, capsys):
    run = str(tmp_path / "run")
    small = [f"--set={name}={value}" for name, value in (("hidden", "8,"), ("batch_size", 16), ("random_steps", 20))]
    common = ["--eval-every", "0", "--json", *small]
    words = ["train", "td3", "Pendulum-v1", "--out", run, "--steps", "30", "--limit", "a0 <= 0.5", *common]
    assert main(words) == 0
    assert main(["resume", run, "--steps", "40"]) == 0
    agent = fittedq.load(run + "/last")
    assert agent.action_set == Polytope([-2], [2], [[1]], [0.5])
    obs = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    assert agent.act(obs).max() <= 0.5
    capsys.readouterr()
    assert main([*words[:4], run + "2", "--limit", "a0 <= -7", *words[5:7], *common]) == 2
    assert "is empty" in capsys.readouterr().err


def test_an_agent_with_limits_plays_in_the_compiled_environment_that_it_learned_in():
    tanks = "jax/TwoTanks-v1"
    agent = fittedq.train("td3", tanks, steps=21, action_set=Limits(("a <= 3",)), **SMALL)
    rows = agent.trajectory(tanks, 10)
    assert np.max(rows.action) <= 3.0 and np.isfinite(agent.evaluate(tanks, 2)).all()
    with pytest.raises(UserError, match="differ from those the agent was trained on"):
        agent.evaluate("jax/CartPole-v1", 1)
