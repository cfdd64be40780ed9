"""What a controller really earns, counted as an estimate counts it."""

from __future__ import annotations

from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fittedq.acting.episodes import AbstractController, episodes
from fittedq.agent import Agent
from fittedq.arrays import Tree
from fittedq.baselines.named import of_object
from fittedq.diagnose.values import discounted_returns
from fittedq.envs.native import AbstractJaxEnv, AbstractPhysics
from fittedq.envs.plant import AbstractPlant, AnyEnv, resolve
from fittedq.errors import UserError
from fittedq.estimates.estimate import observations
from fittedq.settings import MOST_SEED, real, whole


def true_returns(
    controller: object,
    env: AnyEnv | AbstractPlant,
    *,
    gamma: float,
    horizon: int,
    starts: object = None,
    number: int = 20,
    seed: int = 0,
) -> Float[np.ndarray, "number"]:
    """Σ_{t<horizon} γᵗ r_t of episodes in `env`, where `estimate` tells their mean without it.

    From `number` first states of the environment, or from observations `starts` [k, s]. These need a JAX environment
    whose observation holds its state (`AbstractPhysics`). A JAX environment runs on where its time limit would cut it;
    an episode of another is counted as far as it goes.
    """
    gamma = real(gamma, "gamma", "a discount above 0 and at most 1", low=1e-6, high=1.0)
    horizon, number = whole(horizon, "horizon", 1), whole(number, "number", 1)
    seed, plant = whole(seed, "seed", high=MOST_SEED), resolve(env)
    acting = controller.controller() if isinstance(controller, Agent) else of_object(controller, "the controller")
    if plant.compiled:
        return _at_once(acting, plant.env, gamma, horizon, starts, number, seed)
    if starts is not None:
        raise UserError(
            "found them for an environment that is stepped on the host, and begins where it likes; leave them out.",
            argument="starts",
        )
    played = islice(episodes(acting, plant, seed), number)
    cut = (rows._replace(**{name: column[:horizon] for name, column in rows._asdict().items()}) for rows in played)
    return np.array([discounted_returns(rows, gamma)[0][0] for rows in cut])


def _at_once(
    controller: AbstractController[Any],
    env: AbstractJaxEnv[Any],
    gamma: float,
    horizon: int,
    starts: object,
    number: int,
    seed: int,
) -> Float[np.ndarray, "number"]:
    """Episodes side by side: a compiled step of all of them, and the controller on the host."""
    key = jax.random.key(seed)
    if starts is None:
        inner = jax.vmap(env.begin)(jax.random.split(key, number))
    else:
        if not isinstance(env, AbstractPhysics):
            raise UserError(
                "found them for an environment whose observation does not hold its state; leave them out.",
                argument="starts",
            )
        inner = jax.vmap(env.recall)(jnp.asarray(observations(starts, env.obs_size), jnp.float32))

    @jax.jit
    def step(inner: Tree, action: Array, key: Array) -> tuple[Tree, Array, Array, Array]:
        keys = jax.random.split(key, len(action))
        inner, reward, ended = jax.vmap(env.transition)(inner, action, keys)
        return inner, jax.vmap(env.observe)(inner), reward, ended

    obs = np.asarray(jax.vmap(env.observe)(inner))
    memory, total, alive = controller.start(len(obs)), np.zeros(len(obs)), np.ones(len(obs), bool)
    for sample in range(horizon):
        action, memory = controller.step(memory, obs)
        action = env.action_set.project(np.asarray(action, np.float32), obs)
        inner, after, reward, ended = step(inner, jnp.asarray(action), jax.random.fold_in(key, sample))
        total += gamma**sample * alive * np.asarray(reward)
        alive &= ~np.asarray(ended)
        obs = np.asarray(after)
        if not alive.any():
            break
    return total
