"""The template every method is an instance of: greedy step → ordered regressions → sync rule.

for each batch:
    a' ← greedy(frozen, s')
    for each update, in order:  D ← label(frozen, batch, a');  component ← fit(D)
    frozen ← sync(frozen, live)
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from fittedq.bellman import polyak
from fittedq.template.greedy import AbstractGreedy
from fittedq.template.losses import AbstractLoss, Metrics
from fittedq.types import COMPONENTS, Approximators, Greedy, Transition


class Budget(eqx.Module):
    """How much one regression may spend on its D, and how often it runs.

    `epochs` passes over D in minibatches of `minibatch` (None: all of D), each a gradient step; on every `every`-th
    call of `learn`, counted from one. Over a logged dataset (`fitted`) a share `held_out` of D may be kept aside: the
    pass with the lowest loss there is kept, and `patience` passes without a lower one end the fit. `reset` starts each
    fit from the first parameters instead of the last ones.
    """

    epochs: int = eqx.field(static=True, default=1)
    minibatch: int | None = eqx.field(static=True, default=None)
    every: int = eqx.field(static=True, default=1)
    held_out: float = eqx.field(static=True, default=0.0)
    patience: int | None = eqx.field(static=True, default=None)
    reset: bool = eqx.field(static=True, default=False)


class Update(eqx.Module):
    """One regression: label D, then spend the budget fitting one component to it."""

    component: str = eqx.field(static=True)
    loss: AbstractLoss
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    budget: Budget = Budget()

    def label(
        self, nets: Approximators, frozen: Approximators, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray
    ) -> Any:
        """D, under the frozen components."""
        return jax.lax.stop_gradient(self.loss.label(frozen.over(nets), batch, greedy, key))

    def gradient_step(
        self, component: Any, optimizer_state: Any, nets: Approximators, rows: Any, key: PRNGKeyArray
    ) -> tuple[Any, Any, Metrics]:
        """One step of the optimizer on some rows of D; the metrics tell the loss and the gradient's first row."""
        (loss, metrics), gradient = jax.value_and_grad(self.loss, has_aux=True)(component, nets, rows, key)
        change, optimizer_state = self.optimizer.update(gradient, optimizer_state, component)
        metrics = {"loss": loss, **metrics, "gradient": jnp.linalg.norm(first_row(gradient))}
        return optax.apply_updates(component, change), optimizer_state, metrics

    def __call__(
        self,
        nets: Approximators,
        frozen: Approximators,
        optimizer_state: Any,
        batch: Transition,
        greedy: Greedy | None,
        label_key: PRNGKeyArray,
        fit_key: PRNGKeyArray,
    ) -> tuple[Any, Any, Metrics]:
        """(component, optimizer state, metrics of the last gradient step)."""
        data = self.label(nets, frozen, batch, greedy, label_key)
        component = self.loss.prepare(getattr(nets, self.component), data)
        size = jax.tree.leaves(data)[0].shape[0]
        minibatch = min(self.budget.minibatch or size, size)
        if self.budget.epochs == 1 and minibatch == size:
            return self.gradient_step(component, optimizer_state, nets, data, fit_key)

        def epoch(carry: Any, epoch_key: PRNGKeyArray) -> tuple[Any, Metrics]:
            def step(carry: Any, inputs: tuple[Any, PRNGKeyArray]) -> tuple[Any, Metrics]:
                indices, key = inputs
                rows = jax.tree.map(lambda leaf: leaf[indices], data)
                component, optimizer_state, metrics = self.gradient_step(carry[0], carry[1], nets, rows, key)
                return (component, optimizer_state), metrics

            order_key, step_key = jax.random.split(epoch_key)
            steps = size // minibatch
            order = jax.random.permutation(order_key, size)[: steps * minibatch].reshape(steps, minibatch)
            return jax.lax.scan(step, carry, (order, jax.random.split(step_key, steps)))

        carry, metrics = jax.lax.scan(
            epoch, (component, optimizer_state), jax.random.split(fit_key, self.budget.epochs)
        )
        return *carry, jax.tree.map(lambda leaf: leaf[-1, -1], metrics)


