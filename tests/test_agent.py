"""Agents: acting, valuing, evaluating, saving and loading; the Python interface; the host's view of a policy."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

import fittedq
from exported import BOX, TRIANGLE, agent_in
from fittedq import algorithms
from fittedq.acting.episodes import EVALUATION_SEED
from fittedq.actions.base import AbstractActionSet, Box
from fittedq.agent import Agent
from fittedq.algorithms.base import NetworkAlgorithm
from fittedq.approx.host import host_view, to_host
from fittedq.approx.networks import ACTIVATIONS
from fittedq.data.statistics import RunningMoments
from fittedq.envs.native import Pendulum
from fittedq.errors import UserError
from methods import each

SIZE, ACTIONS = 3, Box((-2.0,), (2.0,))
WIDE = Box((-1.0, 0.0), (3.0, 0.5))
TINY: dict[str, Any] = {"hidden": (8,), "batch_size": 8, "replay_size": 1000, "random_steps": 30}


def untrained(
    algorithm: str = "td3", action_set: Box = ACTIONS, moments: RunningMoments | None = None, **settings: Any
) -> Agent:
    own: dict[str, Any] = {"model_hidden": (8,)} if algorithm == "svg" else {}
    made = algorithms.find(algorithm)(hidden=(8,), **own, **settings)
    nets = jax.jit(lambda key: made.networks(SIZE, action_set, key))(jax.random.PRNGKey(3))
    return Agent(made, SIZE, action_set, nets, moments, "Pendulum-v1")


@pytest.fixture(scope="module")
def agent() -> Agent:
    return untrained()


@pytest.fixture(scope="module")
def wide() -> Agent:
    """Normalized, two action dimensions with unequal bounds."""
    seen = np.random.default_rng(0).normal(3, 2, (50, SIZE)).astype(np.float32)
    return untrained("sac", WIDE, RunningMoments.start(SIZE).update(seen), temperature=0.3)


def observations(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, SIZE)).astype(np.float32)


# ---------------------------------------------------------------------- act and value


def test_one_observation_gives_one_action_and_a_batch_gives_a_batch(wide: Agent) -> None:
    obs = observations(7)
    one, batch = wide.act(obs[0]), wide.act(obs)
    assert isinstance(batch, np.ndarray)
    assert (one.shape, batch.shape) == ((2,), (7, 2))
    assert one.dtype == batch.dtype == np.float32
    np.testing.assert_allclose(np.stack([wide.act(row) for row in obs]), batch, rtol=1e-5, atol=1e-6)
    assert len(np.unique(batch[:, 0])) == 7


def test_the_gap_allows_a_policy_what_its_own_temperature_costs(agent: Agent, wide: Agent) -> None:
    """m β in the rewards' own unit, for two actions at β = .3; a policy without a temperature is allowed nothing."""
    obs = observations(2)
    np.testing.assert_allclose(wide.gap(obs).softness, 0.6, rtol=1e-6)
    np.testing.assert_array_equal(agent.gap(obs).softness, 0.0)
    scaled = Agent(wide.algorithm, SIZE, WIDE, wide.nets, wide.moments, "Pendulum-v1", reward_scale=10.0)
    np.testing.assert_allclose(scaled.gap(obs).softness, 6.0, rtol=1e-6)


@pytest.mark.parametrize("convert", [np.float64, np.float32, list, jnp.asarray], ids=["f64", "f32", "list", "jax"])
def test_observations_of_any_kind_are_taken(convert: Any, agent: Agent) -> None:
    obs = observations(1)[0]
    given = obs.tolist() if convert is list else convert(obs)
    np.testing.assert_array_equal(agent.act(given), agent.act(obs))


def test_actions_lie_inside_the_box_whatever_the_observation(wide: Agent) -> None:
    action = wide.act(1e6 * observations(200))
    assert np.all(action >= WIDE.low)
    assert np.all(action <= WIDE.high)


def test_the_action_is_the_mode_of_the_policy_on_normalized_observations(wide: Agent) -> None:
    obs = observations(5)
    assert wide.moments is not None
    mean, _ = wide.nets.policy.parameters(jnp.asarray(wide.moments.normalize(obs)))
    expected = np.array(WIDE.center) + np.array(WIDE.half_width) * np.tanh(mean)
    np.testing.assert_allclose(wide.act(obs), expected, atol=1e-5)


