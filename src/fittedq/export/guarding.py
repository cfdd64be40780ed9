"""A fallback where nothing familiar is seen, as a part of a `ControlProgram`."""

from __future__ import annotations

import functools

import numpy as np

from fittedq.acting.episodes import AbstractController
from fittedq.acting.familiar import Change, Familiarity
from fittedq.acting.guarded import AbstractFallback, Guarded, Hold, Relief, Steady
from fittedq.acting.recent import LEAST_SHARE, Recent
from fittedq.baselines.lqr import LQR
from fittedq.baselines.pid import PID, Loops
from fittedq.baselines.simple import Constant
from fittedq.errors import UserError
from fittedq.export.making import Draft, projection_lines
from fittedq.export.program import (
    AbstractRelief,
    GuardStage,
    Kept,
    KnownChange,
    KnownWindow,
    Most,
    Moved,
    PidLoop,
    PidLoops,
    Straight,
)

NEVER = 1e150
"""A distance that none is beyond."""
MOST_KNOWN_NUMBERS = 2**18
"""Of a guard where memory is short: 1 MiB of single precision."""


def guard_of(guarded: Guarded) -> GuardStage:
    """What stands before a policy that is guarded; a UserError names a fallback that no program can say."""
    known, threshold = guarded.known, guarded.threshold
    relief = relief_of(guarded.fallback, guarded.obs_size)
    if relief.size not in (None, guarded.limits.size):
        raise UserError(
            f"export: the fallback {guarded.fallback} gives {relief.size} numbers, the agent has {guarded.limits.size} "
            "actions; give `Loops` a PID for each that is to be driven."
        )
    change, place = known.change, known.place
    draft = Draft(guarded.limits.size)
    projected = projection_lines(guarded.limits, draft, 0, 0)
    return GuardStage(
        shift=place.units.shift,
        scale=place.units.scale,
        landmarks=place.landmarks,
        most=_most(known, threshold),
        change=None if change is None else _change(change, known, guarded.history),
        relief=relief,
        lines=draft.until(projected),
        window=None if known.recent is None else _window(known.recent, known, threshold),
    )


def _most(known: Familiarity, threshold: float) -> Most:
    """familiar = min(1, K min_k p_k) < threshold where a p_k < threshold / K, K = 2 where a change is judged."""
    place, change = known.place.shares, known.change
    both = NEVER if change is None else change.shares.distance(threshold / 2)
    return Most(place.distance(threshold), place.distance(threshold / 2), both)


def _window(recent: Recent, known: Familiarity, threshold: float) -> KnownWindow:
    """familiar = p(−log min_j p_j) < threshold where a p_j is below exp(−d), d that of the threshold."""
    most = recent.joint.distance(threshold)
    # No share is told below the least, so that beyond it nothing is strange.
    each = float(np.exp(-most)) if most < -np.log(LEAST_SHARE) else 0.0
    parts = (recent.place, recent.size, recent.side)
    distances, shares = known.place.shares.knots
    return KnownWindow(
        samples=int(recent.samples),
        distances=distances,
        shares=shares,
        most=tuple(part.distance(each) if each else NEVER for part in parts),  # type: ignore[arg-type]
        alone=_most(known, each) if each else Most(NEVER, NEVER, NEVER),
    )


def _change(change: Change, known: Familiarity, history: int) -> KnownChange:
    return KnownChange(
        past_shift=change.past.shift,
        past_scale=change.past.scale,
        newest=known.newest,
        newest_shift=change.newest.shift,
        newest_scale=change.newest.scale,
        weights=change.weights,
        errors=change.scale,
        own=known.own,
        history=history,
    )


def refuse_large(guard: GuardStage | None, where: str) -> None:
    """A UserError for a guard of more numbers than belong there."""
    if guard is not None and guard.numbers > MOST_KNOWN_NUMBERS:
        raise UserError(
            f"export: what is familiar takes {guard.numbers:,} numbers, expected at most {MOST_KNOWN_NUMBERS:,} in "
            f"{where}; export to numpy, or set the agent's threshold to 0, for its policy alone."
        )


@functools.singledispatch
def relief_of(fallback: AbstractFallback | AbstractController, obs_size: int) -> AbstractRelief:
    """A fallback as stages have it."""
    del obs_size
    raise UserError(
        f"export: found the fallback {fallback}, a {type(fallback).__name__}, which no target can say; give a PID, "
        "Loops, an LQR, 'hold' or an action."
    )


@relief_of.register
def _(fallback: Hold, obs_size: int) -> Kept:
    del fallback, obs_size
    return Kept()


@relief_of.register
def _(fallback: Relief, obs_size: int) -> AbstractRelief:
    return relief_of(fallback.controller, obs_size)


@relief_of.register
def _(fallback: Steady, obs_size: int) -> AbstractRelief:
    if fallback.is_change:
        return Moved(np.asarray(fallback.action, np.float32))
    return relief_of(Constant(fallback.action), obs_size)


@relief_of.register
def _(fallback: Constant, obs_size: int) -> Straight:
    action = np.asarray(fallback.action, float)
    return Straight(np.zeros((obs_size, len(action))), action, action, action)


@relief_of.register
def _(fallback: LQR, obs_size: int) -> Straight:
    """a* − K (x − x*), [x*; a*] = rest + r · per_setpoint, as one linear function of y."""
    size, gain = len(fallback.states), fallback.gain
    weight = np.zeros((obs_size, len(gain)))
    np.add.at(weight, list(fallback.states), -gain.T)
    observed = [one.setpoint for one in fallback.tracked if one.setpoint is not None]
    per_setpoint = fallback.per_setpoint.T
    np.add.at(weight, observed, per_setpoint[:, size:] + per_setpoint[:, :size] @ gain.T)
    bias = fallback.rest[size:] + fallback.rest[:size] @ gain.T
    return Straight(
        weight, bias, *(np.asarray(end, float) for end in (fallback.action_set.low, fallback.action_set.high))
    )


@relief_of.register
def _(fallback: PID, obs_size: int) -> AbstractRelief:
    return relief_of(Loops({0: fallback}, (0.0,)), obs_size)


@relief_of.register
def _(fallback: Loops, obs_size: int) -> PidLoops:
    del obs_size
    return PidLoops(
        tuple(_loop(driven, pid) for driven, pid in fallback.loops.items()), np.asarray(fallback.hold, float)
    )


def _loop(driven: int, pid: PID) -> PidLoop:
    tracked = pid.tracked
    filtered = pid.filtering
    return PidLoop(
        driven=driven,
        measured=tracked.measured,
        set_point=-1 if tracked.setpoint is None else tracked.setpoint,
        target=tracked.target or 0.0,
        kp=pid.kp,
        weight=pid.setpoint_weight,
        gain=pid.ki * pid.dt,
        keep=filtered / (filtered + pid.dt),
        rate=pid.kd / (filtered + pid.dt),
        bias=pid.bias,
        low=pid.low,
        high=pid.high,
        track=0.0 if pid.tracking_time is None else pid.dt / pid.tracking_time,
    )
