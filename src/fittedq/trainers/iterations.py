"""Fitted iterations over a whole dataset: label every row, fit every component, copy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.arrays import Arr, Tree, strong
from fittedq.data.dataset import Dataset
from fittedq.data.segments import RowLog
from fittedq.data.statistics import RunningMoments
from fittedq.errors import UserError
from fittedq.template.fits import WholeFit
from fittedq.template.fqi import Tick, Update
from fittedq.template.targets import Labelled
from fittedq.trainers.base import AbstractTrainer, Progress, Snapshot, never
from fittedq.trainers.divergence import Watch
from fittedq.trainers.held_out import HeldOut
from fittedq.trainers.rows import (
    CHUNK,
    Rows,
    check_same_moments,
    evenly,
    filled,
    index_chunks,
    reward_range,
    reward_scale,
)
from fittedq.trainers.settings import FitSettings
from fittedq.trainers.solutions import AbstractSearch, RowsActing, Solutions
from fittedq.trainers.state import Arrays, check_memory, from_arrays, to_arrays
from fittedq.types import AbstractCritic, AbstractPolicy, Components, Greedy, Transition, needed, sized

PROBE_ROWS = 4_096
"""Rows on which the change of q and of the policy between iterations is measured."""
FIRST_ROWS = 20_000
"""Rows that are looked at before the first fit."""


FITTED_FIGURES = (
    "delta_q",
    "delta_d",
    "policy_change",
    "max_abs_target",
    "largest_value",
    "held_out_residual",
    "since_chosen",
)
"""What an iteration tells beside the figures of each component."""


PATIENCE_SECONDS = 1.0
"""A trainer reports at least this often."""


class FittedTrainer(AbstractTrainer):
    """Fitted Q-iteration on a fixed dataset; `step` counts iterations, `updates` gradient steps and own fits."""

    def __init__(
        self,
        algorithm: AbstractAlgorithm,
        dataset: Dataset,
        settings: FitSettings,
        seed: int,
        search: AbstractSearch | None = None,
    ):
        self.step, self.updates, self.episodes = 0, 0, 0
        self.obs_size, self.action_set = dataset.obs_size, dataset.action_set
        self.finished: str | None = None
        settings.check_iterations()
        self._algorithm, self._settings, self._seed = algorithm, settings, seed
        self._fqi = settings.keeping(algorithm.template(self.action_set))
        scale = reward_scale(dataset, algorithm.discount, settings)
        self._rows = Rows(dataset, settings.normalize_obs, reward_scale=scale)
        self._reward_range = reward_range(dataset)
        self.watch = Watch(algorithm, self._fqi, self.action_set, settings.scale_rewards)
        self.watch.see(self._reward_range)

        self._first = self._start()
        self._nets = self._first
        self._mean = self._fqi.first_mean(self._first)
        self._optimizer_states = self._fqi.fit_states(self._first)
        self._solutions = Solutions.none(self._rows.size, self.action_set)
        self._held_out = HeldOut.of(self._rows.size, self._seed) if settings.keep == "chosen" else None
        self._metrics: dict[str, float] = {}
        self._work: Iterator[float] | None = None

        self._acting = None if self._fqi.greedy is None else RowsActing(self._fqi.greedy, seed, search)
        self._label = [jax.jit(partial(_label, update)) for update in self._fqi.updates]
        self._next_mean = jax.jit(self._fqi.next_mean)
        self._fits = [update.fit.over(update.loss) for update in self._fqi.updates]

    # ------------------------------------------------------------------ the iteration

    def advance(self, steps: int, stop: Callable[[], bool] = never) -> Progress:
        """Take up to `steps` iterations, or return after about a second; `fraction` says how far the next is."""
        until, deadline, fraction = self.step + steps, time.monotonic() + PATIENCE_SECONDS, 0.0
        while self.step < until and self.finished is None and not stop():
            if self._work is None:
                self._work = self._iterate()
            fraction = next(self._work, 1.0)
            if fraction >= 1.0:
                self._work, fraction = None, 0.0
            elif time.monotonic() < deadline:
                continue
            if time.monotonic() >= deadline:
                break
        return Progress(self.step, self.updates, 0, [], dict(self._metrics), fraction)

    def grow(self, dataset: Dataset, moments: RunningMoments | None = None) -> None:
        """Go on with a dataset whose first rows are those known, between iterations, under the same normalization."""
        moments = self._rows.moments if moments is None else moments
        self._rows = Rows(dataset, moments is not None, moments)
        self._reward_range = reward_range(dataset)
        self.watch.see(self._reward_range)
        new = self._rows.size - len(self._solutions.gap)
        self._solutions = self._solutions.followed_by(Solutions.none(new, self.action_set))

    def _iterate(self) -> Iterator[float]:
        """One iteration; yields the share of it that is done. State changes at its end, all at once."""
        n = self.step + 1
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, 2, n]))
        keys = jax.random.split(
            jax.random.fold_in(jax.random.key_data(jax.random.key(self._seed)), n), 1 + 2 * len(self._fqi.updates)
        )
        nets = before = self._nets
        frozen = self._fqi.sync.freeze(nets)
        probe = self._rows(
            rng.permutation(self._rows.size)[:PROBE_ROWS] if self._rows.size > PROBE_ROWS else slice(None)
        )
        greedy_share = 0.5 if self._acting is not None and self._acting.solves else 0.1

        solutions, acting = self._solutions.copy(), None
        if self._acting is not None:
            acting = np.empty_like(solutions.action)
            for done in self._acting(frozen.over(nets), n, keys[0], self._next_obs, solutions, acting):
                yield greedy_share * done

        metrics: dict[str, float] = {}
        states = list(self._optimizer_states)
        low, high = (end / self._rows.reward_scale for end in self._reward_range)
        updates = self.updates
        for index, update in enumerate(self._fqi.updates):
            if n % update.every:
                continue
            data = self._labelled(index, nets, frozen, acting, solutions, n, keys[1 + 2 * index])
            share = (1 - greedy_share) / len(self._fqi.updates)
            component = getattr(nets, update.component)
            if data is not None:
                if update.target is not None:
                    data, figures = update.target.settled(data, frozen.over(nets), (low, high))
                    metrics |= figures
                    self._check_finite(n, metrics)
                first = getattr(self._first, update.component)
                key = keys[2 + 2 * index]
                start = WholeFit(component, states[index], first, nets, data, rng, key, n)
                for fit in self._fits[index](start):
                    component, states[index], updates = fit.component, fit.state, updates + fit.steps
                    metrics |= {f"{update.component}/{name}": value for name, value in fit.figures.items()}
                    yield greedy_share + share * (index + min(fit.done, 0.999))
            nets = nets.replace(update.component, component)
        metrics |= self._changes(before, nets, probe, solutions, n)
        held_out = self._held_out
        if held_out is not None:
            residual = self._residual(held_out.rows, nets, n)
            held_out = held_out.seen(nets, n, residual)
            metrics |= held_out.figures(residual, n)
        self._check_finite(n, metrics)
        self.watch.check_networks(nets, f"in iteration {n}")
        self.judge(metrics.get("max_abs_target", 0.0), metrics, nets, n)
        self._nets, self._optimizer_states = nets, tuple(states)
        if self._fqi.mean is not None:
            self._mean = self._next_mean(self._mean, nets.acting, Tick(jnp.asarray(n)))
        self._held_out = held_out
        self._solutions = solutions
        self._metrics, self.updates, self.step = metrics, updates, n
        self.finished = self._verdict(metrics)

    def _labelled(
        self,
        index: int,
        nets: Components,
        frozen: Components,
        acting: np.ndarray | None,
        solutions: Solutions,
        n: int,
        key: Array,
    ) -> Tree:
        """D of one update over every row, on the host; None where it is empty."""
        update = self._fqi.updates[index]
        chosen = np.arange(self._rows.size)
        if update.loss.solved_only:
            assert self._acting is not None
            # What the policy imitates is what was solved, not what it did itself where nothing was.
            acting, chosen = solutions.action, self._acting.labels(solutions, n)
        if self._held_out is not None:
            chosen = np.setdiff1d(chosen, self._held_out.rows, assume_unique=True)
        if len(chosen) == 0:
            return None
        parts = []
        for part, part_key in zip(index_chunks(chosen), jax.random.split(key, len(chosen) // CHUNK + 1), strict=False):
            rows = self._rows(part)
            action = solved = None
            if acting is not None:
                # Of a loss that imitates, every chosen row is a label; no other asks.
                action, solved = filled(acting[part]), np.ones(len(filled(part)), bool)
            data = self._label[index](nets, frozen, filled(rows), action, solved, part_key)
            count = len(part)
            parts.append(jax.tree.map(lambda leaf, count=count: np.asarray(leaf)[:count], data))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    # ------------------------------------------------------------------ what is said of an iteration

    def _changes(
        self, before: Components, nets: Components, probe: np.ndarray, solutions: Solutions, n: int
    ) -> dict[str, float]:
        """δ_q = mean_D |q_{n+1} − q_n|; δ_d = mean ‖π_{n+1} − a*‖ on B_opt; the controller's change, in half-widths."""
        obs, action = self._inputs(probe)
        old, new = (_values(needed(one.critic), obs, action) for one in (before, nets))
        half_width = np.asarray(self.action_set.half_width, np.float32)
        figures = {"delta_q": float(np.abs(new - old).mean())}
        if nets.policy is None:
            if self._fqi.greedy is not None:
                moved = solutions.action - self._solutions.action
                figures["policy_change"] = float(np.abs(moved / half_width).mean())
            return figures
        moved = _modes(nets.policy, obs) - _modes(needed(before.policy), obs)
        figures["policy_change"] = float(np.abs(moved / half_width).mean())
        if any(update.loss.solved_only for update in self._fqi.updates):
            rows = solutions.since(n)[:PROBE_ROWS]
            error = _modes(nets.policy, self._next_obs(rows)) - solutions.action[rows] if len(rows) else np.zeros(1)
            figures["delta_d"] = float(np.abs(error / half_width).mean())
        return figures

    def _residual(self, rows: np.ndarray, nets: Components, n: int) -> float:
        """√mean (q(s, a) − y)² over these rows, y labelled under `nets` themselves."""
        index, update = next((i, one) for i, one in enumerate(self._fqi.updates) if one.component == "critic")
        key, acting = jax.random.fold_in(jax.random.key_data(jax.random.key(self._seed)), n), None
        if self._acting is not None:
            found = Solutions.none(len(rows), self.action_set)
            acting = np.empty_like(found.action)
            for _ in self._acting(nets, n, key, lambda part: self._next_obs(rows[part]), found, acting):
                pass
        frozen, errors = self._fqi.sync.freeze(nets), []
        for part in index_chunks(np.arange(len(rows))):
            packed = self._rows(rows[part])
            action = None if acting is None else filled(acting[part])
            solved = None if action is None else np.ones(len(action), bool)
            data = self._label[index](nets, frozen, filled(packed), action, solved, key)
            if not isinstance(data, Labelled) or data.y.ndim != 1:
                raise UserError(
                    f"setting keep: found chosen, and {type(update.loss).__name__} fits the critic to no values; "
                    "expected average or last."
                )
            errors.append(_values(needed(nets.critic), *self._inputs(packed)) - np.asarray(data.y)[: len(part)])
        return float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))

    def _check_finite(self, n: int, figures: dict[str, float]) -> None:
        """A UserError that names the first figure that is not a finite number."""
        wrong = next((name for name, value in figures.items() if not np.isfinite(value)), None)
        if wrong is not None:
            component, _, figure = wrong.rpartition("/")
            hint = ", or, where actions are integrated over a thin set, raise points or samples"
            self.watch.diverged(f"in iteration {n}", component or "critic", figure, hint)

    def _verdict(self, metrics: dict[str, float]) -> str | None:
        """Why the loop ends here, or None."""
        tolerance, delta_q = self._settings.tolerance, metrics["delta_q"]
        delta_d, change = metrics.get("delta_d", 0.0), metrics.get("policy_change", 0.0)
        if max(delta_q, delta_d) < tolerance:
            return f"max(δ_q, δ_d) fell below the tolerance {tolerance:g}"
        if "delta_d" in metrics and max(delta_q, change) < tolerance:
            return f"q and the policy stopped changing (below {tolerance:g}), though δ_d stays at {delta_d:.3g}"
        return None

    # ------------------------------------------------------------------ state

    def _start(self) -> Components:
        """The first components."""
        check_memory(self._algorithm, self.obs_size, self.action_set, CHUNK)
        key = jax.random.key_data(jax.random.key(self._seed))
        nets = self._algorithm.networks(self.obs_size, self.action_set, key)
        nets = strong(jax.tree.map(jnp.asarray, nets))
        sample = self._rows(np.arange(min(self._rows.size, FIRST_ROWS)))
        self._fqi.check(nets)
        self._fqi.check_iterations(nets)
        return self._fqi.prepared(nets, self._inputs(sample))

    def _inputs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(s, a) of packed rows."""
        return rows[:, : self.obs_size], rows[:, self.obs_size : self.obs_size + self.action_set.size]

    def _next_obs(self, rows: np.ndarray) -> np.ndarray:
        start = self.obs_size + self.action_set.size
        return np.ascontiguousarray(self._rows(rows)[:, start : start + self.obs_size])

    def nets(self) -> Components:
        return self._nets

    def preferred(self) -> Components:
        return self._mean if self._held_out is None or self._held_out.nets is None else self._held_out.nets

    @property
    def acts_by(self) -> str:
        return self._fqi.acts_by(self.step) if self._held_out is None else self._held_out.words(self.step)

    def begin_with(self, nets: Components, moments: RunningMoments | None) -> None:
        check_same_moments(moments, self._rows.moments)
        self._first = self._nets = jax.tree.map(jnp.asarray, nets)
        self._mean = self._fqi.first_mean(self._first)

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
        arrays = {
            **to_arrays("nets", self._nets),
            **to_arrays("mean", self._mean),
            **({} if self._held_out is None else to_arrays("chosen/nets", self._held_out.nets)),
            **to_arrays("optimizers", self._optimizer_states),
            **{f"solutions/{name}": array for name, array in vars(self._solutions).items()},
        }
        meta = {"step": self.step, "updates": self.updates, "metrics": self._metrics, "finished": self.finished}
        if self._held_out is not None:
            meta["chosen"] = [self._held_out.step, self._held_out.residual]
        return Snapshot(arrays, meta, {})

    def restore(self, arrays: Arrays, meta: dict[str, Any], rows: dict[str, RowLog]) -> bool:
        self.step, self.updates = meta["step"], meta["updates"]
        self._metrics = meta["metrics"]
        # Told again: the tolerance may be another than it was.
        self.finished = self._verdict(self._metrics) if self._metrics else None
        self._nets = from_arrays("nets", sized(self._first, arrays), arrays)
        self._nets = jax.tree.map(jnp.asarray, self._nets)
        self._mean = jax.device_put(from_arrays("mean", self._mean, arrays))
        if self._held_out is not None and meta["chosen"][0]:
            chosen = below("chosen/", arrays)
            step, residual = meta["chosen"]
            self._held_out = HeldOut(
                self._held_out.rows, from_arrays("nets", sized(self._first, chosen), chosen), step, residual
            )
        self._optimizer_states = jax.device_put(from_arrays("optimizers", self._optimizer_states, arrays))
        self._solutions = Solutions(**below("solutions/", arrays)).copy()
        self._work = None
        return True

    def close(self) -> None:
        self._work = None


def _label(
    update: Update,
    nets: Components,
    frozen: Components,
    rows: Float[Array, "b width"],
    action: Float[Array, "b m"] | None,
    solved: Bool[Array, "b"] | None,
    key: Array,
) -> Tree:
    action_size = needed(nets.critic).action_set.size
    batch = Transition.unpack(rows, (rows.shape[1] - action_size - 3) // 2, action_size)
    greedy = None if action is None or solved is None else Greedy(action, jnp.zeros(rows.shape[0]), solved)
    return update.label(nets, frozen, batch, greedy, key)


@jax.jit
def _chunk_values(critic: AbstractCritic, obs: Float[Array, "b s"], action: Float[Array, "b m"]) -> Float[Arr, "b"]:
    return critic.least(obs, action)


@jax.jit
def _chunk_modes(policy: AbstractPolicy, obs: Float[Array, "b s"]) -> Float[Arr, "b m"]:
    return policy.act(obs, jnp.zeros((obs.shape[0], policy.action_set.size), obs.dtype))


def _values(critic: AbstractCritic, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [
            np.asarray(_chunk_values(critic, filled(obs[part]), filled(action[part])))[: len(part)]
            for part in index_chunks(np.arange(len(obs)))
        ]
    )


def _modes(policy: AbstractPolicy, obs: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [np.asarray(_chunk_modes(policy, filled(obs[part])))[: len(part)] for part in index_chunks(np.arange(len(obs)))]
    )


def below(prefix: str, arrays: Arrays) -> Arrays:
    """The arrays whose names begin so, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
