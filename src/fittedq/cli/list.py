"""`fittedq list`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from fittedq.algorithms import REGISTRY, find
from fittedq.algorithms.fitted import FittedAlgorithm
from fittedq.fitted import FitSettings, GrowSettings
from fittedq.settings import described
from fittedq.train import TrainSettings


@dataclass(frozen=True)
class List:
    """The algorithms with their slots, or one algorithm's settings."""

    algorithm: tyro.conf.Positional[str | None] = None
    """Show this algorithm's settings."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        if self.algorithm is None:
            rows = [{"name": name, "title": cls.title, **cls.slots} for name, cls in REGISTRY.items()]
        else:
            cls = find(self.algorithm)
            collecting = (GrowSettings,) if issubclass(cls, FittedAlgorithm) else (TrainSettings,)
            loops = (*(collecting if cls.online else ()), FitSettings)
            fields = {field.name: field for group in (cls, *loops) for field in described(group)}
            rows = [_row(field) for field in fields.values()]
        if self.json:
            print(json.dumps(rows))
            return 0
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in rows[0]:
            table.add_column(column, no_wrap=column in ("name", "setting"), overflow="fold")
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        Console().print(table)
        return 0


def _row(field: dataclasses.Field[Any]) -> dict[str, Any]:
    return {"setting": field.name, "default": field.default, "meaning": field.metadata["about"]}
