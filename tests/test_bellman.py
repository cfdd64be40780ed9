"""Each formula of `bellman` against arithmetic done by hand or by quadrature in float64."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from fittedq import bellman
from fittedq.approx.heads import Categorical

GAMMA, BETA = 0.9, 0.5


def grid(low: float, high: float, points: int = 2001) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints of equal cells, and the log of their width."""
    width = (high - low) / points
    return (low + width * (np.arange(points) + 0.5)).astype(np.float32), np.full(points, np.log(width), np.float32)


# ---------------------------------------------------------------------- targets


@pytest.mark.parametrize(("terminated", "target"), [(True, 1.0), (False, 10.0)])
def test_c03_td_target_stops_at_the_end_only(terminated, target):
    y = bellman.td_target(jnp.ones(1), jnp.array([terminated]), jnp.full(1, 10.0), GAMMA)
    assert y == pytest.approx(target)


def test_soft_value_subtracts_the_log_density_times_the_temperature():
    assert bellman.soft_value(jnp.array([3.0]), jnp.array([-2.0]), 0.5) == pytest.approx(4.0)
    assert bellman.soft_value(jnp.array([3.0]), jnp.array([-2.0]), 0.0) == pytest.approx(3.0)


def test_temperature_rises_while_the_entropy_is_below_its_target():
    log_temperature, low_entropy = jnp.log(jnp.asarray(2.0)), jnp.array([1.0, 3.0])  # the entropy is −2
    loss, slope = jax.value_and_grad(bellman.temperature_loss)(log_temperature, low_entropy, -1.0)
    assert float(loss) == pytest.approx(-2.0)  # −2 · (2 − 1)
    assert float(slope) == pytest.approx(-2.0)  # descent raises log β
    assert float(jax.grad(bellman.temperature_loss)(log_temperature, low_entropy, -3.0)) == pytest.approx(2.0)


def test_c11_polyak_is_a_geometric_mean_of_the_past():
    live, tau = [np.float32(x) for x in (1.0, -2.0, 5.0, 0.5)], 0.1
    frozen = jnp.asarray(7.0)
    for theta in live:
        frozen = bellman.polyak(frozen, theta, tau)
    closed = (1 - tau) ** 4 * 7.0 + sum(tau * (1 - tau) ** (3 - i) * theta for i, theta in enumerate(live))
    assert float(frozen) == pytest.approx(closed, rel=1e-6)
    assert float(bellman.polyak(frozen, live[0], 1.0)) == live[0]
    assert float(bellman.polyak(frozen, live[0], 0.0)) == float(frozen)


# ---------------------------------------------------------------------- densities


def test_gaussian_log_prob_is_that_of_independent_coordinates():
    normal, std = np.array([[0.3, -1.2]]), np.array([[0.5, 3.0]])
    density = np.prod(np.exp(-(normal**2) / 2) / (np.sqrt(2 * np.pi) * std))
    assert bellman.gaussian_log_prob(jnp.asarray(normal), jnp.log(std))[0] == pytest.approx(np.log(density), rel=1e-6)


def test_c15_log_tanh_slope_is_exact_and_finite_far_out():
    u = np.array([-20.0, -3.0, 0.0, 0.7, 3.0, 20.0])
    exact = -2 * np.logaddexp(u, -u) + 2 * np.log(2)  # log sech² u
    assert np.asarray(bellman.log_tanh_slope(jnp.asarray(u, jnp.float32))) == pytest.approx(exact, rel=1e-5)
    with np.errstate(divide="ignore"):
        naive = np.log(np.float32(1) - np.tanh(np.float32(20)) ** 2)
    assert np.isneginf(naive)


def test_c15_squashed_density_integrates_to_one_over_the_box():
    low, high, mean, std = -2.0, 4.0, 0.4, 0.8
    half_width = (high - low) / 2
    u = np.linspace(-9, 9, 20001)
    normal = ((u - mean) / std)[:, None]
    log_std = np.full_like(normal, np.log(std))
    arrays = [jnp.asarray(x, jnp.float32) for x in (normal, log_std, u[:, None])]
    action = (low + high) / 2 + half_width * np.tanh(u)

    def mass(log_density) -> float:
        return float(np.trapezoid(np.exp(np.asarray(log_density, np.float64)), action))

    assert mass(bellman.squashed_log_prob(*arrays, (half_width,))) == pytest.approx(1.0, abs=1e-4)
    assert mass(bellman.squashed_log_prob(*arrays, (1.0,))) == pytest.approx(half_width, abs=1e-3)
    assert mass(bellman.gaussian_log_prob(*arrays[:2])) < 0.9 * half_width


