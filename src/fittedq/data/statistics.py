"""Running mean and variance of observations, for normalization that is part of the training state."""

from __future__ import annotations

import equinox as eqx
import numpy as np
from jaxtyping import Float

from fittedq.arrays import Arr, namespace


class RunningMoments(eqx.Module):
    """Mean and squared deviations over all rows seen (Chan et al.'s parallel update), on the host or compiled."""

    count: Float[Arr | np.float32, ""]
    mean: Float[Arr, "s"]
    squares: Float[Arr, "s"]

    @staticmethod
    def start(size: int) -> RunningMoments:
        return RunningMoments(np.zeros((), np.float32), np.zeros(size, np.float32), np.zeros(size, np.float32))

    def update(self, obs: Float[Arr, "b s"]) -> RunningMoments:
        """The moments with `obs` counted in."""
        xp = namespace(obs)
        total = self.count + xp.float32(obs.shape[0])
        delta = obs.mean(0) - self.mean
        mean = self.mean + delta * (obs.shape[0] / total)
        deviation = obs - obs.mean(0)
        squares = self.squares + (deviation**2).sum(0) + delta**2 * (self.count * obs.shape[0] / total)
        return RunningMoments(total, mean.astype(obs.dtype), squares.astype(obs.dtype))

    def normalize(self, obs: Float[Arr, "*b s"]) -> Float[Arr, "*b s"]:
        """(s − mean) / std, clipped to ±10; std is 1 until two rows were seen and never below 1e-4."""
        xp = namespace(obs)
        count = xp.maximum(self.count, 1)
        std = xp.where(self.count > 1, xp.sqrt(self.squares / count), 1.0)
        return xp.clip((obs - self.mean) / xp.maximum(std, 1e-4), -10, 10).astype(obs.dtype)
