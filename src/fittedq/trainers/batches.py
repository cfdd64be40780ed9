"""Methods that learn from batches, over a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.data.dataset import Dataset
from fittedq.data.segments import RowLog
from fittedq.data.statistics import RunningMoments
from fittedq.template.fits import STEPS_PER_CALL
from fittedq.trainers.base import AbstractTrainer, Progress, Snapshot, never
from fittedq.trainers.blocks import BlockPool
from fittedq.trainers.divergence import Watch
from fittedq.trainers.drawing import Drawing
from fittedq.trainers.iterations import PATIENCE_SECONDS
from fittedq.trainers.learner import MEASURED_ROWS, Learner, measured
from fittedq.trainers.resets import resetting
from fittedq.trainers.rows import Rows, check_same_moments, evenly, reward_range, reward_scale
from fittedq.trainers.settings import FitSettings
from fittedq.trainers.state import Arrays, begun_with, check_model, from_arrays, initial_state, to_arrays
from fittedq.types import Components, Transition


class BatchTrainer(AbstractTrainer):
    """Any method of the template on batches of a fixed dataset; `step` counts updates."""

    def __init__(self, algorithm: AbstractAlgorithm, dataset: Dataset, settings: FitSettings, seed: int):
        self.step, self.updates, self.episodes = 0, 0, 0
        self.obs_size, self.action_set = dataset.obs_size, dataset.action_set
        self.finished: str | None = None
        settings.check_batches()
        self._algorithm, self._settings, self._seed = algorithm, settings, seed
        self._figures: dict[str, float] = {}
        scale = reward_scale(dataset, algorithm.discount, settings)
        self._rows = Rows(dataset, settings.normalize_obs, reward_scale=scale)
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
        self._fqi, state = initial_state(algorithm, self.obs_size, self.action_set, settings.batch_size, seed, settings)
        columns = settings.columns(self._fqi)
        sizes = self.obs_size, self.action_set.size
        # Rows that are drawn by their errors lie anywhere.
        self._pool = None if self._rows.held or settings.rule is not None else BlockPool(self._rows, seed)
        uniform = None if self._pool is None else self._pool.draw
        next_actions = "next_action" in columns
        self._drawing = Drawing(settings, self._rows.size, algorithm.discount, *sizes, next_actions, uniform)
        check_model(state.nets, self.seen_obs(settings.batch_size))
        self.watch = Watch(algorithm, self._fqi, self.action_set, settings.scale_rewards)
        self.watch.see(reward_range(dataset))
        self.learner = Learner(self._fqi, state, *sizes, columns)
        reset = resetting(algorithm, self._fqi, self.obs_size, self.action_set, settings, seed)
        self._reset = None if reset is None else jax.jit(reset)

    def advance(self, steps: int, stop: Callable[[], bool] = never) -> Progress:
        until, deadline = self.step + steps, time.monotonic() + PATIENCE_SECONDS
        while self.step < until and not stop() and time.monotonic() < deadline:
            # Two shapes, so two programs: whole calls, and single updates up to the next report.
            every = self._settings.reset_every
            free = min(until - self.step, every - self.step % every) if every else until - self.step
            count = STEPS_PER_CALL if free >= STEPS_PER_CALL else 1
            rows, numbers = self._drawing(
                self._rng, count, self._rows.size, self._take, lambda rows: None, self.step, lambda numbers: 1
            )
            self._drawing.learn(numbers, self.learner.learn(rows))
            self.step += count
            if self._reset is not None and self.step % every == 0:
                self.learner.state = self._reset(self.learner.state)
            # One call in flight at a time, or the clock would run ahead of the learner.
            self.learner.wait()
            every = self._algorithm.measure_every
            if every and (self.step - count) // every < self.step // every:
                newest = self._rows(slice(max(0, self._rows.size - MEASURED_ROWS), self._rows.size))
                self.learner.state, self._figures = measured(
                    self._algorithm, self.learner.state, newest, 1, self.obs_size, self._seed
                )
        self.updates = self.step
        figures = self.examined(self.learner.host_state()) | self._figures
        return Progress(self.step, self.updates, 0, [], figures)

    def _take(self, numbers: np.ndarray) -> np.ndarray:
        take = self._rows if self._pool is None else self._pool.take
        return take(numbers.ravel()).reshape(*numbers.shape, -1)

    def nets(self) -> Components:
        return self.learner.state.nets

    def preferred(self) -> Components:
        return self.learner.state.mean

    @property
    def acts_by(self) -> str:
        return self._fqi.acts_by(self.step)

    def begin_with(self, nets: Components, moments: RunningMoments | None) -> None:
        check_same_moments(moments, self._rows.moments)
        self.learner.state = begun_with(self._fqi, self.learner.state, nets)

    def moments(self) -> RunningMoments | None:
        return self._rows.moments

    @property
    def reward_scale(self) -> float:
        return self._rows.reward_scale

    def seen_obs(self, count: int) -> np.ndarray:
        return self._rows(evenly(np.arange(self._rows.size), count))[:, : self.obs_size]

    def seen_rows(self, count: int) -> Transition:
        return self._rows.taken(count)

    def snapshot(self) -> Snapshot:
        meta = {"step": self.step, "rng": self._rng.bit_generator.state, "figures": self._figures}
        state = self.learner.host_state()
        self.watch.check(state)
        return Snapshot(to_arrays("learner", state) | self._drawing.saved(), meta, {})

    def restore(self, arrays: Arrays, meta: dict[str, Any], rows: dict[str, RowLog]) -> bool:
        self.step, self._figures = meta["step"], meta["figures"]
        self.updates = self.step
        self._rng.bit_generator.state = meta["rng"]
        self._drawing.restore(self._rows.size, arrays)
        self.learner.state = from_arrays("learner", self.learner.host_state(), arrays)
        return True

    def close(self) -> None:
        pass
