"""A JAX environment for the host: code in Python steps it, one compiled step at a time."""

from __future__ import annotations

from typing import Any, final

import gymnasium
import jax
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from fittedq.envs.native import AbstractJaxEnv, EnvState, auto_reset

Going = tuple[EnvState, PRNGKeyArray]
"""A running episode: its state, and the key of what is still to be drawn."""


@final
class HostedEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """`env` as Gymnasium knows one; each step crosses to the device and back, so a compiled loop is far faster."""

    def __init__(self, env: AbstractJaxEnv, name: str):
        self._env = env
        self._going: Going | None = None
        self.spec = EnvSpec(name)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (env.obs_size,), np.float32)
        low, high = (np.asarray(bound, np.float32) for bound in (env.action_set.low, env.action_set.high))
        self.action_space = gymnasium.spaces.Box(low, high)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._going, obs = _begun(self._env, jax.random.key(int(self.np_random.integers(2**31))))
        return np.asarray(obs), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._going is None:
            raise gymnasium.error.ResetNeeded("step before reset")
        self._going, step = _stepped(self._env, self._going, action)
        obs, reward, terminated, truncated = jax.device_get(step)
        return obs, float(reward), bool(terminated), bool(truncated), {}


@jax.jit
def _begun(env: AbstractJaxEnv, key: PRNGKeyArray) -> tuple[Going, Float[Array, "s"]]:
    """((state, key), obs) of a new episode."""
    begin_key, key = jax.random.split(key)
    state, obs = env.reset(begin_key)
    return (state, key), obs


@jax.jit
def _stepped(
    env: AbstractJaxEnv, going: Going, action: Float[Array, "m"]
) -> tuple[Going, tuple[Float[Array, "s"], Float[Array, ""], Bool[Array, ""], Bool[Array, ""]]]:
    """((state, key), (s', r, terminated, truncated))."""
    state, key = going
    step_key, key = jax.random.split(key)
    state, next_obs, _, reward, terminated, truncated = auto_reset(env)(state, action, step_key)
    return (state, key), (next_obs, reward, terminated, truncated)
