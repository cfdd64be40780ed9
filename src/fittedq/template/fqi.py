# pyright: reportUnknownMemberType=false
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
from functools import partial
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from fittedq.arrays import Arr, Scalar, Tree
from fittedq.bellman import polyak
from fittedq.errors import UserError, nearest
from fittedq.slots import COUNT, RATE, AbstractSlot, parts, written
from fittedq.template.fits import AbstractFit, Budget, Descend, Refit
from fittedq.template.greedy import AbstractGreedy, AbstractSolving
from fittedq.template.losses import ERRORS, AbstractRegression, Huber, Loss, Metrics, Regress, Unlabelled
from fittedq.template.returned import checked_greedy
from fittedq.template.rollout import Starts
from fittedq.template.targets import AbstractTarget, Labelled
from fittedq.template.when import AbstractWhen
from fittedq.types import COMPONENTS, AbstractEncoder, Components, DrawnRows, Greedy, Transition


class Update(AbstractSlot):
    """One regression: label D, then fit one component to it; on every `every`-th call of `learn`, counted from one.

    With `when` it also has to hold there; its figures tell how often it did (`updates`).
    """

    component: str = eqx.field(static=True, metadata={"choices": COMPONENTS})
    loss: Loss
    fit: AbstractFit
    every: int = eqx.field(static=True, default=1, metadata=COUNT)
    when: AbstractWhen | None = None

    @property
    def target(self) -> AbstractTarget | None:
        """What labels, where the loss is a regression."""
        return self.loss.target if isinstance(self.loss, AbstractRegression) else None

    def label(
        self,
        nets: Components,
        frozen: Components,
        batch: Transition,
        greedy: Greedy | None,
        key: PRNGKeyArray,
        drawn: DrawnRows | None = None,
    ) -> Tree:
        """D, under the frozen components."""
        data = self.loss.label(frozen.over(nets), batch, greedy, key)
        if drawn is not None and self.target is not None and isinstance(data, Labelled | Unlabelled):
            data = data.as_drawn(self.target, batch, drawn)
        elif drawn is not None and isinstance(data, Starts):
            data = data.as_drawn(drawn)
        return jax.lax.stop_gradient(data)

    def __call__(
        self,
        nets: Components,
        frozen: Components,
        state: Tree,
        batch: Transition,
        greedy: Greedy | None,
        label_key: PRNGKeyArray,
        fit_key: PRNGKeyArray,
        count: Int[Array, ""],
        drawn: DrawnRows | None = None,
    ) -> Refit:
        """One fit of the component to this batch's D."""
        data = self.label(nets, frozen, batch, greedy, label_key, drawn)
        component = self.loss.prepare(getattr(nets, self.component), data)
        return self.fit(self.loss, component, state, nets, data, fit_key, count)


class Tick(eqx.Module):
    """Which call of `learn` this is, counted from one.

    Where a program was compiled for one `phase` (count mod `period`), what happens every so many calls is decided when
    it is compiled: nothing is branched over, and what does not happen costs nothing.
    """

    count: Int[Array, ""]
    phase: int | None = eqx.field(static=True, default=None)
    period: int = eqx.field(static=True, default=1)

    def every(self, calls: int) -> bool | Array:
        """Whether this call is a multiple of `calls`: a Python bool where that is known, else traced."""
        if calls == 1:
            return True
        if self.phase is not None and self.period % calls == 0:
            return self.phase % calls == 0
        return self.count % calls == 0

    def choose(self, calls: int, rate: float) -> Scalar:
        """`rate` on every `calls`-th call, else 0."""
        due = self.every(calls)
        return (rate if due else 0.0) if isinstance(due, bool) else jnp.where(due, rate, 0.0)


class AbstractFollow(AbstractSlot):
    """How a frozen copy follows its live component: θ̄ ← rate · θ + (1 − rate) · θ̄, θ always the newest."""

    @abc.abstractmethod
    def rate(self, tick: Tick) -> Scalar:
        """The share taken over after this call."""


