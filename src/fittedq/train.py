"""Collect and learn: the loop around the template, as a generator.

`HostTrainer` steps Gymnasium environments on the host and sends packed batches to the compiled learner;
`CompiledTrainer` compiles environment, replay and learner into one loop. Both can say all there is to say of
themselves (`snapshot`) and take it back (`restore`), bit for bit.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from fittedq import memory
from fittedq.algorithms.base import Algorithm
from fittedq.approx.host import HostCopy, host_view, to_host
from fittedq.approx.models import KnownModel
from fittedq.data.dataset import Dataset
from fittedq.data.replay import DeviceReplay, Replay, ring_log
from fittedq.data.segments import RowLog
from fittedq.data.statistics import RunningMoments
from fittedq.divergence import Watch
from fittedq.envs.gym import GymSource
from fittedq.envs.native import AbstractJaxEnv, EnvState, auto_reset
from fittedq.errors import UserError
from fittedq.noise import explore
from fittedq.packing import Packing
from fittedq.settings import check, setting
from fittedq.template import FQI, LearnerState
from fittedq.types import AbstractActionSet, Approximators, Arr, Transition

Arrays = dict[str, np.ndarray]


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
    asynchronous: bool = setting(False, "one process per environment (pays for slow environments only)")
    env_timeout: float = setting(300.0, "seconds an asynchronous environment may take for one step", above=0.0)
    chunk: int = setting(
        1, "environment steps between calls of the learner; above 1 the policy acts slightly stale", low=1
    )
    normalize_obs: bool = setting(False, "normalize observations by their running mean and deviation")

    def __post_init__(self) -> None:
        check(self)
        memory.require(LEAST_ENV_BYTES * self.n_envs, f"setting n_envs: {self.n_envs:,} environments", "choose fewer")

    @property
    def updates_per_call(self) -> int:
        """Updates in one call of the compiled learner: a whole number, so that one shape is compiled."""
        return max(1, math.floor(self.chunk * self.n_envs * self.updates_per_step))


@dataclass
class Progress:
    """Where a run is, after each report interval."""

    step: int
    updates: int
    episodes: int
    returns: list[float]
    """Returns of the episodes that ended in this interval."""
    metrics: dict[str, float] = field(default_factory=dict)
    fraction: float = 0.0
    """How much of the next step is done, where a step is long."""


class Snapshot(NamedTuple):
    """The whole state of a run."""

    arrays: Arrays
    meta: dict[str, Any]
    """JSON."""
    rows: dict[str, RowLog]
    """What only grows."""


def never() -> bool:
    """The stop condition of a run that nobody interrupts."""
    return False


EXAMINED = 64
"""States in which a component without a gradient is looked at."""


class AbstractTrainer(abc.ABC):
    """A run that can be advanced, looked at, saved and brought back."""

    step: int
    updates: int
    obs_size: int
    action_set: AbstractActionSet
    finished: str | None = None
    """Why there is nothing left to do, in words."""
    watch: Watch
    """The rewards seen, and what is to be said of them and of the figures."""

    @abc.abstractmethod
    def advance(self, steps: int, stop: Callable[[], bool] = never) -> Progress:
        """Take about `steps` environment steps (whole vector steps and chunks) and the updates that go with them,
        fewer where `stop()` turns true. A UserError where learning has diverged: no state that is not finite is ever
        reported, evaluated or saved."""

    def examined(self, state: LearnerState) -> dict[str, float]:
        """The figures of a learner's state on the host; a UserError where learning has diverged."""
        figures = self.watch.check(state)
        for component in self.watch.still(figures):
            self.watch.judge_spread(component, state.nets, self.seen_obs(EXAMINED))
        return figures

    @abc.abstractmethod
    def nets(self) -> Approximators:
        """The live approximators."""

    @abc.abstractmethod
    def moments(self) -> RunningMoments | None:
        """The normalization of observations, where there is one."""

    @abc.abstractmethod
    def seen_obs(self, count: int) -> np.ndarray:
        """Up to `count` of the states it learns from, spread evenly, as its networks see them [b, s]."""

    @abc.abstractmethod
    def snapshot(self) -> Snapshot:
        """The whole state of the run; its rows are views, good until it goes on."""

    @abc.abstractmethod
    def restore(self, arrays: Arrays, meta: dict[str, Any], rows: dict[str, RowLog]) -> bool:
        """Take a snapshot back; False where the environment could not be brought back exactly."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the environments."""


