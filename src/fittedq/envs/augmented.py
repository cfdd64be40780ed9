"""Environments as a controller with a memory sees them: on the host, and compiled."""

from __future__ import annotations

from typing import Any, Generic, final

import equinox as eqx
import gymnasium
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.control.state import AugmentedState
from fittedq.envs.gym import AbstractSource, VectorStep
from fittedq.envs.native import AbstractJaxEnv, Inner


@final
class AugmentedSource(AbstractSource):
    """`source` in z, a and r − cost: each environment keeps its own z, which begins anew with its episodes."""

    def __init__(self, source: AbstractSource, state: AugmentedState):
        self._source, self.state = source, state
        self.n_envs, self.spaces, self.label, self.seed = source.n_envs, source.spaces, source.label, source.seed
        self.obs_size, self.action_set = state.size, state.action_set
        self.obs = np.asarray(state.first(source.obs))

    def shares(self, env: gymnasium.Env) -> bool:
        return self._source.shares(env)

    def step(self, action: Float[np.ndarray, "n m"]) -> VectorStep:
        state, before = self.state, self.obs
        executed = np.asarray(state.executed(before, action))
        step = self._source.step(executed)
        after = np.asarray(state.after(before, executed, step.next_obs))
        # Where an episode ended, and after an autoreset's own step, there is another first observation.
        begins = step.terminated | step.truncated | ~step.valid
        self.obs = after
        if begins.any():
            self.obs = np.where(begins[:, None], state.first(self._source.obs), after)
        reward = step.reward - np.asarray(state.cost(before, action))
        return step._replace(next_obs=after, reward=reward)

    def snapshot(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, meta = self._source.snapshot()
        return {**arrays, "augmented": self.obs}, meta

    def restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> bool:
        exact = self._source.restore(arrays, meta)
        self.obs = arrays["augmented"].copy() if exact else np.asarray(self.state.first(self._source.obs))
        return exact

    def close(self) -> None:
        self._source.close()


@final
class AugmentedEnv(AbstractJaxEnv[tuple[Inner, Array]], Generic[Inner]):
    """`env` in z, a and r − cost, or in r where it is not `priced`; its inner state is the environment's and z."""

    env: AbstractJaxEnv[Inner]
    state: AugmentedState = eqx.field(static=True)
    priced: bool = eqx.field(static=True, default=True)

    @staticmethod
    def over(env: object, state: AugmentedState) -> object:
        """`env` in z, a and r − cost where it is a JAX environment; any other as it is."""
        return AugmentedEnv(env, state) if isinstance(env, AbstractJaxEnv) else env

    @property
    def obs_size(self) -> int:
        return self.state.size

    @property
    def action_set(self) -> AbstractActionSet:
        return self.state.action_set

    @property
    def episode_length(self) -> int:
        return self.env.episode_length

    def begin(self, key: PRNGKeyArray) -> tuple[Inner, Array]:
        inner = self.env.begin(key)
        return inner, jnp.asarray(self.state.first(self.env.observe(inner)))

    def observe(self, inner: tuple[Inner, Array]) -> Float[Array, "s"]:
        return inner[1]

    def transition(
        self, inner: tuple[Inner, Array], action: Float[Array, "m"], key: PRNGKeyArray
    ) -> tuple[tuple[Inner, Array], Float[Array, ""], Bool[Array, ""]]:
        plant, seen = inner
        executed = jnp.asarray(self.state.executed(seen, action))
        after, reward, terminated = self.env.transition(plant, executed, key)
        if self.priced:
            reward = reward - jnp.asarray(self.state.cost(seen, action))
        return (after, jnp.asarray(self.state.after(seen, executed, self.env.observe(after)))), reward, terminated
