"""One environment in flat vectors, with everything it hands out checked."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.limits import Limits, narrowed
from fittedq.envs.simulator_log import redirect_mujoco
from fittedq.envs.spaces import numbers, spaces_between
from fittedq.errors import UserError

HINTS = (
    ("reset", TypeError, "argument 'seed'", "give it the signature reset(self, *, seed=None, options=None)"),
    (
        "step",
        ValueError,
        "(expected 5, got 4)",
        "return five values from step: observation, reward, terminated, truncated, info",
    ),
    ("reset", ValueError, "(expected 2", "return two values from reset: observation, info"),
)
"""(method, exception, words of it, what to do): what environments written for older interfaces raise."""


class LimitActions(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """`env` with fewer admissible actions: A(s) is `action_set`, inside the environment's own box.

    The wrapper checks nothing and changes nothing: it says what the controller has to respect.
    """

    def __init__(self, env: gymnasium.Env, action_set: AbstractActionSet | Limits):
        gymnasium.utils.RecordConstructorArgs.__init__(self, action_set=action_set)
        super().__init__(env)
        self.admissible_actions = narrowed(action_box(env.action_space), action_set, "the environment")


def admissible_actions(env: gymnasium.Env) -> AbstractActionSet | None:
    """What the outermost `LimitActions` around `env` says."""
    return env.get_wrapper_attr("admissible_actions") if env.has_wrapper_attr("admissible_actions") else None


def action_box(space: gymnasium.Space) -> Box:
    """The action set of a space, or a UserError for one that is not a finite box."""
    if not isinstance(space, gymnasium.spaces.Box):
        raise UserError(
            f"action space: found {space}, expected a Box of continuous actions; flatten one of several parts into a "
            "Box with a wrapper, and for discrete actions take another library's DQN."
        )
    if not np.issubdtype(space.dtype, np.floating):
        raise UserError(f"action space: found a Box of {space.dtype}, expected a float dtype.")
    return Box(space.low, space.high)


def label_of(env: gymnasium.Env) -> str:
    """What an environment is called: its id, else its class."""
    return str(env.spec.id) if env.spec is not None else type(env.unwrapped).__name__


class FlatEnv(gymnasium.Wrapper):
    """`env` with observations [s] and actions [m] of float32, rewards that are numbers and flags that are flags.

    It is handed its actions in its own shape and dtype, each a copy. What it does against the interface raises
    UserError; so does an exception inside it, which is then the cause. `info` is empty: nothing reads it.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        redirect_mujoco()
        for name in ("observation_space", "action_space"):
            if getattr(env.unwrapped, name, None) is None and getattr(env, name, None) is None:
                raise UserError(f"environment {type(env.unwrapped).__name__} has no {name}; set it in its __init__.")
        self.box = action_box(env.action_space)
        self.spaces = spaces_between(env.observation_space, env.action_space)
        self.label = label_of(env)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (self.spaces.observation.size,), np.float32)
        low, high = (np.asarray(bound, np.float32) for bound in (self.box.low, self.box.high))
        self.action_space = gymnasium.spaces.Box(low, high)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        more = {} if options is None else {"options": options}
        result = self._call("reset", lambda: self.env.reset(seed=seed, **more))
        if not isinstance(result, tuple) or len(result) != 2:
            raise UserError(f"its reset returned {_values(result)}, expected two: observation and info.")
        return self._observed(result[0]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        shaped = self.spaces.shaped(np.asarray(action, np.float32))
        result = self._call("step", lambda: self.env.step(shaped))
        if not isinstance(result, tuple) or len(result) != 5:
            raise UserError(
                f"its step returned {_values(result)}, expected five: observation, reward, terminated, truncated and "
                "info, as Gymnasium has them."
            )
        obs, reward, terminated, truncated, _ = result
        return self._observed(obs), _number(reward), _flag(terminated, "terminated"), _flag(truncated, "truncated"), {}

    def close(self) -> None:
        # What fails while closing has nothing left to lose, and others are still to be closed.
        with contextlib.suppress(Exception, SystemExit):
            super().close()

    def _observed(self, obs: object) -> np.ndarray:
        rows, _ = self.spaces.observation.read(obs, "observation", batches=False)
        # A copy: an environment may hand out the buffer it goes on writing to.
        return rows[0].copy()

    def _call(self, name: str, function: Callable[[], object]) -> object:
        try:
            return function()
        except (Exception, SystemExit) as error:
            hints = [
                f"; {hint}"
                for method, kind, words, hint in HINTS
                if method == name and isinstance(error, kind) and words in str(error)
            ]
            raise UserError(f"its {name} raised {type(error).__name__}: {error}{''.join(hints)}.") from error


def _number(reward: object) -> float:
    if isinstance(reward, float | int):
        try:
            return float(reward)
        except OverflowError:  # a whole number of Python's may be of any size
            return math.inf if reward > 0 else -math.inf
    array = numbers(reward, "reward")
    if array.size != 1:
        raise UserError(f"reward: found shape {array.shape}, expected one number.")
    return float(array.reshape(()))


def _flag(value: object, name: str) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    array = numbers(value, name)
    if array.size != 1 or array.reshape(()) not in (0, 1):
        raise UserError(f"{name}: found {value!r}, expected true or false.")
    return bool(array.reshape(()))


def _values(result: object) -> str:
    return f"{len(result)} values" if isinstance(result, tuple) else f"one value of type {type(result).__name__}"
