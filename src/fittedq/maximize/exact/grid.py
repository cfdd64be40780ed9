"""Every point of a product grid: for one or two action dimensions, and as a check of other methods."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import Arr
from fittedq.errors import UserError
from fittedq.maximize.base import AbstractMaximizer, Solution, Status, best, given, search_rows
from fittedq.types import AbstractCritic

LARGEST_GRID = 1_000_000
POINTS_AT_A_TIME = 8192


class Grid(AbstractMaximizer[AbstractCritic]):
    """max of q over low_i + (high_i − low_i) j_i / (points − 1), j ∈ {0 … points − 1}^m, and over the starts.

    The grid spans the smallest box around A(s) and is projected on A(s). q is evaluated points^m times per state, a few
    thousand rows at a time.
    """

    needs_starts: ClassVar[bool] = True
    on_host: ClassVar[bool] = False
    points: int = eqx.field(static=True, default=33)

    def __post_init__(self):
        if self.points < 2:
            raise UserError(f"grid: found {self.points} points per dimension, expected at least 2.")

    def __call__(
        self,
        critic: AbstractCritic,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solution:
        del key
        m = action_set.size
        total = self.points**m
        if total > LARGEST_GRID:
            raise UserError(
                f"grid: {self.points} points in each of {m} action dimensions are {total:.1e}, expected at most "
                f"{LARGEST_GRID:.0e}; lower points, or use local search (ProjectedAscent) or sampling (CrossEntropy)."
            )
        starts = given(starts)
        rows, start = search_rows(obs, starts, action_set)
        b, k, _ = starts.shape
        value = critic.least(rows, start)
        first = best(start.reshape(b, k, m), value.reshape(b, k), jnp.full((b, k), Status.ITERATION_LIMIT))
        low, high = action_set.bounds(jnp.asarray(obs))
        group = min(total, max(1, POINTS_AT_A_TIME // max(b, 1)))
        crowd = jnp.repeat(jnp.asarray(obs), group, axis=0)
        place = self.points ** jnp.arange(m)

        def step(index, state):
            top_action, top_value = state
            number = jnp.minimum(index * group + jnp.arange(group), total - 1)
            fraction = (number[:, None] // place) % self.points / (self.points - 1)
            action = low[:, None] + (high - low)[:, None] * fraction.astype(low.dtype)
            action = jnp.broadcast_to(action, (b, group, m)).reshape(b * group, m)
            action = action_set.project(action, crowd)
            value = critic.least(crowd, action).reshape(b, group)
            action = jnp.concatenate([top_action[:, None], action.reshape(b, group, m)], axis=1)
            solution = best(
                action, jnp.concatenate([top_value[:, None], value], axis=1), jnp.zeros((b, group + 1), int)
            )
            return solution.action, solution.value

        action, value = jax.lax.fori_loop(0, -(-total // group), step, (first.action, first.value))
        return best(action[:, None], value[:, None], jnp.full((b, 1), Status.ITERATION_LIMIT))
