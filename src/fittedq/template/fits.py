# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
"""How one component is fitted to its regression set D: by gradient steps, by least squares, by growing trees."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple, TypeAlias, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from fittedq.approx.linear import LinearCritic, RadialBasis
from fittedq.approx.net import projected, taken
from fittedq.approx.trees import TreeCritic
from fittedq.arrays import Arr, Scalar, Tree, at, strong
from fittedq.errors import UserError
from fittedq.slots import BELOW_ONE, COUNT, NOT_NEGATIVE, AbstractSlot
from fittedq.template.losses import STATISTICS, Loss, Metrics
from fittedq.template.returned import checked_loss
from fittedq.template.targets import Labelled
from fittedq.types import Components

STEPS_PER_CALL = 64
"""Gradient steps in one compiled call, where all of a dataset is fitted."""
FEW_STEPS = 8
"""Up to so many steps a pass, its calls have a shape of their own: the block would be many copies of the rows."""


Refit: TypeAlias = tuple[Tree, Tree, Metrics]
"""(component, state of its fit, metrics)."""


class WholeFit(NamedTuple):
    """What a fit to all of a dataset's D starts from."""

    component: Tree
    state: Tree
    """What `AbstractFit.init` gave, or the last fit left."""
    first: Tree
    """The component that the run started from."""
    nets: Components
    data: Tree
    """D, on the host."""
    rng: np.random.Generator
    key: PRNGKeyArray
    iteration: int
    """Which one it belongs to, counted from one."""


class Fitted(NamedTuple):
    """How far a fit is."""

    component: Tree
    state: Tree
    done: float
    """The share of it that is done; 1 once it is over."""
    steps: int
    """Gradient steps, or fits of the component's own, since the last time."""
    figures: dict[str, float]


class AbstractFit(AbstractSlot):
    """How one component is fitted to its D, in a compiled update and over all of a dataset."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """As `FQI.check` reads it."""

    @abc.abstractmethod
    def init(self, component: Tree) -> Tree:
        """The state that goes from fit to fit, such as an optimizer's moments."""

    @abc.abstractmethod
    def prepared(self, component: Tree, inputs: tuple[Float[np.ndarray, "b s"], Float[np.ndarray, "b m"]]) -> Tree:
        """The component with what has to be read off a dataset's (s, a) before its first fit."""

    @abc.abstractmethod
    def __call__(
        self,
        loss: Loss,
        component: Tree,
        state: Tree,
        nets: Components,
        data: Tree,
        key: PRNGKeyArray,
        count: Int[Arr, ""],
    ) -> Refit:
        """What there is after one fit to a batch's D, inside the `count`-th compiled update."""

    @abc.abstractmethod
    def over(self, loss: Loss) -> Callable[[WholeFit], Iterator[Fitted]]:
        """What fits all of a dataset's D and tells how far it is; it keeps the programs that are compiled for it."""


