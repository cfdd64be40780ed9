"""Fitted iterations on data that grow: act with the newest policy, then iterate on all that was collected."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fittedq.acting.collect import act
from fittedq.acting.noise import AbstractExploration, Gaussian
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.approx.host import to_host
from fittedq.arrays import strong
from fittedq.data.dataset import Dataset
from fittedq.data.segments import RowLog
from fittedq.data.statistics import RunningMoments
from fittedq.envs.gym import AbstractSource
from fittedq.errors import UserError
from fittedq.template.fqi import LAST
from fittedq.trainers.base import AbstractTrainer, Progress, Snapshot, never
from fittedq.trainers.divergence import Watch
from fittedq.trainers.iterations import PATIENCE_SECONDS, FittedTrainer, below
from fittedq.trainers.rows import check_same_plant, evenly, reward_range
from fittedq.trainers.settings import GrowSettings
from fittedq.trainers.state import Arrays, from_arrays, to_arrays
from fittedq.types import Components, Transition, sized


class GrowingTrainer(AbstractTrainer):
    """Fitted Q-iteration that collects its own data; `step` counts environment steps, `updates` as `FittedTrainer`.

    repeat:  act with π_n + noise for some steps, D ← D ∪ what happened;  one iteration on all of D
    """

    def __init__(
        self,
        algorithm: AbstractAlgorithm,
        source: AbstractSource,
        settings: GrowSettings,
        seed: int,
        data: Dataset | None = None,
    ):
        self.step, self.updates, self.episodes = 0, 0, 0
        self.obs_size, self.action_set = source.obs_size, source.action_set
        self._noise = _white(algorithm.exploration())
        self.finished: str | None = None
        self._algorithm, self._source, self._settings, self._seed = algorithm, source, settings, seed
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 4]))
        width = Transition.width(self.obs_size, self.action_set.size)
        self._packed = np.empty((0, width), np.float32)
        if data is not None:
            check_same_plant(data, self.obs_size, self.action_set)
            self._packed = np.concatenate([np.asarray(data.rows(rows), np.float32) for rows in data.chunks()])
        self._collected: list[np.ndarray] = []
        self._taken, self._due = 0, False
        self._start: Components | None = None
        """The networks it was told to begin with."""
        self._start_moments: RunningMoments | None = None
        self._fitted: FittedTrainer | None = None
        self.watch = Watch(algorithm, algorithm.template(self.action_set), self.action_set)
        if data is not None:
            self.watch.see(reward_range(data))
        key = jax.random.key_data(jax.random.key(seed))
        self._first: Components = strong(
            jax.tree.map(jnp.asarray, algorithm.networks(self.obs_size, self.action_set, key))
        )

    def advance(self, steps: int, stop: Callable[[], bool] = never) -> Progress:
        """Take about `steps` environment steps, and the iterations that fall among them; return after about a second,
        or an iteration."""
        until, deadline = self.step + steps, time.monotonic() + PATIENCE_SECONDS
        returns: list[float] = []
        fraction = 0.0
        while (self._taken < until or self._due) and not stop():
            if self._due:
                fraction = self._iterate(stop)
            else:
                returns += self._collect()
            if time.monotonic() >= deadline:
                break
        metrics = {} if self._fitted is None else dict(self._fitted.advance(0).metrics)
        return Progress(self.step, self.updates, self.episodes, returns, metrics, fraction)

    def _collect(self) -> list[float]:
        source, obs = self._source, self._source.obs
        policy = None if self._taken < self._settings.random_steps else self._policy
        action = act(policy, obs, self.action_set, self._noise.sigma, 0.0, self._rng)
        step = source.step(action)
        rows = np.asarray(
            Transition(obs, action, step.reward, step.next_obs, step.terminated, step.truncated).pack(), np.float32
        )
        self._collected.append(rows[step.valid])
        if step.valid.any():
            self.watch.see(step.reward[step.valid])
        before, self._taken = self._taken, self._taken + source.n_envs
        self.episodes += len(step.returns)
        self._due = self._settings.updates(self._taken) > self._settings.updates(before)
        # A step that calls for an iteration counts once that is done: reports and evaluations come after it.
        self.step = before if self._due else self._taken
        return step.returns

    def _policy(self, obs: np.ndarray) -> np.ndarray:
        assert self._fitted is not None
        moments = self._fitted.moments()
        seen = obs if moments is None else np.asarray(moments.normalize(obs), np.float32)
        return np.asarray(self._controller.act(seen, np.zeros((len(obs), self.action_set.size), np.float32)))

    def _iterate(self, stop: Callable[[], bool]) -> float:
        """One iteration on all rows, as far as a second goes; the share that is done, 0 once it is whole."""
        if self._collected:
            self._packed = np.concatenate([self._packed, *self._collected])
            self._collected.clear()
            self._fit_on(self._packed)
        assert self._fitted is not None
        progress = self._fitted.advance(1, stop)
        self.updates = progress.updates
        if progress.fraction > 0:
            return progress.fraction
        if not stop():
            self.step, self._due = self._taken, False
            self._controller = self._algorithm.controller(to_host(self._fitted.nets()))
        return 0.0

    def _fit_on(self, packed: np.ndarray, moments: RunningMoments | None = None) -> None:
        columns = Transition.unpack(packed, self.obs_size, self.action_set.size)
        dataset = Dataset(dict(columns._asdict()), self.action_set)
        if self._fitted is None:
            self._fitted = FittedTrainer(self._algorithm, dataset, self._settings.of_iterations, self._seed)
            self._fitted.watch = self.watch
            if self._start is not None:
                self._fitted.begin_with(self._start, None)
            moments = moments or self._start_moments
        self._fitted.grow(dataset, moments)

    def nets(self) -> Components:
        return self._first if self._fitted is None else self._fitted.nets()

    def preferred(self) -> Components:
        return Components() if self._fitted is None else self._fitted.preferred()

    @property
    def acts_by(self) -> str:
        return LAST if self._fitted is None else self._fitted.acts_by

    def begin_with(self, nets: Components, moments: RunningMoments | None) -> None:
        self._first = self._start = strong(jax.tree.map(jnp.asarray, nets))
        self._start_moments = moments

    def moments(self) -> RunningMoments | None:
        return self._start_moments if self._fitted is None else self._fitted.moments()

    @property
    def reward_scale(self) -> float:
        return 1.0

    def seen_obs(self, count: int) -> np.ndarray:
        return np.zeros((0, self.obs_size), np.float32) if self._fitted is None else self._fitted.seen_obs(count)

    def seen_rows(self, count: int) -> Transition:
        packed = np.concatenate([self._packed, *self._collected])
        return Transition.unpack(evenly(packed, count), self.obs_size, self.action_set.size)

    def snapshot(self) -> Snapshot:
        source_arrays, source_meta = self._source.snapshot()
        arrays = {
            **{f"source/{name}": array for name, array in source_arrays.items()},
        }
        meta = {
            "step": self.step,
            "updates": self.updates,
            "episodes": self.episodes,
            "packed": len(self._packed),
            "taken": self._taken,
            "due": self._due,
            "rewards": self.watch.seen(),
            "rng": self._rng.bit_generator.state,
            "source": source_meta,
        }
        if self._start is not None:
            arrays |= to_arrays("nets", self._start)
            arrays |= {} if self._start_moments is None else to_arrays("start_moments", self._start_moments)
            meta["started"] = True
        if self._fitted is not None:
            fitted_arrays, meta["fitted"], _ = self._fitted.snapshot()
            arrays |= {f"fitted/{name}": array for name, array in fitted_arrays.items()}
            moments = self._fitted.moments()
            arrays |= {} if moments is None else to_arrays("moments", moments)
        return Snapshot(arrays, meta, {"replay": RowLog(0, (self._packed, *self._collected))})

    def restore(self, arrays: Arrays, meta: dict[str, Any], rows: dict[str, RowLog]) -> bool:
        self.step, self.updates, self.episodes = meta["step"], meta["updates"], meta["episodes"]
        self._taken, self._due = meta["taken"], meta["due"]
        self.watch.see(meta["rewards"])
        self._rng.bit_generator.state = meta["rng"]
        known = rows["replay"].all()
        self._packed, collected = known[: meta["packed"]], known[meta["packed"] :]
        self._collected = [collected] if len(collected) else []
        if meta.get("started"):
            normalized = self._settings.normalize_obs
            moments = (
                from_arrays("start_moments", RunningMoments.start(self.obs_size, self.action_set.reads or ()), arrays)
                if normalized
                else None
            )
            self.begin_with(from_arrays("nets", sized(self._first, arrays), arrays), moments)
        if "fitted" in meta:
            normalized = self._settings.normalize_obs
            moments = (
                from_arrays("moments", RunningMoments.start(self.obs_size, self.action_set.reads or ()), arrays)
                if normalized
                else None
            )
            self._fit_on(self._packed, moments)
            assert self._fitted is not None
            self._fitted.restore(below("fitted/", arrays), meta["fitted"], {})
            self._controller = self._algorithm.controller(to_host(self._fitted.nets()))
        return self._source.restore(below("source/", arrays), meta["source"])

    def close(self) -> None:
        self._source.close()


def _white(exploration: AbstractExploration) -> Gaussian:
    if not isinstance(exploration, Gaussian):
        raise UserError(
            f"found {type(exploration).__name__}, expected Gaussian: growing data are collected with white noise "
            "around the controller.",
            argument="exploration",
        )
    return exploration
