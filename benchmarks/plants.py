"""The plants of target-gym beside their own PID and MPC: what a learned controller earns, and what an action costs.

    make plants-env                                                                     # an environment of its own
    .venv-plants/bin/python benchmarks/plants.py --plant first_order --entry td3 --seed 0
    .venv-plants/bin/python benchmarks/plants.py --plant first_order cstr --entry pid mpc constant td3 svg
    .venv-plants/bin/python benchmarks/plants.py --table                                # what ran so far, as Markdown

Results are merged into `results/plants.json`, one by plant, entry and seed; what is there is not run again. Every
controller, ours too, is judged by the package's own `rollout` from its seeds 0, 1, …: the undiscounted return in the
scored configuration. The last agent is judged. Learning takes as many steps as are asked for, compiling included in its
seconds. The PID of the package tunes its gains when it is first asked for, on every plant in turn, and keeps them
beside the package: let that end (it is not counted), for plants that it did not come to have other gains.
`constant` holds the middle of the actions. An entry's settings are the same on every plant.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fittedq
from machine import describe

RESULT = Path("benchmarks/results/plants.json")
PACKAGES = ("jax", "numpy", "target-gym", "gymnax")
LOOP: dict[str, Any] = {"n_envs": 8, "updates_per_step": 0.5, "replay_size": 100_000, "random_steps": 1_000}
USUAL = LOOP | {"hidden": (64, 64), "gamma": 0.95, "normalize_obs": True}
WIDE = LOOP | {
    "hidden": (128, 128),
    "gamma": 0.97,
    "updates_per_step": 0.25,
    "replay_size": 200_000,
    "random_steps": 2_000,
}
SMOOTH = {"policy": "deterministic", "dynamics": "env", "policy_learning_rate": 1e-3, "critic_learning_rate": 1e-3}
ENTRIES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "td3": ("td3", 30_000, USUAL),
    "td3, history": ("td3", 30_000, USUAL | {"history": 3}),
    "td3, wide": ("td3", 60_000, WIDE | {"normalize_obs": True, "batch_size": 128}),
    "svg": ("svg", 20_000, WIDE | SMOOTH | {"horizon": "5", "batch_size": 128}),
    "svg, normalized": ("svg", 20_000, WIDE | SMOOTH | {"horizon": "5", "batch_size": 128, "normalize_obs": True}),
}
"""(method, steps, settings) by name."""

Policy = Callable[..., Any]
"""obs → action, or (obs, state) → action, as the package's `rollout` calls it."""


def judged(spec: Any, params: Any, make: Callable[[], Policy], episodes: int) -> dict[str, Any]:
    """Returns over the package's seeds, and the milliseconds that an action takes at the median."""
    from target_gym.runners.runners import rollout

    returns, seconds = [], []
    for seed in range(episodes):
        policy, taken = make(), []

        def timed(obs: Any, state: Any, policy: Policy = policy, taken: list[float] = taken) -> Any:
            start = time.perf_counter()
            action = policy(obs, state)
            taken.append(time.perf_counter() - start)
            return action

        returns.append(float(np.sum(rollout(spec, params, timed, seed)[2])))
        seconds += taken
    return {"returns": returns, "mean": float(np.mean(returns)), "action_ms": 1e3 * float(np.median(seconds))}


def ours(agent: fittedq.Agent) -> Policy:
    """A fresh loop of the agent."""
    loop = agent.controller().loop()
    return lambda obs, state: loop.act(np.asarray(obs, np.float32))


def run(name: str, entry: str, seed: int, episodes: int, steps: int | None) -> dict[str, Any]:
    """One controller on one plant."""
    from target_gym.registry import REGISTRY
    from target_gym.runners.runners import baseline_policy

    spec = REGISTRY[name]
    params = spec.make_test_params()
    env = fittedq.Gymnax(spec.make_env(), params)
    if entry == "constant":
        middle = np.asarray(env.action_set.center, np.float32)
        return judged(spec, params, lambda: lambda obs, state: middle, episodes)
    if entry in ("pid", "mpc"):
        return judged(spec, params, lambda: baseline_policy(spec, entry, params), episodes)
    method, usual, settings = ENTRIES[entry]
    start = time.perf_counter()
    agent = fittedq.train(method, env, steps=steps or usual, seed=seed, **settings)
    seconds = time.perf_counter() - start
    found = judged(spec, params, lambda: ours(agent), episodes)
    return found | {"seconds": round(seconds, 1), "steps": steps or usual, "settings": settings}


def table(results: dict[str, Any]) -> str:
    """Means over the package's seeds (learned ones over theirs too), by plant and entry."""
    entries = list(dict.fromkeys(key.split("/")[1] for key in results))
    lines = ["| plant | " + " | ".join(entries) + " |", "|---" * (len(entries) + 1) + "|"]
    for plant in dict.fromkeys(key.split("/")[0] for key in results):
        cells = []
        for entry in entries:
            means = [one["mean"] for key, one in results.items() if key.split("/")[:2] == [plant, entry]]
            spread = f" ({min(means):.4g} to {max(means):.4g}, {len(means)} seeds)" if len(means) > 1 else ""
            cells.append(f"{np.mean(means):.4g}{spread}" if means else "–")
        lines.append(f"| {plant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plant", nargs="+", default=[])
    parser.add_argument(
        "--entry", nargs="+", default=["pid", "constant", "td3"], choices=["pid", "mpc", "constant", *ENTRIES]
    )
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--steps", type=int, default=None, help="in place of the entry's own")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for plant in given.plant:
        for entry in given.entry:
            for seed in given.seed if entry in ENTRIES else [0]:
                key = f"{plant}/{entry}/{seed}"
                if key in results:
                    continue
                results[key] = run(plant, entry, seed, given.episodes, given.steps) | {"about": describe(*PACKAGES)}
                RESULT.write_text(json.dumps(results, indent=1) + "\n")
                print(key, round(results[key]["mean"], 2), results[key].get("seconds", ""), flush=True)
    if given.table or not given.plant:
        print(table(results))


if __name__ == "__main__":
    main()
