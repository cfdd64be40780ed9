"""An environment, resolved once: its name, its sizes, its actions, and how to make one."""

from __future__ import annotations

import abc
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar, final

import gymnasium
from gymnasium.vector import VectorEnv

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.limits import Limits, narrowed
from fittedq.envs.flat import FlatEnv, action_box, admissible_actions
from fittedq.envs.gym import EnvLike, GymSource, make_flat
from fittedq.envs.gymnax import COMPILED, find_compiled
from fittedq.envs.hosted import HostedEnv
from fittedq.envs.native import AbstractJaxEnv
from fittedq.envs.registry import NamedEnv, name_of
from fittedq.envs.spaces import layout_of_space
from fittedq.errors import UserError

AnyEnv = EnvLike | AbstractJaxEnv
Wanted = AbstractActionSet | Limits | None


Given = TypeVar("Given")
"""What stands for an environment."""


class AbstractPlant(abc.ABC, Generic[Given]):
    """The environment that a user gave, in whatever form, and what is known of it."""

    compiled: ClassVar[bool]
    """Whether `env` is a JAX environment, which can be stepped inside a compiled loop."""
    env: Given
    """What it was made from."""
    name: NamedEnv | None
    """What files call it, where it has a name."""
    wanted: Wanted
    """What narrows its actions."""

    @property
    @abc.abstractmethod
    def obs_size(self) -> int:
        """Numbers in an observation."""

    @property
    @abc.abstractmethod
    def action_set(self) -> AbstractActionSet:
        """A(s), narrowed as was wanted."""

    @property
    @abc.abstractmethod
    def episode_length(self) -> int | None:
        """The most steps of an episode, where that is known."""

    @property
    @abc.abstractmethod
    def makes_new(self) -> bool:
        """Whether each `make` certainly gives another environment than those before."""

    @abc.abstractmethod
    def make(self) -> FlatEnv:
        """A fresh one on the host, in flat vectors."""

    @abc.abstractmethod
    def source(
        self, n_envs: int = 1, *, asynchronous: bool = False, seed: int = 0, env_timeout: float = 300.0
    ) -> GymSource:
        """Environments to collect from on the host, as `GymSource` has them."""

    @abc.abstractmethod
    def single(self) -> AbstractPlant:
        """One to evaluate in: itself, or one like those of a vector."""


@final
class HostPlant(AbstractPlant[EnvLike]):
    """A Gymnasium environment, by name, as an object or as a callable that makes it."""

    compiled = False

    def __init__(self, env: EnvLike, wanted: Wanted = None):
        self.env, self.name, self.wanted = env, name_of(env), wanted

    @cached_property
    def _seen(self) -> FlatEnv:
        """One that was looked at and closed."""
        made = self.make()
        made.close()
        return made

    @property
    def obs_size(self) -> int:
        return self._seen.spaces.observation.size

    @property
    def action_set(self) -> AbstractActionSet:
        wanted = admissible_actions(self._seen) if self.wanted is None else self.wanted
        return narrowed(self._seen.box, wanted, self._seen.label)

    @property
    def episode_length(self) -> int | None:
        spec = self._seen.spec
        return None if spec is None else spec.max_episode_steps

    @property
    def makes_new(self) -> bool:
        # A callable may return one and the same each time.
        return self.name is not None or not callable(self.env)

    def make(self) -> FlatEnv:
        return make_flat(self.env)

    def source(
        self, n_envs: int = 1, *, asynchronous: bool = False, seed: int = 0, env_timeout: float = 300.0
    ) -> GymSource:
        how: dict[str, Any] = {"n_envs": n_envs, "asynchronous": asynchronous, "env_timeout": env_timeout}
        return GymSource(self.env, seed=seed, action_set=self.wanted, **how)

    def single(self) -> AbstractPlant:
        return self


