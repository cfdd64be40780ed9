# pyright: reportUnknownMemberType=false
"""What one regression minimizes: `label` builds its dataset D under frozen components, the call is the loss on D."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar, Generic, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from fittedq.approx.heads import AbstractHead
from fittedq.approx.net import having_seen, in_batch
from fittedq.approx.networks import DeterministicPolicy, QNetwork, answering
from fittedq.arrays import Arr, Scalar, Tree
from fittedq.bellman import soft_value, temperature_loss
from fittedq.errors import UserError
from fittedq.slots import NOT_NEGATIVE, AbstractSlot, written_for
from fittedq.template.returned import checked_labels
from fittedq.template.targets import AbstractCombine, AbstractTarget, Labelled
from fittedq.types import (
    AbstractCritic,
    AbstractEncoder,
    AbstractPolicy,
    Components,
    DrawnRows,
    Greedy,
    Transition,
    needed,
)

Metrics = dict[str, Scalar]

STATISTICS = "statistics"
"""The entry of a loss's metrics that is none: the batch's statistics, for the component's network to take in."""


ERRORS = "errors"
"""The entry of a loss's metrics that is a number for each row, not one for all: max_j |f_j(x) − y|."""


def with_errors(metrics: Metrics, data: Labelled, error: Float[Arr, "*n b"]) -> Metrics:
    """The metrics, with |error| of each row where rows are drawn by it."""
    if data.importance is None:
        return metrics
    return metrics | {ERRORS: jnp.max(jnp.abs(error).reshape(-1, error.shape[-1]), axis=0)}


def by_importance(each: Float[Arr, "*n b"], data: Labelled) -> Float[Arr, "*n b"]:
    """The rows' losses, each times what its row counts."""
    return each if data.importance is None else each * data.importance


class AbstractError(AbstractSlot):
    """ℓ(δ) of one error δ = f(x) − y."""

    @abc.abstractmethod
    def __call__(self, difference: Float[Arr, "*b"]) -> Float[Arr, "*b"]:
        """ℓ of each."""


class Squared(AbstractError):
    """ℓ(δ) = δ²."""

    def __call__(self, difference: Float[Arr, "*b"]) -> Float[Arr, "*b"]:
        return difference**2


class Huber(AbstractError):
    """ℓ(δ) = δ²/2 for |δ| ≤ 1, else |δ| − 1/2.

    Under rows drawn with p ∝ max(|δ|, 1)^α its expected gradient is, up to a factor, that of uniform rows under δ²/2
    for |δ| ≤ 1 and |δ|^(1+α)/(1+α) beyond. Source: Fujimoto et al. 2020 (LAP), section 4.
    """

    def __call__(self, difference: Float[Arr, "*b"]) -> Float[Arr, "*b"]:
        size = jnp.abs(difference)
        return jnp.where(size <= 1.0, 0.5 * difference**2, size - 0.5)


class Expectile(AbstractError):
    """ℓ(δ) = |τ − 1(δ > 0)| δ²: f(x) at its minimum is the expectile τ of y given x, the mean for τ = 1/2.

    Source: Kostrikov et al. 2022 (IQL), eq. 5, with δ = f(x) − y.
    """

    share: float = eqx.field(static=True, metadata={"above": 0, "below": 1})

    def __call__(self, difference: Float[Arr, "*b"]) -> Float[Arr, "*b"]:
        return jnp.where(difference > 0, 1.0 - self.share, self.share) * difference**2


def with_statistics(metrics: Metrics, statistics: Tree) -> Metrics:
    """The metrics, with the statistics of a network that keeps some."""
    return metrics if statistics is None else metrics | {STATISTICS: statistics}


Component = TypeVar("Component")
D = TypeVar("D")


