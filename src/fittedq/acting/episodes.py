"""Fresh episodes of a controller; of an agent, those of its policy's mode (for SAC the squashed mean)."""

from __future__ import annotations

import abc
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Generic, NamedTuple, TypeVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from fittedq.acting.status import Act
from fittedq.actions.base import AbstractActionSet, Box, described_apart
from fittedq.actions.limits import inside
from fittedq.arrays import Arr, Tree
from fittedq.control.state import AugmentedState
from fittedq.data.statistics import RunningMoments
from fittedq.envs.flat import FlatEnv
from fittedq.envs.native import AbstractJaxEnv, auto_reset
from fittedq.envs.plant import AbstractPlant, AnyEnv, resolve
from fittedq.envs.spaces import refuse_not_finite
from fittedq.errors import EnvError, UserError
from fittedq.settings import MOST_SEED, whole
from fittedq.types import AbstractPolicy, Transition

EVALUATION_SEED = 2**31
"""Added to a run's seed: evaluation never sees a training episode's seed sequence."""

MOST_STEPS = 1_000_000
"""An episode of a policy that has taken so many steps has no end."""

Memory = TypeVar("Memory")
"""What a controller keeps from one sample to the next."""


class Step(NamedTuple):
    """One transition, unbatched."""

    obs: np.ndarray
    action: np.ndarray
    reward: float
    next_obs: np.ndarray
    terminated: bool
    truncated: bool


def check_spaces(env: FlatEnv, obs_size: int, action_set: AbstractActionSet, whose: str = "the agent") -> None:
    """A UserError unless `env` has the sizes and bounds that an agent was trained for, or a dataset was taken with."""
    found = env.observation_space.shape
    if found != (obs_size,):
        raise UserError(
            f"environment: its observations have shape {found}, {whose}'s have ({obs_size},); name the one that "
            "it came from."
        )
    # A box is the environment's own; any other set only has to lie in it.
    if env.box != action_set if isinstance(action_set, Box) else not inside(action_set, env.box):
        its, own = described_apart(env.box, action_set)
        raise UserError(f"environment: its actions lie in {its}, {whose}'s in {own}; evaluate where it came from.")


class AbstractController(abc.ABC, Generic[Memory]):
    """What acts in flat vectors, in the environment's units, on b episodes side by side.

    What it remembers of them is handed to it and given back: a controller itself never changes.
    """

    @abc.abstractmethod
    def start(self, number: int) -> Memory:
        """The memory of so many episodes that begin."""

    @abc.abstractmethod
    def step(self, memory: Memory, obs: Float[np.ndarray, "b s"]) -> tuple[Float[np.ndarray, "b m"], Memory]:
        """(actions, memory) at the next sample of each episode."""

    @abc.abstractmethod
    def check(self, env: FlatEnv) -> None:
        """A UserError unless it can act in `env`."""

    def evaluate(self, env: AnyEnv | AbstractPlant, episodes: int = 10, seed: int = 0) -> Float[np.ndarray, "episodes"]:
        """Undiscounted returns over fresh episodes, those of an agent that is evaluated with the same seed on the
        host."""
        episodes, seed = whole(episodes, "episodes", 1), whole(seed, "seed", high=MOST_SEED)
        return np.array(list(islice(returns(self, resolve(env), seed, lambda: False), episodes)))

    def loop(self) -> ControlLoop[Memory]:
        """It, with a memory of its own: for a loop that only hands in observations."""
        return ControlLoop(self)


@final
class ControlLoop(Generic[Memory]):
    """A controller at work: `reset` at the beginning of an episode, then `act` once a sample."""

    def __init__(self, controller: AbstractController[Memory]):
        self.controller = controller
        self.reset()

    def reset(self) -> None:
        """An episode begins."""
        self._memory = self.controller.start(1)

    def act(self, obs: object) -> Float[np.ndarray, "m"]:
        """The action at this sample, of an observation in flat numbers [s]."""
        action, self._memory = self.controller.step(self._memory, np.asarray(obs, np.float32)[None])
        return action[0]


@final
@dataclass(frozen=True)
class Memoryless(AbstractController[None]):
    """a = act(s), of what was made for observations of one size and for one set of actions."""

    act: Act
    obs_size: int
    action_set: AbstractActionSet
    name: str = "the agent"

    def __str__(self) -> str:
        return self.name

    def start(self, number: int) -> None:
        del number

    def step(self, memory: None, obs: Float[np.ndarray, "b s"]) -> tuple[Float[np.ndarray, "b m"], None]:
        return self.act(obs), memory

    def check(self, env: FlatEnv) -> None:
        check_spaces(env, self.obs_size, self.action_set, self.name)