@final
class VectorPlant(AbstractPlant[VectorEnv]):
    """A vector environment that was handed in: its own number of environments, stepped together."""

    compiled = False
    name = None

    def __init__(self, vector: VectorEnv, wanted: Wanted = None):
        self.env, self.wanted = vector, wanted

    @property
    def obs_size(self) -> int:
        return layout_of_space(self.env.single_observation_space).size

    @property
    def action_set(self) -> AbstractActionSet:
        return narrowed(action_box(self.env.single_action_space), self.wanted, "the environment")

    @property
    def episode_length(self) -> int | None:
        return None if self.env.spec is None else self.env.spec.max_episode_steps

    @property
    def makes_new(self) -> bool:
        return True

    def make(self) -> FlatEnv:
        return self.single().make()

    def source(
        self, n_envs: int = 1, *, asynchronous: bool = False, seed: int = 0, env_timeout: float = 300.0
    ) -> GymSource:
        del n_envs, asynchronous, env_timeout  # it has its own
        return GymSource(self.env, seed=seed, action_set=self.wanted)

    def single(self) -> AbstractPlant:
        spec = self.env.spec
        if spec is None:
            raise UserError(
                "a vector environment without a spec cannot be evaluated on; give another.", argument="eval_env"
            )
        of_the_vector = ("num_envs", "vectorization_mode", "vector_kwargs")
        kwargs = {name: value for name, value in spec.kwargs.items() if name not in of_the_vector}
        return HostPlant(NamedEnv(spec.id, kwargs), self.wanted)


@final
class CompiledPlant(AbstractPlant[AbstractJaxEnv]):
    """A JAX environment, itself or by its name (`jax/…`, `gymnax/…`); the host can step it too, one compiled step at a
    time."""

    compiled = True

    def __init__(self, env: AbstractJaxEnv | NamedEnv, wanted: Wanted = None, name: NamedEnv | None = None):
        self.name, self.wanted = name or name_of(env), wanted
        self._env = None if isinstance(env, NamedEnv) else env

    @property
    def env(self) -> AbstractJaxEnv:  # pyright: ignore[reportIncompatibleVariableOverride]
        """For a compiled loop, where no Gymnasium wrapper can be."""
        if self._env is None:
            assert self.name is not None
            if self.name.wrappers:
                raise UserError(
                    f"environment {self.name.id!r} is compiled: a Gymnasium wrapper cannot go around it; leave it out."
                )
            self.name.check_trusted()
            self._env = find_compiled(self.name.id, self.name.kwargs)
        return self._env

    @property
    def obs_size(self) -> int:
        return self.env.obs_size

    @property
    def action_set(self) -> AbstractActionSet:
        own = self.env.action_set
        return own if self.wanted is None else narrowed(Box(own.low, own.high), self.wanted, "the environment")

    @property
    def episode_length(self) -> int | None:
        return self.env.episode_length

    @property
    def makes_new(self) -> bool:
        return True

    def make(self) -> FlatEnv:
        return make_flat(self._hosted)

    def source(
        self, n_envs: int = 1, *, asynchronous: bool = False, seed: int = 0, env_timeout: float = 300.0
    ) -> GymSource:
        how: dict[str, Any] = {"n_envs": n_envs, "asynchronous": asynchronous, "env_timeout": env_timeout}
        return GymSource(self._hosted, seed=seed, action_set=self.wanted, **how)

    def single(self) -> AbstractPlant:
        return self

    def _hosted(self) -> gymnasium.Env:
        if self._env is None and self.name is not None:
            return self.name.make()
        return HostedEnv(self.env, type(self.env).__name__ if self.name is None else self.name.id)


def resolve(env: AnyEnv | AbstractPlant, wanted: Wanted = None) -> AbstractPlant:
    """The plant that a user's `env` is; what is none is a UserError. `wanted` narrows its actions."""
    if isinstance(env, AbstractPlant):
        return env
    named = name_of(env)
    if isinstance(env, AbstractJaxEnv):
        return CompiledPlant(env, wanted)
    if named is not None:
        return CompiledPlant(named, wanted) if named.id.startswith(COMPILED) else HostPlant(named, wanted)
    if isinstance(env, VectorEnv):
        return VectorPlant(env, wanted)
    if isinstance(env, gymnasium.Env) or callable(env):
        return HostPlant(env, wanted)
    raise UserError(f"env: found {type(env).__name__}, expected a Gymnasium id, an environment or a callable.")
