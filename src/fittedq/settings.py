"""Settings are frozen dataclasses whose fields say what they accept; a wrong value is one sentence."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, TypeGuard

import numpy as np

from fittedq.code import again, shortened, sketch, told
from fittedq.errors import UserError, nearest
from fittedq.ranges import Among, SearchRange, Span

MOST_SEED = 2**32 - 1
"""Beyond it JAX's seeds repeat."""
MOST_NUMBER = 1_000_000
"""What a file may ask of a solver: steps, samples, starts."""
MOST_COUNT = 2**63 - 1
"""What a machine counts with: no whole number of a user's is greater."""
MOST_SHOWN = 80
"""Letters of a value that a sentence repeats."""
MOST_ITEMS = 100
"""Entries of a setting that is a list, such as the widths of hidden layers."""


def setting(
    default: object,
    about: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[str] | None = None,
    takes: object = None,
    arguments: tuple[str, ...] = (),
    such: str = "",
    kinds: tuple[type, ...] = (),
    words: Mapping[str, type] | None = None,
    to_act: bool = True,
    search: SearchRange | None = None,
) -> Any:
    """A dataclass field with its meaning and range: low ≤ x ≤ high, above < x < below, or one of `choices`.

    In place of the word or number, an object that is a `takes`, such as `such`; a function takes the `arguments`. Files
    hold those of our own classes `kinds` as data, {"kind": name, field: number, …}; others are code, which agents need
    too unless it is not `to_act`. A command line has them as their name and numbers, `linear:3e-4:0`; `words` are other
    names. `search` is where `fittedq tune` looks for it unless told otherwise; None: only where it is named.
    """
    metadata = {
        "about": about,
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "choices": None if choices is None else tuple(choices),
        "takes": takes,
        "arguments": arguments,
        "such": such,
        "kinds": kinds,
        "words": words or {},
        "to_act": to_act,
        "search": search,
    }
    return dataclasses.field(default=default, metadata=metadata)


def code_setting(about: str, *, to_act: bool) -> Any:
    """A dataclass field for code of the user's, None by default, which no file holds; `to_act`: agents need it too."""
    return dataclasses.field(default=None, metadata={"code": about, "to_act": to_act})


def whole(value: object, argument: str, low: int = 0, high: int | None = None) -> int:
    """`value`, Python's or NumPy's, as a whole number of at least `low` and at most `high`, or a UserError."""
    number = _python(value)
    most = MOST_COUNT if high is None else high
    if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= most:
        span = f"of at least {low}" if high is None and not _huge(number) else f"between {low} and {most}"
        raise UserError(f"found {told(value)}, expected a whole number {span}.", argument=argument)
    return number


def once(pairs: Iterable[tuple[str, Any]], argument: str) -> dict[str, Any]:
    """The settings and what is said of them, or a UserError where one is given twice."""
    found: dict[str, Any] = {}
    for name, said in pairs:
        if name in found:
            raise UserError(f"found {name} twice, expected it once; leave one of them out.", argument=argument)
        found[name] = said
    return found


def real(value: object, argument: str, expected: str, low: float = 0.0, high: float = math.inf) -> float:
    """`value`, Python's or NumPy's, as a number in [low, high], or a UserError that says what is `expected`."""
    number = _python(value)
    if not isinstance(number, int | float) or isinstance(number, bool) or _huge(number) or not low <= number <= high:
        raise UserError(f"found {told(value)}, expected {expected}.", argument=argument)
    return float(number)


def _huge(number: object) -> bool:
    """Whether it is a whole number beyond all counts, which need not fit a float."""
    return isinstance(number, int) and abs(number) > MOST_COUNT


NUMPYS = np.generic | np.ndarray


def _python(value: object) -> Any:
    """NumPy's scalars and arrays as Python's numbers and lists."""
    return value.tolist() if isinstance(value, NUMPYS) else value


def setting_fields(cls: type) -> list[dataclasses.Field[Any]]:
    """The fields made by `setting`: those that files and command lines hold. What is left is code."""
    return [field for field in _fields(cls) if "about" in field.metadata]


