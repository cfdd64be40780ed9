"""Episodes as a process-control report shows them: measured values with set-point and band, actions with their limits,
and the figures of each controller."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from fittedq.diagnose.control import BAND_SHARE, Tracked, constant_stretches, observed
from fittedq.diagnose.pictures import check_picture, drawing, save_picture
from fittedq.errors import UserError
from fittedq.files import check_parent, write_table
from fittedq.types import Transition

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 3
"""Episodes in a picture."""
ACTIONS_SHOWN = 4


@final
@dataclass(frozen=True)
class Trajectories:
    """Episodes of several controllers; those of the same place began alike."""

    episodes: Mapping[str, Sequence[Transition]]
    tracked: Sequence[Tracked]
    actions: Sequence[str]
    """What they are called."""
    limits: tuple[Sequence[float], Sequence[float]]
    """Of the actions, the lower and the upper ones."""
    figures: Mapping[str, Mapping[str, Any]]
    """Each controller's `control_figures`."""
    dt: float | None
    """Seconds between samples; None: unknown."""

    def write(self, path: Path) -> None:
        """A picture (.png) or a table of all samples (.csv), by the name of the file."""
        check_name(path)
        _draw(self, path) if path.suffix == ".png" else _write_table(self, path)


def check_name(path: Path) -> None:
    """A UserError where nothing can be written under that name."""
    if path.suffix not in (".png", ".csv"):
        raise UserError(f"found {path}, expected a name that ends in .png or .csv.", argument="trajectories")
    if path.suffix == ".png":
        check_picture(path)
    elif path.exists():
        raise UserError(f"{path} exists, and is not replaced; choose another name.")
    check_parent(path, "trajectories")


def _draw(shown: Trajectories, path: Path) -> None:
    pyplot = drawing()
    columns = min(SHOWN, *map(len, shown.episodes.values()))
    actions, table = shown.actions[:ACTIONS_SHOWN], figure_rows(shown.figures, shown.dt)
    rows = len(shown.tracked) + len(actions)
    heights = [2.2] * len(shown.tracked) + [1.6] * len(actions) + [0.3 + 0.22 * len(table)]
    figure = pyplot.figure(figsize=(max(4.6 * columns, 8.0), sum(heights)), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=heights)
    for column in range(columns):
        played = {name: several[column] for name, several in shown.episodes.items()}
        axes: list[Axes] = []
        for row in range(rows):
            axes.append(figure.add_subplot(grid[row, column], sharex=axes[0] if axes else None))
            axes[-1].spines[["top", "right"]].set_visible(False)
        for axis, one in zip(axes, shown.tracked, strict=False):
            _draw_measured(axis, played, one, shown.dt or 1.0)
            axis.set_ylabel(one.label)
        for place, (axis, action) in enumerate(zip(axes[len(shown.tracked) :], actions, strict=True)):
            _draw_action(axis, played, place, (shown.limits[0][place], shown.limits[1][place]), shown.dt or 1.0)
            axis.set_ylabel(action)
        axes[0].set_title(f"episode {column}", fontsize=9)
        axes[-1].set_xlabel("sample" if shown.dt is None else "time in s")
        for axis in axes[:-1]:
            axis.tick_params(labelbottom=False)
        if column == 0:
            axes[0].legend(frameon=False, fontsize=8)
    below = figure.add_subplot(grid[rows, :])
    below.axis("off")
    cells = below.table(cellText=table[1:], colLabels=table[0], loc="center", cellLoc="center", edges="horizontal")
    cells.auto_set_font_size(False)
    cells.set_fontsize(8)
    save_picture(figure, path)
    pyplot.close(figure)


def _draw_measured(axis: Axes, played: Mapping[str, Transition], tracked: Tracked, dt: float) -> None:
    """The measured values, the first controller's set-point, and the band around each stretch of it."""
    for place, (name, rows) in enumerate(played.items()):
        measured, setpoint = tracked.signals(observed(rows))
        time = dt * np.arange(len(measured))
        axis.plot(time, measured, color=f"C{place}", linewidth=1.2, label=name)
        if place == 0:
            axis.step(time, setpoint, where="post", color="0.3", linestyle="--", linewidth=1, label="set-point")
            for part in constant_stretches(setpoint):
                r = setpoint[part.start]
                width = tracked.band or BAND_SHARE * abs(r - measured[part.start])
                axis.fill_between(time[part], r - width, r + width, color="0.85", linewidth=0)


def _draw_action(
    axis: Axes, played: Mapping[str, Transition], action: int, limits: tuple[float, float], dt: float
) -> None:
    """The actions, held from sample to sample, between their limits."""
    for place, rows in enumerate(played.values()):
        values = np.asarray(rows.action)[:, action]
        axis.step(dt * np.arange(len(values)), values, where="post", color=f"C{place}", linewidth=1)
    for limit in limits:
        axis.axhline(limit, color="C3", linewidth=0.8, linestyle=":")


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "–"


def figure_rows(figures: Mapping[str, Mapping[str, Any]], dt: float | None) -> list[list[str]]:
    """A head, and a row for each controller and measured value: what stands under a picture."""
    unit = "samples" if dt is None else "s"
    head = ["controller", "measured", "settled", f"settling time, {unit}", "overshoot", "steady error"]
    rows = [[*head, "effort Σ|Δu|", "saturated"]]
    for name, found in figures.items():
        efforts = ", ".join(map(_number, found["effort"][:ACTIONS_SHOWN]))
        shares = ", ".join(f"{share:.0%}" for share in found["saturation"][:ACTIONS_SHOWN])
        for label, one in found["measured"].items():
            over = "–" if math.isnan(one["overshoot"]) else f"{one['overshoot']:.1%}"
            rows.append(
                [
                    name,
                    label,
                    f"{one['settled']} of {one['steps']}",
                    _number(one["settling_time"]),
                    over,
                    _number(one["steady_error"]),
                    efforts,
                    shares,
                ]
            )
    return rows


def _samples(shown: Trajectories) -> Iterator[list[Any]]:
    """controller, episode, sample, time, measured values and set-points, actions, reward."""
    for name, several in shown.episodes.items():
        for episode, rows in enumerate(several):
            signals = [one.signals(np.asarray(rows.obs)) for one in shown.tracked]
            for sample, action in enumerate(np.asarray(rows.action).tolist()):
                values = [float(part[sample]) for pair in signals for part in pair]
                time = sample * (shown.dt or 1.0)
                yield [name, episode, sample, time, *values, *action, float(rows.reward[sample])]


def _write_table(shown: Trajectories, path: Path) -> None:
    names = [part for one in shown.tracked for part in (one.label, f"set-point of {one.label}")]
    time, text = "samples" if shown.dt is None else "seconds", io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["controller", "episode", "sample", time, *names, *shown.actions, "reward"])
    writer.writerows(_samples(shown))
    write_table(path, text.getvalue())
