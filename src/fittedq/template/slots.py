"""Slots of the template, read as what they are: modules inside modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx


def parts(slot: Any) -> Iterator[Any]:
    """A slot and every slot inside it."""
    if isinstance(slot, tuple):
        for part in slot:
            yield from parts(part)
    elif isinstance(slot, eqx.Module):
        yield slot
        for field in dataclasses.fields(slot):
            yield from parts(getattr(slot, field.name))


def written(slot: Any) -> str:
    """A slot as code has it: `Smoothed(PolicyAction, sigma=0.2, clip=0.5)`.

    What is as by default is left out, and so is what has no words: functions and arrays.
    """
    inner, settings = [], []
    for field in dataclasses.fields(slot):
        value = getattr(slot, field.name)
        if value == field.default:
            continue
        if dataclasses.is_dataclass(value):
            inner.append(written(value))
        elif isinstance(value, float):
            settings.append(f"{field.name}={value:g}")
        elif type(value) in (bool, int, str, tuple) or value is None:
            settings.append(f"{field.name}={value}")
    said = inner + settings
    return type(slot).__name__ + (f"({', '.join(said)})" if said else "")
