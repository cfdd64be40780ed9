"""Environments of every shape that trains, whose spaces check what they are handed."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

REAL = spaces.Box(-5.0, 5.0, (3,), np.float32)
ACTION = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Shaped(gymnasium.Env):
    """Random observations of `observation`; insists on actions of `action`'s shape and dtype. Ends after 5 steps."""

    def __init__(self, observation: spaces.Space = REAL, action: spaces.Space = ACTION):
        self.observation_space, self.action_space = observation, action
        self.time = 0

    def _observe(self) -> Any:
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        assert isinstance(action, np.ndarray)
        assert action.dtype == self.action_space.dtype
        assert self.action_space.contains(action)
        self.time += 1
        return self._observe(), 1.0, False, self.time == 5, {}


OBSERVATIONS: dict[str, spaces.Space] = {
    "vector": REAL,
    "scalar": spaces.Box(-1, 1, (), np.float32),
    "stack": spaces.Box(-1, 1, (4, 3), np.float64),
    "bytes": spaces.Box(0, 255, (2, 2, 3), np.uint8),
    "discrete": spaces.Discrete(5, start=-1),
    "multi-discrete": spaces.MultiDiscrete([3, 2, 4]),
    "multi-binary": spaces.MultiBinary(4),
    "tuple": spaces.Tuple((spaces.Discrete(3), REAL, spaces.Box(-1, 1, (), np.float32))),
    "dict": spaces.Dict(
        {
            "speed": spaces.Box(-1, 1, (2,), np.float32),
            "gear": spaces.Discrete(3),
            "wheels": spaces.Tuple((spaces.MultiBinary(2), spaces.Box(-1, 1, (2, 2), np.float32))),
        }
    ),
}

ACTIONS: dict[str, spaces.Box] = {
    "vector": ACTION,
    "matrix": spaces.Box(-2.0, np.linspace(1, 3, 6).reshape(2, 3), (2, 3), np.float64),
    "scalar": spaces.Box(-0.1, 0.7, (), np.float64),
    "half": spaces.Box(-1.0, 0.1, (2,), np.float16),
}
