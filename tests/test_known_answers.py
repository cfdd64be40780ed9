"""Problems with known answers, through the template's own targets and losses (theory, section 3)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError

from fittedq.acting.noise import OrnsteinUhlenbeck
from fittedq.actions.base import Box
from fittedq.problems.lqr import LinearQuadratic
from fittedq.template.fits import Descend
from fittedq.template.fqi import FQI, Copy, Sync, Update
from fittedq.template.greedy import AbstractGreedy
from fittedq.template.losses import Improve, Regress
from fittedq.template.targets import Bellman, BellmanFromValue, FirstCritic, MeanOverCritics, MinOverCritics, SoftValue
from fittedq.types import AbstractCritic, Components, Greedy
from linear import (
    GaussianPolicy,
    LinearPolicy,
    QuadraticValue,
    critic,
    features,
    flat,
    gaussian_policy,
    noiseless,
    optimal_critic,
    transitions,
)

KEY = jax.random.PRNGKey(0)


def scalar(array) -> float:
    return float(np.asarray(array).item())


# ---------------------------------------------------------------------- the answers themselves


def test_g1_lqr_by_the_book():
    problem = LinearQuadratic.scalar()
    found = [scalar(problem.P), scalar(problem.gain), scalar(problem.M), problem.constant, problem.q_constant]
    assert found == pytest.approx([1.588403, 0.588403, 2.429563, 0.142956, 0.142956], abs=1e-6)


def test_g2_soft_lqr_by_the_book():
    problem = LinearQuadratic.scalar(temperature=0.2)
    assert scalar(problem.covariance) ** 0.5 == pytest.approx(0.202878, abs=1e-6)
    assert problem.constant == pytest.approx(1.495376, abs=1e-6)
    assert scalar(problem.P) == pytest.approx(scalar(LinearQuadratic.scalar().P))


def test_g3_evaluating_the_best_policy_gives_the_best_value():
    for problem in (LinearQuadratic.scalar(), LinearQuadratic.scalar(temperature=0.2), double_integrator(0.3)):
        assert problem.policy_P(problem.gain) == pytest.approx(problem.P, abs=1e-9)
        assert problem.policy_constant(problem.gain, problem.covariance) == pytest.approx(problem.constant, abs=1e-9)


def test_g3_policy_evaluation_agrees_with_rollouts():
    problem, gain, covariance = double_integrator(), np.array([[0.4, 0.9]]), np.array([[0.05]])
    rng, first = np.random.default_rng(0), np.array([1.0, -0.5])
    s, total = np.tile(first, (20_000, 1)), 0.0
    for step in range(120):
        a = -s @ gain.T + rng.normal(size=(20_000, 1)) * covariance[0, 0] ** 0.5
        cost = np.einsum("bi,ij,bj->b", s, problem.Q, s) + np.einsum("bi,ij,bj->b", a, problem.R, a)
        total = total - problem.gamma**step * cost
        s = s @ problem.A.T + a @ problem.B.T + rng.normal(size=s.shape) * np.sqrt(np.diag(problem.W))
    value = -first @ problem.policy_P(gain) @ first - problem.policy_constant(gain, covariance)
    assert value == pytest.approx(np.mean(total), abs=4 * np.std(total) / np.sqrt(20_000))


def test_g4_policy_gradient_by_the_book_and_by_differences():
    problem, covariance, first = LinearQuadratic.scalar(), np.array([[0.05]]), np.array([[1.7]])
    gain, step = np.array([[0.3]]), 1e-5

    def value(gain):
        return -np.trace(problem.policy_P(gain) @ first) - problem.policy_constant(gain, covariance)

    truncated = [scalar(problem.policy_gradient(gain, covariance, first, n + 1)) for n in (0, 1, 2, 5, 20)]
    assert truncated == pytest.approx([3.156708, 4.649089, 5.397473, 6.241200, 7.201802], abs=1e-6)
    whole = scalar(problem.policy_gradient(gain, covariance, first))
    assert whole == pytest.approx(7.440836, abs=1e-6)
    assert whole == pytest.approx((value(gain + step) - value(gain - step)) / (2 * step), rel=1e-6)


def double_integrator(temperature: float = 0.0) -> LinearQuadratic:
    A, B = np.array([[1.0, 0.5], [0.0, 1.0]]), np.array([[0.0], [0.5]])
    return LinearQuadratic(A, B, np.diag([1.0, 0.1]), np.array([[0.3]]), 0.01 * np.eye(2), 0.9, temperature)


# ---------------------------------------------------------------------- G1, fitted


class ArgmaxOfQuadratic(AbstractGreedy):
    """a' = −(w_a + w_sa s') / (2 w_aa); 0 where q is flat in a."""

    def __call__(self, nets, obs, key):
        _, _, w_a, _, w_sa, w_aa = nets.critic.weights[0]
        slope = w_a + w_sa * obs
        action = jnp.where(w_aa < 0, -slope / (2 * jnp.minimum(w_aa, -1e-9)), 0.0)
        return Greedy(action, jnp.zeros(obs.shape[0]), jnp.ones(obs.shape[0], bool))


def exact_least_squares(batch) -> optax.GradientTransformation:
    """One step of Newton on mean (w · φ − y)², which is its solution."""
    inputs = features(batch.obs, batch.action)
    hessian = 2 * inputs.T @ inputs / inputs.shape[0]
    solve = jnp.linalg.inv(hessian)
    return optax.stateless(lambda gradient, _: jax.tree.map(lambda g: -g @ solve, gradient))


def value_coefficient(weights) -> float:
    """P of max_a q(s, a) = −P s² for q = w_ss s² + w_sa sa + w_aa a²."""
    w_ss, w_sa, w_aa = (float(w) for w in weights[0, 3:])
    return -(w_ss - w_sa**2 / (4 * w_aa))


def test_g1_fqi_with_quadratic_features_reproduces_the_riccati_iterates():
    problem = LinearQuadratic.scalar(noise=0.0)
    batch = noiseless(problem)
    fit = Descend(exact_least_squares(batch))
    fqi = FQI(
        greedy=ArgmaxOfQuadratic(),
        updates=(Update("critic", Regress(Bellman(problem.gamma, FirstCritic())), fit),),
        sync=Sync(critic=Copy()),
    )
    state, learn = fqi.init(Components(critic=flat(0.0)), KEY, batch), jax.jit(fqi.learn)
    iterates, exact = [], [np.zeros((1, 1))]
    for _ in range(6):
        state = learn(state, batch)
        iterates.append(value_coefficient(state.nets.critic.weights))
        exact.append(problem.riccati(exact[-1]))
    assert iterates[:4] == pytest.approx([1, 1.473684, 1.570136, 1.585599], abs=2e-5)
    assert iterates == pytest.approx([scalar(P) for P in exact[1:]], abs=2e-5)
    assert np.asarray(state.nets.critic.weights[0, :3]) == pytest.approx(0.0, abs=2e-5)


def test_g1_bellman_leaves_the_optimum_where_it_is():
    problem = LinearQuadratic.scalar(noise=0.0)
    batch, q = noiseless(problem), optimal_critic(problem)

    @jax.jit
    def both_sides(nets):
        greedy = ArgmaxOfQuadratic()(nets, batch.next_obs, KEY)
        data = Bellman(problem.gamma, FirstCritic())(nets, batch, greedy, KEY)
        return data.y, nets.critic(*data.inputs)[0]

    np.testing.assert_allclose(*both_sides(Components(critic=q)), atol=1e-5)


# ---------------------------------------------------------------------- G2, soft


def soft_nets(gain_factor: float = 1.0, std_factor: float = 1.0) -> tuple[LinearQuadratic, Components]:
    problem = LinearQuadratic.scalar(temperature=0.2)
    policy = gaussian_policy(gain_factor * scalar(problem.gain), std_factor * scalar(problem.covariance) ** 0.5)
    log_temperature = jnp.asarray(np.log(0.2), jnp.float32)
    return problem, Components(critic=optimal_critic(problem), policy=policy, log_temperature=log_temperature)


def policy_slope(nets: Components, rows: int = 400_000) -> GaussianPolicy:
    """∇ of Improve's loss at states with E[s²] = 1."""
    obs = jnp.asarray(np.where(np.arange(rows) % 2 == 0, 1.0, -1.0)[:, None], jnp.float32)
    loss = Improve(MinOverCritics())
    return jax.jit(jax.grad(lambda policy: loss(policy, nets, obs, KEY)[0]))(nets.policy)