def first_row(gradient: Any) -> Any:
    """The first row [*lead, out] of the gradient's first matrix [*lead, in, out], or its first leaf where none is one.

    The first layer's gradient is Σ_b x_b δ_bᵀ, with δ the errors that came back through all others: one that is not
    finite makes every row so, since 0 · ∞ is no number either: one row says what all of them would.
    """
    leaves = jax.tree.leaves(gradient)
    return next((leaf[..., 0, :] for leaf in leaves if leaf.ndim > 1 and leaf.shape[-2] > 1), leaves[0])


class Tick(eqx.Module):
    """Which call of `learn` this is, counted from one.

    Where a program was compiled for one `phase` (count mod `period`), what happens every so many calls is decided when
    it is compiled: nothing is branched over, and what does not happen costs nothing.
    """

    count: Int[Array, ""]
    phase: int | None = eqx.field(static=True, default=None)
    period: int = eqx.field(static=True, default=1)

    def every(self, calls: int) -> Any:
        """Whether this call is a multiple of `calls`: a Python bool where that is known, else traced."""
        if calls == 1:
            return True
        if self.phase is not None and self.period % calls == 0:
            return self.phase % calls == 0
        return self.count % calls == 0

    def choose(self, calls: int, rate: float) -> Any:
        """`rate` on every `calls`-th call, else 0."""
        due = self.every(calls)
        return (rate if due else 0.0) if isinstance(due, bool) else jnp.where(due, rate, 0.0)


class AbstractFollow(eqx.Module):
    """How a frozen copy follows its live component: θ̄ ← rate · θ + (1 − rate) · θ̄, θ always the newest."""

    @abc.abstractmethod
    def rate(self, tick: Tick) -> Any:
        """The share taken over after this call."""


class Copy(AbstractFollow):
    """θ̄ = θ of the previous iteration."""

    def rate(self, tick: Tick) -> Any:
        return 1.0


class Periodic(AbstractFollow):
    """θ̄ ← θ every `period` calls. Source: chapter, "Deep Deterministic Policy Gradient"."""

    period: int = eqx.field(static=True)

    def rate(self, tick: Tick) -> Any:
        return tick.choose(self.period, 1.0)


class Polyak(AbstractFollow):
    """θ̄ ← τ θ + (1 − τ) θ̄, every `every`-th call."""

    tau: float = eqx.field(static=True)
    every: int = eqx.field(static=True, default=1)

    def rate(self, tick: Tick) -> Any:
        return tick.choose(self.every, self.tau)


class Sync(eqx.Module):
    """Which components have frozen copies, and how each follows; those without are read live."""

    critic: AbstractFollow | None = None
    policy: AbstractFollow | None = None
    value: AbstractFollow | None = None
    model: AbstractFollow | None = None
    log_temperature: AbstractFollow | None = None
    horizon: AbstractFollow | None = None

    def freeze(self, nets: Approximators) -> Approximators:
        """The first frozen copies."""
        return Approximators(
            **{
                name: None if getattr(self, name) is None else jax.tree.map(jnp.copy, getattr(nets, name))
                for name in COMPONENTS
            }
        )

    def __call__(self, frozen: Approximators, nets: Approximators, tick: Tick) -> Approximators:
        def follow(name: str) -> Any:
            rule, copy = getattr(self, name), getattr(frozen, name)
            rate = None if rule is None else rule.rate(tick)
            kept = rate is None or (isinstance(rate, float) and rate == 0.0)
            return copy if kept else polyak(copy, getattr(nets, name), rate)

        return Approximators(**{name: follow(name) for name in COMPONENTS})


WATCHED = ("target", "loss", "gradient")
"""Metrics that end a run where they are no finite numbers; each is made of those before it."""


FAULTS = 16
"""Places that a fault has room for."""


def fault_after(fault: Int[Array, ""], step: Int[Array, ""], figures: Sequence[Any]) -> Int[Array, ""]:
    """step · FAULTS + place of the first figure that is not finite, once and for all; 0 while there was none.

    It stays: what an optimizer makes of an infinite loss may look finite again. One word, and no reduction: each
    operation shows beside a small update.
    """
    found = jnp.zeros((), jnp.int32)
    for place, figure in reversed(list(enumerate(figures))):
        found = jnp.where(jnp.isfinite(figure), found, step * FAULTS + place)
    return jnp.where(fault == 0, found, fault)


