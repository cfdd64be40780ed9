"""The amortization gap of an agent along its training, and what refining its actions is worth at the end.

    .venv/bin/python benchmarks/gap.py --algorithm sac --env Hopper-v5 --steps 50000 --every 10000
    .venv/bin/python benchmarks/gap.py --algorithm nfqca --data benchmarks/work/pendulum-random-0 --env Pendulum-v1

States are met by the agent itself. Online agents train as in `learn_ours.py`; NFQCA from a log, a step an iteration. A
training run resumes from its checkpoint; a finished result is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from fittedq import Dataset
from fittedq.agent import Agent
from fittedq.algorithms import find
from fittedq.envs.gym import GymSource
from fittedq.errors import UserError
from fittedq.runs import checkpoint
from fittedq.trainers.host import HostTrainer
from fittedq.trainers.iterations import FittedTrainer
from fittedq.trainers.settings import FitSettings, TrainSettings
from machine import describe

STATES, TOLERANCE, STATE_SECONDS = 40, 0.01, 5.0
REFINEMENTS = [(0, 0.0), (10, 0.05), (10, 0.1), (10, 0.3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", required=True)
    parser.add_argument("--env", required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--every", type=int, default=10_000)
    parser.add_argument("--random-steps", type=int, default=5_000)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/gap"))
    args = parser.parse_args()
    name = f"{args.algorithm}-{args.env}-{args.seed}"
    out, work = args.results / f"{name}.json", args.work / f"gap-{name}"
    if out.exists():
        print(f"{out} is there already: kept")
        return
    args.results.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    algorithm = find(args.algorithm)()
    if args.data is not None:
        trainer = FittedTrainer(algorithm, Dataset.open(args.data), FitSettings(), args.seed)
    else:
        settings = TrainSettings(random_steps=args.random_steps)
        trainer = HostTrainer(algorithm, GymSource(args.env, seed=args.seed), settings, args.seed)
    curve_file, curve = work / "curve.json", []
    try:
        checkpoint.restore(work, trainer)
        curve = [point for point in json.loads(curve_file.read_text()) if point["step"] <= trainer.step]
    except UserError:
        pass

    def agent() -> Agent:
        return Agent(algorithm, trainer.obs_size, trainer.action_set, trainer.nets(), trainer.moments())

    while trainer.step < args.steps:
        until = min((trainer.step // args.every + 1) * args.every, args.steps)
        while trainer.step < until:
            trainer.advance(until - trainer.step)
        now = agent()
        obs = now.trajectory(args.env, STATES, args.seed).obs
        obs = obs[np.linspace(0, len(obs) - 1, STATES).astype(int)]
        begin = time.perf_counter()
        gap = now.gap(obs, tol=TOLERANCE, state_time_limit=STATE_SECONDS)
        seconds = time.perf_counter() - begin
        returns = now.evaluate(args.env, 5, seed=args.seed)
        curve.append({"step": trainer.step, "gap_seconds": round(seconds, 2), "return": float(returns.mean())})
        curve[-1] |= gap.summary()
        curve_file.write_text(json.dumps(curve))
        checkpoint.save(work, trainer)
        print(name, {key: round(value, 4) for key, value in curve[-1].items()}, flush=True)
    refined, last = [], agent()
    for steps, trust in REFINEMENTS:
        begin = time.perf_counter()
        how = {"refine": steps, "trust": trust} if steps else {}
        returns = last.evaluate(args.env, args.episodes, seed=args.seed, **how)
        refined.append({"refine": steps, "trust": trust, "returns": returns.tolist(), "mean": float(returns.mean())})
        refined[-1]["seconds"] = round(time.perf_counter() - begin, 1)
        print(name, refined[-1]["refine"], refined[-1]["trust"], round(refined[-1]["mean"], 1), flush=True)
    about = {"algorithm": args.algorithm, "env": args.env, "seed": args.seed, "states": STATES, "tolerance": TOLERANCE}
    result = about | {"curve": curve, "refined": refined, **describe("fittedq", "jax", "gymnasium", "mujoco")}
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1))
    os.replace(temporary, out)


if __name__ == "__main__":
    main()
