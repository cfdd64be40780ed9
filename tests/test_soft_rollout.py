"""Rollouts with entropy against the soft LQR (theory, G2, G3, G5), and the targets of value expansion row by row."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fittedq.actions.base import Box
from fittedq.approx.models import KnownModel
from fittedq.approx.networks import TanhGaussianPolicy
from fittedq.problems.dynamics import linear_quadratic
from fittedq.problems.lqr import LinearQuadratic
from fittedq.template.rollout import (
    AbstractTail,
    CriticTail,
    ImproveThrough,
    NoTail,
    Rollout,
    RolloutBellman,
    Starts,
    ValueTail,
)
from fittedq.template.targets import FirstCritic
from fittedq.types import Components, Transition
from linear import GaussianPolicy, LinearPolicy, QuadraticCritic, QuadraticValue, transitions
from methods import built

BETA, GAIN, STD, FIRST = 0.5, 0.3, 0.4, 1.7
"""Temperature, a = −GAIN s + STD ε, E[s_0²]."""
PROBLEM = LinearQuadratic.scalar(temperature=BETA)
GAMMA = PROBLEM.gamma
KEY = jax.random.key_data(jax.random.key(0))
ROWS, DRAWS = 4_000, 40
TAILS: dict[str, AbstractTail] = {"q": CriticTail(FirstCritic()), "v": ValueTail()}


def soft_nets() -> Components:
    """The policy's own soft q and v, and the model: v(s) = −P_K s² − c_K, q(s, a) = r + γ E v(s')."""
    gain, covariance = np.array([[GAIN]]), np.array([[STD**2]])
    P, constant = PROBLEM.policy_P(gain), PROBLEM.policy_constant(gain, covariance)
    H = PROBLEM.q_matrix(P)
    q_constant = GAMMA * (float(np.trace(P @ PROBLEM.W)) + constant)
    weights = [[-q_constant, 0, 0, -H[0, 0], -2 * H[0, 1], -H[1, 1]]]
    return Components(
        critic=QuadraticCritic(jnp.asarray(weights, jnp.float32)),
        policy=GaussianPolicy(jnp.asarray(GAIN), jnp.log(jnp.asarray(STD))),
        value=QuadraticValue(jnp.asarray([-constant, -P[0, 0]], jnp.float32)),
        model=KnownModel(linear_quadratic(PROBLEM)),
        log_temperature=jnp.log(BETA),
    )


@pytest.mark.parametrize(("tail", "horizon"), [("q", 0), ("q", 1), ("q", 3), ("v", 1), ("v", 3)])
def test_the_soft_value_and_its_gradient_are_the_closed_form(tail, horizon):
    """E J_n(s) = v(s) for every n; ∇_K J_n = −2 E_K Σ γᵗ X_t and ∂J_n/∂log σ = (β − 2 M_K σ²) Σ γᵗ, t ≤ n (v: t < n).

    M_K = R + γ B² P_K. Entropy left out of one step misses the value by β times the policy's entropy there, and the
    second gradient by β γᵗ.
    """
    nets = soft_nets()
    loss = ImproveThrough(Rollout(horizon, GAMMA, TAILS[tail]))
    still = transitions(np.zeros(ROWS), 0.0, 0.0, 0.0)

    def climb(policy: Any, key: Any) -> Any:
        start_key, key = jax.random.split(key)
        obs = jnp.sqrt(FIRST) * jax.random.normal(start_key, (ROWS, 1))
        data = still._replace(obs=obs, next_obs=obs)
        return -loss(policy, nets, Starts(data), key)[0]

    value, slope = jax.jit(jax.vmap(jax.value_and_grad(climb), (None, 0)))(nets.policy, jax.random.split(KEY, DRAWS))

    gain, covariance, first = np.array([[GAIN]]), np.array([[STD**2]]), np.array([[FIRST]])
    P, steps = PROBLEM.policy_P(gain), horizon + (tail == "q")
    weight = sum(GAMMA**t for t in range(steps))
    curvature = PROBLEM.q_matrix(P)[1, 1]
    truth = {
        "value": -P.item() * FIRST - PROBLEM.policy_constant(gain, covariance),
        "gain": PROBLEM.policy_gradient(gain, covariance, first, steps=steps).item(),
        "log_std": (BETA - 2 * curvature * STD**2) * weight,
    }
    for name, draws in {"value": value, "gain": slope.gain, "log_std": slope.log_std}.items():
        draws = np.asarray(draws)
        error = draws.std() / np.sqrt(DRAWS)
        assert draws.mean() == pytest.approx(truth[name], abs=4.5 * error + 1e-4), name
        # What one step's entropy adds (β · .50 to the value, β γᵗ to the second gradient) is far outside that error.
        assert 13.5 * error < 0.25 or name == "gain"


def test_inferred_noise_counts_the_entropy_of_the_observed_action():
    """J_1 = r − β log π(a | s) + γ v(s'), the density that of the tanh-Gaussian at the action of the data."""
    box = Box((-2.0,), (2.0,))
    policy = built(TanhGaussianPolicy, 1, box, (8,), KEY)
    obs, action = np.random.default_rng(0).uniform(-1, 1, (2, 64)).astype(np.float32)
    batch = transitions(obs, action, -(obs**2 + action**2), obs + action)
    problem = LinearQuadratic.scalar(noise=0.01)
    nets = soft_nets().replace("policy", policy).replace("model", KnownModel(linear_quadratic(problem)))
    found = ImproveThrough(Rollout(1, GAMMA, ValueTail()), inferred=True)(policy, nets, Starts(batch), KEY)[0]
    mean, log_std = (np.asarray(part)[:, 0] for part in policy.parameters(batch.obs))
    unit = action / 2
    normal = (np.arctanh(unit) - mean) / np.exp(log_std)
    density = -(normal**2) / 2 - log_std - np.log(2 * np.pi) / 2 - np.log(1 - unit**2) - np.log(2)
    truth = np.asarray(batch.reward) - BETA * density + GAMMA * np.asarray(nets.value(batch.next_obs))
    assert float(found) == pytest.approx(-truth.mean(), rel=1e-4)


# ---------------------------------------------------------------------- value expansion


class Reported(LinearPolicy):
    """a = −gain · s, which says that log π = −s²: every draw is the same, and the entropy's part can be told."""

    def sample(self, obs, key):
        return -self.gain * obs, -(obs[:, 0] ** 2)


def stops(obs: Any, action: Any, noise: Any) -> Any:
    """s' = s + a + ½, r = s − a², over once s > 1."""
    return obs + action + 0.5, jnp.sum(obs - action**2), obs[0] > 1.0


@pytest.mark.parametrize("horizon", [0, 1, 3])
@pytest.mark.parametrize("tail", ["q", "none"])
def test_value_expansion_labels_start_at_the_next_state_and_end_with_the_episode(tail, horizon):
    """y = r + γ (1 − terminated) J_n(s'), J_n summed by hand: until the model ends, then the tail."""
    gain, weights = 0.25, np.array([0.3, -0.2, 0.1, -0.4, 0.2, -0.6])
    nets = Components(
        critic=QuadraticCritic(jnp.asarray(weights[None], jnp.float32)),
        policy=Reported(jnp.asarray(gain)),
        model=KnownModel(stops),
        log_temperature=jnp.log(BETA),
    )
    obs, next_obs, reward = np.random.default_rng(0).uniform(-2, 2, (3, 40))
    terminated = np.arange(40) % 3 == 0
    batch = transitions(obs, 0.1, reward, next_obs, terminated)
    end = TAILS[tail] if tail == "q" else NoTail()
    found = RolloutBellman(GAMMA, Rollout(horizon, GAMMA, end))(nets, batch, None, KEY)

    truth = []
    for state, first_reward, ended in zip(next_obs, reward, terminated, strict=True):
        total, weight = 0.0, 1.0
        for _ in range(horizon):
            action = -gain * state
            total += weight * (state - action**2 + BETA * state**2)
            weight *= GAMMA * (state <= 1.0)
            state = state + action + 0.5
        if tail == "q":
            action = -gain * state
            q = weights @ [1, state, action, state**2, state * action, action**2]
            total += weight * (q + BETA * state**2)
        truth.append(first_reward + GAMMA * (1 - ended) * total)
    np.testing.assert_allclose(found.y, truth, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.inputs[0], batch.obs)
    np.testing.assert_array_equal(found.inputs[1], batch.action)


def test_value_expansion_labels_are_the_soft_q_of_the_policy():
    """r + γ E J_n(s') = r + γ v(s') at every n: the mean over a thousand copies of each row."""
    obs = np.repeat(np.linspace(-1.5, 1.5, 5), 1_000)
    batch: Transition = transitions(obs, 0.5, 1.0, obs + 0.5)
    target = RolloutBellman(GAMMA, Rollout(2, GAMMA, TAILS["q"]))
    y = np.asarray(target(soft_nets(), batch, None, KEY).y).reshape(5, -1)
    truth = 1.0 + GAMMA * np.asarray(soft_nets().value(batch.next_obs)).reshape(5, -1)[:, 0]
    assert (np.abs(y.mean(axis=1) - truth) < 4.5 * y.std(axis=1) / np.sqrt(1_000)).all()
