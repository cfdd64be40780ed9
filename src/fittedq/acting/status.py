"""The status of an action in a loop that must not stop, and the safe action for when the policy has none."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import numpy as np
from jaxtyping import Float

from fittedq.actions.base import AbstractActionSet
from fittedq.envs.spaces import Numbers, refuse_not_finite
from fittedq.errors import UserError

Act = Callable[[Float[np.ndarray, "b s"]], Float[np.ndarray, "b m"]]

NEAR = 1e-5
"""In half-widths: how far outside the set a fallback may lie and still be taken for the admissible point next to it."""

HELD_BACK = 1e-4
"""In half-widths: an action that is so near to a limit is held back by it."""


class ActingStatus(IntEnum):
    """What became of one call of `Agent.step`; `sentence` says it in words, `is_fallback` whose the action is."""

    OK = 0
    NOT_FINITE = 1
    MALFORMED = 2
    FAILED = 3
    UNFAMILIAR = 4
    LIMITED = 5

    def __str__(self) -> str:
        return self.name

    @property
    def sentence(self) -> str:
        return SENTENCES[self]

    @property
    def is_fallback(self) -> bool:
        """Whether the action is the fallback, and not the policy's."""
        return self not in (ActingStatus.OK, ActingStatus.LIMITED)


SENTENCES = {
    ActingStatus.OK: "The action is the policy's.",
    ActingStatus.NOT_FINITE: "The observation holds NaN or infinity; the action is the fallback.",
    ActingStatus.MALFORMED: "The observation is not one of this agent's shape and of numbers; the action is the "
    "fallback.",
    ActingStatus.FAILED: "The policy gave no finite action for this observation; the action is the fallback.",
    ActingStatus.UNFAMILIAR: "The observation is not familiar by the data that were learned from; the action is the "
    "fallback.",
    ActingStatus.LIMITED: "The action is the policy's, held back by a rate, an inequality or bounds at this state.",
}


def middle(action_set: AbstractActionSet, obs_size: int) -> Float[np.ndarray, "m"]:
    """The admissible point next to the middle of the outer box; where A depends on s, that middle in whole numbers."""
    center = np.asarray(action_set.center, np.float32)
    if not action_set.reads_obs:
        return np.asarray(action_set.project(center[None], np.zeros((1, obs_size), np.float32)))[0]
    center[list(action_set.integer)] = np.round(center[list(action_set.integer)])
    return center


def checked_fallback(
    action: object, layout: Numbers, action_set: AbstractActionSet, obs_size: int
) -> Float[np.ndarray, "m"]:
    """`action`, flat, without its rounding errors; a UserError where it is not admissible. Where A(s) depends on s,
    only the outer box is checked."""
    try:
        rows, single = layout.read_flat(action, "fallback")
    except UserError as error:
        raise UserError(f"{error} A fallback is one action, and no batch.") from None
    if not single:
        raise UserError("fallback: found a batch, expected one action.")
    refuse_not_finite(rows, layout, "fallback")
    if action_set.reads_obs:
        near = np.clip(rows, np.asarray(action_set.low, np.float32), np.asarray(action_set.high, np.float32))
    else:
        no_state = np.zeros((1, obs_size), np.float32)
        near = rows if action_set.contains(rows, no_state).all() else np.asarray(action_set.project(rows, no_state))
    if (np.abs(near - rows) > NEAR * np.asarray(action_set.half_width, np.float32)).any():
        raise UserError(
            f"fallback: found {rows[0].tolist()}, expected an admissible action; the nearest is {near[0].tolist()}."
        )
    return near[0]


def safe_action(
    fallback: Float[np.ndarray, "m"], action_set: AbstractActionSet, rows: Float[np.ndarray, "b s"] | None
) -> Float[np.ndarray, "m"]:
    """Π_A(s)(fallback) where A depends on s and can be computed from the one row at hand, else `fallback` itself."""
    if rows is None or len(rows) != 1 or not action_set.reads_obs:
        return fallback
    try:
        with np.errstate(all="ignore"):
            near = np.asarray(action_set.project(fallback[None], rows))[0]
    except Exception:
        # Bounds are the user's code, and the observation may be anything.
        return fallback
    return near if np.isfinite(near).all() else fallback


def held_back(action_set: AbstractActionSet, action: Float[np.ndarray, "1 m"], obs: Float[np.ndarray, "1 s"]) -> bool:
    """Whether an inequality holds the action back, or, where A depends on s (as a limited rate does), an end of A(s).

    The ends of a constant box do not count: standing there is what good controllers do.
    """
    if action_set.separable and not action_set.reads_obs:
        return False
    region = action_set.region(obs)
    if region is None:
        return False
    near = HELD_BACK * np.asarray(action_set.half_width)
    if (region.matrix @ action[0] >= region.bound - np.abs(region.matrix) @ near).any():
        return True
    ends = (action[0] <= region.low[0] + near) | (action[0] >= region.high[0] - near)
    return action_set.reads_obs and bool((ends & ~region.integer).any())
