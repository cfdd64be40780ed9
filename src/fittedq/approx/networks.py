"""Neural approximators: q, π and v on one multilayer perceptron.

A network is arrays and arithmetic only, so what trains under JAX also acts on the host (see `approx.host`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.approx.dense import DenseNet, Layer, dense
from fittedq.approx.heads import AbstractHead, OneValue
from fittedq.approx.host import refuse_forked
from fittedq.approx.net import AbstractNet, AbstractRowNet, Activation, Make, Passed, for_members, in_batch
from fittedq.arrays import Arr, Index, Tree, namespace
from fittedq.bellman import gaussian_log_prob, squashed_log_prob
from fittedq.types import AbstractCritic, AbstractDensityPolicy, AbstractPolicy, AbstractValue, Part

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    # `where` rather than `maximum`: its derivative at 0 is 0 and costs one select.
    "relu": lambda x: namespace(x).where(x > 0, x, 0),
    "leaky_relu": lambda x: namespace(x).where(x > 0, x, 0.01 * x),
    "tanh": lambda x: namespace(x).tanh(x),
    "silu": lambda x: x * 0.5 * (1 + namespace(x).tanh(0.5 * x)),
    "gelu": lambda x: 0.5 * x * (1 + namespace(x).tanh(0.7978845608028654 * (x + 0.044715 * x**3))),
    "softplus": lambda x: namespace(x).logaddexp(x, 0 * x),
    "elu": lambda x: namespace(x).where(x > 0, x, namespace(x).expm1(namespace(x).minimum(x, 0))),
}


def activated(activation: Activation, x: Float[Arr, "..."]) -> Float[Arr, "..."]:
    """activation(x), where x is."""
    if isinstance(activation, str):
        return ACTIVATIONS[activation](x)
    if namespace(x) is not np:
        return activation(x)
    # JAX's own functions have their like in NumPy, which spares acting a dispatch.
    name = getattr(activation, "__name__", "")
    if getattr(jnp, name, None) is activation and hasattr(np, name):
        return getattr(np, name)(x)
    refuse_forked("an activation of your own")
    return np.asarray(activation(x), x.dtype)


def layer_normalized(
    x: Float[Arr, "... w"], gain: Float[Arr, "*lead 1 w"], shift: Float[Arr, "*lead 1 w"]
) -> Float[Arr, "... w"]:
    """gain · (x − mean) / √(variance + 1e-5) + shift, over each row."""
    centered = x - x.mean(-1, keepdims=True)
    scale = namespace(x, gain).sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
    return centered / scale * gain + shift


LOG_STD_RANGE = (-20.0, 2.0)
"""Clamp of log σ, as in the authors' code of SAC."""
CLIPPED_LOG_STD_RANGE = (-5.0, 2.0)
"""σ from .7 % of a half-width on: a log that holds an action constant would make it 0, and its density infinite."""


