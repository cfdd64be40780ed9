"""What the critic thinks around one state's actions: from the policy's to the best, and over pairs of dimensions; and
what the checks of a log found."""

from __future__ import annotations

import importlib
import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float

from fittedq.data.checks.base import AbstractCheck
from fittedq.diagnose.gap import Gap
from fittedq.errors import UserError
from fittedq.files import check_marked, make_folder, write_marked

POINTS, CELLS, PAIRS = 201, 41, 6
MARK_OF_PICTURE = b"Software\x00fittedq"
"""By which a picture of ours is known."""
NUMBERS_SHOWN = 8
"""Numbers of a state that its picture shows."""

Values = Callable[[Float[np.ndarray, "b s"], Float[np.ndarray, "b m"]], Any]
Ends = Sequence[float] | Float[np.ndarray, "m"]


def draw_state(gap: Gap, row: int, q: Values, low: Ends, high: Ends, path: Path) -> None:
    """q along the line through π(s) and a*, its proven bound, and heat maps over pairs of action dimensions at a*."""
    pyplot = drawing()
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    state, start, best = gap.obs[row], gap.policy_action[row], gap.best_action[row]

    def values(actions: np.ndarray) -> np.ndarray:
        return np.asarray(q(np.repeat(state[None], len(actions), axis=0), actions.astype(np.float32)))

    pairs = list(itertools.combinations(range(len(low)), 2))[:PAIRS]
    columns = 1 + len(pairs)
    figure, axes = pyplot.subplots(1, columns, figsize=(3.6 * columns, 3.2), layout="constrained", squeeze=False)
    line = axes[0][0]
    if len(low) == 1 or np.allclose(start, best):
        t = np.linspace(0, 1, POINTS)
        along = np.repeat(best[None], POINTS, axis=0)
        along[:, 0] = low[0] + t * (high[0] - low[0])
        line.plot(along[:, 0], values(along), color="C0")
        line.axvline(start[0], color="0.5", linestyle=":", label="π(s)")
        line.axvline(best[0], color="C1", linestyle="--", label="a*")
        line.set(xlabel="action 0", ylabel="q(s, a)")
    else:
        t = np.linspace(-0.25, 1.25, POINTS)
        along = np.clip(start + t[:, None] * (best - start), low, high)
        line.plot(t, values(along), color="C0")
        line.axvline(0, color="0.5", linestyle=":", label="π(s)")
        line.axvline(1, color="C1", linestyle="--", label="a*")
        line.set(xlabel="from π(s) to a*", ylabel="q(s, a)")
    line.axhline(gap.upper_bound[row], color="C3", linewidth=1, label="proven bound")
    line.legend(frameon=False, fontsize=8)
    line.spines[["top", "right"]].set_visible(False)
    for axis, (i, j) in zip(axes[0][1:], pairs, strict=True):
        x, y = np.linspace(low[i], high[i], CELLS), np.linspace(low[j], high[j], CELLS)
        mesh = np.repeat(best[None], CELLS * CELLS, axis=0)
        mesh[:, i], mesh[:, j] = (part.ravel() for part in np.meshgrid(x, y))
        image = axis.pcolormesh(x, y, values(mesh).reshape(CELLS, CELLS), shading="nearest", cmap="viridis")
        figure.colorbar(image, ax=axis)
        axis.plot(start[i], start[j], "o", color="white", markeredgecolor="black", label="π(s)")
        axis.plot(best[i], best[j], "*", color="C1", markeredgecolor="black", markersize=12, label="a*")
        axis.set(xlabel=f"action {i}", ylabel=f"action {j}")
    where = ", ".join(f"{value:.4g}" for value in state[:NUMBERS_SHOWN]) + (", …" if len(state) > NUMBERS_SHOWN else "")
    told = f"gap {gap.lower[row]:.3g} to {gap.upper[row]:.3g}, range of q {gap.scale[row]:.3g}"
    figure.suptitle(f"state {row}, s = [{where}]: {told}", fontsize=9)
    save_picture(figure, path)
    pyplot.close(figure)


def draw_checks(checks: Sequence[AbstractCheck], folder: Path) -> None:
    """A picture of each check of a log, by its title."""
    pyplot = drawing()
    make_folder(folder)
    for check in checks:
        figure, axes = pyplot.subplots(figsize=(5, 3.6), layout="constrained")
        check.draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(f"{check.title}: {check.verdict}", fontsize=10)
        save_picture(figure, folder / f"{check.title.replace(' ', '-')}.png")
        pyplot.close(figure)


def drawing() -> ModuleType:
    """matplotlib.pyplot, drawing to files; a UserError where it is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise UserError("pictures need matplotlib; pip install 'fittedq[viz]'.") from None
    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def save_picture(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not there; a UserError where `path` is anything but an earlier one of ours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": "fittedq"})
    write_marked(path, buffer.getvalue(), MARK_OF_PICTURE, "picture")


def check_picture(path: Path) -> None:
    """A UserError where no picture could be saved under that name: for before it is known what to draw."""
    drawing()
    check_marked(path, MARK_OF_PICTURE, "picture")
