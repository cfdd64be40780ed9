"""What flows between the slots of the template: transitions, action sets, components, greedy actions."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import Arr, Index, Scalar, Tree, namespace
from fittedq.bellman import least
from fittedq.errors import UserError

REWARD = -3
"""The reward's column of a packed row."""


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


class DrawnRows(NamedTuple):
    """What the rows of a batch have beside their transitions, by how they were drawn; None where they have it not."""

    discount: Float[Arr, "*b"] | None = None
    """γⁿ⁻¹, where n steps lie between s and s', and the reward is the discounted sum of theirs."""
    weight: Float[Arr, "*b"] | None = None
    """What the error of a row counts."""
    state: Float[Arr, "*b x"] | None = None
    """A state of the environment's own at s, from which a model of known physics goes on."""
    next_action: Float[Arr, "*b m"] | None = None
    """The action that was taken at s'; NaN where no row tells."""

    @staticmethod
    def width(columns: tuple[str, ...], action_size: int) -> int:
        """How many numbers columns of these names are."""
        return sum(action_size if name == "next_action" else 1 for name in columns)

    @staticmethod
    def unpack(rows: Float[Arr, "*b width"], width: int, columns: tuple[str, ...]) -> DrawnRows | None:
        """The columns of these names, which follow a row's own `width`; `next_action` is the last and has the rest."""
        if not columns:
            return None
        own = {name: rows[..., width + place] for place, name in enumerate(columns)}
        if "next_action" in own:
            own["next_action"] = rows[..., width + len(columns) - 1 :]
        return DrawnRows(**own)


Dynamics = Callable[
    [Float[Arr, "s"], Float[Arr, "m"], Float[Arr, "s"]], tuple[Float[Arr, "s"], Float[Arr, ""], Bool[Arr, ""] | bool]
]
"""f(s, a, ξ) → (s', r, terminated) of one state, in JAX; ξ is standard normal."""


