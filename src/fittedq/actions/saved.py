"""Action sets as JSON and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.increments import Increments
from fittedq.actions.mixed import Mixed
from fittedq.actions.polytope import Polytope
from fittedq.errors import UserError, in_one_line

KINDS: dict[str, Callable[[Mapping[str, Any]], AbstractActionSet]] = {
    "box": lambda saved: Box(saved["low"], saved["high"]),
    "polytope": lambda saved: Polytope(*(saved[name] for name in ("low", "high", "matrix", "bound"))),
    "increments": lambda saved: Increments(Box(saved["low"], saved["high"]), saved["rate"], saved["columns"]),
    "mixed": lambda saved: Mixed(cast("Box | Polytope", action_set_of(saved["inner"])), saved["integer"]),
}
"""By `kind`, how a set is made again from what its `describe` said; a set of your own enters itself here."""


def action_set_of(description: Mapping[str, Any], given: AbstractActionSet | None = None) -> AbstractActionSet:
    """The set of `describe`; for one with bounds that depend on the state, `given`, which must have its outer box."""
    if given is not None:
        check_kind(given)
        found, saved = through_json(given.describe()), through_json(description)
        if found != saved:
            raise UserError(f"action set: found {found}, expected the one saved, {saved}.")
        return given
    kind = description.get("kind")
    if not isinstance(kind, str):
        raise UserError(f"action set: found the kind {kind!r}, expected a word; its file is damaged.")
    if kind not in KINDS:
        raise UserError(
            "action set: its bounds are functions of the state, which no file holds; give it again "
            "(code={'action_set': …})."
        )
    try:
        return KINDS[kind](description)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"action set: found a {kind} that none can be made of ({in_one_line(error)}); its file is damaged."
        ) from None


def check_kind(given: object) -> None:
    if not isinstance(given, AbstractActionSet):
        raise UserError(
            f"found {type(given).__name__}, expected a set such as Polytope(…), or Limits((…,)).", argument="action_set"
        )


def through_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """What a file gives back of it: lists for tuples."""
    return json.loads(json.dumps(value))
