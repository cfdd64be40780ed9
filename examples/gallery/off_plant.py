"""A controller that learned on many plants loses less where its own is off.

python examples/gallery/off_plant.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fittedq
from fittedq.baselines import PID, Tracked
from fittedq.envs.process import TwoTanks

SEEDS, STEPS, EPISODES, FACTORS = (0, 1), 40_000, 20, (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
LEARNED = {"on one plant": {}, "on many plants": {"randomize": 0.3, "vary": ("pump",)}}
PI = PID(2.0, 0.09, tracked=Tracked(1, setpoint=2), low=0.0, high=12.0, dt=2.0, bias=6.0)


def learned() -> dict[str, Any]:
    env, controllers = TwoTanks(), {"PI": [PI]}
    for name, more in LEARNED.items():
        same = {"preset": "plant", "error": ("1:2",), "steps": STEPS}
        controllers[name] = [fittedq.train("auto", env, seed=seed, **same, **more) for seed in SEEDS]
    plants = [TwoTanks(pump=factor * env.pump) for factor in FACTORS]
    earned = {
        name: [[float(one.evaluate(plant, episodes=EPISODES, seed=1).mean()) for plant in plants] for one in several]
        for name, several in controllers.items()
    }
    at = {"pump as it was": 1.0, "pump at 80 %": 0.8, "pump at 120 %": 1.2}
    return {
        "told": [
            f"{name:15} {where}: " + ", ".join(f"{run[FACTORS.index(factor)]:.1f}" for run in runs)
            for where, factor in at.items()
            for name, runs in earned.items()
        ],
        "earned": np.round([earned[name] for name in LEARNED], 2).tolist(),
        "pi": np.round(earned["PI"][0], 2).tolist(),
    }


def drawn(figure: Any, data: dict[str, Any]) -> None:
    axes = figure.subplots()
    percent = 100 * np.array(FACTORS)
    axes.plot(percent, data["pi"], "o-", color="0.6", markersize=3, label="a PI")
    for name, runs, color in zip(LEARNED, np.array(data["earned"]), ("C1", "C0"), strict=True):
        axes.fill_between(percent, runs.min(0), runs.max(0), color=color, alpha=0.25, linewidth=0)
        axes.plot(percent, runs.mean(0), "o-", color=color, markersize=3, label=f"learned {name}")
    axes.axvline(100, color="0.8", linewidth=0.8, zorder=0)
    axes.set(xlabel="what the pump gives, % of what it gave", ylabel="return of an episode, of 100")
    axes.legend(loc="lower center")


if __name__ == "__main__":
    from showing import show

    show(__file__, learned, drawn)
