"""One source over Gymnasium: single and vectorized environments, every autoreset mode, exact replay of its state.

A source hands out true transitions: `next_obs` is the observation after the action also at the end of an episode, and
`obs` the one to act on next. Where the library makes the environments, each episode starts from a seed that is a
function of (run seed, environment, episode); with the actions of the running episode that is all it takes to bring an
environment back after a restart, without reading its insides.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Bool, Float

from fittedq.action_sets import Limits, narrowed
from fittedq.errors import UserError, nearest
from fittedq.types import AbstractActionSet, Box

EnvLike = str | gymnasium.Env | VectorEnv | Callable[[], gymnasium.Env]


class LimitActions(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """`env` with fewer admissible actions: A(s) is `action_set`, inside the environment's own box.

    The wrapper checks nothing and changes nothing: it says what the controller has to respect.
    """

    def __init__(self, env: gymnasium.Env, action_set: AbstractActionSet | Limits):
        gymnasium.utils.RecordConstructorArgs.__init__(self, action_set=action_set)
        super().__init__(env)
        self.admissible_actions = narrowed(action_box(env.action_space), action_set, "the environment")


def admissible_actions(env: gymnasium.Env) -> AbstractActionSet | None:
    """What the outermost `LimitActions` around `env` says."""
    return env.get_wrapper_attr("admissible_actions") if env.has_wrapper_attr("admissible_actions") else None


class Step(NamedTuple):
    """One step of every environment. Rows outside `valid` are autoreset steps, not transitions."""

    next_obs: Float[np.ndarray, "n s"]
    reward: Float[np.ndarray, "n"]
    terminated: Bool[np.ndarray, "n"]
    truncated: Bool[np.ndarray, "n"]
    valid: Bool[np.ndarray, "n"]
    returns: list[float]
    """Undiscounted returns of the episodes that ended in this step."""


def make_env(env: EnvLike) -> gymnasium.Env:
    """A fresh environment with flat float observations from an id, a callable, or an environment that has a spec."""
    if isinstance(env, str):
        made = _make_id(env)
    elif isinstance(env, gymnasium.Env):
        made = _made_again(env)
    elif callable(env):
        made = env()
        if not isinstance(made, gymnasium.Env):
            raise UserError(f"env: the callable returned {type(made).__name__}, expected a gymnasium.Env.")
    else:
        raise UserError(f"env: found {type(env).__name__}, expected a Gymnasium id, an environment or a callable.")
    return flatten(made)


def _made_again(env: gymnasium.Env) -> gymnasium.Env:
    try:
        spec = env.spec
        # A spec cannot make a wrapper that does not record its arguments; a copy has it too.
        if spec is None or any(wrapper.kwargs is None for wrapper in spec.additional_wrappers):
            return copy.deepcopy(env)
        return gymnasium.make(spec)
    except Exception:
        raise UserError(
            f"env: {env!r} can neither be made again from its spec nor be copied; pass a callable that makes it, so "
            "that evaluation gets an environment of its own."
        ) from None


def _make_id(name: str) -> gymnasium.Env:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return gymnasium.make(name)
    except gymnasium.error.DependencyNotInstalled as error:
        extra = "mujoco" if "mujoco" in str(error).lower() else None
        hint = f"pip install 'fittedq[{extra}]'" if extra else "install it"
        raise UserError(f"environment {name!r} needs a package that is not installed ({error}); {hint}.") from None
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        if name in gymnasium.registry:
            raise UserError(f"environment {name!r} could not be made: {error}") from None
        raise UserError(f"environment {name!r} is unknown; {nearest(name, gymnasium.registry)}") from None


def flatten(env: gymnasium.Env) -> gymnasium.Env:
    """`env` with one flat observation vector: Dict, Tuple and shaped boxes through Gymnasium's wrapper."""
    space = env.observation_space
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        return env
    shaped = isinstance(space, gymnasium.spaces.Box | gymnasium.spaces.Dict | gymnasium.spaces.Tuple)
    if shaped and space.is_np_flattenable:
        return gymnasium.wrappers.FlattenObservation(env)
    raise UserError(
        f"observation space: found {space}, expected a Box, or a Dict or Tuple of them; "
        "convert it in the environment with gymnasium.wrappers.TransformObservation."
    )


def action_box(space: gymnasium.Space) -> Box:
    """The action set of a space, or a UserError for one that is not a finite box.

    Its bounds are the float32 numbers nearest to the space's from inside: actions are float32.
    """
    if not isinstance(space, gymnasium.spaces.Box):
        raise UserError(
            f"action space: found {space}, expected a Box of continuous actions; this library is for those "
            "(for discrete actions, take a DQN)."
        )
    if not np.issubdtype(space.dtype, np.floating):
        raise UserError(f"action space: found a Box of {space.dtype}, expected a float dtype.")
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    return Box(
        np.where(low < space.low, np.nextafter(low, np.float32(np.inf)), low),
        np.where(high > space.high, np.nextafter(high, np.float32(-np.inf)), high),
    )


