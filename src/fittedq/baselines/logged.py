"""A plant as its log tells it, to try controllers in: a linear model with lags, a reward as described or quadratic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from fittedq.actions.base import Box
from fittedq.approx.linear import LinearCritic, Polynomial
from fittedq.baselines.linear_model import LinearModel, ModelEnv
from fittedq.data.dataset import Dataset
from fittedq.envs.native import AbstractJaxEnv
from fittedq.errors import UserError
from fittedq.expressions import FOLLOWING, INCREMENT, Expression
from fittedq.settings import whole


class LoggedPlant(NamedTuple):
    """An environment made of a log, and how much of the log it explains."""

    env: LaggedEnv
    explained: Float[np.ndarray, "s"]
    """R² of y' − y, of each coordinate of the observation; NaN for one that stays."""
    reward_explained: float
    """R² of the reward."""

    @staticmethod
    def of(dataset: Dataset, *, lags: int = 1, stay: Sequence[int] = (), episode_length: int = 200) -> LoggedPlant:
        """y' = A z + B u + c with z = [y_t … y_{t−k+1}, u_{t−1} … u_{t−k+1}], k = `lags`, by least squares.

        r is the formula of y, u and y' by which the log is described. Where there is none, or where it does not give
        the rewards of the log, r = φ(y, u)ᵀθ by least squares, φ all monomials of degree 2 at most.

        Coordinates that `stay`, such as set-points, are as an episode began, and have no lags. Episodes begin at rows
        of the log with their history. It says nothing of what the log does not reach, and has no noise.
        """
        lags, episode_length = whole(lags, "lags", 1), whole(episode_length, "episode_length", 1)
        rows = with_history(dataset, lags)
        if not len(rows):
            raise UserError(
                f"found no row with {lags - 1} before it in its episode, of {len(dataset):,} transitions; expected "
                "longer episodes, or fewer lags.",
                argument="lags",
            )
        moving = [row for row in range(dataset.obs_size) if row not in stay]
        columns = dataset.columns
        past = [columns["obs"][rows - lag][:, moving] for lag in range(1, lags)]
        done = [columns["action"][rows - lag] for lag in range(1, lags)]
        seen = np.concatenate([columns["obs"][rows], *past, *done], axis=1)
        # One sample later, all histories are a row older, but for the last of them.
        later = [columns["obs"][rows][:, moving], *past[:-1]][: len(past)]
        acts = [columns["action"][rows], *done[:-1]][: len(done)]
        after = np.concatenate([columns["next_obs"][rows], *later, *acts], axis=1)
        low, high = dataset.action_set.low, dataset.action_set.high
        ends = np.zeros(len(rows), bool)
        histories = Dataset.from_arrays(
            obs=seen, action=columns["action"][rows], reward=columns["reward"][rows], next_obs=after,
            terminated=ends, truncated=~ends, action_low=low, action_high=high,
        )  # fmt: skip
        states = [row for row in range(seen.shape[1]) if row not in stay]
        model = LinearModel.of_data(histories, states)
        told = np.full(dataset.obs_size, np.nan)
        told[moving] = model.explained(histories)[: len(moving)]
        reward = FormulaReward.of(dataset) or QuadraticReward.of(dataset)
        env = model.environment(seen, Box(low, high), reward, episode_length)
        return LoggedPlant(LaggedEnv(env, dataset.obs_size), told, _explained(reward, dataset))


def with_history(dataset: Dataset, lags: int) -> Int[np.ndarray, "k"]:
    """The rows with `lags` − 1 rows before them in their episode."""
    last = dataset.columns["terminated"] | dataset.columns["truncated"]
    last[dataset.broken_links()] = True
    begins = np.concatenate([[True], last[:-1]])
    row = np.arange(len(dataset))
    first = np.maximum.accumulate(np.where(begins, row, 0))
    return np.flatnonzero(row - first >= lags - 1)


@final
@dataclass(frozen=True)
class QuadraticReward:
    """r(s, a) = φ(y, a)ᵀθ, φ all monomials of degree 2 at most of the first `size` coordinates y of s, and of a."""

    weights: tuple[float, ...]
    size: int

    @staticmethod
    def of(dataset: Dataset) -> QuadraticReward:
        """The least-squares fit to the rewards of a log."""
        columns = dataset.columns
        inputs = (columns["obs"].astype(np.float64), columns["action"].astype(np.float64))
        start = LinearCritic.start(Polynomial(2), dataset.obs_size, dataset.action_set, np.float64)
        fitted = start.fit(inputs, columns["reward"].astype(np.float64))
        return QuadraticReward(tuple(fitted.weights[0].tolist()), dataset.obs_size)

    def __call__(self, obs: Array, action: Array, after: Array) -> Array:
        del after
        features = jnp.asarray(Polynomial(2)(jnp.atleast_2d(obs[..., : self.size]), jnp.atleast_2d(action)))
        return (features @ np.asarray(self.weights, np.float32)).reshape(obs.shape[:-1])


@final
@dataclass(frozen=True)
class FormulaReward:
    """r(s, a, s') by the formula of a description, of columns that are observed and done (`next_`: in s')."""

    text: str
    obs: tuple[str, ...]
    action: tuple[str, ...]

    @staticmethod
    def of(dataset: Dataset) -> FormulaReward | None:
        """That of the log's description; None where it reads what is neither in s, a nor s', or gives other rewards."""
        said = dataset.description
        if said is None or not said.reward or len(said.obs) != dataset.obs_size:
            return None
        found = FormulaReward(said.reward, said.obs, said.action)
        try:
            read = Expression(said.reward).columns((*said.obs, *said.action)).values()
        except UserError:
            return None
        if any(shift == INCREMENT or (shift == FOLLOWING and name not in said.obs) for name, shift in read):
            return None
        return found if _explained(found, dataset) > 1 - 1e-6 else None

    def __call__(self, obs: Array, action: Array, after: Array) -> Array:
        known, here = (*self.obs, *self.action), jnp.concatenate([obs[..., : len(self.obs)], action], axis=-1)
        formula = Expression(self.text)
        return jnp.asarray(formula(formula.read(known, here, after), jnp), here.dtype)


def _explained(reward: QuadraticReward | FormulaReward, dataset: Dataset) -> float:
    """R² of a reward on a log."""
    columns = dataset.columns
    seen = columns["reward"].astype(np.float64)
    rows = (jnp.asarray(columns[name]) for name in ("obs", "action", "next_obs"))
    told = np.asarray(reward(*rows), np.float64)
    spread = float(((seen - seen.mean()) ** 2).sum())
    return 1 - float(((told - seen) ** 2).sum()) / spread if spread else 1.0


@final
class LaggedEnv(AbstractJaxEnv[Array]):
    """`env`, of whose state only the first `size` numbers are observed: the newest observation, without its history."""

    env: ModelEnv
    size: int = eqx.field(static=True)

    @property
    def obs_size(self) -> int:
        return self.size

    @property
    def action_set(self) -> Box:
        return self.env.box

    @property
    def episode_length(self) -> int:
        return self.env.length

    def begin(self, key: PRNGKeyArray) -> Float[Array, "z"]:
        return self.env.begin(key)

    def observe(self, inner: Float[Array, "z"]) -> Float[Array, "s"]:
        return inner[: self.size]

    def transition(
        self, inner: Float[Array, "z"], action: Float[Array, "m"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "z"], Float[Array, ""], Bool[Array, ""]]:
        return self.env.transition(inner, action, key)