class AbstractLoss(AbstractSlot, Generic[Component, D]):
    """`label` gets the frozen components laid over the live ones. The call gets the component that is fitted, and
    the live ones."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What it reads, as `FQI` checks it."""
    spans: ClassVar[bool] = False
    """Whether D is right too where several steps lie between s and s'. A regression's target says that itself."""
    solved_only: ClassVar[bool] = False
    """Whether D, over a dataset, is made of what a solver found and of nothing else: its rows and its actions."""

    def check_component(self, component: Component) -> None:
        """A UserError where a component is of another class than the loss is written for, `AbstractLoss[Class, D]`."""
        said = written_for(type(self), AbstractLoss)
        wanted = said if said is not None and issubclass(said, eqx.Module) else None
        fits = callable(component) if wanted is None and isinstance(self, AbstractRegression) else True
        if not fits or (wanted is not None and not isinstance(component, wanted)):
            words = "a component that gives f(x)" if wanted is None else wanted.__name__
            raise UserError(f"{type(self).__name__}: found {type(component).__name__}, expected {words} to fit.")

    @abc.abstractmethod
    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> D:
        """D, a pytree whose leaves share their first axis. No gradient passes through it."""

    def prepare(self, component: Component, data: D) -> Component:
        """The component before it is fitted to D. One that keeps statistics of its data takes those of D in."""
        return having_seen(component, data)

    @abc.abstractmethod
    def __call__(
        self, component: Component, nets: Components, data: D, key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        """(the loss [] of `component` on D, by which it is differentiated, figures by name).

        `nets` are the newest components, and what is fitted stands there too, without a gradient.
        """


Loss: TypeAlias = AbstractLoss[Tree, Tree]
"""Of any component, on any D."""


class AbstractRegression(AbstractLoss[Component, D]):
    """A loss between f(x) and y, as `target` labels x."""

    target: eqx.AbstractVar[AbstractTarget]


class AbstractPenalty(AbstractSlot):
    """What a regression of critics adds to its loss, from (s, a) of D and from what it draws itself."""

    @abc.abstractmethod
    def label(self, nets: Components, batch: Transition, key: PRNGKeyArray) -> Tree:
        """What it draws for D, row by row, under the frozen components; it becomes `Labelled.aside`."""

    @abc.abstractmethod
    def __call__(
        self, critic: AbstractCritic, logged: Float[Arr, "n b"], data: Labelled
    ) -> tuple[Float[Arr, ""], Metrics]:
        """(the penalty, figures); `logged` is q_j(s, a) on D."""


class Regress(AbstractRegression[Tree, Labelled]):
    """Σ_j mean_D ℓ(f_j(x) − y), ℓ(δ) = δ² by default: every member of an ensemble is regressed on the same y.

    A `penalty` of the critics is added, if there is one.
    """

    spans: ClassVar[bool] = True
    target: AbstractTarget
    error: AbstractError = Squared()
    penalty: AbstractPenalty | None = None

    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        labelled = checked_labels(self.target, self.target(nets, batch, greedy, key))
        if self.penalty is None:
            return labelled
        return dataclasses.replace(labelled, aside=self.penalty.label(nets, batch, jax.random.fold_in(key, 1)))

    def __call__(
        self, component: Tree, nets: Components, data: Labelled, key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        prediction = component(*data.inputs, key)
        difference = prediction - data.y
        loss = jnp.sum(jnp.mean(by_importance(self.error(difference), data), axis=-1))
        metrics = {"mean": jnp.mean(prediction), "max_abs": jnp.max(jnp.abs(prediction)), "target": jnp.mean(data.y)}
        if self.penalty is not None:
            added, figures = self.penalty(component, prediction, data)
            loss, metrics = loss + added, metrics | figures
        return loss, with_errors({"loss": loss, **metrics}, data, difference)


class RegressReturns(AbstractRegression[QNetwork, Labelled]):
    """Σ_j mean_D ℓ(f_j(x), y), ℓ the loss of the critic's head: squared error, cross-entropy, quantile regression.

    Networks that normalize by a batch do so by D's own statistics, its inputs `beside` included, and take them in.
    """

    spans: ClassVar[bool] = True
    target: AbstractTarget

    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        return checked_labels(self.target, self.target(nets, batch, greedy, key))

    def __call__(
        self, component: QNetwork, nets: Components, data: Labelled, key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        inputs = data.inputs if data.beside is None else _joined(data.inputs, data.beside)
        passed, statistics = in_batch(component, *inputs, key=key)
        loss, metrics = _regressed(component.head, passed.outputs(*inputs)[:, : len(data.y)], data)
        return loss, with_statistics(metrics, statistics)


class Predict(AbstractLoss[AbstractEncoder, Labelled]):
    """mean (z_sa(z_s(s), a) − z_s(s'))²: the encoder predicts its own embedding of the next state, held still.

    Source: Fujimoto et al. 2023 (TD7), eq. 2.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"encoder", "critic"})

    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        action = needed(nets.critic).action_set.to_unit(batch.action)
        return Labelled((batch.obs, action), needed(nets.encoder).state(batch.next_obs))

    def __call__(
        self, component: AbstractEncoder, nets: Components, data: Labelled, key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        obs, action = data.inputs
        loss = jnp.mean((component.pair(component.state(obs), action) - data.y) ** 2)
        return loss, {"loss": loss}


class Unlabelled(eqx.Module):
    """A batch and the actions at its next states, for a loss that makes the labels itself."""

    batch: Transition
    greedy: Greedy
    drawn: DrawnRows | None = None

    def as_drawn(self, target: AbstractTarget, batch: Transition, drawn: DrawnRows) -> Unlabelled:
        """As `Labelled.as_drawn`, once there are labels."""
        return dataclasses.replace(self, drawn=drawn)


class RegressTogether(AbstractRegression[QNetwork, Unlabelled]):
    """Σ_j mean ℓ(f_j(s, a), y), y as `target` makes it of f(s', a'): f passes over (s, a) and (s', a') as one batch.

    ℓ is the loss of the critic's head. No gradient passes through y. No frozen critic is asked: y comes from the same
    pass, and is normalized by the same statistics. So y changes with every gradient step.
    Source: Bhatt et al. 2024 (CrossQ), section 3.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"greedy", "batches"})
    spans: ClassVar[bool] = True
    target: AbstractTarget

    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Unlabelled:
        return Unlabelled(batch, needed(greedy))

    def __call__(
        self, component: QNetwork, nets: Components, data: Unlabelled, key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        outputs, labelled, statistics = self.passed(component, nets, data, key)
        loss, metrics = _regressed(component.head, outputs, labelled)
        return loss, with_statistics(metrics, statistics)

    def passed(
        self, component: QNetwork, nets: Components, data: Unlabelled, key: PRNGKeyArray
    ) -> tuple[Float[Arr, "n b K"], Labelled, Tree]:
        """(outputs at (s, a), D, statistics of the batch), of one pass."""
        pass_key, label_key = jax.random.split(key)
        batch, greedy, rows = data.batch, data.greedy, len(data.batch.reward)
        inputs = _joined((batch.obs, batch.action), (batch.next_obs, greedy.action))
        passed, statistics = in_batch(component, *inputs, key=pass_key)
        outputs = passed.outputs(*inputs)
        there = nets.replace("critic", answering(component, outputs[:, rows:]))
        labelled = self.target(there, batch, greedy, label_key)
        if data.drawn is not None:
            labelled = labelled.as_drawn(self.target, batch, data.drawn)
        return outputs[:, :rows], jax.lax.stop_gradient(labelled), statistics


def _joined(here: tuple[Float[Arr, "_ _"], ...], there: tuple[Float[Arr, "_ _"], ...]) -> tuple[Float[Arr, "_ _"], ...]:
    """Inputs of two batches as those of one."""
    return tuple(jnp.concatenate(parts) for parts in zip(here, there, strict=True))


def _regressed(head: AbstractHead, outputs: Float[Arr, "n b K"], data: Labelled) -> tuple[Float[Arr, ""], Metrics]:
    """(Σ_j mean_D ℓ(f_j(x), y), figures)."""
    y, weight = (data.y[:, None], jnp.ones_like(data.y[:, None])) if data.weight is None else (data.y, data.weight)
    loss = jnp.sum(jnp.mean(by_importance(head.loss(outputs, y, weight), data), axis=-1))
    q, target = head.mean(outputs), (y * weight).sum(-1)
    metrics: Metrics = {
        "loss": loss,
        "mean": jnp.mean(q),
        "max_abs": jnp.max(jnp.abs(q)),
        "target": jnp.mean(target),
        "target_low": jnp.min(target),
        "target_high": jnp.max(target),
        "outside": head.outside(y, weight),
    }
    return loss, with_errors(metrics, data, q - target)


class Improve(AbstractLoss[AbstractPolicy, Float[Arr, "b s"]]):
    """mean_s [β log π(a | s) − q(s, a) + λ ‖z(s)‖² / m], a = π(s) or a ~ π(· | s): descend it, and π climbs q.

    With β = 0 this is the deterministic policy gradient's objective (chapter, NFQCA); otherwise it is
    β · KL(π ‖ exp(q/β)/Z) up to a constant in w (Haarnoja et al. 2018, eq. 12). z is what a deterministic policy
    squashes, a = tanh z in [−1, 1]^m: with λ = `saturation` > 0 it stays where tanh has a slope (Andrychowicz et al.
    2017, appendix A).
    """

    spans: ClassVar[bool] = True
    combine: AbstractCombine
    saturation: float = eqx.field(static=True, default=0.0, metadata=NOT_NEGATIVE)

    def check_components(self, nets: Components) -> None:
        """A UserError where there is nothing to climb, or nothing that is squashed."""
        critic = needed(nets.critic)
        if self.saturation and not isinstance(nets.policy, DeterministicPolicy):
            raise UserError(
                f"Improve: saturation is {self.saturation:g}, and a {type(nets.policy).__name__} is no "
                "DeterministicPolicy, whose tanh could saturate; leave it 0."
            )
        if not critic.has_gradient:
            raise UserError(
                f"Improve: found a {type(critic).__name__}, which has no gradient for a policy to climb; imitate a "
                "solver (Imitate, policy_loss=imitate), or fit a network."
            )

    def label(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Float[Arr, "b s"]:
        return batch.obs

    def __call__(
        self, component: AbstractPolicy, nets: Components, data: Float[Arr, "b s"], key: PRNGKeyArray
    ) -> tuple[Float[Arr, ""], Metrics]:
        action_key, critic_key = jax.random.split(key)
        passed, statistics = in_batch(component, data)
        action, log_prob = passed.sample(data, action_key)
        q = self.combine(needed(nets.critic), data, action, critic_key)
        loss = -jnp.mean(soft_value(q, log_prob, jax.lax.stop_gradient(nets.temperature)))
        if self.saturation and isinstance(passed, DeterministicPolicy):
            loss += self.saturation * jnp.mean(passed.net(data) ** 2)
        return loss, with_statistics({"loss": loss, "log_prob": jnp.mean(log_prob)}, statistics)


class TuneTemperature(AbstractLoss[Float[Arr, ""], Float[Arr, "b"]]):
    """−β · mean(log π(a' | s') + H̄), a' ~ π the action the greedy step drew: no further pass through the policy."""

    spans: ClassVar[bool] = True
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

    spans: ClassVar[bool] = True
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
