"""A pump that may not jump: the limit on its rate belongs to the controller, which learned with it.

python examples/gallery/slow_valve.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tanks import played

import fittedq
from fittedq.envs.process import TwoTanks

STEPS, LIMITS = 40_000, {"free": {}, "1 V a sample": {"rate_limit": (1.0,)}, ".3 V a sample": {"rate_limit": (0.3,)}}


def learned() -> dict[str, Any]:
    env, told, runs = TwoTanks(), [], {}
    for name, limit in LIMITS.items():
        same = {"preset": "plant", "error": ("1:2",), "steps": STEPS, "seed": 0}
        agent = fittedq.train("auto", env, **same, **limit)
        earned = agent.evaluate(env, episodes=20, seed=1).mean()
        runs[name] = played(agent.controller().loop(), env)
        moved = np.abs(np.diff(np.array(runs[name])[:, 1]))
        told.append(
            f"{name:13} mean return {earned:.1f}; moves by {moved.max():.2f} V at most, {moved.sum():.0f} V in all"
        )
    return {"told": told, "runs": runs}


def drawn(figure: Any, data: dict[str, Any]) -> None:
    from tanks import SET_POINTS

    time = 2.0 * np.arange(len(SET_POINTS))
    above, below = figure.subplots(2, 1, sharex=True)
    above.step(time, SET_POINTS, where="post", color="0.4", linestyle="--", linewidth=1, label="set-point")
    for name, color in zip(data["runs"], ("0.65", "C0", "C1"), strict=True):
        level, pump = np.array(data["runs"][name]).T
        above.plot(time, level, color=color, label=name)
        below.step(time, pump, where="post", color=color)
    above.set(ylabel="lower level, cm")
    above.legend(ncols=4, loc="upper left", bbox_to_anchor=(0, 1.25))
    below.set(xlabel="time, s", ylabel="pump, V")


if __name__ == "__main__":
    from showing import show

    show(__file__, learned, drawn)
