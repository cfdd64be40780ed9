"""One source over Gymnasium: single and vectorized environments, every autoreset mode, exact replay of its state.

A source hands out true transitions: `next_obs` is the observation after the action also at the end of an episode, and
`obs` the one to act on next. Where the library makes the environments, each episode starts from a seed that is a
function of (run seed, environment, episode); with the actions of the running episode that is all it takes to bring an
environment back after a restart, without reading its insides.
"""

from __future__ import annotations

import abc
import contextlib
import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, final

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Bool, Float

from fittedq.actions.base import AbstractActionSet
from fittedq.actions.limits import Limits, narrowed
from fittedq.envs.flat import FlatEnv, action_box, admissible_actions
from fittedq.envs.registry import NamedEnv, name_of
from fittedq.envs.simulator_log import redirect_mujoco
from fittedq.envs.spaces import Spaces, numbers, single_precision, spaces_between
from fittedq.envs.workers import AbstractFleet, Local, Workers
from fittedq.errors import EnvError, UserError

EnvLike = str | NamedEnv | gymnasium.Env | VectorEnv | Callable[[], gymnasium.Env]


class VectorStep(NamedTuple):
    """One step of every environment. Rows outside `valid` are autoreset steps, not transitions."""

    next_obs: Float[np.ndarray, "n s"]
    reward: Float[np.ndarray, "n"]
    terminated: Bool[np.ndarray, "n"]
    truncated: Bool[np.ndarray, "n"]
    valid: Bool[np.ndarray, "n"]
    returns: list[float]
    """Undiscounted returns of the episodes that ended in this step."""


def make_env(env: EnvLike) -> gymnasium.Env:
    """A fresh environment from an id, a callable, or an environment that has a spec."""
    if (named := name_of(env)) is not None:
        return named.make()
    if isinstance(env, gymnasium.Env):
        return _made_again(env)
    if not callable(env):
        raise UserError(f"env: found {type(env).__name__}, expected a Gymnasium id, an environment or a callable.")
    try:
        made = env()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"env: the callable raised {type(error).__name__}: {error}.") from error
    if not isinstance(made, gymnasium.Env):
        raise UserError(f"env: the callable returned {type(made).__name__}, expected a gymnasium.Env.")
    return made


def make_flat(env: EnvLike) -> FlatEnv:
    """A fresh environment in flat vectors."""
    return FlatEnv(make_env(env))


def _made_again(env: gymnasium.Env) -> gymnasium.Env:
    try:
        spec = env.spec
        # A spec cannot make a wrapper that does not record its arguments; a copy has it too.
        if spec is None or any(wrapper.kwargs is None for wrapper in spec.additional_wrappers):
            return copy.deepcopy(env)
        return gymnasium.make(spec)
    except Exception as error:
        raise UserError(
            f"env: {env!r} can neither be made again from its spec nor be copied; pass a callable that makes it, so "
            "that evaluation gets an environment of its own."
        ) from error


