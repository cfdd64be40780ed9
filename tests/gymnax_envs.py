"""Environments of the gymnax interface, as a user may have them."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Params:
    drift: float = 0.1
    max_steps_in_episode: int = 5

    def replace(self, **changes):
        return replace(self, **changes)


class State(NamedTuple):
    x: jax.Array
    load: jax.Array
    """Not observed."""
    time: jax.Array
    key: jax.Array


class Lag:
    """x' = x + a + drift · load, r = −x'²; over where |x| > 9 or time is up. The observation is x alone."""

    default_params = Params()

    def action_space(self, params):
        return SimpleNamespace(low=-1.0, high=jnp.ones(1), shape=(1,))

    def reset(self, key, params):
        x, load = jax.random.normal(key, (2,))
        state = State(x, load, 0, key)  # numbers of Python's, as many have them
        return state.x[None], state

    def step(self, key, state, action, params):
        x = state.x + action[0] + params.drift * state.load
        state = State(x, state.load, state.time + 1, state.key)
        done = (jnp.abs(x) > 9) | (state.time >= params.max_steps_in_episode)
        return x[None], state, -(x**2), done, {}


class Rounded(Lag):
    """Its valve knows whole positions only."""

    def step(self, key, state, action, params):
        return super().step(key, state, jnp.round(action), params)


class Late(Lag):
    """x' = x + the load, r = −x'²: an action is the next load, so that it is seen after two steps."""

    def step(self, key, state, action, params):
        x = state.x + state.load
        state = State(x, action[0], state.time + 1, state.key)
        done = (jnp.abs(x) > 9) | (state.time >= params.max_steps_in_episode)
        return x[None], state, -(x**2), done, {}


class Package:
    """As the package has it: `step` begins anew by itself, `step_env` does not and knows no time limit."""

    default_params = Params()
    action_space = Lag.action_space
    reset_env = Lag.reset

    def step_env(self, key, state, action, params):
        obs, state, reward, _, info = Lag().step(key, state, action, params)
        return obs, state, reward, jnp.abs(state.x) > 9, info

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def reset(self, key, params):
        raise AssertionError("reset_env is there")

    def step(self, key, state, action, params):
        raise AssertionError("step_env is there")