def train(
    trainer: AbstractTrainer, steps: int, report_every: Sequence[int] = (1_000,), stop: Callable[[], bool] = never
) -> Iterator[Progress]:
    """Advance `trainer` to `steps` steps in all, or until it has finished, or until `stop()`.

    Reports at the multiples of every number in `report_every`.
    """
    while trainer.step < steps and trainer.finished is None and not stop():
        next_report = min((trainer.step // every + 1) * every for every in report_every)
        yield trainer.advance(min(next_report, steps) - trainer.step, stop)


def initial_state(
    algorithm: Algorithm, obs_size: int, action_set: AbstractActionSet, batch_size: int, seed: int
) -> tuple[FQI, LearnerState]:
    """The template and the first learner state; compiled, since eager initialization takes seconds."""
    check_memory(algorithm, obs_size, action_set, batch_size, f" and batch_size = {batch_size:,}")
    fqi = algorithm.template(action_set)
    rows = jnp.zeros((batch_size, Transition.width(obs_size, action_set.size)))

    def init(key: Any) -> LearnerState:
        nets_key, learner_key = jax.random.split(key)
        nets = algorithm.networks(obs_size, action_set, nets_key)
        return strong(fqi.init(nets, learner_key, Transition.unpack(rows, obs_size, action_set.size)))

    return fqi, jax.jit(init)(jax.random.key_data(jax.random.key(seed)))


def check_memory(
    algorithm: Algorithm, obs_size: int, action_set: AbstractActionSet, batch: int, words: str = ""
) -> None:
    """A UserError where the algorithm's networks and a batch of so many rows need more memory than there is."""
    layers = algorithm.layers(obs_size, action_set.size)
    rows = batch * algorithm.actions_per_state
    size = memory.networks(layers, rows) + 4 * batch * Transition.width(obs_size, action_set.size)
    widths = ", ".join(f"{members:,} of {' × '.join(f'{width:,}' for width in shape)}" for members, shape in layers)
    memory.require(size, f"training networks ({widths}){words}", "choose smaller ones")


def check_model(nets: Approximators, obs: Any) -> None:
    """Try a known model, if there is one, at first states."""
    if isinstance(nets.model, KnownModel):
        still = np.zeros((len(obs), nets.policy.action_set.size), np.float32)
        nets.model.check(jnp.asarray(obs), nets.policy.action_set.project(jnp.asarray(still), jnp.asarray(obs)))


def strong(tree: Any) -> Any:
    """The same arrays without weak types, which would compile a second program for the same shapes."""
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), tree)


def normalize_rows(rows: np.ndarray, moments: RunningMoments, obs_size: int, action_size: int) -> None:
    """Normalize s and s' of packed rows, in place."""
    end = obs_size + action_size
    for columns in (slice(0, obs_size), slice(end, end + obs_size)):
        rows[..., columns] = moments.normalize(rows[..., columns])


MEASURED = 2_000
"""Newest transitions that a method's own measures see."""


def measured(
    algorithm: Algorithm, state: LearnerState, rows: np.ndarray, stride: int, obs_size: int, seed: int
) -> tuple[LearnerState, dict[str, float]]:
    """The state with what `Algorithm.measure` sets, and its figures; drawn from the step, not from a stream."""
    key = jax.random.fold_in(jax.random.key_data(jax.random.key(seed)), int(state.step))
    seen = Transition.unpack(rows, obs_size, rows.shape[1] - Transition.width(obs_size, 0))
    nets, figures = algorithm.measure(state.nets, seen, stride, key)
    return eqx.tree_at(lambda state: state.nets, state, nets), figures


MAX_UNROLLED = 4
"""Longest pattern of delayed updates that is compiled without branches."""


