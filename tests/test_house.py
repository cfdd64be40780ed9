"""The layout of the package, and the page that shows it."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_picture_of_the_house_is_as_the_imports_are() -> None:
    house = runpy.run_path(str(ROOT / "docs" / "house.py"))
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert house["drawn"](page) == page, "run `python docs/house.py`"
