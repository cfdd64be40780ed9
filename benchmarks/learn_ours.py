"""One learning run of ours, with the settings of `learn_peer.py`.

Resumes from its checkpoint; a finished curve is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from fittedq.agent import Agent
from fittedq.algorithms import find
from fittedq.envs.gym import GymSource
from fittedq.errors import UserError
from fittedq.runs import checkpoint
from fittedq.settings import parse_assignments, split_settings
from fittedq.trainers.host import HostTrainer
from fittedq.trainers.settings import TrainSettings
from machine import describe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithm", required=True)
    parser.add_argument("--env", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--random-steps", type=int, default=10_000)
    parser.add_argument("--eval-every", type=int, default=10_000)
    parser.add_argument("--eval-episodes", type=int, default=10)
    parser.add_argument("--set", dest="assignments", nargs="*", default=[], help="settings as key=value")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.out.exists():
        print(f"{args.out} is there already: kept")
        return

    cls = find(args.algorithm)
    chosen = {"random_steps": args.random_steps} | parse_assignments(args.assignments)
    own, loop = split_settings(chosen, cls, TrainSettings)
    algorithm, settings = cls(**own), TrainSettings(**loop)
    trainer = HostTrainer(algorithm, GymSource(args.env, seed=args.seed), settings, args.seed)
    work = args.work / args.out.stem
    work.mkdir(parents=True, exist_ok=True)
    curve_file = work / "curve.json"
    curve, trained_s = [], 0.0
    try:
        _, exact, problems = checkpoint.restore(work, trainer)
        saved = json.loads(curve_file.read_text())
        curve = [point for point in saved["curve"] if point["step"] <= trainer.step]
        trained_s = saved["seconds"]
        print(f"resumed at {trainer.step} ({'exactly' if exact else 'with new episodes'}) {problems}", flush=True)
    except UserError:
        pass
    while trainer.step < args.steps:
        start = time.perf_counter()
        trainer.advance(args.eval_every)
        trained_s += time.perf_counter() - start
        agent = Agent(algorithm, trainer.obs_size, trainer.action_set, trainer.nets())
        returns = agent.evaluate(args.env, args.eval_episodes, seed=args.seed)
        curve.append({"step": trainer.step, "returns": [float(value) for value in returns]})
        curve_file.write_text(json.dumps({"curve": curve, "seconds": trained_s}))
        checkpoint.save(work, trainer)
        print(f"fittedq {args.algorithm} {args.env} {args.seed} {trainer.step}: {np.mean(returns):.1f}", flush=True)

    means = [float(np.mean(point["returns"])) for point in curve]
    result = {
        "library": "fittedq",
        "algorithm": args.algorithm,
        "env": args.env,
        "seed": args.seed,
        "steps": args.steps,
        "random_steps": args.random_steps,
        "last": means[-1],
        "best": max(means),
        "train_seconds": round(trained_s, 1),
        "curve": curve,
        **describe("fittedq", "jax", "equinox", "optax", "gymnasium", "mujoco"),
    }
    temporary = args.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1))
    os.replace(temporary, args.out)


if __name__ == "__main__":
    main()
