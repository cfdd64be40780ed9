"""A controller beside the one that is in charge: what it would do is written down, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar, final, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from fittedq.acting.status import ActingStatus
from fittedq.acting.stepwise import Statuses
from fittedq.errors import UserError

STOOD_OUT = 5
"""Samples of the largest differences that are told."""


Observed = TypeVar("Observed", contravariant=True)
"""What a controller takes for an observation."""


@runtime_checkable
class Followed(Protocol[Observed]):
    """`SafeLoop`, which observes anything, and what is exported, which observes flat vectors: it can be told what was
    executed instead of its action."""

    def reset(self, before: Float[np.ndarray, "m"] | None = None) -> None: ...

    def step(self, obs: Observed) -> tuple[np.ndarray, int]: ...

    def follow(self, executed: Float[np.ndarray, "m"]) -> None: ...


@final
class Shadow(Generic[Observed]):
    """Once a sample: `step(obs, present)` gives what the controller would do, where the present one does `present`.

    What the controller remembers as executed is the present action. `present` is called `names`, by order, and lies
    between `low` and `high`.
    """

    def __init__(
        self,
        controller: Followed[Observed],
        names: Sequence[str],
        low: Float[np.ndarray, "m"],
        high: Float[np.ndarray, "m"],
    ):
        self._controller, self._names = controller, tuple(names)
        self._half_width = (np.asarray(high, float) - np.asarray(low, float)) / 2
        self._present: list[Float[np.ndarray, "m"]] = []
        self._would: list[Float[np.ndarray, "m"]] = []
        self._statuses: list[int] = []
        controller.reset()

    def reset(self, before: Float[np.ndarray, "m"] | None = None) -> None:
        """An episode begins, as though `before` had been executed until then."""
        self._controller.reset(before)

    def step(self, obs: Observed, present: object) -> tuple[np.ndarray, ActingStatus]:
        """(its action, status) at this sample; a UserError where `present` is no action of this plant."""
        executed = np.asarray(present, np.float32).reshape(-1)
        if executed.shape != (len(self._names),):
            raise UserError(f"present: found {executed.size} numbers, expected {len(self._names)} of the actions.")
        action, status = self._controller.step(obs)
        self._present.append(executed)
        self._would.append(np.ravel(action).astype(np.float32))
        self._statuses.append(int(status))
        if np.isfinite(executed).all():
            self._controller.follow(executed)
        return action, ActingStatus(status)

    @property
    def present(self) -> Float[np.ndarray, "N m"]:
        """What the present controller did."""
        return np.reshape(self._present, (-1, len(self._names)))

    @property
    def would(self) -> Float[np.ndarray, "N m"]:
        """What this one would have done."""
        return np.reshape(self._would, (-1, len(self._names)))

    @property
    def statuses(self) -> Int[np.ndarray, "N"]:
        """This one's, by sample."""
        return np.array(self._statuses, int)

    def report(self) -> dict[str, Any]:
        """The differences, would − present, as JSON: by action the bias, the spread, the largest and when; the samples
        by status, and the spans in which the fallback would have acted. Samples with a present action that is not
        finite count for nothing."""
        if not self._present:
            raise UserError("shadow: found no samples, expected at least one.")
        apart = (self.would - self.present).astype(float)
        finite = np.asarray(np.isfinite(apart).all(axis=1))
        if not finite.any():
            raise UserError("shadow: found no sample with a present action that is finite, expected at least one.")
        size = np.where(finite[:, None], np.abs(apart), -1.0)
        actions = []
        for place, name in enumerate(self._names):
            own, worst = apart[finite, place], np.argsort(-size[:, place], kind="stable")[:STOOD_OUT]
            actions.append(
                {
                    "name": name,
                    "bias": float(own.mean()),
                    "rms": float(np.sqrt(np.mean(own**2))),
                    "bias_in_half_widths": float(own.mean() / max(self._half_width[place], 1e-30)),
                    "largest": [
                        {"sample": int(at), "present": float(self.present[at, place]), "difference": apart[at, place]}
                        for at in worst
                        if finite[at]
                    ],
                }
            )
        told = Statuses([self._statuses], 1, ("shadow",)).describe()[0]
        more = {"samples": len(finite), "left_out": int((~finite).sum()), "actions": actions}
        return more | {"statuses": told["samples"], "fallback": told["fallback"]}
