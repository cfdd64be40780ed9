"""The pages are true: their Python runs, the command line takes their commands, and their links lead somewhere."""

from __future__ import annotations

import json
import pkgutil
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from fittedq.cli.arguments import parse
from fittedq.cli.main import COMMANDS
from pages import ROOT, blocks, name, pages

LINK = re.compile(r"(?<!\\)\[[^\]]*\]\((?P<target>[^)\s#]*)(?:#(?P<anchor>[^)\s]*))?\)")
CODE = re.compile(r"^(`{3,}).*?^\1$|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def with_blocks(*languages: str) -> list[str]:
    return [name(page) for page in pages() if blocks(page, *languages)]


QUICK = ("README.md", "docs/course/index.md", "docs/course/since.md")
"""Pages whose Python runs in `make test`; every page's does in `make test-all`."""


def python_pages() -> list[Any]:
    marks = {True: (), False: (pytest.mark.slow,)}
    return [pytest.param(page, marks=marks[page in QUICK]) for page in with_blocks("python")]


@pytest.mark.parametrize("page", python_pages())
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("examples", "examples/gallery"):
        monkeypatch.syspath_prepend(ROOT / folder)
    module = ModuleType(f"page_{Path(page).stem}")  # classes of a page name a module, and dataclasses look for it
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(ROOT / page, "python"):
        source = "\n" * block.line + block.code()
        exec(compile(source, f"{page}", "exec", dont_inherit=True), vars(module))


@pytest.mark.parametrize("page", with_blocks("sh", "bash"))
def test_the_commands_of_a_page_are_as_the_command_line_takes_them(page: str) -> None:
    for block in blocks(ROOT / page, "sh", "bash"):
        for command, *words in block.commands():
            parse(COMMANDS[command].load(), f"fittedq {command}", words)


def anchors(page: Path) -> set[str]:
    """The headings of a page, as its links name them."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub(lambda match: match[0].replace("\n#", "\n"), page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [name(page) for page in pages()])
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    text = CODE.sub("", (ROOT / page).read_text())
    broken = []
    for link in LINK.finditer(text):
        target = (ROOT / page).parent / link["target"] if link["target"] else ROOT / page
        if ":" in link["target"]:
            continue
        if not target.exists() or (link["anchor"] and target.suffix == ".md" and link["anchor"] not in anchors(target)):
            broken.append(link[0])
    assert broken == []


def test_what_the_theory_names_is_there() -> None:
    """Functions by their dotted names, tests by theirs (one that ends in … by its beginning)."""
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    pages_of_theory = sorted((ROOT / "docs" / "theory").glob("*.md"))
    named = {
        word for page in pages_of_theory for word in re.findall(r"`(fittedq\.[\w.]+|test_\w+…?)`", page.read_text())
    }
    assert len(named) > 60
    missing = {word for word in named if not (there(word) if word.startswith("fittedq") else _has(tests, word))}
    assert {word for word in missing if not (ROOT / "tests" / f"{word}.py").exists()} == set()


def there(place: str) -> bool:
    """Whether `fittedq.module.name` leads to something."""
    try:
        pkgutil.resolve_name(place)
    except (ImportError, AttributeError):
        return False
    return True


def _has(tests: str, word: str) -> bool:
    return f"def {word.rstrip('…')}" in tests


def test_the_courses_diffs_are_those_of_its_methods_and_its_table_that_of_its_data() -> None:
    course = runpy.run_path(str(ROOT / "docs" / "figures" / "course.py"))
    for page, text in course["written"]().items():
        assert page.read_text() == text, "run `python docs/figures/course.py pages`"


def test_pictures_of_the_course_show_what_its_pages_say() -> None:
    """What was learned came from the code that stands on the page, and the picture shows it."""
    course = runpy.run_path(str(ROOT / "docs" / "figures" / "course.py"))
    data = json.loads(course["DATA"].read_text())
    assert set(data) == {"truth", *course["STEPS"]}
    meaning = course["meaning"]
    problem = meaning(course["SOURCE"].read_text())
    for step, kept in data.items():
        made_from = (problem,) if step == "truth" else (meaning(course["source"](step)), problem)
        assert kept["of"] == course["fingerprint"](*made_from), f"{step}: run docs/figures/course.py train {step}"
        with Image.open(course["COURSE"] / f"{step}.png") as picture:
            assert picture.info["Fingerprint"] == course["of_data"](step, data), "run docs/figures/course.py draw"
