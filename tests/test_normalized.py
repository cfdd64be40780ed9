"""Batch-normalized networks, distributional heads and scaled rewards, against their formulas."""

from __future__ import annotations

import copy

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fittedq
from fittedq.actions.base import Box
from fittedq.algorithms.xqc import XQC
from fittedq.approx.batch_norm import EPSILON, RENORM_AFTER, BatchNormMlp, by_own_moments, moments
from fittedq.approx.heads import Categorical, OneValue, Quantiles
from fittedq.approx.host import host_view, to_host
from fittedq.approx.net import in_batch, taken
from fittedq.approx.networks import QNetwork, TanhGaussianPolicy
from fittedq.data.statistics import ReturnScale
from fittedq.envs.gym import GymSource
from fittedq.envs.native import Pendulum
from fittedq.errors import UserError
from fittedq.runs import run
from fittedq.template.fits import Descend
from fittedq.template.losses import Regress, RegressReturns
from fittedq.template.targets import Bellman, BellmanOfReturns, LeastMean, MinOverCritics, Truncated
from fittedq.trainers.compiled import CompiledTrainer
from fittedq.trainers.host import HostTrainer
from fittedq.trainers.settings import TrainSettings
from fittedq.trainers.state import initial_state
from fittedq.types import Components, Greedy, Transition
from methods import built

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BOX = Box((-1.0,), (3.0,))
ROWS = 12


def batch(rows: int = ROWS, obs: int = 2) -> Transition:
    rng = np.random.default_rng(1)
    draws = (rng.normal(size=(rows, obs)), rng.uniform(-1, 3, (rows, 1)), rng.normal(size=rows))
    floats = [jnp.asarray(part, jnp.float32) for part in (*draws, rng.normal(size=(rows, obs)))]
    ended, never = jnp.asarray(rng.random(rows) < 0.3), jnp.asarray(np.zeros(rows, bool))
    return Transition(floats[0], floats[1], floats[2], floats[3], ended, never)


by_batch, applied = jax.jit(BatchNormMlp.by_batch), jax.jit(BatchNormMlp.__call__)


@jax.jit
def warm(net: BatchNormMlp, x: np.ndarray, count: int) -> BatchNormMlp:
    return jax.lax.fori_loop(0, count, lambda _, net: net.taking(net.by_batch(x)[1]), net)


def by_hand(net: BatchNormMlp, x: np.ndarray, moments) -> np.ndarray:
    """The network's formula in float64, one layer after another; `moments(layer, z)` gives (μ, σ²)."""
    for layer in range(len(net.weights)):
        z = x if layer == 0 else x @ np.asarray(net.weights[layer - 1], float)
        mean, variance = moments(layer, z)
        z = np.asarray(net.gains[layer], float) * (z - mean) / np.sqrt(variance + EPSILON)
        x = z if layer == 0 else np.maximum(z + np.asarray(net.shifts[layer - 1], float), 0)
    return x @ np.asarray(net.weights[-1], float) + np.asarray(net.bias, float)


def own_moments(layer, z):
    return z.mean(0, keepdims=True), z.var(0, keepdims=True)


def test_a_batch_is_normalized_by_its_own_statistics_and_a_single_row_by_running_ones():
    net, x = built(BatchNormMlp, (3, 8, 6, 2), KEY), RNG.normal(2.0, 3.0, (ROWS, 3)).astype(np.float32)
    outputs, statistics = by_batch(net, x)
    np.testing.assert_allclose(outputs, by_hand(net, x, own_moments), atol=1e-4)
    np.testing.assert_allclose(statistics.mean[0][0], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics.variance[0][0], x.var(0), rtol=1e-4)
    after = net.taking(statistics)
    running = after.statistics
    for layer in range(3):  # from 0 and 1, 1 % of the way
        np.testing.assert_allclose(after.statistics.mean[layer], 0.01 * statistics.mean[layer], atol=1e-6)
        np.testing.assert_allclose(
            after.statistics.variance[layer], 0.99 + 0.01 * statistics.variance[layer], rtol=1e-5
        )
    running = after.statistics

    def stored(layer, z):
        return np.asarray(running.mean[layer], float), np.asarray(running.variance[layer], float)

    np.testing.assert_allclose(applied(after, x), by_hand(after, x, stored), atol=1e-4)
    np.testing.assert_allclose(applied(after, x)[:1], applied(after, x[:1]), atol=1e-5)  # no row depends on the others


