"""The gallery's pictures and figures, both from the scripts in `examples/gallery`.

python docs/figures/gallery.py train NAME…    run scripts and keep what they learned in docs/figures/gallery
python docs/figures/gallery.py draw           draw the pictures of what was kept; each names the fingerprint of its data
python docs/figures/gallery.py pages          write each page's code and figures, and the index
"""

from __future__ import annotations

import ast
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / folder) for folder in ("docs", "examples/gallery", "benchmarks")]

from marks import between, fingerprint  # noqa: E402

SCRIPTS = ROOT / "examples" / "gallery"
GALLERY = ROOT / "docs" / "gallery"
DATA = Path(__file__).with_suffix("")
SHARED = SCRIPTS / "showing.py"
PROJECTS = (
    "swing_up",
    "tanks",
    "proof",
    "reactor",
    "car_on_the_hill",
    "heater",
    "pumps",
    "slow_valve",
    "dead_sensor",
    "river",
    "riccati",
    "off_plant",
)
"""In the order in which they stand on the index."""


def script(name: str) -> Path:
    return SCRIPTS / f"{name}.py"


def page(name: str) -> Path:
    return GALLERY / f"{name}.md"


def data(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text())


def shown(name: str) -> str:
    """The script as its page has it: what learns, without the picture and what runs it."""
    text = script(name).read_text()
    tree = ast.parse(text)
    first = next(node for node in tree.body[1:] if not isinstance(node, ast.ImportFrom) or node.module != "__future__")
    (drawn,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "drawn")
    return "\n".join(text.splitlines()[first.lineno - 1 : drawn.lineno - 1]).strip() + "\n"


def drawing(name: str) -> str:
    """The part of the script that draws."""
    tree = ast.parse(script(name).read_text())
    return "\n".join(
        ast.unparse(node) for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "drawn"
    )


def sentence(name: str) -> str:
    """The first paragraph of the script's docstring."""
    return str(ast.get_docstring(ast.parse(script(name).read_text()))).split("\n\n")[0].replace("\n", " ")


def title(name: str) -> str:
    return page(name).read_text().splitlines()[0].removeprefix("# ")


def of_code(name: str) -> str:
    """The fingerprint of the code that learns and of what it takes from others, without comments and layout."""
    tree = ast.parse(shown(name))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    taken = [
        part
        for node in imports
        if script(str(node.module)).exists()
        for part in definitions(str(node.module), [alias.name for alias in node.names])
    ]
    return fingerprint(ast.unparse(tree), *taken)


def definitions(name: str, wanted: list[str]) -> list[str]:
    """What these names stand for in a script, and what they use there."""
    stands = {
        node.id if isinstance(node, ast.Name) else node.name: whole
        for whole in ast.parse(shown(name)).body
        for node in ([whole] if isinstance(whole, ast.FunctionDef | ast.ClassDef) else ast.walk(whole))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    }
    found: dict[str, str] = {}
    while wanted:
        one = wanted.pop()
        if one in stands and one not in found:
            found[one] = ast.unparse(stands[one])
            wanted += [node.id for node in ast.walk(stands[one]) if isinstance(node, ast.Name)]
    return [found[one] for one in sorted(found)]


def of_picture(name: str) -> str:
    """The fingerprint of what a picture shows, and of how it is drawn."""
    style = ast.unparse(ast.parse(SHARED.read_text()))
    return fingerprint(json.dumps(data(name), sort_keys=True), drawing(name), style)


def trained(name: str) -> None:
    """Run the script, and keep what it learned, where and in how much time."""
    from machine import describe

    start, begun = time.process_time(), time.perf_counter()
    learned = importlib.import_module(name).learned()
    took = {"processor_seconds": round(time.process_time() - start), "seconds": round(time.perf_counter() - begun)}
    kept = {"of": of_code(name), **took, "where": describe("fittedq", "jax", "numpy"), **learned}
    DATA.mkdir(exist_ok=True)
    (DATA / f"{name}.json").write_text(json.dumps(kept) + "\n")
    print(*kept["told"], took, sep="\n", flush=True)


def draw(name: str) -> None:
    from showing import picture

    drawn = importlib.import_module(name).drawn
    picture(drawn, data(name), GALLERY / f"{name}.png", Fingerprint=of_picture(name))


def index() -> str:
    """A picture and a sentence of each project, which leads to its page."""
    items = [
        f"- [![{title(name)}]({name}.png)]({name}.md)\n\n    **[{title(name)}]({name}.md).** {sentence(name)}\n"
        for name in PROJECTS
    ]
    return "\n".join(items)


def written() -> dict[Path, str]:
    """Each page with its code and figures between its marks, and the index with its pictures."""
    pages = {}
    for name in PROJECTS:
        kept = data(name)
        told = "".join(f"{line}\n" for line in kept["told"])
        told += f"{kept['processor_seconds']} s of processor\n"
        text = between(page(name).read_text(), "```text\n", told, "```\n<!-- end of figures -->")
        pages[page(name)] = between(text, "```python\n", shown(name), "```\n<!-- end of script -->")
    top = GALLERY / "index.md"
    return pages | {top: between(top.read_text(), "<!-- projects -->\n", f"\n{index()}\n", "<!-- end of projects -->")}


def main() -> None:
    match sys.argv[1:]:
        case ["train", *names] if names:
            for name in names:
                trained(name)
        case ["draw", *names]:
            for name in names or PROJECTS:
                draw(name)
        case ["pages"]:
            for file, text in written().items():
                file.write_text(text)
        case _:
            sys.exit(str(__doc__))


if __name__ == "__main__":
    main()