def coordinate_names(env: gymnasium.Env, size: int) -> list[str]:
    """A name for each flat observation coordinate: `observation[3]`, or `observation['position'][0]` for a Dict."""
    inner = env.env.observation_space if isinstance(env, gymnasium.wrappers.FlattenObservation) else None
    if isinstance(inner, gymnasium.spaces.Dict):
        return [
            f"observation[{key!r}][{index}]"
            for key, space in inner.spaces.items()
            for index in range(gymnasium.spaces.flatdim(space))
        ]
    return [f"observation[{index}]" for index in range(size)]


class GymSource:
    """Collects from `n_envs` environments made here, or from a vector environment that was handed in."""

    def __init__(
        self,
        env: EnvLike,
        *,
        n_envs: int = 1,
        asynchronous: bool = False,
        seed: int = 0,
        action_set: AbstractActionSet | Limits | None = None,
    ):
        self.seed = seed
        self.steps = 0
        self.replayable = True
        self._envs: list[gymnasium.Env] = []
        self._vector: VectorEnv | None = None
        if isinstance(env, VectorEnv):
            self._vector, self.n_envs = env, env.num_envs
            self._mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
            # Its own resets draw from its own generators: a restart begins new episodes.
            self.replayable = self._mode == AutoresetMode.DISABLED
            observation_space, action_space = env.single_observation_space, env.single_action_space
            if not isinstance(observation_space, gymnasium.spaces.Box) or len(observation_space.shape) != 1:
                raise UserError(
                    f"vector environment: its observations are {observation_space}, expected a flat Box; wrap each "
                    "sub-environment in gymnasium.wrappers.FlattenObservation."
                )
            self._names = [f"observation[{index}]" for index in range(observation_space.shape[0])]
            self.label = str(env.spec.id) if env.spec is not None else type(env).__name__
        else:
            first = flatten(env) if isinstance(env, gymnasium.Env) else make_env(env)
            observation_space, action_space = first.observation_space, first.action_space
            self.n_envs = n_envs
            self._names = coordinate_names(first, gymnasium.spaces.flatdim(observation_space))
            self.label = first.spec.id if first.spec is not None else type(first.unwrapped).__name__
            action_box(action_space)
            action_set = admissible_actions(first) if action_set is None else action_set
            if asynchronous and n_envs > 1:
                first.close()
                # Not a fork: JAX's threads do not survive one.
                self._vector = gymnasium.vector.AsyncVectorEnv(
                    [lambda: make_env(env)] * n_envs, context="forkserver", autoreset_mode=AutoresetMode.DISABLED
                )
                self._mode = AutoresetMode.DISABLED
            else:
                self._envs = [first, *(make_env(env) for _ in range(n_envs - 1))]
        self.obs_size = gymnasium.spaces.flatdim(observation_space)
        self.action_set = narrowed(action_box(action_space), action_set, self.label)
        self._action_shape, self._action_dtype = tuple(action_space.shape or ()), action_space.dtype
        self._episode = np.zeros(self.n_envs, np.int64)
        self._return = np.zeros(self.n_envs)
        self._history: list[list[np.ndarray]] = [[] for _ in range(self.n_envs)]
        self._awaits_reset = np.zeros(self.n_envs, bool)
        self.obs = self._start()

    # ------------------------------------------------------------------ stepping

    def step(self, action: Float[np.ndarray, "n m"]) -> Step:
        """Apply one admissible action to every environment; `self.obs` is then what to act on next."""
        self.steps += self.n_envs
        if not np.isfinite(action).all():
            raise UserError(
                f"environment {self.label}: the policy's action is not finite at step {self.steps}: learning diverged; "
                "lower the learning rates (the last checkpoint is intact)."
            )
        shaped = action.astype(self._action_dtype).reshape((self.n_envs, *self._action_shape))
        if self._vector is not None:
            step, obs = self._step_vector(self._vector, shaped)
        else:
            step, obs = self._step_each(shaped)
        self._check(step.next_obs, step.reward)
        if obs is not step.next_obs:
            self._check(obs, step.reward)
        returns = self._count(step, shaped)
        self.obs = obs
        done = (step.terminated | step.truncated) & step.valid
        if done.any() and self.replayable:
            self.obs = self._restart(done)
        return step._replace(returns=returns)

    def _step_each(self, action: np.ndarray) -> tuple[Step, np.ndarray]:
        next_obs = np.empty((self.n_envs, self.obs_size), np.float32)
        reward = np.empty(self.n_envs, np.float32)
        terminated, truncated = np.zeros(self.n_envs, bool), np.zeros(self.n_envs, bool)
        for index, env in enumerate(self._envs):
            obs, reward[index], terminated[index], truncated[index], _ = env.step(action[index])
            next_obs[index] = self._shaped(obs)
        return Step(next_obs, reward, terminated, truncated, np.ones(self.n_envs, bool), []), next_obs

    def _step_vector(self, vector: VectorEnv, action: np.ndarray) -> tuple[Step, np.ndarray]:
        obs, reward, terminated, truncated, info = vector.step(action)
        # A copy: a vector environment may hand out its own buffer.
        obs = np.array(obs, np.float32)
        next_obs, valid = obs, np.ones(self.n_envs, bool)
        done = np.asarray(terminated) | np.asarray(truncated)
        if self._mode == AutoresetMode.SAME_STEP and done.any():
            # `obs` already belongs to the next episode; the true last observation is in the info.
            next_obs = obs.copy()
            for index in np.flatnonzero(done):
                next_obs[index] = self._shaped(info["final_obs"][index])
        elif self._mode == AutoresetMode.NEXT_STEP:
            # The step after an end only resets: its action was ignored, and it is not a transition.
            valid = ~self._awaits_reset
            self._awaits_reset = done & valid
        return Step(next_obs, np.asarray(reward, np.float32), terminated, truncated, valid, []), obs

    def _count(self, step: Step, action: np.ndarray) -> list[float]:
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
            obs = np.array(self._vector.reset(seed=self.seed)[0], np.float32)
            self._check(obs, np.zeros(self.n_envs))
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
            # The base class's annotation knows one seed; every vector environment takes one each.
            options = None if mask.all() else {"reset_mask": mask}
            fresh, _ = self._vector.reset(seed=seeds, options=options)  # pyright: ignore[reportArgumentType]
            obs[mask] = np.asarray(fresh, np.float32)[mask]
        else:
            for index in np.flatnonzero(mask):
                obs[index] = self._shaped(self._envs[index].reset(seed=seeds[index])[0])
        self._check(obs, np.zeros(self.n_envs))
        return obs

    # ------------------------------------------------------------------ checks

    def _shaped(self, obs: Any) -> np.ndarray:
        obs = np.asarray(obs)
        if obs.shape != (self.obs_size,):
            raise UserError(
                f"environment {self.label}: at step {self.steps} the observation has shape {obs.shape}, "
                f"expected ({self.obs_size},) as its observation space says; correct the environment."
            )
        return obs

    def _check(self, next_obs: np.ndarray, reward: np.ndarray) -> None:
        for values, names in ((next_obs, self._names), (reward[:, None], ["reward"])):
            if not np.isfinite(values).all():
                index, column = np.argwhere(~np.isfinite(values))[0]
                where = f" of sub-environment {index}" if self.n_envs > 1 else ""
                raise UserError(
                    f"environment {self.label}: {names[column]}{where} is {values[index, column]} at step "
                    f"{self.steps}, expected a finite number; correct the environment (the last checkpoint is intact)."
                )

    # ------------------------------------------------------------------ state

    def snapshot(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """(arrays, JSON): episode counters and the running episodes' actions."""
        arrays = {"episode": self._episode, "return": self._return, "obs": self.obs}
        if self.replayable:
            arrays |= {
                f"history{index}": np.asarray(actions, self._action_dtype).reshape((-1, *self._action_shape))
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
        histories = [arrays[f"history{index}"] for index in range(self.n_envs)]
        longest = max(len(actions) for actions in histories)
        # The running episodes differ in length: each starts late enough for all to end together.
        self.obs = self._reset(np.ones(self.n_envs, bool))
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
            _, self.obs = (
                self._step_vector(self._vector, action) if self._vector is not None else self._step_each(action)
            )
        idle = np.array([len(actions) == 0 for actions in histories])
        if longest and idle.any():
            self.obs = self._reset(idle)
        if not np.array_equal(self.obs, arrays["obs"]):
            self.obs = self._restart(np.ones(self.n_envs, bool))
            self._return[:] = 0.0
            return False
        self._history = [list(actions) for actions in histories]
        self._return = arrays["return"].copy()
        return True

    def _idle(self) -> np.ndarray:
        return np.asarray(self.action_set.center, self._action_dtype).reshape(self._action_shape)

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()
        if self._vector is not None:
            self._vector.close()
