"""Runs that differ in their seed alone are a group; groups that were evaluated alike are comparable."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float

from fittedq.diagnose.aggregate import held_by_range, interval, performance_profile, probability_of_improvement
from fittedq.diagnose.paired import Interval
from fittedq.diagnose.pictures import drawing, save_picture
from fittedq.envs.registry import NamedEnv
from fittedq.errors import UserError, plural
from fittedq.files import digest_of
from fittedq.runs.folder import Record, RunFolder, what_binds
from fittedq.runs.listing import list_runs

LAST, BEST = "last", "best"
"""Which evaluation of a run counts: the last, or the one with the highest mean (of several chances, so too kind)."""


@final
@dataclass(frozen=True)
class RecordedRun:
    """The evaluations of one run."""

    path: Path
    config: dict[str, Any]
    lines: tuple[Record, ...]

    @staticmethod
    def of(path: Path) -> RecordedRun:
        """Those that its folder recorded; a UserError where there are none."""
        folder = RunFolder(path)
        config = folder.config()
        lines = tuple(record for record in folder.metrics() if record.get("eval_mean") is not None)
        if not lines:
            raise UserError(f"{path} recorded no evaluation; train with --eval-every, or compare without --recorded.")
        return RecordedRun(path, config, lines)

    @property
    def step(self) -> int:
        """The step of its last evaluation."""
        return self.lines[-1]["step"]

    def score(self, which: str) -> float:
        """The mean return of its last or its best evaluation."""
        return self.lines[-1]["eval_mean"] if which == LAST else max(line["eval_mean"] for line in self.lines)

    @property
    def protocol(self) -> dict[str, Any]:
        """What has to agree before scores are beside one another."""
        env = NamedEnv.of(self.config.get("eval_env") or self.config["env"], str(self.path))
        return {
            "environment": str(env),
            "evaluation episodes": self.config.get("eval_episodes"),
            "evaluations": len(self.lines),
            "steps": self.step,
        }


@final
@dataclass(frozen=True)
class Group:
    """Runs of one configuration, by seed."""

    name: str
    runs: tuple[RecordedRun, ...]

    def scores(self, which: str) -> Float[np.ndarray, "n"]:
        """A score of each seed."""
        return np.array([run.score(which) for run in self.runs])

    @property
    def steps(self) -> list[int]:
        """Where all its runs were evaluated."""
        common = set.intersection(*({line["step"] for line in run.lines} for run in self.runs))
        return sorted(common)

    def at(self, step: int, figure: str = "eval_mean") -> Float[np.ndarray, "n"]:
        """A figure of each run at a step of `steps`."""
        return np.array([next(line[figure] for line in run.lines if line["step"] == step) for run in self.runs])

    @property
    def middles(self) -> list[Interval]:
        """The interquartile mean at each of `steps`."""
        return [interval([self.at(step)]) for step in self.steps]

    @property
    def hours(self) -> list[float]:
        """Of training, up to each of `steps`: the mean over its runs."""
        return [float(self.at(step, "seconds").mean()) / 3600 for step in self.steps]


def groups(paths: Iterable[Path]) -> list[Group]:
    """The runs of `paths`, or below them, grouped; a UserError where their scores do not compare."""
    below = [Path(one.path) for path in paths for one in list_runs(path)]
    runs = [RecordedRun.of(path) for path in dict.fromkeys(below)]
    if not runs:
        raise UserError("compare: found no runs, expected folders that `fittedq train` made, or that hold such.")
    _check_alike(runs)
    found: dict[str, list[RecordedRun]] = {}
    for run in runs:
        found.setdefault(digest_of({**what_binds(run.config), "seed": None}), []).append(run)
    names = _names([members[0].config for members in found.values()])
    made = []
    for name, members in zip(names, found.values(), strict=True):
        seeds = [run.config["seed"] for run in members]
        if len(set(seeds)) < len(seeds):
            twice = next(run.path for run in members if seeds.count(run.config["seed"]) > 1)
            raise UserError(f"{twice}: its seed {max(seeds, key=seeds.count)} stands in another run too; give it once.")
        made.append(Group(name, tuple(sorted(members, key=lambda run: run.config["seed"]))))
    return made


def _check_alike(runs: Sequence[RecordedRun]) -> None:
    first, *others = runs
    for other in others:
        for what, value in first.protocol.items():
            if other.protocol[what] != value:
                raise UserError(
                    f"{other.path} has {what} {other.protocol[what]}, and {first.path} {value}; runs compare where "
                    "these agree."
                )


def _names(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The preset or algorithm, with the settings in which groups of the same one differ."""
    names = []
    for config in configs:
        method = config.get("preset") or config["algorithm"]
        alike = [one for one in configs if (one.get("preset") or one["algorithm"]) == method]
        differ = [
            name
            for name, value in config["settings"].items()
            if any(one["settings"].get(name) != value for one in alike)
        ]
        words = " ".join(f"{name}={_word(config['settings'][name])}" for name in differ)
        data = f" from {config['data']}" if len({one.get("data") for one in alike}) > 1 and config["data"] else ""
        names.append(f"{method}{data}{' ' + words if words else ''}")
    return names


def _word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


ENOUGH = 0.9
"""Where the range of a group's scores holds the median less often than this, its interval is cautioned of."""


@final
@dataclass(frozen=True)
class Standing:
    """A group's figures beside the first one's."""

    name: str
    seeds: tuple[int, ...]
    scores: Float[np.ndarray, "n"]
    middle: Interval
    better: Interval | None
    """The probability that a run of it is ahead of a run of the first group; None for that one."""

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name,
            "seeds": list(self.seeds),
            "scores": self.scores.tolist(),
            "interquartile_mean": self.middle._asdict(),
            "mean": float(self.scores.mean()),
            "worst": float(self.scores.min()),
            "probability_of_improvement": None if self.better is None else self.better._asdict(),
        }


