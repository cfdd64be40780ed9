"""Write the table of methods: the greedy step, the regressions and the frozen copies of each, as its template has them.

python docs/methods.py        writes the table into docs/reference/methods.md, between its two marks
"""

from __future__ import annotations

from pathlib import Path

from marks import between

from fittedq.algorithms import REGISTRY

PAGE = Path(__file__).parent / "reference" / "methods.md"
BEGIN, END = "<!-- methods: written by docs/methods.py -->\n", "<!-- end of methods -->"


def table() -> str:
    lines = ["| name | greedy step | regressions, in order | frozen copies |", "|---|---|---|---|"]
    for name, cls in REGISTRY.items():
        slots = cls().describe()
        cells = ("<br>".join(f"`{line}`" for line in slots[slot].split("; ")) for slot in ("greedy", "updates", "sync"))
        lines.append(f"| [`{name}`](../algorithms/{name}.md) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """The page with the table between its marks."""
    return between(page, BEGIN, table(), END)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
