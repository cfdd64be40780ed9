"""The pages of the repository, and the blocks of code in them.

A comment above a block, which no reader sees, says what its test does otherwise:

    <!-- not run: REASON -->            the block is not run; the reason says why
    <!-- small: OLD => NEW -->          what is replaced, so that the test is cheap; one a line; each must occur
    <!-- given: CODE -->                what is run before it: what the page takes for granted
    <!-- then: CODE -->                 what is run after it: what must hold
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FENCE = re.compile(
    r"(?P<notes>(?:^<!-- (?:not run|small|given|then):.*?-->\n+)*)"
    r"^(?P<ticks>`{3,})(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=ticks)$",
    re.DOTALL | re.MULTILINE,
)
NOTE = re.compile(r"<!-- (not run|small|given|then):\s?(.*?)\s*-->", re.DOTALL)


class Block(NamedTuple):
    """A block of code of a page."""

    line: int
    language: str
    text: str
    notes: dict[str, str]

    def code(self) -> str:
        """What its test runs: nothing where it is not run."""
        if "not run" in self.notes:
            return ""
        text = self.text
        for rule in filter(None, self.notes.get("small", "").splitlines()):
            old, new = rule.split(" => ")
            assert old in text, f"line {self.line}: {old!r} does not occur"
            text = text.replace(old, new)
        return "\n".join([self.notes.get("given", ""), text, self.notes.get("then", "")])

    def commands(self) -> list[list[str]]:
        """The words of each `fittedq` command in it."""
        lines = self.text.replace("\\\n", " ").splitlines()
        parts = [part for line in lines for part in re.split(r" (?:&&|\|) ", line)]
        split = [shlex.split(part, comments=True) for part in parts if part.startswith("fittedq ")]
        return [words[1:] for words in split]


def pages() -> list[Path]:
    """README, CONTRIBUTING, the examples and the other pages of the repository, and those of the site."""
    beside = [ROOT / folder / "README.md" for folder in ("benchmarks", "benchmarks/results", "reliability", "tests")]
    return [
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "examples").glob("*.md")),
        *beside,
        *sorted((ROOT / "docs").rglob("*.md")),
    ]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[Block]:
    """The page's blocks in these languages, in their order."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        if match["language"] in languages:
            notes = dict(NOTE.findall(match["notes"]))
            line = text.count("\n", 0, match.start("ticks")) + 1
            found.append(Block(line, match["language"], match["text"], notes))
    return found
