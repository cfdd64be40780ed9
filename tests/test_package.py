"""What the package says of itself: version, license, and the sources that it asks users to cite."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import fittedq
from fittedq.algorithms import REGISTRY
from fittedq.cli.main import main

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = (ROOT / "CITATION.cff").read_text()


def test_every_place_says_the_same_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    said = {capsys.readouterr().out.split()[1], fittedq.__version__, PROJECT["version"]}
    said |= set(re.findall(r"^version: (.+)$", CITATION, re.M))
    assert len(said) == 1


def test_the_license_is_the_one_that_is_declared() -> None:
    assert PROJECT["license"] == "MIT" and "license: MIT" in CITATION
    (file,) = PROJECT["license-files"]
    assert (ROOT / file).read_text().startswith("MIT License\n\nCopyright (c) 2026 the fittedq authors\n")


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_what_a_method_names_as_its_source_can_be_cited(name: str) -> None:
    page = __import__(f"fittedq.algorithms.{name}", fromlist=["__doc__"]).__doc__
    sources = re.findall(r"([A-Z][a-z]+)(?: & [A-Z][a-z]+)?(?: et al\.)?,? (\d{4})", page)
    references = CITATION.partition("references:")[2].split("  - type:")[1:]
    for author, year in sources:
        assert any(re.search(rf"family-names: {author}\b", one) and f"year: {year}" in one for one in references), (
            f"{author} {year} is not in CITATION.cff"
        )
    cited = any(re.search(rf"notes: .*\b{name}\b", one) for one in references)
    assert cited or name in ("amortized_fqi", "smooth_fqi"), "the chapter's own"
