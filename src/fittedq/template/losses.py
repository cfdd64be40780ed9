# pyright: reportUnknownMemberType=false
"""What one regression minimizes: `label` builds its dataset D under frozen components, the call is the loss on D."""

from __future__ import annotations

import abc
from typing import ClassVar, Generic, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from fittedq.arrays import Arr, Scalar, Tree
from fittedq.bellman import soft_value, temperature_loss
from fittedq.template.targets import AbstractCombine, AbstractTarget, Labelled
from fittedq.types import AbstractPolicy, Components, Greedy, Transition, needed

Metrics = dict[str, Scalar]


Component = TypeVar("Component")
D = TypeVar("D")


class AbstractLoss(eqx.Module, Generic[Component, D]):
    """`label` gets the frozen components laid over the live ones. The call gets the component that is fitted, and
    the live ones."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What it reads, as `FQI` checks it."""
    solved_only: ClassVar[bool] = False
    """Whether D, over a dataset, is made of what a solver found and of nothing else: its rows and its actions."""

    @abc.abstractmethod
    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> D:
        """D, a pytree whose leaves share their first axis. No gradient passes through it."""

    def prepare(self, component: Component, data: D) -> Component:
        """The component before it is fitted to D. One that keeps statistics of its data takes those of D in."""
        return component

    @abc.abstractmethod
    def __call__(
        self, component: Component, nets: Components, data: D, key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]: ...


Loss: TypeAlias = AbstractLoss[Tree, Tree]
"""Of any component, on any D."""


class AbstractRegression(AbstractLoss[Component, Labelled]):
    """A loss between f(x) and y, D = {(x, y)} as `target` labels it."""

    target: eqx.AbstractVar[AbstractTarget]

    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        return self.target(nets, batch, greedy, key)


class Regress(AbstractRegression[Tree]):
    """Σ_j mean_D (f_j(x) − y)²: every member of an ensemble is regressed on the same y."""

    target: AbstractTarget

    def __call__(
        self, component: Tree, nets: Components, data: Labelled, key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        prediction = component(*data.inputs, key)
        loss = jnp.sum(jnp.mean((prediction - data.y) ** 2, axis=-1))
        metrics = {"mean": jnp.mean(prediction), "max_abs": jnp.max(jnp.abs(prediction)), "target": jnp.mean(data.y)}
        return loss, {"loss": loss, **metrics}


class Improve(AbstractLoss[AbstractPolicy, Float[Arr, "b s"]]):
    """mean_s [β log π(a | s) − q(s, a)], a = π(s) or a ~ π(· | s): descend it, and π climbs q.

    With β = 0 this is the deterministic policy gradient's objective (chapter, NFQCA); otherwise it is
    β · KL(π ‖ exp(q/β)/Z) up to a constant in w (Haarnoja et al. 2018, eq. 12).
    """

    combine: AbstractCombine

    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Float[Arr, "b s"]:
        return batch.obs

    def __call__(
        self, component: AbstractPolicy, nets: Components, data: Float[Arr, "b s"], key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        action_key, critic_key = jax.random.split(key)
        action, log_prob = component.sample(data, action_key)
        q = self.combine(needed(nets.critic), data, action, critic_key)
        loss = -jnp.mean(soft_value(q, log_prob, jax.lax.stop_gradient(nets.temperature)))
        return loss, {"loss": loss, "log_prob": jnp.mean(log_prob)}


class TuneTemperature(AbstractLoss[Float[Arr, ""], Float[Arr, "b"]]):
    """−β · mean(log π(a' | s') + H̄), a' ~ π the action the greedy step drew: no further pass through the policy."""

    needs: ClassVar[frozenset[str]] = frozenset({"greedy"})
    target_entropy: float = eqx.field(static=True)

    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Float[Arr, "b"]:
        return needed(greedy).log_prob

    def __call__(
        self, component: Float[Arr, ""], nets: Components, data: Float[Arr, "b"], key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        loss = temperature_loss(component, data, self.target_entropy)
        return loss, {"temperature": jnp.exp(component), "entropy": -jnp.mean(data)}


class Imitated(eqx.Module):
    """A regression set of states and maximizers; rows of weight 0 are not in it."""

    obs: Float[Arr, "b s"]
    action: Float[Arr, "b m"]
    weight: Float[Arr, "b"]


class Imitate(AbstractLoss[AbstractPolicy, Imitated]):
    """Σ_{B_opt} ‖(π(s') − a*(s')) / half_width‖² / |B_opt|, and 0 where B_opt is empty.

    Source: chapter, "Amortized Optimization", with B_opt a mask over the rows.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"greedy", "solver"})
    solved_only: ClassVar[bool] = True

    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Imitated:
        greedy = needed(greedy)
        return Imitated(batch.next_obs, greedy.action, greedy.solved.astype(greedy.action.dtype))

    def __call__(
        self, component: AbstractPolicy, nets: Components, data: Imitated, key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        action, _ = component.sample(data.obs, key)
        half_width = jnp.asarray(component.action_set.half_width, action.dtype)
        error = jnp.sum(((action - data.action) / half_width) ** 2, axis=-1)
        loss = jnp.sum(data.weight * error) / jnp.maximum(jnp.sum(data.weight), 1.0)
        return loss, {"loss": loss, "solved": jnp.mean(data.weight)}