class LearnerState(eqx.Module):
    """Everything `learn` reads and writes. `step` counts calls; `metrics` holds each update's latest figures, so a
    delayed update reports its last run while it waits."""

    nets: Approximators
    frozen: Approximators
    optimizer_states: tuple[Any, ...]
    metrics: tuple[Metrics, ...]
    key: PRNGKeyArray
    step: Int[Array, ""]
    fault: Int[Array, ""]


class FQI(eqx.Module):
    """Fitted Q-iteration: one greedy step, the updates in order, one sync rule."""

    updates: tuple[Update, ...]
    sync: Sync
    greedy: AbstractGreedy | None = None
    """None where no target needs an action at s' (a value network stands in)."""

    def init(self, nets: Approximators, key: PRNGKeyArray, batch: Transition) -> LearnerState:
        """The state before the first call; `batch` gives shapes only."""
        state = LearnerState(
            nets=nets,
            frozen=self.sync.freeze(nets),
            optimizer_states=tuple(update.optimizer.init(getattr(nets, update.component)) for update in self.updates),
            metrics=tuple({} for _ in self.updates),
            key=key,
            step=jnp.zeros((), jnp.int32),
            fault=jnp.zeros((), jnp.int32),
        )
        first = Tick(jnp.ones((), jnp.int32), phase=0, period=self.period)
        keys = [key] * (2 * len(self.updates))
        shapes = jax.eval_shape(lambda: self._updates(state, batch, first, key, keys)[2])
        metrics = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return dataclasses.replace(state, metrics=metrics)

    @property
    def period(self) -> int:
        """Calls of `learn` after which the pattern of due updates repeats."""
        return math.lcm(*(update.budget.every for update in self.updates))

    def learn(self, state: LearnerState, batch: Transition, phase: int | None = None) -> LearnerState:
        """One iteration on one batch. Pure; its randomness is a function of `state.key`, which moves on.

        `phase`, if given, must be (state.step + 1) mod `period`: the program is then compiled without branches.
        """
        tick = Tick(state.step + 1, phase, self.period)
        # One split for all: on a CPU each costs as much as a layer.
        key, greedy_key, *keys = jax.random.split(state.key, 2 + 2 * len(self.updates))
        nets, optimizer_states, metrics = self._updates(state, batch, tick, greedy_key, keys)
        frozen = self.sync(state.frozen, nets, tick)
        fault = fault_after(state.fault, tick.count, [metrics[index][name] for index, name in self.watched(metrics)])
        return LearnerState(nets, frozen, optimizer_states, metrics, key, tick.count, fault)

    def _updates(
        self,
        state: LearnerState,
        batch: Transition,
        tick: Tick,
        greedy_key: PRNGKeyArray,
        keys: Sequence[PRNGKeyArray],
    ) -> tuple[Approximators, tuple[Any, ...], tuple[Metrics, ...]]:
        nets, frozen = state.nets, state.frozen
        greedy = None
        if self.greedy is not None:
            greedy = jax.lax.stop_gradient(self.greedy(frozen.over(nets), batch.next_obs, greedy_key))
        optimizer_states, metrics = list(state.optimizer_states), list(state.metrics)
        for index, update in enumerate(self.updates):
            component = getattr(nets, update.component)

            def run(
                update: Update = update, nets: Approximators = nets, index: int = index
            ) -> tuple[Any, Any, Metrics]:
                return update(nets, frozen, optimizer_states[index], batch, greedy, *keys[2 * index : 2 * index + 2])

            skipped = (component, optimizer_states[index], metrics[index])
            due = tick.every(update.budget.every)
            if isinstance(due, bool):
                result = run() if due else skipped
            else:
                result = jax.lax.cond(due, run, lambda skipped=skipped: skipped)
            component, optimizer_states[index], metrics[index] = result
            nets = nets.replace(update.component, component)
        return nets, tuple(optimizer_states), tuple(metrics)

    def watched(self, metrics: Sequence[Metrics]) -> list[tuple[int, str]]:
        """(which update, which metric) of all that must be finite, in the order in which they are computed."""
        return [(index, name) for index, one in enumerate(metrics) for name in WATCHED if name in one]

    def logs(self, state: LearnerState) -> dict[str, float]:
        """Latest metrics by name, `component/metric`."""
        return {
            f"{update.component}/{name}": float(value)
            for update, metrics in zip(self.updates, state.metrics, strict=True)
            for name, value in metrics.items()
        }