class Budget(AbstractSlot):
    """How many gradient steps one fit may take.

    `epochs` passes over D in minibatches of `minibatch` (None: all of D), each a gradient step; more passes where
    these are fewer than `least` steps. Over a dataset a share
    `held_out` of D may be kept aside: the pass with the lowest loss there is kept, and `patience` passes without a
    lower one end the fit. `reset` starts each fit from the first parameters instead of the last ones.
    """

    epochs: int = eqx.field(static=True, default=1, metadata=COUNT)
    minibatch: int | None = eqx.field(static=True, default=None, metadata=COUNT)
    held_out: float = eqx.field(static=True, default=0.0, metadata=BELOW_ONE)
    patience: int | None = eqx.field(static=True, default=None, metadata=COUNT)
    reset: bool = eqx.field(static=True, default=False)
    least: int = eqx.field(static=True, default=1, metadata=COUNT)

    def passes(self, steps: int) -> int:
        """How many, of so many gradient steps each."""
        return max(self.epochs, -(-self.least // max(steps, 1)))

    @property
    def needs(self) -> frozenset[str]:
        """As `FQI.check` reads it: only a fit of a whole dataset can end early or start anew."""
        asks = self.held_out > 0 or self.patience is not None or self.reset
        return frozenset({"dataset"} if asks else ())


class Descend(AbstractFit):
    """θ ← Π(θ − step(∇ loss(θ; rows of D))), as often as the budget says. Its state is the optimizer's.

    Π keeps the weights of networks that have a set for them in it, such as the unit sphere (`AbstractNet.projected`).
    """

    optimizer: optax.GradientTransformation = eqx.field(
        static=True, metadata={"such": "optax.adam(3e-4) or scheduled(optax.adam, f)"}
    )
    budget: Budget = Budget()

    def init(self, component: Tree) -> Tree:
        return self.optimizer.init(component)

    def prepared(self, component: Tree, inputs: tuple[Float[np.ndarray, "b s"], Float[np.ndarray, "b m"]]) -> Tree:
        return component

    def step(
        self,
        loss: Loss,
        component: Tree,
        state: Tree,
        nets: Components,
        rows: Tree,
        key: PRNGKeyArray,
        count: Int[Arr, ""],
    ) -> Refit:
        """One step of the optimizer on some rows of D; the metrics tell the loss and the gradient's first row."""

        def on_rows(component: Tree) -> tuple[Scalar, Metrics]:
            return checked_loss(loss, loss(component, nets, rows, key))

        slope = cast("Callable[..., tuple[tuple[Scalar, Metrics], Tree]]", jax.value_and_grad(on_rows, has_aux=True))
        (value, metrics), gradient = slope(component)
        optimizer = optax.with_extra_args_support(self.optimizer)
        change, state = optimizer.update(gradient, state, component, count=count)
        component = taken(projected(optax.apply_updates(component, change)), metrics.pop(STATISTICS, None))
        metrics = {"loss": value, **metrics, "gradient": cast("Array", jnp.linalg.norm(first_row(gradient)))}
        return component, state, metrics

    def __call__(
        self,
        loss: Loss,
        component: Tree,
        state: Tree,
        nets: Components,
        data: Tree,
        key: PRNGKeyArray,
        count: Int[Arr, ""],
    ) -> Refit:
        """The metrics are those of the last gradient step."""
        size = jax.tree.leaves(data)[0].shape[0]
        minibatch = min(self.budget.minibatch or size, size)
        epochs = self.budget.passes(size // minibatch)
        if epochs == 1 and minibatch == size:
            return self.step(loss, component, state, nets, data, key, count)

        def epoch(carry: Tree, epoch_key: PRNGKeyArray) -> tuple[Tree, Metrics]:
            order_key, step_key = jax.random.split(epoch_key)
            steps = size // minibatch
            order = jax.random.permutation(order_key, size)[: steps * minibatch].reshape(steps, minibatch)

            def step(carry: Tree, inputs: tuple[Tree, PRNGKeyArray]) -> tuple[Tree, Metrics]:
                indices, key = inputs
                rows = at(data, indices)
                component, state, metrics = self.step(loss, carry[0], carry[1], nets, rows, key, count)
                return (component, state), metrics

            return jax.lax.scan(step, carry, (order, jax.random.split(step_key, steps)))

        carry, metrics = jax.lax.scan(epoch, (component, state), jax.random.split(key, epochs))
        return *carry, at(metrics, (-1, -1))

    def over(self, loss: Loss) -> Callable[[WholeFit], Iterator[Fitted]]:
        return _Descent(self, loss)


class _Descent:
    """`Descend` over all of a dataset: passes over the rows that are not held out, some gradient steps a call."""

    def __init__(self, fit: Descend, loss: Loss):
        self._fit, self._loss = fit, loss

        def steps(
            component: Tree,
            state: Tree,
            nets: Components,
            block: Tree,
            count: Int[Arr, ""],
            key: Array,
            now: Int[Arr, ""],
        ) -> Refit:
            """A gradient step on each of the first `count` minibatches of `block` [K, b, …]: one program for any."""

            def step(index: Int[Arr, ""], carry: Refit) -> Refit:
                return fit.step(loss, carry[0], carry[1], nets, at(block, index), keys[index], now)

            keys = jax.random.split(key, jax.tree.leaves(block)[0].shape[0])
            said = cast("Refit", jax.eval_shape(step, 0, (component, state, {})))[2]
            nothing: Metrics = {name: jnp.zeros_like(figure) for name, figure in said.items()}
            start: Refit = (component, state, nothing)
            component, state, figures = cast("Refit", jax.lax.fori_loop(0, count, step, start))
            return strong(component), strong(state), figures

        def held_out_loss(component: Tree, nets: Components, data: Tree, key: Array) -> Scalar:
            return loss(component, nets, data, key)[0]

        self._steps: Callable[..., Refit] = jax.jit(steps, donate_argnums=(0, 1))
        self._held_out_loss: Callable[..., Scalar] = jax.jit(held_out_loss)

    def __call__(self, start: WholeFit) -> Iterator[Fitted]:
        budget, nets, data, rng = self._fit.budget, start.nets, start.data, start.rng
        component, state, now = start.component, start.state, np.int32(start.iteration)
        if budget.reset:
            component, state = start.first, self._fit.init(start.first)
        # The compiled steps take their buffers over: what was handed in must survive an interrupted fit.
        component, state = jax.tree.map(jnp.copy, (self._loss.prepare(component, data), state))
        order = rng.permutation(jax.tree.leaves(data)[0].shape[0])
        held = order[: int(budget.held_out * len(order))]
        kept = np.sort(order[len(held) :])
        minibatch = min(budget.minibatch or len(kept), len(kept))
        best, best_component, waited = np.inf, None, 0
        figures: Metrics = {}
        epochs = budget.passes(len(kept) // minibatch)
        for epoch in range(epochs):
            epoch_key = jax.random.fold_in(start.key, epoch)
            steps = len(kept) // minibatch
            order = rng.permutation(kept) if minibatch < len(kept) else kept
            minibatches = order[: steps * minibatch].reshape(steps, minibatch)
            # Calls share a shape, whatever the number of rows: what fills the last one up is read by no step.
            shape = STEPS_PER_CALL if steps > FEW_STEPS else 1 << (steps - 1).bit_length()
            for first in range(0, steps, shape):
                count = min(shape, steps - first)
                block = at(data, minibatches[np.arange(first, first + shape).clip(max=steps - 1)])
                key = jax.random.fold_in(epoch_key, first)
                component, state, figures = self._steps(component, state, nets, block, np.int32(count), key, now)
                yield Fitted(component, state, (epoch + first / steps) / epochs, count, {})
            if len(held):
                aside = at(data, held)
                loss = float(self._held_out_loss(component, nets, aside, epoch_key))
                if loss < best:
                    best, best_component, waited = loss, jax.tree.map(jnp.copy, component), 0
                else:
                    waited += 1
                if budget.patience is not None and waited >= budget.patience:
                    break
        if best_component is not None:
            component = best_component
        said = {name: float(value) for name, value in figures.items()}
        yield Fitted(component, state, 1.0, 0, said | ({"held_out_loss": best} if len(held) else {}))


class AbstractOwnFit(AbstractFit):
    """A component's own method fits all of D at once, on the host: it keeps no state, and needs a whole dataset."""

    needs: ClassVar[frozenset[str]] = frozenset({"dataset"})

    @abc.abstractmethod
    def fitted(self, component: Tree, data: Tree, rng: np.random.Generator) -> Tree:
        """The component, fitted to D."""

    def init(self, component: Tree) -> Tree:
        return ()

    def __call__(
        self,
        loss: Loss,
        component: Tree,
        state: Tree,
        nets: Components,
        data: Tree,
        key: PRNGKeyArray,
        count: Int[Arr, ""],
    ) -> Refit:
        raise UserError(
            f"{type(self).__name__}: fits all of a dataset at once, and found batches; expected Descend(…) there."
        )

    def over(self, loss: Loss) -> Callable[[WholeFit], Iterator[Fitted]]:
        def once(start: WholeFit) -> Iterator[Fitted]:
            yield Fitted(self.fitted(start.component, start.data, start.rng), start.state, 1.0, 1, {})

        return once


class LeastSquares(AbstractOwnFit):
    """θ ← argmin Σ_D (φ(s, a)ᵀθ − y)² + ridge ‖θ‖², of a critic that is linear in its features.

    With `centers` the features are radial ones around so many rows of the dataset, drawn before the first fit.
    """

    ridge: float = eqx.field(static=True, default=0.0, metadata=NOT_NEGATIVE)
    centers: int | None = eqx.field(static=True, default=None, metadata=COUNT)

    def prepared(
        self, component: LinearCritic, inputs: tuple[Float[np.ndarray, "b s"], Float[np.ndarray, "b m"]]
    ) -> LinearCritic:
        if self.centers is None:
            return component
        return dataclasses.replace(component, features=RadialBasis.from_data(inputs, self.centers))

    def fitted(self, component: LinearCritic, data: Labelled, rng: np.random.Generator) -> LinearCritic:
        return component.fit(_inputs(data), np.asarray(data.y), self.ridge)


class GrowTrees(AbstractOwnFit):
    """The trees of a `TreeCritic`, grown anew on D as its forest says.

    They take new cuts each time: under the same ones, the errors of one fit would be the next one's targets.
    """

    def prepared(
        self, component: TreeCritic, inputs: tuple[Float[np.ndarray, "b s"], Float[np.ndarray, "b m"]]
    ) -> TreeCritic:
        return component

    def fitted(self, component: TreeCritic, data: Labelled, rng: np.random.Generator) -> TreeCritic:
        return component.fit(_inputs(data), np.asarray(data.y), seed=int(rng.integers(2**31)))


def _inputs(data: Labelled) -> tuple[np.ndarray, np.ndarray]:
    """(s, a) of a regression set."""
    obs, action = (np.asarray(part) for part in data.inputs)
    return obs, action


def first_row(gradient: Tree) -> Arr:
    """The first row [*lead, out] of the gradient's first matrix [*lead, in, out], or its first leaf where none is one.

    The first layer's gradient is Σ_b x_b δ_bᵀ, with δ the errors that came back through all others: one that is not
    finite makes every row so, since 0 · ∞ is no number either: one row says what all of them would.
    """
    leaves = jax.tree.leaves(gradient)
    return next((leaf[..., 0, :] for leaf in leaves if leaf.ndim > 1 and leaf.shape[-2] > 1), leaves[0])
