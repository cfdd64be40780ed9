"""Training in a Gymnasium environment: the environment on the host, the learner compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fittedq import memory
from fittedq.acting.noise import explore
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.approx.host import host_view
from fittedq.arrays import Arr
from fittedq.data.dataset import Dataset
from fittedq.data.replay import Replay
from fittedq.data.segments import RowLog
from fittedq.data.statistics import ReturnScale, RunningMoments
from fittedq.envs.gym import AbstractSource
from fittedq.errors import UserError
from fittedq.trainers.assess import Assessment
from fittedq.trainers.base import AbstractTrainer, Progress, Snapshot, never
from fittedq.trainers.divergence import Watch
from fittedq.trainers.drawing import Batches, Drawing
from fittedq.trainers.learner import MEASURED_ROWS, Learner, measured
from fittedq.trainers.resets import resetting
from fittedq.trainers.rows import check_same_plant, evenly, normalize_rows, reward_range
from fittedq.trainers.settings import TrainSettings
from fittedq.trainers.state import (
    Arrays,
    begun_with,
    check_collects,
    check_model,
    from_arrays,
    initial_state,
    to_arrays,
)
from fittedq.types import REWARD, Components, DrawnRows, Transition


class HostTrainer(AbstractTrainer):
    """Gymnasium on the host, the learner compiled; with `chunk = 1` every action is the newest policy's."""

    def __init__(
        self,
        algorithm: AbstractAlgorithm,
        source: AbstractSource,
        settings: TrainSettings,
        seed: int,
        data: Dataset | None = None,
    ):
        self.step, self.updates, self.episodes = 0, 0, 0
        self.obs_size, self.action_set = source.obs_size, source.action_set
        self._algorithm, self._source, self._settings, self._seed = algorithm, source, settings, seed
        self._figures: dict[str, float] = {}
        self._exploration, self._host_set = host_view(algorithm.exploration()), host_view(self.action_set)
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
        width = Transition.width(self.obs_size, self.action_set.size)
        self._replay = Replay(settings.replay_size, width)
        self._before = 0 if data is None else len(data)
        """Rows that were there at the start, of one environment."""
        memory.require(
            4 * settings.updates_per_call * settings.batch_size * width,
            f"settings chunk, n_envs, updates_per_step and batch_size: {settings.updates_per_call:,} batches of "
            f"{settings.batch_size:,} rows at once",
            "choose smaller ones",
        )
        self._moments = (
            RunningMoments.start(self.obs_size, self.action_set.reads or ()) if settings.normalize_obs else None
        )
        self._scale = None
        if settings.scale_rewards:
            self._scale = ReturnScale.start(source.n_envs, algorithm.discount, settings.return_bound)
        self._fqi, state = initial_state(algorithm, self.obs_size, self.action_set, settings.batch_size, seed, settings)
        self._columns = settings.columns(self._fqi)
        sizes = self.obs_size, self.action_set.size
        next_actions = "next_action" in self._columns
        self._drawing = Drawing(settings, settings.replay_size, algorithm.discount, *sizes, next_actions)
        check_collects(algorithm, state.nets)
        check_model(state.nets, source.obs)
        self.watch = Watch(algorithm, self._fqi, self.action_set, settings.scale_rewards)
        if data is not None:
            self._begin_with(data)
        self._noise = np.zeros((source.n_envs, self.action_set.size), np.float32)
        self._owed, self._paying = 0.0, False
        self._assessment = settings.assessment
        self.learner = Learner(self._fqi, state, *sizes, self._columns)
        reset = resetting(algorithm, self._fqi, self.obs_size, self.action_set, settings, seed)
        self._reset = None if reset is None else jax.jit(reset)
        self._policy = self.learner.host_policy()
        self._waiting: list[Batches] = []
        """Batches drawn but not yet learned from: between its delayed updates the policy does not need them."""
        self._no_batch = Batches(
            np.empty((0, settings.batch_size, width + DrawnRows.width(self._columns, sizes[1])), np.float32),
            np.empty((0, settings.batch_size), np.int64),
        )

    def advance(self, steps: int, stop: Callable[[], bool] = never) -> Progress:
        returns: list[float] = []
        until = self.step + steps
        while self.step < until and not stop():
            if self._paying:
                self._pay(stop)
                continue
            before, ended = self.step, list[float]()
            for _ in range(self._settings.chunk):
                ended += self._collect()
            returns += ended
            self._learn(ended, stop)
            self._measure(before)
        figures = self.examined(self.learner.host_state()) | self._figures
        return Progress(self.step, self.updates, self.episodes, returns, figures)

    def _measure(self, before: int) -> None:
        every = self._algorithm.measure_every
        if not every or self.updates == 0 or before // every == self.step // every:
            return
        self._flush()
        rows = self._replay.newest(MEASURED_ROWS)
        self._in_units(rows)
        self.learner.state, self._figures = measured(
            self._algorithm, self.learner.state, rows, self._source.n_envs, self.obs_size, self._seed
        )

    def _begin_with(self, data: Dataset) -> None:
        """Fill the replay with a dataset's newest rows."""
        check_same_plant(data, self.obs_size, self.action_set)
        self.watch.see(reward_range(data))
        for rows in data.chunks():
            self._replay.add(data.rows(rows))
            if self._moments is not None:
                self._moments = self._moments.update(np.asarray(data.transitions(rows).next_obs))

    def _collect(self) -> list[float]:
        source, obs = self._source, self._source.obs
        if self.step < self._settings.random_steps:
            unit = self._rng.uniform(-1, 1, self._noise.shape).astype(np.float32)
            action = self._host_set.project(self._host_set.from_unit(unit), obs)
        else:
            action = self._explore(obs)
        try:
            step = source.step(np.asarray(action))
        except UserError:
            # A policy that diverged is told by what went first, not by its action.
            self.watch.check(self.learner.host_state())
            raise
        transition = Transition(obs, action, step.reward, step.next_obs, step.terminated, step.truncated)
        rows = np.asarray(transition.pack())
        self._replay.add(rows if step.valid.all() else rows[step.valid])
        if step.valid.any():
            self.watch.see(step.reward[step.valid])
            if self._moments is not None:
                self._moments = self._moments.update(step.next_obs[step.valid])
            if self._scale is not None:
                self._scale = self._scale.update(step.reward, step.terminated | step.truncated, step.valid)
        # An autoreset step is nobody's: the episode after it starts without noise.
        self._noise[step.terminated | step.truncated | ~step.valid] = 0.0
        self.episodes += len(step.returns)
        self.step += source.n_envs
        return step.returns

    def _explore(self, obs: np.ndarray) -> Arr:
        if self._moments is not None:
            obs = np.asarray(self._moments.normalize(obs))
        normal = self._rng.standard_normal(self._noise.shape, np.float32)
        if self._exploration.samples_policy:
            return self._host_set.project(self._policy.act(obs, normal), obs)
        state, noise = self._exploration.step(self._noise, normal)
        self._noise = np.array(state)
        return explore(self._policy.act(obs, np.zeros_like(normal)), noise, self._host_set, obs)

    def _learn(self, ended: list[float], stop: Callable[[], bool]) -> None:
        if self.step < self._settings.random_steps or self._replay.size == 0:
            return
        self._owed += self._settings.chunk * self._source.n_envs * self._settings.updates_per_step
        if self._assessment is None:
            self._pay(never)
        elif self._judged(self._assessment, ended):
            self._pay(stop)

    def _judged(self, assessment: Assessment, ended: list[float]) -> bool:
        """Whether these episodes end an assessment; the policy that acted is kept where it is the best so far."""
        for value in ended:
            better = assessment.over(value, self.step)
            if better:
                self.assessed = Components(policy=self.learner.host_state().nets.policy)
            if better is not None:
                return True
        return False

    def _pay(self, stop: Callable[[], bool]) -> None:
        """Make the updates that are owed, unless `stop()`: then they come first where the run goes on."""
        per_call = self._settings.updates_per_call
        while self._owed >= per_call and not stop():
            self._waiting.append(self._draw(per_call))
            self._owed -= per_call
            if per_call > 1 or self.learner.group == 1 or self.learner.policy_due(len(self._waiting)):
                self._flush()
        self._paying = self._owed >= per_call

    def _draw(self, batches: int) -> Batches:
        settings, replay = self._settings, self._replay
        if self._columns:
            return self._drawing(
                self._rng, batches, replay.added, replay.take, self._in_units, self.updates, self._stride
            )
        rows = replay.sample(self._rng, batches, settings.batch_size)
        self._in_units(rows)
        return Batches(rows, self._no_batch.numbers)

    def _stride(self, numbers: np.ndarray) -> np.ndarray:
        return np.where(numbers < self._before, 1, self._source.n_envs)

    def _in_units(self, rows: np.ndarray) -> None:
        """Packed rows as the networks see them, in place."""
        if self._moments is not None:
            normalize_rows(rows, self._moments, self.obs_size, self.action_set.size)
        if self._scale is not None:
            rows[..., REWARD] /= self._scale.scale

    def _flush(self) -> None:
        """Learn from what waits: a whole group in one call, else batch by batch, so that few shapes are compiled.

        Programs of other shapes round otherwise. So when to flush is a function of the step alone, not of reports or of
        when a run is stopped: what waits is part of the state.
        """
        if len(self._waiting) == self.learner.group > 1:
            self._waiting = [_together(self._waiting)]
        for rows, numbers in self._waiting:
            self._drawing.learn(numbers, self.learner.learn(rows))
            before, self.updates = self.updates, self.updates + len(rows)
            if self._reset is not None and before // (every := self._settings.reset_every) < self.updates // every:
                self.learner.state = self._reset(self.learner.state)
        self._waiting.clear()
        self._policy = self.learner.host_policy()

    def nets(self) -> Components:
        return self.learner.state.nets

    def preferred(self) -> Components:
        return self.learner.state.mean

    @property
    def acts_by(self) -> str:
        return self._fqi.acts_by(self.updates) if self.assessed.policy is None else "the policy of the best episodes"

    def begin_with(self, nets: Components, moments: RunningMoments | None) -> None:
        self.learner.state = begun_with(self._fqi, self.learner.state, nets)
        self._moments = moments
        self._policy = self.learner.host_policy()

    def moments(self) -> RunningMoments | None:
        return self._moments

    @property
    def reward_scale(self) -> float:
        return 1.0 if self._scale is None else float(self._scale.scale)

    def seen_obs(self, count: int) -> np.ndarray:
        obs = evenly(self._replay.content(), count)[:, : self.obs_size]
        return obs if self._moments is None else np.asarray(self._moments.normalize(obs))

    def seen_rows(self, count: int) -> Transition:
        return Transition.unpack(evenly(self._replay.content(), count), self.obs_size, self.action_set.size)

    def snapshot(self) -> Snapshot:
        source_arrays, source_meta = self._source.snapshot()
        state = self.learner.host_state()
        self.watch.check(state)
        waiting = _together([self._no_batch, *self._waiting])
        arrays = {
            **to_arrays("learner", state),
            **{f"source/{name}": array for name, array in source_arrays.items()},
            "noise": self._noise,
            "waiting": waiting.rows,
            **self._drawing.saved(),
        }
        if self._drawing.priorities is not None:
            arrays["waiting_numbers"] = waiting.numbers
        if self._moments is not None:
            arrays |= to_arrays("moments", self._moments)
        if self._scale is not None:
            arrays |= to_arrays("return_scale", self._scale)
        if self.assessed.policy is not None:
            arrays |= to_arrays("assessed", self.assessed.policy)
        meta = {
            "step": self.step,
            "updates": self.updates,
            "episodes": self.episodes,
            "owed": self._owed,
            "rng": self._rng.bit_generator.state,
            "figures": self._figures,
            "rewards": self.watch.seen(),
            "source": source_meta,
        }
        if self._assessment is not None:
            meta |= {"assessment": self._assessment.saved(), "paying": self._paying}
        return Snapshot(arrays, meta, {"replay": self._replay.log()})

    def restore(self, arrays: Arrays, meta: dict[str, Any], rows: dict[str, RowLog]) -> bool:
        self.step, self.updates, self.episodes = meta["step"], meta["updates"], meta["episodes"]
        self.watch.see(meta["rewards"])
        self._owed, self._figures = meta["owed"], meta["figures"]
        self._rng.bit_generator.state = meta["rng"]
        self._replay.restore(rows["replay"])
        self._noise = arrays["noise"].copy()
        waiting = arrays["waiting"]
        if waiting.shape[1:] != self._no_batch.rows.shape[1:]:
            # Batches are of another size from here on: these are drawn anew.
            self._owed, waiting = self._owed + len(waiting), self._no_batch.rows
        numbers = arrays.get("waiting_numbers")
        self._waiting = [
            Batches(batch[None].copy(), self._no_batch.numbers if numbers is None else numbers[[place]])
            for place, batch in enumerate(waiting)
        ]
        self._drawing.restore(self._replay.added, arrays)
        if self._moments is not None:
            self._moments = from_arrays("moments", self._moments, arrays)
        if self._scale is not None:
            self._scale = from_arrays("return_scale", self._scale, arrays)
        self.learner.state = from_arrays("learner", self.learner.host_state(), arrays)
        if self._assessment is not None and "assessment" in meta:  # a run from before there were any begins with one
            self._assessment.restore(meta["assessment"])
            self._paying = meta["paying"]
            if self._assessment.best > -math.inf:
                policy = from_arrays("assessed", self.learner.host_state().nets.policy, arrays)
                self.assessed = Components(policy=policy)
        self._policy = self.learner.host_policy()
        prefix = "source/"
        source_arrays = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        exact = self._source.restore(source_arrays, meta["source"])
        if not exact:
            self._noise[:] = 0.0
        return exact

    def close(self) -> None:
        self._source.close()


def _together(batches: list[Batches]) -> Batches:
    return Batches(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))