def test_g2_the_boltzmann_policy_is_a_stationary_point():
    _, nets = soft_nets()
    slope = policy_slope(nets)
    assert float(slope.log_std) == pytest.approx(0.0, abs=3e-3)
    assert float(slope.gain) == pytest.approx(0.0, abs=6e-3)
    _, off = soft_nets(gain_factor=0.9)
    assert abs(float(policy_slope(off).gain)) > 0.2


def test_g2_regressing_v_gives_minus_P_and_minus_c():
    problem, nets = soft_nets()
    batch = noiseless(problem)
    data = jax.device_get(jax.jit(lambda nets: SoftValue(MinOverCritics())(nets, batch, None, KEY))(nets))
    truth = -scalar(problem.P) * np.asarray(batch.obs)[:, 0] ** 2 - problem.constant
    np.testing.assert_allclose(data.y, truth, atol=2e-5)  # q − β log π is v at every action, so a sample is exact
    coefficients = np.polynomial.polynomial.polyfit(np.asarray(data.inputs[0][:, 0]), np.asarray(data.y), 2)
    assert coefficients == pytest.approx([-problem.constant, 0.0, -scalar(problem.P)], abs=2e-4)


@pytest.mark.parametrize("through", ["q", "v"])
def test_g2_both_soft_targets_leave_the_optimum_where_it_is(through):
    problem, nets = soft_nets()
    rows = 400_000
    s, a, noise = np.random.default_rng(0).normal(size=(3, rows))
    batch = transitions(s, a, -(s**2) - a**2, s + a + 0.1 * noise)

    @jax.jit
    def residual_of(nets):
        if through == "v":
            v = QuadraticValue(jnp.asarray([-problem.constant, -scalar(problem.P)], jnp.float32))
            data = BellmanFromValue(problem.gamma)(nets.replace("value", v), batch, None, KEY)
        else:
            action, log_prob = nets.policy.sample(batch.next_obs, jax.random.PRNGKey(7))
            greedy = Greedy(action, log_prob, jnp.zeros(rows, bool))
            data = Bellman(problem.gamma, MinOverCritics())(nets, batch, greedy, KEY)
        return data.y - nets.critic(*data.inputs)[0]

    residual = np.asarray(residual_of(nets))
    assert residual.mean() == pytest.approx(0.0, abs=4 * residual.std() / np.sqrt(rows))
    assert residual.std() < 1.0


