"""The smooth operator as the library computes it, v_β = β log ∫_A exp(q/β) da: closed forms, bounds, the soft LQR."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, ndtr

from fittedq.actions.base import Box
from fittedq.actions.polytope import Polytope
from fittedq.actions.state_box import StateBox
from fittedq.algorithms.smooth_fqi import SmoothFQI
from fittedq.approx.linear import LinearCritic, Polynomial
from fittedq.approx.networks import TanhGaussianPolicy
from fittedq.bellman import boltzmann_log_density
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.problems.lqr import LinearQuadratic
from fittedq.template.losses import Improve
from fittedq.template.targets import MinOverCritics, Quadrature, SmoothBellman, UniformSamples
from fittedq.trainers.iterations import FittedTrainer
from fittedq.trainers.settings import FitSettings
from fittedq.types import Components, Transition

GAMMA, BETA = 0.9, 0.5
UNIT, WIDE = Box((-1.0,), (1.0,)), Box((-1.0,), (2.0,))
KEY = jax.random.key_data(jax.random.key(0))
EXACT = -0.462751
"""v_β of q = −10a² on [−1, 1] at β = ½."""


def quadratic(*weights: float, box: Box = UNIT) -> LinearCritic:
    """q = w · (1, s, a, s², sa, a²)."""
    return LinearCritic(Polynomial(2), jnp.asarray([weights], jnp.float32), box)


def batch(rows: int = 64) -> Transition:
    """States and next states in [−2, 2], r = 1, every second row terminal."""
    rng = np.random.default_rng(0)
    obs, next_obs = rng.uniform(-2, 2, (2, rows, 1)).astype(np.float32)
    ended = np.arange(rows) % 2 == 1
    return Transition(obs, np.zeros_like(obs), np.ones(rows, np.float32), next_obs, ended, np.zeros(rows, bool))


@eqx.filter_jit
def labelled(critic: LinearCritic, rows: Transition, nodes: Quadrature | UniformSamples, beta: float) -> jax.Array:
    return SmoothBellman(GAMMA, beta, nodes)(Components(critic=critic), rows, None, KEY).y


def labels(critic: LinearCritic, nodes: Quadrature | UniformSamples, beta: float = BETA) -> np.ndarray:
    return np.asarray(labelled(critic, batch(), nodes, beta))


# ---------------------------------------------------------------------- the integral over the box


def test_quadrature_integrates_polynomials_over_any_box_exactly():
    """On [−1, 3] × [½, ¾]: ∫ 1 = 1, ∫ a² b = 28/3 · 5/32, ∫ a⁷ b⁵ = (3⁸ − 1)/8 · ((¾)⁶ − (½)⁶)/6, with 4 nodes each."""
    action, log_weight = Quadrature(4)(Box((-1.0, 0.5), (3.0, 0.75)), jnp.zeros((3, 1)), KEY)
    a, b = np.moveaxis(np.asarray(action, np.float64), -1, 0)
    weight = np.exp(np.asarray(log_weight, np.float64))
    assert weight.sum(axis=1) == pytest.approx(1.0, rel=1e-5)
    assert (weight * a**2 * b).sum(axis=1) == pytest.approx(28 / 3 * 5 / 32, rel=1e-5)
    assert (weight * a**7 * b**5).sum(axis=1) == pytest.approx((3**8 - 1) / 8 * (0.75**6 - 0.5**6) / 6, rel=1e-5)


def test_samples_estimate_the_integral_without_bias_and_its_logarithm_from_below():
    """E Σ e^w f(a) = ∫ f; E v̂_β < v_β by Jensen, by Var / 2K to first order: four times as many, a quarter."""
    box, f = Box((-1.0,), (1.0,)), lambda action: np.exp(-10 * np.asarray(action, np.float64)[..., 0] ** 2 / BETA)
    integral = np.sqrt(np.pi * BETA / 10) * erf(np.sqrt(10 / BETA))
    bias = []
    for count in (16, 64):
        action, log_weight = jax.jit(lambda count=count: UniformSamples(count)(box, jnp.zeros((20_000, 1)), KEY))()
        assert np.abs(action).max() <= 1
        estimate = (np.exp(np.asarray(log_weight, np.float64)) * f(action)).sum(axis=1)
        error = estimate.std() / np.sqrt(len(estimate))
        assert estimate.mean() == pytest.approx(integral, abs=5 * error)
        bias.append(BETA * (np.log(integral) - np.log(estimate).mean()))
    assert bias[1] > 0
    assert 2.5 < bias[0] / bias[1] < 6.5


# ---------------------------------------------------------------------- the target (G6)


@pytest.mark.parametrize(("nodes", "tolerance"), [(Quadrature(33), 1e-5), (UniformSamples(200_000), 1e-2)])
def test_g6_labels_are_the_closed_form(nodes, tolerance):
    """q = s² − 10a²: y = r + γ (1 − terminated)(s'² + β log(√(πβ/10) erf √(10/β))), below max q = s'²."""
    closed = BETA * np.log(np.sqrt(np.pi * BETA / 10) * erf(np.sqrt(10 / BETA)))
    assert closed == pytest.approx(EXACT, abs=1e-6)
    rows = batch(2) if isinstance(nodes, UniformSamples) else batch()
    y = labelled(quadratic(0, 0, 0, 1, 0, -10), rows, nodes, BETA)
    bootstrap = np.where(rows.terminated, 0.0, np.asarray(rows.next_obs)[:, 0] ** 2 + closed)
    assert np.asarray(y) == pytest.approx(1 + GAMMA * bootstrap, abs=tolerance)


@pytest.mark.parametrize("nodes", [Quadrature(17), UniformSamples(64)])
def test_g6_a_shift_of_q_shifts_labels_by_gamma_and_two_qs_come_closer_by_gamma(nodes):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 6))
    going = ~batch().terminated
    shifted = labels(quadratic(first[0] + 2, *first[1:]), nodes) - labels(quadratic(*first), nodes)
    assert shifted[going] == pytest.approx(GAMMA * 2, abs=1e-4)
    assert shifted[~going] == pytest.approx(0)

    # The supremum of |q_1 − q_2| over s' and a, on a grid: it bounds the change at any s'.
    s, a = np.meshgrid(batch().next_obs[:, 0], np.linspace(-1, 1, 401))
    s, a = s.ravel(), a.ravel()
    distance = np.abs(np.stack([s**0, s, a, s**2, s * a, a**2], axis=-1) @ (first - second)).max()
    moved = np.abs(labels(quadratic(*first), nodes) - labels(quadratic(*second), nodes)).max()
    assert moved <= GAMMA * distance * (1 + 1e-4)
    # Where q_1 − q_2 is constant the bound is met, so it is γ and nothing smaller.
    assert np.abs(shifted).max() == pytest.approx(GAMMA * 2, abs=1e-4)


def test_g6_labels_stay_below_the_maximum_and_the_log_of_the_measure():
    """v_β ≤ max q + β log |A|, |A| = 3, with equality for a constant q; v_β falls towards Laplace as β does."""
    going = ~batch().terminated
    flat = labels(quadratic(0, 0, 0, 0, 0, 0, box=WIDE), Quadrature(17))
    assert flat[going] == pytest.approx(1 + GAMMA * BETA * np.log(3), abs=1e-5)
    peaked = labels(quadratic(0, 0, 0, 0, 0, -1, box=WIDE), Quadrature(17))
    assert (peaked[going] < flat[going] - 0.1).all()
    cold = labels(quadratic(0, 0, 0, 0, 0, -10), Quadrature(129), beta=0.01)
    laplace = 0.01 / 2 * np.log(2 * np.pi * 0.01) - 0.01 / 2 * np.log(20)
    assert cold[going] == pytest.approx(1 + GAMMA * laplace, abs=1e-5)


# ---------------------------------------------------------------------- the KL identity


def test_the_policys_loss_is_the_divergence_to_boltzmann_less_the_smooth_value():
    """E_π[β log π − q] = β·KL(π ‖ exp((q − v_β)/β)) − v_β: left by the library's densities, right by masses.

    The masses of π in small cells come from the normal distribution function, not from its density; the box's
    half-width is not 1, so a density in other units misses by β log 1.5.
    """
    q = quadratic(0.3, 0, 1.0, 0, 0, -1.5, box=WIDE)
    nets = Components(critic=q, log_temperature=jnp.asarray(np.log(BETA), jnp.float32))

    @jax.jit
    def told(key):
        policy, obs = TanhGaussianPolicy(1, WIDE, (4,), key), jnp.zeros((200_000, 1))
        return *policy.parameters(obs[:1]), Improve(MinOverCritics())(policy, nets, obs, key)[0]

    mean, log_std, loss = (float(np.asarray(part).item()) for part in told(KEY))

    # v_β as smooth FQI labels it, with γ = 1 and r = 0.
    zero, never = np.zeros((1, 1), np.float32), np.zeros(1, bool)
    row = Transition(zero, zero, zero[0], zero, never, never)
    smooth = (
        np.asarray(jax.jit(lambda nets: SmoothBellman(0.5, BETA, Quadrature(65))(nets, row, None, KEY).y)(nets)) / 0.5
    )
    edge = np.linspace(-1, 2, 30_001)
    action = (edge[1:] + edge[:-1]) / 2
    unit = np.arctanh(np.clip((edge - 0.5) / 1.5, -1 + 1e-15, 1 - 1e-15))
    mass = np.diff(ndtr((unit - mean) / np.exp(log_std)))
    values = q(np.zeros((len(action), 1), np.float32), action[:, None].astype(np.float32))
    log_density = jax.jit(boltzmann_log_density)(values, smooth, BETA)
    boltzmann = np.exp(np.asarray(log_density, np.float64))[0] * np.diff(edge)
    assert boltzmann.sum() == pytest.approx(1.0, abs=1e-4)
    divergence = np.sum(mass * np.log(np.maximum(mass, 1e-300) / boltzmann))
    assert divergence > 0.05
    assert loss == pytest.approx(BETA * divergence - float(smooth[0]), abs=0.01)


# ---------------------------------------------------------------------- the whole loop


@pytest.mark.parametrize(("beta", "constant"), [(0.2, 1.495376), (2.0, -9.358700)])
def test_g2_smooth_fqi_finds_the_soft_lqr(beta, constant):
    """q* = −[s; a]ᵀ H [s; a] − γ (tr(PW) + c_β), G1's numbers; at β = 2 it is above every sum of rewards: they are ≤ 0.

    Every (s, a) stands twice, with s' = s + a ± .1: the mean over one sampled s' is then exact, W = .01, as the
    operator on q allows.
    """
    problem = LinearQuadratic.scalar(temperature=beta)
    assert problem.constant == pytest.approx(constant, abs=1e-6)
    obs, action = np.random.default_rng(0).uniform(-2, 2, (2, 100, 1)).repeat(2, axis=1)
    data = Dataset.from_arrays(
        obs=obs,
        action=action,
        reward=-(obs**2 + action**2)[:, 0],
        next_obs=obs + action + 0.1 * np.tile([[1.0], [-1.0]], (100, 1)),
        terminated=np.zeros(200, bool),
        truncated=np.zeros(200, bool),
        action_low=-5.0,
        action_high=5.0,
    )
    # σ = .2 on a box of width 10: nodes must lie closer than σ.
    algorithm = SmoothFQI(approximator="polynomial", gamma=GAMMA, temperature=beta, points=80, ridge=0.0)
    trainer = FittedTrainer(algorithm, data, FitSettings(normalize_obs=False), seed=0)
    while trainer.step < 90:
        trainer.advance(90 - trainer.step)
    H = problem.H
    expected = [-problem.q_constant, 0, 0, -H[0, 0], -2 * H[0, 1], -H[1, 1]]
    assert np.asarray(trainer.nets().critic.weights)[0] == pytest.approx(expected, abs=2e-3)


# ---------------------------------------------------------------------- what clipped targets allow


def worthless(action_set: Box | StateBox | Polytope, rows: int = 60, terminal: bool = False) -> Dataset:
    """r = 0, s' = s."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (rows, 1))
    columns = {
        "obs": obs,
        "action": rng.uniform(action_set.low, action_set.high, (rows, action_set.size)),
        "reward": np.zeros(rows),
        "next_obs": obs,
        "terminated": np.full(rows, terminal),
        "truncated": np.zeros(rows, bool),
    }
    return Dataset({name: np.asarray(column, np.float32) for name, column in columns.items()}, action_set)


def value_at_zero(data: Dataset, iterations: int = 120) -> float:
    """q(0, 0) of smooth FQI with targets clipped, as they are by default."""
    algorithm = SmoothFQI(approximator="polynomial", gamma=GAMMA, temperature=BETA, ridge=0.0)
    trainer = FittedTrainer(algorithm, data, FitSettings(normalize_obs=False), seed=0)
    while trainer.step < iterations:
        trainer.advance(iterations - trainer.step)
    nothing = np.zeros((1, 1), np.float32)
    return float(trainer.nets().critic(nothing, np.zeros((1, data.action_set.size), np.float32))[0, 0])


@pytest.mark.parametrize(("width", "value"), [(1.0, 3.1192), (0.1, -7.2425), (3.0, 8.0629)])
def test_where_nothing_is_earned_q_is_what_entropy_is_worth(width, value):
    """q = γ/(1 − γ) β log |A|, |A| above and below 1; where every row ends an episode it is 0."""
    assert value_at_zero(worthless(Box((-width,), (width,)))) == pytest.approx(value, abs=1e-3)
    assert value_at_zero(worthless(Box((-width,), (width,)), terminal=True), 2) == 0.0


def narrow(obs):
    """A bound of .1 at every state."""
    return 0.0 * obs + 0.1


def minus_narrow(obs):
    return -narrow(obs)


def test_a_set_that_depends_on_the_state_counts_its_own_volume():
    """|A(s)| = .2 inside an outer box of 2: nodes cover A(s), and targets are not held above what it allows."""
    inner = StateBox(minus_narrow, narrow, UNIT)
    assert value_at_zero(worthless(inner)) == pytest.approx(-7.2425, abs=1e-3)


def test_a_set_too_thin_for_the_nodes_is_one_sentence():
    """A slab of thickness .001: of 64 actions drawn in the cube around it none lies in it, and β log ∫ would be −∞."""
    slab = Polytope([-1] * 3, [1] * 3, [[1, 1, 1], [-1, -1, -1]], [0.001, 0.0])
    with pytest.raises(UserError, match=r"max_abs_target is not finite; .* raise points or samples"):
        value_at_zero(worthless(slab), 1)
