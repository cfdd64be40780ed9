"""Every method has a page, and the page shows the code as it is."""

from __future__ import annotations

import runpy
import sys
from typing import Any

import pytest
from PIL import Image

from fittedq.algorithms import REGISTRY
from pages import ROOT

DOCS = ROOT / "docs"
sys.path.append(str(DOCS))  # what its scripts share


@pytest.fixture(scope="module")
def script() -> dict[str, object]:
    return runpy.run_path(str(DOCS / "algorithm_pages.py"))


@pytest.mark.parametrize("name", REGISTRY)
def test_the_page_of_a_method_shows_its_code_as_it_is(name: str, script: dict[str, object]) -> None:
    page = (DOCS / "algorithms" / f"{name}.md").read_text()
    assert script["written"](name, page) == page, "run `python docs/algorithm_pages.py`"  # type: ignore[operator]


def test_curves_are_those_of_their_data(script: dict[str, object]) -> None:
    curves: Any = script["curves"]
    measured = [name for name in REGISTRY if curves.runs_of(name)]
    assert {path.stem for path in (DOCS / "algorithms").glob("*.png")} == set(measured) != set()
    for name in measured:
        with Image.open(DOCS / "algorithms" / f"{name}.png") as picture:
            assert picture.info["Fingerprint"] == curves.of_data(name), "run `python docs/figures/curves.py`"


def test_the_index_leads_to_every_method() -> None:
    index = (DOCS / "algorithms" / "index.md").read_text()
    assert [name for name in REGISTRY if f"({name}.md)" not in index] == []