class Learner:
    """`FQI.learn`, compiled for K batches a call.

    Between calls the state is a few device buffers (`Packing`), donated each time: no tree is rebuilt in the hot loop.
    """

    def __init__(self, fqi: FQI, state: LearnerState, obs_size: int, action_size: int):
        self._fqi = fqi
        self._packing = Packing(state)
        self._buffers = self._packed(state)
        self._host_policy = HostCopy(self._packing, self._buffers, lambda state: state.nets.policy)
        self._policy_every = min((u.budget.every for u in fqi.updates if u.component == "policy"), default=1)
        self._policy_count = self._count = int(state.step)

        self.compilations = 0
        """How many programs were compiled so far: one per shape, and per phase of delayed updates that it starts in."""

        self._period = fqi.period if fqi.period <= MAX_UNROLLED else 1
        """Programs are compiled for each phase of the period, and loops unrolled over it, so that none branches."""

        def run(buffers: list[Any], rows: Any, phase: int | None) -> list[Any]:
            self.compilations += 1  # runs when JAX traces, which it does once per program

            def learn(state: LearnerState, rows: Any) -> tuple[LearnerState, None]:
                for index in range(rows.shape[0]):
                    now = None if phase is None else (phase + index) % self._period
                    state = fqi.learn(state, Transition.unpack(rows[index], obs_size, action_size), now)
                return state, None

            state = self._packing.unpack(buffers)
            groups, rest = divmod(rows.shape[0], self._period)
            if groups > 1:
                grouped = rows[: groups * self._period].reshape(groups, self._period, *rows.shape[1:])
                state, _ = jax.lax.scan(learn, state, grouped)
                state, _ = learn(state, rows[rows.shape[0] - rest :])
            else:
                state, _ = learn(state, rows)
            return self._packing.pack(strong(state))

        self._run = jax.jit(run, donate_argnums=0, static_argnums=2)

    def learn(self, rows: np.ndarray) -> None:
        """One iteration per batch of `rows` [K, b, width]; returns before it is done."""
        # A period too long to unroll is left to branches in the program.
        phase = (self._count + 1) % self._period if self._period == self._fqi.period else None
        self._buffers = self._run(self._buffers, rows, phase)
        self._count += rows.shape[0]

    @property
    def group(self) -> int:
        """Batches that are best learned from in one call: those of a delayed policy's period, where it is short."""
        return self._policy_every if self._policy_every <= MAX_UNROLLED else 1

    def policy_due(self, batches: int) -> bool:
        """Whether the last of so many more batches updates the policy."""
        return (self._count + batches) % self._policy_every == 0

    def wait(self) -> None:
        """Return when the last call is done."""
        jax.block_until_ready(self._buffers)

    def host_state(self) -> LearnerState:
        """The state with NumPy leaves."""
        # Copies: a view of a device buffer would keep it from being donated.
        return self._packing.unpack([np.array(buffer) for buffer in self._buffers])

    @property
    def state(self) -> LearnerState:
        return jax.device_put(self.host_state())

    @state.setter
    def state(self, state: LearnerState) -> None:
        self._buffers, self._count = self._packed(state), int(state.step)
        self._host_policy.refresh(self._buffers)
        self._policy_count = self._count

    def _packed(self, state: LearnerState) -> list[Any]:
        # `device_put` may alias NumPy's memory, which must not be donated.
        return [jnp.array(buffer, copy=True) for buffer in self._packing.pack(to_host(state))]

    def host_policy(self) -> Any:
        """The newest policy, for acting in NumPy: always the same object, refreshed.

        Waits for the learner, unless the policy was not due for an update since: then acting goes on meanwhile.
        """
        if self._count // self._policy_every > self._policy_count // self._policy_every:
            self._host_policy.refresh(self._buffers)
            self._policy_count = self._count
        return self._host_policy.view

    def metrics(self) -> dict[str, float]:
        return self._fqi.logs(self.host_state())


