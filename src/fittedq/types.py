"""What flows between the slots of the template: transitions, action sets, approximators, greedy actions."""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from fittedq.errors import UserError

Arr = jax.Array | np.ndarray
"""An array on either side: the same formula serves the compiled learner (JAX) and acting on the host (NumPy)."""


HOST_TYPES = (np.ndarray, np.generic)


def namespace(*arrays: Any) -> Any:
    """`numpy` where every array is NumPy's, `jax.numpy` where JAX has or traces one."""
    return np if all(isinstance(array, HOST_TYPES) for array in arrays) else jnp


def inwards(low: Any, high: Any, dtype: Any) -> tuple[Any, Any]:
    """The ends of [low, high] as the numbers of `dtype` nearest to them from inside.

    To the nearest from anywhere would let an action out of its set. An interval that holds no number of `dtype`
    becomes one point, the first above `low`.
    """
    xp = namespace(low, high)
    low, high = xp.asarray(low), xp.asarray(high)
    if low.dtype != dtype or high.dtype != dtype:
        with np.errstate(over="ignore"):
            least, most = xp.asarray(low, dtype), xp.asarray(high, dtype)
        low = xp.where(least < low, xp.nextafter(least, xp.asarray(np.inf, dtype)), least)
        high = xp.where(most > high, xp.nextafter(most, xp.asarray(-np.inf, dtype)), most)
    return low, xp.maximum(low, high)


class Transition(NamedTuple):
    """A batch of (s, a, r, s', terminated, truncated).

    A named tuple: one is made at every environment step, where building a module would cost more than acting.
    `next_obs` is the true observation after the action, also at the end of an episode; only `terminated` stops the
    bootstrap, `truncated` (a time limit) does not.
    """

    obs: Float[Arr, "*b s"]
    action: Float[Arr, "*b m"]
    reward: Float[Arr, "*b"]
    next_obs: Float[Arr, "*b s"]
    terminated: Bool[Arr, "*b"]
    truncated: Bool[Arr, "*b"]

    @staticmethod
    def width(obs_size: int, action_size: int) -> int:
        """Columns of a packed row."""
        return 2 * obs_size + action_size + 3

    def pack(self) -> Float[Arr, "*b width"]:
        """One float row per transition: [s, a, s', r, terminated, truncated]."""
        xp = namespace(self.obs)
        scalars = xp.stack(
            [self.reward, self.terminated.astype(self.reward.dtype), self.truncated.astype(self.reward.dtype)], axis=-1
        )
        return xp.concatenate([self.obs, self.action, self.next_obs, scalars], axis=-1)

    @staticmethod
    def unpack(rows: Float[Arr, "*b width"], obs_size: int, action_size: int) -> Transition:
        """The inverse of `pack`."""
        action_end = obs_size + action_size
        next_end = action_end + obs_size
        return Transition(
            obs=rows[..., :obs_size],
            action=rows[..., obs_size:action_end],
            reward=rows[..., next_end],
            next_obs=rows[..., action_end:next_end],
            terminated=rows[..., next_end + 1] > 0.5,
            truncated=rows[..., next_end + 2] > 0.5,
        )