def test_what_acts_on_the_host_is_what_was_compiled():
    policy = built(TanhGaussianPolicy, 3, BOX, (8, 8), KEY, make=BatchNormMlp)
    obs = RNG.normal(size=(ROWS, 3)).astype(np.float32)
    policy = jax.jit(lambda policy: taken(policy, in_batch(policy, jnp.asarray(obs))[1]))(policy)
    normal = np.zeros((ROWS, 1), np.float32)
    host = host_view(to_host(policy)).act(obs, normal)
    assert isinstance(host, np.ndarray)
    np.testing.assert_allclose(host, jax.jit(type(policy).act)(policy, obs, normal), atol=1e-5)


def test_the_length_of_the_weights_before_a_norm_means_nothing_and_is_kept_at_1():
    net, x = built(BatchNormMlp, (3, 64, 64, 2), KEY), RNG.normal(size=(64, 3)).astype(np.float32)
    factors = [np.exp(RNG.normal(size=(1, weight.shape[-1]))).astype(np.float32) for weight in net.weights[:-1]]
    weights = (*(w * f * 30 for w, f in zip(net.weights[:-1], factors, strict=True)), net.weights[-1])
    back = eqx.tree_at(lambda net: net.weights, net, weights).projected()
    for weight in back.weights[:-1]:
        np.testing.assert_allclose(np.sqrt((weight**2).sum(0)), 1.0, rtol=1e-5)
    # The variances are far above ε here, so that is all the difference.
    np.testing.assert_allclose(by_batch(back, x)[0], by_batch(net, x)[0], atol=1e-3)
    assert np.array_equal(back.weights[-1], net.weights[-1])
    free = built(BatchNormMlp, (3, 8, 2), KEY, spherical=False)
    assert free.projected() is free


def test_first_weights_are_orthonormal():
    (first, square, _) = built(BatchNormMlp, (5, 32, 32, 2), KEY).weights
    np.testing.assert_allclose((first**2).sum(0), 1.0, rtol=1e-5)
    spectrum = np.linalg.svd(np.asarray(square), compute_uv=False)
    assert np.median(spectrum) == pytest.approx(1.0, abs=0.02) and spectrum.max() < 1.1


def test_renormalization_puts_back_what_a_batch_differs_by():
    """With r and d inside their bounds the output is that of the running statistics; before it begins, the batch's."""
    x = RNG.normal(size=(256, 3)).astype(np.float32)
    net = warm(built(BatchNormMlp, (3, 8, 2), KEY, renorm=True), x, 400)
    shifted = 1.2 * x + 0.1
    plain = built(BatchNormMlp, (3, 8, 2), KEY)
    np.testing.assert_allclose(by_batch(net, shifted)[0], by_batch(plain, shifted)[0], atol=1e-5)
    net = eqx.tree_at(lambda net: net.statistics.count, net, jnp.full_like(net.statistics.count, RENORM_AFTER))
    np.testing.assert_allclose(by_batch(net, shifted)[0], applied(net, shifted), atol=1e-3)
    assert np.abs(applied(net, shifted) - by_batch(plain, shifted)[0]).max() > 0.01


@pytest.mark.parametrize("renorm", [False, True])
def test_the_gradient_of_a_batch_is_that_of_its_formula(renorm):
    """Of a layer and of the whole network, by all parameters, where the chain rule passes through μ_B and σ_B. A batch
    whose mean is far from 0 and whose running statistics are others."""
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(1.5, 2.0, (32, 3)), jnp.float32)
    net = warm(built(BatchNormMlp, (3, 8, 6, 2), KEY, renorm=renorm), np.asarray(x), 40)
    past = jnp.full_like(net.statistics.count, RENORM_AFTER)
    net = eqx.tree_at(lambda net: net.statistics.count, net, past)
    net = jax.jit(lambda net: jax.tree.map(lambda leaf: leaf * 1.3, net))(net)  # gains and weights that are not 1

    def formula(net, x):
        for layer, weight in enumerate(net.weights):
            mean, variance = x.mean(0, keepdims=True), ((x - x.mean(0, keepdims=True)) ** 2).mean(0, keepdims=True)
            deviation, old = jnp.sqrt(variance + EPSILON), jnp.sqrt(net.statistics.variance[layer] + EPSILON)
            x = (x - mean) / deviation
            if renorm:
                ratio = jax.lax.stop_gradient(jnp.clip(deviation / old, 1 / 3, 3))
                x = x * ratio + jax.lax.stop_gradient(jnp.clip((mean - net.statistics.mean[layer]) / old, -5, 5))
            x = net.gains[layer] * x
            x = (jax.nn.relu(x + net.shifts[layer - 1]) if layer else x) @ weight
        return x + net.bias

    pull = jnp.asarray(rng.normal(size=(32, 2)), jnp.float32)
    found = jax.jit(jax.grad(lambda pair: (pair[0].by_batch(pair[1])[0] * pull).sum()))((net, x))
    right = jax.jit(jax.grad(lambda pair: (formula(*pair) * pull).sum()))((net, x))
    for name in ("weights", "gains", "shifts", "bias"):
        for one, other in zip(*(jax.tree.leaves(getattr(g[0], name)) for g in (found, right)), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4 * float(np.abs(other).max()))
    np.testing.assert_allclose(found[1], right[1], atol=2e-4 * float(np.abs(right[1]).max()))
    assert np.abs(right[1]).max() > 1e-3
    z, scale, offset = (rng.normal(size=size).astype(np.float32) for size in ((32, 4), (1, 4), (1, 4)))
    np.testing.assert_allclose(
        jax.jit(lambda z: by_own_moments(z, *moments(z), scale, offset))(z),
        scale * (z - z.mean(0)) / np.sqrt(z.var(0) + EPSILON) + offset,
        atol=1e-5,
    )


