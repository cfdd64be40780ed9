"""Plants of process control: a cart that balances a pole, and two tanks whose lower level follows a set point.

Differential equations under an action held between samples. Both earn r = 1 − mean_i tanh²(w e_i / δ_i), the smooth
cost of Hafner & Riedmiller (2011, "Reinforcement learning in feedback control", Machine Learning 84) made a reward: 1
for every sample at the set point, near 0 far from it. Rewards are never negative, so that an end is never a way out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from fittedq.actions.base import Box
from fittedq.arrays import Scalar
from fittedq.envs.native import AbstractPhysics

AT_WIDTH = float(np.arctanh(np.sqrt(0.95)))
"""w: an error of one width δ costs .95."""


def smooth_cost(error: Float[Array, "k"], width: Float[Array, "k"]) -> Float[Array, ""]:
    """mean_i tanh²(w e_i / δ_i), w = artanh √.95: quadratic near 0, .95 at e_i = δ_i, at most 1.

    `error` and `width` in the same units. Source: Hafner & Riedmiller 2011, where the components are summed.
    """
    return jnp.mean(jnp.tanh(AT_WIDTH * error / width) ** 2)


def runge_kutta(
    derivative: Callable[[Float[Array, "s"]], Float[Array, "s"]], state: Float[Array, "s"], dt: float, steps: int
) -> Float[Array, "s"]:
    """s(t + dt) of ṡ = derivative(s), by `steps` steps of the classical fourth-order method."""
    h = dt / steps
    for _ in range(steps):
        first = derivative(state)
        second = derivative(state + h / 2 * first)
        third = derivative(state + h / 2 * second)
        fourth = derivative(state + h * third)
        state = state + h / 6 * (first + 2 * second + 2 * third + fourth)
    return state


class CartPole(AbstractPhysics[Array]):
    """θ̈ = [g sin θ − cos θ (F + m l θ̇² sin θ) / M] / [l (4/3 − m cos² θ / M)], ẍ = (F + m l (θ̇² sin θ − θ̈ cos θ)) / M.

    M = cart + pole mass, l half the pole's length, θ = 0 upright; no friction. State and observation [x, ẋ, θ, θ̇] in
    m, m/s, rad, rad/s; action F ∈ [−10, 10] N. The task is x = 0 and θ = 0 from anywhere on the track; leaving it
    (|x| > 2.4 m) or dropping the pole (|θ| > .7 rad) ends the episode. Episodes begin anywhere within `spread`, as an
    experimenter would place the cart.
    Source: Barto, Sutton & Anderson 1983 for equations and constants (without friction, by Runge–Kutta instead of
    Euler); Hafner & Riedmiller 2011 for the task.
    """

    varying: ClassVar[tuple[str, ...]] = ("cart_mass", "pole_mass", "half_length")
    dt: float = eqx.field(static=True, default=0.05)
    """Seconds between samples."""
    gravity: float = eqx.field(static=True, default=9.8)
    cart_mass: Scalar = eqx.field(static=True, default=1.0)
    pole_mass: Scalar = eqx.field(static=True, default=0.1)
    half_length: Scalar = eqx.field(static=True, default=0.5)
    track: float = eqx.field(static=True, default=2.4)
    fall: float = eqx.field(static=True, default=0.7)
    widths: tuple[float, float] = eqx.field(static=True, default=(1.0, 0.5))
    """δ of x in m and of θ in rad."""
    spread: tuple[float, float, float, float] = eqx.field(static=True, default=(2.0, 1.5, 0.4, 1.5))

    @property
    def obs_size(self) -> int:
        return 4

    @property
    def action_set(self) -> Box:
        return Box((-10.0,), (10.0,))

    @property
    def episode_length(self) -> int:
        return 200

    def begin(self, key: PRNGKeyArray) -> Float[Array, "4"]:
        return jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0) * jnp.asarray(self.spread)

    def observe(self, inner: Float[Array, "4"]) -> Float[Array, "4"]:
        return inner

    def recall(self, obs: Float[Array, "4"]) -> Float[Array, "4"]:
        return obs

    def derivative(self, state: Float[Array, "4"], force: Float[Array, ""]) -> Float[Array, "4"]:
        """ṡ under a constant force."""
        _, velocity, angle, rate = state
        mass = self.cart_mass + self.pole_mass
        moment = self.pole_mass * self.half_length
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        push = (force + moment * rate**2 * sin) / mass
        rate_change = (self.gravity * sin - cos * push) / (
            self.half_length * (4.0 / 3.0 - self.pole_mass * cos**2 / mass)
        )
        return jnp.stack([velocity, push - moment * rate_change * cos / mass, rate, rate_change])

    def transition(
        self, inner: Float[Array, "4"], action: Float[Array, "1"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "4"], Float[Array, ""], Bool[Array, ""]]:
        force = jnp.clip(action[0], -10.0, 10.0)
        state = runge_kutta(lambda state: self.derivative(state, force), inner, self.dt, steps=2)
        failed = (jnp.abs(state[0]) > self.track) | (jnp.abs(state[2]) > self.fall)
        reward = 1.0 - smooth_cost(state[jnp.array([0, 2])], jnp.asarray(self.widths))
        return state, jnp.where(failed, 0.0, reward), failed


class TwoTanks(AbstractPhysics[Array]):
    """A ḣ₁ = k u − a₁ √(2 g h₁), A ḣ₂ = a₁ √(2 g h₁) − a₂ √(2 g h₂): a pump fills the upper tank, which drains into the
    lower one.

    A the tanks' cross-section in cm², a₁ and a₂ their outlets' in cm², k in cm³/(V s), g in cm/s²; what would overflow
    is lost. Observation [h₁, h₂, set point] in cm; action the pump's voltage u ∈ [0, 12] V. The task is h₂ at the set
    point, drawn anew for each episode; holding it takes u = a₂ √(2 g h₂) / k. Defaults are near those of a common
    laboratory rig; either tank then has a time constant of about 15 s.
    Source: Torricelli's law; Johansson 2000 (the quadruple-tank process) has the same equations.
    """

    varying: ClassVar[tuple[str, ...]] = ("area", "outlets", "pump")
    dt: float = eqx.field(static=True, default=2.0)
    """Seconds between samples."""
    gravity: float = eqx.field(static=True, default=981.0)
    area: Scalar = eqx.field(static=True, default=15.5)
    outlets: tuple[Scalar, Scalar] = eqx.field(static=True, default=(0.178, 0.178))
    pump: Scalar = eqx.field(static=True, default=3.3)
    height: float = eqx.field(static=True, default=30.0)
    set_points: tuple[float, float] = eqx.field(static=True, default=(4.0, 20.0))
    width: float = eqx.field(static=True, default=1.0)
    """δ of h₂ in cm."""

    @property
    def obs_size(self) -> int:
        return 3

    @property
    def action_set(self) -> Box:
        return Box((0.0,), (12.0,))

    @property
    def episode_length(self) -> int:
        return 100

    def begin(self, key: PRNGKeyArray) -> Float[Array, "3"]:
        level_key, set_key = jax.random.split(key)
        levels = jax.random.uniform(level_key, (2,), maxval=24.0)
        low, high = self.set_points
        return jnp.concatenate([levels, jax.random.uniform(set_key, (1,), minval=low, maxval=high)])

    def observe(self, inner: Float[Array, "3"]) -> Float[Array, "3"]:
        return inner

    def recall(self, obs: Float[Array, "3"]) -> Float[Array, "3"]:
        return obs

    def derivative(self, levels: Float[Array, "2"], voltage: Float[Array, ""]) -> Float[Array, "2"]:
        """[ḣ₁, ḣ₂] under a constant voltage, in cm/s."""
        outflow = jnp.asarray(self.outlets) * jnp.sqrt(2.0 * self.gravity * jnp.maximum(levels, 0.0))
        return (jnp.stack([self.pump * voltage, outflow[0]]) - outflow) / self.area

    def transition(
        self, inner: Float[Array, "3"], action: Float[Array, "1"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "3"], Float[Array, ""], Bool[Array, ""]]:
        voltage = jnp.clip(action[0], 0.0, 12.0)
        # Near empty a tank is fast (√h): hence the small steps.
        levels = runge_kutta(lambda levels: self.derivative(levels, voltage), inner[:2], self.dt, steps=8)
        levels = jnp.clip(levels, 0.0, self.height)
        reward = 1.0 - smooth_cost(levels[1:] - inner[2:], jnp.asarray([self.width]))
        return jnp.concatenate([levels, inner[2:]]), reward, jnp.zeros((), bool)
