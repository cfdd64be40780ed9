"""Limits on the action: respected in the argmax, or imposed afterwards.

    .venv/bin/python benchmarks/constrained.py --part hopper --way argmax --seed 0
    .venv/bin/python benchmarks/constrained.py --part valve

`hopper`: TD3 on Hopper-v5 with Σ|a_i| ≤ 1.2. `argmax` trains with the limit (the policy, its targets and its noise are
projected); `afterwards` trains in the box and projects what the finished policy says; `inside` trains an unaware agent
whose environment projects. All are judged where the limit holds.

`valve`: a level with a pump a_0 ∈ [−.4, .4] and a valve a_1 ∈ {−1, 0, 1}; explicit FQI from 4 000 rows with whole
numbers in the argmax, or in the box and rounded afterwards, beside value iteration on a dense grid.

Runs resume where they were interrupted; finished ones are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import fittedq
from fittedq import Dataset, Limits, Mixed
from fittedq.actions.base import AbstractActionSet, Box
from fittedq.problems.grid import value_iteration
from machine import describe

LIMIT, STEPS = "|a| <= 1.2", 50_000
GAMMA = 0.9
PLANT_BOX = Box([-0.4, -1.0], [0.4, 1.0])


class Projected(gymnasium.ActionWrapper):
    """Executes Π_A(a) whatever it is told."""

    def __init__(self, env: gymnasium.Env, action_set: AbstractActionSet):
        super().__init__(env)
        self.action_set = action_set

    def action(self, action: np.ndarray) -> np.ndarray:
        row = np.asarray(action, np.float32)[None]
        return np.asarray(self.action_set.project(row, row))[0]


def hopper(way: str, seed: int, work: Path) -> dict[str, Any]:
    """The returns of 20 episodes of one TD3 agent under the limit."""
    action_set = Limits((LIMIT,)).within(Box([-1.0] * 3, [1.0] * 3))

    def limited() -> gymnasium.Env:
        return Projected(gymnasium.make("Hopper-v5"), action_set)

    begin, folder = time.perf_counter(), work / f"constrained-{way}-{seed}"
    env = limited if way == "inside" else (lambda: gymnasium.make("Hopper-v5"))
    limit = {"action_set": action_set} if way == "argmax" else {}
    if folder.exists():
        agent = fittedq.resume(folder, env=env)
    else:
        agent = fittedq.train("td3", env, steps=STEPS, seed=seed, out=folder, random_steps=5_000, **limit)
    seconds = time.perf_counter() - begin
    # The environment that projects changes nothing for an agent that respects the limit.
    returns = agent.evaluate(env if way == "argmax" else limited, 20, seed=seed)
    return {
        "part": "hopper",
        "way": way,
        "seed": seed,
        "limit": LIMIT,
        "steps": STEPS,
        "train_seconds": round(seconds, 1),
        "mean_return": float(np.mean(returns)),
        "returns": [float(value) for value in returns],
        "without_limit": float(np.mean(agent.evaluate("Hopper-v5", 20, seed=seed))) if way != "argmax" else None,
    }


def plant(obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s' = .95 s + a_0 + .8 a_1, r = −(s² + .05 a_0² + .3 |a_1|)."""
    next_obs = 0.95 * obs + action[:, :1] + 0.8 * action[:, 1:]
    return -(obs[:, 0] ** 2 + 0.05 * action[:, 0] ** 2 + 0.3 * np.abs(action[:, 1])), np.clip(next_obs, -3, 3)


def valve(seeds: int) -> dict[str, Any]:
    """Σ γᵗ r over 80 steps from 61 states, with whole numbers in the argmax and rounded afterwards."""
    mixed = Mixed(PLANT_BOX, [1])
    pump = np.linspace(-0.4, 0.4, 81)
    lattice = np.array([(a, b) for a in pump for b in (-1.0, 0.0, 1.0)])
    truth = value_iteration(plant, (np.linspace(-3, 3, 1201),), lattice, GAMMA)
    start = np.linspace(-2.5, 2.5, 61)[:, None]
    best = truth(start)
    results = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        obs = rng.uniform(-3, 3, (4_000, 1))
        action = np.column_stack([rng.uniform(-0.4, 0.4, 4_000), rng.integers(-1, 2, 4_000)])
        reward, next_obs = plant(obs, action)
        data = Dataset.from_arrays(
            obs=obs,
            action=action,
            reward=reward,
            next_obs=next_obs,
            terminated=np.zeros(4_000, bool),
            action_low=PLANT_BOX.low,
            action_high=PLANT_BOX.high,
        )
        for way in ("argmax", "afterwards"):
            begin = time.perf_counter()
            agent = fittedq.fit(
                "explicit_fqi",
                data,
                seed=seed,
                steps=40,
                gamma=GAMMA,
                activation="silu",
                hidden=(64, 64),
                action_set=mixed if way == "argmax" else None,
            )
            seconds = time.perf_counter() - begin
            total, state = np.zeros(len(start)), start.astype(np.float32)
            for t in range(80):
                act = np.asarray(mixed.project(agent.act(state), state))
                reward, following = plant(state, act)
                total += GAMMA**t * reward
                state = following.astype(np.float32)
            results.append(
                {
                    "way": way,
                    "seed": seed,
                    "train_seconds": round(seconds, 1),
                    "mean_loss": float(np.mean(best - total)),
                    "worst_loss": float(np.max(best - total)),
                    "share_of_best": float(np.mean(best - total) / -np.mean(best)),
                }
            )
            print(results[-1], flush=True)
    return {"part": "valve", "mean_of_best": float(np.mean(best)), "results": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["hopper", "valve"], required=True)
    parser.add_argument("--way", choices=["argmax", "afterwards", "inside"], default="argmax")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/constrained"))
    args = parser.parse_args()
    name = "valve" if args.part == "valve" else f"hopper-{args.way}-{args.seed}"
    out = args.results / f"{name}.json"
    if out.exists():
        print(f"{out} is there already: kept")
        return
    args.results.mkdir(parents=True, exist_ok=True)
    result = valve(args.seeds) if args.part == "valve" else hopper(args.way, args.seed, args.work)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(result | describe("fittedq", "jax", "numpy", "gymnasium", "mujoco"), indent=1))
    os.replace(temporary, out)
    print({name: value for name, value in result.items() if name not in ("returns", "results")})


if __name__ == "__main__":
    main()
