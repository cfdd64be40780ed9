"""Plants against mechanics and hydraulics: balances, linearizations and closed forms, in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from fittedq.envs.process import CartPole, TwoTanks, runge_kutta, smooth_cost


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


KEY = jax.random.PRNGKey(0)


def step(env, inner, action):
    """One sample, whose key goes unused: these plants have no noise."""
    return env.transition(jnp.asarray(inner), jnp.asarray([action]), KEY)


def energy(env: CartPole, state):
    """½ (M + m) ẋ² + m l ẋ θ̇ cos θ + ½ (4/3) m l² θ̇² + m g l cos θ, a rod about its pivot having 4/3 m l²."""
    _, velocity, angle, rate = state
    moment = env.pole_mass * env.half_length
    kinetic = (env.cart_mass + env.pole_mass) * velocity**2 / 2 + moment * velocity * rate * jnp.cos(angle)
    kinetic += 2 / 3 * moment * env.half_length * rate**2
    return kinetic + moment * env.gravity * jnp.cos(angle)


def momentum(env: CartPole, state):
    """(M + m) ẋ + m l θ̇ cos θ."""
    _, velocity, angle, rate = state
    return (env.cart_mass + env.pole_mass) * velocity + env.pole_mass * env.half_length * rate * jnp.cos(angle)


# ---------------------------------------------------------------------- the cart


def test_cart_obeys_the_balances_of_power_and_momentum():
    """dE/dt = F ẋ and dp/dt = F fix both accelerations, so that together they are the equations of motion."""
    env, rng = CartPole(), np.random.default_rng(0)
    for _ in range(5):
        state, force = jnp.asarray(rng.normal(size=4) * [1, 2, 1, 3]), jnp.asarray(rng.uniform(-10, 10))
        rates = env.derivative(state, force)
        power = jax.grad(lambda state: energy(env, state))(state) @ rates
        thrust = jax.grad(lambda state: momentum(env, state))(state) @ rates
        assert float(power) == pytest.approx(float(force * state[1]), abs=1e-10)
        assert float(thrust) == pytest.approx(float(force), abs=1e-10)


def test_cart_conserves_energy_to_fourth_order():
    """With F = 0 the drift of the energy over a second falls sixteenfold or more when the step is halved."""
    env, state = CartPole(), jnp.asarray([0.1, 0.5, 0.3, -1.0])
    drift = []
    for steps in (10, 20, 40):
        after = runge_kutta(lambda state: env.derivative(state, jnp.zeros(())), state, 1.0, steps)
        drift.append(abs(float(energy(env, after) - energy(env, state))))
    assert drift[1] < drift[0] / 12 and drift[2] < drift[1] / 12
    assert drift[2] < 1e-6


def test_cart_linearizes_to_the_textbook():
    """About upright: θ̈ = (g θ − F/M) / D, ẍ = F/M − (m l/M) θ̈, D = l (4/3 − m/M); one sample is its exponential."""
    env = CartPole()
    mass, moment = env.cart_mass + env.pole_mass, env.pole_mass * env.half_length
    D = env.half_length * (4 / 3 - env.pole_mass / mass)
    A, B = np.zeros((4, 4)), np.zeros((4, 1))
    A[0, 1] = A[2, 3] = 1.0
    A[3, 2], B[3, 0] = env.gravity / D, -1 / (mass * D)
    A[1, 2], B[1, 0] = -moment / mass * A[3, 2], 1 / mass - moment / mass * B[3, 0]
    sampled = expm(np.block([[A, B], [np.zeros((1, 5))]]) * env.dt)

    found = jax.jacobian(lambda s, a: env.transition(s, a, KEY)[0], argnums=(0, 1))(jnp.zeros(4), jnp.zeros(1))
    np.testing.assert_allclose(found[0], sampled[:4, :4], atol=1e-6)
    np.testing.assert_allclose(found[1], sampled[:4, 4:], atol=1e-6)


def test_cart_fails_off_the_track_and_with_the_pole_down():
    env = CartPole()
    for inner, failed in (
        ([2.39, 1.0, 0.0, 0.0], True),
        ([2.39, -1.0, 0.0, 0.0], False),
        ([0.0, 0.0, -0.69, -1.0], True),
        ([0.0, 0.0, 0.3, 0.0], False),
    ):
        _, reward, terminated = step(env, inner, 0.0)
        assert bool(terminated) is failed
        assert float(reward) == 0.0 if failed else 0.0 < float(reward) < 1.0


def test_cart_clips_the_force():
    np.testing.assert_array_equal(step(CartPole(), np.zeros(4), 50.0)[0], step(CartPole(), np.zeros(4), 10.0)[0])


# ---------------------------------------------------------------------- the tanks


def test_tanks_come_to_rest_at_torricellis_levels():
    """h_i = (k u / a_i)² / 2g, from empty and from full, with outlets that differ."""
    env = TwoTanks(outlets=(0.178, 0.2))
    voltage = 8.0
    expected = (env.pump * voltage / np.asarray(env.outlets)) ** 2 / (2 * env.gravity)
    advance = jax.jit(lambda inner: step(env, inner, voltage)[0])
    for start in ([0.0, 0.0, 10.0], [30.0, 30.0, 10.0]):
        inner = jnp.asarray(start)
        for _ in range(300):
            inner = advance(inner)
        np.testing.assert_allclose(inner[:2], expected, rtol=1e-6)
        assert float(inner[2]) == 10.0


def test_a_tank_drains_as_torricelli_says():
    """Pump off: √h₁(t) = √h₁(0) − (a₁/A) √(g/2) t, until empty; a tank that has run dry stays so."""
    env = TwoTanks()
    rate = env.outlets[0] / env.area * np.sqrt(env.gravity / 2)
    inner = jnp.asarray([16.0, 5.0, 10.0])
    for n in range(1, 6):
        inner = step(env, inner, 0.0)[0]
        assert float(inner[0]) == pytest.approx((4.0 - rate * n * env.dt) ** 2, rel=1e-7)
    for _ in range(40):
        inner = step(env, inner, 0.0)[0]
    assert float(inner[0]) == pytest.approx(0.0, abs=1e-3)


def test_tanks_conserve_mass():
    """With the lower outlet shut the water held grows by what was pumped, k u dt; the flow between tanks cancels."""
    env = TwoTanks(outlets=(0.178, 0.0))
    inner = jnp.asarray([6.0, 1.0, 10.0])
    after = step(env, inner, 7.0)[0]
    assert float(env.area * (after - inner)[:2].sum()) == pytest.approx(env.pump * 7.0 * env.dt, rel=1e-12)
    # Both shut: all of it stays above, up to the rim.
    shut = TwoTanks(outlets=(0.0, 0.0))
    assert float(step(shut, [6.0, 1.0, 10.0], 7.0)[0][0]) == pytest.approx(6.0 + env.pump * 7.0 * env.dt / env.area)
    assert float(step(shut, [29.9, 1.0, 10.0], 7.0)[0][0]) == env.height


def test_the_reward_follows_the_lower_level_and_the_set_point():
    """At rest on the set point the reward is 1; one width off it is .05, whatever the upper tank does."""
    env = TwoTanks()
    for target in (5.0, 15.0):
        voltage = env.outlets[1] * np.sqrt(2 * env.gravity * target) / env.pump
        assert float(step(env, [target, target, target], voltage)[1]) == pytest.approx(1.0)
        assert float(step(env, [target, target, target + env.width], voltage)[1]) == pytest.approx(0.05)


# ---------------------------------------------------------------------- what they share


def test_smooth_cost():
    """0 at 0, .95 at the width, quadratic (w e / δ)² near 0, the mean over components, even."""
    width = jnp.asarray([2.0, 0.1])
    assert float(smooth_cost(jnp.zeros(2), width)) == 0.0
    assert float(smooth_cost(width, width)) == pytest.approx(0.95)
    assert float(smooth_cost(jnp.asarray([2.0, 0.0]), width)) == pytest.approx(0.475)
    assert float(smooth_cost(jnp.asarray([1e-3, 0.0]), width)) == pytest.approx(
        (np.arctanh(np.sqrt(0.95)) * 1e-3 / 2) ** 2 / 2, rel=1e-5
    )


def test_runge_kutta_solves_linear_decay_to_its_order():
    """ṡ = −s: a step multiplies by 1 − h + h²/2 − h³/6 + h⁴/24."""
    h = 0.4
    found = runge_kutta(lambda state: -state, jnp.ones(1), 2 * h, 2)
    assert float(found[0]) == pytest.approx((1 - h + h**2 / 2 - h**3 / 6 + h**4 / 24) ** 2, rel=1e-12)


@pytest.mark.parametrize("env", [CartPole(), TwoTanks()])
def test_episodes_begin_within_bounds(env):
    starts = jax.vmap(env.begin)(jax.random.split(jax.random.PRNGKey(0), 500))
    if isinstance(env, CartPole):
        assert (np.abs(starts) <= np.asarray(env.spread)).all()
        assert (np.abs(starts).max(0) > 0.9 * np.asarray(env.spread)).all()
    else:
        assert (np.asarray(starts[:, :2]) >= 0).all() and (np.asarray(starts[:, :2]) <= env.height).all()
        assert (starts[:, 2].min(), starts[:, 2].max()) == pytest.approx(env.set_points, abs=0.3)
        # The set point is no function of the levels.
        assert np.abs(np.corrcoef(np.asarray(starts), rowvar=False)[2, :2]).max() < 0.15