def ranges_of(cls: type) -> dict[str, SearchRange | None]:
    """Where each setting may be looked for: as it declares, else among its words, or on and off, or between its bounds
    where it has both; None: nobody can say."""
    hints = typing.get_type_hints(cls)
    return {
        field.name: field.metadata["search"] or _usual_range(field.metadata, hints[field.name])
        for field in setting_fields(cls)
    }


def _usual_range(metadata: Mapping[str, Any], hint: object) -> SearchRange | None:
    low, high = metadata["low"], metadata["high"]
    if metadata["choices"] is not None:
        return Among(metadata["choices"])
    if hint is bool:
        return Among((False, True))
    return Span(low, high) if hint in (int, float) and None not in (low, high) and low < high else None


def as_dict(settings: object) -> dict[str, Any]:
    """The values of the settings."""
    return {field.name: getattr(settings, field.name) for field in setting_fields(type(settings))}


def code_fields(cls: type) -> list[dataclasses.Field[Any]]:
    """The fields made by `code_setting`."""
    return [field for field in _fields(cls) if "code" in field.metadata]


def _fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()


def as_json(settings: object) -> dict[str, Any]:
    """The settings as JSON; of code only what it looks like: {"code": its sketch}."""
    values = {
        field.name: held(getattr(settings, field.name), field.metadata["kinds"])
        for field in setting_fields(type(settings))
    }
    code = {field.name: getattr(settings, field.name) for field in code_fields(type(settings))}
    return values | {name: {"code": sketch(value)} for name, value in code.items() if value is not None}


def held(value: object, kinds: tuple[type, ...] = ()) -> object:
    # JSON has lists only; a configuration read back must compare equal.
    if isinstance(value, tuple):
        return list(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in kinds:
        return {"kind": type(value).__name__, **_numbers(value)}
    return {"code": sketch(value)}


def settle(settings: object, name: str, value: object) -> None:
    """Give a frozen setting the value that follows from what was asked for. For those alone that check settings while
    nothing else has seen them."""
    object.__setattr__(settings, name, value)


def check_settings(settings: object) -> None:
    """Raise UserError for the first field outside what its `setting` accepts."""
    hints = typing.get_type_hints(type(settings))
    for field in setting_fields(type(settings)):
        value = getattr(settings, field.name)
        settle(settings, field.name, _coerce(field.name, value, hints[field.name], field.metadata))


def check_counts(arguments: object) -> None:
    """`check_settings` where every field is a whole number and an argument of its own, named as such or as its flag."""
    for field in setting_fields(type(arguments)):
        settle(arguments, field.name, whole(getattr(arguments, field.name), field.name, field.metadata["low"]))


TYPE_WORDS: Mapping[object, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false for each"),
    str: ("a word", "words"),
}
"""One value of each type, and several."""


BOUNDS: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
    ("low", operator.ge, "at least"),
    ("above", operator.gt, "above"),
    ("high", operator.le, "at most"),
    ("below", operator.lt, "below"),
)
"""The bounds that a setting may have: by name, what holds inside, in words."""


def _coerce(name: str, value: object, hint: Any, metadata: Mapping[str, Any], several: bool = False) -> object:
    """`value` as the field's type, or a UserError; one of `several`, where the setting is a list."""
    value = _python(value)
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    if metadata["takes"] is not None and isinstance(value, metadata["takes"]):
        if metadata["arguments"] and not takes_arguments(typing.cast(Any, value), len(metadata["arguments"])):
            raise UserError(f"setting {name}: found {shortened(sketch(value))}, expected {in_python(metadata)}.")
        return _as_read(name, value) if type(value) in metadata["kinds"] else value
    value = value.strip() if isinstance(value, str) else value
    named = {kind.__name__.lower(): kind for kind in metadata["kinds"]} | metadata["words"]
    bare = named.keys() - set(metadata["choices"] or ())
    if isinstance(value, str) and named and (":" in value or value.lower() in bare):
        return _of_words(name, value, named)
    kind = next(kind for kind in kinds if kind in TYPE_WORDS or typing.get_origin(kind) is tuple)
    if typing.get_origin(kind) is tuple:
        items = value if isinstance(value, list | tuple) else (value,)
        if len(items) > MOST_ITEMS:
            raise UserError(f"setting {name}: found a list of {len(items):,}, expected at most {MOST_ITEMS}.")
        return tuple(_coerce(name, item, typing.get_args(kind)[0], metadata, True) for item in items)
    return _one(name, value, kind, metadata, several)


