"""Swing-up from 20 000 logged transitions of Pendulum-v1: one fit, evaluated over 20 fresh episodes.

    .venv/bin/python benchmarks/offline_pendulum.py --prepare   # the datasets, first: runs side by side share them
    .venv/bin/python benchmarks/offline_pendulum.py --method explicit_fqi --data random --seed 0 --out FILE

`random` was collected with uniform actions; `mixed` alternates uniform episodes with those of a TD3 agent after 2 000
steps, noise 0.3; `medium` has episodes of one after 5 000 steps alone. Seeds differ in the data too. A finished result
is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import fittedq
from fittedq.acting.collect import collect
from fittedq.data.dataset import Writer
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from machine import describe

ENV = "Pendulum-v1"
TEACHER = {"random": 0, "mixed": 2_000, "medium": 5_000}
KINDS = tuple(TEACHER)
"""What was logged, and the steps after which the TD3 agent in it was taken."""
METHODS = {
    "explicit_fqi": ("explicit_fqi", {}),
    "amortized_fqi": ("amortized_fqi", {}),
    "nfqca": ("nfqca", {}),
    "smooth_fqi": ("smooth_fqi", {}),
    "tree_fqi": ("explicit_fqi", {"approximator": "extra_trees"}),
    "td3_bc": ("td3_bc", {}),
    "rebrac": ("rebrac", {"batch_size": 256}),
    "iql": ("iql", {}),
    "cql": ("cql", {"alpha": 1.0}),
    "edac": ("edac", {"n_critics": 10}),
    "td3": ("td3", {}),
}


def dataset(kind: str, seed: int, work: Path) -> fittedq.Dataset:
    """The logged transitions, collected once."""
    path = work / f"pendulum-{kind}-{seed}"
    if not path.exists():
        policies = [] if kind == "medium" else [None]
        if TEACHER[kind]:
            policies.append(fittedq.train("td3", ENV, steps=TEACHER[kind], seed=seed).act)
        with Writer(path) as writer:
            for _ in collect(ENV, 20_000, writer, policies=policies, noise=0.3, seed=seed):
                pass
            writer.finish()
    return fittedq.Dataset.open(path)


def logged_returns(data: fittedq.Dataset) -> dict[str, float]:
    """What the log itself earned, by its whole episodes."""
    returns = [float(data.columns["reward"][start:stop].sum()) for start, stop in data.episodes()]
    return {"mean": float(np.mean(returns)), "least": min(returns), "most": max(returns), "episodes": len(returns)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--data", choices=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="updates or iterations; without it, as many as usual")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.prepare:
        for seed in range(3):
            for kind in KINDS:
                dataset(kind, seed, args.work)
        return
    if args.out.exists():
        print(f"{args.out} is there already: kept")
        return
    algorithm, settings = METHODS[args.method]
    data = dataset(args.data, args.seed, args.work)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    schedule = Schedule.offline(algorithm) if args.steps is None else Schedule(steps=args.steps)
    run = Run(algorithm, None, schedule, data=data, seed=args.seed, settings=settings)
    start, worked = time.perf_counter(), time.process_time()
    report = list(run.execute())[-1]
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    returns = run.agent().evaluate(ENV, 20, seed=args.seed)
    result = {
        "method": args.method,
        "data": args.data,
        "seed": args.seed,
        "iterations": run.trainer.step,
        "train_seconds": round(seconds, 1),
        "processor_seconds": round(worked, 1),
        "mean_return": float(np.mean(returns)),
        "log": logged_returns(data),
        "returns": [float(value) for value in returns],
        "metrics": report.metrics,
        **describe("fittedq", "jax", "numpy", "gymnasium"),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{args.method} {args.data} {args.seed}: {np.mean(returns):.1f} in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
