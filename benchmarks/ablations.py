"""The three ideas beside plain `xqc`: returns of each seed at the end and at the best look, seconds (Markdown).

.venv/bin/python benchmarks/ablations.py
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

RUNS = Path(__file__).parent / "results" / "ablations"
IDEAS = {
    "batch": "batch norm, as it is",
    "ascended": "target actions improved by 2 solver steps",
    "gap": "policy updated where its gap is wide",
    "ensemble5": "5 plain critics for batch norm",
    "ensemble10": "10 plain critics for batch norm",
}


def table(folder: Path = RUNS) -> str:
    groups: dict[tuple[str, str], list[dict[str, object]]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        groups[path.stem.split("-")[0], str(run["config"]["env"])].append(run)
    lines = ["| idea | task | last look, each seed | mean of all looks, each seed | seconds |", "|---|---|---|---|---|"]
    for (idea, env), runs in sorted(groups.items(), key=lambda item: (item[0][1], list(IDEAS).index(item[0][0]))):
        means = [[point["eval_mean"] for point in run["curve"]] for run in runs]  # type: ignore[attr-defined]
        seconds = [run["curve"][-1]["seconds"] for run in runs]  # type: ignore[index]
        last = ", ".join(f"{each[-1]:,.0f}" for each in means)
        along = ", ".join(f"{np.mean(each):,.0f}" for each in means)
        lines.append(f"| {IDEAS[idea]} | {env} | {last} | {along} | {np.median(seconds):,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