class AbstractActionSet(eqx.Module):
    """The set A(s) of admissible actions, in the environment's own units.

    A box is the first; a polytope, state-dependent bounds and integer coordinates answer the same questions. All lie in
    an outer box low ≤ a ≤ high, whose units policies and critics use.
    """

    low: eqx.AbstractVar[tuple[float, ...]]
    high: eqx.AbstractVar[tuple[float, ...]]

    @property
    def size(self) -> int:
        """m, the dimension of an action."""
        return len(self.low)

    @property
    def center(self) -> tuple[float, ...]:
        """The middle of the outer box."""
        return tuple((high + low) / 2 for low, high in zip(self.low, self.high, strict=True))

    @property
    def half_width(self) -> tuple[float, ...]:
        """Half the sides of the outer box."""
        return tuple((high - low) / 2 for low, high in zip(self.low, self.high, strict=True))

    @property
    def log_volume(self) -> float:
        """log |outer box|, at least log |A(s)|."""
        return float(np.sum(np.log(2 * np.asarray(self.half_width))))

    @property
    def integer(self) -> tuple[int, ...]:
        """The coordinates that are whole numbers."""
        return ()

    def to_unit(self, action: Float[Arr, "*b m"]) -> Float[Arr, "*b m"]:
        """(a − center) / half_width: the outer box becomes [−1, 1]^m."""
        xp = namespace(action)
        return (action - xp.asarray(self.center, action.dtype)) / xp.asarray(self.half_width, action.dtype)

    def from_unit(self, unit: Float[Arr, "*b m"]) -> Float[Arr, "*b m"]:
        """center + half_width · u, the inverse of `to_unit`; outside a box it may leave A(s)."""
        xp = namespace(unit)
        return xp.asarray(self.center, unit.dtype) + xp.asarray(self.half_width, unit.dtype) * unit

    def admissible(self, unit: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        """Π_A(s)(center + half_width · u) for u in [−1, 1]^m: what a squashed policy does."""
        return self.project(self.from_unit(unit), obs)

    @abc.abstractmethod
    def bounds(self, obs: Float[Arr, "*b s"], dtype: Any = None) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
        """The smallest box around A(s), per state; in `dtype`, else that of `obs`, its ends rounded inwards."""

    @abc.abstractmethod
    def project(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        """Π_A(s)(a), the nearest admissible action in the precision of `action`: one that `contains` accepts."""

    @abc.abstractmethod
    def contains(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Any:
        """Whether a ∈ A(s), row by row, without a tolerance."""


LARGEST = float(np.finfo(np.float32).max)
"""Of numbers in single precision, which actions have."""
NARROWEST = 1e-30
"""Of intervals of actions: what is divided by less overflows."""


@functools.cache
def _ends(
    low: tuple[float, ...], high: tuple[float, ...], dtype: Any
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """The ends of a box as arrays, made once: acting asks for them at every step."""
    return inwards(np.asarray(low), np.asarray(high), dtype)


class Box(AbstractActionSet):
    """A = {a : low ≤ a ≤ high}, finite and with an inside.

    Bounds are Python numbers, not arrays: nothing trains them, and they compile as constants.
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray):
        self.low = tuple(float(bound) for bound in np.ravel(np.asarray(low)))
        self.high = tuple(float(bound) for bound in np.ravel(np.asarray(high)))
        if not self.low or len(self.low) != len(self.high):
            raise UserError(
                f"action bounds: found {len(self.low)} lower and {len(self.high)} upper bounds, expected as many, "
                "at least one; give one pair per action dimension."
            )
        for axis, (low_bound, high_bound) in enumerate(zip(self.low, self.high, strict=True)):
            if not (abs(low_bound) <= LARGEST and abs(high_bound) <= LARGEST):
                raise UserError(
                    f"action bounds: dimension {axis} is [{low_bound}, {high_bound}], expected finite numbers "
                    f"of size at most {LARGEST:.3g}; rescale the action in the environment "
                    "(gymnasium.wrappers.RescaleAction) or give finite bounds."
                )
            if not low_bound < high_bound:
                raise UserError(
                    f"action bounds: dimension {axis} is [{low_bound}, {high_bound}], which is empty or one point; "
                    "expected low < high."
                )
            least, most = inwards(np.asarray(low_bound), np.asarray(high_bound), np.float32)
            if not float(most) - float(least) > NARROWEST:
                raise UserError(
                    f"action bounds: dimension {axis} is [{low_bound}, {high_bound}], which is too narrow for numbers "
                    "of single precision; rescale the action in the environment (gymnasium.wrappers.RescaleAction)."
                )

    def bounds(self, obs: Float[Arr, "*b s"], dtype: Any = None) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
        shape = (1,) * (obs.ndim - 1) + (self.size,)
        low, high = _ends(self.low, self.high, np.dtype(dtype or obs.dtype))
        xp = namespace(obs)
        return xp.asarray(low.reshape(shape)), xp.asarray(high.reshape(shape))

    def project(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        del obs
        return namespace(action).clip(action, *_ends(self.low, self.high, action.dtype))

    def contains(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Any:
        del obs
        low, high = _ends(self.low, self.high, action.dtype)
        return namespace(action).all((action >= low) & (action <= high), axis=-1)

    def admissible(self, unit: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        """The unit box is the box: nothing to project."""
        del obs
        return self.from_unit(unit)


class AbstractCritic(eqx.Module):
    """q(s, a; θ), an ensemble of n: one critic is an ensemble of one."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """n, the number of critics."""

    @abc.abstractmethod
    def __call__(
        self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray | None = None
    ) -> Float[Arr, "n b"]:
        """Each critic's value; `key` draws dropout masks, and without one dropout is off."""

    @abc.abstractmethod
    def subset(self, indices: Any) -> AbstractCritic:
        """The critics at `indices`."""


class AbstractPolicy(eqx.Module):
    """π(a | s; w), deterministic or stochastic, in the environment's units."""

    action_set: eqx.AbstractVar[AbstractActionSet]

    @abc.abstractmethod
    def act(self, obs: Float[Arr, "b s"], normal: Float[Arr, "b m"]) -> Float[Arr, "b m"]:
        """The action that standard-normal draws `normal` give; zeros give the mode."""

    @abc.abstractmethod
    def sample(self, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> tuple[Float[Arr, "b m"], Float[Arr, "b"]]:
        """(a, log π(a | s)) with a ~ π(· | s), differentiable in w; a deterministic policy gives log π := 0."""


class AbstractValue(eqx.Module):
    """v(s; ψ)."""

    @abc.abstractmethod
    def __call__(self, obs: Float[Arr, "b s"], key: PRNGKeyArray | None = None) -> Float[Arr, "b"]: ...


class Approximators(eqx.Module):
    """The components an algorithm may fit; those it has not are None."""

    critic: Any = None
    policy: Any = None
    value: Any = None
    model: Any = None
    log_temperature: Any = None
    horizon: Any = None
    """Steps through the model, where that number is measured rather than set."""

    def replace(self, component: str, value: Any) -> Approximators:
        """These components with one exchanged."""
        parts = self.parts()
        parts[component] = value
        return Approximators(**parts)

    def parts(self) -> dict[str, Any]:
        """Components by name."""
        return {name: getattr(self, name) for name in COMPONENTS}

    def over(self, other: Approximators) -> Approximators:
        """These components where present, else those of `other`: the frozen copies laid over the live ones."""
        mine, theirs = self.parts(), other.parts()
        return Approximators(**{name: theirs[name] if mine[name] is None else mine[name] for name in COMPONENTS})

    @property
    def temperature(self) -> Any:
        """β = exp(log_temperature); 0 where there is none, the hard case."""
        return 0.0 if self.log_temperature is None else jnp.exp(self.log_temperature)


COMPONENTS: tuple[str, ...] = ("critic", "policy", "value", "model", "log_temperature", "horizon")


class Greedy(eqx.Module):
    """An action near argmax_a q(s', a) for every s' of a batch.

    `solved` marks the rows where a solver, not a policy, gave the action; `upper_bound` is a proven bound on
    max_a q(s', a), or None where the method has none.
    """

    action: Float[Arr, "b m"]
    log_prob: Float[Arr, "b"]
    solved: Bool[Arr, "b"]
    upper_bound: Float[Arr, "b"] | None = None
