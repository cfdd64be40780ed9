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
    """A slot as code has it: `Smoothed(PolicyAction, sigma=0.2, clip=0.5)`; what is as by default is left out."""
    said = []
    for field in dataclasses.fields(slot):
        value = getattr(slot, field.name)
        if dataclasses.is_dataclass(value):
            if value != field.default:
                said.append(written(value))
        elif isinstance(value, bool | int | str | tuple) or value is None:
            if value != field.default:
                said.append(f"{field.name}={value}")
        elif isinstance(value, float) and value != field.default:
            said.append(f"{field.name}={value:g}")
    return type(slot).__name__ + (f"({', '.join(said)})" if said else "")
