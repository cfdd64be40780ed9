"""Presets: settings with their source, of publications by name, or of a user's in a file."""

from __future__ import annotations

import functools
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from fittedq.algorithms import AUTO, Asked, asked_for
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.code import told
from fittedq.errors import UserError, nearest
from fittedq.files import read_toml


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


ENDING = ".toml"
"""By it a preset's file is told from a name."""


def preset_name(preset: str | None) -> str | None:
    """What a preset is called: by its name, or its file's without folders and ending."""
    return None if preset is None else Path(preset).name.removesuffix(ENDING)


def _known(name: str) -> Preset:
    if isinstance(name, str | Path) and str(name).endswith(ENDING):
        return _in_file(Path(name))
    preset = presets().get(name) if isinstance(name, str) else None
    if preset is None:
        raise UserError(f"found {name!r}; {nearest(str(name), presets())}", argument="preset")
    return preset


def _in_file(file: Path) -> Preset:
    """The preset of a file; a UserError where it is none."""
    held = read_toml(file, "preset")
    kinds = {field.name: dict if field.name == "settings" else str for field in fields(Preset) if field.name != "name"}
    for name, value in held.items():
        if name not in kinds:
            raise UserError(f"{file}: found {name!r}; {nearest(name, kinds)}", argument="preset")
        if not isinstance(value, kinds[name]):
            expected = "a table" if kinds[name] is dict else "words in quotes"
            raise UserError(f"{file}: {name} is {told(value)}, expected {expected}.", argument="preset")
    for name in ("algorithm", "settings"):
        if name not in held:
            raise UserError(f"{file}: found no {name}, which a preset has; give it there.", argument="preset")
    return _preset(file.name.removesuffix(ENDING), {"title": "", "source": "", **held})


def as_toml(preset: Preset) -> str:
    """A preset's file."""
    about = {"algorithm": preset.algorithm, "title": preset.title, "source": preset.source}
    about |= {name: text for name in ("differs", "evidence", "because") if (text := getattr(preset, name)) is not None}
    lines = [*_assigned(about), "", "[settings]", *_assigned(preset.settings)]
    return "\n".join(lines) + "\n"


def _assigned(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        # What JSON writes of words, numbers, booleans and lists is TOML too.
        yield f"{name} = {json.dumps(value, ensure_ascii=False)}"
