"""Environments of the gymnax interface: steps against their own, rollouts against loops, and what is refused."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fittedq
from fittedq.algorithms.svg import SVG
from fittedq.approx.networks import DeterministicPolicy
from fittedq.cli.main import main
from fittedq.envs.gymnax import Gymnax
from fittedq.envs.native import auto_reset
from fittedq.envs.simulator import Simulator, SimulatorModel
from fittedq.errors import UserError
from fittedq.template.rollout import NoTail, Rollout
from fittedq.trainers.compiled import CompiledTrainer
from fittedq.trainers.settings import TrainSettings
from fittedq.types import Components, Transition
from gymnax_envs import Lag, Late, Package, Params, Rounded

KEY = jax.random.key(0)
SMALL = {"hidden": (8,), "random_steps": 10, "batch_size": 8, "replay_size": 100}
PHYSICS = {"dynamics": "env", "policy": "deterministic", **SMALL}
TRANSLATED = {"normalize_obs": True, "scale_rewards": True}


def played(env, steps, action=0.0):
    """(s, r, s', terminated, truncated, what to act on next) of each step."""
    step, (state, obs), rows = jax.jit(auto_reset(env)), env.reset(KEY), []
    for number in range(steps):
        now = obs
        state, next_obs, obs, *rest = step(state, jnp.full(1, action), jax.random.fold_in(KEY, number))
        rows.append((now[0], rest[0], next_obs[0], bool(rest[1]), bool(rest[2]), obs[0]))
    return rows


@pytest.mark.parametrize("plant", [Lag, Package])
def test_the_time_limit_truncates_and_the_last_observation_is_the_true_one(plant):
    env = Gymnax(plant())
    load = env.reset(KEY)[0].inner.own.load
    rows = played(env, 7)
    assert [row[3] for row in rows] == [False] * 7
    assert [row[4] for row in rows] == [False] * 4 + [True, False, False]
    for row in rows[:5]:
        np.testing.assert_allclose(row[2], row[0] + 0.1 * load, rtol=1e-5)
        np.testing.assert_allclose(row[1], -(row[2] ** 2), rtol=1e-5)
    assert rows[4][5] == rows[5][0] != rows[4][2]
    assert (env.obs_size, env.episode_length, env.action_set.low) == (1, 5, (-1.0,))


@pytest.mark.parametrize("plant", [Lag, Package])
def test_an_end_before_the_limit_terminates(plant):
    rows = played(Gymnax(plant(), {"drift": 100.0}), 2)
    assert rows[0][3] and not rows[0][4]


def test_parameters_and_the_length_of_an_episode_are_given():
    assert Gymnax(Lag(), episode_length=3).episode_length == 3
    assert Gymnax(Lag(), {"max_steps_in_episode": 7}).episode_length == 7
    assert Gymnax(Lag(), Params(max_steps_in_episode=8)).episode_length == 8
    assert [row[4] for row in played(Gymnax(Lag(), episode_length=3), 4)] == [False, False, True, False]


def test_a_state_is_stored_exactly_whatever_it_holds():
    env = Gymnax(Lag())
    simulator = Simulator(env)
    inner = env.reset(jax.random.key(2**31 - 1))[0].inner
    flat = jax.jit(simulator.flat)(inner)
    assert flat.dtype == jnp.float32 and flat.shape == (simulator.size,)
    again = jax.jit(simulator.unflat)(flat)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(inner), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_a_rollout_is_the_environments_own_steps_from_where_it_was():
    env = Gymnax(Lag())
    model = SimulatorModel(Simulator(env))

    @jax.jit
    def rolled(keys):
        policy, inner = DeterministicPolicy(1, env.action_set, (4,), KEY), jax.vmap(env.begin)(keys)
        stored, obs = jax.vmap(model.simulator.flat)(inner), jax.vmap(env.observe)(inner)
        nets = Components(policy=policy, model=model)
        return policy, inner, Rollout(3, 0.9, NoTail())(nets, policy, obs, KEY, stored=stored)

    policy, inner, found = jax.device_get(rolled(jax.random.split(KEY, 3)))
    for row in range(3):
        x, load, total = inner.own.x[row], inner.own.load[row], 0.0
        for step in range(3):
            x = x + policy.act(np.reshape(x, (1, 1)), np.zeros((1, 1), np.float32))[0, 0] + np.float32(0.1) * load
            total -= 0.9**step * x**2
        np.testing.assert_allclose(found[row], total, rtol=1e-5)


@pytest.mark.slow
def test_each_row_of_the_replay_has_the_state_that_was_observed_there():
    env = Gymnax(Lag())
    algorithm = SVG(dynamics="env", model=SimulatorModel(Simulator(env)), hidden=(8,), policy="deterministic")
    settings = TrainSettings(random_steps=4, batch_size=8, replay_size=50, n_envs=2)
    trainer = CompiledTrainer(algorithm, env, settings, seed=0)
    trainer.advance(24)
    rows = trainer._state.replay.rows[:24]
    width = Transition.width(1, 1)
    states = jax.vmap(algorithm.model.simulator.unflat)(rows[:, width:])
    np.testing.assert_array_equal(states.obs[:, 0], rows[:, 0])
    np.testing.assert_allclose(states.own.x + rows[:, 1] + 0.1 * states.own.load, rows[:, 2], rtol=1e-5, atol=1e-6)
    drawn = trainer._draw(trainer._state.replay, KEY)
    np.testing.assert_array_equal(jax.vmap(algorithm.model.simulator.unflat)(drawn[1].state).obs, drawn[0][:, :1])


@pytest.mark.slow
def test_physics_are_learned_through_and_a_resumed_run_is_the_one_that_nobody_stopped(tmp_path):
    for folder, steps in (("straight", 40), ("stopped", 20)):
        fittedq.train("svg", Gymnax(Lag()), steps=steps, out=tmp_path / folder, **PHYSICS, **TRANSLATED)
    resumed = fittedq.resume(tmp_path / "stopped", steps=40, env=Gymnax(Lag()))
    whole = fittedq.load(tmp_path / "straight" / "last")
    for one, other in zip(jax.tree.leaves(resumed.nets.policy), jax.tree.leaves(whole.nets.policy), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.isfinite(whole.evaluate(Gymnax(Lag()), 2)).all()


class Fourfold(Lag):
    """The same plant, in units a quarter as large."""

    def reset(self, key, params):
        obs, state = super().reset(key, params)
        return 4 * obs, state

    def step(self, key, state, action, params):
        obs, state, reward, done, info = super().step(key, state, action, params)
        return 4 * obs, state, 4 * reward, done, info


@pytest.mark.slow
def test_normalized_and_scaled_a_plant_in_other_units_is_the_same_to_the_bit():
    learned = []
    for plant in (Lag, Fourfold):
        env = Gymnax(plant())
        algorithm = SVG(dynamics="env", model=SimulatorModel(Simulator(env)), hidden=(8,), policy="deterministic")
        settings = TrainSettings(random_steps=10, batch_size=8, replay_size=50, n_envs=2, **TRANSLATED)
        trainer = CompiledTrainer(algorithm, env, settings, seed=0)
        trainer.advance(20)
        trainer.advance(20)
        assert trainer.compilations == 1
        learned.append(trainer.nets())
    assert not jax.tree.leaves(learned[0].model)
    for one, other in zip(*(jax.tree.leaves((nets.policy, nets.critic)) for nets in learned), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_class_is_named_on_the_command_line_and_its_code_trusted_as_any(tmp_path, capsys):
    name = "gymnax/gymnax_envs:Lag"
    given = ["--steps", "12", "--eval-every", "0", "--set", "hidden=4,4", "--set", "random_steps=4"]
    more = ["--env-kwargs", 'params={"drift": 0.2}', "--history", "2", "--rate-limit", "0.5"]
    assert main(["train", "td3", name, *given, *more, "--out", str(tmp_path / "run")]) == 0
    assert main(["eval", str(tmp_path / "run" / "last"), "--episodes", "1"]) == 2
    assert "names code to be run for its environment: gymnax/gymnax_envs:Lag" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "run" / "last"), "--episodes", "1", "--trust-code", name]) == 0
    assert main(["train", "td3", "gymnax/gymnax_envs:Log", *given]) == 2
    assert "gymnax_envs has no 'Log'; did you mean 'Lag'" in capsys.readouterr().err