class Copy(AbstractFollow):
    """θ̄ = θ of the previous iteration."""

    def rate(self, tick: Tick) -> Scalar:
        return 1.0


class Periodic(AbstractFollow):
    """θ̄ ← θ every `period` calls. Source: chapter, "Deep Deterministic Policy Gradient"."""

    period: int = eqx.field(static=True, metadata=COUNT)

    def rate(self, tick: Tick) -> Scalar:
        return tick.choose(self.period, 1.0)


class Polyak(AbstractFollow):
    """θ̄ ← τ θ + (1 − τ) θ̄, every `every`-th call."""

    tau: float = eqx.field(static=True, metadata=RATE)
    every: int = eqx.field(static=True, default=1, metadata=COUNT)

    def rate(self, tick: Tick) -> Scalar:
        return tick.choose(self.every, self.tau)


class Trailing(AbstractFollow):
    """θ̄_k, the mean of the iterates 1 … k over about the last `share` of them, and over no more than about `window`.

    rate_k = 1 / min(1 + share (k − 1), window): the first iterate replaces whatever was there. While the share rules,
    the weights are ∝ i (i + 1) … (i + p − 1), p = 1/share − 1, and the mean age is share (k − 1) / (1 + share); with
    share = 1 it is the mean of all. Source: Shamir & Zhang 2013 (polynomial-decay averaging); Polyak & Juditsky 1992.
    """

    share: float = eqx.field(static=True, metadata=RATE)
    window: float = eqx.field(static=True, default=math.inf, metadata={"low": 1, "high": math.inf})

    def rate(self, tick: Tick) -> Scalar:
        return 1.0 / jnp.minimum(1.0 + self.share * (tick.count - 1.0), self.window)

    def words(self, count: int) -> str:
        """What the mean of `count` iterates is."""
        span = round(min(1.0 + self.share * (count - 1.0), self.window))
        return f"the mean over about the last {span:,} of {count:,} updates"


class Sync(AbstractSlot):
    """Which components have frozen copies, and how each follows; those without are read live."""

    critic: AbstractFollow | None = None
    policy: AbstractFollow | None = None
    value: AbstractFollow | None = None
    model: AbstractFollow | None = None
    log_temperature: AbstractFollow | None = None
    horizon: AbstractFollow | None = None
    encoder: AbstractFollow | None = None
    behaviour: AbstractFollow | None = None
    inside: AbstractFollow | None = None
    """How the copies of the encoder that the critic and the policy hold follow it, at the beginning of the next call: a
    frozen critic keeps the embeddings that it was fitted on, and a saved policy too."""

    def freeze(self, nets: Components) -> Components:
        """The first frozen copies."""
        return Components(
            **{
                name: None if getattr(self, name) is None else jax.tree.map(jnp.copy, getattr(nets, name))
                for name in COMPONENTS
            }
        )

    def __call__(self, frozen: Components, nets: Components, tick: Tick) -> Components:
        def follow(name: str) -> Tree:
            rule, copy = getattr(self, name), getattr(frozen, name)
            if rule is None:
                return copy
            rate = rule.rate(tick)
            never = isinstance(rate, float) and rate == 0.0
            return copy if never else polyak(copy, getattr(nets, name), rate)

        return Components(**{name: follow(name) for name in COMPONENTS})

    def embedded(self, nets: Components, tick: Tick) -> Components:
        """The components, with the encoders inside them moved."""
        if self.inside is None:
            return nets
        rate, newest = self.inside.rate(tick), nets.encoder

        def follow(node: Tree) -> Tree:
            return polyak(node, newest, rate) if isinstance(node, AbstractEncoder) else node

        for name in ("critic", "policy"):
            part = jax.tree.map(follow, getattr(nets, name), is_leaf=lambda node: isinstance(node, AbstractEncoder))
            nets = nets.replace(name, part)
        return nets


