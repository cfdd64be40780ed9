# pyright: reportUnknownMemberType=false
"""Known physics of an environment whose observation does not hold its state: rollouts go on from states of its own."""

from __future__ import annotations

from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from fittedq.arrays import Arr, Tree
from fittedq.code import told
from fittedq.envs.native import AbstractJaxEnv, AbstractPhysics, physics
from fittedq.errors import UserError, in_one_line
from fittedq.types import AbstractModel, Dynamics, Predicted

DEAD_TIME = 64
"""Steps within which an action must reach an observation or a reward."""
HALF = 2**16
"""A whole number of 32 bits is two of 16, which single precision holds exactly."""


@final
class Simulator:
    """An environment and the layout of its state in a flat vector; equal to itself only, so that nothing of it is
    compared when programs are looked up."""

    def __init__(self, env: AbstractJaxEnv[Any]):
        self.env = env
        shapes = jax.eval_shape(env.begin, jax.eval_shape(lambda: jax.random.PRNGKey(0)))
        leaves, self.tree = jax.tree.flatten(shapes)
        for leaf in leaves:
            if leaf.dtype.itemsize > 4 or (not jnp.issubdtype(leaf.dtype, jnp.number) and leaf.dtype.kind != "b"):
                raise UserError(
                    f"setting dynamics: the state of {told(env)} holds {leaf.dtype}, expected numbers of at most 32 "
                    "bits; choose learned."
                )
        self.leaves = tuple(leaves)
        self.size = sum(leaf.size * _columns(leaf.dtype) for leaf in leaves)

    def flat(self, inner: Tree) -> Float[Array, "x"]:
        """The state as numbers of single precision, exactly."""
        return jnp.concatenate([_to_floats(jnp.asarray(leaf)) for leaf in jax.tree.leaves(inner)])

    def unflat(self, flat: Float[Array, "x"]) -> Tree:
        """The state that `flat` was made of."""
        leaves, place = [], 0
        for leaf in self.leaves:
            size = leaf.size * _columns(leaf.dtype)
            leaves.append(_from_floats(flat[place : place + size], leaf))
            place += size
        return self.tree.unflatten(leaves)


class SimulatorModel(AbstractModel):
    """x', r, terminated = the environment's own step from its own state x under a; s = observe(x).

    What the environment draws at random is drawn with a key made of ξ, so that the same noise gives the same step.
    """

    own_units: ClassVar[bool] = True
    simulator: Simulator = eqx.field(static=True)

    @property
    def stored(self) -> int:
        return self.simulator.size

    def begin(self, obs: Float[Arr, "b s"], stored: Float[Arr, "b x"] | None) -> Tree:
        if stored is None:
            raise UserError(
                f"setting dynamics: the observation of {told(self.simulator.env)} does not hold its state, so rollouts "
                "start where it was; they need critic_target td, a horizon that is fixed, and no health_every."
            )
        return jax.vmap(self.simulator.unflat)(jnp.asarray(stored))

    def observe(self, state: Tree) -> Float[Arr, "b s"]:
        return jax.vmap(self.simulator.env.observe)(state)

    def __call__(self, state: Tree, action: Float[Arr, "b m"], noise: Float[Arr, "b s"]) -> Predicted:
        keys = jax.vmap(_key_of)(jnp.asarray(noise))
        after, reward, terminated = jax.vmap(self.simulator.env.transition)(state, jnp.asarray(action), keys)
        return Predicted(after, reward, 1.0 - terminated.astype(reward.dtype))

    def infer(
        self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], next_obs: Float[Arr, "b s"]
    ) -> Float[Arr, "b s"]:
        raise UserError("setting noise: a simulator draws what it draws; expected fresh.")

    def check(self, state: Tree, action: Float[Arr, "b m"]) -> None:
        """A UserError unless a step and its derivative by the action are finite from these states, and what is seen
        within `DEAD_TIME` steps depends on the action."""
        env = self.simulator.env

        def steps(act: Arr) -> tuple[Arr, Arr]:
            def step(state: Tree, _: None) -> tuple[Tree, tuple[Arr, Arr]]:
                predicted = self(state, act, jnp.zeros((len(act), env.obs_size)))
                return predicted.next_state, (self.observe(predicted.next_state), predicted.reward)

            return jax.lax.scan(step, state, None, DEAD_TIME)[1]

        direction = jax.random.normal(jax.random.PRNGKey(0), action.shape, action.dtype)
        try:
            values, change = jax.jit(lambda act: jax.jvp(steps, (act,), (direction,)))(jnp.asarray(action))
        except Exception as error:
            raise UserError(
                f"setting dynamics: JAX cannot differentiate the step of {told(env)} ({in_one_line(error)}); choose "
                "learned."
            ) from error
        finite = all(bool(jnp.isfinite(part[0]).all()) for part in (*values, *change))
        if not finite or not any(bool((part != 0.0).any()) for part in change):
            found = "zero everywhere" if finite else "not finite"
            raise UserError(
                "setting dynamics: env needs a step that can be differentiated, but at first states that of "
                f"{told(env)} has a derivative by the action that is {found}; choose learned."
            )


def physics_of(env: object) -> Dynamics | AbstractModel:
    """The environment's own step: from an observation where that holds the state, else from stored states."""
    if isinstance(env, AbstractJaxEnv) and not isinstance(env, AbstractPhysics):
        return SimulatorModel(Simulator(env))
    return physics(env)


def _key_of(noise: Float[Array, "s"]) -> PRNGKeyArray:
    bits = jax.lax.bitcast_convert_type(noise.astype(jnp.float32), jnp.uint32)
    return jax.random.fold_in(jax.random.PRNGKey(0), jnp.sum(bits, dtype=jnp.uint32))


def _columns(dtype: np.dtype) -> int:
    return 1 if jnp.issubdtype(dtype, jnp.floating) or dtype.kind == "b" else 2


def _to_floats(leaf: Array) -> Float[Array, "k"]:
    if _columns(leaf.dtype) == 1:
        return leaf.astype(jnp.float32).ravel()
    bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.int32 if leaf.dtype.kind == "i" else jnp.uint32), jnp.uint32)
    return jnp.stack([bits // HALF, bits % HALF], axis=-1).astype(jnp.float32).ravel()


def _from_floats(flat: Float[Array, "k"], leaf: jax.ShapeDtypeStruct) -> Array:
    if _columns(leaf.dtype) == 1:
        return (flat > 0.5 if leaf.dtype.kind == "b" else flat.astype(leaf.dtype)).reshape(leaf.shape)
    halves = flat.reshape(*leaf.shape, 2).astype(jnp.uint32)
    bits = halves[..., 0] * HALF + halves[..., 1]
    signed = jax.lax.bitcast_convert_type(bits, jnp.int32) if leaf.dtype.kind == "i" else bits
    return signed.astype(leaf.dtype)
