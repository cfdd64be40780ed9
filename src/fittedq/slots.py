# pyright: reportUnknownMemberType=false
"""Slots of the template: modules that check their fields where they are made, and hold modules."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from typing import cast

import equinox as eqx
import jax
import numpy as np

from fittedq.code import shortened, sketch
from fittedq.errors import UserError, nearest
from fittedq.settings import BOUNDS, TYPE_WORDS

Range = Mapping[str, object]
"""What a number of a slot may be, as the metadata of its field: `eqx.field(static=True, metadata=COUNT)`."""

BELOW_ONE: Range = {"low": 0, "below": 1}
SHARE: Range = {"low": 0, "high": 1}
RATE: Range = {"above": 0, "high": 1}
POSITIVE: Range = {"above": 0}
NOT_NEGATIVE: Range = {"low": 0}
COUNT: Range = {"low": 1}
SECONDS: Range = {"low": 0, "high": math.inf}
"""A limit that may be none, in files too."""


class AbstractSlot(eqx.Module):
    """A module whose fields hold what their annotations say: numbers in their ranges, objects of the right classes.

    It is checked where it is made, and nowhere else: JAX takes modules apart and puts them together unseen. An
    annotation that is no class, or cannot be read, is not checked, nor are arrays.
    """

    def __check_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, hint = getattr(self, field.name), _hints(type(self)).get(field.name)
            if isinstance(value, jax.Array) and not field.metadata.get("static"):
                continue
            where = f"{type(self).__name__}: {field.name}"
            choices = cast("tuple[str, ...] | None", field.metadata.get("choices"))
            if not _fits(value, hint) or not _within(value, field.metadata):
                found, end = shortened(sketch(value)), ""
                if isinstance(value, type):
                    found, end = f"the class {found}", f"; write {found}(…), an object of the class"
                raise UserError(f"{where}: found {found}, expected {_words(hint, field.metadata)}{end}.")
            if choices is not None and value not in choices:
                raise UserError(f"{where}: found {value!r}; {nearest(str(value), choices)}")


@functools.cache
def _hints(cls: type) -> Mapping[str, object]:
    """The annotations of a class; none where one of them names what only a function knows."""
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError, AttributeError):
        return {}


NUMBERS: Mapping[object, tuple[type, ...]] = {
    float: (Real,),
    int: (Integral,),
    bool: (bool, np.bool_),
    str: (str,),
    types.NoneType: (types.NoneType,),
}
"""What is taken for each plain annotation, Python's or NumPy's."""


def _fits(value: object, hint: object) -> bool:
    """Whether a value is as the annotation says, as far as classes tell it."""
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, kind) for kind in kinds)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        items = cast("tuple[object, ...]", value)
        kinds = (kinds[0],) * len(items) if kinds[-1] is Ellipsis else kinds
        return len(items) == len(kinds) and all(map(_fits, items, kinds))
    if Callable in (origin, hint):
        return callable(value)
    kind = origin or hint
    if kind in NUMBERS:
        return isinstance(value, NUMBERS[kind]) and (kind is bool or not isinstance(value, bool))
    return not (inspect.isclass(kind) and issubclass(kind, (eqx.Module, tuple))) or isinstance(value, kind)


def _within(value: object, metadata: Mapping[str, object]) -> bool:
    """Whether a number is in its range, and a number at all."""
    if not isinstance(value, Real):
        return True
    return value == value and all(holds(value, metadata[name]) for name, holds, _ in BOUNDS if name in metadata)


def _words(hint: object, metadata: Mapping[str, object]) -> str:
    """What a field takes, as a sentence says it."""
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(kind, metadata) for kind in kinds)
    if origin is tuple:
        name = getattr(typing.get_origin(kinds[0]) or kinds[0], "__name__", "them")
        return f"a tuple of {name}, such as ({name}(…),)" if kinds[-1] is Ellipsis else f"{len(kinds)} of {name}"
    if Callable in (origin, hint):
        return "a function"
    kind = origin or hint
    if kind in TYPE_WORDS:
        bounds = [f"{words} {metadata[name]}" for name, _, words in BOUNDS if name in metadata]
        return " ".join([TYPE_WORDS[kind][0], " and ".join(bounds)]).strip()
    if kind is types.NoneType:
        return "None"
    name = str(getattr(kind, "__name__", kind))
    such = f", such as {metadata['such']}" if "such" in metadata else ""
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}{such}"


def parts(slot: object) -> Iterator[eqx.Module]:
    """A slot and every slot inside it."""
    if isinstance(slot, tuple):
        for part in cast("tuple[object, ...]", slot):
            yield from parts(part)
    elif isinstance(slot, eqx.Module):
        yield slot
        for field in dataclasses.fields(slot):
            yield from parts(getattr(slot, field.name))


def written(slot: eqx.Module) -> str:
    """A slot as code has it: `Smoothed(PolicyAction, sigma=0.2, clip=0.5)`.

    What is as by default is left out, and so is what has no words: functions and arrays.
    """
    inner: list[str] = []
    settings: list[str] = []
    for field in dataclasses.fields(slot):
        value = getattr(slot, field.name)
        if value == field.default:
            continue
        if isinstance(value, eqx.Module):
            inner.append(written(value))
        elif isinstance(value, float):
            settings.append(f"{field.name}={value:g}")
        elif type(value) in (bool, int, str, tuple) or value is None:
            settings.append(f"{field.name}={value}")
    said = inner + settings
    return type(slot).__name__ + (f"({', '.join(said)})" if said else "")


def written_for(slot: type, generic: type) -> type | None:
    """The class that a slot says it reads, as `generic[Class, …]`; None where it leaves that open."""
    bases = (base for cls in slot.__mro__ for base in vars(cls).get("__orig_bases__", ()))
    said = (typing.get_args(base)[0] for base in bases if issubclass(typing.get_origin(base) or object, generic))
    first = next(said, None)
    return first if isinstance(first, type) else None
