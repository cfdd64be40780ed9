"""Controllers as numbers in a file, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from fittedq.acting.episodes import AbstractController
from fittedq.actions.base import Box
from fittedq.baselines.lqr import LQR
from fittedq.baselines.pid import PID, Loops
from fittedq.baselines.simple import Called, Constant
from fittedq.diagnose.control import Tracked
from fittedq.errors import UserError, in_one_line
from fittedq.files import Json

LQR_ARRAYS = ("gain", "cost", "rest", "per_setpoint")


def controller_as_saved(controller: AbstractController[Any]) -> dict[str, Any]:
    """It as JSON, from which `restored_controller` makes it again; a UserError where it is more than its numbers."""
    match controller:
        case Constant() | PID():
            return {"kind": type(controller).__name__, **dataclasses.asdict(controller)}
        case Loops():
            loops = {str(driven): controller_as_saved(loop) for driven, loop in controller.loops.items()}
            return {"kind": "Loops", "loops": loops, "hold": list(controller.hold)}
        case LQR():
            own = {name: getattr(controller, name).tolist() for name in LQR_ARRAYS}
            tracked = [dataclasses.asdict(one) for one in controller.tracked]
            box = {"low": list(controller.action_set.low), "high": list(controller.action_set.high)}
            return {"kind": "LQR", **own, "states": list(controller.states), "tracked": tracked, **box}
        case _:
            what = (
                "code of yours"
                if isinstance(controller, Called)
                else f"a controller of type {type(controller).__name__}"
            )
            raise UserError(
                f"{controller}: no file of an agent holds {what}; give one of fittedq.baselines that is numbers alone "
                "(PID, Loops, LQR, Constant), 'hold', or an action."
            )


def restored_controller(saved: Json, where: str) -> AbstractController[Any]:
    """The controller that a file tells of; a UserError where it tells of none."""
    try:
        values: Mapping[str, Any] = {name: value for name, value in saved.items() if name != "kind"}
        match saved["kind"]:
            case "Constant":
                return Constant(tuple(float(value) for value in values["action"]))
            case "PID":
                return _pid(values)
            case "Loops":
                loops = {int(driven): _pid(loop) for driven, loop in values["loops"].items()}
                return Loops(loops, tuple(float(value) for value in values["hold"]))
            case "LQR":
                return _lqr(values)
            case kind:
                raise UserError(f"found the kind {kind!r}, expected Constant, PID, Loops or LQR.")
    except UserError as error:
        raise UserError(f"{where}: its fallback is no controller: {error} It is damaged, or newer.") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{where}: its fallback is no controller ({in_one_line(error)}); it is damaged.") from None


def _pid(values: Mapping[str, Any]) -> PID:
    numbers = {name: value for name, value in values.items() if name not in ("kind", "tracked")}
    for name, value in numbers.items():
        if not isinstance(value, float | int | None):
            raise TypeError(f"{name} is {value!r}")
    return PID(**numbers, tracked=_tracked(values["tracked"]))


def _tracked(values: Mapping[str, Any]) -> Tracked:
    tracked = Tracked(**values)
    if not all(
        place is None or (isinstance(place, int) and place >= 0) for place in (tracked.measured, tracked.setpoint)
    ):
        raise TypeError(f"it tracks {tracked}")
    return tracked


def _lqr(values: Mapping[str, Any]) -> LQR:
    gain, cost, rest, per_setpoint = (np.array(values[name], float) for name in LQR_ARRAYS)
    states, tracked = tuple(int(place) for place in values["states"]), tuple(map(_tracked, values["tracked"]))
    actions, size = gain.shape
    observed = sum(one.setpoint is not None for one in tracked)
    sizes = (cost.shape, rest.shape, per_setpoint.shape, len(states), len(values["low"]))
    if sizes != ((size, size), (size + actions,), (size + actions, observed), size, actions) or min(states) < 0:
        raise ValueError(f"an LQR of sizes {sizes}")
    if not all(np.isfinite(array).all() for array in (gain, cost, rest, per_setpoint)):
        raise ValueError("an LQR of numbers that are none")
    return LQR(gain, cost, rest, per_setpoint, states, tracked, Box(tuple(values["low"]), tuple(values["high"])))
