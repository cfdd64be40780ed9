"""A policy in a loop that must not stop: an action and a status for whatever is measured."""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float

from fittedq.acting.guarded import Guarded
from fittedq.acting.status import Act, ActingStatus, held_back, safe_action
from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import all_finite
from fittedq.control.state import AugmentedState
from fittedq.envs.spaces import Spaces
from fittedq.errors import UserError


class Taken(NamedTuple):
    """What the policy saw and decided."""

    seen: Float[np.ndarray, "1 z"]
    action: Float[np.ndarray, "1 m"]


@final
class SafeLoop:
    """(y_t, memory) → (u_t, status): `reset` at the beginning of an episode, then `step` once a sample; never raises.

    z_t = `memory` of z_{t−1}, u_{t−1} and y_t, and u_t is the policy's action a at z_t. Where the policy has no finite
    action, the fallback is in its place, or u_{t−1} in a loop that `holds`. Such a sample is left out of the memory:
    only the action that was executed is remembered, so that one dead reading spoils nothing that comes after. Whoever
    acts, the memory's rate and limits hold for u_t (`AugmentedState.reached`). Without a memory z_t = y_t and u_t = a.

    After `take_over` each sample changes u by a share of its range at most, until it has met what the policy decides.

    With a `guard` its fallback acts where z_t is not familiar, and z goes on. After a sample that was left out, changes
    are judged again once the history is whole.
    """

    def __init__(
        self,
        act: Act,
        spaces: Spaces,
        action_set: AbstractActionSet,
        fallback: Float[np.ndarray, "m"],
        memory: AugmentedState | None = None,
        before: Float[np.ndarray, "m"] | None = None,
        guard: Guarded | None = None,
        holds: bool = False,
    ):
        self._act, self._spaces, self._set, self._fallback, self._memory = act, spaces, action_set, fallback, memory
        self._guard, self._holds = guard, holds
        self._limits = action_set if memory is None else memory.limits
        self.reset(before)

    def reset(self, before: Float[np.ndarray, "m"] | None = None) -> None:
        """An episode begins, as though the action `before` had been executed until then: the middle by default, and
        where it is not finite."""
        self._seen: Float[np.ndarray, "1 z"] | None = None
        self._executed = np.asarray(self._limits.center, np.float32)[None]
        if before is not None:
            self.follow(before)
        self._obs: Float[np.ndarray, "1 s"] | None = None
        self._samples, self._trail = 0, None
        self._most: Float[np.ndarray, "m"] | None = None
        self._relief = None if self._guard is None else self._guard.fallback.start(1)
        self.taken: Taken | None = None
        """The last sample's state and action of the policy; None where it had none."""

    def follow(self, executed: Float[np.ndarray, "m"]) -> None:
        """What was executed instead at the last sample: the action of the controller beside which this one runs. A
        vector that is not finite, a dead reading, changes nothing."""
        found = np.asarray(executed, np.float32)
        if found.shape != self._executed[0].shape:
            raise UserError(f"executed: found shape {found.shape}, expected {self._executed[0].shape}, all actions.")
        if all_finite(found):
            self._executed = found[None]

    def take_over(self, present: Float[np.ndarray, "m"], samples: int) -> None:
        """u goes on from the action `present` of the controller before, and crosses its range in no fewer than
        `samples` samples; LIMITED tells that it is still on its way. All actions move together, so that u stays in a
        convex set; whole numbers change at once."""
        self.follow(present)
        width = np.asarray(self._limits.high, np.float32) - np.asarray(self._limits.low, np.float32)
        width[list(self._limits.integer)] = np.inf
        self._most = width / np.float32(samples)

    def step(self, obs: object) -> tuple[np.ndarray, ActingStatus]:
        """(u_t, status) at this sample, as the environment gives it or flat."""
        rows, wanted, status, before = None, None, ActingStatus.MALFORMED, self._executed
        self.taken = None
        try:
            rows, single = self._spaces.observation.read_flat(obs, "observation")
            if not single:
                rows = None
            elif not all_finite(rows):
                status = ActingStatus.NOT_FINITE
            else:
                status = ActingStatus.FAILED
                with np.errstate(over="ignore", invalid="ignore"):
                    status, wanted = self._decide(rows)
        except Exception:
            # Whatever was handed in, the loop goes on; the status says that something was wrong.
            pass
        if wanted is None:
            wanted = safe_action(self._fallen_back(), self._limits, rows)[None]
            self._obs, self._samples, self._trail = None, 0, None
        self._executed = wanted if self._memory is None else np.asarray(self._memory.reached(before, wanted))
        if self._most is not None and self._on_its_way(before[0], self._most) and status == ActingStatus.OK:
            status = ActingStatus.LIMITED
        return self._spaces.shaped(self._executed[0]), status

    def _on_its_way(self, before: Float[np.ndarray, "m"], most: Float[np.ndarray, "m"]) -> bool:
        """Whether u, which `before` stood, is held back on its way to what was decided: u = before + share · change."""
        change = self._executed[0] - before
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.nanmin(np.where(change == 0, 1, most / np.abs(change)), initial=1)
        if share >= 1:
            self._most = None
            return False
        free = np.isinf(most)
        self._executed = np.where(free, self._executed[0], before + np.float32(share) * change)[None].astype(np.float32)
        return True

    def _decide(self, rows: Float[np.ndarray, "1 s"]) -> tuple[ActingStatus, Float[np.ndarray, "1 m"] | None]:
        """What is wanted at a finite observation, and by whom; the memory goes on. FAILED and None where the policy has
        no action."""
        seen, guard, relief, known, trail = self._state(rows), self._guard, None, self._relief, self._trail
        if guard is not None:
            relief, known = guard.relieved(self._relief, rows, self._executed)
            strange, trail = guard.strange(seen, self._obs, self._executed, self._samples, trail)
            if not strange[0]:
                relief = None
        if relief is None:
            action = self._act(seen)
            if not all_finite(action):
                return ActingStatus.FAILED, None
            status = ActingStatus.LIMITED if held_back(self._set, action, seen) else ActingStatus.OK
            relief, self.taken = self._wanted(action), Taken(seen, action)
        else:
            status = ActingStatus.UNFAMILIAR
        self._seen, self._obs, self._samples = seen, rows, self._samples + 1
        self._relief, self._trail = known, trail
        return status, relief

    def _state(self, rows: Float[np.ndarray, "1 s"]) -> Float[np.ndarray, "1 z"]:
        if self._memory is None:
            return rows
        if self._seen is None:
            return np.asarray(self._memory.first(rows, self._executed))
        return np.asarray(self._memory.after(self._seen, self._executed, rows))

    def _wanted(self, action: Float[np.ndarray, "1 m"]) -> Float[np.ndarray, "1 m"]:
        """Where an action of the learner's kind leads: to itself, or by it from the action before."""
        return action if self._memory is None else np.asarray(self._memory.wanted(self._executed, action))

    def _fallen_back(self) -> Float[np.ndarray, "m"]:
        """What is wanted where nobody decides: the fallback, or the action before where that is held."""
        return (self._executed if self._holds else self._wanted(self._fallback[None]))[0]
