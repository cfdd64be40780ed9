"""The augmented state: what a controller with a memory sees, and its own memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.increments import Increments
from fittedq.actions.saved import action_set_of
from fittedq.arrays import Arr, namespace
from fittedq.control.augmentation import Augmentation, Error
from fittedq.errors import UserError, in_one_line
from fittedq.files import Json
from fittedq.settings import as_json, from_json
from fittedq.types import Transition

LEAST_RATE = 2.0**-20
"""Of the width of an action's limits: what a number of single precision still changes by."""


@dataclass(frozen=True)
class AugmentedState:
    """z_t = [y_t, e_t, I_t, y_{t−1} … y_{t−k+1}, u_{t−1} … u_{t−p}] with p = k − 1 (at least 1 where changes count).

    y are the environment's observations [o] and u its actions [m], here in the unit box; e_t = y_t − set-point,
    I_t = clip(I_{t−1} + e_t · sample, ±limit). It is the state of an autoregressive model with k lags, which ends with
    the newest action. z is all the memory there is: `next` makes z_{t+1} of z_t, the action and y_{t+1}, so that a
    replay, a checkpoint and a controller keep z and nothing else.

    The learner's actions a [m] are u, or, with increments, Δ = u_t − u_{t−1} in the box `Increments` of z.
    """

    augmentation: Augmentation
    obs_size: int
    """o, of a raw observation."""
    limits: AbstractActionSet
    """The raw actions that are admissible."""

    def __post_init__(self) -> None:
        for name, errors in (("error", self.augmentation.errors), ("integral", self.augmentation.integrals)):
            for error in errors:
                if max(error.measured, error.set_point or 0) >= self.obs_size:
                    raise UserError(
                        f"setting {name}: found {str(error)!r}, but observations have {self.obs_size} numbers; "
                        f"expected coordinates from 0 to {self.obs_size - 1}."
                    )
        rate, size = self.augmentation.rate_limit, self.limits.size
        if rate is not None and len(rate) not in (1, size):
            raise UserError(
                f"setting rate_limit: found {len(rate)} numbers for {size} actions; give one for all or one for each."
            )
        if self.augmentation.increments and not isinstance(self.limits, Box):
            raise UserError(
                f"setting increments: the actions lie in a {type(self.limits).__name__}, expected a box; changes of an "
                "action are limited by a box."
            )
        least = LEAST_RATE * 2 * np.asarray(self.limits.half_width)
        for axis in np.flatnonzero(np.asarray(self.rate) < least)[:1]:
            raise UserError(
                f"setting rate_limit: found {self.rate[axis]:g} for action {axis}, which moves between "
                f"{self.limits.low[axis]:g} and {self.limits.high[axis]:g}: one sample needs at least "
                f"{least[axis]:.3g}, or the action stands still in single precision."
            )

    # ------------------------------------------------------------------ sizes

    @property
    def rate(self) -> tuple[float, ...]:
        """The largest change of each action in a sample; without a limit, from one end of its box to the other."""
        width = tuple(2 * half for half in self.limits.half_width)
        rate = self.augmentation.rate_limit or width
        rate = rate * len(width) if len(rate) == 1 else rate
        return tuple(min(one, most) for one, most in zip(rate, width, strict=True))

    @property
    def lags(self) -> int:
        """p, the earlier actions that are seen."""
        counts = self.augmentation.increments or self.augmentation.change_penalty > 0
        return max(self.augmentation.history - 1, int(counts))

    @property
    def _ends(self) -> tuple[int, int, int, int, int]:
        """Where in z the observation, the errors, the integrals, the earlier observations and actions end."""
        errors = self.obs_size + len(self.augmentation.error)
        integrals = errors + len(self.augmentation.integral)
        observations = integrals + (self.augmentation.history - 1) * self.obs_size
        return self.obs_size, errors, integrals, observations, observations + self.lags * self.limits.size

    @property
    def measured(self) -> Int[np.ndarray, "y"]:
        """Where in z the newest observation is, without the set-points that errors are taken to."""
        set_points = [error.set_point for error in (*self.augmentation.errors, *self.augmentation.integrals)]
        return np.array([place for place in range(self.obs_size) if place not in set_points], int)

    @property
    def earlier(self) -> Int[np.ndarray, "x"]:
        """Where in z earlier observations and the actions between them are; empty without earlier observations."""
        first, end = self._ends[2], self._ends[-1]
        return np.arange(first, end if self.augmentation.history > 1 else first)

    @property
    def size(self) -> int:
        """The numbers in z."""
        return self._ends[-1]

    @property
    def action_set(self) -> AbstractActionSet:
        """What a may be at z."""
        if not self.augmentation.increments:
            return self.limits
        first = self._ends[3]
        return Increments(Box(self.limits.low, self.limits.high), self.rate, range(first, first + self.limits.size))

    # ------------------------------------------------------------------ one step

    def first(
        self, obs: Float[Arr, "*b o"], action: Float[Arr, "m"] | Float[Arr, "*b m"] | None = None
    ) -> Float[Arr, "*b z"]:
        """z at the first observation of an episode, which stands for those before it; `action` is the one before,
        by default the middle of its limits. Integrals begin at 0."""
        xp = namespace(obs)
        before = xp.zeros((*obs.shape[:-1], self.limits.size), obs.dtype)
        if action is not None:
            before = xp.broadcast_to(self.limits.to_unit(action), before.shape).astype(obs.dtype)
        past = [obs] * (self.augmentation.history - 1) + [before] * self.lags
        return self.joined(obs, self._bounded(self.gain(obs)), past)

    def next(
        self, state: Float[Arr, "*b z"], action: Float[Arr, "*b m"], next_obs: Float[Arr, "*b o"]
    ) -> Float[Arr, "*b z"]:
        """z_{t+1} of z_t, the learner's action and y_{t+1}."""
        return self.after(state, self.executed(state, action), next_obs)

    def after(
        self,
        state: Float[Arr, "*b z"],
        executed: Float[Arr, "*b m"],
        next_obs: Float[Arr, "*b o"],
        integral: Float[Arr, "*b i"] | None = None,
    ) -> Float[Arr, "*b z"]:
        """z_{t+1} of z_t, the action u that was executed and y_{t+1}; `integral` is I_{t+1} where it is known."""
        obs, errors, integrals, observations, actions = self._ends
        past: list[Arr] = []
        if self.augmentation.history > 1:
            past += [state[..., :obs], state[..., integrals : observations - obs]]
        if self.lags:
            past += [self.limits.to_unit(executed), state[..., observations : actions - self.limits.size]]
        if integral is None:
            integral = self._bounded(state[..., errors:integrals] + self.gain(next_obs))
        return self.joined(next_obs, integral, past)

    def executed(self, state: Float[Arr, "*b z"], action: Float[Arr, "*b m"]) -> Float[Arr, "*b m"]:
        """u of the learner's action: itself, or u_{t−1} + Δ, within its limits."""
        if not self.augmentation.increments:
            return action
        moved = self.wanted(self._before(state), action)
        return self.limits.project(moved, state[..., : self.obs_size]).astype(action.dtype)

    def wanted(self, before: Float[Arr, "*b m"], action: Float[Arr, "*b m"]) -> Float[Arr, "*b m"]:
        """What the learner's action leads to after u_{t−1} = `before`, without limits: itself, or u_{t−1} + Δ."""
        return before + action if self.augmentation.increments else action

    def reached(self, before: Float[Arr, "*b m"], wanted: Float[Arr, "*b m"]) -> Float[Arr, "*b m"]:
        """u = clip(clip(wanted, u_{t−1} ± rate), low, high) after u_{t−1} = `before`, whoever wants it; without
        increments, what is wanted."""
        if not self.augmentation.increments:
            return wanted
        rate = namespace(before).asarray(self.rate, before.dtype)
        near = namespace(before).clip(wanted, before - rate, before + rate)
        return self.limits.project(near, near).astype(before.dtype)

    def asked(self, state: Float[Arr, "*b z"], executed: Float[Arr, "*b m"]) -> Float[Arr, "*b m"]:
        """The learner's action that u was: the inverse of `executed`."""
        return executed - self._before(state) if self.augmentation.increments else executed

    def cost(self, state: Float[Arr, "*b z"], action: Float[Arr, "*b m"]) -> Float[Arr, "*b"]:
        """λ |(u_t − u_{t−1}) / half-width|², which is taken off the reward that is learned from."""
        xp = namespace(state, action)
        if not self.augmentation.change_penalty:
            return xp.zeros(action.shape[:-1], action.dtype)
        moved = self.limits.to_unit(self.executed(state, action)) - self.limits.to_unit(self._before(state))
        return xp.asarray(self.augmentation.change_penalty * xp.sum(moved**2, axis=-1))

    def raw(self, rows: Transition) -> Transition:
        """Rows (z, a, r − cost, z') as the environment has them."""
        executed, reward = self.executed(rows.obs, rows.action), rows.reward + self.cost(rows.obs, rows.action)
        obs, next_obs = rows.obs[..., : self.obs_size], rows.next_obs[..., : self.obs_size]
        return rows._replace(obs=obs, action=executed, reward=reward, next_obs=next_obs)

    def _before(self, state: Float[Arr, "*b z"]) -> Float[Arr, "*b m"]:
        """u_{t−1}, in its own units."""
        first = self._ends[3]
        return self.limits.from_unit(state[..., first : first + self.limits.size])

    def _read(self, obs: Float[Arr, "*b o"], errors: tuple[Error, ...]) -> Float[Arr, "*b e"]:
        """The errors at y."""
        columns = [
            obs[..., error.measured] - (error.value if error.set_point is None else obs[..., error.set_point])
            for error in errors
        ]
        xp = namespace(obs)
        return xp.stack(columns, axis=-1) if columns else obs[..., :0]

    def _bounded(self, total: Float[Arr, "*b i"]) -> Float[Arr, "*b i"]:
        """An integral, no larger than it may be."""
        limit = self.augmentation.integral_limit
        return total if limit is None else namespace(total).clip(total, -limit, limit)

    def gain(self, obs: Float[Arr, "*b o"]) -> Float[Arr, "*b i"]:
        """e_t · sample: what y adds to the integrals."""
        return (self.augmentation.sample or 1.0) * self._read(obs, self.augmentation.integrals)

    def joined(self, obs: Float[Arr, "*b o"], integral: Float[Arr, "*b i"], past: list[Arr]) -> Float[Arr, "*b z"]:
        """z of y, I and what lies behind: earlier observations, then earlier actions in the unit box."""
        parts = [obs, self._read(obs, self.augmentation.errors), integral, *past]
        return namespace(obs, integral).concatenate(parts, axis=-1).astype(obs.dtype)

    # ------------------------------------------------------------------ files

    def describe(self) -> dict[str, Any]:
        """All of it as JSON, from which `described` makes it again."""
        return {
            "augmentation": as_json(self.augmentation),
            "obs_size": self.obs_size,
            "limits": self.limits.describe(),
        }

    @staticmethod
    def described(saved: Json, where: str, limits: AbstractActionSet | None = None) -> AugmentedState:
        """The state that the file at `where` tells of, `limits` given again where they are code; a UserError where it
        is damaged."""
        try:
            settings = from_json(Augmentation, saved["augmentation"], {}, where)
            bound = action_set_of(saved["limits"], limits)
            return AugmentedState(Augmentation(**settings), int(saved["obs_size"]), bound)
        except UserError as error:
            raise UserError(f"{where}: {error} It is damaged.") from None
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{where}: what it says of the augmented state can be none ({in_one_line(error)}); it is damaged."
            ) from None
