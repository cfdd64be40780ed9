"""The gallery shows what its scripts learned, and its pages say what they printed."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
from PIL import Image

from pages import ROOT

GALLERY = runpy.run_path(str(ROOT / "docs" / "figures" / "gallery.py"))
PROJECTS = GALLERY["PROJECTS"]
LONGEST, LARGEST = 90, 100_000
"""Lines of what a page shows, and bytes of a picture."""


def test_pages_have_the_code_and_the_figures_of_their_scripts_and_the_index_all_of_them() -> None:
    for page, text in GALLERY["written"]().items():
        assert page.read_text() == text, "run `python docs/figures/gallery.py pages`"


def test_every_script_has_its_page_and_its_picture() -> None:
    beside = {"showing"}
    assert {path.stem for path in GALLERY["SCRIPTS"].glob("*.py")} - beside == set(PROJECTS)
    for kind in ("md", "png"):
        assert {path.stem for path in GALLERY["GALLERY"].glob(f"*.{kind}")} - {"index"} == set(PROJECTS)
    assert {path.stem for path in GALLERY["DATA"].glob("*.json")} == set(PROJECTS)


@pytest.mark.parametrize("name", PROJECTS)
def test_a_picture_shows_what_its_script_learned(name: str) -> None:
    data: dict[str, Any] = GALLERY["data"](name)
    assert data["of"] == GALLERY["of_code"](name), f"run docs/figures/gallery.py train {name}"
    path = GALLERY["GALLERY"] / f"{name}.png"
    with Image.open(path) as picture:
        assert picture.info["Fingerprint"] == GALLERY["of_picture"](name), f"run docs/figures/gallery.py draw {name}"
    assert path.stat().st_size <= LARGEST
    assert len(GALLERY["shown"](name).splitlines()) <= LONGEST
    assert data["processor_seconds"] <= 180
