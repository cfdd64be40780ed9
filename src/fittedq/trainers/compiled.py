"""Training in a JAX environment: acting, stepping and learning in one compiled loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fittedq.acting.noise import explore
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.approx.host import to_host
from fittedq.arrays import strong
from fittedq.data.replay import DeviceReplay, ring_log
from fittedq.data.returns import joined_steps, next_action
from fittedq.data.segments import RowLog
from fittedq.data.statistics import ReturnScale, RunningMoments
from fittedq.envs.native import AbstractJaxEnv, EnvState, auto_reset
from fittedq.envs.simulator import SimulatorModel
from fittedq.errors import UserError
from fittedq.template.fqi import LearnerState
from fittedq.trainers.base import AbstractTrainer, Progress, Snapshot, never
from fittedq.trainers.divergence import Watch
from fittedq.trainers.learner import MEASURED_ROWS, measured
from fittedq.trainers.resets import resetting
from fittedq.trainers.rows import evenly, normalize_rows
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
from fittedq.trainers.translated import translating
from fittedq.types import REWARD, Components, DrawnRows, Transition, needed


class LoopState(eqx.Module):
    """Everything of a compiled run."""

    learner: LearnerState
    env: EnvState
    obs: Array
    noise: Array
    replay: DeviceReplay
    moments: RunningMoments
    scale: ReturnScale | None
    """None where rewards are not scaled."""
    episode_return: Array
    key: Array
    step: Array


class CompiledTrainer(AbstractTrainer):
    """A JAX environment, the replay and the learner in one compiled loop."""

    translates: ClassVar[bool] = True

    def __init__(
        self,
        algorithm: AbstractAlgorithm,
        env: AbstractJaxEnv,
        settings: TrainSettings,
        seed: int,
        action_set: AbstractActionSet | None = None,
    ):
        if settings.asynchronous:
            raise UserError(
                "setting asynchronous: found true, expected false for a JAX environment, which is compiled."
            )
        if settings.rule is not None:
            raise UserError(
                f"setting replay: found {settings.replay}, expected uniform for a JAX environment, whose replay is "
                "compiled; use the Gymnasium one."
            )
        if settings.assess_episodes:
            raise UserError(
                f"setting assess_episodes: found {settings.assess_episodes}, expected 0 for a JAX environment, whose "
                "loop is compiled; use the Gymnasium one."
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
        self._fqi, learner = initial_state(
            algorithm, self.obs_size, self.action_set, settings.batch_size, seed, settings
        )
        check_collects(algorithm, learner.nets)
        self._reset = resetting(algorithm, self._fqi, self.obs_size, self.action_set, settings, seed)
        self.watch = Watch(algorithm, self._fqi, self.action_set, settings.scale_rewards)
        reset_key, loop_key = jax.random.split(jax.random.key_data(jax.random.key(seed + 1)))
        state, obs = jax.jit(jax.vmap(env.reset))(jax.random.split(reset_key, settings.n_envs))
        check_model(learner.nets, obs, state.inner)
        self._simulator = learner.nets.model.simulator if isinstance(learner.nets.model, SimulatorModel) else None
        if self._simulator is not None and algorithm.measure_every:
            raise UserError(
                f"setting dynamics: the observation of {type(env).__name__} does not hold its state, so gradients and "
                "model are not measured by horizon; set a number for horizon, and leave health_every out."
            )
        scale = None
        if settings.scale_rewards:
            scale = ReturnScale.start(settings.n_envs, algorithm.discount, settings.return_bound)
        self._state = strong(
            LoopState(
                learner=learner,
                env=state,
                obs=obs,
                noise=jnp.zeros((settings.n_envs, self.action_set.size)),
                replay=DeviceReplay.empty(settings.replay_size, self._width + self._stored),
                moments=jax.tree.map(jnp.asarray, RunningMoments.start(self.obs_size, self.action_set.reads or ())),
                scale=jax.tree.map(jnp.asarray, scale),
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
        policy = needed(state.learner.nets.policy)
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
        if self._simulator is not None:
            rows = jnp.concatenate([rows, jax.vmap(self._simulator.flat)(state.env.inner)], axis=1)
        replay = state.replay.add(jnp.asarray(rows))
        moments = state.moments.update(next_obs) if settings.normalize_obs else state.moments
        done = terminated | truncated
        scale = None if state.scale is None else state.scale.update(reward, done)
        episode_return = state.episode_return + reward

        def update(learner: LearnerState, key: Array) -> tuple[LearnerState, None]:
            rows, drawn = self._draw(replay, key)
            batch = Transition.unpack(rows, self.obs_size, action_set.size)
            read = moments if settings.normalize_obs else None
            if read is not None:
                batch = batch._replace(obs=read.normalize(batch.obs), next_obs=read.normalize(batch.next_obs))
            if scale is not None:
                batch = batch._replace(reward=batch.reward / scale.scale)
            learn = partial(self._fqi.learn, batch=batch, drawn=drawn)
            return self._renewed(translating(learn, learner, read, None if scale is None else scale.scale)), None

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
            scale=scale,
            episode_return=jnp.where(done, 0.0, episode_return),
            key=state.key,
            step=state.step + 1,
        )
        finite = jnp.isfinite(next_obs).all() & jnp.isfinite(reward).all()
        return strong(state), (ended, finite, reward.min(), reward.max())

    def _renewed(self, learner: LearnerState) -> LearnerState:
        if self._reset is None:
            return learner
        due = learner.step % self._settings.reset_every == 0
        return jax.lax.cond(due, self._reset, lambda learner: learner, learner)

    def _draw(self, replay: DeviceReplay, key: Array) -> tuple[Array, DrawnRows | None]:
        """Packed rows, and what they have beside their transitions."""
        settings, width = self._settings, self._width
        if self._fqi.reads_next_action:
            both, come = replay.stretches(key, settings.batch_size, 2, settings.n_envs)
            acted = next_action(both, come, self.obs_size, self.action_set.size)
            return both[:, 0], DrawnRows(next_action=jnp.asarray(acted))
        if settings.n_step == 1:
            rows = replay.sample(key, settings.batch_size)
            return (rows[:, :width], DrawnRows(state=rows[:, width:])) if self._stored else (rows, None)
        rows, come = replay.stretches(key, settings.batch_size, settings.n_step, settings.n_envs)
        joint, discount = joined_steps(rows, come, self._algorithm.discount, self.obs_size, self.action_set.size)
        return jnp.asarray(joint), DrawnRows(discount=discount)

    @property
    def _width(self) -> int:
        """Columns of a packed row."""
        return Transition.width(self.obs_size, self.action_set.size)

    @property
    def _stored(self) -> int:
        """Further columns of the replay: the environment's own state, from which rollouts start."""
        return 0 if self._simulator is None else self._simulator.size

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
        rows, moments = self._state.replay.newest(MEASURED_ROWS)[:, : self._width], self.moments()
        if moments is not None:
            normalize_rows(rows, moments, self.obs_size, self.action_set.size)
        rows[..., REWARD] /= self.reward_scale

        def measure(learner: LearnerState) -> LearnerState:
            learner, self._figures = measured(
                self._algorithm, learner, rows, self._settings.n_envs, self.obs_size, self._seed
            )
            return learner

        scale = None if self._state.scale is None else self._state.scale.scale
        learner = translating(measure, self._state.learner, moments, scale)
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
        self.watch.see(np.array([np.min(low), np.max(high)]))
        self.step += length * self._settings.n_envs
        self.updates = int(self._state.learner.step)
        returns = [float(value) for value in np.asarray(ended).ravel() if np.isfinite(value)]
        self.episodes += len(returns)
        return returns

    def nets(self) -> Components:
        return self._state.learner.nets

    def preferred(self) -> Components:
        return self._state.learner.mean

    @property
    def acts_by(self) -> str:
        return self._fqi.acts_by(self.updates)

    def begin_with(self, nets: Components, moments: RunningMoments | None) -> None:
        learner = begun_with(self._fqi, self._state.learner, nets)
        kept = self._state.moments if moments is None else jax.tree.map(jnp.asarray, moments)
        self._state = eqx.tree_at(lambda state: (state.learner, state.moments), self._state, (learner, kept))

    def moments(self) -> RunningMoments | None:
        return to_host(self._state.moments) if self._settings.normalize_obs else None

    @property
    def reward_scale(self) -> float:
        return 1.0 if self._state.scale is None else float(self._state.scale.scale)

    def seen_obs(self, count: int) -> np.ndarray:
        replay, moments = self._state.replay, self.moments()
        obs = evenly(np.asarray(replay.rows[: int(replay.size)]), count)[:, : self.obs_size]
        return obs if moments is None else np.asarray(moments.normalize(obs))

    def seen_rows(self, count: int) -> Transition:
        replay = self._state.replay
        rows = evenly(np.asarray(replay.rows[: int(replay.size)]), count)
        return Transition.unpack(rows, self.obs_size, self.action_set.size)

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
