# pyright: reportUnknownMemberType=false
"""Environments with the interface of gymnax, the package's and anyone's: reset(key, params), step(key, state, action,
params)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from fittedq.actions.base import Box
from fittedq.arrays import Tree
from fittedq.code import find_code
from fittedq.envs.native import AbstractJaxEnv, find_jax_env
from fittedq.errors import UserError, in_one_line

GYMNAX = "gymnax/"
"""Of names: gymnax/module:Name."""
STARTS, STEPS = ("reset_env", "reset"), ("step_env", "step")
"""Methods by preference: gymnax's `step` begins a new episode by itself, its `step_env` does not."""


class GymnaxState(eqx.Module):
    """The environment's own state, what is observed of it, and the steps taken."""

    own: Tree
    obs: Float[Array, "s"]
    steps: Int[Array, ""]


class Held(NamedTuple):
    """What is compiled in: the environment's two functions, its parameters, and where its actions lie."""

    start: Callable[..., Any]
    step: Callable[..., Any]
    params: object
    box: Box
    shape: tuple[int, ...]
    """Of an action."""
    obs_size: int
    dtypes: tuple[np.dtype, ...]
    """Of the leaves of a state after a step; those of a first one may be others."""
    ends: int | None
    """The step at which `done` says that time is up, where it says so."""

    __hash__ = object.__hash__


@final
class Gymnax(AbstractJaxEnv[GymnaxState]):
    """`env` of the gymnax interface as an environment of ours.

    reset(key, params) → (obs, state); step(key, state, action, params) → (obs, state, reward, done, info). Where there
    are `reset_env` and `step_env`, as in gymnax, these are taken; a `step` of its own must not begin a new episode. The
    time limit is `episode_length`, by default params.max_steps_in_episode, and it truncates: it terminates nothing.
    `params` are the environment's `default_params`, unless others are given; a mapping replaces some of them. Actions
    lie in `action_space(params)`, a box. Observations are any arrays, one after another in a flat vector.

    The observation need not hold the state: `svg` with dynamics=env starts its rollouts from states that were stored.
    """

    _held: Held = eqx.field(static=True)
    name: str = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    def __init__(self, env: object, params: object = None, *, episode_length: int | None = None):
        self.name = type(env).__name__
        start = self._method(env, STARTS, "(key, params)")
        step = self._method(env, STEPS, "(key, state, action, params)")
        space = self._method(env, ("action_space",), "(params) that gives a Box")
        self.steps, params = self._parameters(env, params, episode_length)
        box, shape = self._box(space, params)
        # gymnax separates the time limit from the end; older interfaces put both into `done`.
        ends = None if hasattr(env, "is_truncated") else getattr(params, "max_steps_in_episode", None)
        trial = Held(start, step, params, box, shape, 0, (), None if ends is None else int(ends))
        self._held = trial
        self._held = self._looked_at(trial)

    def __repr__(self) -> str:
        return f"Gymnax({self.name})"

    def _wrong(self, what: str) -> UserError:
        return UserError(f"environment {self.name}: {what}, as the gymnax interface has it.")

    def _method(self, env: object, names: tuple[str, ...], signature: str) -> Callable[..., Any]:
        for name in names:
            if callable(getattr(env, name, None)):
                return getattr(env, name)
        raise self._wrong(f"it has no {names[-1]}; expected a method {names[-1]}{signature}")

    def _parameters(self, env: object, params: object, episode_length: int | None) -> tuple[int, object]:
        """(steps of an episode, parameters)."""
        if params is None or isinstance(params, Mapping):
            default = getattr(env, "default_params", None)
            replace = getattr(default, "replace", None)
            if params and replace is None:
                raise self._wrong(f"it has no default_params with replace for {dict(params)!r}; give params whole")
            try:
                params = replace(**params) if params and replace is not None else default
            except TypeError as error:
                raise self._wrong(f"its params: {in_one_line(error)}") from None
        steps = getattr(params, "max_steps_in_episode", None) if episode_length is None else episode_length
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise UserError(
                f"environment {self.name}: found {steps!r} steps for an episode, expected a whole number above 0; give "
                "episode_length=…"
            )
        return steps, params

    def _box(self, action_space: Callable[..., Any], params: object) -> tuple[Box, tuple[int, ...]]:
        try:
            space = action_space(params)
        except Exception as error:
            raise self._wrong(f"its action_space raised {type(error).__name__}: {in_one_line(error)}") from error
        if not all(hasattr(space, name) for name in ("low", "high", "shape")):
            raise self._wrong(f"found the action space {type(space).__name__}, expected a Box of continuous actions")
        shape = tuple(int(size) for size in space.shape)
        low, high = (np.broadcast_to(np.asarray(end, float), shape).ravel() for end in (space.low, space.high))
        return Box(low, high), shape

    def _looked_at(self, held: Held) -> Held:
        """With the sizes and types that tracing a reset and a step shows; a UserError where they are other ones."""
        key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
        found = self._traced("reset", lambda key: held.start(key, held.params), key)
        if not isinstance(found, tuple) or len(found) != 2:
            raise self._wrong(f"its reset returned {_values(found)}, expected two: observation and state")
        obs, state = found
        obs_size = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(obs))
        action = jax.ShapeDtypeStruct(held.shape, jnp.float32)
        after = self._traced("step", lambda *given: held.step(*given, held.params), key, state, action)
        if not isinstance(after, tuple) or len(after) not in (5, 6):
            found = f"its step returned {_values(after)}"
            raise self._wrong(f"{found}, expected five: observation, state, reward, done and info")
        if getattr(after[2], "shape", None) != () or getattr(after[3], "shape", None) != ():
            raise self._wrong("its step returned a reward or a done that is not one number")
        before, then = (jax.tree.map(jnp.shape, part) for part in ((obs, state), after[:2]))
        if before != then:
            raise self._wrong(f"the shapes after a step are {then}, and {before} after a reset; expected the same")
        if not obs_size:
            raise self._wrong("its observation holds no number")
        return held._replace(obs_size=obs_size, dtypes=tuple(leaf.dtype for leaf in jax.tree.leaves(after[1])))

    def _traced(self, name: str, function: Callable[..., Any], *inputs: Tree) -> Tree:
        try:
            return jax.eval_shape(function, *inputs)
        except UserError:
            raise
        except Exception as error:
            raise self._wrong(f"its {name} raised {type(error).__name__}: {in_one_line(error)}") from error

    @property
    def params(self) -> object:
        """The parameters that it was made with."""
        return self._held.params

    @property
    def obs_size(self) -> int:
        return self._held.obs_size

    @property
    def action_set(self) -> Box:
        return self._held.box

    @property
    def episode_length(self) -> int:
        return self.steps

    def begin(self, key: PRNGKeyArray) -> GymnaxState:
        return self.begin_with(self.params, key)

    def observe(self, inner: GymnaxState) -> Float[Array, "s"]:
        return inner.obs

    def transition(
        self, inner: GymnaxState, action: Float[Array, "m"], key: PRNGKeyArray
    ) -> tuple[GymnaxState, Float[Array, ""], Bool[Array, ""]]:
        return self.transition_with(self.params, inner, action, key)

    def begin_with(self, params: object, key: PRNGKeyArray) -> GymnaxState:
        """`begin` under other parameters."""
        obs, own = self._held.start(_plain(key), params)
        leaves, tree = jax.tree.flatten(own)
        own = tree.unflatten([jnp.asarray(leaf, dtype) for leaf, dtype in zip(leaves, self._held.dtypes, strict=True)])
        return GymnaxState(own, _flat(obs), jnp.zeros((), jnp.int32))

    def transition_with(
        self, params: object, inner: GymnaxState, action: Float[Array, "m"], key: PRNGKeyArray
    ) -> tuple[GymnaxState, Float[Array, ""], Bool[Array, ""]]:
        """`transition` under other parameters."""
        held = self._held
        obs, own, reward, done = held.step(_plain(key), inner.own, action.reshape(held.shape), params)[:4]
        steps = inner.steps + 1
        terminated = jnp.asarray(done, bool)
        if held.ends is not None:
            terminated &= steps < held.ends
        return GymnaxState(own, _flat(obs), steps), jnp.asarray(reward, jnp.float32), terminated


