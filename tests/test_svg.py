"""Stochastic value gradients against closed forms, reductions and backpropagation by hand (theory, G3–G5, G8)."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import warnings
from typing import Any, ClassVar

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fittedq
from fittedq.actions.base import Box
from fittedq.algorithms import REGISTRY
from fittedq.algorithms.svg import SVG
from fittedq.approx.models import GaussianModel, KnownModel
from fittedq.bellman import gaussian_log_prob
from fittedq.data.statistics import RunningMoments
from fittedq.diagnose.residuals import bellman_slope, critic_slope, euler_residual, projected_residual
from fittedq.envs.gym import GymSource
from fittedq.envs.native import Pendulum
from fittedq.errors import UserError
from fittedq.problems.dynamics import brock_mirman, linear_quadratic, pendulum
from fittedq.problems.lqr import LinearQuadratic
from fittedq.template.gradients import gradient_health, model_error, windows
from fittedq.template.losses import Improve
from fittedq.template.rollout import (
    CriticTail,
    ImproveThrough,
    Likelihood,
    NoTail,
    Rollout,
    Starts,
    ValueTail,
    held_out,
)
from fittedq.template.targets import FirstCritic, MinOverCritics
from fittedq.trainers.compiled import CompiledTrainer
from fittedq.trainers.host import HostTrainer
from fittedq.trainers.settings import TrainSettings
from fittedq.trainers.translated import Translated
from fittedq.types import AbstractCritic, AbstractPolicy, AbstractValue, Components, Transition
from methods import built, made

KEY = jax.random.PRNGKey(3)
UNIT = Box((-1.0,), (1.0,))


class Linear(AbstractPolicy):
    """a ~ N(−Ks, L Lᵀ)."""

    gain: Any
    root: Any
    action_set: Box = eqx.field(default=UNIT, kw_only=True)

    def act(self, obs, normal):
        return -obs @ self.gain.T + normal @ self.root.T

    def sample(self, obs, key):
        normal = jax.random.normal(key, (obs.shape[0], self.root.shape[0]), obs.dtype)
        return self.act(obs, normal), gaussian_log_prob(normal, jnp.zeros_like(normal))


class Quadratic(AbstractCritic):
    """q(s, a) = −[s; a]ᵀ H [s; a]."""

    H: Any
    action_set: ClassVar[Box] = Box([-1.0], [1.0])
    has_gradient: ClassVar[bool] = True

    @property
    def size(self):
        return 1

    def __call__(self, obs, action, key=None):
        x = jnp.concatenate([obs, action], axis=-1)
        return -jnp.einsum("bi,ij,bj->b", x, self.H, x)[None]

    def subset(self, indices):
        return self


class QuadraticV(AbstractValue):
    """v(s) = −sᵀPs."""

    P: Any

    def __call__(self, obs, key=None):
        return -jnp.einsum("bi,ij,bj->b", obs, self.P, obs)


def scalar_problem():
    return LinearQuadratic.scalar(), np.array([[0.3]]), np.array([[0.05]]), np.array([[1.7]])


def plane_problem():
    problem = LinearQuadratic(
        A=np.array([[0.9, 0.2, 0.0], [0.0, 0.8, 0.1], [0.1, 0.0, 0.7]]),
        B=np.array([[0.5, 0.0], [0.0, 0.4], [0.3, 0.2]]),
        Q=np.diag([1.0, 0.5, 0.8]),
        R=np.array([[0.6, 0.1], [0.1, 0.4]]),
        W=np.diag([0.02, 0.01, 0.03]),
        gamma=0.9,
    )
    gain = np.array([[0.2, 0.1, 0.0], [0.0, 0.3, 0.1]])
    return problem, gain, np.diag([0.05, 0.03]), np.diag([1.0, 0.7, 1.3])


def exactly_fitted(problem):
    """The same dynamics with A and B found by least squares from noiseless transitions."""
    rng = np.random.default_rng(0)
    size, m = problem.B.shape
    x = rng.standard_normal((50, size + m))
    found = np.linalg.lstsq(x, x @ np.hstack([problem.A, problem.B]).T, rcond=None)[0].T
    return LinearQuadratic(found[:, :size], found[:, size:], problem.Q, problem.R, problem.W, problem.gamma)


QUICK = [(scalar_problem, "q", False, 2)]
EVERY = [*itertools.product((scalar_problem, plane_problem), ("q", "v"), (False, True), (0, 1, 2, 5, 20))]


@pytest.mark.parametrize(
    ("make", "tail", "fitted", "horizon"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in EVERY
        if case[1] == "q" or case[3] > 0
    ],
)
def test_the_gradient_is_the_truncated_closed_form(make, tail, fitted, horizon):
    problem, gain, covariance, first = make()
    critic, value = problem.q_matrix(problem.policy_P(gain)), problem.policy_P(gain)
    model = KnownModel(linear_quadratic(exactly_fitted(problem) if fitted else problem))
    nets = Components(critic=Quadratic(jnp.asarray(critic)), value=QuadraticV(jnp.asarray(value)), model=model)
    root = jnp.asarray(np.linalg.cholesky(covariance))
    end = CriticTail(FirstCritic()) if tail == "q" else ValueTail()

    def gradient(rollout, key):
        start_key, key = jax.random.split(key)
        obs = jax.random.normal(start_key, (4000, first.shape[0])) @ jnp.asarray(np.linalg.cholesky(first)).T

        def value(gain):
            return jnp.mean(rollout(nets, Linear(gain, root), obs, key))

        return jax.grad(value)(jnp.asarray(gain))

    rollout = Rollout(horizon, problem.gamma, end)
    each = np.asarray(jax.jit(jax.vmap(lambda key: gradient(rollout, key)))(jax.random.split(KEY, 40)))
    truth = problem.policy_gradient(gain, covariance, first, steps=horizon + (tail == "q"))
    error = each.std(axis=0) / np.sqrt(len(each))
    np.testing.assert_array_less(np.abs(each.mean(axis=0) - truth), 4.5 * error + 1e-4)
    # A sum of one term more or less lies far outside that error.
    longer = problem.policy_gradient(gain, covariance, first, steps=horizon + (tail == "q") + 1)
    if horizon < 5:
        assert np.max(np.abs(longer - truth) / error) > 10


def test_scalar_closed_form_reads_as_in_the_theory():
    problem, gain, covariance, first = scalar_problem()
    found = [float(problem.policy_gradient(gain, covariance, first, steps=n + 1)[0, 0]) for n in (0, 1, 2, 5, 20)]
    np.testing.assert_allclose(found, [3.156708, 4.649089, 5.397473, 6.241200, 7.201802], atol=1e-6)


@pytest.mark.slow
def test_an_endless_horizon_is_backpropagation_through_the_known_rollout():
    algorithm = SVG(horizon="inf", episode_length=12, policy="deterministic", dynamics="pendulum", hidden=(8,))
    box = Box((-2.0,), (2.0,))
    nets = algorithm.networks(3, box, KEY)
    angle = jnp.linspace(-1, 1, 5)
    obs = jnp.stack([jnp.cos(angle), jnp.sin(angle), angle], axis=1)

    def by_hand(policy):
        total, state = 0.0, obs
        for step in range(12):
            action = policy.act(state, jnp.zeros((5, 1)))
            state, reward, _ = jax.vmap(pendulum)(state, action, jnp.zeros_like(state))
            total += algorithm.gamma**step * reward
        return -jnp.mean(total)

    loss = algorithm.template(box).updates[0].loss
    assert nets.critic is None and isinstance(loss, ImproveThrough) and isinstance(loss.rollout.tail, NoTail)
    data = Transition(obs, jnp.zeros((5, 1)), jnp.zeros(5), obs, jnp.zeros(5, bool), jnp.zeros(5, bool))
    found = jax.grad(lambda policy: loss(policy, nets, Starts(data), KEY)[0])(nets.policy)
    for mine, hand in zip(jax.tree.leaves(found), jax.tree.leaves(jax.grad(by_hand)(nets.policy)), strict=True):
        np.testing.assert_allclose(mine, hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "combine"), [pytest.param("ddpg", FirstCritic(), marks=pytest.mark.slow), ("sac", MinOverCritics())]
)
def test_horizon_zero_is_the_actor_loss_of_ddpg_and_of_sac_without_temperature(name, combine):
    nets = made(REGISTRY[name](hidden=(16,)), 3, UNIT, KEY).replace("log_temperature", None)
    obs = jax.random.normal(KEY, (32, 3))
    data = Transition(obs, jnp.zeros((32, 1)), jnp.zeros(32), obs, jnp.zeros(32, bool), jnp.zeros(32, bool))
    plain = jax.grad(lambda policy: Improve(combine)(policy, nets, obs, KEY)[0])(nets.policy)
    through = ImproveThrough(Rollout(0, 0.99, CriticTail(combine)))
    ours = jax.grad(lambda policy: through(policy, nets, Starts(data), KEY)[0])(nets.policy)
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def seen(rows=64, key=KEY):
    """Transitions of a noisy linear system in three dimensions."""
    keys = jax.random.split(key, 3)
    obs, action = jax.random.normal(keys[0], (rows, 3)), jax.random.uniform(keys[1], (rows, 1), minval=-1, maxval=1)
    next_obs = 0.9 * obs + 0.5 * action + 0.1 * jax.random.normal(keys[2], (rows, 3))
    return Transition(obs, action, -jnp.sum(obs**2, axis=1), next_obs, jnp.zeros(rows, bool), jnp.zeros(rows, bool))


@pytest.mark.slow
def test_inferred_noise_replays_the_observed_step():
    batch = seen()
    nets = made(SVG(hidden=(16,), model_hidden=(16,)), 3, UNIT, KEY)
    action, _ = nets.policy.replay(batch.obs, nets.policy.infer(batch.obs, batch.action))
    np.testing.assert_allclose(action, batch.action, atol=2e-6)
    model = nets.model.fold(batch)
    noise = model.infer(batch.obs, batch.action, batch.next_obs)
    np.testing.assert_allclose(model(batch.obs, batch.action, noise).next_state, batch.next_obs, atol=2e-6)
    known = KnownModel(lambda s, a, noise: (0.9 * s + 0.5 * a + 0.1 * noise, -jnp.sum(s**2), False))
    noise = known.infer(batch.obs, batch.action, batch.next_obs)
    np.testing.assert_allclose(known(batch.obs, batch.action, noise).next_state, batch.next_obs, atol=2e-6)

    value = QuadraticV(jnp.eye(3))
    nets = Components(policy=nets.policy, model=known, value=value)
    loss = ImproveThrough(Rollout(1, 0.9, ValueTail()), inferred=True)(nets.policy, nets, Starts(batch), KEY)[0]
    np.testing.assert_allclose(loss, -jnp.mean(batch.reward + 0.9 * value(batch.next_obs)), rtol=1e-5)


def test_what_follows_a_termination_does_not_count():
    ends = KnownModel(lambda s, a, noise: (s + 1.0, jnp.sum(s), s[0] > 0.5))
    nets = Components(model=ends, policy=Linear(jnp.zeros((1, 1)), jnp.zeros((1, 1))), value=QuadraticV(-jnp.eye(1)))
    value = Rollout(3, 0.5, ValueTail())(nets, nets.policy, jnp.array([[0.0], [1.0], [-5.0]]), KEY)
    np.testing.assert_allclose(value, [0.0 + 0.5 * 1.0, 1.0, -5 - 2 - 0.75 + 0.125 * 4.0], rtol=1e-6)


@pytest.mark.slow
def test_a_model_learns_and_never_sees_what_is_held_out():
    model = GaussianModel(3, UNIT, (32,), KEY, members=3)
    loss, optimizer = Likelihood(1e6), optax.adam(3e-3)
    optimizer_state = optimizer.init(model)
    nets = Components()

    @jax.jit
    def step(model, optimizer_state, key):
        batch = seen(128, key)
        model = loss.prepare(model, batch)
        gradient, metrics = jax.grad(loss, has_aux=True)(model, nets, batch, key)
        change, optimizer_state = optimizer.update(gradient, optimizer_state, model)
        return optax.apply_updates(model, change), optimizer_state, metrics

    for key in jax.random.split(KEY, 600):
        model, optimizer_state, metrics = step(model, optimizer_state, key)
    assert float(metrics["held_out_error"]) < 0.1
    np.testing.assert_allclose(float(jnp.mean(model._step(*seen(90)[:2])[1])), 0.1, rtol=0.15)

    batch = seen(256)
    aside = held_out(batch)
    assert 0.01 < float(jnp.mean(aside)) < 0.15
    moved = batch._replace(reward=jnp.where(aside, 1e3, batch.reward))
    same = [jax.grad(lambda m, b=b: loss(m, nets, b, KEY)[0])(model) for b in (batch, moved)]
    for one, other in zip(*map(jax.tree.leaves, same), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_shipped_pendulum_is_gymnasiums():
    env, step = gym.make("Pendulum-v1"), jax.jit(pendulum)
    obs, _ = env.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(50):
        action = rng.uniform(-2, 2, 1).astype(np.float32)
        after, reward, *_ = env.step(action)
        found = step(obs, action, np.zeros(3, np.float32))
        np.testing.assert_allclose(found[0], after, atol=1e-4)
        np.testing.assert_allclose(found[1], reward, atol=1e-3)
        obs = after


# ---------------------------------------------------------------------- first-order conditions


def test_residuals_vanish_at_the_optimum_of_lqr_and_grow_linearly():
    problem = plane_problem()[0]
    noiseless = LinearQuadratic(problem.A, problem.B, problem.Q, problem.R, 1e-12 * np.eye(3), problem.gamma)
    critic, value = Quadratic(jnp.asarray(noiseless.H)), QuadraticV(jnp.asarray(noiseless.P))
    obs = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    box = Box((-50.0, -50.0), (50.0, 50.0))
    step = linear_quadratic(noiseless)

    @jax.jit
    def found(away):
        action = -obs @ jnp.asarray(noiseless.gain).T + away
        slope = critic_slope(critic, obs, action)
        through = bellman_slope(step, value, obs, action, jnp.zeros_like(obs), noiseless.gamma)
        return slope, through, projected_residual(action, slope, box, obs)

    for away in (0.0, 0.1, 0.2):
        truth = -2 * away * noiseless.M.sum(axis=1)
        *slopes, norm = found(away)
        for slope in slopes:
            np.testing.assert_allclose(slope, np.broadcast_to(truth, slope.shape), atol=2e-4)
        np.testing.assert_allclose(norm, np.linalg.norm(truth), atol=2e-4)


def test_an_active_bound_leaves_no_residual():
    problem = LinearQuadratic.scalar()
    critic = Quadratic(jnp.asarray(problem.H))
    obs, narrow = jnp.array([[1.0]]), Box((-0.1,), (0.1,))
    slope = critic_slope(critic, obs, jnp.array([[-0.1]]))
    assert abs(float(slope[0, 0])) > 0.5
    np.testing.assert_allclose(projected_residual(jnp.array([[-0.1]]), slope, narrow, obs), 0.0, atol=1e-7)


def test_euler_residual_of_growth_is_zero_at_the_best_share_alone():
    alpha, gamma = 0.36, 0.95
    step, best = brock_mirman(alpha), 1 - alpha * gamma
    capital = jnp.linspace(0.05, 0.6, 12)[:, None]
    still = jnp.zeros_like(capital)

    @jax.jit
    def residual(share):
        return euler_residual(step, lambda obs: jnp.full_like(obs, share), capital, still, still, gamma).ravel()

    assert np.abs(residual(best)).max() < 1e-5
    small, large = residual(best + 0.01), residual(best + 0.02)
    assert np.abs(small).min() > 0.01
    np.testing.assert_allclose(large, 2 * small, rtol=0.1)
    value = lambda obs: alpha / (1 - alpha * gamma) * jnp.log(obs[:, 0])  # noqa: E731
    slope = bellman_slope(step, value, capital, jnp.full_like(capital, best), still, gamma)
    np.testing.assert_allclose(slope, 0.0, atol=2e-5)


def test_an_endless_horizon_solves_growth():
    alpha, gamma = 0.36, 0.9
    algorithm = SVG(
        horizon="inf", episode_length=60, policy="deterministic", model=brock_mirman(alpha), gamma=gamma, hidden=(8,),
        policy_learning_rate=1e-2, activation="tanh",
    )  # fmt: skip
    box = Box((0.01,), (0.99,))
    nets = made(algorithm, 1, box, KEY)
    (update,) = algorithm.template(box).updates
    optimizer_state = update.fit.init(nets.policy)
    capital = jnp.linspace(0.05, 0.5, 32)[:, None]
    data = Transition(capital, capital, capital[:, 0], capital, jnp.zeros(32, bool), jnp.zeros(32, bool))

    first = jnp.ones((), jnp.int32)

    @jax.jit
    def learn(policy, optimizer_state):
        policy, optimizer_state, _ = update.fit.step(
            update.loss, policy, optimizer_state, nets, Starts(data), KEY, first
        )
        return policy, optimizer_state

    policy = nets.policy
    for _ in range(400):
        policy, optimizer_state = learn(policy, optimizer_state)
    share = policy.act(capital, jnp.zeros_like(capital))
    np.testing.assert_allclose(share, 1 - alpha * gamma, rtol=1e-2)


# ---------------------------------------------------------------------- health and bad input


def test_gradients_of_an_unstable_rollout_are_called_so():
    problem, gain, covariance, _ = scalar_problem()
    wild = LinearQuadratic(3.0 * problem.A, problem.B, problem.Q, problem.R, problem.W, problem.gamma)
    policy = Linear(jnp.asarray(gain), jnp.asarray(covariance))
    obs = jax.random.normal(KEY, (64, 1))
    models = [KnownModel(linear_quadratic(dynamics)) for dynamics in (wild, problem)]
    warned, calm = (
        gradient_health(Rollout(8, 0.9, NoTail()), (1, 4, 8), Components(policy=policy, model=model), obs, KEY)
        for model in models
    )
    assert warned.warning is not None and "shorten the horizon" in warned.warning
    assert calm.warning is None and (calm.relative_deviation > 0).all()


def test_a_models_error_is_zero_where_it_is_right_and_grows_where_it_is_not():
    rng = np.random.default_rng(0)
    obs, action = [np.ones(3)], rng.uniform(-1, 1, (60, 1))
    for row in action:
        obs.append(0.95 * obs[-1] + 0.3 * row)
    states = np.array(obs, np.float32)
    right = KnownModel(lambda s, a, noise: (0.95 * s + 0.3 * a, 0.0 * a[0], False))
    wrong = KnownModel(lambda s, a, noise: (0.9 * s + 0.3 * a, 0.0 * a[0], False))
    seen = windows(in_order(states, action.astype(np.float32)), 8)
    assert model_error(right, seen).max() < 1e-5
    assert (np.diff(model_error(wrong, seen)) > 0).all()


def in_order(states, action, ends=()):
    """Transitions of one environment along `states`, with episodes cut off after the rows of `ends`."""
    truncated = np.isin(np.arange(len(action)), ends)
    still = np.zeros(len(action), np.float32)
    return Transition(states[:-1], action, still, states[1:], np.zeros(len(action), bool), truncated)


def test_windows_stay_within_episodes_and_keep_environments_apart():
    count = 12
    chain = np.arange(count + 1, dtype=np.float32)[:, None]
    rows = in_order(chain, np.zeros((count, 1), np.float32), ends=(4,))
    seen = windows(rows, 3, count=100)
    assert sorted(set(seen.obs[:, 0, 0].tolist())) == [0, 1, 2, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(np.diff(seen.obs[:, :, 0], axis=1), 1.0)
    both = Transition(*(np.stack([column, column + 100 * (index in (0, 3))], 1).reshape(2 * count, *column.shape[1:])
                        for index, column in enumerate(rows)))  # fmt: skip
    twice = windows(both, 3, count=100, stride=2)
    assert sorted(set(twice.obs[:, 0, 0].tolist())) == [0, 1, 2, 5, 6, 7, 8, 9, 100, 101, 102, 105, 106, 107, 108, 109]
    assert windows(both, 3, stride=1) is None
    assert windows(rows, 8) is None


@pytest.mark.parametrize("horizon", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4))])
def test_a_horizon_that_is_held_equals_one_that_is_set(horizon):
    algorithm = SVG(dynamics="pendulum", horizon="4", hidden=(16,))
    box = Box((-2.0,), (2.0,))
    nets = made(algorithm, 3, box, KEY)
    obs = jax.random.normal(KEY, (32, 3))
    tail = CriticTail(MinOverCritics())

    def of(rollout, nets):
        return jax.jit(jax.value_and_grad(lambda policy: rollout(nets, policy, obs, KEY).mean()))(nets.policy)

    held = of(Rollout(4, 0.9, tail), nets.replace("horizon", jnp.asarray(horizon)))
    fixed = of(Rollout(horizon, 0.9, tail), nets)
    if horizon == 0:  # the draws differ there: that of SVG(0) is DDPG's and SAC's own
        key = jax.random.split(KEY)
        fixed = jax.jit(
            jax.value_and_grad(
                lambda policy: tail(nets, policy, obs, None, (jax.random.fold_in(key[0], 0), key[1])).mean()
            )
        )(nets.policy)
    for one, other in zip(jax.tree.leaves(held), jax.tree.leaves(fixed), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-6)


def wandering(steps=400):
    """A pendulum under random torque."""
    rng = np.random.default_rng(0)
    action = rng.uniform(-2, 2, (steps, 1)).astype(np.float32)
    step, states = jax.jit(pendulum), [np.array([1.0, 0.0, 0.0], np.float32)]
    for torque in action:
        states.append(np.asarray(step(states[-1], torque, states[0])[0]))
    return in_order(np.array(states), action)


@pytest.mark.slow
def test_the_automatic_horizon_is_the_longest_that_is_sound():
    rows, box = wandering(), Box((-2.0,), (2.0,))

    def chosen(**settings):
        algorithm = SVG(**{"horizon": "auto", "max_horizon": 4, "hidden": (16,), "dynamics": "pendulum"} | settings)
        nets, figures = algorithm.measure(algorithm.networks(3, box, KEY), rows, 1, KEY)
        assert int(nets.horizon) == figures["health/horizon"]
        return int(nets.horizon), figures

    longest, figures = chosen(max_gradient_growth=1e6)
    assert longest == 4 and figures["health/model_error_4"] < 1e-3
    assert figures["health/exploding"] == 0.0
    assert chosen(max_gradient_growth=1e-6)[0] == 0
    assert chosen(max_gradient_growth=1e-6, tail="v")[0] == 1
    # A network that was never trained is off by about one deviation after a step or two.
    untrained, figures = chosen(dynamics="learned", max_gradient_growth=1e6, max_model_error=1e-3)
    assert untrained == 0 and figures["health/model_error_1"] > 1e-3
    within = figures["health/model_error_2"]
    assert chosen(dynamics="learned", max_gradient_growth=1e6, max_model_error=within)[0] == 2


@pytest.mark.slow
def test_an_automatic_horizon_resumes_exactly():
    settings = {"horizon": "auto", "max_horizon": 2, "hidden": (8,), "model_hidden": (8,), "health_every": 20}
    loop = TrainSettings(random_steps=10, batch_size=8)

    def trainer():
        return HostTrainer(SVG(**settings), GymSource("Pendulum-v1", seed=0), loop, 0)

    whole, half, rest = trainer(), trainer(), trainer()
    progress = whole.advance(70)
    half.advance(30)
    rest.restore(*half.snapshot())
    assert rest.advance(40).metrics == progress.metrics and "health/horizon" in progress.metrics
    for one, other in zip(*(jax.tree.leaves(run.learner.state) for run in (whole, rest)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_rests_while_what_is_held_out_is_too_far_above_and_then_resumes():
    """Five batches whose held-out rows earn 10 and the others 0, then batches in which every row earns 0."""
    rng = np.random.default_rng(0)
    data = in_order(rng.normal(size=(129, 2)).astype(np.float32), rng.uniform(-1, 1, (128, 1)).astype(np.float32))
    data = jax.tree.map(jnp.asarray, data)
    odd, steps = 5, 30
    earned = jnp.where(jnp.arange(steps)[:, None] < odd, 10.0, 0.0) * held_out(data)

    def trained(max_overfit):
        """Of each step: the overfit, and whether any parameter moved."""
        loss, optimizer = Likelihood(max_overfit), optax.adam(1e-3)
        model = built(GaussianModel, 2, UNIT, (8,), KEY, members=1)

        def step(carry, reward):
            model, state = carry
            batch = data._replace(reward=reward)
            model = loss.prepare(model, batch)
            gradient, metrics = jax.grad(loss, has_aux=True)(model, Components(), batch, KEY)
            change, state = optimizer.update(gradient, state, model)
            moved = jnp.any(jnp.stack([jnp.any(leaf != 0) for leaf in jax.tree.leaves(change.net)]))
            return (optax.apply_updates(model, change), state), (metrics["overfit"], moved)

        return map(
            np.asarray, jax.jit(lambda carry: jax.lax.scan(step, carry, earned))((model, optimizer.init(model)))[1]
        )

    overfit, moved = trained(1.0)
    assert (overfit[:odd] > 1.5).all() and overfit[-1] < 0.75
    np.testing.assert_array_equal(moved, overfit <= 1.0)
    free, moved = trained(1e6)
    assert (free[:odd] > 1.0).all() and moved.all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"horizon": "-1"}, "setting horizon: found -1"),
        ({"horizon": "many"}, "setting horizon: found many"),
        ({"horizon": "inf"}, "inf needs the length of an episode"),
        ({"horizon": "0", "tail": "v"}, "setting tail"),
        ({"policy": "deterministic", "noise": "inferred"}, "setting noise"),
        ({"policy": "deterministic", "temperature": 0.5}, "setting temperature"),
        ({"horizon": "auto", "noise": "inferred"}, "setting noise"),
        ({"horizon": "auto", "health_every": 0}, "setting health_every"),
    ],
)
def test_settings_that_do_not_go_together(settings, words):
    with pytest.raises(UserError, match=words):
        SVG(**settings)


def test_a_horizon_is_a_number_too():
    for given, text in ((3, "3"), (2.0, "2"), (float("inf"), "inf")):
        algorithm: Any = object.__new__(SVG)
        inspect.unwrap(SVG.__init__)(algorithm, horizon=given, episode_length=9)
        assert algorithm.horizon == text


@pytest.mark.parametrize(
    ("dynamics", "words"),
    [
        (lambda s, a, noise: (s[:2], jnp.sum(a), False), "a next state of shape"),
        (lambda s, a, noise: (s * jnp.nan, jnp.sum(a), False), "next state is not finite in row 0"),
        (lambda s, a, noise: (s + a, jnp.sqrt(-1.0 - a[0] ** 2), False), "reward is not finite"),
        (lambda s, a, noise: (jnp.asarray(np.asarray(s) + 1), jnp.sum(a), False), "cannot differentiate"),
    ],
)
def test_a_bad_model_is_one_sentence(dynamics, words):
    with pytest.raises(UserError, match=words):
        fittedq.train("svg", "Pendulum-v1", steps=20, random_steps=10, model=dynamics, hidden=(8,))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"horizon": "1", "tail": "v", "noise": "inferred"}, marks=pytest.mark.slow),
        pytest.param({"horizon": "2", "policy": "deterministic"}, marks=pytest.mark.slow),
        pytest.param({"horizon": "2", "critic_target": "rollout", "temperature": 0.0}, marks=pytest.mark.slow),
        {"horizon": "inf", "episode_length": 5, "dynamics": "pendulum"},
        pytest.param({"horizon": "auto", "max_horizon": 2, "health_every": 10}, marks=pytest.mark.slow),
        pytest.param({"horizon": "2", "model": pendulum}, marks=pytest.mark.slow),
    ],
    ids=lambda settings: "-".join(settings),
)
def test_variants_train_save_and_load(settings, tmp_path):
    small = {"hidden": (8,)} | ({} if {"dynamics", "model"} & settings.keys() else {"model_hidden": (8,)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = fittedq.train("svg", "Pendulum-v1", steps=40, random_steps=20, batch_size=16, **small, **settings)
    agent.save(tmp_path / "agent")
    obs = np.array([[1.0, 0.0, 0.5]], np.float32)
    again = fittedq.load(tmp_path / "agent")
    np.testing.assert_array_equal(agent.act(obs), again.act(obs))
    if settings.get("horizon") == "inf":
        with pytest.raises(UserError, match="has no critic"):
            agent.value(obs, agent.act(obs))
    else:
        assert np.isfinite(agent.value(obs, agent.act(obs))).all()


@pytest.mark.parametrize("setting", ["normalize_obs", pytest.param("scale_rewards", marks=pytest.mark.slow)])
def test_a_known_model_is_translated_in_compiled_loops_alone(setting):
    with pytest.raises(UserError, match=f"set {setting} to false, or train in one"):
        fittedq.train("svg", "Pendulum-v1", steps=20, dynamics="pendulum", **{setting: True})


class SeenPolicy(Linear):
    """Of what `change` makes of an observation."""

    change: Any = eqx.field(kw_only=True)

    def sample(self, obs, key):
        return super().sample(self.change(obs), key)


class SeenQuadratic(Quadratic):
    """Of what `change` makes of an observation."""

    change: Any = eqx.field(kw_only=True)

    def __call__(self, obs, action, key=None):
        return super().__call__(self.change(obs), action)


def still_plane():
    """The plane problem without noise to speak of, states whose mean of s sᵀ is `first`, and moments that leave the
    third coordinate in its own units."""
    problem, gain, _, first = plane_problem()
    problem = dataclasses.replace(problem, W=1e-14 * np.eye(3))
    obs = np.sqrt(3 * np.diag(first))[:, None] * np.eye(3)
    count, mean, squares = (jnp.asarray(x, jnp.float32) for x in (4.0, [0.5, -1.0, 0.0], [1.0, 9.0, 16.0]))
    moments = RunningMoments(count, mean, squares, kept=(2,))
    return problem, gain, first, jnp.asarray(np.concatenate([obs, -obs]), jnp.float32), moments


@pytest.mark.parametrize("end", [CriticTail(FirstCritic()), pytest.param(NoTail(), marks=pytest.mark.slow)])
def test_a_rollout_in_normalized_observations_is_that_of_the_policy_that_normalizes(end):
    problem, gain, _, obs, moments = still_plane()
    model, gain, root = KnownModel(linear_quadratic(problem)), jnp.asarray(gain), 0.1 * jnp.eye(2)
    rollout = Rollout(3, problem.gamma, end)
    seen = Components(critic=Quadratic(jnp.eye(5) / 4), model=Translated(model, moments, 4.0))
    own = Components(critic=SeenQuadratic(jnp.eye(5), change=moments.normalize), model=model)
    found = jax.jit(lambda: rollout(seen, Linear(gain, root), moments.normalize(obs), KEY))()
    truth = jax.jit(lambda: rollout(own, SeenPolicy(gain, root, change=moments.normalize), obs, KEY))()
    np.testing.assert_allclose(4 * found, truth, rtol=1e-4)


def test_the_gradient_through_normalized_observations_is_the_closed_form():
    problem, gain, first, obs, moments = still_plane()
    deviation, zero = np.array([0.5, 1.5, 1.0]), moments.normalize(jnp.zeros(3))
    critic = SeenQuadratic(jnp.asarray(problem.q_matrix(problem.policy_P(gain)) / 2), change=moments.restore)
    nets = Components(critic=critic, model=Translated(KnownModel(linear_quadratic(problem)), moments, 2.0))
    rollout = Rollout(3, problem.gamma, CriticTail(FirstCritic()))

    def value(gain):
        policy = SeenPolicy(gain, jnp.zeros((2, 2)), change=lambda seen: seen - zero)
        return jnp.mean(rollout(nets, policy, moments.normalize(obs), KEY))

    # a = −K̃ (z − z(0)) = −Ks with K̃ = K · deviation; rewards and q are halved.
    slope = jax.jit(jax.grad(value))(jnp.asarray(gain * deviation, jnp.float32))
    truth = problem.policy_gradient(gain, np.zeros((2, 2)), first, steps=4) / deviation / 2
    np.testing.assert_allclose(slope, truth, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_run_that_normalizes_measures_its_exact_model_as_exact():
    algorithm = SVG(dynamics="pendulum", policy="deterministic", horizon="1", health_every=20, hidden=(4,))
    settings = TrainSettings(random_steps=10, batch_size=4, replay_size=50, normalize_obs=True)
    trainer = CompiledTrainer(algorithm, Pendulum(), settings, seed=0)
    assert trainer.advance(20).metrics["health/model_error_1"] < 1e-4