# ---------------------------------------------------------------------- G4, the actor's gradient


def test_g4_improve_ascends_the_policy_gradient_at_the_given_states():
    problem, gain, first = LinearQuadratic.scalar(), np.array([[0.3]]), np.array([[1.7]])
    H = problem.q_matrix(problem.policy_P(gain))
    nets = Components(critic=critic((0, 0, 0, -H[0, 0], -2 * H[0, 1], -H[1, 1])))
    obs = jnp.asarray([[1.7**0.5], [-(1.7**0.5)]])
    loss = Improve(FirstCritic())
    slope = jax.jit(jax.grad(lambda policy: loss(policy, nets, obs, KEY)[0]))(LinearPolicy(jnp.asarray(0.3)))
    expected = scalar(problem.policy_gradient(gain, np.zeros((1, 1)), first, 1))
    assert expected == pytest.approx(3.156708, abs=1e-6)
    assert float(slope.gain) == pytest.approx(-expected, rel=1e-5)


# ---------------------------------------------------------------------- G9, overestimation


class PerturbedCritics(AbstractCritic):
    """q̂_j(s, a) = −a² + δ_j a: the state holds the errors δ_1, δ_2 of one draw."""

    members: Any
    action_set: ClassVar[Box] = Box([-1.0], [1.0])
    has_gradient: ClassVar[bool] = True

    @property
    def size(self) -> int:
        return self.members.shape[0]

    def __call__(self, obs, action, key=None):
        return -(action[:, 0] ** 2) + obs.T[self.members] * action[:, 0]

    def subset(self, indices):
        return PerturbedCritics(self.members[indices])


