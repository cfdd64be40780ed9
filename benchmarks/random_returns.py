"""Returns of uniform actions: where the scale of normalized returns begins.

.venv/bin/python benchmarks/random_returns.py --episodes 100
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium
import numpy as np

from fittedq.files import write_json
from machine import describe

TASKS = ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid")


def returns(env_id: str, episodes: int) -> list[float]:
    """The return of each episode under actions that are uniform in the box."""
    env, found = gymnasium.make(env_id), []
    env.action_space.seed(0)
    for episode in range(episodes):
        env.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, over = total + float(reward), terminated or truncated
        found.append(total)
    env.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--versions", nargs="+", default=["v4", "v5"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/random_returns.json"))
    args = parser.parse_args()
    tasks = {}
    for name in (f"{task}-{version}" for version in args.versions for task in TASKS):
        found = returns(name, args.episodes)
        tasks[name] = {
            "mean": round(float(np.mean(found)), 2),
            "standard_error": round(float(np.std(found, ddof=1) / len(found) ** 0.5), 2),
            "episodes": len(found),
        }
        print(name, tasks[name], flush=True)
    write_json(args.out, {**describe("gymnasium", "mujoco", "numpy"), "tasks": tasks})


if __name__ == "__main__":
    main()