class Missing:
    def __init__(self, *names):
        for name in {"reset", "step", "action_space"} - set(names):
            setattr(self, name, getattr(Lag(), name))


class Three(Lag):
    def step(self, key, state, action, params):
        return super().step(key, state, action, params)[:3]


class Broken(Lag):
    def reset(self, key, params):
        raise KeyError("level")


class Discrete(Lag):
    def action_space(self, params):
        return SimpleNamespace(n=3, shape=())


class Grows(Lag):
    def step(self, key, state, action, params):
        obs, *rest = super().step(key, state, action, params)
        return (jnp.concatenate([obs, obs]), *rest)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Gymnax(Missing("reset")), r"Missing: it has no reset; expected a method reset\(key, params\)"),
        (lambda: Gymnax(Missing("step")), r"Missing: it has no step; expected a method step\(key, state, action"),
        (lambda: Gymnax(Missing("action_space")), "Missing: it has no action_space"),
        (lambda: Gymnax(Missing()), "found None steps for an episode, .* give episode_length"),
        (lambda: Gymnax(Lag(), episode_length=0), "found 0 steps for an episode"),
        (lambda: Gymnax(Missing(), {"drift": 1.0}), "no default_params with replace"),
        (lambda: Gymnax(Lag(), {"drif": 1.0}), "its params: .*drif"),
        (lambda: Gymnax(Three()), "its step returned 3 values, expected five"),
        (lambda: Gymnax(Broken()), "its reset raised KeyError: 'level'"),
        (lambda: Gymnax(Discrete()), "expected a Box of continuous actions"),
        (lambda: Gymnax(Grows()), "expected the same"),
    ],
)
def test_what_the_interface_asks_for_is_named(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_a_plant_with_dead_time_is_differentiated():
    assert fittedq.train("svg", Gymnax(Late()), steps=1, **PHYSICS).obs_size == 1


@pytest.mark.parametrize(
    ("env", "settings", "sentence"),
    [
        (Rounded, {}, "env needs a step that can be differentiated, .* that is zero everywhere; choose learned"),
        (Lag, {"horizon": "auto"}, "does not hold its state, so gradients and model are not measured"),
        pytest.param(Lag, {"health_every": 10}, "does not hold its state, so gradients and", marks=pytest.mark.slow),
        (Lag, {"critic_target": "rollout"}, "they need critic_target td"),
    ],
)
def test_physics_that_cannot_be_used_so_are_refused(env, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        fittedq.train("svg", Gymnax(env()), steps=1, **PHYSICS | settings)
