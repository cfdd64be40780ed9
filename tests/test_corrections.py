"""Where the code departs from the chapter, test by test; each can tell what the chapter's version would have given."""

from __future__ import annotations

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fittedq.acting.noise import Gaussian, OrnsteinUhlenbeck, explore
from fittedq.actions.base import Box
from fittedq.algorithms import DDPG, REGISTRY, SAC, TD3, SACValue
from fittedq.algorithms.base import POLICY_CRITICS
from fittedq.algorithms.soft import SoftAlgorithm
from fittedq.approx.embedding import RangedCritic
from fittedq.approx.heads import Categorical
from fittedq.approx.net import Passed
from fittedq.approx.networks import DeterministicPolicy, TanhGaussianPolicy
from fittedq.arrays import strong
from fittedq.bellman import smooth_max
from fittedq.envs.gym import GymSource
from fittedq.envs.native import AbstractJaxEnv
from fittedq.errors import UserError
from fittedq.problems.lqr import LinearQuadratic
from fittedq.settings import setting_fields
from fittedq.template.fits import Descend
from fittedq.template.fqi import FQI, LearnerState, Periodic, Polyak, Sync, Update
from fittedq.template.greedy import PolicyAction, Smoothed
from fittedq.template.losses import Improve, Regress, RegressTogether
from fittedq.template.targets import Bellman, FirstCritic, MinOverCritics, SoftValue
from fittedq.trainers.compiled import CompiledTrainer
from fittedq.trainers.host import HostTrainer
from fittedq.trainers.learner import Learner
from fittedq.trainers.settings import TrainSettings
from fittedq.types import Components, Transition
from linear import (
    critic,
    flat,
    gaussian_policy,
    noiseless,
    optimal_critic,
    transitions,
    with_value,
)
from methods import each, made

KEY = jax.random.PRNGKey(0)
WIDE = Box((-1.0, -0.5), (3.0, 0.5))
BETA = 0.2


def soft_nets(std_factor: float) -> Components:
    """The soft LQR's q*, the best gain, and a multiple of the best deviation."""
    problem = LinearQuadratic.scalar(temperature=BETA)
    policy = gaussian_policy(problem.gain.item(), std_factor * problem.covariance.item() ** 0.5)
    return Components(critic=optimal_critic(problem), policy=policy, log_temperature=log(BETA))


def log(number: float) -> jax.Array:
    return jnp.asarray(np.log(number), jnp.float32)


# ---------------------------------------------------------------------- targets


def in_the_highest_bin(critic, rows: int):
    """The same critic with all mass in its highest bin, at any `rows` states."""
    outputs = jnp.full((critic.size, rows, critic.head.bins), -1e9).at[..., -1].set(0.0)
    return eqx.tree_at(lambda critic: critic.net, critic, Passed(outputs))


@pytest.mark.parametrize("name", each("explicit_fqi", "td3", "sac", "iql", "xqc"))
def test_c03_every_algorithm_stops_the_bootstrap_at_the_end_and_at_no_time_limit(name):
    """r = 1, γ = .9, q ≡ v ≡ 10: 1 where terminated, 10 where truncated."""
    options = {"temperature": 1e-6} if name.startswith(("sac", "smooth", "svg")) else {}
    if name == "svg":
        options["model_hidden"] = (4,)
    cls = REGISTRY[name]
    if issubclass(cls, SoftAlgorithm):
        options["initial_temperature"] = 1e-6
    if "value_high" in {field.name for field in setting_fields(cls)}:
        options["value_high"] = 10.0
    algorithm = cls(hidden=(4,), gamma=0.9, **options)
    box = Box((-1.0,), (1.0,))
    batch = transitions([0.0] * 3, 0.5, 1.0, 0.3, terminated=[True, False, False], truncated=[False, True, False])
    fqi = algorithm.template(box)
    (update,) = (update for update in fqi.updates if update.component == "critic")

    @jax.jit
    def labels(batch: Transition) -> jax.Array:
        nets = algorithm.networks(1, box, KEY)
        of_bins = isinstance(getattr(nets.critic, "head", None), Categorical)
        critic = in_the_highest_bin(nets.critic, 3) if of_bins else with_value(nets.critic, 10.0)
        if isinstance(critic, RangedCritic):
            critic = eqx.tree_at(lambda critic: (critic.low, critic.high), critic, (jnp.zeros(()), jnp.asarray(20.0)))
        nets = nets.replace("critic", critic)
        if nets.value is not None:
            nets = nets.replace("value", with_value(nets.value, 10.0))
        greedy = None if fqi.greedy is None else fqi.greedy(nets, batch.next_obs, KEY)
        data = update.loss.label(nets, batch, greedy, KEY)
        if isinstance(update.loss, RegressTogether):  # the labels are made while it passes
            data = update.loss.passed(critic, nets, data, KEY)[1]
        return data.y if data.weight is None else (data.weight * data.y).sum(-1)

    y = np.asarray(labels(batch))
    assert y == pytest.approx(np.array([1.0, 10.0, 10.0]), abs=1e-4)


