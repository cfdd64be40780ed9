"""Fitted iterations over a whole dataset: label every row, fit every component, copy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.fitted import FittedAlgorithm
from fittedq.approx.host import to_host
from fittedq.data.dataset import Dataset
from fittedq.data.segments import RowLog
from fittedq.data.statistics import RunningMoments
from fittedq.template.fqi import Update
from fittedq.template.greedy import PartlySolved, Solved
from fittedq.template.losses import Imitate, Regress
from fittedq.template.targets import AbstractTarget, Labelled
from fittedq.trainers.base import EXAMINED, AbstractTrainer, Progress, Snapshot, never
from fittedq.trainers.divergence import Watch
from fittedq.trainers.rows import CHUNK, Rows, reward_range, spread
from fittedq.trainers.settings import FitSettings
from fittedq.trainers.state import Arrays, check_memory, from_arrays, strong, to_arrays
from fittedq.types import Approximators, Greedy, Transition

STEPS_PER_CALL = 64
"""Gradient steps in one compiled call."""


PROBES = 20_000
"""Rows on which the change of q between iterations is measured."""


FITTED_FIGURES = ("delta_q", "delta_d", "policy_change", "max_abs_target", "largest_value")
"""What an iteration tells beside the figures of each component."""


PATIENCE_SECONDS = 1.0
"""A trainer reports at least this often."""


@dataclass(frozen=True)
class Solutions:
    """What a solver found at each row: its newest action, the iteration that is from, the gap there to the policy.

    The policy's own actions never come in: they are no labels.
    """

    action: np.ndarray
    """[rows, m]; the middle of the set where a row was never solved."""
    iteration: np.ndarray
    """−1 where a row was never solved."""
    gap: np.ndarray
    """q̄ at the solver's action less q̄ at the policy's; ∞ where a row was never solved."""

    @staticmethod
    def none(rows: int, action_set: AbstractActionSet) -> Solutions:
        center = np.asarray(action_set.center, np.float32)
        return Solutions(np.tile(center, (rows, 1)), np.full(rows, -1), np.full(rows, np.inf, np.float32))

    def copy(self) -> Solutions:
        return Solutions(self.action.copy(), self.iteration.copy(), self.gap.copy())

    def followed_by(self, more: Solutions) -> Solutions:
        """These rows, then those of `more`."""
        pairs = zip(vars(self).values(), vars(more).values(), strict=True)
        return Solutions(*(np.concatenate(pair) for pair in pairs))

    def since(self, iteration: int) -> np.ndarray:
        """The rows whose action is from this iteration or a later one."""
        return np.flatnonzero(self.iteration >= max(iteration, 1))


class FittedTrainer(AbstractTrainer):
    """Fitted Q-iteration on a fixed dataset; `step` counts iterations, `updates` gradient steps and own fits."""

    def __init__(self, algorithm: FittedAlgorithm, dataset: Dataset, settings: FitSettings, seed: int):
        self.step, self.updates, self.episodes = 0, 0, 0
        self.obs_size, self.action_set = dataset.obs_size, dataset.action_set
        self.finished: str | None = None
        self._algorithm, self._settings, self._seed = algorithm, settings, seed
        self._fqi = algorithm.template(self.action_set)
        self._rows = Rows(dataset, settings.normalize_obs)
        self._reward_range = reward_range(dataset)
        self.watch = Watch(algorithm, self._fqi, self.action_set)
        self.watch.see(self._reward_range)

        self._first = self._start()
        self._nets = self._first
        self._optimizer_states = self._fresh_optimizers()
        self._solutions = Solutions.none(self._rows.size, self.action_set)
        self._metrics: dict[str, float] = {}
        self._work: Iterator[float] | None = None
        self._grows = False
        """Whether the dataset changes its size: the rest of an epoch then goes step by step, or each would compile."""

        self._greedy = jax.jit(lambda nets, obs, starts, key: _solver(self._fqi.greedy)(nets, obs, key, starts))
        self._amortized = jax.jit(lambda nets, obs, key: _amortized(self._fqi.greedy)(nets, obs, key))
        self._label = [jax.jit(partial(_label, update)) for update in self._fqi.updates]
        self._steps = [jax.jit(partial(_steps, update), donate_argnums=(0, 1)) for update in self._fqi.updates]
        self._loss = [jax.jit(partial(_loss, update)) for update in self._fqi.updates]

    # ------------------------------------------------------------------ the iteration

    def advance(self, steps: int, stop: Callable[[], bool] = never) -> Progress:
        """Up to `steps` iterations, or as far as a second goes: then `fraction` says how much of the next is done."""
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
        self._grows = True

    def _iterate(self) -> Iterator[float]:
        """One iteration; yields the share of it that is done. State changes at its end, all at once."""
        n = self.step + 1
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, 2, n]))
        keys = jax.random.split(
            jax.random.fold_in(jax.random.key_data(jax.random.key(self._seed)), n), 1 + 2 * len(self._fqi.updates)
        )
        nets = before = self._nets
        frozen = self._fqi.sync.freeze(nets)
        probe = self._rows(rng.permutation(self._rows.size)[:PROBES] if self._rows.size > PROBES else slice(None))
        solving = self._fqi.greedy is not None and _solver(self._fqi.greedy) is not None
        greedy_share = 0.5 if solving else 0.1

        solutions, acting = self._solutions.copy(), None
        if self._fqi.greedy is not None:
            acting = np.empty_like(solutions.action)
            for done in self._act(frozen.over(nets), n, keys[0], solutions, acting):
                yield greedy_share * done

        metrics: dict[str, float] = {}
        states = list(self._optimizer_states)
        updates = self.updates
        for index, update in enumerate(self._fqi.updates):
            data = self._labelled(index, nets, frozen, acting, solutions, n, keys[1 + 2 * index])
            share = (1 - greedy_share) / len(self._fqi.updates)
            component = getattr(nets, update.component)
            if data is not None:
                if isinstance(update.loss, Regress):
                    metrics |= self._target_figures(update.loss.target, frozen.over(nets), data.y)
                    self._check_finite(n, metrics)
                fit = self._fit(index, nets, states, data, rng, keys[2 + 2 * index])
                for fitted, done, figures, count in fit:
                    component, metrics, updates = fitted, metrics | figures, updates + count
                    yield greedy_share + share * (index + min(done, 0.999))
            nets = nets.replace(update.component, component)
        metrics |= self._changes(before, nets, probe, solutions, n)
        self._check_finite(n, metrics)
        self.watch.check_networks(nets, f"in iteration {n}")
        self.watch.judge_values(metrics.get("max_abs_target", 0.0), metrics.get("largest_value", np.inf))
        for component in self.watch.still(metrics):
            self.watch.judge_spread(component, to_host(nets), self.seen_obs(EXAMINED))
        self._nets, self._optimizer_states = nets, tuple(states)
        self._solutions = solutions
        self._metrics, self.updates, self.step = metrics, updates, n
        self.finished = self._verdict(metrics)

    def _act(self, nets: Approximators, n: int, key: Any, solutions: Solutions, acting: np.ndarray) -> Iterator[float]:
        """Fill `acting` with a' for every row: the solver's, which `solutions` take in, on B_opt, else the policy's."""
        greedy, size = self._fqi.greedy, self._rows.size
        chosen = np.arange(size)
        if isinstance(greedy, PartlySolved):
            # A generator of its own: which rows are solved changes nothing in how networks are fitted.
            rng = np.random.default_rng(np.random.SeedSequence([self._seed, 3, n]))
            chosen = greedy.rows(size, solutions.gap, rng)
        elif _solver(greedy) is None:
            chosen = chosen[:0]
        keys = iter(jax.random.split(key, 2 + 2 * (size // CHUNK + 2)))
        for part in _chunks(np.setdiff1d(np.arange(size), chosen, assume_unique=True)):
            obs = self._next_obs(part)
            acting[part] = np.asarray(self._amortized(nets, _filled(obs), next(keys)).action)[: len(part)]
            yield 0.2 * part[-1] / size
        for part in _chunks(chosen):
            obs = self._next_obs(part)
            starts = solutions.action[part][:, None]
            if _solver(greedy).chosen(nets.critic).on_host:
                answer = np.asarray(_solver(greedy)(nets, obs, next(keys), starts).action)
            else:
                answer = np.asarray(self._greedy(nets, _filled(obs), _filled(starts), next(keys)).action)[: len(part)]
            if isinstance(greedy, PartlySolved):
                solutions.gap[part] = np.asarray(_gap(nets, _filled(obs), _filled(answer)))[: len(part)]
            acting[part] = solutions.action[part] = answer
            solutions.iteration[part] = n
            yield 0.2 + 0.8 * part[-1] / size

    def _labelled(
        self,
        index: int,
        nets: Approximators,
        frozen: Approximators,
        acting: np.ndarray | None,
        solutions: Solutions,
        n: int,
        key: Any,
    ) -> Any:
        """D of one update over every row, on the host; None where it is empty."""
        update = self._fqi.updates[index]
        chosen = np.arange(self._rows.size)
        if isinstance(update.loss, Imitate):
            assert isinstance(self._fqi.greedy, PartlySolved | Solved)
            # What the policy imitates is what was solved, not what it did itself where nothing was.
            acting, chosen = solutions.action, solutions.since(n - getattr(self._fqi.greedy, "max_age", 0))
            if len(chosen) == 0:
                return None
        parts = []
        for part, part_key in zip(_chunks(chosen), jax.random.split(key, len(chosen) // CHUNK + 1), strict=False):
            rows = self._rows(part)
            action = solved = None
            if acting is not None:
                # Of a loss that imitates, every chosen row is a label; no other asks.
                action, solved = _filled(acting[part]), np.ones(len(_filled(part)), bool)
            data = self._label[index](nets, frozen, _filled(rows), action, solved, part_key)
            count = len(part)
            parts.append(jax.tree.map(lambda leaf, count=count: np.asarray(leaf)[:count], data))
        data = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        if isinstance(update.loss, Regress) and self._algorithm.clip_targets:
            low, high = update.loss.target.value_range(frozen.over(nets), self._reward_range)
            with np.errstate(over="ignore"):  # a bound that float32 cannot hold bounds nothing
                low, high = np.asarray((low, high)).astype(np.float32)
            data = Labelled(data.inputs, np.clip(data.y, low, high))
        return data

    def _fit(
        self, index: int, nets: Approximators, states: list[Any], data: Any, rng: np.random.Generator, key: Any
    ) -> Iterator[tuple[Any, float, dict[str, float], int]]:
        """Spend one update's budget on D; yields (component, share done, figures, gradient steps since the last)."""
        update = self._fqi.updates[index]
        component, state = getattr(nets, update.component), states[index]
        if isinstance(data, Labelled) and update.component == "critic":
            obs, action = (np.asarray(part) for part in data.inputs)
            own = self._algorithm.fitted(component, (obs, action), np.asarray(data.y), rng)
            if own is not None:
                yield own, 1.0, {}, 1
                return
        budget = update.budget
        if budget.reset:
            component = getattr(self._first, update.component)
            state = update.optimizer.init(component)
        # The compiled steps take their buffers over: what was handed in must survive an interrupted iteration.
        component, state = jax.tree.map(jnp.array, (component, state))
        size = jax.tree.leaves(data)[0].shape[0]
        order = rng.permutation(size)
        held = order[: int(budget.held_out * size)]
        kept = np.sort(order[len(held) :])
        minibatch = min(budget.minibatch or len(kept), len(kept))
        best, best_component, waited, figures = np.inf, None, 0, {}
        for epoch in range(budget.epochs):
            epoch_key = jax.random.fold_in(key, epoch)
            steps = len(kept) // minibatch
            order = rng.permutation(kept) if minibatch < len(kept) else kept
            for first, count in _calls(steps, self._grows):
                picked = order[first * minibatch : (first + count) * minibatch].reshape(count, minibatch)
                block = jax.tree.map(lambda leaf, picked=picked: leaf[picked], data)
                step_keys = jax.random.split(jax.random.fold_in(epoch_key, first), count)
                component, state, figures = self._steps[index](component, state, nets, block, step_keys)
                yield component, (epoch + first / steps) / budget.epochs, {}, count
            if len(held):
                loss = float(self._loss[index](component, nets, jax.tree.map(lambda leaf: leaf[held], data), epoch_key))
                if loss < best:
                    best, best_component, waited = loss, jax.tree.map(jnp.array, component), 0
                else:
                    waited += 1
                if budget.patience is not None and waited >= budget.patience:
                    break
        if best_component is not None:
            component = best_component
        states[index] = state
        named = {f"{update.component}/{name}": float(value) for name, value in figures.items()}
        if len(held):
            named[f"{update.component}/held_out_loss"] = best
        yield component, 1.0, named, 0

    # ------------------------------------------------------------------ what is said of an iteration

    def _changes(
        self, before: Approximators, nets: Approximators, probe: np.ndarray, solutions: Solutions, n: int
    ) -> dict[str, float]:
        """δ_q = mean_D |q_{n+1} − q_n|; δ_d = mean ‖π_{n+1} − a*‖ on B_opt; the controller's change, in half-widths."""
        obs, action = self._inputs(probe)
        old, new = (_values(one.critic, obs, action) for one in (before, nets))
        half_width = np.asarray(self.action_set.half_width, np.float32)
        figures = {"delta_q": float(np.abs(new - old).mean())}
        if nets.policy is None:
            if self._fqi.greedy is not None:
                moved = solutions.action - self._solutions.action
                figures["policy_change"] = float(np.abs(moved / half_width).mean())
            return figures
        moved = _modes(nets.policy, obs) - _modes(before.policy, obs)
        figures["policy_change"] = float(np.abs(moved / half_width).mean())
        if any(isinstance(update.loss, Imitate) for update in self._fqi.updates):
            rows = solutions.since(n)[:PROBES]
            error = _modes(nets.policy, self._next_obs(rows)) - solutions.action[rows] if len(rows) else np.zeros(1)
            figures["delta_d"] = float(np.abs(error / half_width).mean())
        return figures

    def _target_figures(self, target: AbstractTarget, nets: Approximators, y: np.ndarray) -> dict[str, float]:
        """max |y| beside the largest value that rewards allow, where one is known: above it the iteration diverges."""
        largest = max(abs(bound) for bound in target.value_range(nets, self._reward_range))
        figures = {"max_abs_target": float(np.abs(y).max())}
        return figures | {"largest_value": largest} if np.isfinite(largest) else figures

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

    def _start(self) -> Approximators:
        """The first approximators."""
        check_memory(self._algorithm, self.obs_size, self.action_set, CHUNK)
        key = jax.random.key_data(jax.random.key(self._seed))
        nets = self._algorithm.networks(self.obs_size, self.action_set, key)
        nets = strong(jax.tree.map(jnp.asarray, nets))
        sample = self._rows(np.arange(min(self._rows.size, PROBES)))
        return self._algorithm.prepared(nets, self._inputs(sample))

    def _inputs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(s, a) of packed rows."""
        return rows[:, : self.obs_size], rows[:, self.obs_size : self.obs_size + self.action_set.size]

    def _fresh_optimizers(self) -> tuple[Any, ...]:
        return tuple(update.optimizer.init(getattr(self._first, update.component)) for update in self._fqi.updates)

    def _next_obs(self, rows: np.ndarray) -> np.ndarray:
        start = self.obs_size + self.action_set.size
        return np.ascontiguousarray(self._rows(rows)[:, start : start + self.obs_size])

    def nets(self) -> Approximators:
        return self._nets

    def moments(self) -> RunningMoments | None:
        return self._rows.moments

    def seen_obs(self, count: int) -> np.ndarray:
        return self._rows(spread(np.arange(self._rows.size), count))[:, : self.obs_size]

    def snapshot(self) -> Snapshot:
        arrays = {
            **to_arrays("nets", self._nets),
            **to_arrays("optimizers", self._optimizer_states),
            **{f"solutions/{name}": array for name, array in vars(self._solutions).items()},
        }
        meta = {"step": self.step, "updates": self.updates, "metrics": self._metrics, "finished": self.finished}
        return Snapshot(arrays, meta, {})

    def restore(self, arrays: Arrays, meta: dict[str, Any], rows: dict[str, RowLog]) -> bool:
        self.step, self.updates = meta["step"], meta["updates"]
        self._metrics, self.finished = meta["metrics"], meta["finished"]
        self._nets = from_arrays("nets", self._algorithm.sized(self._first, arrays), arrays)
        self._nets = jax.tree.map(jnp.asarray, self._nets)
        self._optimizer_states = jax.device_put(from_arrays("optimizers", self._optimizer_states, arrays))
        self._solutions = Solutions(**below("solutions/", arrays)).copy()
        self._work = None
        return True

    def close(self) -> None:
        self._work = None


def _label(update: Update, nets: Any, frozen: Any, rows: Any, action: Any, solved: Any, key: Any) -> Any:
    obs_size = (rows.shape[1] - nets.critic.action_set.size - 3) // 2
    batch = Transition.unpack(rows, obs_size, nets.critic.action_set.size)
    greedy = None if action is None else Greedy(action, jnp.zeros(rows.shape[0]), solved)
    return update.label(nets, frozen, batch, greedy, key)


def _steps(update: Update, component: Any, state: Any, nets: Any, block: Any, keys: Any) -> Any:
    """One gradient step per minibatch of `block` [K, b, …]."""

    def step(carry: Any, inputs: Any) -> Any:
        rows, key = inputs
        component, state, figures = update.gradient_step(carry[0], carry[1], nets, rows, key)
        return (component, state), figures

    (component, state), figures = jax.lax.scan(step, (component, state), (block, keys))
    return strong(component), strong(state), jax.tree.map(lambda leaf: leaf[-1], figures)


def _loss(update: Update, component: Any, nets: Any, data: Any, key: Any) -> Any:
    return update.loss(component, nets, data, key)[0]


@jax.jit
def _gap(nets: Any, obs: Any, action: Any) -> Any:
    """q at an action less q at the policy's."""
    q = nets.critic.least
    return q(obs, action) - q(obs, nets.policy.act(obs, jnp.zeros_like(action)))


@jax.jit
def _chunk_values(critic: Any, obs: Any, action: Any) -> Any:
    return critic.least(obs, action)


@jax.jit
def _chunk_modes(policy: Any, obs: Any) -> Any:
    return policy.act(obs, jnp.zeros((obs.shape[0], policy.action_set.size), obs.dtype))


def _values(critic: Any, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [
            np.asarray(_chunk_values(critic, _filled(obs[part]), _filled(action[part])))[: len(part)]
            for part in _chunks(np.arange(len(obs)))
        ]
    )


def _modes(policy: Any, obs: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [np.asarray(_chunk_modes(policy, _filled(obs[part])))[: len(part)] for part in _chunks(np.arange(len(obs)))]
    )


def _solver(greedy: Any) -> Any:
    """The solver inside a greedy step, or None."""
    return greedy if isinstance(greedy, Solved) else greedy.solver if isinstance(greedy, PartlySolved) else None


def _amortized(greedy: Any) -> Any:
    """The policy inside a greedy step."""
    return greedy.amortized if isinstance(greedy, PartlySolved) else greedy


def _chunks(indices: np.ndarray) -> Iterator[np.ndarray]:
    return (indices[first : first + CHUNK] for first in range(0, len(indices), CHUNK))


def _filled(rows: np.ndarray) -> np.ndarray:
    """`rows` filled up to a whole chunk (few: to a power of two) with copies of the last: chunks share a shape."""
    size = min(CHUNK, 1 << (len(rows) - 1).bit_length()) if len(rows) else 1
    return (
        rows
        if len(rows) == size
        else np.concatenate([rows, np.broadcast_to(rows[-1:], (size - len(rows), *rows.shape[1:]))])
    )


def _calls(steps: int, one_by_one: bool) -> Iterator[tuple[int, int]]:
    """(first, count) of each compiled call over `steps` gradient steps."""
    whole = steps - steps % STEPS_PER_CALL if one_by_one else steps
    yield from ((first, min(STEPS_PER_CALL, whole - first)) for first in range(0, whole, STEPS_PER_CALL))
    yield from ((first, 1) for first in range(whole, steps))


def below(prefix: str, arrays: Arrays) -> Arrays:
    """The arrays whose names begin so, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