def test_a_fit_takes_the_statistics_in_and_the_optimizer_leaves_them_alone():
    critic = built(QNetwork, 2, BOX, (8, 8), KEY, n_critics=2, make=BatchNormMlp, head=Categorical(-3.0, 3.0, 7))
    loss, rows = RegressReturns(BellmanOfReturns(0.9, together=True)), batch()
    nets = Components(critic=critic)
    greedy = Greedy(rows.action, *(jnp.asarray(np.zeros(ROWS, kind)) for kind in (np.float32, bool)))
    both = [np.concatenate(pair) for pair in ((rows.obs, rows.next_obs), (rows.action, greedy.action))]
    expected = jax.jit(lambda critic: critic.net.taking(critic.net.by_batch(critic.inputs(*both))[1]))(critic)
    fit = Descend(optax.adam(1e-2))

    @jax.jit
    def fitted(critic):
        data = loss.label(nets, rows, greedy, KEY)
        return fit(loss, critic, fit.init(critic), nets, data, KEY, jnp.ones((), jnp.int32))

    after, _, metrics = fitted(critic)
    for found, right in zip(jax.tree.leaves(after.net.statistics), jax.tree.leaves(expected.statistics), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-7)
    assert all(np.shape(value) == () for value in metrics.values())
    for before, now in zip(critic.net.weights, after.net.weights, strict=True):
        assert not np.array_equal(before, now)
    for weight in after.net.weights[:-1]:
        np.testing.assert_allclose((weight**2).sum(-2), 1.0, rtol=1e-5)


def test_a_batch_is_passed_over_once():
    """2 critics of 3 products: forward 3 at both halves, backward 3 by weights and 2 by inputs; the frozen critic's 3;
    the policy's 3 at s'. Then the policy's own 3, 3 and 2, and the critic's 3 and 3."""
    fqi, state = initial_state(XQC(hidden=(4, 4), policy_hidden=(4, 4), bins=5), 2, BOX, 8, seed=0)
    program = str(jax.make_jaxpr(lambda state, rows: fqi.learn(state, rows, 0))(state, batch(8)))
    assert program.count("dot_general") == (3 + 3 + 2) + 3 + 3 + (3 + 3 + 2) + (3 + 3)


def test_a_critic_of_one_value_is_regressed_as_ever():
    """RegressReturns on one value = Regress, LeastMean = min_j q_j: to the bit."""
    critic = built(QNetwork, 2, BOX, (8,), KEY, n_critics=3)
    nets, rows = Components(critic=critic), batch()
    log_prob, none = (jnp.asarray(part) for part in (np.linspace(-1, 1, ROWS, dtype=np.float32), np.zeros(ROWS, bool)))
    greedy = Greedy(jnp.asarray(np.asarray(rows.action) * np.float32(0.5)), log_prob, none)
    old, new = Regress(Bellman(0.9, MinOverCritics())), RegressReturns(BellmanOfReturns(0.9))
    labels = [loss.label(nets, rows, greedy, KEY) for loss in (old, new)]
    np.testing.assert_array_equal(labels[0].y, labels[1].y[:, 0])
    values = [loss(critic, nets, data, KEY)[0] for loss, data in zip((old, new), labels, strict=True)]
    assert values[0] == pytest.approx(float(values[1]), rel=1e-6)


