"""Settings are frozen dataclasses whose fields say what they accept; a wrong value is one sentence."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fittedq.code import again, sketch
from fittedq.errors import UserError, nearest

MOST_SEED = 2**32 - 1
"""Beyond it JAX's seeds repeat."""
MOST_ITEMS = 100
"""Entries of a setting that is a list, such as the widths of hidden layers."""


def setting(
    default: Any,
    about: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[str] | None = None,
) -> Any:
    """A dataclass field with its meaning and range: low ≤ x ≤ high, above < x < below, or one of `choices`."""
    metadata = {
        "about": about,
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "choices": None if choices is None else tuple(choices),
    }
    return dataclasses.field(default=default, metadata=metadata)


def code_setting(about: str, *, to_act: bool) -> Any:
    """A dataclass field for code of the user's, None by default, which no file holds; `to_act`: agents need it too."""
    return dataclasses.field(default=None, metadata={"code": about, "to_act": to_act})


def whole(value: Any, argument: str, low: int = 0, high: int | None = None) -> int:
    """`value`, Python's or NumPy's, as a whole number of at least `low` and at most `high`, or a UserError."""
    number = _python(value)
    wrong = not isinstance(number, int) or isinstance(number, bool) or number < low
    if wrong or (high is not None and number > high):
        span = f"of at least {low}" if high is None else f"between {low} and {high}"
        raise UserError(f"found {value!r}, expected a whole number {span}.", argument=argument)
    return number


def real(value: Any, argument: str, expected: str, low: float = 0.0, high: float = math.inf) -> float:
    """`value`, Python's or NumPy's, as a number in [low, high], or a UserError that says what is `expected`."""
    number = _python(value)
    if not isinstance(number, int | float) or isinstance(number, bool) or not low <= number <= high:
        raise UserError(f"found {value!r}, expected {expected}.", argument=argument)
    return float(number)


def _python(value: Any) -> Any:
    """NumPy's scalars and arrays as Python's numbers and lists."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def described(cls: type) -> list[dataclasses.Field[Any]]:
    """The fields made by `setting`: those that files and command lines hold. What is left is code."""
    return [field for field in _fields(cls) if "about" in field.metadata]


def as_dict(settings: Any) -> dict[str, Any]:
    """The values of the settings."""
    return {field.name: getattr(settings, field.name) for field in described(type(settings))}


def code_fields(cls: type) -> list[dataclasses.Field[Any]]:
    """The fields made by `code_setting`."""
    return [field for field in _fields(cls) if "code" in field.metadata]


def _fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()


def as_json(settings: Any) -> dict[str, Any]:
    """The settings as JSON; of code only what it looks like: {"code": its sketch}."""
    values = {name: held(value) for name, value in as_dict(settings).items()}
    code = {field.name: getattr(settings, field.name) for field in code_fields(type(settings))}
    return values | {name: {"code": sketch(value)} for name, value in code.items() if value is not None}


def held(value: Any) -> Any:
    # JSON has lists only; a configuration read back must compare equal.
    return list(value) if isinstance(value, tuple) else value


def check(settings: Any) -> None:
    """Raise UserError for the first field outside what its `setting` accepts."""
    hints = typing.get_type_hints(type(settings))
    for field in described(type(settings)):
        value = getattr(settings, field.name)
        object.__setattr__(settings, field.name, _coerce(field.name, value, hints[field.name], field.metadata))


KINDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false for each"),
    str: ("a word", "words"),
}
"""One value of each type, and several."""


def _coerce(name: str, value: Any, hint: Any, metadata: Mapping[str, Any], several: bool = False) -> Any:
    """`value` as the field's type, or a UserError; one of `several`, where the setting is a list."""
    value = _python(value)
    kinds = typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = next(kind for kind in kinds if kind is not type(None))
    if typing.get_origin(kind) is tuple:
        items = value if isinstance(value, list | tuple) else (value,)
        if len(items) > MOST_ITEMS:
            raise UserError(f"setting {name}: found a list of {len(items):,}, expected at most {MOST_ITEMS}.")
        return tuple(_coerce(name, item, typing.get_args(kind)[0], metadata, True) for item in items)
    expected = KINDS[kind][several]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise UserError(f"setting {name}: found {value!r}, expected {expected}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"setting {name}: found {value!r}, expected a finite number.")
    low, high, above, below = (metadata.get(bound) for bound in ("low", "high", "above", "below"))
    wrong = (
        (low is not None and value < low and f"at least {low}")
        or (above is not None and value <= above and f"above {above}")
        or (high is not None and value > high and f"at most {high}")
        or (below is not None and value >= below and f"below {below}")
    )
    if wrong:
        raise UserError(f"setting {name}: found {value!r}, expected {expected} {wrong}.")
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        raise UserError(f"setting {name}: found {value!r}; {nearest(str(value), choices)}")
    return value


def parse_assignments(assignments: Iterable[str], flag: str = "--set") -> dict[str, Any]:
    """`key=value` words of a command line as settings: values are JSON, `none`, comma-separated lists, or words."""
    settings = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise UserError(f"{flag} {assignment}: expected key=value, for example {flag} gamma=0.98.")
        key = key.strip().replace("-", "_")
        if key in settings:
            raise UserError(f"{flag} {assignment}: {key} is given twice, expected once; leave one of them out.")
        settings[key] = _parse_value(text.strip())
    return settings


def _parse_value(text: str) -> Any:
    if "," in text and not text.startswith("["):
        return tuple(_parse_value(part.strip()) for part in text.split(",") if part.strip())
    if text.lower() in ("none", "null"):
        return None
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except json.JSONDecodeError:
        return text


def from_json(
    cls: type, saved: Mapping[str, Any], code: Mapping[str, Any], where: str, *, to_act: bool
) -> dict[str, Any]:
    """The settings of `cls` that `as_json` wrote into the file at `where`, with their `code` given again.

    An agent, which is to act only, goes without the code that only training needs.
    """
    idle = {field.name for field in code_fields(cls) if to_act and not field.metadata["to_act"]}
    return {
        name: _read(name, value, code, where) for name, value in saved.items() if name not in idle or name in code
    } | {field.name: code[field.name] for field in code_fields(cls) if field.name in code}


def is_code(value: Any) -> bool:
    """Whether a file says of this that it is code."""
    return isinstance(value, dict) and isinstance(value.get("code"), str)


def _read(name: str, value: Any, code: Mapping[str, Any], where: str) -> Any:
    if is_code(value):
        return again(name, value["code"], code.get(name), where)
    return tuple(value) if isinstance(value, list) else value


def split_settings(settings: Mapping[str, Any], *groups: type) -> tuple[dict[str, Any], ...]:
    """`settings` by the dataclass that has each key; an unknown key is refused and the nearest valid one offered."""
    names = [{field.name for field in (*described(group), *code_fields(group))} for group in groups]
    for key in settings:
        if not any(key in group for group in names):
            raise UserError(f"setting {key!r} is unknown; {nearest(key, set().union(*names))}")
    return tuple({key: value for key, value in settings.items() if key in group} for group in names)