class HostTrainer(AbstractTrainer):
    """Gymnasium on the host, the learner compiled; with `chunk = 1` every action is the newest policy's."""

    def __init__(
        self, algorithm: Algorithm, source: GymSource, settings: TrainSettings, seed: int, data: Dataset | None = None
    ):
        self.step, self.updates, self.episodes = 0, 0, 0
        self.obs_size, self.action_set = source.obs_size, source.action_set
        self._algorithm, self._source, self._settings, self._seed = algorithm, source, settings, seed
        self._figures: dict[str, float] = {}
        self._exploration, self._host_set = host_view(algorithm.exploration()), host_view(self.action_set)
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
        width = Transition.width(self.obs_size, self.action_set.size)
        self._replay = Replay(settings.replay_size, width)
        memory.require(
            4 * settings.updates_per_call * settings.batch_size * width,
            f"settings chunk, n_envs, updates_per_step and batch_size: {settings.updates_per_call:,} batches of "
            f"{settings.batch_size:,} rows at once",
            "choose smaller ones",
        )
        self._moments = RunningMoments.start(self.obs_size) if settings.normalize_obs else None
        fqi, state = initial_state(algorithm, self.obs_size, self.action_set, settings.batch_size, seed)
        check_model(state.nets, source.obs)
        self.watch = Watch(algorithm, fqi, self.action_set)
        if data is not None:
            self._begin_with(data)
        self._noise = np.zeros((source.n_envs, self.action_set.size), np.float32)
        self._owed = 0.0
        self.learner = Learner(fqi, state, self.obs_size, self.action_set.size)
        self._policy = self.learner.host_policy()
        self._waiting: list[np.ndarray] = []
        """Batches drawn but not yet learned from: between its delayed updates the policy does not need them."""
        self._no_batch = np.empty((0, settings.batch_size, width), np.float32)

    def advance(self, steps: int, stop: Callable[[], bool] = never) -> Progress:
        returns: list[float] = []
        until = self.step + steps
        while self.step < until and not stop():
            before = self.step
            for _ in range(self._settings.chunk):
                returns += self._collect()
            self._learn()
            self._measure(before)
        figures = self.examined(self.learner.host_state()) | self._figures
        return Progress(self.step, self.updates, self.episodes, returns, figures)

    def _measure(self, before: int) -> None:
        every = self._algorithm.measure_every
        if not every or self.updates == 0 or before // every == self.step // every:
            return
        self._flush()
        rows = self._replay.newest(MEASURED)
        if self._moments is not None:
            normalize_rows(rows, self._moments, self.obs_size, self.action_set.size)
        self.learner.state, self._figures = measured(
            self._algorithm, self.learner.state, rows, self._source.n_envs, self.obs_size, self._seed
        )

    def _begin_with(self, data: Dataset) -> None:
        """Fill the replay with a dataset's newest rows."""
        if (data.obs_size, data.action_set) != (self.obs_size, self.action_set):
            raise UserError(
                f"dataset: its observations have {data.obs_size} numbers and its actions lie in {data.action_set}, the "
                f"environment has {self.obs_size} and {self.action_set}; use the environment it was taken from."
            )
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

    def _learn(self) -> None:
        if self.step < self._settings.random_steps or self._replay.size == 0:
            return
        per_call = self._settings.updates_per_call
        self._owed += self._settings.chunk * self._source.n_envs * self._settings.updates_per_step
        if self._owed < per_call:
            return
        while self._owed >= per_call:
            rows = self._replay.sample(self._rng, per_call, self._settings.batch_size)
            if self._moments is not None:
                normalize_rows(rows, self._moments, self.obs_size, self.action_set.size)
            self._waiting.append(rows)
            self._owed -= per_call
            if per_call > 1 or self.learner.group == 1 or self.learner.policy_due(len(self._waiting)):
                self._flush()

    def _flush(self) -> None:
        """Learn from what waits: a whole group in one call, else batch by batch, so that few shapes are compiled.

        Programs of other shapes round otherwise. So when to flush is a function of the step alone, not of reports or of
        when a run is stopped: what waits is part of the state.
        """
        if len(self._waiting) == self.learner.group > 1:
            self._waiting = [np.concatenate(self._waiting)]
        for rows in self._waiting:
            self.learner.learn(rows)
            self.updates += len(rows)
        self._waiting.clear()
        self._policy = self.learner.host_policy()

    def nets(self) -> Approximators:
        return self.learner.state.nets

    def moments(self) -> RunningMoments | None:
        return self._moments

    def seen_obs(self, count: int) -> np.ndarray:
        obs = spread(self._replay.content(), count)[:, : self.obs_size]
        return obs if self._moments is None else np.asarray(self._moments.normalize(obs))

    def snapshot(self) -> Snapshot:
        source_arrays, source_meta = self._source.snapshot()
        state = self.learner.host_state()
        self.watch.check(state)
        arrays = {
            **to_arrays("learner", state),
            **{f"source/{name}": array for name, array in source_arrays.items()},
            "noise": self._noise,
            "waiting": np.concatenate([self._no_batch, *self._waiting]),
        }
        if self._moments is not None:
            arrays |= to_arrays("moments", self._moments)
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
        return Snapshot(arrays, meta, {"replay": self._replay.log()})

    def restore(self, arrays: Arrays, meta: dict[str, Any], rows: dict[str, RowLog]) -> bool:
        self.step, self.updates, self.episodes = meta["step"], meta["updates"], meta["episodes"]
        self.watch.see(meta["rewards"])
        self._owed, self._figures = meta["owed"], meta["figures"]
        self._rng.bit_generator.state = meta["rng"]
        self._replay.restore(rows["replay"])
        self._noise = arrays["noise"].copy()
        self._waiting = [batch[None].copy() for batch in arrays["waiting"]]
        if self._moments is not None:
            self._moments = from_arrays("moments", self._moments, arrays)
        self.learner.state = from_arrays("learner", self.learner.host_state(), arrays)
        self._policy = self.learner.host_policy()
        prefix = "source/"
        source_arrays = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        exact = self._source.restore(source_arrays, meta["source"])
        if not exact:
            self._noise[:] = 0.0
        return exact

    def close(self) -> None:
        self._source.close()


