"""Slots of the template, read as what they are: modules inside modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import cast

import equinox as eqx


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