WATCHED = ("target", "loss", "gradient")
"""Metrics that end a run where they are no finite numbers; each is made of those before it."""


FAULTS = 16
"""Places that a fault has room for."""


def fault_after(fault: Int[Array, ""], step: Int[Array, ""], figures: Sequence[Scalar]) -> Int[Array, ""]:
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

    nets: Components
    frozen: Components
    optimizer_states: tuple[Tree, ...]
    metrics: tuple[Metrics, ...]
    key: PRNGKeyArray
    step: Int[Array, ""]
    fault: Int[Array, ""]
    mean: Components = Components()
    """The mean of what acts over its iterates, where the template keeps one."""


def _zeros(leaf: jax.ShapeDtypeStruct) -> Array:
    return jnp.zeros(leaf.shape, leaf.dtype)


ABSENT = "–"
LAST = "the last networks"


MISSING = {
    "greedy": "an action at s', and the template has no greedy step",
    "solver": "actions that a solver found, and the greedy step solves nowhere",
    "dataset": "a whole dataset, as fitted iterations have it, and sees a batch at a time",
    "next_action": "the action that was taken at s', which rows are drawn with, and finds a whole dataset",
    "batches": "batches, to label each anew, and finds a whole dataset, whose labels stay while it is fitted",
}
"""What a slot needs beside components, in words."""


def _needs(part: eqx.Module) -> set[str]:
    """What a slot needs beside other components; a solver on the host sees no batches inside compiled updates."""
    return set(getattr(part, "needs", ())) | ({"dataset"} if getattr(part, "on_host", False) else set())


