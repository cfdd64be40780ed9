"""Presets: the settings with which an algorithm was published, as files with their source, read by name."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fittedq.algorithms import AUTO, Asked, asked_for
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.errors import UserError, nearest


@dataclass(frozen=True)
class Preset:
    """Settings of one algorithm and of its training."""

    name: str
    algorithm: str
    """The algorithm's name in the registry."""
    title: str
    source: str
    """Where the settings stand."""
    settings: Mapping[str, Any]
    differs: str | None = None
    """What was published and is not among the settings, in words."""
    evidence: str | None = None
    """The results by which it was chosen, where it was not published so: a folder of the repository."""
    because: str | None = None
    """What they say, in words."""


@functools.cache
def presets() -> dict[str, Preset]:
    """All presets by name."""
    here = sorted(files(__name__).iterdir(), key=lambda file: file.name)
    texts = {file.name.removesuffix(".toml"): file.read_text("utf-8") for file in here if file.name.endswith(".toml")}
    return {name: _preset(name, tomllib.loads(text)) for name, text in texts.items()}


def _preset(name: str, held: dict[str, Any]) -> Preset:
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in held.pop("settings").items()}
    return Preset(name, settings=settings, **held)


def presets_of(cls: type[AbstractAlgorithm]) -> list[Preset]:
    """The presets of one algorithm."""
    return [preset for preset in presets().values() if preset.algorithm == cls.name]


def chosen(algorithm: Asked, preset: str | None) -> tuple[Asked, str | None]:
    """(the algorithm, the preset) that a user's words mean: `auto` is the preset of that name and its algorithm.

    Beside another preset it is that preset's algorithm.
    """
    if not isinstance(algorithm, str) or algorithm != AUTO:
        return algorithm, preset
    name = AUTO if preset is None else preset
    return _known(name).algorithm, name


def preset_for(name: str, algorithm: Asked) -> Preset:
    """The preset of that name; a UserError where there is none, or it is not one of `algorithm`."""
    preset = _known(name)
    asked = asked_for(algorithm)
    if isinstance(asked, AbstractAlgorithm):
        raise UserError(
            f"found {name!r} beside an algorithm that was made with its settings; give the algorithm by name.",
            argument="preset",
        )
    if asked.name != preset.algorithm:
        own = ", ".join(other.name for other in presets_of(asked)) or "none"
        raise UserError(
            f"{name} has the settings of {preset.algorithm}, and {asked.name} is trained; take {preset.algorithm}, or "
            f"one of {asked.name}'s presets: {own}.",
            argument="preset",
        )
    return preset


def _known(name: str) -> Preset:
    preset = presets().get(name) if isinstance(name, str) else None
    if preset is None:
        raise UserError(f"found {name!r}; {nearest(str(name), presets())}", argument="preset")
    return preset