class Mlp(AbstractRowNet):
    """x ← activation(norm(dropout(x W + b))) per hidden layer, then x W + b.

    Leading axes of the leaves make an ensemble: weights [*lead, in, out], biases [*lead, 1, out]. Weights and biases
    start uniform in ±1/√fan_in (Lillicrap et al. 2015, section 7). Dropout before the norm, as in DroQ (Hiraoka et al.
    2021, figure 1).
    """

    weights: tuple[Any, ...]
    biases: tuple[Any, ...]
    gains: tuple[Any, ...]
    shifts: tuple[Any, ...]
    activation: Activation = eqx.field(static=True)
    dropout: float = eqx.field(static=True)

    def __init__(
        self,
        sizes: Sequence[int],
        key: PRNGKeyArray,
        *,
        lead: tuple[int, ...] = (),
        activation: Activation = "relu",
        layer_norm: bool = False,
        dropout: float = 0.0,
    ):
        layers = list(itertools.pairwise(sizes))
        shapes = [(*lead, rows, fan_out) for fan_in, fan_out in layers for rows in (fan_in, 1)]
        # One draw for all layers: each draw is a program of its own size to compile.
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        pieces = jnp.split(jax.random.uniform(key, (int(ends[-1]),), minval=-1, maxval=1), ends[:-1])
        bounds = [fan_in**-0.5 for fan_in, _ in layers for _ in range(2)]
        arrays = [b * piece.reshape(shape) for b, piece, shape in zip(bounds, pieces, shapes, strict=True)]
        self.weights, self.biases = tuple(arrays[::2]), tuple(arrays[1::2])
        hidden = sizes[1:-1] if layer_norm else ()
        self.gains = tuple(jnp.ones((*lead, 1, width)) for width in hidden)
        self.shifts = tuple(jnp.zeros((*lead, 1, width)) for width in hidden)
        self.activation, self.dropout = activation, dropout

    def projected(self) -> Mlp:
        return self

    def __call__(self, x: Float[Arr, "... i"], key: PRNGKeyArray | None = None) -> Float[Arr, "... o"]:
        xp = namespace(x, self.weights[0])
        last, x = len(self.weights) - 1, for_members(x, self.weights[0])
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = xp.matmul(x, weight) + bias
            if layer == last:
                break
            if self.dropout > 0 and key is not None:
                keep = jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - self.dropout, x.shape)
                x = xp.where(keep, x / (1 - self.dropout), 0)
            if self.gains:
                x = layer_normalized(x, self.gains[layer], self.shifts[layer])
            x = activated(self.activation, x)
        return x


@dense.register
def _(net: Mlp) -> DenseNet:
    layers = [Layer(weight, bias[0]) for weight, bias in zip(net.weights, net.biases, strict=True)]
    norms = [{"gain": gain[0], "shift": shift[0]} for gain, shift in zip(net.gains, net.shifts, strict=True)]
    hidden = [layer._replace(**norm) for layer, norm in zip(layers, norms or [{}] * (len(layers) - 1), strict=False)]
    return DenseNet(tuple(hidden), layers[-1], net.activation)


VALUE = OneValue()
"""One output, the value."""


