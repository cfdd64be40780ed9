"""Components and statistics against the formulas they stand for."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from fittedq.actions.base import Box
from fittedq.approx.models import GaussianModel, Moments
from fittedq.approx.networks import Mlp, TanhGaussianPolicy
from fittedq.data.statistics import RunningMoments
from fittedq.types import Transition
from methods import built

KEY = jax.random.key_data(jax.random.key(0))
BOX = Box([-1.0, 0.0], [3.0, 1.0])


def rows(seed: int, count: int, obs: int = 3) -> Transition:
    rng = np.random.default_rng(seed)
    return Transition(
        obs=rng.normal(1, 2, (count, obs)).astype(np.float32),
        action=rng.uniform(BOX.low, BOX.high, (count, 2)).astype(np.float32),
        reward=rng.normal(size=count).astype(np.float32),
        next_obs=rng.normal(0, 3, (count, obs)).astype(np.float32),
        terminated=rng.uniform(size=count) < 0.4,
        truncated=np.zeros(count, bool),
    )


def model() -> GaussianModel:
    """Untrained, its normalization that of a batch."""
    return built(GaussianModel, 3, BOX, (8,), KEY, members=2).fold(rows(9, 64))


def test_dropout_leaves_the_mean_of_a_layer():
    """Of 20,000 masks of a linear layer of ones, whose spread is 1 %."""
    net = built(Mlp, (1, 1, 1), KEY, dropout=0.5)
    ones = jax.tree.map(jnp.ones_like, (net.weights, net.biases))
    net = eqx.tree_at(lambda one: (one.weights, one.biases), net, ones)
    x = jnp.ones((20_000, 1))
    assert float(net(x)[0, 0]) == 3.0
    assert abs(float(net(x, KEY).mean()) - 3.0) < 0.08


def test_the_inferred_draw_gives_the_action_back():
    policy = built(TanhGaussianPolicy, 3, BOX, (8,), KEY)
    batch = rows(0, 32)
    normal = policy.infer(batch.obs, batch.action)
    np.testing.assert_allclose(policy.act(jnp.asarray(batch.obs), normal), batch.action, atol=2e-5)
    drawn = jax.random.normal(KEY, (32, 2))
    np.testing.assert_allclose(policy.infer(batch.obs, policy.act(jnp.asarray(batch.obs), drawn)), drawn, atol=2e-3)


def test_inferred_noise_gives_the_next_state_back():
    batch = rows(1, 16)
    noise = model().infer(batch.obs, batch.action, batch.next_obs)
    predicted = model()(batch.obs, batch.action, noise)
    np.testing.assert_allclose(predicted.next_state, batch.next_obs, atol=1e-4)


def test_the_loss_of_a_model_is_its_negative_log_likelihood():
    """By SciPy's densities of what the model's step says: s' normal, r of deviation 1 in its units, Bernoulli ends."""
    gaussian, batch = model(), rows(2, 16)
    still = gaussian(batch.obs, batch.action, np.zeros_like(batch.obs))
    moved = gaussian(batch.obs, batch.action, np.ones_like(batch.obs))
    unit = np.asarray(gaussian.outputs.deviation, float)
    deviation = np.asarray(moved.next_state - still.next_state, float) / unit[:-1]
    error = (batch.next_obs - np.asarray(still.next_state, float)) / unit[:-1]
    constant = 0.5 * np.log(2 * np.pi)
    expected = -(stats.norm.logpdf(error, scale=deviation) + constant).sum(axis=1)
    reward_error = (batch.reward - np.asarray(still.reward, float)) / unit[-1]
    expected -= stats.norm.logpdf(reward_error) + constant
    continues = np.asarray(still.continues, float)
    expected -= np.log(np.where(batch.terminated, 1 - continues, continues))
    loss, square = gaussian.loss(jax.tree.map(jnp.asarray, batch))
    np.testing.assert_allclose(loss, expected, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(square, ((error**2).sum(axis=1) + reward_error**2) / 4, rtol=1e-3)


def test_moments_of_equal_batches_are_those_of_all_rows():
    data = np.random.default_rng(3).normal([1, -5], [2, 0.5], (4, 32, 2)).astype(np.float32)
    moments = Moments.start(2)
    for batch in data:
        moments = moments.fold(batch)
    whole = data.reshape(-1, 2)
    np.testing.assert_allclose(moments.mean, whole.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.deviation, whole.std(axis=0), rtol=1e-4)


def test_running_moments_are_those_of_all_rows():
    """Batches of different sizes and places; normalized, all rows have mean 0, deviation 1 and no number beyond 10."""
    rng = np.random.default_rng(4)
    parts = [rng.normal(place, 1 + place, (size, 2)).astype(np.float32) for place, size in ((0, 7), (5, 40), (2, 1))]
    for xp in (np, jnp):
        moments = RunningMoments.start(2)
        for part in parts:
            moments = moments.update(xp.asarray(part))
        whole = np.concatenate(parts)
        np.testing.assert_allclose(moments.mean, whole.mean(axis=0), rtol=1e-4)
        np.testing.assert_allclose(np.sqrt(moments.squares / moments.count), whole.std(axis=0), rtol=1e-4)
        seen = np.asarray(moments.normalize(xp.asarray(whole)))
        np.testing.assert_allclose([seen.mean(axis=0), seen.std(axis=0)], [[0, 0], [1, 1]], atol=1e-3)
        np.testing.assert_array_equal(moments.normalize(xp.asarray([[1e6, -1e6]], np.float32)), [[10, -10]])
