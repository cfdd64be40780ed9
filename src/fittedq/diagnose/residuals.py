"""First-order conditions of an optimal controller: how far a policy, a critic or a known model is from meeting them."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import Arr
from fittedq.bellman import td_target
from fittedq.maximize.base import first_order_residual, step_scale, value_and_gradient
from fittedq.types import AbstractCritic, Dynamics


def projected_residual(
    action: Float[Arr, "b m"], slope: Float[Arr, "b m"], action_set: AbstractActionSet, obs: Float[Arr, "b s"]
) -> Float[Arr, "b"]:
    """‖a − Π_A(s)(a + g)‖, g the derivative of the objective by a: zero where a is first-order optimal in A(s).

    In an interior optimum g itself vanishes; at an active bound only its part into the set does.
    Source: chapter, "first-order conditions", with the bounds it leaves out.
    """
    return jnp.linalg.norm(action - action_set.project(action + slope, obs), axis=-1)


def critic_residual(
    critic: AbstractCritic,
    obs: Float[np.ndarray, "b s"],
    action: Float[np.ndarray, "b m"],
    action_set: AbstractActionSet,
) -> Float[np.ndarray, "b"]:
    """`projected_residual` of min_j q_j in half-widths, by its greatest coordinate; NaN where the critic has no
    gradient."""
    if not critic.has_gradient:
        return np.full(len(obs), np.nan)
    on_device = jax.tree.map(jnp.asarray, critic)
    return np.asarray(_critic_residual(on_device, jnp.asarray(obs), jnp.asarray(action), action_set), float)


@eqx.filter_jit
def _critic_residual(critic: AbstractCritic, obs: Arr, action: Arr, action_set: AbstractActionSet) -> Arr:
    slope = critic_slope(critic, obs, action)
    return first_order_residual(action, slope, step_scale(action_set, obs), action_set, obs)


def critic_slope(critic: AbstractCritic, obs: Float[Arr, "b s"], action: Float[Arr, "b m"]) -> Float[Arr, "b m"]:
    """∇_a min_j q_j(s, a)."""
    return value_and_gradient(critic, obs, action)[1]


def bellman_slope(
    dynamics: Dynamics,
    value: Callable[[Arr], Arr],
    obs: Float[Arr, "b s"],
    action: Float[Arr, "b m"],
    noise: Float[Arr, "b s"],
    gamma: float,
) -> Float[Arr, "b m"]:
    """∂r/∂a + γ ∂v/∂s' · ∂f/∂a, of r(s, a) + γ v(f(s, a, ξ)); `value` maps a batch of states to numbers.

    The condition still holds v: its average over ξ is what vanishes where a dynamics is random.
    """

    def objective(act: Arr) -> Arr:
        next_obs, reward, terminated = jax.vmap(dynamics)(obs, act, noise)
        return jnp.sum(td_target(reward, jnp.asarray(terminated), value(next_obs), gamma))

    return jax.grad(objective)(action)


def euler_residual(
    dynamics: Dynamics,
    policy: Callable[[Arr], Arr],
    obs: Float[Arr, "b s"],
    noise: Float[Arr, "b s"],
    next_noise: Float[Arr, "b s"],
    gamma: float,
) -> Float[Arr, "b m"]:
    """r_a + γ f_aᵀ λ(s'), λ = r_s − f_sᵀ f_a⁻ᵀ r_a: Euler's equation, from which v is eliminated.

    r_a = −γ f_aᵀ v'(s') at an optimum, so the envelope theorem's v'(s) = r_s + γ f_sᵀ v'(s') is λ(s), known without v.
    As many actions as states, f_a invertible. `policy` maps a batch of states to actions.
    """

    def slopes(state: Arr, act: Arr, draw: Arr) -> tuple[Arr, Arr, Arr, Arr]:
        f_s, f_a = jax.jacobian(lambda s, a: dynamics(s, a, draw)[0], argnums=(0, 1))(state, act)
        r_s, r_a = jax.grad(lambda s, a: dynamics(s, a, draw)[1], argnums=(0, 1))(state, act)
        return f_s, f_a, r_s, r_a

    def one(state: Arr, act: Arr, draw: Arr, after: Arr, next_act: Arr, next_draw: Arr) -> Arr:
        _, f_a, _, r_a = slopes(state, act, draw)
        next_f_s, next_f_a, next_r_s, next_r_a = slopes(after, next_act, next_draw)
        marginal = next_r_s - next_f_s.T @ jnp.linalg.solve(next_f_a.T, next_r_a)
        return r_a + gamma * f_a.T @ marginal

    action = policy(obs)
    next_obs = jax.vmap(dynamics)(obs, action, noise)[0]
    return jax.vmap(one)(obs, action, noise, next_obs, policy(next_obs), next_noise)