@final
@dataclass(frozen=True)
class Standings:
    """Groups of runs beside one another, the highest interquartile mean first."""

    rows: tuple[Standing, ...]
    first: str
    """The group that the others are compared with."""
    protocol: dict[str, Any]

    @staticmethod
    def of(found: Sequence[Group], which: str = LAST) -> Standings:
        """The standings by the last or the best evaluation of each run."""
        first = found[0]
        rows = []
        for group in found:
            scores, seeds = group.scores(which), tuple(run.config["seed"] for run in group.runs)
            better = None if group is first else probability_of_improvement([scores], [first.scores(which)])
            rows.append(Standing(group.name, seeds, scores, interval([scores]), better))
        protocol = {**first.runs[0].protocol, "counted": f"{which} evaluation"}
        return Standings(tuple(sorted(rows, key=lambda row: -row.middle.mean)), first.name, protocol)

    @property
    def told(self) -> str:
        """The protocol in words."""
        protocol = self.protocol
        episodes = plural(protocol["evaluation episodes"], "episode", "episodes")
        counted = f"{protocol['counted']} of {protocol['evaluations']}, of {episodes} each"
        return f"{protocol['environment']} after {protocol['steps']:,} steps: {counted}"

    @property
    def caution(self) -> str | None:
        """What so few seeds cannot tell; None where there are enough."""
        fewest = min(self.rows, key=lambda row: len(row.seeds))
        held = held_by_range(len(fewest.seeds))
        if held >= ENOUGH:
            return None
        seeds = plural(len(fewest.seeds), "seed", "seeds")
        return (
            f"{fewest.name} has {seeds}: the range of so few holds the median of all such runs in {held:.0%} of cases, "
            "so the intervals of 95 % are too narrow to decide by; train 5 seeds or more."
        )

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        rows = [row.describe() for row in self.rows]
        about = {"protocol": self.protocol, "compared_with": self.first, "caution": self.caution}
        return about | {"groups": rows}

    def table(self) -> list[list[str]]:
        """A row of cells for each group, below a header."""
        head = ["runs", "seeds", "interquartile mean [95 %]", "mean", "worst", f"ahead of {self.first} [95 %]"]
        return [
            head,
            *(
                [
                    row.name,
                    str(len(row.seeds)),
                    str(row.middle),
                    f"{row.scores.mean():,.4g}",
                    f"{row.scores.min():,.4g}",
                    "" if row.better is None else "{:.0%} [{:.0%}, {:.0%}]".format(*row.better),
                ]
                for row in self.rows
            ),
        ]

    def as_csv(self) -> str:
        """A line for each run: group, seed, score."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["runs", "seed", "score"])
        for row in self.rows:
            writer.writerows([row.name, seed, score] for seed, score in zip(row.seeds, row.scores, strict=True))
        return text.getvalue()

    def as_latex(self) -> str:
        """The table as a `tabular`."""
        head, *rows = [[_escaped(cell) for cell in row] for row in self.table()]
        lines = [" & ".join(row) + r" \\" for row in (head, *rows)]
        protocol = ", ".join(f"{name} {value}" for name, value in self.protocol.items())
        return "\n".join(
            [
                "% Runs beside one another",
                f"% {protocol}",
                r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}",
                r"\hline",
                lines[0],
                r"\hline",
                *lines[1:],
                r"\hline",
                r"\end{tabular}",
                "",
            ]
        )


def _escaped(cell: str) -> str:
    for letter in "%_&#$":
        cell = cell.replace(letter, f"\\{letter}")
    return cell


def draw(found: Sequence[Group], which: str, path: Path) -> None:
    """A picture: interquartile means with intervals by steps and by hours, and the share of runs above each score."""
    pyplot = drawing()
    figure, (by_step, by_hour, profile) = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    at, shares = profiles(found, which)
    for number, group in enumerate(found):
        middle, color = np.array(group.middles), f"C{number % 10}"
        for axes, along in ((by_step, group.steps), (by_hour, group.hours)):
            axes.plot(along, middle[:, 0], color=color, label=group.name)
            axes.fill_between(along, middle[:, 1], middle[:, 2], color=color, alpha=0.15, linewidth=0)
        profile.plot(at, shares[number], color=color)
    by_step.set(xlabel="steps", ylabel="return, interquartile mean and 95 %")
    by_hour.set(xlabel="hours of training")
    profile.set(xlabel=f"score τ ({which} evaluation)", ylabel="share of runs above τ", ylim=(-0.02, 1.02))
    by_step.legend(frameon=False)
    for axes in (by_step, by_hour, profile):
        axes.spines[["top", "right"]].set_visible(False)
    save_picture(figure, path)
    pyplot.close(figure)


def profiles(found: Sequence[Group], which: str) -> tuple[Float[np.ndarray, "k"], list[Float[np.ndarray, "k"]]]:
    """(scores τ, of each group the share of its runs above each τ)."""
    scores = [group.scores(which) for group in found]
    at = np.linspace(*_ends(scores), 200)
    return at, [performance_profile([own], at) for own in scores]


def _ends(scores: Sequence[Float[np.ndarray, "_"]]) -> tuple[float, float]:
    """A little below the least score and above the greatest."""
    low, high = min(map(np.min, scores)), max(map(np.max, scores))
    margin = 0.05 * max(high - low, 1e-6)
    return float(low - margin), float(high + margin)
