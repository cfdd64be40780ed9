"""Reads a page as a browser does, as far as tests need it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Read(HTMLParser):
    """A page's sections, scripts, texts, and what it would load."""

    def __init__(self, text: str):
        super().__init__()
        self.sections: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.policy = ""
        self._in_script = False
        self.feed(text)
        self.close()

    @staticmethod
    def of(path: Path) -> Read:
        return Read(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "section":
            self.sections.append(str(given["id"]))
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "script":
            self.scripts.append("")
            self._in_script = True
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(given["content"])
        self.loads += [str(given[name]) for name in ("src", "href") if given.get(name)]
        assert not any(name.startswith("on") for name in given), "no handlers in attributes"

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        """What its figures are drawn from."""
        return json.loads(self.scripts[0])

    def check_alone(self) -> None:
        """It loads nothing, and runs no script but those that it allows by their digests."""
        assert all(one.startswith(("#", "data:")) for one in self.loads), self.loads
        allowed = re.findall(r"'sha256-([^']+)'", self.policy)
        own = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in self.scripts[1:]]
        assert allowed == own and "default-src 'none'" in self.policy
        assert set(self.data) <= set(self.ids)
