"""Action sets as JSON and back."""

from __future__ import annotations

from typing import Any, cast

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.mixed import Mixed
from fittedq.actions.polytope import Polytope
from fittedq.actions.state_box import StateBox
from fittedq.errors import UserError


def reads_obs(action_set: AbstractActionSet) -> bool:
    """Whether A(s) depends on s."""
    return isinstance(action_set.inner if isinstance(action_set, Mixed) else action_set, StateBox)


def describe(action_set: AbstractActionSet) -> dict[str, Any]:
    """The set as JSON; of a `StateBox` only its outer box, for functions are not saved."""
    outer = {"low": action_set.low, "high": action_set.high}
    match action_set:
        case Polytope():
            return {"kind": "polytope", **outer, "matrix": action_set.matrix, "bound": action_set.bound}
        case Mixed():
            return {"kind": "mixed", "inner": describe(action_set.inner), "integer": action_set.coordinates}
        case StateBox():
            return {"kind": "state_box", **outer}
        case _:
            return {"kind": "box", **outer}


def described(description: Any, given: AbstractActionSet | None = None) -> AbstractActionSet:
    """The set of `describe`; for one with bounds that depend on the state, `given`, which must have its outer box."""
    if given is not None:
        check_kind(given)
        if plain(describe(given)) != plain(description):
            raise UserError(
                f"action set: found {plain(describe(given))}, expected the one saved, {plain(description)}."
            )
        return given
    match description["kind"]:
        case "box":
            return Box(description["low"], description["high"])
        case "polytope":
            return Polytope(*(description[name] for name in ("low", "high", "matrix", "bound")))
        case "mixed" if description["inner"]["kind"] in ("box", "polytope"):
            return Mixed(cast("Box | Polytope", described(description["inner"])), description["integer"])
        case _:
            raise UserError(
                "action set: its bounds are functions of the state, which no file holds; give it again (action_set=)."
            )


def check_kind(given: Any) -> None:
    if not isinstance(given, AbstractActionSet):
        raise UserError(
            f"found {type(given).__name__}, expected a set such as Polytope(…), or Limits((…,)).", argument="action_set"
        )


def plain(value: Any) -> Any:
    """Lists for tuples, in depth, as JSON has them."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value
