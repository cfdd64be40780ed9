# pyright: reportUnknownMemberType=false
"""The health of gradients through a model: their size and noise, and the model's error, by horizon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from fittedq.arrays import Arr, Tree
from fittedq.template.rollout import Rollout
from fittedq.types import AbstractModel, AbstractPolicy, Components, Transition, needed

EXPLODED = 100.0
"""A gradient that grows more than this from the shortest horizon to the longest is warned of."""


class GradientHealth(eqx.Module):
    """Of ∇_w J_n over single states: ‖mean‖, and the root of the summed variance over it, one number per horizon."""

    horizons: tuple[int, ...] = eqx.field(static=True)
    norm: Float[np.ndarray, "h"]
    relative_deviation: Float[np.ndarray, "h"]

    @property
    def deviation(self) -> Float[np.ndarray, "h"]:
        """The root of the summed variance."""
        return self.norm * self.relative_deviation

    @property
    def warning(self) -> str | None:
        """One sentence where gradients explode (stiff contact does that), else None."""
        if np.isfinite(self.norm).all() and self.norm[-1] <= EXPLODED * max(self.norm[0], 1e-12):
            return None
        return (
            f"gradients through the model grow from {self.norm[0]:.3g} at horizon {self.horizons[0]} to "
            f"{self.norm[-1]:.3g} at {self.horizons[-1]}; shorten the horizon."
        )


def gradient_health(
    rollout: Rollout, horizons: Sequence[int], nets: Components, obs: Float[Arr, "b s"], key: PRNGKeyArray
) -> GradientHealth:
    """How ∇_w J_n behaves for each n of `horizons`, none above the rollout's own, from the states of `obs`."""
    norms, deviations = _gradients(rollout, nets, jnp.asarray(obs), jnp.asarray(horizons, jnp.int32), key)
    norms, deviations = np.asarray(norms), np.asarray(deviations)
    return GradientHealth(tuple(horizons), norms, deviations / np.maximum(norms, 1e-12))


@eqx.filter_jit
def _gradients(
    rollout: Rollout, nets: Components, obs: Float[Array, "b s"], horizons: Int[Array, "h"], key: PRNGKeyArray
) -> tuple[Float[Array, "h"], Float[Array, "h"]]:
    def one_horizon(horizon: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        until = nets.replace("horizon", horizon)

        def gradient(state: Float[Array, "s"], draw: PRNGKeyArray) -> Float[Array, "w"]:
            def value(policy: AbstractPolicy) -> Float[Arr, ""]:
                return rollout(until, policy, state[None], draw)[0]

            slope = cast("Callable[[AbstractPolicy], AbstractPolicy]", jax.grad(value))
            return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(slope(needed(nets.policy)))])

        each = jax.vmap(gradient)(obs, jax.random.split(key, obs.shape[0]))
        mean = each.mean(axis=0)
        return cast("Array", jnp.linalg.norm(mean)), jnp.sqrt(jnp.mean(jnp.sum((each - mean) ** 2, axis=1)))

    # One horizon at a time, so that a short one costs little.
    return cast("tuple[Array, Array]", jax.lax.map(one_horizon, horizons))


class Windows(eqx.Module):
    """b stretches of k consecutive transitions within episodes; obs has one state more."""

    obs: Float[Arr, "b t s"]
    action: Float[Arr, "b k m"]


def windows(rows: Transition, length: int, count: int = 256, stride: int = 1) -> Windows | None:
    """`count` windows of `length` steps, spread evenly over rows in the order they were taken; None: there is none.

    `stride` is the number of environments whose rows take turns. Rows follow one another where s' of one is s of the
    next, to the bit, and no episode ends between them. Windows repeat where there are fewer than `count`.
    """
    obs, next_obs = np.asarray(rows.obs), np.asarray(rows.next_obs)
    ends = np.asarray(rows.terminated, bool) | np.asarray(rows.truncated, bool)
    reach = stride * (length - 1)
    if len(obs) <= reach:
        return None
    follows = (next_obs[:-stride] == obs[stride:]).all(axis=1) & ~ends[:-stride]
    whole = np.ones(len(obs) - reach, bool)
    for step in range(length - 1):
        whole &= follows[step * stride :][: len(whole)]
    starts = np.flatnonzero(whole)
    if not len(starts):
        return None
    starts = starts[np.linspace(0, len(starts) - 1, count).astype(int)]
    index = starts[:, None] + stride * np.arange(length)
    return Windows(
        np.concatenate([obs[index], next_obs[index[:, -1:]]], axis=1),
        np.asarray(rows.action)[index],
    )


@eqx.filter_jit
def model_error(model: AbstractModel, seen: Windows) -> Float[Arr, "k"]:
    """√mean_i ((ŝ_k − s_k) / σ)_i², mean over the windows, for k = 1 … their length; σ the states' deviation.

    The observed actions are replayed without noise from each window's first state.
    """
    seen = Windows(jnp.asarray(seen.obs), jnp.asarray(seen.action))
    deviation = jnp.std(seen.obs, axis=(0, 1)) + 1e-8

    def step(state: Tree, now: tuple[Arr, Arr]) -> tuple[Tree, Float[Arr, ""]]:
        action, after = now
        state = model(state, action, jnp.zeros_like(after)).next_state
        return state, jnp.mean(jnp.sqrt(jnp.mean(((model.observe(state) - after) / deviation) ** 2, axis=1)))

    rows = (seen.action.swapaxes(0, 1), seen.obs[:, 1:].swapaxes(0, 1))
    return jax.lax.scan(step, model.begin(seen.obs[:, 0], None), rows)[1]


def longest_sound(errors: Float[np.ndarray, "k"], health: GradientHealth, max_error: float, max_growth: float) -> int:
    """The longest n such that at it and below error_n ≤ max_error and deviation_n ≤ max_growth · deviation_0.

    `errors` are the model's at 1, 2, …; deviation_0 is the gradient's at the shortest horizon, which is always allowed.
    """
    longest, shortest = health.horizons[0], max(float(health.deviation[0]), 1e-12)
    for horizon, deviation in zip(health.horizons[1:], health.deviation[1:], strict=True):
        if not (errors[horizon - 1] <= max_error and deviation <= max_growth * shortest):
            break
        longest = horizon
    return longest
