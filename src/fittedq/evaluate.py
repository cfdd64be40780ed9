"""Returns of a policy's mode (for SAC the squashed mean) over fresh episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from fittedq.action_sets import inside
from fittedq.data.statistics import RunningMoments
from fittedq.envs.gym import EnvLike, action_box, make_env
from fittedq.envs.native import AbstractJaxEnv, auto_reset
from fittedq.errors import UserError
from fittedq.types import AbstractActionSet, AbstractPolicy, Box

EVALUATION_SEED = 2**31
"""Added to a run's seed: evaluation never sees a training episode's seed sequence."""

ActBatch = Callable[[np.ndarray], np.ndarray]


def check_spaces(env: gymnasium.Env, obs_size: int, action_set: AbstractActionSet, whose: str = "the agent") -> None:
    """A UserError unless `env` has the sizes and bounds that an agent was trained for, or a dataset was taken with."""
    found = env.observation_space.shape
    if found != (obs_size,):
        raise UserError(f"environment: its observations have shape {found}, {whose}'s have ({obs_size},); use its own.")
    box = action_box(env.action_space)
    # A box is the environment's own; any other set only has to lie in it.
    if box != action_set if isinstance(action_set, Box) else not inside(action_set, box):
        raise UserError(
            f"environment: its actions lie in [{box.low}, {box.high}], {whose}'s in "
            f"[{action_set.low}, {action_set.high}]; evaluate where it came from."
        )


def episode_returns(
    act: ActBatch, env: EnvLike, obs_size: int, action_set: AbstractActionSet, episodes: int, seed: int
) -> Iterator[float]:
    """Undiscounted returns on an environment of its own, episode e reset with a seed of (seed, e)."""
    made = make_env(env)
    try:
        check_spaces(made, obs_size, action_set)
        shape, dtype = made.action_space.shape, made.action_space.dtype
        assert shape is not None
        for episode in range(episodes):
            sequence = np.random.SeedSequence([EVALUATION_SEED + seed, episode])
            obs, _ = made.reset(seed=int(sequence.generate_state(1)[0]))
            total, done = 0.0, False
            while not done:
                action = act(np.asarray(obs, np.float32)[None])[0]
                obs, reward, terminated, truncated, _ = made.step(action.astype(dtype).reshape(shape))
                total += float(reward)
                done = terminated or truncated
            yield total
    finally:
        made.close()


def visited(
    act: ActBatch, env: EnvLike, obs_size: int, action_set: AbstractActionSet, count: int, seed: int
) -> np.ndarray:
    """`count` observations [count, s] met by the policy, spread evenly over at least three episodes."""
    made = make_env(env)
    seen: list[np.ndarray] = []
    try:
        check_spaces(made, obs_size, action_set)
        shape, dtype = made.action_space.shape, made.action_space.dtype
        assert shape is not None
        episode = 0
        while episode < 3 or len(seen) < count:
            sequence = np.random.SeedSequence([EVALUATION_SEED + seed, episode])
            obs, _ = made.reset(seed=int(sequence.generate_state(1)[0]))
            done = False
            while not done:
                seen.append(np.asarray(obs, np.float32))
                action = act(seen[-1][None])[0]
                obs, _, terminated, truncated, _ = made.step(action.astype(dtype).reshape(shape))
                done = terminated or truncated
            episode += 1
    finally:
        made.close()
    return np.stack(seen)[np.linspace(0, len(seen) - 1, count).astype(int)]


def returns_at_once(
    policy: AbstractPolicy, moments: RunningMoments | None, env: AbstractJaxEnv, episodes: int, seed: int
) -> list[float]:
    """The same on a JAX environment, all episodes in one compiled loop."""
    key = jax.random.fold_in(jax.random.key(seed), EVALUATION_SEED)
    return [float(value) for value in np.asarray(_rollouts(policy, moments, env, key, episodes))]


@partial(jax.jit, static_argnames="episodes")
def _rollouts(policy: Any, moments: Any, env: Any, key: Any, episodes: int) -> Any:
    def step(carry: Any, key: Any) -> Any:
        state, obs, total, alive = carry
        seen = obs if moments is None else moments.normalize(obs)
        action = policy.act(seen, jnp.zeros((episodes, env.action_set.size)))
        state, _, obs, reward, terminated, truncated = jax.vmap(auto_reset(env))(
            state, env.action_set.project(action, obs), jax.random.split(key, episodes)
        )
        total = total + jnp.where(alive, reward, 0.0)
        return (state, obs, total, alive & ~(terminated | truncated)), None

    reset_key, step_key = jax.random.split(key)
    state, obs = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))
    start = (state, obs, jnp.zeros(episodes), jnp.ones(episodes, bool))
    return jax.lax.scan(step, start, jax.random.split(step_key, env.episode_length))[0][2]
