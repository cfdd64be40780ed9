"""Known, differentiable physics: f(s, a, ξ) → (s', r, terminated) of one state, s as the policy observes it."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from fittedq.arrays import Arr
from fittedq.envs.native import Pendulum, physics
from fittedq.envs.process import CartPole
from fittedq.problems.lqr import LinearQuadratic
from fittedq.types import Dynamics


def linear_quadratic(problem: LinearQuadratic) -> Dynamics:
    """s' = As + Ba + √W ξ, r = −(sᵀQs + aᵀRa)."""
    root = jnp.linalg.cholesky(jnp.asarray(problem.W))

    def step(
        obs: Float[Arr, "s"], action: Float[Arr, "m"], noise: Float[Arr, "s"]
    ) -> tuple[Float[Arr, "s"], Float[Arr, ""], bool]:
        cost = obs @ problem.Q @ obs + action @ problem.R @ action
        return problem.A @ obs + problem.B @ action + root @ noise, -cost, False

    return step


def brock_mirman(alpha: float = 0.36, technology: float = 1.0) -> Dynamics:
    """Growth with capital k, of whose output z kᵅ the action is the share consumed: r = log c, k' = z kᵅ − c.

    The best share is 1 − αγ.
    """

    def step(
        obs: Float[Arr, "1"], action: Float[Arr, "1"], noise: Float[Arr, "1"]
    ) -> tuple[Float[Arr, "1"], Float[Arr, ""], bool]:
        output = technology * obs[0] ** alpha
        consumed = action[0] * output
        return jnp.stack([output - consumed]), jnp.log(consumed), False

    return step


pendulum = physics(Pendulum())
"""Pendulum-v1 in its observations [cos θ, sin θ, θ̇]."""

cart_pole = physics(CartPole())
"""A cart that balances a pole, in [x, ẋ, θ, θ̇]."""

DYNAMICS: dict[str, Dynamics] = {"pendulum": pendulum, "cart_pole": cart_pole}
