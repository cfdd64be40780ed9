"""The curve of returns on each method's page, and the sentence under it, from benchmarks/results/every_method.json.

python docs/figures/curves.py             draw docs/algorithms/NAME.png; each names the fingerprint of its data
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))

from marks import fingerprint  # noqa: E402

DATA = ROOT / "benchmarks" / "results" / "every_method.json"
PAGES = ROOT / "docs" / "algorithms"
BEGIN, END = "<!-- curve: written by docs/algorithm_pages.py -->\n", "<!-- end of curve -->"
WORST, BEST = -1_700.0, 0.0
"""The axis of returns: Pendulum's episodes of 200 samples end in between."""


def runs_of(name: str) -> list[dict[str, Any]]:
    """What was measured of a method, seed by seed."""
    kept = json.loads(DATA.read_text())["runs"]
    return sorted((run for run in kept.values() if run["method"] == name), key=lambda run: run["seed"])


def of_data(name: str) -> str:
    """The fingerprint of what a picture shows."""
    return fingerprint(json.dumps(runs_of(name), sort_keys=True))


def last(run: dict[str, Any]) -> float:
    return float(np.mean(run["curve"][-1]["returns"]))


def said(name: str) -> str:
    """The picture, and every seed's last return in words; nothing where nothing was measured."""
    runs = runs_of(name)
    if not runs:
        return ""
    steps = runs[0]["curve"][-1]["step"]
    count = f"{steps:,} steps"
    if "log" in runs[0]:
        count = f"{steps:,} {'iterations' if steps < 1_000 else 'updates'} on 20,000 logged rows"
        count += f" (dotted: what the log earned, {_numbers([run['log']['mean'] for run in runs])})"
    return (
        f"![Returns on Pendulum-v1 while {name} learns]({name}.png)\n\n"
        f"Pendulum-v1, networks of 64 units, {count}, the last agent{seeds(runs)}: {_numbers(map(last, runs))}\n"
        "([every method in the same way](../../benchmarks/results/every_method.json)).\n"
    )


def seeds(runs: list[dict[str, Any]]) -> str:
    """How many there are, after "agent"."""
    return " of one seed" if len(runs) == 1 else f"s of {len(runs)} seeds"


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:,.0f}".replace("-", "−") for value in values)


def draw(name: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    runs = runs_of(name)
    figure, axes = plt.subplots(figsize=(5, 2.6), layout="constrained")
    steps = [look["step"] for look in runs[0]["curve"]]
    means = np.array([[np.mean(look["returns"]) for look in run["curve"]] for run in runs])
    for run, line in zip(runs, means, strict=True):
        axes.plot(steps, line, color="tab:blue", alpha=0.45, linewidth=1, label=f"seed {run['seed']}")
        if "log" in run:
            axes.axhline(run["log"]["mean"], color="tab:gray", linewidth=0.8, linestyle=":", label=None)
    axes.plot(steps, means.mean(axis=0), color="tab:blue", linewidth=2, label="mean")
    axes.set(xlabel="step", ylabel="return of ten episodes", ylim=(WORST, BEST), title=name)
    axes.grid(alpha=0.25)
    figure.savefig(PAGES / f"{name}.png", dpi=100, metadata={"Fingerprint": of_data(name)})
    plt.close(figure)


if __name__ == "__main__":
    for method in sorted({run["method"] for run in json.loads(DATA.read_text())["runs"].values()}):
        draw(method)