COUNTER = optax.stateless(lambda gradient, _: jax.tree.map(jnp.ones_like, gradient))
"""An optimizer that adds one: parameters then count the updates."""


def counting(rule, calls: int) -> tuple[list[float], list[float]]:
    """(live, frozen) after each call of `learn`, for a critic whose parameters count its updates."""
    fqi = FQI(
        greedy=PolicyAction(),
        updates=(Update("critic", Regress(Bellman(0.9, FirstCritic())), Descend(COUNTER)),),
        sync=Sync(critic=rule),
    )
    batch = transitions([0.0, 1.0], 0.0, 1.0, 0.0)
    state, learn = fqi.init(Components(flat(0.0), gaussian_policy(0.0, 1.0)), KEY, batch), jax.jit(fqi.learn)
    live, frozen = [], []
    for _ in range(calls):
        state = learn(state, batch)
        live.append(float(state.nets.critic.weights[0, 0]))
        frozen.append(float(state.frozen.critic.weights[0, 0]))
    return live, frozen


def test_c04_the_copy_takes_the_newest_parameters_when_the_next_count_is_a_multiple():
    live, frozen = counting(Periodic(3), 7)
    assert live == [1, 2, 3, 4, 5, 6, 7]
    assert frozen == [0, 0, 3, 3, 3, 6, 6]
    chapter, copy = [], 0
    for n in range(7):
        copy = n if n % 3 == 0 else copy  # θ_n, after θ_{n+1} is there
        chapter.append(copy)
    assert frozen != chapter


def test_c04_ddpg_copies_so():
    algorithm = DDPG(target_period=3)
    assert algorithm.template(WIDE).sync == Sync(critic=Periodic(3), policy=Periodic(3))


def test_c05_v_is_regressed_at_s_with_an_action_at_s():
    problem, nets = LinearQuadratic.scalar(temperature=BETA), soft_nets(1.0)
    batch = noiseless(problem)

    labelled = jax.jit(lambda batch: SoftValue(MinOverCritics())(nets, batch, None, KEY))

    def coefficients(batch: Transition, at: jax.Array) -> np.ndarray:
        return np.polynomial.polynomial.polyfit(np.asarray(at)[:, 0], np.asarray(labelled(batch).y), 2)

    right = coefficients(batch, batch.obs)
    np.testing.assert_array_equal(labelled(batch).inputs[0], batch.obs)
    assert right == pytest.approx([-problem.constant, 0.0, -problem.P.item()], abs=1e-3)
    moved = eqx.tree_at(lambda batch: batch.obs, batch, batch.next_obs)
    assert abs(coefficients(moved, batch.obs)[0] - right[0]) > 0.2  # labels at s', inputs at s


# ---------------------------------------------------------------------- the policy's step


def entropy_slope(nets: Components, rows: int = 400_000) -> float:
    """dL / d log σ of Improve's loss."""
    obs, loss = jnp.zeros((rows, 1)), Improve(MinOverCritics())
    return float(jax.jit(jax.grad(lambda policy: loss(policy, nets, obs, KEY)[0]))(nets.policy).log_std)


def test_c06_the_policy_descends_entropy_regularized_cost():
    slope = entropy_slope(soft_nets(2.0))
    assert slope == pytest.approx(3 * BETA, rel=1e-2)  # positive: descent lowers σ; the chapter's ascent would raise it
    assert entropy_slope(soft_nets(0.5)) < 0