SCALE = 0.7
"""Deviation of the critics' errors; the bias is in units of its square."""


@pytest.fixture(scope="module")
def errors():
    return jax.jit(lambda key: SCALE * jax.random.normal(key, (1_000_000, 2)))(KEY)


def bias(combine, errors) -> float:
    """Mean reading at a = δ_1 / 2, the first critic's own maximizer."""
    critics = PerturbedCritics(jnp.asarray(np.arange(2, dtype=np.int32)))
    mean = jax.jit(lambda errors: jnp.mean(combine(critics, errors, errors[:, :1] / 2, KEY)))
    return float(mean(errors)) / SCALE**2


def test_g9_the_maximized_critic_reads_too_high(errors):
    assert bias(FirstCritic(), errors) == pytest.approx(1 / 4, abs=3e-3)


def test_g9_the_truth_and_an_independent_critic_do_not(errors):
    assert float(np.mean(-((np.asarray(errors)[:, 0] / 2) ** 2))) / SCALE**2 == pytest.approx(-1 / 4, abs=3e-3)
    assert 2 * bias(MeanOverCritics(), errors) - bias(FirstCritic(), errors) == pytest.approx(-1 / 4, abs=3e-3)


@pytest.mark.parametrize("subset", [None, 2])
def test_g9_the_minimum_of_two_reads_too_low(errors, subset):
    assert bias(MinOverCritics(subset), errors) == pytest.approx(-(1 / 8 + 1 / (2 * np.pi)), abs=3e-3)


# ---------------------------------------------------------------------- G10, Ornstein–Uhlenbeck


def impulse_response(noise: OrnsteinUhlenbeck, steps: int) -> np.ndarray:
    """What one unit draw does to every later value; the process is linear, so this is all of it."""
    state, response = np.zeros((1, 1)), []
    for step in range(steps):
        state, value = noise.step(state, np.full((1, 1), float(step == 0)))
        response.append(scalar(value))
    return np.array(response)


@pytest.mark.parametrize(("dt", "variance", "steps"), [(1.0, 0.144144, 200), (0.01, 0.133433, 8_000)])
def test_g10_ou_variance_and_autocorrelation(dt, variance, steps):
    response = impulse_response(OrnsteinUhlenbeck(0.15, 0.0, 0.2, dt), steps)
    assert np.sum(response**2) == pytest.approx(variance, abs=1e-6)
    for lag in (1, 5, 20):
        correlation = np.sum(response[lag:] * response[:-lag]) / np.sum(response**2)
        assert correlation == pytest.approx((1 - 0.15 * dt) ** lag, abs=1e-6)


def test_g10_the_continuous_formula_is_not_the_variance():
    assert abs(0.2**2 / (2 * 0.15) - 0.144144) > 0.01


def test_g10_ou_reverts_to_its_mean():
    noise = OrnsteinUhlenbeck(0.15, 0.3, 0.0, 1.0)
    state = np.zeros((1, 1))
    for step in range(1, 10):
        state, value = noise.step(state, np.zeros((1, 1)))
        assert scalar(value) == pytest.approx(0.3 * (1 - 0.85**step))


@pytest.mark.annotations
def test_shapes_are_checked():
    """The annotations are live: a mis-shaped batch is refused, so the other tests test shapes too."""
    with pytest.raises(TypeCheckError):
        Greedy(jnp.zeros((3, 1)), jnp.zeros(4), jnp.zeros(3, bool))