def project(head: Categorical, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Bin by bin, atom by atom."""
    support, out = np.linspace(head.low, head.high, head.bins), np.zeros((len(y), head.bins))
    step = support[1] - support[0]
    for row in range(len(y)):
        for atom, mass in zip(np.clip(y[row], head.low, head.high), weight[row], strict=True):
            below = min(int((atom - head.low) / step), head.bins - 2)
            share = (atom - support[below]) / step
            out[row, below] += mass * (1 - share)
            out[row, below + 1] += mass * share
    return out


def test_the_projection_onto_bins_keeps_mass_and_mean():
    head = Categorical(-2.0, 3.0, 11)
    y = RNG.uniform(-1.9, 2.9, (6, 4)).astype(np.float32)
    y[0] = [-2.0, 3.0, 0.5, 0.0]
    weight = RNG.dirichlet(np.ones(4), 6).astype(np.float32)
    projection = jax.jit(head.projection)
    found = np.asarray(projection(y, weight))
    np.testing.assert_allclose(found, project(head, y, weight), atol=1e-5)
    np.testing.assert_allclose(found @ head.support, (y * weight).sum(1), atol=1e-5)
    mass = np.float32([[0.25, 0.75]])
    far = np.asarray(projection(np.float32([[-9.0, 9.0]]), mass))
    assert far[0, 0] == 0.25 and far[0, -1] == 0.75
    assert jax.jit(head.outside)(np.float32([[-9.0, 1.0]]), mass) == 0.25


def test_cross_entropy_is_least_at_the_target():
    head = Categorical(-2.0, 3.0, 6)
    y, weight = jnp.asarray(np.float32([[-1.3, 2.1]])), jnp.asarray(np.float32([[0.4, 0.6]]))
    best = np.log(np.asarray(jax.jit(head.projection)(y, weight)) + np.float32(1e-9))[None]
    loss = jax.jit(jax.value_and_grad(lambda outputs: head.loss(outputs, y, weight).sum()))
    least, gradient = loss(best)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5)
    assert jax.jit(head.mean)(best[0])[0] == pytest.approx(-1.3 * 0.4 + 2.1 * 0.6, abs=1e-4)
    worse = [best + (0.1 * RNG.normal(size=best.shape)).astype(np.float32) for _ in range(5)]
    assert all(float(loss(outputs)[0]) > float(least) for outputs in worse)


def test_quantile_regression_finds_the_quantiles():
    """Of a uniform distribution over [0, 10 000], where Huber's kink at 1 is nothing: z_i = τ_i · 10 000."""
    head = Quantiles(5)
    y = jnp.asarray(np.linspace(0, 10_000, 4001, dtype=np.float32)[None])
    weight = jnp.asarray(np.full(y.shape, 1 / y.size, np.float32))
    outputs = ((np.arange(5, dtype=np.float32) + 0.5)[None, None] / 5 * 10_000).astype(np.float32)
    slope = jax.jit(jax.grad(lambda outputs: head.loss(outputs, y, weight).sum()))
    np.testing.assert_allclose(slope(outputs), 0.0, atol=1e-4)
    assert np.all(np.asarray(slope(outputs + 500)) > 0.005) and np.all(np.asarray(slope(outputs - 500)) < -0.005)
    assert jax.jit(head.mean)(outputs)[0, 0] == pytest.approx(5_000)


def test_pools_of_an_ensemble():
    atoms, weight = RNG.normal(size=(3, 4, 5)).astype(np.float32), RNG.dirichlet(np.ones(5), (3, 4)).astype(np.float32)
    chosen, mass = LeastMean()(jnp.asarray(atoms), jnp.asarray(weight))
    least = (atoms * weight).sum(-1).argmin(0)
    np.testing.assert_array_equal(chosen, atoms[least, np.arange(4)])
    np.testing.assert_array_equal(mass, weight[least, np.arange(4)])
    kept, even = Truncated(2)(jnp.asarray(atoms), jnp.asarray(weight))
    np.testing.assert_array_equal(kept, np.sort(np.moveaxis(atoms, 0, 1).reshape(4, 15), axis=1)[:, :9])
    np.testing.assert_allclose(even, 1 / 9, rtol=1e-6)


def test_bellman_of_returns_moves_every_atom():
    """y_k = r + γ (1 − terminated)(z_k − β log π), with the probabilities of the critic of least mean."""
    head, rows = Categorical(-1.0, 1.0, 3), batch()
    critic = built(QNetwork, 2, BOX, (4,), KEY, n_critics=2, head=head)
    log_prob, none = (jnp.asarray(part) for part in (np.linspace(-2, 2, ROWS, dtype=np.float32), np.zeros(ROWS, bool)))
    nets = Components(critic=critic, log_temperature=jnp.asarray(np.log(0.5), jnp.float32))
    data = jax.jit(lambda nets: BellmanOfReturns(0.9)(nets, rows, Greedy(rows.action, log_prob, none), KEY))(nets)
    alive = 1 - np.asarray(rows.terminated, float)
    z = np.linspace(-1, 1, 3)[None] - 0.5 * np.asarray(log_prob)[:, None]
    np.testing.assert_allclose(data.y, np.asarray(rows.reward)[:, None] + 0.9 * alive[:, None] * z, atol=1e-5)
    outputs = np.asarray(jax.jit(type(critic).outputs)(critic, rows.next_obs, rows.action))
    probability = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
    least = (probability @ head.support).argmin(0)
    np.testing.assert_allclose(data.weight, probability[least, np.arange(ROWS)], rtol=1e-4)
    np.testing.assert_allclose(OneValue().mean(outputs[..., :1]), outputs[..., 0])


@pytest.mark.parametrize("bound", [None, 2.0])
def test_rewards_are_scaled_by_the_deviation_of_the_discounted_return(bound):
    rewards, ended = RNG.normal(1, 2, (50, 2)).astype(np.float32), RNG.random((50, 2)) < 0.1
    scale, running, seen = ReturnScale.start(2, 0.9, bound), np.zeros(2), []
    assert scale.scale == 1
    for reward, end in zip(rewards, ended, strict=True):
        scale = scale.update(reward, end)
        running = 0.9 * running + reward
        seen.append(running.copy())
        running = np.where(end, 0, running)
    expected = np.std(seen)
    if bound is not None:
        expected = max(expected, np.abs(seen).max() / bound)
    assert scale.scale == pytest.approx(expected, rel=1e-4)
    alone = ReturnScale.start(1, 0.9, bound).over(rewards[:, 0], ended[:, 0], np.zeros(50, bool))
    one = ReturnScale.start(1, 0.9, bound)
    for reward, end in zip(rewards[:, :1], ended[:, :1], strict=True):
        one = one.update(reward, end)
    assert alone.scale == pytest.approx(float(one.scale), rel=1e-4)


def test_a_step_that_no_environment_took_is_no_return():
    """After an episode's end the second environment stands still for a step: its return there is none, not 0."""
    rewards = RNG.normal(5, 2, (9, 2)).astype(np.float32)
    taken = np.ones((9, 2), bool)
    taken[4, 1] = False
    scale, seen, running = ReturnScale.start(2, 0.9, None), [], np.zeros(2)
    for step, reward in enumerate(rewards):
        ended = np.array([False, step == 3])
        scale = scale.update(reward, ended, taken[step])
        now = np.where(taken[step], 0.9 * running + reward, running)
        seen += now[taken[step]].tolist()
        running = np.where(ended, 0, now)
    assert scale.moments.count == 17
    assert scale.scale == pytest.approx(np.std(seen), rel=1e-4)


def test_rewards_that_never_vary_are_left_as_they_are():
    scale = ReturnScale.start(1, 0.9, None)
    for _ in range(5):
        scale = scale.update(np.zeros(1, np.float32), np.zeros(1, bool))
    assert scale.scale == 1


SMALL = {"hidden": (8,), "bins": 41, "policy_delay": 1, "value_low": -300.0, "value_high": 300.0}
SHORT = {"random_steps": 60, "updates_per_step": 1.0, "batch_size": 16}
UNSCALED = SHORT | {"scale_rewards": False}


def short_run(env: str = "Pendulum-v1", **settings) -> fittedq.Agent:
    return fittedq.train("xqc", env, steps=80, eval_every=0, progress=False, **SMALL | settings)


def test_an_agents_values_are_in_the_rewards_unit(tmp_path, monkeypatch):
    """Pendulum's rewards are some −6, its returns deviate by more: what the networks hold is in another unit."""
    units: list[float] = []
    monkeypatch.setattr(run, "gap_figures", lambda nets, obs, unit: units.append(unit) or {})
    agent = short_run(gap_every=80, **SHORT)
    assert agent.reward_scale > 3
    assert units == [agent.reward_scale]
    obs, action = RNG.normal(size=(5, 3)).astype(np.float32), RNG.uniform(-2, 2, (5, 1)).astype(np.float32)
    inner = np.asarray(host_view(agent.nets.critic).least(obs, action))
    np.testing.assert_allclose(agent.value(obs, action), agent.reward_scale * inner, rtol=1e-5)
    gap, dense = agent.gap(obs), np.linspace(-2, 2, 1001, dtype=np.float32)[:, None]
    np.testing.assert_allclose(gap.policy_value, agent.value(obs, agent.act(obs)), rtol=1e-5)
    for row, state in enumerate(obs):
        greatest = agent.value(np.repeat(state[None], len(dense), axis=0), dense).max()
        assert gap.best_value[row] - 1e-5 * abs(greatest) <= greatest + 0.01 * gap.scale[row]
        assert gap.best_value[row] >= greatest - 0.02 * gap.scale[row] - 1e-4 * abs(greatest)
        assert gap.upper_bound[row] >= greatest
    agent.save(tmp_path / "agent")
    for other in (fittedq.load(tmp_path / "agent"), copy.deepcopy(agent)):
        np.testing.assert_array_equal(other.value(obs, action), agent.value(obs, action))
    with pytest.raises(UserError, match="scale_rewards to true"):
        short_run(start=agent, **UNSCALED)
    with pytest.raises(UserError, match="give both one shape"):  # the same numbers, but of other bins
        short_run(start=agent, **SHORT | {"value_low": -400.0})


@pytest.mark.slow
@pytest.mark.parametrize("env", ["Pendulum-v1", "jax/Pendulum-v1"])
def test_rewards_are_divided_before_they_are_learned_from(env):
    """One update on the same rows: a critic that learned from r/σ holds what one of the other unit does not."""
    plain, scaled = short_run(env, **UNSCALED), short_run(env, **SHORT)
    assert plain.reward_scale == 1.0
    assert scaled.reward_scale > 3
    assert not np.array_equal(plain.nets.critic.net.bias, scaled.nets.critic.net.bias)


def pendulums_reward(batch: Transition) -> np.ndarray:
    """−(θ² + θ̇²/10 + u²/1000), of the row's own s and a."""
    cos, sin, speed = np.asarray(batch.obs).T
    return -(np.arctan2(sin, cos) ** 2 + 0.1 * speed**2 + 0.001 * np.asarray(batch.action)[:, 0] ** 2)


def fed_on_the_host() -> tuple[Transition, float]:
    settings = TrainSettings(random_steps=60, batch_size=16, scale_rewards=True)
    trainer = HostTrainer(XQC(**SMALL), GymSource("Pendulum-v1"), settings, seed=0)
    fed = []
    trainer.learner.learn = lambda rows, *_: fed.append((rows, trainer.reward_scale))
    trainer.advance(60)
    ((rows, scale),) = fed
    return Transition.unpack(rows[0], 3, 1), scale


def fed_in_the_loop() -> tuple[Transition, float]:
    """Learning begins with the last step, so that the scale at the end is the batch's."""
    settings = TrainSettings(random_steps=60, batch_size=16, scale_rewards=True)
    trainer, fed = CompiledTrainer(XQC(**SMALL), Pendulum(), settings, seed=0), []

    class Recorded:
        """The template, but for what it learns."""

        reads_next_action = False

        def learn(self, learner, batch, drawn=None):
            jax.debug.callback(lambda *columns: fed.append(Transition(*map(np.asarray, columns))), *batch)
            return learner

    fqi, trainer._fqi = trainer._fqi, Recorded()
    trainer._loop(60)
    trainer._fqi = fqi
    jax.effects_barrier()
    (batch,) = fed
    return batch, trainer.reward_scale


@pytest.mark.parametrize("feed", [fed_on_the_host, fed_in_the_loop])
def test_a_learner_is_fed_the_reward_over_the_scale(feed):
    batch, scale = feed()
    assert scale > 3
    np.testing.assert_allclose(scale * np.asarray(batch.reward), pendulums_reward(batch), rtol=1e-3, atol=1e-3)


def test_targets_beyond_the_bins_are_told():
    with pytest.warns(RuntimeWarning, match=r"outside its bins.*set value_low and value_high wider"):
        short_run(**UNSCALED | {"value_low": -1.0, "value_high": 1.0})
