"""Normalized returns of `auto` beside the published ones: a table (Markdown) and the Pareto picture.

    .venv/bin/python benchmarks/normalized_table.py

Normalized: (return − random) / (TD3 − random), random's from `random_returns.json`. The cost of a step is the time of
an update in SAC's (`method_speed.json`), times the updates of a step. The picture carries a fingerprint of its points,
by which a test finds one that is stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fittedq.algorithms.presets import presets

RESULTS = Path(__file__).parent / "results"
RUNS, PICTURE = RESULTS / "auto", RESULTS / "auto.png"
TD3 = {"HalfCheetah": 10574.0, "Hopper": 3226.0, "Walker2d": 3946.0, "Ant": 3942.0, "Humanoid": 5165.0}
"""TD3 after a million steps, by which returns are normalized in the papers."""
LOOKS = (100_000, 200_000)
FINGERPRINT = "Fingerprint"


class Published(NamedTuple):
    """A method's returns at the two looks, task by task as in TD3, and its cost in SAC's steps."""

    name: str
    cost: float
    returns: tuple[tuple[float, float], ...]


PUBLISHED = (
    Published("SAC", 1, ((6156, 7679), (1103, 2342), (690, 1946), (747, 2296), (632, 994))),
    Published("CrossQ, 2048 wide", 49, ((8112, 9363), (2764, 2577), (3914, 5174), (2299, 4853), (2603, 6348))),
    Published("SimbaV2, 2 updates a step", 95, ((7328, 8913), (2821, 3144), (3023, 3298), (3881, 5732), (1329, 5980))),
    Published("DR.Q", 45, ((9439, 10729), (2258, 1977), (4151, 4707), (3817, 5850), (1102, 7244))),
    Published(
        "XQC, 512 wide, 2 updates a step", 26, ((8597, 9891), (2828, 3527), (3612, 4832), (3018, 5349), (3265, 6626))
    ),
)
"""Means over ten seeds on MuJoCo v4, from the result files that SimbaV2, XQC and DR.Q publish."""


class Cell(NamedTuple):
    """Returns of one task at one look, a number a seed."""

    returns: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))


Cells = dict[tuple[str, int], Cell]
"""By environment and steps."""


def cells(folder: Path = RUNS) -> Cells:
    """What the runs of one folder returned at the looks. Runs of other settings than the first's are refused."""
    found: dict[tuple[str, int], list[float]] = {}
    settings: dict[str, object] = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        config = run["config"]
        own = {name: value for name, value in config["settings"].items() if not name.endswith("learning_rate")}
        settings = settings or own
        # A later version may have further settings, with their defaults.
        differ = sorted(name for name in own.keys() & settings.keys() if own[name] != settings[name])
        if differ:
            raise SystemExit(f"{path}: {', '.join(differ)} differ from the first run's there; run it again, or move it")
        for point in run["curve"]:
            if point["step"] in LOOKS:
                found.setdefault((config["env"], point["step"]), []).append(point["eval_mean"])
    return {key: Cell(tuple(values)) for key, values in found.items()}


def random_returns() -> dict[str, float]:
    tasks = json.loads((RESULTS / "random_returns.json").read_text())["tasks"]
    return {name: task["mean"] for name, task in tasks.items()}


def normalized(task: str, value: float, version: str = "v4") -> float:
    """(return − random) / (TD3 − random)."""
    random = random_returns()[f"{task}-{version}"]
    return (value - random) / (TD3[task] - random)


def mean_normalized(means: dict[str, float]) -> float | None:
    """The mean over the five tasks; None where one is missing."""
    if means.keys() != TD3.keys():
        return None
    return float(np.mean([normalized(task, value) for task, value in means.items()]))


def of_auto(found: Cells, look: int) -> dict[str, float]:
    """The mean return of each task that has one."""
    return {task: found[f"{task}-v4", look].mean for task in TD3 if (f"{task}-v4", look) in found}


def of_published(method: Published, look: int) -> dict[str, float]:
    return {task: pair[LOOKS.index(look)] for task, pair in zip(TD3, method.returns, strict=True)}


def row(name: str, cells: Iterable[str], mean: float | None, cost: str) -> str:
    return f"| {name} | {' | '.join(cells)} | {'–' if mean is None else f'{mean:.2f}'} | {cost} |"


def table(found: Cells, cost: float) -> str:
    """Every method's returns; of ours each seed, and the mean over the tasks only where there are all five."""
    lines = []
    for look in LOOKS:
        lines += [f"| {look:,} steps | {' | '.join(TD3)} | normalized | cost |", "|---" * (len(TD3) + 3) + "|"]
        for method in PUBLISHED:
            means = of_published(method, look)
            texts = (f"{value:,.0f}" for value in means.values())
            lines.append(row(method.name, texts, mean_normalized(means), f"{method.cost:g}"))
        keys = [(f"{task}-v4", look) for task in TD3]
        texts = (", ".join(f"{each:,.0f}" for each in found[key].returns) if key in found else "–" for key in keys)
        lines.append(row("auto, each seed", texts, mean_normalized(of_auto(found, look)), f"{cost:.1f}"))
        lines.append("")
    other = {key: cell for key, cell in found.items() if not key[0].endswith("-v4")}
    for (env, look), cell in sorted(other.items()):
        lines.append(f"{env}, {look:,} steps: {', '.join(f'{each:,.0f}' for each in cell.returns)}")
    return "\n".join(lines)


def cost_of_auto() -> float:
    """An update's time in SAC's, times the updates of a step."""
    speed = json.loads((RESULTS / "method_speed.json").read_text())["results"]
    time = next(float(each["time_by_sac"]) for each in speed if each["method"] == "xqc, critics of 4 × 256")
    return time * float(presets()["auto"].settings["updates_per_step"])


def points(found: Cells, cost: float) -> list[tuple[str, float, float]]:
    """(method, cost, mean normalized return at the first look): what is drawn."""
    drawn = [(one.name, float(one.cost), mean_normalized(of_published(one, LOOKS[0]))) for one in PUBLISHED]
    drawn.append(("auto", cost, mean_normalized(of_auto(found, LOOKS[0]))))
    return [(name, cost, round(mean, 4)) for name, cost, mean in drawn if mean is not None]


def fingerprint(drawn: list[tuple[str, float, float]]) -> str:
    return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()


def draw(drawn: list[tuple[str, float, float]], path: Path = PICTURE) -> None:
    """Return over cost; the front is what no other method beats in both."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    best = sorted((cost, mean) for _, cost, mean in drawn if all(c > cost or m <= mean for _, c, m in drawn))
    front = [point for index, point in enumerate(best) if all(point[1] > other[1] for other in best[:index])]
    axes.step(*zip(*front, strict=True), where="post", color="0.7", zorder=0)
    for name, cost, mean in drawn:
        axes.scatter([cost], [mean], color="C3" if name == "auto" else "C0")
        axes.annotate(name, (cost, mean), textcoords="offset points", xytext=(5, 4), fontsize=8)
    axes.set(xscale="log", xlabel="cost of a step, in SAC's", ylabel=f"normalized mean return, {LOOKS[0]:,} steps")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100, metadata={FINGERPRINT: fingerprint(drawn)})
    pyplot.close(figure)


def main() -> None:
    found, cost = cells(), cost_of_auto()
    print(table(found, cost))
    draw(points(found, cost))


if __name__ == "__main__":
    main()
