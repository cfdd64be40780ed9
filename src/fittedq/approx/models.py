"""Dynamics models s', r = f(s, a, ξ): known functions, and ensembles of Gaussian networks.

Every model maps noise to a next state, so that gradients pass through it, and says which noise gave an observed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.approx.networks import Mlp
from fittedq.arrays import Arr, Tree
from fittedq.errors import UserError
from fittedq.types import AbstractModel, Dynamics, Predicted, Transition

LOG_STD = (-7.0, 0.5)
"""Range of a Gaussian model's log σ, in deviations of what it predicts."""


class KnownModel(AbstractModel):
    """Any JAX function f(s, a, ξ) → (s', r, terminated).

    `infer` is exact where f is affine in ξ (least squares where ξ does not reach every coordinate).
    """

    own_units: ClassVar[bool] = True
    dynamics: Dynamics = eqx.field(static=True)

    @property
    def stored(self) -> int:
        return 0

    def begin(self, obs: Float[Arr, "b s"], stored: Float[Arr, "b x"] | None) -> Tree:
        return obs

    def observe(self, state: Tree) -> Float[Arr, "b s"]:
        return state

    def __call__(self, state: Tree, action: Float[Arr, "b m"], noise: Float[Arr, "b s"]) -> Predicted:
        obs: Float[Arr, "b s"] = state
        try:
            next_obs, reward, terminated = jax.vmap(self.dynamics)(obs, action, noise)
        except jax.errors.JAXTypeError as error:
            raise UserError(
                f"model: JAX cannot differentiate it ({str(error).splitlines()[0]}); write it in jax.numpy."
            ) from None
        if jnp.shape(next_obs) != jnp.shape(obs) or jnp.shape(reward) != jnp.shape(obs)[:1]:
            raise UserError(
                f"model: it returned a next state of shape {jnp.shape(next_obs)[1:]} and a reward of shape "
                f"{jnp.shape(reward)[1:]}, expected {jnp.shape(obs)[1:]} and (); correct the model."
            )
        ends = jnp.broadcast_to(jnp.asarray(terminated, obs.dtype), obs.shape[:1])
        return Predicted(next_obs, reward, 1.0 - ends)

    def infer(
        self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], next_obs: Float[Arr, "b s"]
    ) -> Float[Arr, "b s"]:
        def one(state: Arr, act: Arr, after: Arr) -> Arr:
            def mean(noise: Arr) -> Arr:
                return self.dynamics(state, act, noise)[0]

            still = jnp.zeros_like(state)
            return jnp.linalg.pinv(jax.jacobian(mean)(still)) @ (after - mean(still))

        return jax.vmap(one)(obs, action, next_obs)

    def check(self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"]) -> None:
        """Raise UserError unless its step and its derivative by the action are finite at these rows, and not all 0.

        The derivative is taken along one random direction: forwards, which compiles far sooner than a gradient.
        """

        def step(act: Arr) -> tuple[Arr, Arr]:
            predicted = self(obs, act, jnp.zeros_like(obs))
            return predicted.next_state, predicted.reward

        direction = jax.random.normal(jax.random.PRNGKey(0), action.shape, action.dtype)
        (next_obs, reward), change = jax.jit(lambda act: jax.jvp(step, (act,), (direction,)))(action)
        slope = jnp.concatenate([change[0], change[1][:, None]], axis=1)
        for name, value in (
            ("next state", next_obs),
            ("reward", reward),
            ("derivative by the action", slope),
        ):
            if not bool(jnp.isfinite(value).all()):
                row = int(jnp.argmin(jnp.isfinite(value.reshape(len(value), -1)).all(axis=1)))
                raise UserError(f"model: its {name} is not finite in row {row}; correct the model.")
        if not bool((slope != 0.0).any()):
            raise UserError(
                "model: the derivative of its step by the action is zero everywhere; write it without rounding, "
                "integer casts or stop_gradient."
            )


class Moments(eqx.Module):
    """Running mean and deviation of columns: the k-th batch counts 1/k, never less than `slowest`.

    Not trained: `fold` moves them, gradients stop at them.
    """

    mean: Float[Arr, "d"]
    square: Float[Arr, "d"]
    batches: Float[Arr, ""]

    @staticmethod
    def start(size: int) -> Moments:
        return Moments(jnp.zeros(size), jnp.ones(size), jnp.zeros(()))

    @property
    def deviation(self) -> Float[Arr, "d"]:
        return jnp.sqrt(jnp.maximum(self.square - self.mean**2, 1e-8))

    def fold(self, rows: Float[Arr, "b d"], slowest: float = 1e-3) -> Moments:
        """With one more batch."""
        rate = jnp.maximum(1.0 / (self.batches + 1.0), slowest)
        return Moments(
            self.mean + rate * (rows.mean(axis=0) - self.mean),
            self.square + rate * ((rows**2).mean(axis=0) - self.square),
            self.batches + 1.0,
        )

    def to_unit(self, rows: Float[Arr, "b d"]) -> Float[Arr, "b d"]:
        return (rows - jax.lax.stop_gradient(self.mean)) / jax.lax.stop_gradient(self.deviation)

    def from_unit(self, rows: Float[Arr, "b d"]) -> Float[Arr, "b d"]:
        return jax.lax.stop_gradient(self.mean) + jax.lax.stop_gradient(self.deviation) * rows


class GaussianModel(AbstractModel):
    """s' = s + D(μ_j(s, a) + σ_j(s, a) ξ), r = r_j(s, a), an ensemble of perceptrons j = 1 … n.

    D undoes the normalization of what is predicted. Rows are dealt to the members in turn, so a batch costs as much as
    one network. Source: Heess et al. 2015; Chua et al. 2018 (ensembles of Gaussian networks).
    """

    net: Mlp
    inputs: Moments
    outputs: Moments
    losses: Moments
    """Running losses of trained and of held-out rows, per number predicted."""
    action_set: AbstractActionSet

    def __init__(
        self,
        obs_size: int,
        action_set: AbstractActionSet,
        widths: Sequence[int],
        key: PRNGKeyArray,
        *,
        members: int = 5,
        activation: str = "silu",
    ):
        sizes = (obs_size + action_set.size, *widths, 2 * obs_size + 2)
        self.net = Mlp(sizes, key, lead=(members,), activation=activation)
        self.inputs, self.outputs = Moments.start(sizes[0]), Moments.start(obs_size + 1)
        self.losses = Moments.start(2)
        self.action_set = action_set

    @property
    def stored(self) -> int:
        return 0

    @property
    def members(self) -> int:
        return self.net.weights[0].shape[0]

    def _reads(self, obs: Arr, action: Arr) -> Arr:
        """[s, a in the unit box], not yet normalized."""
        return jnp.concatenate([obs, self.action_set.to_unit(action)], axis=-1)

    def _predicts(self, batch: Transition) -> Arr:
        """[s' − s, r], not yet normalized."""
        return jnp.concatenate([batch.next_obs - batch.obs, batch.reward[:, None]], axis=-1)

    def heads(self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"]) -> tuple[Arr, Arr, Arr]:
        """(mean of [s' − s, r], log σ of s' − s, logit of termination), normalized; member b mod n gives row b."""
        size, rows = obs.shape[-1], obs.shape[0]
        x = self.inputs.to_unit(self._reads(obs, action))
        padded = jnp.pad(x, ((0, -rows % self.members), (0, 0)))
        dealt = padded.reshape(-1, self.members, padded.shape[-1]).swapaxes(0, 1)
        out = self.net(dealt).swapaxes(0, 1).reshape(padded.shape[0], -1)[:rows]
        low, high = LOG_STD
        log_std = high - jax.nn.softplus(high - out[:, size + 1 : 2 * size + 1])
        return out[:, : size + 1], low + jax.nn.softplus(log_std - low), out[:, -1]

    def _step(self, obs: Arr, action: Arr) -> tuple[Arr, Arr, Predicted]:
        """(μ, σ of s' in its own units, the step without noise)."""
        mean, log_std, logit = self.heads(obs, action)
        change = self.outputs.from_unit(mean)
        deviation = jax.lax.stop_gradient(self.outputs.deviation)[:-1] * jnp.exp(log_std)
        return obs + change[:, :-1], deviation, Predicted(obs, change[:, -1], jax.nn.sigmoid(-logit))

    def begin(self, obs: Float[Arr, "b s"], stored: Float[Arr, "b x"] | None) -> Tree:
        return obs

    def observe(self, state: Tree) -> Float[Arr, "b s"]:
        return state

    def __call__(self, state: Tree, action: Float[Arr, "b m"], noise: Float[Arr, "b s"]) -> Predicted:
        mean, deviation, step = self._step(state, action)
        return Predicted(mean + deviation * noise, step.reward, step.continues)

    def infer(
        self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], next_obs: Float[Arr, "b s"]
    ) -> Float[Arr, "b s"]:
        mean, deviation, _ = self._step(obs, action)
        return (next_obs - mean) / deviation

    def fold(self, batch: Transition) -> GaussianModel:
        """With the batch counted in the normalization."""
        inputs, outputs = self._reads(batch.obs, batch.action), self._predicts(batch)
        where = lambda model: (model.inputs, model.outputs)  # noqa: E731
        return eqx.tree_at(where, self, (self.inputs.fold(inputs), self.outputs.fold(outputs)))

    def loss(self, batch: Transition) -> tuple[Float[Arr, "b"], Float[Arr, "b"]]:
        """(−log N([s' − s]; μ, σ) − log N(r; r_j, 1) − log p(terminated), squared error of [s' − s, r]), per row.

        In normalized units, constants left out.
        """
        mean, log_std, logit = self.heads(batch.obs, batch.action)
        error = self.outputs.to_unit(self._predicts(batch)) - mean
        log_deviation = jnp.pad(log_std, ((0, 0), (0, 1)))
        gaussian = jnp.sum(0.5 * (error * jnp.exp(-log_deviation)) ** 2 + log_deviation, axis=-1)
        ends = batch.terminated.astype(logit.dtype)
        return gaussian + jax.nn.softplus(logit) - ends * logit, jnp.mean(error**2, axis=-1)
