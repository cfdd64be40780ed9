"""JAX-native environments: pure functions of a state and a key, so that a whole training loop compiles."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.arrays import Arr, Scalar
from fittedq.errors import UserError, nearest
from fittedq.types import Dynamics

Inner = TypeVar("Inner")
"""The state of one kind of environment: an array, or a tree of them."""


class EnvState(eqx.Module, Generic[Inner]):
    """An environment's own state and the steps its episode has taken."""

    inner: Inner
    time: Int[Array, ""]


class AbstractJaxEnv(eqx.Module, Generic[Inner]):
    """One environment (not a batch); `jax.vmap` makes many. `Inner` is its state."""

    varying: ClassVar[tuple[str, ...]] = ()
    """Its fields that say what the plant is like: numbers, or tuples of them, that another plant of the kind may have
    otherwise."""

    @property
    @abc.abstractmethod
    def obs_size(self) -> int:
        """s, the numbers of an observation."""

    @property
    @abc.abstractmethod
    def action_set(self) -> AbstractActionSet:
        """What actions are taken from."""

    @property
    @abc.abstractmethod
    def episode_length(self) -> int:
        """Steps after which an episode is truncated."""

    @abc.abstractmethod
    def begin(self, key: PRNGKeyArray) -> Inner:
        """A first inner state."""

    @abc.abstractmethod
    def observe(self, inner: Inner) -> Float[Array, "s"]:
        """What is seen of an inner state."""

    @abc.abstractmethod
    def transition(
        self, inner: Inner, action: Float[Array, "m"], key: PRNGKeyArray
    ) -> tuple[Inner, Float[Array, ""], Bool[Array, ""]]:
        """(next inner state, reward, terminated)."""

    def reset(self, key: PRNGKeyArray) -> tuple[EnvState[Inner], Float[Array, "s"]]:
        """A new episode."""
        inner = self.begin(key)
        return EnvState(inner, jnp.zeros((), jnp.int32)), self.observe(inner)


class AbstractPhysics(AbstractJaxEnv[Inner]):
    """An environment whose observation holds its state, so that one step is a function of the observation."""

    @abc.abstractmethod
    def recall(self, obs: Float[Array, "s"]) -> Inner:
        """The inner state that is observed as `obs`."""


def physics(env: object) -> Dynamics:
    """f(s, a, ξ) → (s', r, terminated) of an environment's own step from an observed state; ξ is not used.

    Raises UserError for an environment that JAX cannot differentiate, or whose state its observation does not hold.
    """
    if not isinstance(env, AbstractPhysics):
        why = (
            "its observation does not hold its state (AbstractPhysics)"
            if isinstance(env, AbstractJaxEnv)
            else "it is stepped on the host, which JAX cannot differentiate"
        )
        raise UserError(
            f"setting dynamics: env needs an environment of known physics, but for {env!r} {why}; choose learned, or "
            "give a function with model=."
        )

    def step(
        obs: Float[Arr, "s"], action: Float[Arr, "m"], noise: Float[Arr, "s"] | None
    ) -> tuple[Float[Array, "s"], Float[Array, ""], Bool[Array, ""]]:
        del noise
        inner, reward, terminated = env.transition(
            env.recall(jnp.asarray(obs)), jnp.asarray(action), jax.random.PRNGKey(0)
        )
        return env.observe(inner).astype(obs.dtype), reward.astype(obs.dtype), terminated

    return step


Stepped = tuple[
    EnvState[Inner], Float[Array, "s"], Float[Array, "s"], Float[Array, ""], Bool[Array, ""], Bool[Array, ""]
]


def auto_reset(env: AbstractJaxEnv[Inner]) -> Callable[[EnvState[Inner], Array, PRNGKeyArray], Stepped[Inner]]:
    """(state, action, key) → (state, next_obs, obs, reward, terminated, truncated): a step that begins a new episode
    where one ends. `next_obs` is the true last observation, `obs` the one to act on next."""

    def step(state: EnvState[Inner], action: Float[Array, "m"], key: PRNGKeyArray) -> Stepped[Inner]:
        step_key, reset_key = jax.random.split(key)
        inner, reward, terminated = env.transition(state.inner, action, step_key)
        time = state.time + 1
        next_obs = env.observe(inner)
        truncated = (time >= env.episode_length) & ~terminated
        done = terminated | truncated
        fresh, fresh_obs = env.reset(reset_key)
        after = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, EnvState(inner, time))
        return after, next_obs, jnp.where(done, fresh_obs, next_obs), reward, terminated, truncated

    return step


class Pendulum(AbstractPhysics[Array]):
    """Gymnasium's Pendulum-v1: θ̈ = 3g/(2l) sin θ + 3/(ml²) a, r = −(θ² + 0.1 θ̇² + 0.001 a²), 200 steps."""

    varying: ClassVar[tuple[str, ...]] = ("gravity",)
    dt: float = eqx.field(static=True, default=0.05)
    gravity: Scalar = eqx.field(static=True, default=10.0)

    @property
    def obs_size(self) -> int:
        return 3

    @property
    def action_set(self) -> Box:
        return Box((-2.0,), (2.0,))

    @property
    def episode_length(self) -> int:
        return 200

    def begin(self, key: PRNGKeyArray) -> Float[Array, "2"]:
        return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0) * jnp.array([jnp.pi, 1.0])

    def observe(self, inner: Float[Array, "2"]) -> Float[Array, "3"]:
        return jnp.stack([jnp.cos(inner[0]), jnp.sin(inner[0]), inner[1]])

    def recall(self, obs: Float[Array, "3"]) -> Float[Array, "2"]:
        return jnp.stack([jnp.arctan2(obs[1], obs[0]), obs[2]])

    def transition(
        self, inner: Float[Array, "2"], action: Float[Array, "1"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "2"], Float[Array, ""], Bool[Array, ""]]:
        angle, speed = inner
        torque = jnp.clip(action[0], -2.0, 2.0)
        upright = (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
        reward = -(upright**2 + 0.1 * speed**2 + 0.001 * torque**2)
        speed = jnp.clip(speed + (1.5 * self.gravity * jnp.sin(angle) + 3.0 * torque) * self.dt, -8.0, 8.0)
        return jnp.stack([angle + speed * self.dt, speed]), reward, jnp.zeros((), bool)


def _mjx_cart_pole() -> AbstractJaxEnv:
    from fittedq.envs.physics import mjx_cart_pole  # MuJoCo is an extra

    return mjx_cart_pole()


def _process(name: str) -> Callable[..., AbstractJaxEnv]:
    def make(**kwargs: object) -> AbstractJaxEnv:
        from fittedq.envs import process  # which is made of this module

        return getattr(process, name)(**kwargs)

    return make


JAX_ENVS: dict[str, Callable[..., AbstractJaxEnv]] = {
    "jax/Pendulum-v1": Pendulum,
    "jax/CartPole-v1": _process("CartPole"),
    "jax/TwoTanks-v1": _process("TwoTanks"),
    "jax/MjxCartPole-v1": _mjx_cart_pole,
}


def find_jax_env(name: str, **kwargs: object) -> AbstractJaxEnv:
    """The JAX environment registered as `jax/…`."""
    if name not in JAX_ENVS:
        raise UserError(f"environment {name!r} is unknown; {nearest(name, JAX_ENVS)}")
    try:
        return JAX_ENVS[name](**kwargs)
    except TypeError as error:
        raise UserError(f"environment {name!r} could not be made: {error}.") from error
