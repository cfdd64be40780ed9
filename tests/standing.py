"""Trainers that stand still: what checkpoints see of a run, without any learning."""

from __future__ import annotations

from typing import Any

import numpy as np

from fittedq.data.replay import Replay
from fittedq.data.segments import RowLog
from fittedq.trainers.base import AbstractTrainer, Progress, Snapshot, never
from fittedq.types import Components, Transition


class AbstractStanding(AbstractTrainer):
    """A trainer that is saved and restored, and asked for nothing else."""

    def advance(self, steps: int, stop: Any = never) -> Progress:
        raise NotImplementedError

    def nets(self) -> Components:
        raise NotImplementedError

    def preferred(self) -> Components:
        raise NotImplementedError

    @property
    def acts_by(self) -> str:
        raise NotImplementedError

    def begin_with(self, nets: Components, moments: Any) -> None:
        raise NotImplementedError

    def moments(self) -> None:
        raise NotImplementedError

    @property
    def reward_scale(self) -> float:
        return 1.0

    def seen_obs(self, count: int) -> np.ndarray:
        return np.zeros((0, 1), np.float32)

    def seen_rows(self, count: int) -> Transition:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Recorder(AbstractStanding):
    """Its whole state is its step."""

    def __init__(self, step: int = 0):
        self.step = step

    def snapshot(self) -> Snapshot:
        return Snapshot({"state": np.full(1000, self.step)}, {"step": self.step}, {})

    def restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any], rows: dict[str, RowLog]) -> bool:
        assert np.all(arrays["state"] == meta["step"])
        self.step = meta["step"]
        return True


class Collector(AbstractStanding):
    """It is nothing but its replay, of `width` numbers a row."""

    def __init__(self, capacity: int, width: int = 2):
        self.step, self.replay = 0, Replay(capacity, width)

    def add(self, rows: np.ndarray) -> None:
        self.replay.add(rows)
        self.step += 1

    def collect(self, rows: int) -> None:
        """Rows that say when they came."""
        numbers = np.arange(self.replay.added, self.replay.added + rows, dtype=np.float32)
        self.add(np.repeat(numbers[:, None], self.replay.rows.shape[1], axis=1))

    def snapshot(self) -> Snapshot:
        return Snapshot({}, {"step": self.step}, {"replay": self.replay.log()})

    def restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any], rows: dict[str, RowLog]) -> bool:
        self.step = meta["step"]
        self.replay.restore(rows["replay"])
        return True
