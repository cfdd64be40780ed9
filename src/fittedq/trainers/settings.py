"""The settings of training itself, whatever is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fittedq import memory
from fittedq.settings import check_settings, setting

LEAST_ENV_BYTES = 2**12
"""What one environment takes, at the very least."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How data is collected and how much is learned from it; shared by every algorithm."""

    batch_size: int = setting(256, "transitions in a batch", low=1)
    replay_size: int = setting(1_000_000, "transitions kept; the oldest go first", low=1)
    random_steps: int = setting(1_000, "environment steps with uniform actions before learning begins", low=1)
    updates_per_step: float = setting(1.0, "updates per environment step (updates-to-data ratio)", above=0.0)
    n_envs: int = setting(1, "environments stepped together", low=1)
    asynchronous: bool = setting(False, "a process for each environment (faster for slow environments only)")
    env_timeout: float = setting(300.0, "seconds an asynchronous environment may take for one step", above=0.0)
    chunk: int = setting(
        1, "environment steps between calls of the learner; the policy that acts is up to so many steps old", low=1
    )
    normalize_obs: bool = setting(False, "normalize observations by their running mean and deviation")
    scale_rewards: bool = setting(False, "divide rewards by the running deviation of the discounted return")
    return_bound: float | None = setting(
        None, "with scale_rewards: no scaled return is above it (SimbaV2 takes 5)", above=0.0
    )

    def __post_init__(self) -> None:
        check_settings(self)
        memory.require(LEAST_ENV_BYTES * self.n_envs, f"setting n_envs: {self.n_envs:,} environments", "choose fewer")

    def updates(self, steps: int) -> int:
        """About how many a run of so many steps takes, to the last `chunk`."""
        return max(0, math.ceil((steps - self.random_steps) * self.updates_per_step))

    @property
    def updates_per_call(self) -> int:
        """Updates in one call of the compiled learner: a whole number, so that one shape is compiled."""
        return max(1, math.floor(self.chunk * self.n_envs * self.updates_per_step))


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a logged dataset is learned from; shared by every algorithm."""

    batch_size: int = setting(256, "transitions in a batch (methods that learn batch by batch)", low=1)
    normalize_obs: bool = setting(True, "normalize observations by the dataset's mean and deviation")
    scale_rewards: bool = setting(False, "divide rewards by the deviation of the discounted return")
    return_bound: float | None = setting(
        None, "with scale_rewards: no scaled return is above it (SimbaV2 takes 5)", above=0.0
    )
    tolerance: float = setting(
        0.0, "stop when q and the policy change by less than this between iterations; 0: never", low=0.0
    )

    def __post_init__(self) -> None:
        check_settings(self)

    def updates(self, steps: int) -> int:
        """A step is one of a batch, or an iteration."""
        return steps


@dataclass(frozen=True, kw_only=True)
class GrowSettings:
    """How a fitted method collects its own data: each iteration fits all that was collected so far."""

    random_steps: int = setting(1_000, "environment steps with uniform actions before the first iteration", low=1)
    steps_per_iteration: int = setting(200, "environment steps between iterations", low=1)
    normalize_obs: bool = setting(False, "normalize observations by mean and deviation of the random steps")

    def __post_init__(self) -> None:
        check_settings(self)

    def updates(self, steps: int) -> int:
        """Iterations that so many environment steps call for."""
        return (steps - self.random_steps) // self.steps_per_iteration + 1 if steps >= self.random_steps else 0
