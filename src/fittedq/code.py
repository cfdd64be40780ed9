"""Code that no file holds: what files say of it instead, and how it is given again."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from fittedq.errors import UserError, nearest

UserCode = TypeVar("UserCode")

SKETCH_SHOWN = 200
"""Characters of a sketch in a sentence."""


def sketch(value: object) -> str:
    """The structure of an object as text: classes, fields, functions by name, arrays by type and shape.

    The same in every process, so that code given again can be compared with what a file says of it. What a function
    does, and the numbers it closes over, do not show.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, type):
        return value.__qualname__
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and shape is not None:
        return f"{dtype}{list(shape)}"
    if isinstance(value, functools.partial):
        return f"partial({sketch(value.func)}, {sketch(value.args)}, {sketch(value.keywords)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {sketch(part)}" for name, part in value.items()) + "}"
    if isinstance(value, tuple | list):
        names = getattr(value, "_fields", None)
        parts = [sketch(part) for part in value]
        if names is None:
            return f"({', '.join(parts)})"
        return f"{type(value).__name__}({', '.join(map('='.join, zip(names, parts, strict=True)))})"
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value) if field.repr}
        named = ", ".join(f"{name.lstrip('_')}={sketch(part)}" for name, part in fields.items())
        return f"{type(value).__qualname__}({named})"
    if inspect.ismethod(value):
        return f"{sketch(value.__self__)}.{value.__name__}"
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def by_name(code: object) -> dict[str, Any]:
    """What a user gives as `code=`, by name: a mapping as it is, anything else as the algorithm."""
    if code is None:
        return {}
    if isinstance(code, Mapping):
        return {str(name): part for name, part in code.items()}
    return {"algorithm": code}


def again(name: str, text: str, given: UserCode | None, where: str, found: str | None = None) -> UserCode:
    """`given`, the user's code of that name; a UserError where it is None or unlike `text`, which the file `where` has.

    `found` is the text of `given`, where that is not its sketch.
    """
    how = "code=METHOD" if name == "algorithm" else f"code={{{name!r}: …}}"
    if given is None:
        raise UserError(
            f"{where}: its {name} is code, which no file holds: {shortened(text)}; give it again in Python, {how} in "
            "fittedq.load or fittedq.resume."
        )
    found = sketch(given) if found is None else found
    if found != text:
        differ = [place for place, (one, other) in enumerate(zip(found, text, strict=False)) if one != other]
        start = max(0, min([*differ, len(found), len(text)]) - SKETCH_SHOWN // 4)
        one, other = (f"{'…' * (start > 0)}{shortened(part[start:])}" for part in (found, text))
        raise UserError(
            f"found {name} {one}, expected {other}, as {where} has it; give what was trained with.", argument="code"
        )
    return given


def refuse_unknown(code: Mapping[str, Any], names: set[str]) -> None:
    """A UserError where `code` holds a name that nothing asks for."""
    for name in code:
        if name not in names:
            raise UserError(f"found {name!r}, which is none of its code; {nearest(name, names)}", argument="code")


def told(value: object) -> str:
    """A value as a sentence names it, also one of more digits than Python writes."""
    try:
        return shortened(repr(value))
    except ValueError:
        return "a number of thousands of digits"


def shortened(text: str) -> str:
    """`text`, cut to what a sentence bears."""
    return text if len(text) <= SKETCH_SHOWN else f"{text[:SKETCH_SHOWN]}…"