class QNetwork(AbstractCritic):
    """q_j(s, a), j = 1 … n: an ensemble of networks on [s, a scaled to the unit box].

    `make` makes the networks, `head` says what their outputs mean: of a distribution of the return, q is the mean.
    """

    net: AbstractNet
    action_set: AbstractActionSet
    head: AbstractHead
    has_gradient: ClassVar[bool] = True

    def __init__(
        self,
        obs_size: int,
        action_set: AbstractActionSet,
        widths: Sequence[int],
        key: PRNGKeyArray,
        *,
        n_critics: int = 1,
        activation: Activation = "relu",
        make: Make = Mlp,
        head: AbstractHead = VALUE,
    ):
        sizes = (obs_size + action_set.size, *widths, head.outputs)
        self.net = make(sizes, key, lead=(n_critics,), activation=activation)
        self.action_set, self.head = action_set, head

    @property
    def size(self) -> int:
        return self.net.members

    def __call__(
        self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray | None = None
    ) -> Float[Arr, "n b"]:
        return self.head.mean(self.outputs(obs, action, key))

    def outputs(
        self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray | None = None
    ) -> Float[Arr, "n b K"]:
        """What the head reads."""
        return self.net(self.inputs(obs, action), key)

    def inputs(self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"]) -> Float[Arr, "b i"]:
        """[s, a scaled to the unit box]."""
        return namespace(obs).concatenate([obs, self.action_set.to_unit(action)], axis=-1)

    def subset(self, indices: Index) -> QNetwork:
        return jax.tree.map(lambda leaf: leaf[indices], self)


@in_batch.register
def _(component: QNetwork, *inputs: Arr, key: PRNGKeyArray | None = None) -> tuple[QNetwork, Tree]:
    return _passed(component, component.inputs(*inputs), key)


def _passed(component: Tree, x: Float[Arr, "b i"], key: PRNGKeyArray | None) -> tuple[Tree, Tree]:
    outputs, statistics = component.net.by_batch(x, key)
    return answering(component, outputs), statistics


def answering(component: Part, outputs: Float[Arr, "... b o"]) -> Part:
    """A component whose network has passed over its batch, with these outputs."""
    return eqx.tree_at(lambda component: component.net, component, Passed(outputs))


class VNetwork(AbstractValue):
    """v(s): one perceptron."""

    net: Mlp

    def __init__(self, obs_size: int, widths: Sequence[int], key: PRNGKeyArray, *, activation: Activation = "relu"):
        self.net = Mlp((obs_size, *widths, 1), key, activation=activation)

    def __call__(self, obs: Float[Arr, "b s"], key: PRNGKeyArray | None = None) -> Float[Arr, "b"]:
        return self.net(obs, key)[..., 0]


class DeterministicPolicy(AbstractPolicy):
    """π(s) = Π_A(s)(center + half_width · tanh(net(s))); in a box there is nothing to project."""

    net: AbstractNet
    action_set: AbstractActionSet

    def __init__(
        self,
        obs_size: int,
        action_set: AbstractActionSet,
        widths: Sequence[int],
        key: PRNGKeyArray,
        *,
        activation: Activation = "relu",
        make: Make = Mlp,
    ):
        self.net = make((obs_size, *widths, action_set.size), key, activation=activation)
        self.action_set = action_set

    def act(self, obs: Float[Arr, "b s"], normal: Float[Arr, "b m"]) -> Float[Arr, "b m"]:
        del normal
        return self.action_set.admissible(namespace(obs).tanh(self.net(obs)), obs)

    def sample(self, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> tuple[Float[Arr, "b m"], Float[Arr, "b"]]:
        del key
        return self.action_set.admissible(jnp.tanh(self.net(obs)), obs), jnp.zeros(obs.shape[:-1], obs.dtype)


class TanhGaussianPolicy(AbstractDensityPolicy):
    """a = Π_A(s)(center + half_width · tanh(μ(s) + σ(s) ε)), ε ~ N(0, I). Source: Haarnoja et al. 2018, appendix C.

    log π is that of the action before it is projected (in a box, the action): the projected one has no density where
    many are sent to one point.
    """

    net: AbstractNet
    action_set: AbstractActionSet

    def __init__(
        self,
        obs_size: int,
        action_set: AbstractActionSet,
        widths: Sequence[int],
        key: PRNGKeyArray,
        *,
        activation: Activation = "relu",
        make: Make = Mlp,
    ):
        self.net = make((obs_size, *widths, 2 * action_set.size), key, activation=activation)
        self.action_set = action_set

    def parameters(self, obs: Float[Arr, "b s"]) -> tuple[Float[Arr, "b m"], Float[Arr, "b m"]]:
        """(μ, log σ) before squashing."""
        out = self.net(obs)
        m = self.action_set.size
        return out[..., :m], namespace(out).clip(out[..., m:], *LOG_STD_RANGE)

    def act(self, obs: Float[Arr, "b s"], normal: Float[Arr, "b m"]) -> Float[Arr, "b m"]:
        xp = namespace(obs)
        mean, log_std = self.parameters(obs)
        return self.action_set.admissible(xp.tanh(mean + xp.exp(log_std) * normal), obs)

    def sample(self, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> tuple[Float[Arr, "b m"], Float[Arr, "b"]]:
        return self.replay(obs, jax.random.normal(key, (*obs.shape[:-1], self.action_set.size), obs.dtype))

    def infer(self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"]) -> Float[Arr, "b m"]:
        """ε = σ⁻¹(artanh(a in the unit box) − μ): the draw that gives `action`, which is kept off the box's faces."""
        edge = 1.0 - 1e-6
        mean, log_std = self.parameters(obs)
        u = jnp.arctanh(jnp.clip(self.action_set.to_unit(action), -edge, edge))
        return (u - mean) * jnp.exp(-log_std)

    def log_density(self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"]) -> Float[Arr, "b"]:
        return self.replay(obs, self.infer(obs, action))[1]

    def replay(self, obs: Float[Arr, "b s"], normal: Float[Arr, "b m"]) -> tuple[Float[Arr, "b m"], Float[Arr, "b"]]:
        """(a, log π(a | s)) for the draw `normal`, differentiable in w."""
        mean, log_std = self.parameters(obs)
        u = mean + jnp.exp(log_std) * normal
        log_prob = squashed_log_prob(normal, log_std, u, self.action_set.half_width)
        return self.action_set.admissible(jnp.tanh(u), obs), log_prob


class ClippedGaussianPolicy(AbstractDensityPolicy):
    """a = Π_A(s)(center + half_width · (tanh(μ(s)) + σ ε)), ε ~ N(0, I): its mean is squashed, its density is not.

    So an action on a face of the box, as logs are full of, has a finite density, where a squashed Gaussian's diverges.
    log π is that of the action before it is projected. σ in half-widths is the same everywhere, or, with `by_state`, a
    function of s. Source: Kostrikov et al. 2022 (IQL), the authors' code.
    """

    net: AbstractNet
    log_std: Float[Arr, "m"]
    action_set: AbstractActionSet
    by_state: bool = eqx.field(static=True)

    def __init__(
        self,
        obs_size: int,
        action_set: AbstractActionSet,
        widths: Sequence[int],
        key: PRNGKeyArray,
        *,
        activation: Activation = "relu",
        make: Make = Mlp,
        by_state: bool = False,
    ):
        m = action_set.size
        self.net = make((obs_size, *widths, 2 * m if by_state else m), key, activation=activation)
        self.log_std, self.action_set, self.by_state = jnp.zeros(m), action_set, by_state

    def parameters(self, obs: Float[Arr, "b s"]) -> tuple[Float[Arr, "b m"], Float[Arr, "b m"]]:
        """(mean, log σ) in the unit box."""
        xp = namespace(obs)
        out, m = self.net(obs), self.action_set.size
        log_std = self.log_std + (out[..., m:] if self.by_state else xp.zeros_like(out))
        return xp.tanh(out[..., :m]), xp.clip(log_std, *CLIPPED_LOG_STD_RANGE)

    def act(self, obs: Float[Arr, "b s"], normal: Float[Arr, "b m"]) -> Float[Arr, "b m"]:
        mean, log_std = self.parameters(obs)
        unit = mean + namespace(obs).exp(log_std) * normal
        return self.action_set.project(self.action_set.from_unit(unit), obs)

    def sample(self, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> tuple[Float[Arr, "b m"], Float[Arr, "b"]]:
        normal = jax.random.normal(key, (*obs.shape[:-1], self.action_set.size), obs.dtype)
        return self.act(obs, normal), self._log_prob(normal, self.parameters(obs)[1])

    def log_density(self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"]) -> Float[Arr, "b"]:
        mean, log_std = self.parameters(obs)
        return self._log_prob((self.action_set.to_unit(action) - mean) * jnp.exp(-log_std), log_std)

    def _log_prob(self, normal: Float[Arr, "b m"], log_std: Float[Arr, "b m"]) -> Float[Arr, "b"]:
        return gaussian_log_prob(normal, log_std) - float(np.sum(np.log(self.action_set.half_width)))


@in_batch.register(DeterministicPolicy)
@in_batch.register(TanhGaussianPolicy)
def _(component: Tree, obs: Float[Arr, "b s"], *, key: PRNGKeyArray | None = None) -> tuple[Tree, Tree]:
    return _passed(component, obs, key)