class AbstractCritic(eqx.Module):
    """q(s, a; θ), an ensemble of n: one critic is an ensemble of one.

    `action_set` gives the actions their units; `has_gradient` says whether JAX can differentiate q by the action.
    """

    action_set: eqx.AbstractVar[AbstractActionSet]
    has_gradient: ClassVar[bool] = True

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
    def subset(self, indices: Index) -> AbstractCritic:
        """The critics at `indices`."""

    def least(self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"]) -> Float[Arr, "b"]:
        """q(s, a) = min_j q_j(s, a), dropout off: what solvers maximize and agents report."""
        return least(self(obs, action))


class AbstractPolicy(eqx.Module):
    """π(a | s; w), deterministic or stochastic, in the environment's units."""

    action_set: eqx.AbstractVar[AbstractActionSet]

    @abc.abstractmethod
    def act(self, obs: Float[Arr, "b s"], normal: Float[Arr, "b m"]) -> Float[Arr, "b m"]:
        """The action that standard-normal draws `normal` give; zeros give the mode."""

    @abc.abstractmethod
    def sample(self, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> tuple[Float[Arr, "b m"], Float[Arr, "b"]]:
        """(a, log π(a | s)) with a ~ π(· | s), differentiable in w; a deterministic policy gives log π := 0."""


class AbstractDensityPolicy(AbstractPolicy):
    """A stochastic policy that says how likely any action is, its own or a logged one."""

    @abc.abstractmethod
    def log_density(self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"]) -> Float[Arr, "b"]:
        """log π(a | s), a density in the environment's units, differentiable in w."""


@runtime_checkable
class HostPolicy(Protocol):
    """What acts on the host: a policy's host view, or a solver."""

    def act(self, obs: Float[np.ndarray, "b s"], normal: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "b m"]:
        """As `AbstractPolicy.act`."""
        ...


class AbstractValue(eqx.Module):
    """v(s; ψ)."""

    @abc.abstractmethod
    def __call__(self, obs: Float[Arr, "b s"], key: PRNGKeyArray | None = None) -> Float[Arr, "b"]:
        """The value of each state; `key` draws dropout masks, and without one dropout is off."""


class Predicted(eqx.Module):
    """What follows (x, a): `continues` is the probability that the episode does not terminate there."""

    next_state: Tree
    """x', of a model that goes on from observations s'."""
    reward: Float[Arr, "b"]
    continues: Float[Arr, "b"]


class AbstractModel(eqx.Module):
    """f(x, a, ξ), ξ ~ N(0, I) of the observation's size; x is the observation, or a state of the model's own.

    `own_units` says whether its observations and rewards are the plant's own numbers, whatever the networks read.
    """

    own_units: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def stored(self) -> int:
        """Numbers of a state of its own, which a replay keeps beside each row; 0: it goes on from observations."""

    @abc.abstractmethod
    def begin(self, obs: Float[Arr, "b s"], stored: Float[Arr, "b x"] | None) -> Tree:
        """x, of a batch of observations and what was stored beside them."""

    @abc.abstractmethod
    def observe(self, state: Tree) -> Float[Arr, "b s"]:
        """s of x."""

    @abc.abstractmethod
    def __call__(self, state: Tree, action: Float[Arr, "b m"], noise: Float[Arr, "b s"]) -> Predicted:
        """The step that the noise gives."""

    @abc.abstractmethod
    def infer(
        self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], next_obs: Float[Arr, "b s"]
    ) -> Float[Arr, "b s"]:
        """ξ = σ_f⁻¹(s' − μ_f): the noise that gives s'. Source: Heess et al. 2015, section 4."""


class AbstractEncoder(eqx.Module):
    """Embeddings z_s of states and z_sa of state-action pairs, actions in the unit box."""

    @property
    @abc.abstractmethod
    def obs_size(self) -> int:
        """s."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """z, of z_s and of z_sa."""

    @abc.abstractmethod
    def state(self, obs: Float[Arr, "b s"]) -> Float[Arr, "b z"]:
        """z_s."""

    @abc.abstractmethod
    def pair(self, embedded: Float[Arr, "b z"], action: Float[Arr, "b m"]) -> Float[Arr, "b z"]:
        """z_sa of z_s and a."""


class Components(eqx.Module):
    """The components an algorithm may fit; those it has not are None."""

    critic: AbstractCritic | None = None
    policy: AbstractPolicy | None = None
    value: AbstractValue | None = None
    model: AbstractModel | None = None
    log_temperature: Float[Arr, ""] | None = None
    horizon: Int[Arr, ""] | None = None
    """Steps through the model, where that number is measured rather than set."""
    encoder: AbstractEncoder | None = None
    """Embeddings that the critic and the policy read; they hold copies of it."""
    behaviour: AbstractDensityPolicy | None = None
    """What the log did: a policy that imitates it, whatever it earned."""

    def replace(self, component: str, value: Tree) -> Components:
        """These components with one exchanged."""
        parts = self.parts()
        parts[component] = value
        return Components(**parts)

    def parts(self) -> dict[str, Tree]:
        """Components by name."""
        return {name: getattr(self, name) for name in COMPONENTS}

    @property
    def acting(self) -> Components:
        """What acts, alone: the policy, or the critic where there is none."""
        return Components(critic=self.critic) if self.policy is None else Components(policy=self.policy)

    def over(self, other: Components) -> Components:
        """These components where present, else those of `other`: the frozen copies laid over the live ones."""
        mine, theirs = self.parts(), other.parts()
        return Components(**{name: theirs[name] if mine[name] is None else mine[name] for name in COMPONENTS})

    @property
    def temperature(self) -> Scalar:
        """β = exp(log_temperature); 0 where there is none, the hard case."""
        return 0.0 if self.log_temperature is None else jnp.exp(self.log_temperature)


Part = TypeVar("Part")


def needed(part: Part | None) -> Part:
    """`part`, which is certainly there: of what a slot reads `FQI` has seen to that, by the slot's `needs`."""
    if part is None:
        raise UserError(
            "a slot reads a component, or the greedy step, that the template does not give; name in its `needs` what "
            "it reads, and give the template that."
        )
    return part


COMPONENTS: tuple[str, ...] = (
    "critic",
    "policy",
    "value",
    "model",
    "log_temperature",
    "horizon",
    "encoder",
    "behaviour",
)


@functools.singledispatch
def sized_part(component: Tree, arrays: Mapping[str, np.ndarray]) -> Tree:
    """A component in the shapes of its saved `arrays`, by their names in it. Classes that grow with their data register
    how; all others are what they are."""
    del arrays
    return component


def sized(nets: Components, arrays: Mapping[str, np.ndarray]) -> Components:
    """`nets` in the shapes of saved arrays, named `nets/component/…`, for components that grow with their data."""

    def of(name: str) -> dict[str, np.ndarray]:
        prefix = f"nets/{name}/"
        return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}

    return Components(**{name: sized_part(part, of(name)) for name, part in nets.parts().items()})


class Greedy(eqx.Module):
    """An action near argmax_a q(s', a) for every s' of a batch.

    `solved` marks the rows where a solver, not a policy, gave the action; `upper_bound` is a proven bound on
    max_a q(s', a), or None where the method has none. `logged` is the action that was taken at s', NaN where no row
    tells, and None where nobody asks for it.
    """

    action: Float[Arr, "b m"]
    log_prob: Float[Arr, "b"]
    solved: Bool[Arr, "b"]
    upper_bound: Float[Arr, "b"] | None = None
    logged: Float[Arr, "b m"] | None = None
