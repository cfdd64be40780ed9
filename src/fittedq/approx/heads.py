"""What a critic's outputs mean: one value, or a distribution of the return, of which the mean is the value."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from fittedq.arrays import Arr, namespace
from fittedq.errors import UserError
from fittedq.slots import AbstractSlot


class AbstractHead(AbstractSlot):
    """K outputs → a distribution Σ_k w_k δ(z_k) of the return."""

    @property
    @abc.abstractmethod
    def outputs(self) -> int:
        """K, the outputs of the network."""

    @abc.abstractmethod
    def mean(self, outputs: Float[Arr, "*b K"]) -> Float[Arr, "*b"]:
        """q = Σ_k w_k z_k."""

    @abc.abstractmethod
    def atoms(self, outputs: Float[Arr, "*b K"]) -> tuple[Float[Arr, "*b K"], Float[Arr, "*b K"]]:
        """(z, w)."""

    @abc.abstractmethod
    def loss(self, outputs: Float[Arr, "n b K"], y: Float[Arr, "b k"], weight: Float[Arr, "b k"]) -> Float[Arr, "n b"]:
        """What fitting the outputs to Σ_k weight_k δ(y_k) minimizes, row by row."""

    @abc.abstractmethod
    def outside(self, y: Float[Arr, "b k"], weight: Float[Arr, "b k"]) -> Float[Arr, ""]:
        """The share of the distribution Σ_k weight_k δ(y_k) that the head cannot hold."""


class OneValue(AbstractHead):
    """One output, the value: (q − Σ_k w_k y_k)²."""

    @property
    def outputs(self) -> int:
        return 1

    def mean(self, outputs: Float[Arr, "*b K"]) -> Float[Arr, "*b"]:
        return outputs[..., 0]

    def atoms(self, outputs: Float[Arr, "*b K"]) -> tuple[Float[Arr, "*b K"], Float[Arr, "*b K"]]:
        return outputs, namespace(outputs).ones_like(outputs)

    def loss(self, outputs: Float[Arr, "n b K"], y: Float[Arr, "b k"], weight: Float[Arr, "b k"]) -> Float[Arr, "n b"]:
        return (self.mean(outputs) - (weight * y).sum(-1)) ** 2

    def outside(self, y: Float[Arr, "b k"], weight: Float[Arr, "b k"]) -> Float[Arr, ""]:
        return jnp.zeros(())


class Categorical(AbstractHead):
    """w = softmax(outputs) over `bins` values z_i evenly from `low` to `high`.

    Fitted by the cross-entropy −Σ_i t_i log w_i to the projection of the target onto the bins, which keeps its mean:
    t_i = Σ_k weight_k max(0, 1 − |clip(y_k, low, high) − z_i| / Δ), Δ the distance of two bins.
    Source: Bellemare et al. 2017 (C51), eq. 7; Farebrother et al. 2024 (why cross-entropy).
    """

    low: float = eqx.field(static=True, default=-5.0)
    high: float = eqx.field(static=True, default=5.0)
    bins: int = eqx.field(static=True, default=101)

    def __check_init__(self) -> None:
        super().__check_init__()
        if self.low >= self.high:
            raise UserError(
                f"setting value_low: found {self.low:g}, expected a number below value_high, which is {self.high:g}; "
                "they are the ends of the bins."
            )

    @property
    def outputs(self) -> int:
        return self.bins

    @property
    def support(self) -> Float[np.ndarray, "K"]:
        """z."""
        return np.linspace(self.low, self.high, self.bins, dtype=np.float32)

    def mean(self, outputs: Float[Arr, "*b K"]) -> Float[Arr, "*b"]:
        xp = namespace(outputs)
        # The maximum's gradient cancels, and is 0/0 where a compiler computes the outputs twice, rounded otherwise.
        still = outputs if xp is np else jax.lax.stop_gradient(outputs)
        mass = xp.exp(outputs - still.max(-1, keepdims=True))
        return (mass * self.support).sum(-1) / mass.sum(-1)

    def atoms(self, outputs: Float[Arr, "*b K"]) -> tuple[Float[Arr, "*b K"], Float[Arr, "*b K"]]:
        return jnp.broadcast_to(self.support, outputs.shape), jax.nn.softmax(outputs)

    def projection(self, y: Float[Arr, "b k"], weight: Float[Arr, "b k"]) -> Float[Arr, "b K"]:
        """t, which sums to 1 and keeps the mean of what lies inside [low, high]."""
        place = (jnp.clip(y, self.low, self.high) - self.low) * ((self.bins - 1) / (self.high - self.low))
        below = jnp.minimum(place.astype(jnp.int32), self.bins - 2)
        above = place - below
        pairs = jnp.stack([weight * (1 - above), weight * above], axis=-1)
        # Two bins an atom, side by side: far faster than every atom beside every bin.
        return _pairs_added(jnp.zeros((len(y), self.bins), y.dtype), below, pairs)

    def loss(self, outputs: Float[Arr, "n b K"], y: Float[Arr, "b k"], weight: Float[Arr, "b k"]) -> Float[Arr, "n b"]:
        return -(self.projection(y, weight) * jax.nn.log_softmax(outputs)).sum(-1)

    def outside(self, y: Float[Arr, "b k"], weight: Float[Arr, "b k"]) -> Float[Arr, ""]:
        return jnp.mean((weight * ((y < self.low) | (y > self.high))).sum(-1))


def _pairs_added(table: Float[Arr, "b K"], place: Int[Arr, "b k"], pairs: Float[Arr, "b k 2"]) -> Float[Arr, "b K"]:
    """table[row, place + i] += pairs[row, ·, i] for i = 0, 1."""
    first = jnp.arange(table.shape[0], dtype=place.dtype)[:, None] * table.shape[1]
    numbers = jax.lax.ScatterDimensionNumbers((2,), (), (0,))
    inside = jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
    index = (first + place)[..., None]
    return jax.lax.scatter_add(table.ravel(), index, pairs, numbers, mode=inside).reshape(table.shape)


class Quantiles(AbstractHead):
    """The outputs are quantiles z_i of the return at τ_i = (i + ½)/K, each of weight 1/K.

    Fitted by quantile regression: Σ_i Σ_k weight_k |τ_i − 1[u < 0]| H(u), u = y_k − z_i, H Huber's loss with kink 1,
    divided by K. Source: Dabney et al. 2018 (QR-DQN), eq. 10; Kuznetsov et al. 2020 (TQC).
    """

    count: int = eqx.field(static=True, default=25)

    @property
    def outputs(self) -> int:
        return self.count

    def mean(self, outputs: Float[Arr, "*b K"]) -> Float[Arr, "*b"]:
        return outputs.mean(-1)

    def atoms(self, outputs: Float[Arr, "*b K"]) -> tuple[Float[Arr, "*b K"], Float[Arr, "*b K"]]:
        return outputs, jnp.full_like(outputs, 1 / self.count)

    def loss(self, outputs: Float[Arr, "n b K"], y: Float[Arr, "b k"], weight: Float[Arr, "b k"]) -> Float[Arr, "n b"]:
        tau = (np.arange(self.count, dtype=np.float32) + 0.5) / self.count
        error = y[:, None, :] - outputs[..., None]
        size = jnp.abs(error)
        huber = jnp.where(size < 1, 0.5 * error**2, size - 0.5)
        tilt = jnp.abs(tau[:, None] - (error < 0))
        return (tilt * huber * weight[:, None, :]).sum((-1, -2)) / self.count

    def outside(self, y: Float[Arr, "b k"], weight: Float[Arr, "b k"]) -> Float[Arr, ""]:
        return jnp.zeros(())