def test_value_is_the_smallest_of_the_critics(wide: Agent) -> None:
    obs = observations(5)
    action = wide.act(obs)
    assert wide.moments is not None
    q = wide.nets.critic(jnp.asarray(wide.moments.normalize(obs)), jnp.asarray(action))
    assert q.shape == (2, 5)
    value = wide.value(obs, action)
    assert value.shape == (5,)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, np.min(q, axis=0), atol=1e-5)
    assert np.shape(wide.value(obs[0], action[0])) == ()
    np.testing.assert_allclose(wide.value(obs[0], action[0]), value[0], atol=1e-5)


@pytest.mark.parametrize("obs", [np.zeros(2), np.zeros((4, 2)), np.zeros((2, 2, 3)), 1.0])
def test_an_observation_of_another_shape_is_a_user_error(obs: Any, agent: Agent) -> None:
    with pytest.raises(UserError, match=r"^observation: found .*expected .*\(3,\) or \(batch, 3\)"):
        agent.act(obs)


@pytest.mark.parametrize(
    ("obs", "action", "sentence"),
    [
        (np.zeros(3), np.zeros(2), "action: found shape"),
        (np.zeros((4, 3)), np.zeros((3, 1)), "4 observations and 3 actions"),
        (np.zeros(4), np.zeros(1), "observation: found shape"),
    ],
)
def test_value_refuses_other_shapes(obs: Any, action: Any, sentence: str, agent: Agent) -> None:
    with pytest.raises(UserError, match=sentence):
        agent.value(obs, action)


# ---------------------------------------------------------------------- the host's view


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        pytest.param(name, activation, marks=pytest.mark.slow if slow else ())
        for activation in ACTIVATIONS
        for name in algorithms.REGISTRY
        for slow in [name != "sac" and (activation != "relu" or name not in ("explicit_fqi", "td3", "iql"))]
    ],
)
def test_the_host_policy_and_critic_equal_the_jax_ones(name: str, activation: str) -> None:
    cls = algorithms.find(name)
    normed = {"layer_norm": True} if issubclass(cls, NetworkAlgorithm) else {}
    made = cls(hidden=(16, 16), activation=activation, n_critics=2, **normed)
    nets = jax.jit(lambda key: made.networks(SIZE, WIDE, key))(jax.random.PRNGKey(0))
    obs, normal = 3 * observations(20), np.random.default_rng(2).normal(size=(20, 2)).astype(np.float32)
    action = made.controller(to_host(nets)).act(obs, normal)
    assert isinstance(action, np.ndarray)
    assert action.dtype == np.float32
    if nets.policy is not None:
        on_device = jax.jit(type(nets.policy).act)(nets.policy, obs, normal)
        np.testing.assert_allclose(action, on_device, rtol=2e-5, atol=2e-5)
    q = host_view(to_host(nets.critic))(obs, action)
    assert isinstance(q, np.ndarray)
    on_device = jax.jit(lambda critic, obs, action: critic(obs, action))(nets.critic, obs, action)
    np.testing.assert_allclose(q, on_device, rtol=2e-5, atol=2e-5)


# ---------------------------------------------------------------------- save and load


def test_a_loaded_agent_acts_and_values_bit_for_bit_as_the_saved_one(wide: Agent, tmp_path: Path) -> None:
    wide.save(tmp_path / "agent")
    loaded = fittedq.load(tmp_path / "agent")
    obs = observations(9)
    np.testing.assert_array_equal(loaded.act(obs), wide.act(obs))
    np.testing.assert_array_equal(loaded.value(obs, wide.act(obs)), wide.value(obs, wide.act(obs)))
    assert (loaded.algorithm, loaded.action_set, loaded.obs_size) == (wide.algorithm, wide.action_set, wide.obs_size)
    assert loaded.env_id == "Pendulum-v1"


@pytest.mark.parametrize("name", each("explicit_fqi", "td3", "sac", "xqc"))
def test_every_algorithm_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    saved = untrained(name)
    saved.save(str(tmp_path / "agent"))
    loaded = Agent.load(str(tmp_path / "agent"))
    for before, after in zip(jax.tree.leaves(saved.nets), jax.tree.leaves(loaded.nets), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


def test_saving_again_replaces_the_agent(agent: Agent, tmp_path: Path) -> None:
    untrained("ddpg").save(tmp_path / "agent")
    agent.save(tmp_path / "agent")
    assert Agent.load(tmp_path / "agent").algorithm.name == "td3"
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


def tensors(folder: Path) -> Path:
    (file,) = folder.glob("tensors-*.safetensors")
    return file


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def changed(path: Path, change: Any) -> None:
    """Another program's manifest: its own hash fits."""
    manifest = json.loads(path.read_text())
    change(manifest["agent"])
    del manifest["sha256"]
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: shutil.rmtree(folder), "is not an agent"),
        (lambda folder: (folder / "manifest.json").unlink(), "is not an agent"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "damaged"),
        (lambda folder: tensors(folder).unlink(), "missing"),
        (lambda folder: flipped(tensors(folder)), "damaged"),
        (lambda folder: changed(folder / "manifest.json", dict.clear), "no agent's"),
        (lambda folder: changed(folder / "manifest.json", lambda agent: agent.update(algorithm="tdd3")), "'td3'"),
        (lambda folder: changed(folder / "manifest.json", lambda agent: agent.update(obs_size=4)), "has shape"),
        (lambda folder: changed(folder / "manifest.json", lambda agent: agent.update(normalized=True)), "is missing"),
    ],
    ids=["folder", "manifest", "json", "tensors", "bit", "agent", "algorithm", "size", "moments"],
)
def test_a_damaged_or_missing_agent_is_a_user_error(damage: Any, sentence: str, agent: Agent, tmp_path: Path) -> None:
    agent.save(tmp_path / "agent")
    damage(tmp_path / "agent")
    with pytest.raises(UserError, match=sentence):
        fittedq.load(tmp_path / "agent")


