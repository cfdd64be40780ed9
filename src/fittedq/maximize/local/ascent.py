"""Projected gradient ascent with Adam's steps: the plain workhorse, robust on networks with kinks."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import Arr
from fittedq.maximize.base import (
    AbstractMaximizer,
    Solution,
    Status,
    best,
    comparable,
    first_order_residual,
    given,
    moved,
    search_rows,
    shorter,
    step_scale,
    value_and_gradient,
)
from fittedq.slots import NOT_NEGATIVE, POSITIVE
from fittedq.types import AbstractCritic


class ProjectedAscent(AbstractMaximizer[AbstractCritic]):
    """a ← Π_A(a + D η_t m̂_t / (√v̂_t + ε)), m̂ and v̂ Adam's means of D ∇q and its square, η_t falling to 0.

    D is the half-width, so `learning_rate` is the first step in half-widths;
    η_t = learning_rate (1 − t / steps)^`power`.
    Outside boxes v̂ is averaged over coordinates, since a projection that mixes them needs one step for all.
    `steps` + 1 values and gradients per start. Source: Kingma & Ba 2015.
    """

    needs_starts: ClassVar[bool] = True
    on_host: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    steps: int = eqx.field(static=True, default=50, metadata=NOT_NEGATIVE)
    learning_rate: float = eqx.field(static=True, default=0.5, metadata=POSITIVE)
    power: float = eqx.field(static=True, default=1.5)
    momentum: float = eqx.field(static=True, default=0.8)
    square_decay: float = eqx.field(static=True, default=0.99)
    tolerance: float = eqx.field(static=True, default=1e-3)

    def __call__(
        self,
        critic: AbstractCritic,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solution:
        del key
        starts = given(starts)
        rows, action = search_rows(obs, starts, action_set)
        scale = step_scale(action_set, rows)

        def step(t, state):
            action, mean, square, top = state
            value, gradient = value_and_gradient(critic, rows, action)
            top = better(top, (value, action, gradient))
            ascent = scale * gradient
            power = ascent**2 if action_set.separable else jnp.mean(ascent**2, axis=-1, keepdims=True)
            mean = self.momentum * mean + (1 - self.momentum) * ascent
            square = self.square_decay * square + (1 - self.square_decay) * power
            unbiased_mean = mean / (1 - self.momentum ** (t + 1.0))
            unbiased_square = square / (1 - self.square_decay ** (t + 1.0))
            rate = self.learning_rate * (1 - t / self.steps) ** self.power
            direction = unbiased_mean / (jnp.sqrt(unbiased_square) + 1e-12)
            return moved(action, rate * scale * direction, action_set, rows), mean, square, top

        nothing = (jnp.full(rows.shape[0], jnp.nan, action.dtype), action, jnp.zeros_like(action))
        square = jnp.zeros_like(action if action_set.separable else action[:, :1])
        last, _, _, top = jax.lax.fori_loop(0, self.steps, step, (action, jnp.zeros_like(action), square, nothing))
        value, gradient = value_and_gradient(critic, rows, last)
        value, action, gradient = better(top, (value, last, gradient))
        residual = first_order_residual(action, gradient, scale, action_set, rows)
        status = jnp.where(residual <= self.tolerance, Status.CONVERGED, Status.ITERATION_LIMIT)
        b, k, m = starts.shape
        return best(action.reshape(b, k, m), value.reshape(b, k), status.reshape(b, k))


@shorter.register
def _(search: ProjectedAscent) -> ProjectedAscent:
    return dataclasses.replace(search, steps=-(-search.steps // 5), learning_rate=search.learning_rate / 2)


def better(old, new):
    """Per row the (value, action, gradient) of the greater value; one that is not a number never wins."""
    wins = comparable(new[0]) > comparable(old[0])
    return tuple(
        jnp.where(wins if leaf.ndim == 1 else wins[:, None], leaf, kept) for leaf, kept in zip(new, old, strict=True)
    )
