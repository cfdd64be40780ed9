"""Running statistics of observations and returns, for normalization that is part of the training state."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from fittedq.arrays import Arr, Scalar, namespace


class RunningMoments(eqx.Module):
    """Mean and squared deviations over all rows seen (Chan et al.'s parallel update), on the host or compiled."""

    count: Float[Arr | np.float32, ""]
    mean: Float[Arr, "s"]
    squares: Float[Arr, "s"]
    kept: tuple[int, ...] = eqx.field(static=True, default=())
    """Coordinates that stay in their own units: those that a set of actions reads."""

    @staticmethod
    def start(size: int, kept: tuple[int, ...] = ()) -> RunningMoments:
        return RunningMoments(np.zeros((), np.float32), np.zeros(size, np.float32), np.zeros(size, np.float32), kept)

    def update(self, obs: Float[Arr, "b s"]) -> RunningMoments:
        """The moments with `obs` counted in."""
        xp = namespace(obs)
        total = self.count + xp.float32(obs.shape[0])
        delta = obs.mean(0) - self.mean
        mean = self.mean + delta * (obs.shape[0] / total)
        deviation = obs - obs.mean(0)
        squares = self.squares + (deviation**2).sum(0) + delta**2 * (self.count * obs.shape[0] / total)
        return RunningMoments(total, mean.astype(obs.dtype), squares.astype(obs.dtype), self.kept)

    def normalize(self, obs: Float[Arr, "*b s"]) -> Float[Arr, "*b s"]:
        """(s − mean) / std, clipped to ±10; std is 1 until two rows were seen and never below 1e-4."""
        seen = namespace(obs).clip((obs - self.mean) / self._deviation(obs), -10, 10).astype(obs.dtype)
        return self._but_kept(obs, seen)

    def restore(self, seen: Float[Arr, "*b s"]) -> Float[Arr, "*b s"]:
        """s of what `normalize` made of it; what was clipped comes back as the nearest that is not."""
        return self._but_kept(seen, (self.mean + self._deviation(seen) * seen).astype(seen.dtype))

    @property
    def deviation(self) -> Float[Arr, "s"]:
        """What is divided by."""
        return self._deviation(self.mean)

    def _deviation(self, like: Arr) -> Float[Arr, "s"]:
        xp = namespace(like)
        count = xp.maximum(self.count, 1)
        return xp.maximum(xp.where(self.count > 1, xp.sqrt(self.squares / count), 1.0), 1e-4)

    def _but_kept(self, own: Float[Arr, "*b s"], moved: Float[Arr, "*b s"]) -> Float[Arr, "*b s"]:
        xp = namespace(own)
        return xp.where(np.isin(np.arange(own.shape[-1]), self.kept), own, moved) if self.kept else moved


class ReturnScale(eqx.Module):
    """The running deviation of the discounted return G ← γ G + r of each of n environments, by which rewards are
    divided: values are then of size 1 whatever the rewards' unit.

    scale = max(σ_G, max |G| / bound): with a `bound`, no discounted return is more than it once scaled.
    Source: Lee et al. 2025 (SimbaV2), section 4.3; without the bound: Engstrom et al. 2020.
    """

    running: Float[Arr, "n"]
    moments: RunningMoments
    largest: Float[Arr, "1"]
    gamma: float = eqx.field(static=True)
    bound: float | None = eqx.field(static=True)

    @staticmethod
    def start(n: int, gamma: float, bound: float | None) -> ReturnScale:
        zeros = np.zeros(n, np.float32)
        return ReturnScale(zeros, RunningMoments.start(1), np.zeros(1, np.float32), gamma, bound)

    def update(
        self, reward: Float[Arr, "n"], ended: Bool[Arr, "n"], taken: Bool[np.ndarray, "n"] | None = None
    ) -> ReturnScale:
        """The scale with one step of every environment counted in, or, on the host, of those that have `taken` one."""
        xp = namespace(reward)
        returns = (self.gamma * self.running + reward).astype(self.running.dtype)
        running = xp.where(ended, xp.zeros_like(returns), returns)
        if taken is not None:
            running, returns = np.where(taken, running, self.running), returns[taken]
        largest = xp.maximum(self.largest, abs(returns).max(keepdims=True))
        return dataclasses.replace(
            self, running=running, moments=self.moments.update(returns[:, None]), largest=largest
        )

    def over(
        self, reward: Float[np.ndarray, "N"], terminated: Bool[np.ndarray, "N"], truncated: Bool[np.ndarray, "N"]
    ) -> ReturnScale:
        """The scale with the rows of one environment counted in, one after another."""
        returns, running = np.empty(len(reward), np.float32), float(self.running[0])
        for row, (gain, ended) in enumerate(zip(reward.tolist(), (terminated | truncated).tolist(), strict=True)):
            returns[row] = total = self.gamma * running + gain
            running = 0.0 if ended else total
        largest = np.maximum(self.largest, np.abs(returns).max(initial=0.0, keepdims=True))
        return dataclasses.replace(
            self,
            running=np.full(1, running, np.float32),
            moments=self.moments.update(returns[:, None]),
            largest=largest,
        )

    @property
    def scale(self) -> Scalar:
        """What a reward is divided by; 1 until two returns were seen and they differ."""
        xp = namespace(self.largest)
        moments = self.moments
        scale = xp.sqrt(moments.squares[0] / xp.maximum(moments.count, 1))
        if self.bound is not None:
            scale = xp.maximum(scale, self.largest[0] / self.bound)
        return xp.where((moments.count > 1) & (scale > 1e-8), scale, xp.ones_like(scale))
