"""`fittedq list`."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from fittedq.algorithms import AUTO, REGISTRY, Asked, class_of, made, plugins
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.algorithms.presets import Preset, presets, presets_of
from fittedq.cli.tables import beside, print_rows, terminal_width
from fittedq.control.augmentation import Augmentation
from fittedq.settings import in_python, in_words, setting_fields
from fittedq.template.fqi import ABSENT
from fittedq.trainers.choose import ranges_in, settings_of, tuned

INDENT = 15
"""Where the texts beside names begin."""


@dataclass(frozen=True)
class List:
    """List the algorithms, or the slots and settings of one."""

    algorithm: Annotated[
        tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[ALGORITHM]", help_behavior_hint="")
    ] = None
    """Show this algorithm's slots and settings. One of your own: FILE.py:NAME or MODULE:NAME."""
    json: bool = False
    """Print one JSON object per line, for machines."""

    def run(self) -> int:
        algorithm = presets()[AUTO].algorithm if self.algorithm == AUTO else self.algorithm
        if algorithm is None:
            installed, faults = plugins()
            for cls in (*REGISTRY.values(), *installed.values()):
                print(json.dumps(_about(cls) | _presets(cls)) if self.json else beside(cls.name, cls.title, INDENT))
            if not self.json:
                print(f"\n{beside(AUTO, _evidence(presets()[AUTO]), INDENT)}")
                print("\nPresets, for --preset NAME:", *map(_preset, presets().values()), sep="\n")
            for fault in faults:
                print(f"warning: {fault}", file=sys.stderr)
        elif self.json:
            print("\n".join(map(json.dumps, settings_table(algorithm))))
        else:
            _show(algorithm)
        return 0


def _about(algorithm: Asked) -> dict[str, str]:
    method = made(algorithm, {})
    return {"name": method.name, "title": method.title, **method.describe()}


def _presets(cls: type[AbstractAlgorithm]) -> dict[str, Any]:
    return {"presets": [dataclasses.asdict(preset) for preset in presets_of(cls)]}


def _preset(preset: Preset) -> str:
    title = beside(preset.name, f"{preset.algorithm}: {preset.title}", INDENT)
    return f"{title}\n{beside('', preset.source, INDENT)}"


def _evidence(preset: Preset) -> str:
    """What it stands for, and why."""
    settings = " ".join(f"{name}={_word(value)}" for name, value in preset.settings.items())
    return f"{preset.algorithm} with {settings}: {preset.because} ({preset.evidence})"


def settings_table(algorithm: str) -> list[dict[str, Any]]:
    """Each setting with its default where data are collected and where they are given; null where it has no meaning."""
    cls = class_of(algorithm)
    collecting = settings_of(cls, "host")
    read = [field for field in setting_fields(cls) if field.name not in cls.ignores]
    own = {field.name: field for field in (*read, *setting_fields(Augmentation))}
    online = own | {field.name: field for field in setting_fields(collecting)} if cls.online else {}
    ranges = {name: found for where in ("host", "dataset") for name, found in ranges_in(cls, where).items()}
    from_data = own | {field.name: field for field in setting_fields(settings_of(cls, "dataset"))}
    return [
        {
            "setting": name,
            "online": _default(online.get(name)),
            "from_data": _default(from_data.get(name)),
            "has": [where for where, fields in (("online", online), ("from_data", from_data)) if name in fields],
            "meaning": field.metadata["about"],
            "words": None if field.metadata["choices"] is None else list(field.metadata["choices"]),
            "in_python": in_python(field.metadata),
            "range": None if (range := ranges.get(name)) is None else str(range),
            "tuned": name in tuned(cls, "host") or name in tuned(cls, "dataset"),
        }
        for name, field in (online | from_data).items()
    ]


def _default(field: dataclasses.Field[Any] | None) -> object:
    if field is None:
        return None
    return in_words(field.default) if type(field.default) in field.metadata["kinds"] else field.default


def _show(algorithm: str) -> None:
    about = _about(algorithm)
    for name, text in about.items():
        for line in text.split("; "):
            print(beside(f"{name:>8}", f" {line}", 10) if terminal_width() else f"{name:>8}  {line}")
            name = ""
    print()
    rows = [["setting", "online", "from data", "meaning"]]
    for row in settings_table(algorithm):
        shown = (_word(row[where]) if where in row["has"] else ABSENT for where in ("online", "from_data"))
        words = "" if row["words"] is None else f": {', '.join(row['words'])}"
        objects = "" if row["in_python"] is None else f"; in Python also {row['in_python']}"
        tuning = f" [{row['range']}]" if row["tuned"] else ""
        rows.append([row["setting"], *shown, f"{row['meaning']}{words}{objects}{tuning}"])
    print_rows(rows)
    print("\n[…]: where `fittedq tune` looks for a setting.")
    for preset in presets_of(class_of(algorithm)):
        words = " ".join(f"{name}={_word(value)}" for name, value in preset.settings.items())
        differs = "" if preset.differs is None else f" Not as published: {preset.differs}."
        why = "" if preset.because is None else f" Why: {preset.because} ({preset.evidence})."
        print(f"\n--preset {preset.name}: {preset.title} ({preset.source}).{differs}{why}", words, sep="\n")


def _word(value: object) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else f"{value}"