class AbstractSource(abc.ABC):
    """Environments on the host that are stepped together."""

    n_envs: int
    seed: int
    label: str
    spaces: Spaces
    """What the environment itself hands out and takes."""
    obs: Float[np.ndarray, "n s"]
    """What to act on next."""
    obs_size: int
    action_set: AbstractActionSet

    @abc.abstractmethod
    def shares(self, env: gymnasium.Env) -> bool:
        """Whether `env` is one of those that are stepped here."""

    @abc.abstractmethod
    def step(self, action: Float[np.ndarray, "n m"]) -> VectorStep:
        """Apply one admissible action to every environment; `self.obs` is then what to act on next."""

    @abc.abstractmethod
    def snapshot(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """(arrays, JSON): all it takes to bring the environments back."""

    @abc.abstractmethod
    def restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> bool:
        """Bring every environment back; True where that was exact, else new episodes begin."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close every environment."""


@final
class GymSource(AbstractSource):
    """Collects from `n_envs` environments made here, or from a vector environment that was handed in.

    `env_timeout` is how many seconds an asynchronous environment may take for one step.
    """

    def __init__(
        self,
        env: EnvLike,
        *,
        n_envs: int = 1,
        asynchronous: bool = False,
        seed: int = 0,
        action_set: AbstractActionSet | Limits | None = None,
        env_timeout: float = 300.0,
    ):
        self.seed = seed
        self.steps = 0
        self.replayable = True
        self._fleet: AbstractFleet | None = None
        self._vector: VectorEnv | None = None
        first: FlatEnv | None = None
        if isinstance(env, VectorEnv):
            redirect_mujoco()
            self._vector, self.n_envs = env, env.num_envs
            self._mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
            # Its own resets draw from its own generators: a restart begins new episodes.
            self.replayable = self._mode == AutoresetMode.DISABLED
            box = action_box(env.single_action_space)
            self.spaces = spaces_between(env.single_observation_space, env.single_action_space)
            self.label = str(env.spec.id) if env.spec is not None else type(env).__name__
        else:
            self.n_envs = n_envs
            first = FlatEnv(env if isinstance(env, gymnasium.Env) else make_env(env))
            box, self.spaces, self.label = first.box, first.spaces, first.label
            action_set = admissible_actions(first) if action_set is None else action_set
        self.obs_size = self.spaces.observation.size
        self._names = tuple(self.spaces.observation.names("observation"))
        self.action_set = narrowed(box, action_set, self.label)
        if first is not None:
            self._fleet = self._made(first, env, env_timeout if asynchronous and n_envs > 1 else None)
        self._episode = np.zeros(self.n_envs, np.int64)
        self._return = np.zeros(self.n_envs)
        self._history: list[list[np.ndarray]] = [[] for _ in range(self.n_envs)]
        self._awaits_reset = np.zeros(self.n_envs, bool)
        try:
            self.obs = self._start()
        except BaseException:
            self.close()
            raise

    def _made(self, first: FlatEnv, env: EnvLike, timeout: float | None) -> AbstractFleet:
        """All environments: `first` and others like it, or, with a time limit, as many in processes of their own."""
        if timeout is not None:
            first.close()
            try:
                return Workers([partial(make_flat, env)] * self.n_envs, timeout)
            except UserError as error:
                raise self._failed(error, self.steps) from error
        envs = [first, *(make_flat(env) for _ in range(self.n_envs - 1))]
        if len({id(one.unwrapped) for one in envs}) < len(envs):
            raise UserError(
                "env: the callable returns one and the same environment each time, expected a new one: "
                f"{self.n_envs} of them are stepped together."
            )
        return Local(envs)

    def shares(self, env: gymnasium.Env) -> bool:
        return isinstance(self._fleet, Local) and any(one.unwrapped is env.unwrapped for one in self._fleet.envs)

    # ------------------------------------------------------------------ stepping

    def step(self, action: Float[np.ndarray, "n m"]) -> VectorStep:
        if not np.isfinite(action).all():
            raise UserError(
                f"environment {self.label}: the policy's action is not finite at step {self._next_step}: learning "
                "diverged; lower the learning rates."
            )
        step, obs = self._step(action)
        self._check(step.next_obs, step.reward, self._next_step)
        if obs is not step.next_obs:
            self._check(obs, step.reward, self._next_step)
        self.steps += self.n_envs
        returns = self._count(step, action)
        self.obs = obs
        done = (step.terminated | step.truncated) & step.valid
        if done.any() and self.replayable:
            self.obs = self._restart(done)
        return step._replace(returns=returns)

    @property
    def _next_step(self) -> int:
        return self.steps + self.n_envs

    def _step(self, action: np.ndarray) -> tuple[VectorStep, np.ndarray]:
        """(the step, what to act on next), the same array where no episode ended."""
        try:
            if self._vector is not None:
                return self._step_vector(self._vector, self.spaces.shaped(action))
            assert self._fleet is not None
            columns = zip(*self._fleet.step(action), strict=True)
        except UserError as error:
            raise self._failed(error, self._next_step) from error
        next_obs, reward, terminated, truncated = (np.array(column) for column in columns)
        reward = single_precision(reward)
        return VectorStep(next_obs, reward, terminated, truncated, np.ones(self.n_envs, bool), []), next_obs

    def _step_vector(self, vector: VectorEnv, action: np.ndarray) -> tuple[VectorStep, np.ndarray]:
        obs, reward, terminated, truncated, info = self._called("step", lambda: vector.step(action), 5)
        obs = self._rows(obs)
        reward, terminated, truncated = (
            self._one_each(value, name)
            for value, name in ((reward, "reward"), (terminated, "terminated"), (truncated, "truncated"))
        )
        terminated, truncated = terminated.astype(bool), truncated.astype(bool)
        next_obs, valid = obs, np.ones(self.n_envs, bool)
        done = terminated | truncated
        if self._mode == AutoresetMode.SAME_STEP and done.any():
            # `obs` already belongs to the next episode; the true last observation is in the info.
            next_obs = obs.copy()
            for index in np.flatnonzero(done):
                next_obs[index] = self.spaces.observation.read(info["final_obs"][index], "observation", False)[0]
        elif self._mode == AutoresetMode.NEXT_STEP:
            # The step after an end only resets: its action was ignored, and it is not a transition.
            valid = ~self._awaits_reset
            self._awaits_reset = done & valid
        return VectorStep(next_obs, single_precision(reward), terminated, truncated, valid, []), obs

    def _called(self, name: str, function: Callable[[], object], count: int) -> tuple[Any, ...]:
        """What a vector environment's method returns; whatever else happens is a UserError."""
        try:
            result = function()
        except (Exception, SystemExit) as error:
            raise UserError(f"its {name} raised {type(error).__name__}: {error}.") from error
        if not isinstance(result, tuple) or len(result) != count:
            raise UserError(f"its {name} returned {type(result).__name__}, expected a tuple of {count} values.")
        return result

    def _rows(self, obs: object) -> Float[np.ndarray, "n s"]:
        """A vector environment's observations; a copy, since it may hand out its own buffer."""
        rows, single = self.spaces.observation.read(obs, "observation")
        if single or len(rows) != self.n_envs:
            raise UserError(f"observation: found {1 if single else len(rows)} of them, expected {self.n_envs}.")
        return rows.copy()

    def _one_each(self, value: object, name: str) -> np.ndarray:
        array = numbers(value, name)
        if array.size != self.n_envs:
            raise UserError(f"{name}: found shape {array.shape}, expected ({self.n_envs},).")
        return array.reshape(self.n_envs)

    def _failed(self, error: UserError, step: int) -> EnvError:
        """What went wrong in an environment, with its name and the step."""
        return EnvError(f"environment {self.label}, step {step}: {error} Correct the environment.")

    def _count(self, step: VectorStep, action: np.ndarray) -> list[float]:
        self._return[step.valid] += step.reward[step.valid]
        done = (step.terminated | step.truncated) & step.valid
        if self.replayable:
            for index in range(self.n_envs):
                self._history[index].append(action[index].copy())
        returns = [float(self._return[index]) for index in np.flatnonzero(done)]
        self._return[done] = 0.0
        return returns

    # ------------------------------------------------------------------ resetting

    def _episode_seed(self, index: int) -> int:
        return int(np.random.SeedSequence([self.seed, index, int(self._episode[index])]).generate_state(1)[0])

    def _start(self) -> np.ndarray:
        if not self.replayable and self._vector is not None:
            obs = self._reset_vector(self._vector, self.seed)
            self._check(obs, np.zeros(self.n_envs), self.steps)
            self._return[:], self._awaits_reset[:] = 0.0, False
            return obs
        self.obs = np.zeros((self.n_envs, self.obs_size), np.float32)
        return self._reset(np.ones(self.n_envs, bool))

    def _restart(self, done: np.ndarray) -> np.ndarray:
        self._episode[done] += 1
        for index in np.flatnonzero(done):
            self._history[index].clear()
        return self._reset(done)

    def _reset(self, mask: np.ndarray) -> np.ndarray:
        obs = self.obs.copy()
        seeds = [self._episode_seed(index) if mask[index] else None for index in range(self.n_envs)]
        if self._vector is not None:
            obs[mask] = self._reset_vector(self._vector, seeds, None if mask.all() else {"reset_mask": mask})[mask]
        else:
            assert self._fleet is not None
            try:
                fresh = self._fleet.reset(seeds)
            except UserError as error:
                raise self._failed(error, self.steps) from error
            for index, first in fresh.items():
                obs[index] = first
        self._check(obs, np.zeros(self.n_envs), self.steps)
        return obs

    def _reset_vector(
        self, vector: VectorEnv, seed: int | list[int | None], options: dict[str, Any] | None = None
    ) -> Float[np.ndarray, "n s"]:
        how: dict[str, Any] = {"seed": seed, "options": options}  # each has a seed, which Gymnasium's base class omits
        try:
            return self._rows(self._called("reset", lambda: vector.reset(**how), 2)[0])
        except UserError as error:
            raise self._failed(error, self.steps) from error

    # ------------------------------------------------------------------ checks

    def _check(self, next_obs: np.ndarray, reward: np.ndarray, step: int) -> None:
        for values, names in ((next_obs, self._names), (reward[:, None], ("reward",))):
            if not np.isfinite(values).all():
                index, column = np.argwhere(~np.isfinite(values))[0]
                where = f" of sub-environment {index}" if self.n_envs > 1 else ""
                raise self._failed(
                    UserError(f"{names[column]}{where} is {values[index, column]}, expected a finite number."), step
                )

    # ------------------------------------------------------------------ state

    def snapshot(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """(arrays, JSON): episode counters and the running episodes' actions."""
        arrays = {"episode": self._episode, "return": self._return, "obs": self.obs}
        if self.replayable:
            arrays |= {
                f"history{index}": np.asarray(actions, np.float32).reshape(-1, self.action_set.size)
                for index, actions in enumerate(self._history)
            }
        return arrays, {"steps": self.steps}

    def restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> bool:
        """Bring every environment back by replaying its running episode; True where that was exact.

        False: the environment is not deterministic given its seed, or was handed in with its own autoreset; new
        episodes begin.
        """
        self.steps = int(meta["steps"])
        if not self.replayable:
            self.obs = self._start()
            return False
        if "history0" not in arrays or len(arrays["episode"]) != self.n_envs:
            raise UserError(
                f"environment {self.label}: the saved state is that of {len(arrays['episode'])} environments, perhaps "
                f"handed in as a vector environment, found {self.n_envs} made here; resume with the same environment."
            )
        self._episode = arrays["episode"].copy()
        saved = [np.asarray(arrays[f"history{index}"], np.float32) for index in range(self.n_envs)]
        histories = [actions.reshape(len(actions), self.action_set.size) for actions in saved]
        longest = max(len(actions) for actions in histories)
        # The running episodes differ in length: each starts late enough for all to end together.
        self.obs = self._reset(np.ones(self.n_envs, bool))
        try:
            self._replay(histories, longest)
        except EnvError:
            # It fails where it did not before: what it was doing cannot be brought back.
            return self._anew()
        if not np.array_equal(self.obs, arrays["obs"]):
            return self._anew()
        self._history = [list(actions) for actions in histories]
        self._return = arrays["return"].copy()
        return True

    def _anew(self) -> bool:
        self.obs = self._restart(np.ones(self.n_envs, bool))
        self._return[:] = 0.0
        return False

    def _replay(self, histories: list[np.ndarray], longest: int) -> None:
        for now in range(longest):
            late = np.array([longest - len(actions) >= now and now > 0 for actions in histories])
            if late.any():
                self.obs = self._reset(late)
            action = np.stack(
                [
                    actions[max(now - (longest - len(actions)), 0)] if len(actions) else self._idle()
                    for actions in histories
                ]
            )
            _, self.obs = self._step(action)
        idle = np.array([len(actions) == 0 for actions in histories])
        if longest and idle.any():
            self.obs = self._reset(idle)

    def _idle(self) -> np.ndarray:
        return np.asarray(self.action_set.center, np.float32)

    def close(self) -> None:
        for group in (self._fleet, self._vector):
            if group is not None:
                # What fails while closing has nothing left to lose.
                with contextlib.suppress(Exception):
                    group.close()