@final
class GymnaxWith(AbstractJaxEnv[GymnaxState]):
    """`env` under other parameters, which may be numbers inside a compiled program; its actions and times stay."""

    env: Gymnax
    params: object = eqx.field(static=True)

    @property
    def obs_size(self) -> int:
        return self.env.obs_size

    @property
    def action_set(self) -> Box:
        return self.env.action_set

    @property
    def episode_length(self) -> int:
        return self.env.episode_length

    def begin(self, key: PRNGKeyArray) -> GymnaxState:
        return self.env.begin_with(self.params, key)

    def observe(self, inner: GymnaxState) -> Float[Array, "s"]:
        return inner.obs

    def transition(
        self, inner: GymnaxState, action: Float[Array, "m"], key: PRNGKeyArray
    ) -> tuple[GymnaxState, Float[Array, ""], Bool[Array, ""]]:
        return self.env.transition_with(self.params, inner, action, key)


def found_gymnax(name: str, kwargs: Mapping[str, Any]) -> Gymnax:
    """The environment gymnax/module:Name: a class, whose arguments are `kwargs`, or an object.

    `params` (a mapping) and `episode_length` among them are `Gymnax`'s own.
    """
    called = f"environment {name!r}"
    made: object = find_code(name.removeprefix(GYMNAX), called)
    own = {key: value for key, value in kwargs.items() if key in ("params", "episode_length")}
    rest = {key: value for key, value in kwargs.items() if key not in own}
    if callable(made) and (isinstance(made, type) or not any(hasattr(made, method) for method in STEPS)):
        try:
            made = made(**rest)
        except Exception as error:
            raise UserError(f"{called} could not be made: {type(error).__name__}: {in_one_line(error)}.") from error
    elif rest:
        raise UserError(f"{called} is an object, which takes no arguments; leave out {', '.join(rest)}.")
    return Gymnax(made, own.get("params"), episode_length=own.get("episode_length"))


COMPILED = ("jax/", GYMNAX)
"""Prefixes of the names of environments that a compiled loop can step."""


def find_compiled(name: str, kwargs: Mapping[str, Any]) -> AbstractJaxEnv:
    """The environment of a name that begins with one of `COMPILED`."""
    return found_gymnax(name, kwargs) if name.startswith(GYMNAX) else find_jax_env(name, **kwargs)


def _plain(key: PRNGKeyArray) -> PRNGKeyArray:
    """The key as numbers: an environment may keep one in its state, which has one type."""
    return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


def _flat(obs: Tree) -> Float[Array, "s"]:
    return jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(obs)])


def _values(found: object) -> str:
    return f"{len(found)} values" if isinstance(found, tuple) else f"one value of type {type(found).__name__}"
