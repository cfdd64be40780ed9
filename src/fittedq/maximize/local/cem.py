"""The cross-entropy method: sample around a mean, keep the elites, fit, repeat. Needs values only."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import Arr
from fittedq.errors import UserError
from fittedq.maximize.base import (
    AbstractMaximizer,
    Solution,
    Status,
    a_key,
    best,
    comparable,
    given,
    search_rows,
    shorter,
)
from fittedq.slots import COUNT, POSITIVE
from fittedq.types import AbstractCritic


class CrossEntropy(AbstractMaximizer[AbstractCritic]):
    """a_j ~ Π_A(N(μ, σ²)), j = 1 … population; μ and σ then those of the `elites` of greatest q; `iterations` times.

    One search per start, which is its first μ; the first σ is `spread` half-widths. The best point seen stays among
    the population. Memory: b · k · population rows at a time (see `Chunked`). Source: Rubinstein & Kroese 2004.
    """

    needs_starts: ClassVar[bool] = True
    on_host: ClassVar[bool] = False
    population: int = eqx.field(static=True, default=64)
    elites: int = eqx.field(static=True, default=8)
    iterations: int = eqx.field(static=True, default=10, metadata=COUNT)
    spread: float = eqx.field(static=True, default=1.0, metadata=POSITIVE)

    def __post_init__(self):
        if not 1 <= self.elites <= self.population:
            raise UserError(
                f"cross-entropy: found {self.elites} elites of a population of {self.population}, expected between 1 "
                "and the population; lower elites or raise population."
            )

    def __call__(
        self,
        critic: AbstractCritic,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solution:
        starts, key = given(starts), a_key(key)
        rows, start = search_rows(obs, starts, action_set)
        (n, m), size = start.shape, self.population
        low, high = action_set.bounds(rows)
        crowd = jnp.repeat(rows, size, axis=0)

        def step(iteration, state):
            mean, deviation, top_action, top_value = state
            normal = jax.random.normal(jax.random.fold_in(key, iteration), (n, size, m), mean.dtype)
            drawn = mean[:, None] + deviation[:, None] * normal
            drawn = action_set.project(drawn.reshape(n * size, m), crowd)
            value = comparable(critic.least(crowd, drawn)).reshape(n, size)
            value = jnp.concatenate([top_value[:, None], value], axis=1)
            drawn = jnp.concatenate([top_action[:, None], drawn.reshape(n, size, m)], axis=1)
            elite_value, elite = jax.lax.top_k(value, self.elites)
            elite_action = jnp.take_along_axis(drawn, elite[..., None], axis=1)
            return elite_action.mean(axis=1), elite_action.std(axis=1), elite_action[:, 0], elite_value[:, 0]

        deviation = jnp.broadcast_to(self.spread * (high - low) / 2, start.shape)
        state = (start, deviation, start, comparable(critic.least(rows, start)))
        _, _, action, value = jax.lax.fori_loop(0, self.iterations, step, state)
        b, k, _ = starts.shape
        value = jnp.where(jnp.isneginf(value), critic.least(rows, action), value).reshape(b, k)
        return best(action.reshape(b, k, m), value, jnp.full((b, k), Status.ITERATION_LIMIT))


@shorter.register
def _(search: CrossEntropy) -> CrossEntropy:
    return dataclasses.replace(search, iterations=-(-search.iterations // 5), spread=search.spread / 4)
