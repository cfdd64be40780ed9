"""The proven gap of `xqc` agents: seconds a state, how the searches end, the width of the interval.

    .venv/bin/python benchmarks/certified_xqc.py [RUN_FOLDER]

Two agents with critics of 2 × 64 units and 101 bins, 8 000 steps each, trained into RUN_FOLDER
(`runs/certified_xqc`) where they are not there yet: one action (Pendulum) and two (Reacher). 20 states of random
actions each, to a hundredth of the range of q, ten seconds a state at most.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np

import fittedq
from machine import describe

RESULT = Path("benchmarks/results/certified_xqc.json")
RUNS = {"jax/Pendulum-v1": "Pendulum-v1", "Reacher-v5": "Reacher-v5"}
SETTINGS = {"hidden": (64, 64), "random_steps": 1_000, "eval_every": 0}
STATES, APART = 20, 20


def states(name: str) -> np.ndarray:
    """Every twentieth observation under random actions."""
    env = gym.make(name)
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    seen = []
    for _ in range(STATES * APART):
        obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            obs, _ = env.reset()
        seen.append(obs)
    return np.array(seen[APART - 1 :: APART], np.float32)


def main() -> None:
    folder, rows = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/certified_xqc"), {}
    for env, name in RUNS.items():
        if not (folder / name).exists():
            fittedq.train("xqc", env, steps=8_000, seed=0, out=folder / name, **SETTINGS)
        agent, obs = fittedq.load(folder / name), states(name)
        seconds, gaps = [], []
        for row in obs:
            begin = time.perf_counter()
            gaps.append(agent.gap(row[None], tol=1e-2, state_time_limit=10.0))
            seconds.append(time.perf_counter() - begin)
        gap = fittedq.Gap.joined(gaps)
        lower, upper = gap.relative
        rows[env] = {
            "actions": agent.action_set.size,
            "reward_scale": agent.reward_scale,
            "median_seconds": float(np.median(seconds)),
            "worst_seconds": max(seconds),
            "statuses": gap.statuses,
            "median_range_of_q": float(np.median(gap.scale)),
            "median_width": float(np.median(upper - lower)),
            "worst_width": float((upper - lower).max()),
            "median_gap": [float(np.median(lower)), float(np.median(upper))],
        }
        print(env, rows[env], flush=True)
    temporary = RESULT.with_suffix(".tmp")
    temporary.write_text(json.dumps({"rows": rows, **describe("fittedq", "numpy", "jax")}, indent=1))
    os.replace(temporary, RESULT)


if __name__ == "__main__":
    main()