class Remembered(NamedTuple):
    """What was seen at the last sample, and the action that was executed then."""

    seen: Float[np.ndarray, "b z"]
    executed: Float[np.ndarray, "b m"]


@final
@dataclass(frozen=True)
class Remembering(AbstractController[Remembered | None]):
    """u = executed(z, act(z)): it sees the raw observation, and remembers the rest of the augmented state.

    `before` is the action that stands before the first one, by default the middle of its limits.
    """

    act: Act
    state: AugmentedState
    before: Float[np.ndarray, "m"] | None = None
    name: str = "the agent"

    def __str__(self) -> str:
        return self.name

    def start(self, number: int) -> None:
        del number

    def step(
        self, memory: Remembered | None, obs: Float[np.ndarray, "b s"]
    ) -> tuple[Float[np.ndarray, "b m"], Remembered]:
        obs, state = np.asarray(obs, np.float32), self.state
        seen = np.asarray(state.first(obs, self.before) if memory is None else state.after(*memory, obs))
        executed = np.asarray(state.executed(seen, self.act(seen)))
        return executed, Remembered(seen, executed)

    def check(self, env: FlatEnv) -> None:
        check_spaces(env, self.state.obs_size, self.state.limits, self.name)


def returns(
    controller: AbstractController[Memory], plant: AbstractPlant, seed: int, stop: Callable[[], bool]
) -> Iterator[float]:
    """The returns of `episodes`, in memory that does not grow with them; asked after each step, `stop()` ends them."""
    for steps in _played(controller, plant, seed):
        total = 0.0
        for step in steps:
            total += step.reward
            if stop():
                return
        yield total


def episodes(
    controller: AbstractController[Memory], plant: AbstractPlant, seed: int, stop: Callable[[], bool] = lambda: False
) -> Generator[Transition, None, None]:
    """The transitions of one episode after another, without end; episode e is reset with a seed of (seed, e).

    On an environment of its own, which closes with the iterator. Asked after each step, `stop()` ends them.
    """
    for steps in _played(controller, plant, seed):
        taken: list[Step] = []
        for step in steps:
            taken.append(step)
            if stop():
                return
        yield Transition(*(np.array(column) for column in zip(*taken, strict=True)))


def _played(controller: AbstractController[Memory], plant: AbstractPlant, seed: int) -> Iterator[Iterator[Step]]:
    """The steps of one episode after another; each is to be taken to its end before the next."""
    made = plant.make()
    try:
        yield from played_in(controller, made, seed)
    finally:
        made.close()


def played_in(controller: AbstractController[Memory], env: FlatEnv, seed: int) -> Iterator[Iterator[Step]]:
    """The steps of `episodes` in an environment that is there; each is to be taken to its end before the next."""
    controller.check(env)
    for episode in count():
        sequence = np.random.SeedSequence([EVALUATION_SEED + seed, episode])
        yield _episode(controller, env, episode, int(sequence.generate_state(1)[0]))


def _episode(controller: AbstractController[Memory], env: FlatEnv, episode: int, seed: int) -> Iterator[Step]:
    taken, memory = 0, controller.start(1)
    try:
        obs = _finite(env, env.reset(seed=seed)[0])
        while taken < MOST_STEPS:
            actions, memory = controller.step(memory, obs[None])
            action = _executed(actions, obs, env.box, controller)
            next_obs, reward, terminated, truncated, _ = env.step(action)
            if not np.isfinite(reward):
                raise UserError(f"reward is {reward}, expected a finite number.")
            yield Step(obs, action, reward, _finite(env, next_obs), terminated, truncated)
            if terminated or truncated:
                return
            obs, taken = next_obs, taken + 1
    except UserError as error:
        raise EnvError(f"evaluation in {env.label}, episode {episode}, step {taken}: {error}") from error
    raise EnvError(
        f"evaluation in {env.label}, episode {episode}: it has taken {MOST_STEPS:,} steps, expected an end before; put "
        "the environment in gymnasium.wrappers.TimeLimit, or do not evaluate in it (eval_every = 0)."
    )