def test_an_agent_cannot_be_saved_under_a_file(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        agent.save(tmp_path / "file" / "agent")


# ---------------------------------------------------------------------- evaluate


@pytest.mark.parametrize("env", ["Pendulum-v1", "jax/Pendulum-v1"])
def test_evaluation_is_a_function_of_the_seed(env: str, agent: Agent) -> None:
    first = agent.evaluate(env, episodes=3, seed=4)
    assert first.shape == (3,)
    np.testing.assert_array_equal(first, agent.evaluate(env, episodes=3, seed=4))
    assert len({*first, *agent.evaluate(env, episodes=3, seed=5)}) == 6


def test_evaluation_plays_the_returns_of_the_policy(agent: Agent) -> None:
    env = gymnasium.make("Pendulum-v1")
    seed = int(np.random.SeedSequence([EVALUATION_SEED + 4, 0]).generate_state(1)[0])
    obs, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        obs, reward, terminated, truncated, _ = env.step(agent.act(obs))
        total += float(reward)
        ended = terminated or truncated
    np.testing.assert_allclose(agent.evaluate("Pendulum-v1", episodes=1, seed=4), total, rtol=1e-6)


def test_evaluation_does_not_touch_the_environment_handed_in(agent: Agent) -> None:
    env = gymnasium.make("Pendulum-v1")
    env.reset(seed=0)
    env.step(np.ones(1, np.float32))
    before = env.unwrapped.state.copy()
    agent.evaluate(env, episodes=1)
    np.testing.assert_array_equal(env.unwrapped.state, before)
    env.step(np.ones(1, np.float32))


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ("MountainCarContinuous-v0", "observations have shape"),
        ("Pendulum-v9", "did you mean 'Pendulum-v1'"),
        ("jax/Pendulm-v1", "did you mean 'jax/Pendulum-v1'"),
        ("CartPole-v1", "expected a Box of continuous actions"),
    ],
)
def test_evaluation_elsewhere_is_refused(env: str, sentence: str, agent: Agent) -> None:
    with pytest.raises(UserError, match=sentence):
        agent.evaluate(env, 1)


def test_evaluation_where_the_actions_differ_is_refused(agent: Agent) -> None:
    half = gymnasium.wrappers.RescaleAction(gymnasium.make("Pendulum-v1"), np.float32(-1), np.float32(1))
    with pytest.raises(UserError, match="its actions lie in"):
        agent.evaluate(half, episodes=1)


def test_no_episodes_are_refused(agent: Agent) -> None:
    with pytest.raises(UserError, match="episodes: found 0"):
        agent.evaluate("Pendulum-v1", episodes=0)


# ---------------------------------------------------------------------- train


def make_pendulum() -> gymnasium.Env:
    return gymnasium.make("Pendulum-v1")


class Unrecorded(gymnasium.Wrapper):
    """A wrapper that a spec cannot make again."""


@pytest.fixture(scope="module")
def trained_by_id() -> Agent:
    return fittedq.train("ddpg", "Pendulum-v1", steps=60, seed=2, **TINY)


@pytest.mark.parametrize(
    "make",
    [make_pendulum, lambda: make_pendulum, lambda: Unrecorded(make_pendulum())],
    ids=["instance", "callable", "wrapped"],
)
def test_an_instance_and_a_callable_train_the_same_agent_as_the_id(make: Any, trained_by_id: Agent) -> None:
    trained = fittedq.train("ddpg", make(), steps=60, seed=2, **TINY)
    np.testing.assert_array_equal(trained.act(observations(5)), trained_by_id.act(observations(5)))
    assert trained_by_id.env_id == "Pendulum-v1"


