"""The course's diffs of slots and its pictures, both from the Python that stands on its pages.

python docs/figures/course.py pages       write each page's difference of slots, and the table of what policies lose
python docs/figures/course.py train       run every page's blocks at full size and keep what was learned in course.json
python docs/figures/course.py draw        draw the pictures from course.json; each names the fingerprint of its data
"""

from __future__ import annotations

import ast
import difflib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / folder) for folder in ("docs", "examples", "tests")]

from marks import between, fingerprint  # noqa: E402

from pages import blocks  # noqa: E402

COURSE = ROOT / "docs" / "course"
DATA = Path(__file__).with_suffix(".json")
STEPS = ("fitted_q_iteration", "solve", "amortize", "nfqca", "ddpg", "td3", "sac", "svg")
BEGIN, END = "<!-- diff -->\n", "<!-- end of diff -->"
STATES = np.linspace(-1.5, 1.5, 61, dtype=np.float32)
ACTIONS = np.linspace(-1.0, 1.0, 41, dtype=np.float32)
SOURCE = ROOT / "examples" / "two_wells.py"


def page(step: str) -> Path:
    return COURSE / f"{step}.md"


def source(step: str) -> str:
    """The page's blocks up to the one that trains, as they stand there."""
    return "\n".join(block.text for block in blocks(page(step), "python")[:2])


def slots(step: str) -> list[str]:
    """The slots that the page's method fills, a line for each part."""
    names: dict[str, Any] = {}
    exec(blocks(page(step), "python")[0].text, names)
    told = names["method"].describe()
    parts = {"greedy": told["greedy"], "updates": told["updates"], "sync": told["sync"]}
    return [f"{slot}: {part}" for slot, text in parts.items() for part in text.split("; ")]


def written() -> dict[Path, str]:
    """Each page with its difference of slots between its marks, and the index with its table."""
    filled = {step: slots(step) for step in STEPS}
    pages = {COURSE / "index.md": between((COURSE / "index.md").read_text(), *table())}
    for before, step in itertools.pairwise(STEPS):
        lines = difflib.ndiff(filled[before], filled[step])
        diff = "".join(f"{line}\n" for line in lines if not line.startswith("?"))
        pages[page(step)] = between(page(step).read_text(), BEGIN, f"```diff\n{diff}```\n", END)
    return pages


def table() -> tuple[str, str, str]:
    """What each policy gives away, between the marks of the index."""
    data = json.loads(DATA.read_text())
    rows = "".join(f"| [{title(step)}]({step}.md) | {data[step]['lost']:.3f} |\n" for step in STEPS)
    return "<!-- lost -->\n", f"| step | lost, one seed |\n|---|---|\n{rows}", "<!-- end of lost -->"


def title(step: str) -> str:
    return page(step).read_text().splitlines()[0].removeprefix("# ")


def meaning(code: str) -> str:
    """The code without its comments and its layout."""
    return ast.unparse(ast.parse(code))


def learned(step: str) -> dict[str, Any]:
    """What the page's code learns: q on a grid of states and actions, the policy, and what it gives away."""
    from two_wells import lost

    names: dict[str, Any] = {}
    exec(source(step), names)
    agent = names["agent"]
    s, a = (side.ravel()[:, None] for side in np.meshgrid(STATES, ACTIONS, indexing="ij"))
    q = np.asarray(agent.value(s, a)).reshape(len(STATES), len(ACTIONS))
    return {
        "of": fingerprint(meaning(source(step)), meaning(SOURCE.read_text())),
        "lost": round(lost(agent), 4),
        "q": np.round(q, 3).tolist(),
        "policy": np.round(agent.act(STATES[:, None])[:, 0], 3).tolist(),
    }


def truth() -> dict[str, Any]:
    from two_wells import true_q

    return {"of": fingerprint(meaning(SOURCE.read_text())), "q": np.round(true_q(STATES[:, None], ACTIONS), 3).tolist()}


def of_data(step: str, data: dict[str, Any]) -> str:
    """The fingerprint of what a picture shows."""
    return fingerprint(json.dumps(data[step], sort_keys=True))


def draw(step: str, data: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    q = np.asarray(data[step]["q"])
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    image = axes.pcolormesh(STATES, ACTIONS, q.T, cmap="viridis", shading="nearest", vmin=-3.0, vmax=0.0)
    axes.plot(STATES, ACTIONS[q.argmax(axis=1)], "o", color="white", markersize=2.5, label="argmax of q")
    if "policy" in data[step]:
        axes.plot(STATES, data[step]["policy"], color="tab:red", label="policy")
    axes.set(xlabel="state s", ylabel="action a")
    axes.legend(loc="upper right", fontsize=7)
    figure.colorbar(image, label="q(s, a)")
    figure.savefig(COURSE / f"{step}.png", dpi=110, metadata={"Fingerprint": of_data(step, data)})
    plt.close(figure)


def main() -> None:
    match sys.argv[1:]:
        case ["pages"]:
            for file, text in written().items():
                file.write_text(text)
        case ["train", *steps]:
            data = json.loads(DATA.read_text()) if DATA.exists() else {}
            data["truth"] = truth()
            for step in steps or STEPS:
                data[step] = learned(step)
                print(step, data[step]["lost"], flush=True)
                DATA.write_text(json.dumps(data) + "\n")
        case ["draw"]:
            data = json.loads(DATA.read_text())
            for step in data:
                draw(step, data)
        case _:
            sys.exit(str(__doc__))


if __name__ == "__main__":
    main()
