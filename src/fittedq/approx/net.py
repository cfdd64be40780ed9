"""What a network is to the critics and policies on it: x → outputs, and how it passes over a batch to be fitted."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Float, PRNGKeyArray

from fittedq.arrays import Arr, Tree, namespace
from fittedq.types import Part


class AbstractNet(eqx.Module):
    """x → outputs. Leading axes of its leaves make an ensemble."""

    @property
    @abc.abstractmethod
    def members(self) -> int:
        """n, the size of the ensemble; 1 where there is none."""

    @abc.abstractmethod
    def __call__(self, x: Float[Arr, "... i"], key: PRNGKeyArray | None = None) -> Float[Arr, "... o"]:
        """The outputs; `key` draws dropout masks, and without one dropout is off."""

    @abc.abstractmethod
    def by_batch(self, x: Float[Arr, "... b i"], key: PRNGKeyArray | None = None) -> tuple[Float[Arr, "... b o"], Tree]:
        """(outputs, statistics) as the network is fitted: normalized by the statistics of this batch, where it
        normalizes by a batch; None where it keeps no statistics."""

    @abc.abstractmethod
    def taking(self, statistics: Tree) -> AbstractNet:
        """The network with a batch's statistics taken into its running ones."""

    @abc.abstractmethod
    def knowing(self, statistics: Tree) -> AbstractNet:
        """The network with a batch's statistics in the place of its running ones."""

    @abc.abstractmethod
    def projected(self) -> AbstractNet:
        """The network with its weights back in the set where they are kept; itself where there is none."""


def ensemble_size(leaf: Float[Arr, "*lead _ _"]) -> int:
    """n of a leaf [n, rows, columns]; 1 of one without a leading axis."""
    return leaf.shape[0] if leaf.ndim > 2 else 1


def for_members(x: Float[Arr, "... i"], leaf: Float[Arr, "*lead _ _"]) -> Float[Arr, "... i"]:
    """x once per member of the leaf's ensemble: left to broadcasting, XLA makes one wide product and transposes its
    result."""
    lead = leaf.shape[:-2]
    return namespace(x, leaf).broadcast_to(x, (*lead, *x.shape[-2:])) if lead else x


class AbstractRowNet(AbstractNet):
    """A network in which no row depends on another, with or without a batch."""

    weights: eqx.AbstractVar[tuple[Float[Arr, "*lead _ _"], ...]]

    @property
    def members(self) -> int:
        return ensemble_size(self.weights[0])

    def by_batch(self, x: Float[Arr, "... b i"], key: PRNGKeyArray | None = None) -> tuple[Float[Arr, "... b o"], None]:
        return self(x, key), None

    def taking(self, statistics: Tree) -> AbstractRowNet:
        return self

    def knowing(self, statistics: Tree) -> AbstractRowNet:
        return self


Activation = str | Callable[[Arr], Arr]
"""A word of `ACTIVATIONS`, or a function of an array, element by element, in `jax.numpy`."""


Make = Callable[..., AbstractNet]
"""(widths from input to output, key, *, lead, activation) → a network; `lead` are the ensemble's leading axes."""


class Passed(AbstractNet):
    """A network that has passed over its batch: its outputs there, whatever it is asked."""

    outputs: Float[Arr, "... b o"]

    @property
    def members(self) -> int:
        return ensemble_size(self.outputs)

    def __call__(self, x: Float[Arr, "... i"], key: PRNGKeyArray | None = None) -> Float[Arr, "... o"]:
        return self.outputs

    def by_batch(self, x: Float[Arr, "... b i"], key: PRNGKeyArray | None = None) -> tuple[Float[Arr, "... b o"], Tree]:
        return self.outputs, None

    def taking(self, statistics: Tree) -> Passed:
        return self

    def knowing(self, statistics: Tree) -> Passed:
        return self

    def projected(self) -> Passed:
        return self


@functools.singledispatch
def in_batch(component: Part, *inputs: Arr, key: PRNGKeyArray | None = None) -> tuple[Part, Tree]:
    """(component, statistics): the component as it is fitted, good at these inputs alone, which are one batch to its
    network; and what the network keeps of it. Classes that hold a network register how; others are as they are."""
    del inputs, key
    return component, None


@functools.singledispatch
def having_seen(component: Part, data: Tree) -> Part:
    """The component before it is fitted to D, with what it keeps of it. Classes that keep something register how."""
    del data
    return component


def taken(component: Part, statistics: Tree) -> Part:
    """A component whose network has taken a batch's statistics in."""
    return component if statistics is None else _changed(lambda net: net.taking(statistics), component)


def projected(component: Part) -> Part:
    """A component whose networks' weights are back in the set where they are kept, such as the unit sphere."""
    return _changed(lambda net: net.projected(), component)


def of_its_kind(mean: Part, *inputs: Arr) -> Part:
    """A mean of components as one of their kind: the weights of its networks back in the set where they are kept, and
    their statistics those that its own layers have at `inputs`, for a mean of variances is not the variance of a mean.
    """
    mean = projected(mean)
    statistics = in_batch(mean, *inputs)[1]
    return mean if statistics is None else _changed(lambda net: net.knowing(statistics), mean)


def _changed(change: Callable[[AbstractNet], AbstractNet], component: Part) -> Part:
    def is_net(node: object) -> bool:
        return isinstance(node, AbstractNet)

    return jax.tree.map(lambda node: change(node) if is_net(node) else node, component, is_leaf=is_net)
