"""How well a set-point is held: settling time, overshoot, steady error, control effort, saturation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float

from fittedq.errors import UserError
from fittedq.types import Transition

BAND_SHARE = 0.05
"""Half-width of the band around a set-point, as a share of the step towards it."""
AT_REST = 0.2
"""Share of a step of the set-point, its last, over which the steady error is taken."""
AT_LIMIT = 1e-6
"""Of the width between its limits: an action this near to one of them is saturated."""


@final
@dataclass(frozen=True)
class Tracked:
    """Coordinate `measured` of the observation is to follow coordinate `setpoint`, or the number `target`.

    `band`, in the measured value's unit, is how far from it counts as settled; by default 5 % of each step of the
    set-point. `name` is what pictures call it.
    """

    measured: int
    setpoint: int | None = None
    target: float | None = None
    band: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if (self.setpoint is None) == (self.target is None):
            found = "neither a coordinate `setpoint` nor a number `target`" if self.target is None else "both"
            raise UserError(f"set-point of measured value {self.measured}: found {found}; give one of them.")
        if self.target is not None and not math.isfinite(self.target):
            raise UserError(f"found {self.target:g}, expected a finite number.", argument="target")
        if self.band is not None and not 0 < self.band < math.inf:
            raise UserError(f"found {self.band:g}, expected a finite number above 0.", argument="band")

    @property
    def label(self) -> str:
        """What it is called."""
        return self.name or f"observation {self.measured}"

    def check(self, obs_size: int) -> None:
        """A UserError where observations have no such coordinates."""
        for argument, coordinate in (("measured", self.measured), ("setpoint", self.setpoint)):
            if coordinate is not None and not 0 <= coordinate < obs_size:
                raise UserError(
                    f"found coordinate {coordinate}, expected one of 0 … {obs_size - 1} of the observation.",
                    argument=argument,
                )

    def signals(self, obs: Float[np.ndarray, "*b s"]) -> tuple[Float[np.ndarray, "*b"], Float[np.ndarray, "*b"]]:
        """(measured value y, set-point r), in float64."""
        measured = np.asarray(obs[..., self.measured], np.float64)
        if self.setpoint is None:
            return measured, np.full_like(measured, self.target)
        return measured, np.asarray(obs[..., self.setpoint], np.float64)


# ---------------------------------------------------------------------- figures of one signal


def constant_stretches(setpoint: Float[np.ndarray, "t"]) -> list[slice]:
    """The samples between two changes of the set-point."""
    starts = [0, *(np.flatnonzero(np.diff(setpoint)) + 1).tolist()]
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(setpoint)], strict=True)]


def settling_time(error: Float[np.ndarray, "t"], band: float, dt: float = 1.0) -> float:
    """min {t dt : |e_k| ≤ band for all k ≥ t}; ∞ where the last sample lies outside the band."""
    outside = np.flatnonzero(np.abs(error) > band)
    if not len(outside):
        return 0.0
    return math.inf if outside[-1] == len(error) - 1 else float((outside[-1] + 1) * dt)


def overshoot(measured: Float[np.ndarray, "t"], setpoint: float) -> float:
    """max(0, max_t (y_t − r) sign(r − y_0)) / |r − y_0|, a share of the step; NaN where it starts at the set-point."""
    step = setpoint - float(measured[0])
    if step == 0:
        return math.nan
    return max(0.0, float(((measured - setpoint) * np.sign(step)).max())) / abs(step)


def steady_error(error: Float[np.ndarray, "t"], share: float = AT_REST) -> float:
    """mean |e_t| over the last `share` of the samples, at least one."""
    return float(np.abs(error[-max(1, int(share * len(error))) :]).mean())


def effort(action: Float[np.ndarray, "t m"]) -> Float[np.ndarray, "m"]:
    """Σ_t |a_t − a_{t−1}|, in the action's unit."""
    return np.abs(np.diff(np.asarray(action, np.float64), axis=0)).sum(axis=0)


def saturation(action: Float[np.ndarray, "t m"], low: Sequence[float], high: Sequence[float]) -> Float[np.ndarray, "m"]:
    """The share of samples at which a_t lies at one of its limits."""
    near = AT_LIMIT * (np.asarray(high) - np.asarray(low))
    return ((action <= np.asarray(low) + near) | (action >= np.asarray(high) - near)).mean(axis=0)


# ---------------------------------------------------------------------- figures of episodes


def observed(rows: Transition) -> Float[np.ndarray, "t1 s"]:
    """The observations of an episode, the last one too."""
    return np.concatenate([rows.obs, rows.next_obs[-1:]])


def _steps(rows: Transition, tracked: Tracked, dt: float) -> list[dict[str, float]]:
    """The figures of each step of the set-point in an episode."""
    found, (measured, setpoint) = [], tracked.signals(observed(rows))
    for part in constant_stretches(setpoint):
        y, r = measured[part], float(setpoint[part.start])
        band = BAND_SHARE * abs(r - y[0]) if tracked.band is None else tracked.band
        found.append(
            {
                "settling_time": settling_time(y - r, band, dt),
                "overshoot": overshoot(y, r),
                "steady_error": steady_error(y - r),
            }
        )
    return found


def _mean(values: Sequence[float]) -> float:
    """Of those that are finite; NaN where none is."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if len(finite) else math.nan


def control_figures(
    episodes: Sequence[Transition],
    tracked: Sequence[Tracked],
    low: Sequence[float],
    high: Sequence[float],
    dt: float = 1.0,
) -> dict[str, Any]:
    """Means over episodes, and over the steps of each set-point in them, as JSON.

    Of each measured value: how many steps of its set-point there were and how many settled, the mean settling time of
    those (in the unit of `dt`), the mean overshoot and steady error. Of each action: effort and saturation.
    """
    measured = {}
    for one in tracked:
        steps = [step for rows in episodes for step in _steps(rows, one, dt)]
        settled = sum(math.isfinite(step["settling_time"]) for step in steps)
        means = {name: _mean([step[name] for step in steps]) for name in steps[0]}
        measured[one.label] = {"steps": len(steps), "settled": settled, **means}
    return {
        "measured": measured,
        "effort": np.mean([effort(np.asarray(rows.action)) for rows in episodes], axis=0).tolist(),
        "saturation": np.mean([saturation(np.asarray(rows.action), low, high) for rows in episodes], axis=0).tolist(),
    }
