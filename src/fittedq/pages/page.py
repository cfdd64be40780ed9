"""One file of HTML that needs no other: its style, scripts and numbers are in it, and it may load nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, final

from fittedq.files import check_marked, write_marked
from fittedq.pages.blocks import AbstractBlock
from fittedq.runs.folder import json_value

MARK_OF_PAGE = b'<meta name="generator" content="fittedq">'
"""By which a page of ours is known."""


@final
@dataclass(frozen=True)
class Section:
    """A part of a page under a name of its own."""

    name: str
    title: str
    blocks: Sequence[AbstractBlock]

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {"title": self.title, "blocks": [block.describe() for block in self.blocks]}


@final
@dataclass(frozen=True)
class Page:
    """Sections below a title."""

    title: str
    subtitle: str
    numbers: dict[str, str]
    """What is seen first: a number by its name."""
    sections: Sequence[Section]
    grade: str | None = None
    """The worst grade of its verdicts."""

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        sections = {section.name: section.describe() for section in self.sections}
        about = {"title": self.title, "subtitle": self.subtitle, "grade": self.grade, "numbers": self.numbers}
        return json_value(about | {"sections": sections})

    def html(self) -> str:
        """The file."""
        data: dict[str, Any] = {}
        parts = []
        for section in self.sections:
            blocks = []
            for place, block in enumerate(section.blocks):
                key = f"{section.name}-{place}"
                blocks.append(block.html(key))
                if block.drawn:
                    data[key] = json_value(block.describe())
            parts.append(
                f"<section id='{section.name}'><h2>{html.escape(section.title)}</h2>{''.join(blocks)}</section>"
            )
        links = "".join(f"<a href='#{one.name}'>{html.escape(one.title)}</a>" for one in self.sections)
        numbers = "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
            for name, value in self.numbers.items()
        )
        scripts = [_asset("uplot.min.js"), _asset("page.js")]
        return Template(_asset("page.html")).substitute(
            hashes=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
            title=html.escape(self.title),
            subtitle=html.escape(self.subtitle),
            style=_asset("uplot.min.css") + _asset("page.css"),
            grade="" if self.grade is None else f"<span class='badge {self.grade}'>{self.grade}</span>",
            numbers=numbers,
            links=links,
            sections="\n".join(parts),
            data=in_script(data),
            library=scripts[0],
            script=scripts[1],
        )

    def write(self, path: Path) -> int:
        """Write it, whole or not there, in the place of an earlier page of ours or of nothing; its bytes."""
        data = self.html().encode()
        write_marked(path, data, MARK_OF_PAGE, "page")
        return len(data)


def check_page(path: Path) -> None:
    """A UserError where no page could be written there: for before it is made."""
    check_marked(path, MARK_OF_PAGE, "page")


def in_script(value: object) -> str:
    """JSON in which no text can end the script that holds it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return (files("fittedq.pages") / "assets" / name).read_text("utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
