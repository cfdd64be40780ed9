"""Draw the house: every room of the package, top to bottom, and the rooms whose names it imports.

python docs/house.py          writes the picture into docs/architecture.md, between its two marks
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

from marks import between

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- house: drawn by docs/house.py -->\n```text\n", "```\n<!-- end of house -->"


def rooms() -> list[str]:
    """The rooms from top to bottom, as the import contract orders them; what stands beside one another is one level."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    levels = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    names = [name.strip().removeprefix("fittedq.") for level in levels for name in level.split("|")]
    return list(dict.fromkeys(name.split(".")[0] for name in names))


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "fittedq"


def imports() -> dict[str, set[str]]:
    """room → the rooms it imports from."""
    found: dict[str, set[str]] = {room: set() for room in rooms()}
    source = ROOT / "src" / "fittedq"
    for file in sorted(source.rglob("*.py")):
        room = file.relative_to(source).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fittedq"):
                of = [f"fittedq.{name.name}" for name in node.names] if node.module == "fittedq" else [node.module]
                found.setdefault(room, set()).update(room_of(str(module)) for module in of)
    return {room: targets - {room} for room, targets in found.items() if room in rooms()}


def purpose(room: str) -> str:
    """The first sentence of the room's docstring."""
    base = ROOT / "src" / "fittedq" / room
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    told = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]
    return told.split(": ")[0].rstrip(".")


def picture() -> str:
    """A line for each room: its name, what it is, and under it the rooms it stands on, in their order."""
    order, standing = rooms(), imports()
    lines = []
    for room in order:
        below = [other for other in order if other in standing[room]]
        lines.append(f"{room:<12}{purpose(room)}")
        if below:
            lines.append(f"{'':<8}└─▶ {', '.join(below)}")
    return "\n".join(lines) + "\n"


def drawn(page: str) -> str:
    """The page with the picture as it is now."""
    return between(page, BEGIN, picture(), END)


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
