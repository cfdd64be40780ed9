"""Units of networks that answer to nothing any more."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Float

from fittedq.approx.dense import DenseNet, dense
from fittedq.approx.net import AbstractNet
from fittedq.approx.networks import QNetwork, activated, layer_normalized
from fittedq.types import Components

LEAST_MOVED = 1e-6
"""Of its largest value: a unit that moves less over all states is dead."""


def dead_share(nets: Components, obs: Float[np.ndarray, "b s"], action: Float[np.ndarray, "b m"]) -> float | None:
    """The share of hidden units, of the policy and the critics, whose value is the same in all of these states; None
    where no network is dense layers. Source: Sokar et al. 2023 (dormant neurons), with the limit at 0."""
    counts = []
    if isinstance(nets.critic, QNetwork):
        net, x = nets.critic.net, np.asarray(nets.critic.inputs(obs, action))
        counts += [_dead(jax.tree.map(lambda leaf, at=at: leaf[at], net), x) for at in range(nets.critic.size)]
    net = getattr(nets.policy, "net", None)
    if isinstance(net, AbstractNet):
        counts.append(_dead(net, obs))
    dead, count = (sum(part) for part in zip((0, 0), *counts, strict=True))
    return dead / count if count else None


def _dead(net: AbstractNet, x: Float[np.ndarray, "b i"]) -> tuple[int, int]:
    """(dead units, units) of hidden layers; none of a network that is no dense layers."""
    layers: DenseNet | None = dense(jax.tree.map(lambda leaf: np.asarray(leaf, float), net))
    if layers is None:
        return 0, 0
    dead = count = 0
    for layer in layers.layers:
        x = x @ layer.weight + layer.bias
        if layer.gain is not None and layer.shift is not None:
            x = np.asarray(layer_normalized(x, layer.gain, layer.shift))
        x = np.asarray(activated(layers.activation, x))
        dead += int((np.ptp(x, axis=0) <= LEAST_MOVED * np.abs(x).max(axis=0)).sum())
        count += x.shape[1]
    return dead, count
