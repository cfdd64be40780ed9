"""The health of gradients through a model: their size and noise, and the model's error, by horizon."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from fittedq.approx.models import AbstractModel
from fittedq.rollout import Rollout
from fittedq.types import Approximators, Arr


class GradientHealth(eqx.Module):
    """Of ∇_w J_n over single states: ‖mean‖, and the root of the summed variance over it, one number per horizon."""

    horizons: tuple[int, ...] = eqx.field(static=True)
    norm: Float[np.ndarray, "h"]
    relative_deviation: Float[np.ndarray, "h"]

    @property
    def warning(self) -> str | None:
        """One sentence where gradients explode (stiff contact does that), else None."""
        if np.isfinite(self.norm).all() and self.norm[-1] <= 100 * max(self.norm[0], 1e-12):
            return None
        return (
            f"gradients through the model grow from {self.norm[0]:.3g} at horizon {self.horizons[0]} to "
            f"{self.norm[-1]:.3g} at {self.horizons[-1]}; shorten the horizon."
        )


def gradient_health(
    rollouts: tuple[Rollout, ...], nets: Approximators, obs: Float[Arr, "b s"], key: PRNGKeyArray
) -> GradientHealth:
    """How ∇_w J_n behaves for each of the rollouts, from the states of `obs`."""
    weights, treedef = jax.tree.flatten(nets.policy)

    def figures(rollout: Rollout) -> tuple[float, float]:
        def gradient(state: Any, draw: Any) -> Any:
            def value(weights: Any) -> Any:
                return rollout(nets, jax.tree.unflatten(treedef, weights), state[None], draw)[0]

            return jnp.concatenate([leaf.ravel() for leaf in jax.grad(value)(weights)])

        each = jax.jit(jax.vmap(gradient))(obs, jax.random.split(key, obs.shape[0]))
        mean = each.mean(axis=0)
        norm = float(jnp.linalg.norm(mean))
        return norm, float(jnp.sqrt(jnp.mean(jnp.sum((each - mean) ** 2, axis=1)))) / max(norm, 1e-12)

    norms, deviations = zip(*map(figures, rollouts), strict=True)
    return GradientHealth(tuple(r.horizon for r in rollouts), np.array(norms), np.array(deviations))


def model_error(
    model: AbstractModel, obs: Float[Arr, "t s"], action: Float[Arr, "t m"], next_obs: Float[Arr, "t s"], horizon: int
) -> Float[np.ndarray, "horizon"]:
    """‖ŝ_k − s_k‖ over the states' deviation, mean over every start of one trajectory, k = 1 … horizon.

    The observed actions are replayed without noise from each observed state.
    """
    starts = len(obs) - horizon + 1
    state, deviation = jnp.asarray(obs[:starts]), jnp.std(jnp.asarray(obs), axis=0) + 1e-8
    errors = []
    for step in range(horizon):
        state = model(state, jnp.asarray(action[step : step + starts]), jnp.zeros_like(state)).next_obs
        off = (state - next_obs[step : step + starts]) / deviation
        errors.append(float(jnp.mean(jnp.sqrt(jnp.mean(off**2, axis=1)))))
    return np.array(errors)
