"""Linear models of a plant: linearized from its equations, or fitted to a log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from fittedq.actions.base import Box
from fittedq.approx.linear import LinearCritic, Polynomial
from fittedq.arrays import Arr
from fittedq.data.dataset import Dataset
from fittedq.envs.native import AbstractPhysics, physics
from fittedq.errors import UserError


@final
@dataclass(frozen=True)
class LinearModel:
    """x' = A x + B a + c, x the coordinates `states` of the observation."""

    A: Float[np.ndarray, "x x"]
    B: Float[np.ndarray, "x m"]
    c: Float[np.ndarray, "x"]
    states: tuple[int, ...]

    @staticmethod
    def of_matrices(A: object, B: object, c: object = None, states: Sequence[int] | None = None) -> LinearModel:
        """From given matrices; `states` are by default the first coordinates of the observation, c is 0."""
        moves, drives = (np.atleast_2d(np.asarray(part, np.float64)) for part in (A, B))
        offset = np.zeros(len(moves)) if c is None else np.asarray(c, np.float64)
        where = tuple(range(len(moves))) if states is None else tuple(states)
        size = len(where)
        if moves.shape != (size, size) or drives.ndim != 2 or len(drives) != size or offset.shape != (size,):
            raise UserError(
                f"linear model of {size} states: found A, B and c of shapes {moves.shape}, {drives.shape} and "
                f"{offset.shape}, expected ({size}, {size}), ({size}, actions) and ({size},)."
            )
        if not all(np.isfinite(part).all() for part in (moves, drives, offset)):
            raise UserError("linear model: found numbers that are not finite in A, B or c.")
        return LinearModel(moves, drives, offset, where)

    @staticmethod
    def of_env(
        env: object,
        obs: Float[np.ndarray, "s"],
        action: Float[np.ndarray, "m"],
        states: Sequence[int] | None = None,
    ) -> LinearModel:
        """A = ∂f/∂s, B = ∂f/∂a, c = f − A s − B a at (s, a), f one sample of a JAX environment that knows its physics.

        `states` are by default all coordinates.
        """
        if not isinstance(env, AbstractPhysics):
            raise UserError(
                f"linear model: found {type(env).__name__}, which has no step that JAX can differentiate by the "
                "observation (AbstractPhysics); fit a model to a log of it, with LinearModel.of_data."
            )
        step, at = physics(env), (jnp.asarray(obs, jnp.float32), jnp.asarray(action, jnp.float32))
        rows = np.arange(len(obs)) if states is None else np.asarray(states)
        after, (by_obs, by_action) = _with_jacobians(lambda s, a: step(s, a, jnp.zeros_like(s))[0])(*at)
        A = np.asarray(by_obs, np.float64)[np.ix_(rows, rows)]
        B = np.asarray(by_action, np.float64)[rows]
        here = np.asarray(after, np.float64)[rows]
        offset = here - A @ np.asarray(obs, np.float64)[rows] - B @ np.asarray(action, np.float64)
        return LinearModel(A, B, offset, tuple(rows.tolist()))

    @staticmethod
    def of_data(dataset: Dataset, states: Sequence[int] | None = None, ridge: float = 0.0) -> LinearModel:
        """[A B c] = argmin Σ ‖x' − A x − B a − c‖² + ridge ‖[A B c]‖² over transitions; `states`: by default all."""
        rows = np.arange(dataset.obs_size) if states is None else np.asarray(states)
        columns = dataset.columns
        inputs = (columns["obs"][:, rows].astype(np.float64), columns["action"].astype(np.float64))
        if len(dataset) < len(rows) + dataset.action_size + 1:
            raise UserError(
                f"linear model: found {len(dataset)} transitions for {len(rows) + dataset.action_size + 1} numbers in "
                "each row of it; expected at least as many."
            )
        start = LinearCritic.start(Polynomial(1), len(rows), dataset.action_set, np.float64)
        weights = np.stack([start.fit(inputs, columns["next_obs"][:, row], ridge).weights[0] for row in rows])
        return LinearModel(
            weights[:, 1 : len(rows) + 1], weights[:, len(rows) + 1 :], weights[:, 0], tuple(rows.tolist())
        )

    def predict(self, obs: Float[np.ndarray, "b s"], action: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "b x"]:
        """x' of rows."""
        return obs[:, list(self.states)] @ self.A.T + action @ self.B.T + self.c

    def explained(self, dataset: Dataset) -> Float[np.ndarray, "x"]:
        """R² of x' − x: 1 − Σ (x' − prediction)² / Σ (Δx − mean Δx)², of each state; NaN for one that never moves."""
        columns, rows = dataset.columns, list(self.states)
        after = columns["next_obs"][:, rows].astype(np.float64)
        change = after - columns["obs"][:, rows]
        missed = ((after - self.predict(columns["obs"].astype(np.float64), columns["action"])) ** 2).sum(axis=0)
        spread = ((change - change.mean(axis=0)) ** 2).sum(axis=0)
        return 1 - missed / np.where(spread > 0, spread, np.nan)

    def environment(
        self,
        starts: Float[np.ndarray, "n s"],
        action_set: Box,
        reward: Callable[[Array, Array, Array], Array],
        episode_length: int,
    ) -> ModelEnv:
        """An environment that it moves: episodes begin at one of the observations `starts`; what is no state stays.

        `reward` is r(s, a, s') in JAX.
        """
        A, B, c = (jnp.asarray(part, jnp.float32) for part in (self.A, self.B, self.c))
        return ModelEnv(A, B, c, jnp.asarray(starts, jnp.float32), action_set, episode_length, self.states, reward)


@final
class ModelEnv(AbstractPhysics[Array]):
    """s' of a `LinearModel` from s; coordinates that are no states, such as a set-point, stay as they began."""

    A: Float[Array, "x x"]
    B: Float[Array, "x m"]
    c: Float[Array, "x"]
    starts: Float[Array, "n s"]
    box: Box
    length: int = eqx.field(static=True)
    states: tuple[int, ...] = eqx.field(static=True)
    reward: Callable[[Array, Array, Array], Array] = eqx.field(static=True)

    @property
    def obs_size(self) -> int:
        return self.starts.shape[1]

    @property
    def action_set(self) -> Box:
        return self.box

    @property
    def episode_length(self) -> int:
        return self.length

    def begin(self, key: PRNGKeyArray) -> Float[Array, "s"]:
        return self.starts[jax.random.randint(key, (), 0, len(self.starts))]

    def observe(self, inner: Float[Array, "s"]) -> Float[Array, "s"]:
        return inner

    def recall(self, obs: Float[Array, "s"]) -> Float[Array, "s"]:
        return obs

    def transition(
        self, inner: Float[Array, "s"], action: Float[Array, "m"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "s"], Float[Array, ""], Bool[Array, ""]]:
        del key
        rows = jnp.asarray(self.states)
        action = jnp.asarray(self.box.project(action, inner))
        after = inner.at[rows].set(self.A @ inner[rows] + self.B @ action + self.c)
        return after, self.reward(inner, action, after), jnp.zeros((), bool)


def _with_jacobians(f: Callable[[Array, Array], Arr]) -> Callable[[Array, Array], tuple[Array, tuple[Array, Array]]]:
    """(f, (∂f/∂s, ∂f/∂a)) in one program."""
    return jax.jit(lambda s, a: (f(s, a), jax.jacobian(f, argnums=(0, 1))(s, a)))