OPPOSITE = critic((0, 0, 1, 0, 0, 0), (0, 0, -2, 0, 0, 0))
"""q_1 = a, q_2 = −2a."""


@pytest.mark.parametrize(("choice", "loss"), [("min", 1.0), ("first", -0.5), ("mean", 0.25)])
def test_c07_the_policy_climbs_the_chosen_critic(choice, loss):
    nets = Components(critic=OPPOSITE, policy=gaussian_policy(-0.5, 1e-6))
    improve = jax.jit(lambda nets: Improve(POLICY_CRITICS[choice])(nets.policy, nets, jnp.ones((8, 1)), KEY))
    value, _ = improve(nets)  # a = ½
    assert float(value) == pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize("algorithm", [SAC(), SACValue()])
def test_c07_soft_actor_critic_climbs_the_minimum_unless_told_otherwise(algorithm):
    def loss_of(algorithm):
        (update,) = (update for update in algorithm.template(WIDE).updates if update.component == "policy")
        return update.loss

    assert loss_of(algorithm) == Improve(MinOverCritics())
    assert loss_of(type(algorithm)(policy_critic="first")) == Improve(FirstCritic())


def test_c08_one_temperature_scales_with_the_reward():
    """y(r, q; β) = β · y(r/β, q/β; 1)."""
    problem, nets = LinearQuadratic.scalar(temperature=BETA), soft_nets(1.0)
    batch = noiseless(problem)

    @jax.jit
    def label(nets: Components, reward) -> jax.Array:
        greedy = PolicyAction()(nets, batch.next_obs, KEY)
        return Bellman(0.9, MinOverCritics())(nets, batch._replace(reward=reward), greedy, KEY).y

    weights, reward = np.asarray(nets.critic.weights), np.asarray(batch.reward)
    smaller = nets.replace("critic", critic(*(weights / BETA)))
    unit = np.asarray(label(smaller.replace("log_temperature", log(1.0)), reward / np.float32(BETA)))
    np.testing.assert_allclose(label(nets, reward), BETA * unit, rtol=1e-4, atol=1e-5)
    other = label(nets.replace("log_temperature", log(3e-4)), reward)  # a learning rate as β
    assert np.max(np.abs(other - BETA * unit)) > 0.1


def constant(kind: type[DeterministicPolicy | TanhGaussianPolicy], value: float):
    """A policy in WIDE whose network says the same everywhere."""
    return with_value(jax.jit(lambda key: kind(1, WIDE, (4,), key))(KEY), value)


@eqx.filter_jit
def smoothed(sigma: float, clip: float, policy: DeterministicPolicy, rows: int) -> jax.Array:
    return Smoothed(PolicyAction(), sigma, clip)(Components(policy=policy), jnp.zeros((rows, 1)), KEY).action


def test_c09_smoothed_target_actions_stay_in_the_box():
    algorithm = TD3(hidden=(4,), smoothing_sigma=0.2, smoothing_clip=0.5)
    assert algorithm.template(WIDE).greedy == Smoothed(PolicyAction(), 0.2, 0.5)
    low, high = np.asarray(WIDE.low), np.asarray(WIDE.high)
    action = np.asarray(smoothed(0.2, 0.5, constant(DeterministicPolicy, 50.0), 4_000))
    assert (low <= action).all()
    assert (action <= high).all()
    assert 0.4 < (action < high).mean() < 0.6  # half of the noise pointed outside, where the chapter's ã would be


def test_c09_smoothing_noise_is_clipped_and_scales_with_the_half_width():
    centered, half_width = constant(DeterministicPolicy, 0.0), np.asarray(WIDE.half_width)

    def noise(sigma: float, clip: float) -> np.ndarray:
        return (np.asarray(smoothed(sigma, clip, centered, 100_000)) - np.asarray(WIDE.center)) / half_width

    assert noise(0.1, 0.9).std(axis=0) == pytest.approx(np.array([0.1, 0.1]), rel=0.02)
    assert np.abs(noise(0.5, 0.25)).max(axis=0) == pytest.approx(np.array([0.25, 0.25]), rel=1e-5)


