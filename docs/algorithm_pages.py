"""Write what the pages of the methods show of the code: pseudocode, template, slots, settings and presets.

python docs/algorithm_pages.py        writes it into docs/algorithms/NAME.md, between the marks of each page
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

from figures import curves
from marks import between

from fittedq.algorithms import REGISTRY
from fittedq.algorithms.base import AbstractAlgorithm, NetworkAlgorithm
from fittedq.algorithms.presets import presets_of
from fittedq.cli.list import settings_table

PAGES = Path(__file__).parent / "algorithms"
BEGIN, END = "<!-- method: written by docs/algorithm_pages.py -->\n", "<!-- end of method -->"


def shown(cls: type[AbstractAlgorithm]) -> str:
    """The pseudocode beside the code, and what the method's settings and presets are."""
    module = importlib.import_module(cls.__module__)
    template = f"class {cls.__name__}({cls.__base__.__name__}):\n    ...\n\n{inspect.getsource(cls.template)}"
    return "\n".join(
        [
            "## Pseudocode\n",
            f"```text\n{inspect.getdoc(module)}\n```\n",
            f"## The template in [{Path(module.__file__ or '').name}]({_source(module.__name__)})\n",
            "<!-- not run: a part of the file -->",
            f"```python\n{template}```\n",
            "| slot | with the default settings |",
            "|---|---|",
            *(f"| {slot} | {_cell(said)} |" for slot, said in cls().describe().items()),
            "",
            *_settings(cls),
            *_presets(cls),
        ]
    )


def _source(module: str) -> str:
    return f"../../src/{module.replace('.', '/')}.py"


def _cell(said: str) -> str:
    return "<br>".join(f"`{line}`" for line in said.split("; "))


def _settings(cls: type[AbstractAlgorithm]) -> Iterator[str]:
    """The settings that not every method has; `fittedq list NAME` shows all."""

    def names(of: type) -> set[str]:
        return {name for base in of.mro() for name in inspect.get_annotations(base)}

    own = names(cls) - names(NetworkAlgorithm)
    stated = [row for row in settings_table(cls.name) if row["setting"] in own]
    if stated:
        yield f"Settings that not every method has (all: `fittedq list {cls.name}`):\n"
        yield "| setting | default | meaning |\n|---|---|---|"
        for row in stated:
            default = row["online"] if "online" in row["has"] else row["from_data"]
            meaning = f"{row['meaning']}{'' if row['words'] is None else ': ' + ', '.join(row['words'])}"
            yield f"| `{row['setting']}` | `{default}` | {meaning.replace('|', chr(92) + '|')} |"
        yield ""


def _presets(cls: type[AbstractAlgorithm]) -> Iterator[str]:
    for preset in presets_of(cls):
        yield f"`--preset {preset.name}`: {preset.title} ({preset.source}).\n"


def written(name: str, page: str) -> str:
    """The page with what the code says of the method, and what was measured of it, between its marks."""
    return between(between(page, BEGIN, shown(REGISTRY[name]), END), curves.BEGIN, curves.said(name), curves.END)


if __name__ == "__main__":
    for name in REGISTRY:
        path = PAGES / f"{name}.md"
        path.write_text(written(name, path.read_text()))