class LoopState(eqx.Module):
    """Everything of a compiled run."""

    learner: LearnerState
    env: EnvState
    obs: Any
    noise: Any
    replay: DeviceReplay
    moments: RunningMoments
    episode_return: Any
    key: Any
    step: Any


class CompiledTrainer(AbstractTrainer):
    """A JAX environment, the replay and the learner in one compiled loop."""

    def __init__(
        self,
        algorithm: Algorithm,
        env: AbstractJaxEnv,
        settings: TrainSettings,
        seed: int,
        action_set: AbstractActionSet | None = None,
    ):
        if settings.asynchronous:
            raise UserError(
                "setting asynchronous: found true, expected false for a JAX environment, which is compiled."
            )
        self._updates_per_step = settings.n_envs * settings.updates_per_step
        if self._updates_per_step % 1:
            raise UserError(
                f"setting updates_per_step: {settings.updates_per_step:g} with n_envs = {settings.n_envs} gives "
                f"{self._updates_per_step:g} updates per compiled step, expected a whole number; adjust one of them."
            )
        self.step, self.updates, self.episodes = 0, 0, 0
        self.obs_size, self.action_set = env.obs_size, action_set or env.action_set
        self._algorithm, self._env, self._settings, self._seed = algorithm, env, settings, seed
        self._figures: dict[str, float] = {}
        self._exploration = algorithm.exploration()
        self._fqi, learner = initial_state(algorithm, self.obs_size, self.action_set, settings.batch_size, seed)
        self.watch = Watch(algorithm, self._fqi, self.action_set)
        reset_key, loop_key = jax.random.split(jax.random.key_data(jax.random.key(seed + 1)))
        state, obs = jax.jit(jax.vmap(env.reset))(jax.random.split(reset_key, settings.n_envs))
        check_model(learner.nets, obs)
        self._state = strong(
            LoopState(
                learner=learner,
                env=state,
                obs=obs,
                noise=jnp.zeros((settings.n_envs, self.action_set.size)),
                replay=DeviceReplay.empty(settings.replay_size, Transition.width(self.obs_size, self.action_set.size)),
                moments=jax.tree.map(jnp.asarray, RunningMoments.start(self.obs_size)),
                episode_return=jnp.zeros(settings.n_envs),
                key=loop_key,
                step=jnp.zeros((), jnp.int32),
            )
        )
        self.compilations = 0
        """How many programs were compiled so far: one per length of `advance`."""
        self._run = jax.jit(self._scan, static_argnums=1, donate_argnums=0)

    def _scan(self, state: LoopState, length: int) -> tuple[LoopState, Any]:
        self.compilations += 1  # runs when JAX traces, which it does once per program
        return jax.lax.scan(lambda state, _: self._iterate(state), state, None, length)

    def _iterate(self, state: LoopState) -> tuple[LoopState, Any]:
        settings, action_set = self._settings, self.action_set
        random_key, act_key, env_key, sample_key = jax.random.split(jax.random.fold_in(state.key, state.step), 4)
        obs = state.moments.normalize(state.obs) if settings.normalize_obs else state.obs
        unit = jax.random.uniform(random_key, state.noise.shape, minval=-1, maxval=1)
        normal = jax.random.normal(act_key, state.noise.shape)
        policy = state.learner.nets.policy
        noise, eta = self._exploration.step(state.noise, normal)
        if self._exploration.samples_policy:
            exploring = action_set.project(policy.act(obs, normal), obs)
        else:
            exploring = explore(policy.act(obs, jnp.zeros_like(normal)), eta, action_set, obs)
        learning = state.step * settings.n_envs >= settings.random_steps
        action = jnp.where(learning, exploring, action_set.project(action_set.from_unit(unit), obs))
        noise = jnp.where(learning, noise, state.noise)

        env_keys = jax.random.split(env_key, settings.n_envs)
        env, next_obs, reset_obs, reward, terminated, truncated = jax.vmap(auto_reset(self._env))(
            state.env, action, env_keys
        )
        rows = Transition(state.obs, action, reward, next_obs, terminated, truncated).pack()
        replay = state.replay.add(jnp.asarray(rows))
        moments = state.moments.update(next_obs) if settings.normalize_obs else state.moments
        done = terminated | truncated
        episode_return = state.episode_return + reward

        def update(learner: LearnerState, key: Any) -> tuple[LearnerState, None]:
            batch = Transition.unpack(replay.sample(key, settings.batch_size), self.obs_size, action_set.size)
            if settings.normalize_obs:
                obs, next_obs = moments.normalize(batch.obs), moments.normalize(batch.next_obs)
                batch = batch._replace(obs=obs, next_obs=next_obs)
            return self._fqi.learn(learner, batch), None

        now = (state.step + 1) * settings.n_envs >= settings.random_steps
        keys = jax.random.split(sample_key, int(self._updates_per_step))
        learner = jax.lax.cond(
            now, lambda learner: jax.lax.scan(update, learner, keys)[0], lambda learner: learner, state.learner
        )
        ended = jnp.where(done, episode_return, jnp.nan)
        state = LoopState(
            learner=learner,
            env=env,
            obs=reset_obs,
            noise=jnp.where(done[:, None], 0.0, noise),
            replay=replay,
            moments=moments,
            episode_return=jnp.where(done, 0.0, episode_return),
            key=state.key,
            step=state.step + 1,
        )
        finite = jnp.isfinite(next_obs).all() & jnp.isfinite(reward).all()
        return strong(state), (ended, finite, reward.min(), reward.max())

    def advance(self, steps: int, stop: Callable[[], bool] = never) -> Progress:
        # Compiled loops: they end soon, and `stop` is asked between them.
        returns: list[float] = []
        until, every = self.step + steps, self._algorithm.measure_every
        while self.step < until and not stop():
            before = self.step
            next_measure = (before // every + 1) * every if every else until
            returns += self._loop(-(-(min(until, next_measure) - before) // self._settings.n_envs))
            if every and self.updates and before // every < self.step // every:
                self._measure()
        figures = self.examined(to_host(self._state.learner)) | self._figures
        return Progress(self.step, self.updates, self.episodes, returns, figures)

    def _measure(self) -> None:
        rows, moments = self._state.replay.newest(MEASURED), self.moments()
        if moments is not None:
            normalize_rows(rows, moments, self.obs_size, self.action_set.size)
        learner, self._figures = measured(
            self._algorithm, self._state.learner, rows, self._settings.n_envs, self.obs_size, self._seed
        )
        self._state = eqx.tree_at(lambda state: state.learner, self._state, learner)

    def _loop(self, length: int) -> list[float]:
        """So many compiled steps; returns of the episodes that ended."""
        self._state, (ended, finite, low, high) = self._run(self._state, length)
        finite = np.asarray(finite)
        if not finite.all():
            first = (int(np.argmin(finite)) + 1) * self._settings.n_envs
            raise UserError(
                f"environment {type(self._env).__name__}: its observation or reward is not finite at step "
                f"{self.step + first}; correct the environment."
            )
        self.watch.see([np.min(low), np.max(high)])
        self.step += length * self._settings.n_envs
        self.updates = int(self._state.learner.step)
        returns = [float(value) for value in np.asarray(ended).ravel() if np.isfinite(value)]
        self.episodes += len(returns)
        return returns

    def nets(self) -> Approximators:
        return self._state.learner.nets

    def moments(self) -> RunningMoments | None:
        return to_host(self._state.moments) if self._settings.normalize_obs else None

    def seen_obs(self, count: int) -> np.ndarray:
        replay, moments = self._state.replay, self.moments()
        obs = spread(np.asarray(replay.rows[: int(replay.size)]), count)[:, : self.obs_size]
        return obs if moments is None else np.asarray(moments.normalize(obs))

    def snapshot(self) -> Snapshot:
        self.watch.check(to_host(self._state.learner))
        meta = {
            "step": self.step,
            "updates": self.updates,
            "episodes": self.episodes,
            "figures": self._figures,
            "rewards": self.watch.seen(),
        }
        # On a CPU a view: the rows are not copied.
        rows = np.asarray(self._state.replay.rows)
        added = self.step // self._settings.n_envs * min(self._settings.n_envs, len(rows))
        return Snapshot(to_arrays("loop", self._without_replay()), meta, {"replay": ring_log(rows, added)})

    def _without_replay(self) -> LoopState:
        return eqx.tree_at(lambda state: state.replay, self._state, None)

    def restore(self, arrays: Arrays, meta: dict[str, Any], rows: dict[str, RowLog]) -> bool:
        self.step, self.updates, self.episodes = meta["step"], meta["updates"], meta["episodes"]
        self._figures = meta["figures"]
        self.watch.see(meta["rewards"])
        state = jax.device_put(from_arrays("loop", self._without_replay(), arrays))
        # Let go of the old rows before the new ones are there.
        self._state = eqx.tree_at(lambda state: state.replay, state, None, is_leaf=lambda node: node is None)
        replay = DeviceReplay.restored(rows["replay"], self._settings.replay_size)
        self._state = eqx.tree_at(lambda state: state.replay, state, replay, is_leaf=lambda node: node is None)
        return True

    def close(self) -> None:
        """Nothing is held outside the arrays."""


def reward_range(data: Dataset) -> tuple[float, float]:
    """(smallest, largest) reward."""
    reward = data.columns["reward"]
    parts = [reward[first : first + 2**20] for first in range(0, len(reward), 2**20)]
    return min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` rows from the first to the last, or all where there are no more."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def to_arrays(prefix: str, tree: Any) -> Arrays:
    """Leaves by `prefix/path`, as copies on the host."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}": np.array(leaf) for path, leaf in leaves
    }


def from_arrays(prefix: str, like: Any, arrays: Arrays) -> Any:
    """The tree of `like`'s shape from `to_arrays`'s output; a UserError for a missing or mis-shaped leaf."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    values = []
    for path, leaf in leaves:
        name = f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
        if name not in arrays:
            raise UserError(f"saved state: {name} is missing; it was saved with other settings or by another version.")
        array = arrays[name]
        if array.shape != np.shape(leaf) or array.dtype != np.asarray(leaf).dtype:
            raise UserError(
                f"saved state: {name} has shape {array.shape} and type {array.dtype}, expected {np.shape(leaf)} and "
                f"{np.asarray(leaf).dtype}; it was saved with other settings."
            )
        values.append(array)
    return jax.tree.unflatten(treedef, values)
