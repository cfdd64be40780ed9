"""The controller runs as C on the plant; when a sensor dies a fallback acts, until it is back.

python examples/gallery/dead_sensor.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tanks import SET_POINTS

import fittedq
from fittedq.envs.process import TwoTanks
from fittedq.export.languages import at_work

STEPS, CHECKED, DEAD = 40_000, 10_000, [(20, 28), (55, 75), (110, 114)]


def played(loop: Any, env: TwoTanks) -> list[list[float]]:
    """Lower level, pump and status of each sample; the upper level's sensor gives nothing in the spans of DEAD."""
    step, state, rows = jax.jit(env.transition), jnp.array([5.0, 5.0, 0.0]), []
    for sample, set_point in enumerate(SET_POINTS):
        state = state.at[2].set(set_point)
        seen = np.array(state)
        if any(begin <= sample < end for begin, end in DEAD):
            seen[0] = np.nan
        action, status = loop.step(seen)
        rows.append([float(state[1]), float(action[0]), int(status)])
        state = step(state, jnp.asarray(action), jax.random.key(0))[0]
    return np.round(rows, 3).tolist()


def learned() -> dict[str, Any]:
    env = TwoTanks()
    agent = fittedq.train("auto", env, preset="plant", error=("1:2",), steps=STEPS, seed=0)
    agent.fallback = np.array([8.0], np.float32)
    with tempfile.TemporaryDirectory() as folder:
        said = agent.export(Path(folder) / "c", to="c", samples=CHECKED)
        size = (Path(folder) / "c" / "controller.c").stat().st_size
        with at_work(Path(folder) / "c") as (running, _):
            rows = played(running, env)
    held = sum(status == fittedq.ActingStatus.NOT_FINITE for *_, status in rows)
    off = max(abs(level - wanted) for (level, *_), wanted in list(zip(rows, SET_POINTS, strict=True))[-5:])
    return {
        "told": [
            f"C beside the agent at {CHECKED:,} samples: {said['verified']['max_error']:.1e} half-widths at most",
            f"controller.c: {size / 1000:.0f} kB of text",
            f"the fallback acted in {held} of {len(rows)} samples; in the end the level is {off:.2f} cm off",
        ],
        "run": rows,
    }


def drawn(figure: Any, data: dict[str, Any]) -> None:
    level, pump, _ = np.array(data["run"]).T
    time = 2.0 * np.arange(len(SET_POINTS))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for axes in (above, below):
        for place, (begin, end) in enumerate(DEAD):
            label = None if place else "upper level's sensor dead"
            axes.axvspan(2.0 * begin, 2.0 * end, color="C1", alpha=0.18, linewidth=0, label=label)
    above.step(time, SET_POINTS, where="post", color="0.4", linestyle="--", linewidth=1, label="set-point")
    above.plot(time, level, color="C0", label="lower level, cm")
    above.legend(ncols=3, loc="upper left", bbox_to_anchor=(0, 1.2))
    below.step(time, pump, where="post", color="C0")
    below.set(xlabel="time, s", ylabel="pump, V")


if __name__ == "__main__":
    from showing import show

    show(__file__, learned, drawn)
