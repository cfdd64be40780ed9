"""What a page is made of: texts, tables, verdicts, commands, pictures, and figures that a reader can turn."""

from __future__ import annotations

import abc
import base64
import html
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, final

import numpy as np
from jaxtyping import Float

from fittedq.diagnose.verdicts import GRADES, LIMITS

MOST_POINTS = 2_000
"""Of a curve: more cannot be seen."""
DIGITS = 5
COLORS = 6
"""Of the page's style."""


class AbstractBlock(abc.ABC):
    """A piece of a section."""

    @abc.abstractmethod
    def html(self, key: str) -> str:
        """Its markup; a figure is drawn from its `describe` under `key`."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """As JSON."""

    @property
    @abc.abstractmethod
    def drawn(self) -> bool:
        """Whether a script draws it."""


class AbstractStill(AbstractBlock):
    """A block that is all markup."""

    @property
    def drawn(self) -> bool:
        return False


@final
@dataclass(frozen=True)
class Said(AbstractStill):
    """A sentence; `missing` ones say what is not there, and how to get it."""

    text: str
    missing: bool = False

    def html(self, key: str) -> str:
        del key
        return f"<p class='{'missing' if self.missing else 'said'}'>{html.escape(self.text)}</p>"

    def describe(self) -> dict[str, Any]:
        return {"kind": "missing" if self.missing else "text", "text": self.text}


@final
@dataclass(frozen=True)
class Table(AbstractStill):
    """Rows below a head, which may be empty; `folded` ones are shown where they are asked for, under that title."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: str = ""

    def html(self, key: str) -> str:
        del key
        head = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in self.head)
        body = "".join(f"<tr>{''.join(_cell(place, cell) for place, cell in enumerate(row))}</tr>" for row in self.rows)
        top = f"<thead><tr>{head}</tr></thead>" if self.head else ""
        table = f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'
        return f"<details><summary>{html.escape(self.folded)}</summary>{table}</details>" if self.folded else table

    def describe(self) -> dict[str, Any]:
        return {"kind": "table", "head": list(self.head), "rows": [list(row) for row in self.rows]}


def _cell(place: int, text: str) -> str:
    tag = "th scope='row'" if place == 0 else "td"
    return f"<{tag}>{html.escape(text)}</{tag.partition(' ')[0]}>"


@final
@dataclass(frozen=True)
class Verdicts(AbstractStill):
    """What `diagnose.verdicts.verdicts` judged, one below the other."""

    judged: dict[str, dict[str, Any]]

    def html(self, key: str) -> str:
        del key
        items = []
        for limit in LIMITS:
            if limit.figure not in self.judged:
                continue
            one = self.judged[limit.figure]
            grade = GRADES.index(one["grade"])
            word = ("good", "look here", "wrong")[grade]
            found = f"{one['value']:.3g} {limit.meaning}; good up to {limit.most:g}"
            todo = f"<p class='next'>{html.escape(one['next'])}</p>" if "next" in one else ""
            items.append(
                f"<li class='grade{grade}'><b>{html.escape(limit.title)}</b> <span class='badge'>{word}</span>"
                f"<p>{html.escape(found)}</p>{todo}<p class='why'>Why this limit: {html.escape(limit.why)}.</p></li>"
            )
        return f"<ul class='verdicts'>{''.join(items)}</ul>"

    def describe(self) -> dict[str, Any]:
        return {"kind": "verdicts", "verdicts": self.judged}


@final
@dataclass(frozen=True)
class Instruction(AbstractStill):
    """What a user types, below what it is for."""

    purpose: str
    text: str

    def html(self, key: str) -> str:
        del key
        return f"<p class='purpose'>{html.escape(self.purpose)}</p><pre><code>{html.escape(self.text)}</code></pre>"

    def describe(self) -> dict[str, Any]:
        return {"kind": "command", "purpose": self.purpose, "text": self.text}


@final
@dataclass(frozen=True)
class Portions(AbstractStill):
    """Portions of a whole, as one bar with a table below."""

    parts: dict[str, float]
    unit: str

    def html(self, key: str) -> str:
        total = sum(self.parts.values()) or 1.0
        bar = "".join(
            f"<span class='part c{place % COLORS}' style='flex:{value / total:.4f}' title='{html.escape(name)}'></span>"
            for place, (name, value) in enumerate(self.parts.items())
        )
        rows = [[name, f"{value:,.1f} {self.unit}", f"{value / total:.0%}"] for name, value in self.parts.items()]
        return f"<div class='bar'>{bar}</div>{Table(['stage', 'time', 'share'], rows).html(key)}"

    def describe(self) -> dict[str, Any]:
        return {"kind": "shares", "parts": self.parts, "unit": self.unit}