def test_the_mean_of_bins_has_a_gradient_that_compares_nothing():
    """The maximum that keeps exp in range cancels. Its gradient asks which output equals it: none does, and it is 0/0,
    where a compiler computes the outputs once more, rounded otherwise."""
    head, outputs = Categorical(-2.0, 3.0, 11), jnp.linspace(-1.0, 4.0, 11)
    told = jax.make_jaxpr(jax.grad(head.mean))(outputs)
    assert "reduce_max" in str(told) and " eq " not in str(told)
    p = jax.nn.softmax(outputs)
    np.testing.assert_allclose(jax.grad(head.mean)(outputs), p * (head.support - p @ head.support), atol=1e-5)


def test_the_least_of_an_ensemble_passes_its_gradient_to_one_member():
    values = jnp.asarray([[1.0, 5.0, 2.0], [3.0, 4.0, 2.0], [2.0, 6.0, 2.0]])
    assert np.array_equal(bellman.least(values), [1.0, 4.0, 2.0])
    gradient = jax.grad(lambda v: jnp.sum(bellman.least(v) * jnp.asarray([1.0, 10.0, 100.0])))(values)
    assert np.array_equal(gradient, [[1.0, 0.0, 100.0], [0.0, 10.0, 0.0], [0.0, 0.0, 0.0]])


# ---------------------------------------------------------------------- the smooth operator (G6)


def test_smooth_max_may_lie_below_the_maximum():
    action, log_weight = grid(-1, 1)
    value = float(bellman.smooth_max(jnp.asarray(-10 * action**2), jnp.asarray(log_weight), BETA))
    assert value == pytest.approx(-0.462751, abs=2e-6)
    assert value < 0 == np.max(-10 * 0**2)


def test_smooth_max_never_exceeds_the_maximum_by_more_than_the_log_measure():
    action, log_weight = grid(-1.5, 1.5)
    bound = BETA * np.log(3.0)
    assert float(bellman.smooth_max(jnp.asarray(np.cos(5 * action)), jnp.asarray(log_weight), BETA)) < 1 + bound
    flat = float(bellman.smooth_max(jnp.zeros_like(action), jnp.asarray(log_weight), BETA))
    assert flat == pytest.approx(bound, rel=1e-5)


def test_smooth_max_over_samples_estimates_the_same_integral():
    action = jax.random.uniform(jax.random.key(0), (200_000,), minval=-1, maxval=1)
    log_weight = jnp.full(action.shape, -jnp.log(action.shape[0] * 0.5))
    assert float(bellman.smooth_max(-10 * action**2, log_weight, BETA)) == pytest.approx(-0.462751, abs=5e-3)


def test_smooth_max_follows_laplace_as_the_temperature_falls():
    action, log_weight = grid(-1, 1, 20001)
    for beta in (0.1, 0.01):
        value = float(bellman.smooth_max(jnp.asarray(-10 * action**2), jnp.asarray(log_weight), beta))
        assert value == pytest.approx(beta / 2 * np.log(2 * np.pi * beta) - beta / 2 * np.log(20), abs=1e-5)