def _one(name: str, value: object, kind: type, metadata: Mapping[str, Any], several: bool) -> object:
    """A single `value` as `kind`, within the setting's bounds, or a UserError."""
    expected = TYPE_WORDS[kind][several]
    other = "" if metadata["takes"] is None else f", or {in_python(metadata)}"
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if _huge(value):
        raise UserError(f"setting {name}: found {told(value)}, expected {expected} of at most {MOST_COUNT}{other}.")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise UserError(f"setting {name}: found {_shown(value)}, expected {expected}{other}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"setting {name}: found {value!r}, expected a finite number.")
    for bound, holds, words in BOUNDS:
        if metadata.get(bound) is not None and not holds(value, metadata[bound]):
            raise UserError(f"setting {name}: found {value!r}, expected {expected} {words} {metadata[bound]}{other}.")
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        raise UserError(f"setting {name}: found {value!r}; {nearest(str(value), choices)}")
    return value


def in_words(value: object) -> str:
    """One of our own classes as a command line has it, up to the last field that is not as by default."""
    fields = [(getattr(value, field.name), field.default) for field in _fields(type(value))]
    while fields and fields[-1][0] == fields[-1][1]:
        fields.pop()
    return ":".join([type(value).__name__.lower(), *(str(number) for number, _ in fields)])


def _of_words(name: str, text: str, kinds: Mapping[str, type]) -> object:
    """One of our own classes as a command line has it: its name and the numbers of its fields, `linear:3e-4:0`."""
    word, *numbers = text.split(":")
    kind = kinds.get(word.lower())
    if kind is None:
        raise UserError(f"setting {name}: found {text!r}; {nearest(word, kinds)}")
    fields = [field.name for field in _fields(kind)]
    values = [_parse_value(number) for number in numbers]
    fault = f"{len(values)} numbers"
    if len(values) <= len(fields):
        made = _of_numbers(kind, dict(zip(fields, values, strict=False)))
        if not isinstance(made, str):
            return made
        fault = made
    last = " (the last may be left out)" if _fields(kind)[-1].default is not dataclasses.MISSING else ""
    form = f"{word}:{':'.join(fields).upper()}{last}"
    shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
    raise UserError(f"setting {name}: found {shown!r}, expected {form}, numbers all: {fault.rstrip('.')}.")


def in_python(metadata: Mapping[str, Any]) -> str | None:
    """What a setting takes in place of its word or number, None where it takes nothing else."""
    if metadata["takes"] is None:
        return None
    takes, arguments, such = metadata["takes"], metadata["arguments"], metadata["such"]
    one = f"{'an' if takes.__name__[0] in 'AEIOU' else 'a'} {takes.__name__}"
    kind = f"a function of ({', '.join(arguments)})" if takes is Callable else one
    return f"{kind}, such as {such}" if such else kind


def takes_arguments(function: Callable[..., object], count: int) -> bool:
    """Whether a function can be called with so many arguments, as far as it says."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # of functions written in C nothing is known
        return True
    return True


def _shown(value: object) -> str:
    """What was found, as a sentence shows it."""
    return told(value) if isinstance(value, str | int | float | list | tuple | type) else shortened(sketch(value))


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


def _parse_value(text: str) -> object:
    if "," in text and not text.startswith("["):
        return tuple(_parse_value(part.strip()) for part in text.split(",") if part.strip())
    if text.lower() in ("none", "null"):
        return None
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:  # no JSON, or a number of more digits than Python reads
        # Python's numbers are numbers too: .3, 1. and +2.
        number = len(text) < 100 and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE)
        return float(text) if number else text


def from_json(
    cls: type, saved: Mapping[str, Any], code: Mapping[str, Any], where: str, *, idle: Set[str] = frozenset()
) -> dict[str, Any]:
    """The settings of `cls` that `as_json` wrote into the file at `where`, with their `code` given again.

    Of the `idle` ones, code may be missing: they are by default then.
    """
    kinds = {field.name: field.metadata["kinds"] for field in setting_fields(cls)}
    return {
        name: _read(name, value, code, where, kinds.get(name, ()))
        for name, value in saved.items()
        if name not in idle or name in code or not is_code(value)
    } | {field.name: code[field.name] for field in code_fields(cls) if field.name in code}


def training_only(cls: type) -> set[str]:
    """The settings of which agents go without what is code."""
    fields = (*setting_fields(cls), *code_fields(cls))
    return {field.name for field in fields if not field.metadata["to_act"]}


def is_code(value: object) -> TypeGuard[dict[str, str]]:
    """Whether a file says of this that it is code."""
    return isinstance(value, dict) and isinstance(value.get("code"), str)


def _read(name: str, value: object, code: Mapping[str, Any], where: str, kinds: tuple[type, ...]) -> object:
    if is_code(value):
        return again(name, value["code"], code.get(name), where)
    if isinstance(value, dict):
        return _made_again(name, value, where, {kind.__name__: kind for kind in kinds})
    return tuple(value) if isinstance(value, list) else value


def _made_again(name: str, saved: Mapping[str, Any], where: str, kinds: Mapping[str, type]) -> object:
    """One of our own classes from its numbers."""
    kind = kinds.get(str(saved.get("kind")))
    numbers = {field: value for field, value in saved.items() if field != "kind"}
    made = repr(saved.get("kind")) if kind is None else _of_numbers(kind, numbers)
    if kind is None or isinstance(made, str):
        raise UserError(f"{where}: setting {name}: found {made}, as in none of {', '.join(kinds)}; it is damaged.")
    return made


def _as_read(name: str, value: object) -> object:
    """One of our own classes as a file gives it back, or a UserError where none could."""
    made = _of_numbers(type(value), _numbers(value))
    if isinstance(made, str):
        raise UserError(
            f"setting {name}: found {type(value).__name__} with {made}, expected a number that a file may hold: from 0 "
            f"to {MOST_NUMBER:,}."
        )
    return made


def _numbers(value: object) -> dict[str, Any]:
    """One of our own classes as the numbers of its fields, Python's."""
    return {field.name: _python(getattr(value, field.name)) for field in _fields(type(value))}


def _of_numbers(kind: type, numbers: Mapping[str, Any]) -> object:
    """A `kind` from the numbers of its fields, or the first of them that is wrong, in words.

    Fields that are settings know what they take; others take numbers as their default is, and no more than a file may
    ask for.
    """
    try:
        if setting_fields(kind):
            return kind(**numbers)
    except UserError as error:
        return str(error)
    except TypeError:  # a field too many, or too few
        return f"{kind.__name__} of {', '.join(numbers)}"
    fields = {field.name: field for field in _fields(kind)}
    made = {}
    for name, value in numbers.items():
        if name not in fields or not _is_read(fields[name], value):
            return f"{name} = {told(value)}"
        made[name] = float(value) if isinstance(fields[name].default, float) else value
    try:
        return kind(**made)
    except UserError as error:
        return str(error)


def _is_read(field: dataclasses.Field[Any], value: object) -> bool:
    """Whether a file may hold this number in such a field of one of our own classes."""
    usual = field.default
    if value is None:
        return usual is None
    takes = (int, float if usual is None else type(usual))
    most = field.metadata.get("high", MOST_NUMBER)
    return isinstance(value, int | float) and type(value) in takes and 0 <= value <= most


def split_settings(settings: Mapping[str, Any], *groups: type) -> tuple[dict[str, Any], ...]:
    """`settings` by the dataclass that has each key; an unknown key is refused and the nearest valid one offered."""
    names = [{field.name for field in (*setting_fields(group), *code_fields(group))} for group in groups]
    for key in settings:
        if not any(key in group for group in names):
            raise UserError(f"setting {key!r} is unknown; {nearest(key, set().union(*names))}")
    return tuple({key: value for key, value in settings.items() if key in group} for group in names)
