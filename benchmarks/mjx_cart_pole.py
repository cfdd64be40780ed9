"""A pole swung up in MJX by SVG through the known physics and by SAC, by the clock.

Both train in one compiled loop on one core; compiling counts, evaluation does not. Finished runs are kept.

    python benchmarks/mjx_cart_pole.py --out benchmarks/results/mjx_cart_pole.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from fittedq.agent import Agent
from fittedq.algorithms import find
from fittedq.envs.native import find_jax_env, physics
from fittedq.settings import split_settings
from fittedq.trainers.compiled import CompiledTrainer
from fittedq.trainers.settings import TrainSettings
from machine import describe

ENV = "jax/MjxCartPole-v1"
DIRECT = {"policy": "deterministic", "hidden": (64, 64), "batch_size": 32, "policy_learning_rate": 1e-3}
ENTRIES: dict[str, tuple[str, dict[str, Any], int]] = {
    "svg(inf)": ("svg", DIRECT | {"horizon": "inf", "episode_length": 30, "dynamics": "env"}, 5_000),
    "sac": ("sac", {}, 40_000),
}


def learn(name: str, seed: int, goal: float, look: int) -> dict[str, Any]:
    """Train until 20 episodes average above `goal`, looking every `look` steps."""
    algorithm_name, chosen, limit = ENTRIES[name]
    cls, env = find(algorithm_name), find_jax_env(ENV)
    own, loop = split_settings({"random_steps": 500} | chosen, cls, TrainSettings)
    if own.get("dynamics") == "env":
        own["model"] = physics(env)
    start = time.perf_counter()
    algorithm = cls(**own)
    trainer = CompiledTrainer(algorithm, env, TrainSettings(**loop), seed)
    seconds, curve = time.perf_counter() - start, []
    while trainer.step < limit:
        start = time.perf_counter()
        trainer.advance(look)
        seconds += time.perf_counter() - start
        agent = Agent(algorithm, trainer.obs_size, trainer.action_set, trainer.nets())
        mean = float(np.mean(agent.evaluate(ENV, 20, seed=seed)))
        curve.append({"step": trainer.step, "seconds": round(seconds, 2), "mean": mean})
        print(name, seed, curve[-1], flush=True)
        if mean >= goal:
            break
    return {"name": name, "seed": seed, "solved": curve[-1]["mean"] >= goal, "curve": curve, "settings": chosen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--goal", type=float, default=130.0)
    parser.add_argument("--look", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(ENTRIES))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    runs = json.loads(args.out.read_text())["runs"] if args.out.exists() else []
    for seed in range(args.seeds):
        for name in args.only:
            if any((run["name"], run["seed"]) == (name, seed) for run in runs):
                continue
            runs.append(learn(name, seed, args.goal, args.look))
            about = describe("fittedq", "jax", "mujoco", "mujoco-mjx")
            temporary = args.out.with_suffix(".tmp")
            temporary.write_text(json.dumps({"env": ENV, "goal": args.goal, "runs": runs, **about}, indent=1))
            os.replace(temporary, args.out)


if __name__ == "__main__":
    main()
