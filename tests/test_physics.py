"""Simulators in JAX as known physics: steps against the simulators themselves, derivatives against differences."""

from __future__ import annotations

import warnings

import gymnasium as gym
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import fittedq
from fittedq.algorithms.svg import SVG
from fittedq.approx.models import KnownModel
from fittedq.envs.native import Pendulum, find_jax_env, physics
from fittedq.envs.physics import CART_POLE, BraxEnv, MjxEnv
from fittedq.envs.process import CartPole
from fittedq.errors import UserError
from fittedq.problems.probes import OneStep
from fittedq.trainers.compiled import CompiledTrainer
from fittedq.trainers.settings import TrainSettings

KEY = jax.random.PRNGKey(0)


@pytest.fixture(scope="module")
def cart_pole():
    return find_jax_env("jax/MjxCartPole-v1")


@pytest.fixture(scope="module")
def cart_step(cart_pole):
    return jax.jit(physics(cart_pole))


def test_an_observation_holds_the_state(cart_pole):
    inner = jnp.array([0.3, 2.0, -0.7, 1.5])
    obs = cart_pole.observe(inner)
    np.testing.assert_allclose(obs, [np.cos(2.0), np.sin(2.0), 0.3, -0.7, 1.5], rtol=1e-6)
    np.testing.assert_allclose(cart_pole.recall(obs), inner, rtol=1e-6)
    for env in (Pendulum(), CartPole()):
        state, obs = env.reset(KEY)
        np.testing.assert_allclose(env.recall(obs), state.inner, rtol=1e-6)


def test_mjx_takes_mujocos_steps(cart_pole, cart_step):
    model = mujoco.MjModel.from_xml_string(CART_POLE)
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = [0.1, 0.5], [0.2, -0.4]
    obs = cart_pole.observe(jnp.asarray(np.concatenate([data.qpos, data.qvel]), jnp.float32))
    for force in (5.0, -20.0, 3.0):  # beyond its range a force is clipped
        data.ctrl[:] = np.clip(force, -10, 10)
        mujoco.mj_step(model, data, nstep=2)
        obs, reward, terminated = cart_step(obs, jnp.array([force]), obs)
        truth = np.concatenate([[np.cos(data.qpos[1]), np.sin(data.qpos[1]), data.qpos[0]], data.qvel])
        np.testing.assert_allclose(obs, truth, atol=2e-5)
        assert reward == pytest.approx(np.exp(-((truth[2] / 2) ** 2)) * (1 - truth[0]) / 2, abs=1e-5)
        assert not terminated


@pytest.mark.slow
def test_mjx_has_the_derivative_of_its_step(cart_pole, cart_step):
    """Backwards, as policies learn through it."""
    obs, width = cart_pole.observe(jnp.array([0.1, 0.5, 0.2, -0.4])), 1.0
    _, pullback = jax.vjp(lambda force: cart_step(obs, force, obs)[0], jnp.array([2.0]))
    slope = jnp.concatenate([pullback(one)[0] for one in jnp.eye(len(obs))])
    ends = [cart_step(obs, jnp.array([2.0 + side]), obs)[0] for side in (width, -width)]
    difference = (ends[0] - ends[1]) / (2 * width)
    np.testing.assert_allclose(slope, difference, rtol=2e-3, atol=2e-5)


@pytest.fixture(scope="module")
def brax():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from brax import envs

        return envs.get_environment("inverted_pendulum", backend="generalized")


@pytest.mark.slow
def test_brax_takes_its_own_steps(brax):
    env = BraxEnv(brax, steps=50)
    assert (env.obs_size, env.action_set.size, env.episode_length) == (4, 1, 50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = jax.jit(env.begin)(KEY)
        force = jnp.array([0.4])
        theirs = jax.jit(brax.step)(start, force)
        next_obs, reward, terminated = jax.jit(physics(env))(env.observe(start), force, env.observe(start))
        KnownModel(physics(env)).check(env.observe(start)[None], force[None])
    truth = np.concatenate([theirs.pipeline_state.q, theirs.pipeline_state.qd])
    np.testing.assert_allclose(next_obs, truth, atol=1e-5)
    assert float(reward) == float(theirs.reward) and bool(terminated) == bool(theirs.done)


@pytest.mark.slow
def test_known_physics_of_the_environment_trains():
    loop = TrainSettings(random_steps=8, batch_size=8)
    settings = {"dynamics": "env", "horizon": "2", "hidden": (8,), "model": physics(Pendulum())}
    trainer = CompiledTrainer(SVG(**settings), Pendulum(), loop, 0)
    trainer.advance(16)
    assert trainer.updates > 0
    agent = fittedq.train(
        "svg", "jax/Pendulum-v1", steps=16, **settings | {"model": None}, random_steps=8, batch_size=8
    )
    for one, other in zip(jax.tree.leaves(agent.nets.policy), jax.tree.leaves(trainer.nets().policy), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("env", "words"),
    [("Pendulum-v1", "stepped on the host"), (OneStep, "a derivative by the action that is zero everywhere")],
)
def test_unknown_physics_is_refused(env, words):
    env = env() if callable(env) else env
    with pytest.raises(UserError, match=words):
        fittedq.train("svg", env, steps=10, dynamics="env")


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (CART_POLE.replace('ctrlrange="-10 10"', ""), "no ctrlrange"),
        (CART_POLE.replace("<motor ", '<general dyntype="integrator" '), "a state of their own"),
    ],
)
def test_models_that_do_not_fit_are_refused(xml, words):
    with pytest.raises(UserError, match=words):
        MjxEnv(mujoco.MjModel.from_xml_string(xml), lambda obs, action, next_obs: 0.0)


def test_wrapped_or_foreign_environments_are_not_brax_ones():
    with pytest.raises(UserError, match="bare Brax environment"):
        BraxEnv(gym.make("Pendulum-v1"))


def test_a_model_without_a_slope_is_refused():
    flat = KnownModel(lambda s, a, noise: (s + jnp.round(a[0]), jnp.round(a[0]), False))
    with pytest.raises(UserError, match="zero everywhere"):
        flat.check(jnp.ones((4, 2)), jnp.zeros((4, 1)))
