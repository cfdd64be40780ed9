"""Fresh episodes of a policy's mode (for SAC the squashed mean)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.limits import inside
from fittedq.arrays import Tree
from fittedq.data.statistics import RunningMoments
from fittedq.envs.flat import FlatEnv
from fittedq.envs.native import AbstractJaxEnv, auto_reset
from fittedq.envs.plant import AbstractPlant
from fittedq.envs.spaces import refuse_not_finite
from fittedq.errors import EnvError, UserError
from fittedq.types import AbstractPolicy, Transition

EVALUATION_SEED = 2**31
"""Added to a run's seed: evaluation never sees a training episode's seed sequence."""

MOST_STEPS = 1_000_000
"""An episode of a policy that has taken so many steps has no end."""

ActBatch = Callable[[np.ndarray], np.ndarray]


class Step(NamedTuple):
    """One transition, unbatched."""

    obs: np.ndarray
    action: np.ndarray
    reward: float
    next_obs: np.ndarray
    terminated: bool
    truncated: bool


def check_spaces(env: FlatEnv, obs_size: int, action_set: AbstractActionSet, whose: str = "the agent") -> None:
    """A UserError unless `env` has the sizes and bounds that an agent was trained for, or a dataset was taken with."""
    found = env.observation_space.shape
    if found != (obs_size,):
        raise UserError(
            f"environment: its observations have shape {found}, {whose}'s have ({obs_size},); name the one that "
            "it came from."
        )
    # A box is the environment's own; any other set only has to lie in it.
    if env.box != action_set if isinstance(action_set, Box) else not inside(action_set, env.box):
        raise UserError(
            f"environment: its actions lie in [{env.box.low}, {env.box.high}], {whose}'s in "
            f"[{action_set.low}, {action_set.high}]; evaluate where it came from."
        )


def returns(
    act: ActBatch,
    plant: AbstractPlant,
    obs_size: int,
    action_set: AbstractActionSet,
    seed: int,
    stop: Callable[[], bool],
) -> Iterator[float]:
    """The returns of `episodes`, in memory that does not grow with them; asked after each step, `stop()` ends them."""
    for steps in _played(act, plant, obs_size, action_set, seed):
        total = 0.0
        for step in steps:
            total += step.reward
            if stop():
                return
        yield total


def episodes(
    act: ActBatch, plant: AbstractPlant, obs_size: int, action_set: AbstractActionSet, seed: int
) -> Iterator[Transition]:
    """The transitions of one episode after another, without end; episode e is reset with a seed of (seed, e).

    On an environment of its own, which closes with the iterator. `act` is flat: [b, s] to [b, m].
    """
    for steps in _played(act, plant, obs_size, action_set, seed):
        yield Transition(*(np.array(column) for column in zip(*steps, strict=True)))


def _played(
    act: ActBatch, plant: AbstractPlant, obs_size: int, action_set: AbstractActionSet, seed: int
) -> Iterator[Iterator[Step]]:
    """The steps of one episode after another; each is to be taken to its end before the next."""
    made = plant.make()
    try:
        check_spaces(made, obs_size, action_set)
        for episode in count():
            sequence = np.random.SeedSequence([EVALUATION_SEED + seed, episode])
            yield _episode(act, made, episode, int(sequence.generate_state(1)[0]))
    finally:
        made.close()


def _episode(act: ActBatch, env: FlatEnv, episode: int, seed: int) -> Iterator[Step]:
    taken = 0
    try:
        obs = _finite(env, env.reset(seed=seed)[0])
        while taken < MOST_STEPS:
            action = act(obs[None])[0]
            next_obs, reward, terminated, truncated, _ = env.step(action)
            if not np.isfinite(reward):
                raise UserError(f"reward is {reward}, expected a finite number.")
            yield Step(obs, action, reward, _finite(env, next_obs), terminated, truncated)
            if terminated or truncated:
                return
            obs, taken = next_obs, taken + 1
    except UserError as error:
        raise EnvError(f"evaluation in {env.label}, episode {episode}, step {taken}: {error}") from error
    raise EnvError(
        f"evaluation in {env.label}, episode {episode}: it has taken {MOST_STEPS:,} steps, expected an end before; put "
        "the environment in gymnasium.wrappers.TimeLimit, or do not evaluate in it (eval_every = 0)."
    )


def _finite(env: FlatEnv, obs: np.ndarray) -> np.ndarray:
    refuse_not_finite(obs[None], env.spaces.observation, "observation")
    return obs


def episodes_at_once(
    policy: AbstractPolicy, moments: RunningMoments | None, env: AbstractJaxEnv, number: int, seed: int
) -> list[Transition]:
    """`number` episodes of a JAX environment, all in one compiled loop."""
    key = jax.random.fold_in(jax.random.key(seed), EVALUATION_SEED)
    rows, alive = jax.device_get(_rollouts(policy, moments, env, key, number))
    return [Transition(*(column[alive[:, episode], episode] for column in rows)) for episode in range(number)]


def whole_episodes(episodes: Iterable[Transition], steps: int, at_least: int = 3) -> Transition:
    """The first episodes that have `steps` transitions together, at least so many of them, one after another."""
    taken: list[Transition] = []
    for rows in episodes:
        taken.append(rows)
        if len(taken) >= at_least and sum(len(rows.reward) for rows in taken) >= steps:
            break
    return Transition(*(np.concatenate(column) for column in zip(*taken, strict=True)))


@partial(jax.jit, static_argnames="number")
def _rollouts(
    policy: AbstractPolicy, moments: RunningMoments | None, env: AbstractJaxEnv, key: PRNGKeyArray, number: int
) -> tuple[Transition, Bool[Array, "t b"]]:
    """(rows [t, b], which of them belong to the first episode [t, b])."""

    def step(carry: Tree, key: PRNGKeyArray) -> tuple[Tree, tuple[Transition, Bool[Array, "b"]]]:
        state, obs, alive = carry
        seen = obs if moments is None else moments.normalize(obs)
        action = jnp.asarray(env.action_set.project(policy.act(seen, jnp.zeros((number, env.action_set.size))), obs))
        state, next_obs, after, reward, terminated, truncated = jax.vmap(auto_reset(env))(
            state, action, jax.random.split(key, number)
        )
        rows = Transition(obs, action, reward, next_obs, terminated, truncated)
        return (state, after, alive & ~(terminated | truncated)), (rows, alive)

    reset_key, step_key = jax.random.split(key)
    state, obs = jax.vmap(env.reset)(jax.random.split(reset_key, number))
    start = (state, obs, jnp.ones(number, bool))
    return jax.lax.scan(step, start, jax.random.split(step_key, env.episode_length))[1]