# ---------------------------------------------------------------------- exploration


class Echo(gymnasium.Env):
    """The next observation is the action as the environment received it."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(np.float32([-1.0, -0.5]), np.float32([3.0, 0.5]))
    length = 5

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.asarray(action, np.float32), 0.0, False, self.time == self.length, {}


class JaxEcho(AbstractJaxEnv):
    """The same, compiled."""

    obs_size, action_set, episode_length = 2, WIDE, Echo.length

    def begin(self, key):
        return jnp.zeros(2)

    def observe(self, inner):
        return inner

    def transition(self, inner, action, key):
        return action, jnp.zeros(()), jnp.zeros((), bool)


COLLECT = TrainSettings(random_steps=1, updates_per_step=1e-6, replay_size=100, batch_size=2)
COMPILED = TrainSettings(random_steps=1, replay_size=100, batch_size=2)


def collecting(kind: str, algorithm):
    """(trainer, name of the noise) of a trainer that explores an echo."""
    if kind == "host":
        return HostTrainer(algorithm, GymSource(Echo()), COLLECT, seed=0), "noise"
    return CompiledTrainer(algorithm, JaxEcho(), COMPILED, seed=0), "loop/noise"


@pytest.mark.as_shipped
@pytest.mark.parametrize("kind", ["host", "compiled"])
def test_c10_the_stored_action_is_the_executed_one_and_lies_in_the_box(kind):
    trainer, _ = collecting(kind, TD3(hidden=(4,), noise_sigma=2.0))
    trainer.advance(60)
    stored = Transition.unpack(trainer.snapshot().rows["replay"].all(), 2, 2)
    assert stored.next_obs == pytest.approx(stored.action, abs=0)
    assert (np.asarray(WIDE.low) <= stored.action).all()
    assert (stored.action <= np.asarray(WIDE.high)).all()
    at_a_bound = (stored.action == np.asarray(WIDE.low)) | (stored.action == np.asarray(WIDE.high))
    assert at_a_bound.mean() > 0.3  # unclipped, they would lie outside


def test_c11_ddpg_follows_softly_by_default():
    tau = 0.25
    assert DDPG(tau=tau).template(WIDE).sync == Sync(critic=Polyak(tau), policy=Polyak(tau))
    live, frozen = counting(Polyak(tau), 6)
    closed = [sum(tau * (1 - tau) ** (n - i) * theta for i, theta in enumerate(live[: n + 1])) for n in range(6)]
    assert frozen == pytest.approx(closed, rel=1e-6)
    assert frozen != counting(Periodic(1), 6)[1]


def delayed(delay: int) -> tuple[FQI, LearnerState, Transition]:
    """Critic and policy count their own updates; the frozen critic is a copy as old as the last policy update."""
    fqi = FQI(
        greedy=PolicyAction(),
        updates=(
            Update("critic", Regress(Bellman(0.9, FirstCritic())), Descend(COUNTER)),
            Update("policy", Improve(FirstCritic()), Descend(COUNTER), every=delay),
        ),
        sync=Sync(critic=Polyak(1.0, every=delay)),
    )
    batch = transitions([0.0, 1.0], 0.0, 1.0, 0.0)
    nets, own_key = Components(flat(0.0), gaussian_policy(0.0, 1.0)), jnp.copy(KEY)  # a learner donates its state
    return fqi, strong(fqi.init(nets, own_key, batch)), batch


def counts(state: LearnerState) -> tuple[float, float, float]:
    """Updates of critic, policy and frozen critic."""
    return tuple(
        float(leaf)
        for leaf in (state.nets.critic.weights[0, 0], state.nets.policy.gain, state.frozen.critic.weights[0, 0])
    )


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_c12_the_actor_moves_on_every_dth_update_counted_from_one(delay):
    td3 = TD3(policy_delay=delay).template(WIDE)
    assert td3.updates[1].every == delay
    assert td3.sync == Sync(critic=Polyak(0.005, every=delay), policy=Polyak(0.005, every=delay))
    fqi, state, batch = delayed(delay)
    learn, found = jax.jit(fqi.learn), []
    for _ in range(7):
        state = learn(state, batch)
        found.append(counts(state))
    assert found == [(n, n // delay, n - n % delay) for n in range(1, 8)]
    chapter = [n // delay + 1 for n in range(7)]  # n mod d = 0 from n = 0 on
    assert delay == 1 or [policy for _, policy, _ in found] != chapter


@pytest.mark.parametrize("delay", [2, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (3, 5))])
def test_c12_holds_however_the_updates_are_grouped(delay):
    """A delay of 5 is too long to compile phase by phase."""
    fqi, state, batch = delayed(delay)
    learner, done = Learner(fqi, state, 1, 1), 0
    for group in (1, 1, 3, 7, 1):
        learner.learn(np.repeat(np.asarray(batch.pack())[None], group, axis=0))
        done += group
        assert counts(learner.state) == (done, done // delay, done - done % delay)


def test_c13_sigma_is_a_standard_deviation():
    normal = np.random.default_rng(0).standard_normal((200_000, 1)).astype(np.float32)
    _, gaussian = Gaussian(0.2).step(np.zeros_like(normal), normal)
    _, first_step = OrnsteinUhlenbeck(0.15, 0.0, 0.2, 0.25).step(np.zeros_like(normal), normal)
    assert gaussian.std() == pytest.approx(0.2, rel=0.01)  # as a variance: .447
    assert first_step.std() == pytest.approx(0.2 * 0.5, rel=0.01)  # σ √Δt
    box = Box((-4.0,), (4.0,))
    assert explore(np.zeros_like(normal), 0.5 * gaussian, box, normal).std() == pytest.approx(0.4, rel=0.01)


def test_c15_the_policy_reports_the_density_of_the_squashed_and_scaled_action():
    box = Box((-1.0, -0.5), (3.0, 2.5))  # half-widths whose logarithms do not add up to 0, as those of WIDE do

    @jax.jit
    def drawn(key: jax.Array):
        policy, obs = TanhGaussianPolicy(3, box, (8,), key), jax.random.normal(key, (2_000, 3))
        return *policy.sample(obs, jax.random.PRNGKey(1)), *policy.parameters(obs)

    action, log_prob, mean, log_std = (np.asarray(x, np.float64) for x in drawn(KEY))
    half_width = np.asarray(box.half_width)
    unit = (action - np.asarray(box.center)) / half_width
    inner = np.abs(unit).max(axis=1) < 0.999  # arctanh of a rounded ±1 says nothing
    assert inner.mean() > 0.9
    normal = (np.arctanh(unit[inner]) - mean[inner]) / np.exp(log_std[inner])
    gaussian = (-(normal**2) / 2 - log_std[inner] - np.log(2 * np.pi) / 2).sum(axis=1)
    change = (np.log1p(-(unit[inner] ** 2)) + np.log(half_width)).sum(axis=1)
    np.testing.assert_allclose(log_prob[inner], gaussian - change, atol=2e-3)
    assert np.abs(change).mean() > 0.3  # what the chapter leaves out


def test_c15_the_density_is_finite_where_the_action_saturates():
    policy = constant(TanhGaussianPolicy, 20.0)
    sampled = jax.jit(jax.value_and_grad(lambda policy: policy.sample(jnp.zeros((16, 1)), KEY)[1].sum()))
    for sign in (1.0, -1.0):
        pushed = jax.tree.map(lambda leaf, sign=sign: np.float32(sign) * np.asarray(leaf), policy)
        total, slope = sampled(pushed)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((total, slope)))


def test_c16_with_entropy_the_spread_converges_above_zero():
    best = LinearQuadratic.scalar(temperature=BETA).covariance.item() ** 0.5

    def converged(nets: Components) -> float:
        obs, loss = jnp.zeros((4_096, 1)), Improve(MinOverCritics())

        def step(policy, key):
            slope = jax.grad(lambda policy: loss(policy, nets, obs, key)[0])(policy)
            return jax.tree.map(lambda leaf, change: leaf - 0.5 * change, policy, slope), None

        policy, _ = jax.jit(lambda policy: jax.lax.scan(step, policy, jax.random.split(KEY, 100)))(nets.policy)
        return float(jnp.exp(policy.log_std))

    nets = soft_nets(2.0)
    assert converged(nets) == pytest.approx(best, rel=0.02)
    assert converged(nets.replace("log_temperature", None)) < best / 2  # the entropy dropped


@pytest.mark.parametrize("kind", ["host", "compiled"])
def test_c25_ou_noise_begins_anew_with_each_episode(kind):
    """Without diffusion η_k = μ (1 − (1 − θ)^k), k the steps explored since the episode began."""
    algorithm = DDPG(hidden=(4,), noise_sigma=0.0, noise_mean=0.4, noise_reversion=0.3)
    trainer, name = collecting(kind, algorithm)
    found = []
    for _ in range(13):
        trainer.advance(1)
        found.append(float(trainer.snapshot()[0][name][0, 0]))
    # The first step is random and leaves the noise; an episode has five steps, the last of which resets it.
    since_reset = [0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert found == pytest.approx([0.4 * (1 - 0.7**k) for k in since_reset], abs=1e-6)


@pytest.mark.parametrize(("reversion", "dt"), [(2.0, 1.0), (0.15, 20.0)])
def test_c25_an_unstable_time_step_is_refused(reversion, dt):
    state = 1.0
    for _ in range(50):
        state += -reversion * state * dt
    assert abs(state) >= 1  # it does not revert
    with pytest.raises(UserError, match="noise_reversion"):
        DDPG(noise_reversion=reversion, noise_dt=dt).exploration()


# ---------------------------------------------------------------------- SVG(0) and the smooth operator


def policy_slope(policy, nets: Components):
    obs, loss = jax.random.normal(KEY, (64, 3)), Improve(MinOverCritics())
    return jax.grad(lambda policy: loss(policy, nets, obs, KEY)[0])(policy)


def leaves_equal(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.mark.slow  # to the bit, so that each operation is a program; the gradient without noise is quick
def test_c26_svg0_is_soft_actor_critic_at_temperature_zero_only():
    nets = made(SAC(hidden=(8,)), 3, WIDE, KEY)
    svg = policy_slope(nets.policy, nets.replace("log_temperature", None))
    assert leaves_equal(svg, policy_slope(nets.policy, nets.replace("log_temperature", jnp.asarray(-jnp.inf))))
    assert not leaves_equal(svg, policy_slope(nets.policy, nets.replace("log_temperature", jnp.asarray(-2.0))))


def test_c26_without_noise_svg0_is_the_deterministic_policy_gradient():
    nets = made(SAC(hidden=(8,)), 3, WIDE, KEY)
    last = nets.policy.net

    def silent(log_std: float) -> TanhGaussianPolicy:
        weights, biases = last.weights[-1].at[:, 2:].set(0.0), last.biases[-1].at[:, 2:].set(log_std)
        return eqx.tree_at(lambda p: (p.net.weights[-1], p.net.biases[-1]), nets.policy, (weights, biases))

    slope = jax.jit(policy_slope)

    def mean_slope(policy) -> np.ndarray:
        return np.asarray(slope(policy, nets.replace("log_temperature", None)).net.weights[-1])[:, :2]

    deterministic = eqx.tree_at(
        lambda p: p.net,
        jax.jit(lambda key: DeterministicPolicy(3, WIDE, (8,), key))(KEY),
        eqx.tree_at(lambda n: (n.weights[-1], n.biases[-1]), last, (last.weights[-1][:, :2], last.biases[-1][:, :2])),
    )
    limit = mean_slope(deterministic)
    np.testing.assert_allclose(mean_slope(silent(-20.0)), limit, atol=1e-6)
    assert np.abs(mean_slope(silent(0.0)) - limit).max() > 1e-3


def test_c29_the_smooth_operator_needs_a_bounded_action_set():
    """β log ∫ exp(0) da = β log |A| grows without bound with A."""
    values, compiled = [], jax.jit(smooth_max)
    for half_width in (1.0, 10.0, 100.0):
        log_weight = np.full(1_000, np.log(2 * half_width / 1_000), np.float32)
        values.append(float(compiled(np.zeros(1_000, np.float32), log_weight, BETA)))
    assert np.diff(values) == pytest.approx(BETA * np.log(10), rel=1e-4)
    with pytest.raises(UserError, match="finite"):
        Box((-np.inf,), (np.inf,))