class SmallMDP:
    """Three states, a fine action grid; rewards and transition probabilities drawn once."""

    def __init__(self):
        rng = np.random.default_rng(3)
        self.action, self.log_weight = (jnp.asarray(x) for x in grid(-1, 1, 65))
        self.reward = jnp.asarray(rng.normal(size=(3, 65)), jnp.float32)
        probability = rng.uniform(size=(3, 65, 3))
        self.probability = jnp.asarray(probability / probability.sum(-1, keepdims=True), jnp.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def backup(self, q, beta=BETA, scale=1.0):
        v = bellman.smooth_max(q, self.log_weight, beta)
        return bellman.smooth_backup(self.reward * scale, jnp.broadcast_to(v, (3, 65, 3)), self.probability, GAMMA)

    def solve(self, beta, scale):
        return jax.lax.fori_loop(0, 300, lambda _, q: self.backup(q, beta, scale), jnp.zeros((3, 65)))


def test_smooth_backup_of_a_shift_is_shifted_by_gamma():
    mdp, q = SmallMDP(), jnp.asarray(np.random.default_rng(0).normal(size=(3, 65)), jnp.float32)
    assert mdp.backup(q + 2.0) - mdp.backup(q) == pytest.approx(GAMMA * 2.0, abs=1e-5)


def test_smooth_backup_contracts_by_gamma():
    mdp, rng = SmallMDP(), np.random.default_rng(1)
    for scale in (0.1, 1.0, 30.0):
        q1, q2 = (jnp.asarray(scale * rng.normal(size=(3, 65)), jnp.float32) for _ in range(2))
        distance = jnp.max(jnp.abs(mdp.backup(q1) - mdp.backup(q2)))
        assert distance <= GAMMA * jnp.max(jnp.abs(q1 - q2)) * (1 + 1e-5)


def test_c08_scaling_the_reward_is_scaling_the_temperature():
    mdp, beta = SmallMDP(), 0.25
    q, scaled = mdp.solve(beta, 1.0), mdp.solve(1.0, 1 / beta)
    np.testing.assert_allclose(q, beta * scaled, rtol=1e-4, atol=1e-4)
    assert jnp.max(jnp.abs(q - mdp.solve(1.0, 1.0))) > 0.1  # the temperature matters


def test_kl_to_boltzmann_is_the_gap_of_the_soft_value():
    action, log_weight = grid(-1, 1)
    q = jnp.asarray(np.sin(4 * action))
    weight = np.exp(log_weight)
    smooth = bellman.smooth_max(q, jnp.asarray(log_weight), BETA)
    boltzmann = np.asarray(bellman.boltzmann_log_density(q, smooth, BETA))
    assert np.sum(weight * np.exp(boltzmann)) == pytest.approx(1.0, abs=1e-5)
    log_density = -4 * (action - 0.2) ** 2
    log_density -= logsumexp(log_density + log_weight)
    density = weight * np.exp(log_density)
    divergence = np.sum(density * (log_density - boltzmann))
    soft = bellman.soft_value(q, jnp.asarray(log_density, jnp.float32), BETA)
    assert BETA * divergence == pytest.approx(float(smooth) - np.sum(density * np.asarray(soft)), abs=1e-5)
    assert divergence > 0.1


def test_c17_one_sampled_next_state_is_biased_under_the_exponential_and_not_on_q():
    v = np.array([-1.0, 1.0], np.float32)  # two next states, each with probability ½ after either of two actions
    half, no_weight = jnp.full(2, 0.5), jnp.zeros(2)
    expected_q = bellman.smooth_backup(jnp.zeros(()), jnp.asarray(v), half, GAMMA)
    sampled_q = [bellman.smooth_backup(jnp.zeros(1), jnp.asarray([[x]]), jnp.ones((1, 1)), GAMMA)[0] for x in v]
    assert np.mean(sampled_q) == pytest.approx(float(expected_q))

    inside = bellman.smooth_max(jnp.stack([expected_q, expected_q]), no_weight, BETA)
    sampled = [bellman.smooth_max(GAMMA * jnp.asarray(pair), no_weight, BETA) for pair in itertools.product(v, v)]
    assert float(inside) == pytest.approx(BETA * np.log(2), rel=1e-6)
    assert np.mean(sampled) > float(inside) + 0.1


# ---------------------------------------------------------------------- where values lie


@pytest.mark.parametrize("reward", [-1.0, 0.0, 2.0])
@pytest.mark.parametrize("bonus", [-1.5, 0.0, 0.7])
def test_the_range_of_values_is_met_by_staying_for_ever_and_by_ending_at_once(reward, bonus):
    """q = r + γ (q + h) gives (r + γh)/(1 − γ); the last step of an episode gives r. Nothing lies between or beyond."""
    stay = (reward + GAMMA * bonus) / (1 - GAMMA)
    low, high = bellman.value_range((reward, reward), GAMMA, (bonus, bonus))
    assert (low, high) == pytest.approx((min(stay, reward), max(stay, reward)))
    assert bellman.value_range((-1.0, 2.0), 0.0, (-np.inf, 5.0)) == (-1.0, 2.0)
    assert bellman.value_range((-1.0, 2.0), GAMMA, (-np.inf, 0.0))[0] == -np.inf


def test_smooth_backups_stay_in_the_range_of_values():
    """Any q in the range, any s' and any end of the episode: y is in it too, for |A| of several sizes."""
    rng = np.random.default_rng(0)
    for measure in (0.05, 1.0, 6.0):
        bonus = BETA * np.log(measure)
        low, high = bellman.value_range((-0.3, 0.2), GAMMA, (bonus, bonus))
        # Values at the ends of the range as well as between: those are the ones that could leave it.
        q = jnp.asarray(np.clip(rng.uniform(2 * low, 2 * high, (500, 30)), low, high).astype(np.float32))
        v = bellman.smooth_max(q, jnp.full((500, 30), np.log(measure / 30), jnp.float32), BETA)
        reward = jnp.asarray(rng.choice([-0.3, 0.2], 500).astype(np.float32))
        y = bellman.td_target(reward, jnp.asarray(rng.uniform(size=500) < 0.3), v, GAMMA)
        assert low - 1e-4 <= float(y.min())
        assert float(y.max()) <= high + 1e-4
