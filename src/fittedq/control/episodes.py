"""Whole episodes of raw rows, as a controller with a memory sees them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise

import numpy as np
from jaxtyping import Float, Int

from fittedq.control.state import AugmentedState
from fittedq.types import Transition


class AugmentedRows:
    """(z, a, r − cost, z', terminated, truncated) of raw rows in order, made of them where they are asked for.

    `columns` are those of `Transition`, [N, …], and `starts` the rows at which an episode begins; no history reaches
    over one. The first observation of an episode stands for those before it. So does its first action, unless the one
    `before` is given: what was done earlier is not in a log, and the first change counts as 0. Histories are not kept,
    only a number a row and integral.
    """

    def __init__(
        self,
        state: AugmentedState,
        columns: Mapping[str, np.ndarray],
        starts: Int[np.ndarray, "e"],
        before: Float[np.ndarray, "m"] | None = None,
    ):
        self.state, self._columns, self._before = state, columns, before
        count = len(columns["reward"])
        first = np.zeros(count, np.int64)
        first[starts] = starts
        self._start: Int[np.ndarray, "N"] = np.maximum.accumulate(first)
        self._integral, self._integral_after = self._integrals([*starts.tolist(), count])
        self.longest = int(np.diff([*starts, count]).max())
        """Rows of the longest episode."""

    def _integrals(self, ends: list[int]) -> tuple[Float[np.ndarray, "N i"], Float[np.ndarray, "N i"]]:
        """(I_t, I_{t+1}) of every row, summed in double precision: a row that follows has the same bits."""
        limit = self.state.augmentation.integral_limit or np.inf
        gain, coming = (self.state.gain(np.asarray(self._columns[name], np.float64)) for name in ("obs", "next_obs"))
        total = np.zeros_like(gain)
        for begin, end in pairwise(ends):
            for column in range(gain.shape[1]):
                steps = gain[begin:end, column].tolist()
                sums = accumulate(steps, lambda total, step: min(max(total + step, -limit), limit), initial=0.0)
                total[begin:end, column] = list(sums)[1:]
        return total.astype(np.float32), np.clip(total + coming, -limit, limit).astype(np.float32)

    def __call__(self, rows: slice | Int[np.ndarray, "k"]) -> Transition:
        """The rows at a slice or at an array of numbers."""
        state, columns = self.state, self._columns
        at = np.arange(len(self._start))[rows] if isinstance(rows, slice) else np.asarray(rows)
        first = self._start[at]
        obs, action = columns["obs"], columns["action"]
        past = [obs[np.maximum(at - lag, first)] for lag in range(1, state.augmentation.history)]
        past += [state.limits.to_unit(self._earlier(at - lag, first)) for lag in range(1, state.lags + 1)]
        seen = state.joined(obs[at], self._integral[at], past)
        taken = state.asked(seen, action[at])
        return Transition(
            obs=seen,
            action=taken,
            reward=columns["reward"][at] - state.cost(seen, taken),
            next_obs=state.after(seen, action[at], columns["next_obs"][at], self._integral_after[at]),
            terminated=columns["terminated"][at],
            truncated=columns["truncated"][at],
        )

    def _earlier(self, at: Int[np.ndarray, "k"], first: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k m"]:
        """The actions of rows that may lie before the first of their episode."""
        action = self._columns["action"][np.maximum(at, first)]
        return action if self._before is None else np.where((at < first)[:, None], self._before, action)