@final
@dataclass(frozen=True)
class Picture(AbstractStill):
    """An image of its own, inlined."""

    media: str
    """Its media type, such as image/gif."""
    data: bytes
    caption: str

    def html(self, key: str) -> str:
        del key
        inlined = base64.b64encode(self.data).decode()
        caption = html.escape(self.caption)
        image = f"<img alt='{caption}' src='data:{self.media};base64,{inlined}'>"
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"

    def describe(self) -> dict[str, Any]:
        return {"kind": "picture", "media": self.media, "bytes": len(self.data), "caption": self.caption}


# ---------------------------------------------------------------------- figures


@final
@dataclass(frozen=True)
class Curve:
    """y over x; `low` and `high` are a band around it, or around nothing where `y` is empty."""

    name: str
    y: Sequence[float | None]
    style: str = "line"
    """line, faint, dashed, or steps, which holds a value until the next."""
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    color: int = 0
    """The place in the page's colors."""


@final
@dataclass(frozen=True)
class View:
    """Curves over the same x."""

    name: str
    x: Sequence[float]
    curves: Sequence[Curve]

    @staticmethod
    def joined(name: str, each: Sequence[tuple[Sequence[float], Curve]]) -> View:
        """Curves over values of x of their own, none of which has the same twice."""
        x = sorted({value for own, _ in each for value in own})
        curves = []
        for own, curve in each:
            known = {part: dict(zip(own, getattr(curve, part), strict=False)) for part in ("y", "low", "high")}
            placed = {part: [of.get(value) for value in x] if of else () for part, of in known.items()}
            curves.append(replace(curve, **placed))
        return View(name, x, curves)

    def describe(self) -> dict[str, Any]:
        """As JSON: numbers of some digits, and no more than can be seen."""
        every = -(-len(self.x) // MOST_POINTS)
        curves = []
        for curve in self.curves:
            numbers = {name: rounded(getattr(curve, name)[::every]) for name in ("y", "low", "high")}
            curves.append(asdict(curve) | numbers)
        return {"name": self.name, "x": rounded(self.x[::every]), "curves": curves}


@final
@dataclass(frozen=True)
class Lines(AbstractBlock):
    """Curves; of several views one is shown, which the reader chooses."""

    title: str
    x_label: str
    y_label: str
    views: Sequence[View]
    logarithmic: bool = False

    @property
    def drawn(self) -> bool:
        return True

    def html(self, key: str) -> str:
        return f"<figure class='lines' id='{key}'><figcaption>{html.escape(self.title)}</figcaption></figure>"

    def describe(self) -> dict[str, Any]:
        views = [view.describe() for view in self.views]
        labels = {"x_label": self.x_label, "y_label": self.y_label, "log": self.logarithmic}
        return {"kind": "lines", "title": self.title, **labels, "views": views}


@final
@dataclass(frozen=True)
class Axis:
    """Where a coordinate was looked at, and what it is called."""

    name: str
    low: float
    high: float
    middle: float
    """Where its slider begins."""


@final
@dataclass(frozen=True)
class Maps(AbstractBlock):
    """Functions on a grid over one to four coordinates, as heat maps: two coordinates are axes, the others sliders."""

    title: str
    axes: Sequence[Axis]
    values: dict[str, Float[np.ndarray, "*n"]]
    """Each function's values [n, …, n], by its name."""
    up: int = 0
    """The coordinate that begins as the vertical axis; the horizontal one is the first."""

    @property
    def drawn(self) -> bool:
        return True

    def html(self, key: str) -> str:
        return f"<figure class='maps' id='{key}'><figcaption>{html.escape(self.title)}</figcaption></figure>"

    def describe(self) -> dict[str, Any]:
        held = {}
        for name, values in self.values.items():
            low, high = float(values.min()), float(values.max())
            levels = np.round(255 * (values - low) / (high - low or 1.0)).astype(np.uint8)
            held[name] = {"low": low, "high": high, "levels": base64.b64encode(levels.tobytes()).decode()}
        (count, *_) = next(iter(self.values.values())).shape
        return {
            "kind": "maps",
            "title": self.title,
            "n": count,
            "up": self.up,
            "axes": [asdict(one) for one in self.axes],
        } | {"values": held}


def rounded(values: Sequence[float | None]) -> list[float | None]:
    """Numbers of `DIGITS` digits; None where there is none."""
    return [
        None if value is None or not math.isfinite(value) else float(f"{float(value):.{DIGITS}g}") for value in values
    ]