def _executed(
    actions: Float[np.ndarray, "1 m"], obs: Float[np.ndarray, "s"], box: Box, controller: AbstractController[Memory]
) -> Float[np.ndarray, "m"]:
    """The action that reaches the plant: the controller's, moved to the limits of the actuators."""
    if np.shape(actions) != (1, box.size):
        raise UserError(f"{controller} gives an action of shape {np.shape(actions)[1:]}, expected ({box.size},).")
    if not np.isfinite(actions).all():
        raise UserError(f"{controller} gives the action {np.ravel(actions).tolist()}, expected finite numbers.")
    return np.asarray(box.project(np.asarray(actions, np.float32), obs[None]))[0]


def _finite(env: FlatEnv, obs: np.ndarray) -> np.ndarray:
    refuse_not_finite(obs[None], env.spaces.observation, "observation")
    return obs


def episodes_at_once(
    policy: AbstractPolicy, moments: RunningMoments | None, env: AbstractJaxEnv, number: int, seed: int
) -> list[Transition]:
    """`number` episodes of a JAX environment, all in one compiled loop."""
    key = jax.random.fold_in(jax.random.key(seed), EVALUATION_SEED)
    rows, alive = jax.device_get(_rollouts(policy, moments, env, key, number))
    return [Transition(*(column[alive[:, episode], episode] for column in rows)) for episode in range(number)]


def returns_at_once(
    controller: AbstractController[Memory], env: AbstractJaxEnv, number: int, seed: int
) -> Float[np.ndarray, "number"]:
    """The returns of `number` episodes of a JAX environment, side by side: a compiled step of all of them at each
    sample, and the controller on the host. Other episodes than `returns` has of that seed."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), EVALUATION_SEED), number)
    state, obs = jax.jit(jax.vmap(env.reset))(keys)
    memory, total, alive = controller.start(number), np.zeros(number), np.ones(number, bool)
    for sample in range(env.episode_length):
        action, memory = controller.step(memory, np.asarray(obs))
        action = env.action_set.project(np.asarray(action, np.float32), np.asarray(obs))
        state, obs, reward, ended = _stepped_at_once(env, state, action, keys, np.asarray(sample))
        total += alive * np.asarray(reward)
        alive &= ~np.asarray(ended)
        if not alive.any():
            break
    return total


@jax.jit
def _stepped_at_once(
    env: AbstractJaxEnv, state: Tree, action: Float[Arr, "b m"], keys: Array, sample: Int[Arr, ""]
) -> tuple[Tree, Float[Array, "b s"], Float[Array, "b"], Bool[Array, "b"]]:
    """(state, obs, reward, whether its episode ended) of each."""
    step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, sample)
    state, _, obs, reward, terminated, truncated = jax.vmap(auto_reset(env))(state, jnp.asarray(action), step_keys)
    return state, obs, reward, terminated | truncated


def whole_episodes(episodes: Iterable[Transition], steps: int, at_least: int = 3) -> Transition:
    """The first episodes that have `steps` transitions together, at least so many of them, one after another."""
    taken: list[Transition] = []
    for rows in episodes:
        taken.append(rows)
        if len(taken) >= at_least and sum(len(rows.reward) for rows in taken) >= steps:
            break
    return Transition(*(np.concatenate(column) for column in zip(*taken, strict=True)))


@partial(jax.jit, static_argnames="number")
def _rollouts(
    policy: AbstractPolicy, moments: RunningMoments | None, env: AbstractJaxEnv, key: PRNGKeyArray, number: int
) -> tuple[Transition, Bool[Array, "t b"]]:
    """(rows [t, b], which of them belong to the first episode [t, b])."""

    def step(carry: Tree, key: PRNGKeyArray) -> tuple[Tree, tuple[Transition, Bool[Array, "b"]]]:
        state, obs, alive = carry
        seen = obs if moments is None else moments.normalize(obs)
        action = jnp.asarray(env.action_set.project(policy.act(seen, jnp.zeros((number, env.action_set.size))), obs))
        state, next_obs, after, reward, terminated, truncated = jax.vmap(auto_reset(env))(
            state, action, jax.random.split(key, number)
        )
        rows = Transition(obs, action, reward, next_obs, terminated, truncated)
        return (state, after, alive & ~(terminated | truncated)), (rows, alive)

    reset_key, step_key = jax.random.split(key)
    state, obs = jax.vmap(env.reset)(jax.random.split(reset_key, number))
    start = (state, obs, jnp.ones(number, bool))
    return jax.lax.scan(step, start, jax.random.split(step_key, env.episode_length))[1]
