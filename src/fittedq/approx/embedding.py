"""Embeddings of states and actions that predict the next state's, and networks that read them (SALE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.approx.net import AbstractNet, Activation, having_seen
from fittedq.approx.networks import Mlp, QNetwork
from fittedq.arrays import Arr, Index, Tree, namespace
from fittedq.types import AbstractCritic, AbstractEncoder, Part

LEAST = 1e-8
"""What a norm is divided by at least."""
LARGEST_FLOAT = float(np.finfo(np.float32).max)


def average_l1(x: Float[Arr, "*b i"]) -> Float[Arr, "*b i"]:
    """x / mean_k |x_k|. Source: Fujimoto et al. 2023, eq. 4."""
    xp = namespace(x)
    return x / xp.maximum(abs(x).mean(-1, keepdims=True), LEAST)


class StateActionEncoder(AbstractEncoder):
    """z_s = average L1 norm of f(s), z_sa = g(z_s, a), perceptrons f and g, a scaled to the unit box.

    Source: Fujimoto et al. 2023, section 4.1.
    """

    of_state: Mlp
    of_pair: Mlp

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        size: int,
        widths: Sequence[int],
        key: PRNGKeyArray,
        *,
        activation: Activation = "elu",
    ):
        state_key, pair_key = jax.random.split(key)
        self.of_state = Mlp((obs_size, *widths, size), state_key, activation=activation)
        self.of_pair = Mlp((size + action_size, *widths, size), pair_key, activation=activation)

    @property
    def obs_size(self) -> int:
        return self.of_state.weights[0].shape[0]

    @property
    def size(self) -> int:
        return self.of_state.weights[-1].shape[1]

    def state(self, obs: Float[Arr, "b s"]) -> Float[Arr, "b z"]:
        return average_l1(self.of_state(obs))

    def pair(self, embedded: Float[Arr, "b z"], action: Float[Arr, "b m"]) -> Float[Arr, "b z"]:
        return self.of_pair(namespace(embedded).concatenate([embedded, action], axis=-1))


class EmbeddedMlp(AbstractNet):
    """A perceptron on [average L1 norm of (x W + b), z_sa, z_s], x = [s, a], or without z_sa, x = s.

    It holds a copy of the encoder, to which no gradient passes.
    """

    first: Mlp
    rest: Mlp
    encoder: AbstractEncoder

    def __init__(
        self,
        sizes: Sequence[int],
        key: PRNGKeyArray,
        *,
        encoder: AbstractEncoder,
        lead: tuple[int, ...] = (),
        activation: Activation = "elu",
    ):
        first_key, rest_key = jax.random.split(key)
        embedded = encoder.size * (2 if sizes[0] > encoder.obs_size else 1)
        self.first = Mlp(sizes[:2], first_key, lead=lead)
        self.rest = Mlp((sizes[1] + embedded, *sizes[1:]), rest_key, lead=lead, activation=activation)
        self.encoder = encoder

    @property
    def members(self) -> int:
        return self.first.members

    def __call__(self, x: Float[Arr, "... i"], key: PRNGKeyArray | None = None) -> Float[Arr, "... o"]:
        xp, encoder = namespace(x, self.first.weights[0]), self.encoder
        if xp is not np and isinstance(encoder, eqx.Module):  # a host view has no gradients
            encoder = jax.lax.stop_gradient(encoder)
        obs, action = x[..., : encoder.obs_size], x[..., encoder.obs_size :]
        embedded = encoder.state(obs)
        if action.shape[-1]:
            embedded = xp.concatenate([encoder.pair(embedded, action), embedded], axis=-1)
        own = average_l1(self.first(x, key))
        embedded = xp.broadcast_to(embedded, (*own.shape[:-1], embedded.shape[-1]))
        return self.rest(xp.concatenate([own, embedded], axis=-1), key)

    def by_batch(self, x: Float[Arr, "... b i"], key: PRNGKeyArray | None = None) -> tuple[Float[Arr, "... b o"], None]:
        return self(x, key), None

    def taking(self, statistics: Tree) -> EmbeddedMlp:
        return self

    def knowing(self, statistics: Tree) -> EmbeddedMlp:
        return self

    def projected(self) -> EmbeddedMlp:
        return self


class RangedCritic(AbstractCritic):
    """A critic that keeps the least and the greatest y that it was fitted to; low > high before the first."""

    critic: QNetwork
    action_set: AbstractActionSet
    low: Float[Arr, ""]
    high: Float[Arr, ""]
    has_gradient: ClassVar[bool] = True

    def __init__(self, critic: QNetwork):
        self.critic, self.action_set = critic, critic.action_set
        self.low, self.high = jnp.asarray(LARGEST_FLOAT), jnp.asarray(-LARGEST_FLOAT)

    @property
    def size(self) -> int:
        return self.critic.size

    def __call__(
        self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray | None = None
    ) -> Float[Arr, "n b"]:
        return self.critic(obs, action, key)

    def subset(self, indices: Index) -> RangedCritic:
        return eqx.tree_at(lambda ranged: ranged.critic, self, self.critic.subset(indices))

    def clipped(self, value: Float[Arr, "b"]) -> Float[Arr, "b"]:
        """A value within the targets seen; 0 before the first."""
        return jnp.where(self.low <= self.high, jnp.clip(value, self.low, self.high), 0.0)


@having_seen.register
def _(component: RangedCritic, data: Tree) -> RangedCritic:
    seen = jnp.minimum(component.low, data.y.min()), jnp.maximum(component.high, data.y.max())
    return eqx.tree_at(lambda ranged: (ranged.low, ranged.high), component, seen)


def _is_encoder(node: object) -> bool:
    return isinstance(node, AbstractEncoder)


def own_arrays(component: Part) -> Part:
    """Whether each array of a component is its own: the encoder's are not."""

    def own(node: Tree) -> Tree:
        return jax.tree.map(lambda _: not _is_encoder(node), node)

    return jax.tree.map(own, component, is_leaf=_is_encoder)