def test_a_vector_environment_trains() -> None:
    vector = SyncVectorEnv([make_pendulum] * 2)
    trained = fittedq.train("ddpg", vector, steps=40, **TINY)
    assert trained.action_set == ACTIONS
    assert trained.act(observations(2)).shape == (2, 1)


def test_training_with_evaluation_and_a_folder_leaves_a_loadable_run_and_changes_nothing(
    trained_by_id: Agent, tmp_path: Path
) -> None:
    wrapped, out = Unrecorded(make_pendulum()), tmp_path / "run"
    trained = fittedq.train("ddpg", wrapped, steps=60, eval_every=20, eval_episodes=1, out=out, seed=2, **TINY)
    np.testing.assert_array_equal(
        trained.act(observations(3)), trained_by_id.act(observations(3)), err_msg="evaluation changed the run"
    )
    np.testing.assert_array_equal(Agent.load(out / "last").act(observations(3)), trained.act(observations(3)))
    assert fittedq.load(out).algorithm == trained.algorithm
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [20, 40, 60]
    best = max(records, key=lambda record: record["eval_mean"])
    np.testing.assert_allclose(
        fittedq.load(out).evaluate("Pendulum-v1", 1, seed=2), [best["eval_mean"]], err_msg="best/ is not the best agent"
    )


def test_a_jax_environment_can_be_handed_in() -> None:
    trained = fittedq.train("ddpg", Pendulum(), steps=60, **TINY)
    assert trained.env_id is None, "an environment made in Python has no id to make it by"
    assert np.all(trained.act(observations(5)) != untrained("ddpg").act(observations(5)))


def test_a_vector_environment_without_a_spec_needs_an_environment_to_evaluate_on() -> None:
    with pytest.raises(UserError, match="eval_env"):
        fittedq.train("ddpg", SyncVectorEnv([make_pendulum]), steps=40, eval_every=10, **TINY)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"algorithm": "dpg"}, "algorithm 'dpg' is unknown; did you mean 'ddpg'"),
        ({"gama": 0.9}, "setting 'gama' is unknown; did you mean 'gamma'"),
        ({"batchsize": 4}, "setting 'batchsize' is unknown; did you mean 'batch_size'"),
        ({"gamma": 1.0}, "setting gamma: found 1.0, expected a number below 1"),
        ({"batch_size": 0}, "setting batch_size: found 0"),
        ({"n_envs": -2}, "setting n_envs: found -2"),
        ({"replay_size": 0}, "setting replay_size: found 0"),
        ({"updates_per_step": 0.0}, "setting updates_per_step: found 0.0"),
        ({"gamma": float("nan")}, "setting gamma: found nan"),
        ({"activation": "rely"}, "setting activation: found 'rely'; did you mean 'relu'"),
        ({"steps": 0}, "steps: found 0"),
        ({"steps": -3}, "steps: found -3"),
        ({"seed": -1}, "seed: found -1"),
        ({"eval_every": -1}, "eval_every: found -1"),
        ({"eval_episodes": 0}, "eval_episodes: found 0"),
        ({"env": "Pendulum-v3"}, "did you mean 'Pendulum-v1'"),
        ({"env": "CartPole-v1"}, r"action space: found Discrete\(2\)"),
        ({"env": "jax/Pendulum-v1", "asynchronous": True}, "setting asynchronous: found true"),
        ({"env": "jax/Pendulum-v1", "updates_per_step": 0.5}, "setting updates_per_step: 0.5"),
        ({"noise_reversion": 3.0}, "noise_reversion"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    given = {"algorithm": "ddpg", "env": "Pendulum-v1", "steps": 40} | arguments
    with pytest.raises(UserError, match=sentence):
        fittedq.train(given.pop("algorithm"), given.pop("env"), **given)


@pytest.mark.parametrize("maximizer", ["auto", "cem"])
@pytest.mark.parametrize("action_set", [BOX, TRIANGLE], ids=["box", "polytope"])
def test_an_agent_that_solves_acts_in_a_state_as_it_does_in_any_batch(
    maximizer: str, action_set: AbstractActionSet
) -> None:
    """Its random starts too are the same: q has several maxima here."""
    agent = agent_in("explicit_fqi", action_set=action_set, maximizer=maximizer)
    obs = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    alone = np.array([agent.act(one) for one in obs])
    np.testing.assert_allclose(agent.act(obs), alone, atol=1e-5)
    np.testing.assert_allclose(agent.act(obs[::-1])[::-1], alone, atol=1e-5)
    assert agent.act(obs[:0]).shape == (0, 2)