class FQI(AbstractSlot):
    """Fitted Q-iteration: one greedy step, the updates in order, one sync rule."""

    updates: tuple[Update, ...]
    sync: Sync
    greedy: AbstractGreedy | None = None
    """None where no target needs an action at s' (a value network stands in)."""
    mean: Trailing | None = None
    """How the mean of what acts follows its iterates. Nothing is learned from it; None: none is kept."""

    def __check_init__(self) -> None:
        """A UserError for a slot that needs what no other slot gives, or what there is not."""
        super().__check_init__()
        known = (*COMPONENTS, *MISSING)
        for part in parts((self.greedy, self.updates)):
            for name in sorted(_needs(part).difference(known)):
                raise UserError(f"{type(part).__name__}: needs: found {name!r}; {nearest(name, known)}")
        absent = {"greedy": self.greedy is None, "solver": not isinstance(self.greedy, AbstractSolving)}
        self._refuse({name for name in absent if absent[name]})

    def check(self, nets: Components) -> None:
        """A UserError for a slot that needs a component that is absent, or says itself that these are not for it."""
        absent = {name for name, part in nets.parts().items() if part is None}
        self._refuse(absent)
        if isinstance(nets.log_temperature, float | int):
            raise UserError(
                f"log_temperature: found the number {nets.log_temperature}, expected an array, such as "
                f"jnp.asarray({nets.log_temperature})."
            )
        for name in COMPONENTS:
            updated = any(update.component == name for update in self.updates)
            if name in absent and (updated or getattr(self.sync, name) is not None):
                raise UserError(
                    f"{name}: there is none among the components, and the template fits it or has it followed."
                )
        for update in self.updates:
            update.loss.check_component(getattr(nets, update.component))
        acts = nets.acting.policy or nets.acting.critic
        if self.mean is not None and any(leaf.dtype.kind != "f" for leaf in jax.tree.leaves(acts)):
            raise UserError(
                f"setting keep: found average, and what acts is a {type(acts).__name__}, which holds whole numbers; "
                "these have no mean, so expected last."
            )
        for part in parts((self.greedy, self.updates)):
            if (check := getattr(part, "check_components", None)) is not None:
                check(nets)

    def check_batches(self) -> None:
        """A UserError for a slot that needs a whole dataset, where a method learns from batches."""
        self._refuse({"dataset"})

    def check_spans(self) -> None:
        """A UserError for a slot that is right for transitions of one step only."""
        for update in self.updates:
            known = update.target is None or update.target.bootstraps is not None
            if not (update.loss.spans and known):
                part = update.loss if update.target is None else update.target
                raise UserError(
                    f"setting n_step: the {update.component}'s {type(part).__name__} takes transitions of one step; "
                    "expected 1."
                )

    def check_errors(self, state: LearnerState) -> None:
        """A UserError where the first `state` says that no error comes of each row."""
        critic = next((update for update in self.updates if update.component == "critic"), None)
        if critic is None or self.errors(state) is None:
            raise UserError("setting replay: the critic's loss tells no error of a row; expected uniform.")
        if not isinstance(critic.fit, Descend) or critic.fit.budget != Budget() or critic.every > 1:
            raise UserError(
                "setting replay: the critic is not fitted to each batch in one step, by which rows would be drawn; "
                "expected uniform."
            )

    def robust(self) -> FQI:
        """This template with Huber's loss in place of the critic's squared error."""

        def robust(update: Update) -> Update:
            if update.component != "critic":
                return update
            if not isinstance(update.loss, Regress):
                raise UserError(
                    f"setting replay: lap takes squared errors, and the critic's loss is {type(update.loss).__name__}; "
                    "expected prioritized or uniform."
                )
            return dataclasses.replace(update, loss=dataclasses.replace(update.loss, error=Huber()))

        return dataclasses.replace(self, updates=tuple(map(robust, self.updates)))

    @property
    def needing_dataset(self) -> tuple[str, ...]:
        """The slots that need a whole dataset, by their classes."""
        needing = (part for part in parts((self.greedy, self.updates)) if "dataset" in _needs(part))
        return tuple(dict.fromkeys(type(part).__name__ for part in needing))

    @property
    def reads_next_action(self) -> bool:
        """Whether a slot reads the action that was taken at s'."""
        return any("next_action" in _needs(part) for part in parts((self.greedy, self.updates)))

    def check_iterations(self, nets: Components) -> None:
        """A UserError for what iterations over a whole dataset would ignore."""
        rules = {name: getattr(self.sync, name) for name in COMPONENTS}
        for name, rule in rules.items():
            if rule is not None and not isinstance(rule, Copy):
                raise UserError(
                    f"sync of {name}: found {written(rule)}, expected Copy(): over a whole dataset a frozen copy is "
                    "that of the iteration before."
                )
        self._refuse({"batches", "next_action"})
        if nets.critic is None:
            raise UserError("the template has no critic, which iterations over a whole dataset fit.")
        if nets.log_temperature is not None and self.greedy is not None:
            raise UserError(
                "log_temperature: found one beside a greedy step; its loss needs the density of the greedy actions, "
                "which is not kept over a whole dataset. Learn from batches, or leave it out."
            )

    def _refuse(self, absent: set[str]) -> None:
        """A UserError for the first slot that needs something absent."""
        slots = [("greedy", self.greedy), *((f"update of {update.component}", update) for update in self.updates)]
        for where, slot in slots:
            for part in parts(slot):
                for name in sorted(absent & _needs(part)):
                    needed = MISSING.get(name, f"a {name}, and there is none among the components")
                    raise UserError(f"{where}: {type(part).__name__} needs {needed}.")

    def actions_at_once(self, size: int) -> int:
        """The most actions of `size` numbers at which a slot evaluates the components for one state at once."""
        counts = (getattr(part, "actions_at_once", None) for part in parts((self.greedy, self.updates)))
        return max([1, *(count(size) for count in counts if count is not None)])

    def describe(self) -> dict[str, str]:
        """The greedy step, the updates in order and the sync rule, as code has them."""
        updates = (
            f"{update.component}: {written(update.loss)} by {written(update.fit)}"
            + (f", every {update.every}" if update.every > 1 else "")
            + (f", when {written(update.when)}" if update.when is not None else "")
            for update in self.updates
        )
        rules: dict[str, list[str]] = {}
        for name in COMPONENTS:
            if (rule := getattr(self.sync, name)) is not None:
                rules.setdefault(written(rule), []).append(name)
        if self.sync.inside is not None:
            rules.setdefault(written(self.sync.inside), []).append("encoder inside")
        return {
            "greedy": ABSENT if self.greedy is None else written(self.greedy),
            "updates": "; ".join(updates),
            "sync": "; ".join(f"{', '.join(names)}: {rule}" for rule, names in rules.items()) or ABSENT,
        }

    def fit_states(self, nets: Components) -> tuple[Tree, ...]:
        """What each update's fit starts with."""
        return tuple(update.fit.init(getattr(nets, update.component)) for update in self.updates)

    def prepared(self, nets: Components, inputs: tuple[np.ndarray, np.ndarray]) -> Components:
        """`nets` with what has to be read off a dataset's (s, a) before the first fit."""
        for update in self.updates:
            nets = nets.replace(update.component, update.fit.prepared(getattr(nets, update.component), inputs))
        return nets

    def init(
        self, nets: Components, key: PRNGKeyArray, batch: Transition, drawn: DrawnRows | None = None
    ) -> LearnerState:
        """The state before the first call; `batch` and `drawn` give shapes only."""
        self.check(nets)
        state = LearnerState(
            nets=nets,
            frozen=self.sync.freeze(nets),
            optimizer_states=self.fit_states(nets),
            metrics=tuple({} for _ in self.updates),
            key=key,
            step=jnp.zeros((), jnp.int32),
            fault=jnp.zeros((), jnp.int32),
            mean=self.first_mean(nets),
        )
        first = Tick(jnp.ones((), jnp.int32), phase=0, period=self.period)
        keys = [key] * (2 * len(self.updates))
        shapes = jax.eval_shape(lambda: self._updates(state, batch, drawn, first, key, keys)[2])
        metrics = jax.tree.map(_zeros, shapes)
        return dataclasses.replace(state, metrics=metrics)

    def first_mean(self, nets: Components) -> Components:
        """The mean of what acts before the first call."""
        return Components() if self.mean is None else jax.tree.map(jnp.copy, nets.acting)

    def next_mean(self, mean: Components, nets: Components, tick: Tick) -> Components:
        """The mean of what acts after a call."""
        return mean if self.mean is None else polyak(mean, nets.acting, self.mean.rate(tick))

    def acts_by(self, count: int) -> str:
        """What an agent after so many calls acts by, in words."""
        return LAST if self.mean is None or not count else self.mean.words(count)

    def learned(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """`names`, or all components that are fitted; a UserError for one that is not."""
        fitted = tuple(name for name in COMPONENTS if any(update.component == name for update in self.updates))
        wrong = next((name for name in names or () if name not in fitted), None)
        if wrong is not None:
            raise UserError(f"setting reset_components: the method fits no {wrong}; it fits {', '.join(fitted)}.")
        return fitted if names is None else tuple(names)

    def renewed(self, state: LearnerState, first: Components, names: Sequence[str]) -> LearnerState:
        """The state with components of these names as in `first`, their frozen copies and what their fits keep too.

        Counts, figures and the stream of random numbers go on. Source: Nikishin et al. 2022, section 4.
        """
        frozen, states = self.sync.freeze(first), self.fit_states(first)
        nets, copies = state.nets, state.frozen
        for name in names:
            nets, copies = nets.replace(name, getattr(first, name)), copies.replace(name, getattr(frozen, name))
        kept = zip(self.updates, states, state.optimizer_states, strict=True)
        fits = tuple(new if update.component in names else old for update, new, old in kept)
        return dataclasses.replace(state, nets=nets, frozen=copies, optimizer_states=fits)

    @property
    def period(self) -> int:
        """Calls of `learn` after which the pattern of due updates repeats."""
        return math.lcm(*(update.every for update in self.updates))

    def learn(
        self, state: LearnerState, batch: Transition, phase: int | None = None, drawn: DrawnRows | None = None
    ) -> LearnerState:
        """One iteration on one batch. Pure; its randomness is a function of `state.key`, which moves on.

        `phase`, if given, must be (state.step + 1) mod `period`: the program is then compiled without branches.
        """
        last = Tick(state.step, None if phase is None else (phase - 1) % self.period, self.period)
        state = dataclasses.replace(state, nets=self.sync.embedded(state.nets, last))
        tick = Tick(state.step + 1, phase, self.period)
        # One split for all: on a CPU each costs as much as a layer.
        key, greedy_key, *keys = jax.random.split(state.key, 2 + 2 * len(self.updates))
        nets, optimizer_states, metrics = self._updates(state, batch, drawn, tick, greedy_key, keys)
        frozen = self.sync(state.frozen, nets, tick)
        fault = fault_after(state.fault, tick.count, [metrics[index][name] for index, name in self.watched(metrics)])
        mean = self.next_mean(state.mean, nets, tick)
        return LearnerState(nets, frozen, optimizer_states, metrics, key, tick.count, fault, mean)

    def _updates(
        self,
        state: LearnerState,
        batch: Transition,
        drawn: DrawnRows | None,
        tick: Tick,
        greedy_key: PRNGKeyArray,
        keys: Sequence[PRNGKeyArray],
    ) -> tuple[Components, tuple[Tree, ...], tuple[Metrics, ...]]:
        nets, frozen = state.nets, state.frozen
        greedy = None
        if self.greedy is not None:
            found = self.greedy(frozen.over(nets), batch.next_obs, greedy_key)
            greedy = jax.lax.stop_gradient(checked_greedy(self.greedy, found, len(batch.next_obs)))
            if drawn is not None and drawn.next_action is not None:
                greedy = dataclasses.replace(greedy, logged=drawn.next_action)
        optimizer_states, metrics = list(state.optimizer_states), list(state.metrics)
        for index, update in enumerate(self.updates):
            component = getattr(nets, update.component)

            def run(update: Update = update, nets: Components = nets, index: int = index) -> Refit:
                label_key, fit_key = keys[2 * index : 2 * index + 2]
                fitted = optimizer_states[index]
                return update(nets, frozen, fitted, batch, greedy, label_key, fit_key, tick.count, drawn)

            due, told = tick.every(update.every), cast("Metrics", {})
            if update.when is not None and due is not False:
                holds, told = update.when(nets, batch)
                due = jnp.logical_and(holds, due)
                told = told | {"updates": metrics[index].get("updates", 0.0) + due}
            kept = {name: value for name, value in metrics[index].items() if name not in told}

            def skip(skipped: Refit = (component, optimizer_states[index], kept)) -> Refit:
                return skipped

            if isinstance(due, bool):
                result = run() if due else skip()
            else:
                # Before the first call there are no figures to keep.
                figures = kept or jax.tree.map(_zeros, jax.eval_shape(run)[2])
                result = cast("Refit", jax.lax.cond(due, run, partial(skip, (*skip()[:2], figures))))
            component, optimizer_states[index], fresh = result
            metrics[index] = fresh | told
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
            if name != ERRORS
        }

    def errors(self, state: LearnerState) -> Float[Arr, "b"] | None:
        """max_j |q_j(s, a) − y| of each row of the last batch, where rows have weights."""
        told = zip(self.updates, state.metrics, strict=True)
        found = (metrics[ERRORS] for update, metrics in told if update.component == "critic" and ERRORS in metrics)
        return cast("Array | None", next(found, None))
