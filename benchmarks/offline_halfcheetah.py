"""HalfCheetah-v5 from a log: the replays of two SAC runs of 100 000 steps each, and no environment.

    .venv/bin/python benchmarks/offline_halfcheetah.py --prepare   # the dataset, first; needs the runs of learn_ours.py
    .venv/bin/python benchmarks/offline_halfcheetah.py --method nfqca --seed 0 --out FILE

Evaluated over 10 episodes. No method here keeps its actions near the data's, so a critic may be trusted where it only
extrapolates: what comes of that is part of the result. A finished result is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import fittedq
from fittedq.actions.base import Box
from fittedq.data.dataset import Writer
from fittedq.data.importers import import_dataset, open_source
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from machine import describe

ENV = "HalfCheetah-v5"
BOX = Box([-1.0] * 6, [1.0] * 6)
METHODS = ("nfqca", "amortized_fqi", "td3")
RUNS = ("fittedq-sac-HalfCheetah-v5-0", "fittedq-sac-HalfCheetah-v5-1")


def dataset(work: Path) -> fittedq.Dataset:
    """Both runs' replays, one after the other, made once."""
    path = work / "halfcheetah-sac-200k"
    if not path.exists():
        with Writer(path) as writer:
            writer.declare(BOX)
            for name in RUNS:
                part = work / f"{name}-replay"
                if not part.exists():
                    import_dataset(open_source(max((work / name).glob("step-*"))), out=part, label=name, action_set=BOX)
                log = fittedq.Dataset.open(part)
                for rows in log.chunks():
                    writer.append(log.transitions(rows))
                writer.cut()
            writer.finish()
    return fittedq.Dataset.open(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.prepare:
        dataset(args.work)
        return
    if args.out.exists():
        print(f"{args.out} is there already: kept")
        return
    data = dataset(args.work)
    episodes = np.array([data.transitions(slice(first, stop)).reward.sum() for first, stop in data.episodes()])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    run = Run(args.method, None, Schedule.offline(args.method), data=data, seed=args.seed, settings={})
    start = time.perf_counter()
    report = list(run.execute())[-1]
    seconds = time.perf_counter() - start
    returns = run.agent().evaluate(ENV, 10, seed=args.seed)
    result = {
        "method": args.method,
        "seed": args.seed,
        "transitions": len(data),
        "steps": run.trainer.step,
        "train_seconds": round(seconds, 1),
        "mean_return": float(np.mean(returns)),
        "returns": [float(value) for value in returns],
        "data_mean_return": float(episodes.mean()),
        "data_best_return": float(episodes.max()),
        "metrics": report.metrics,
        **describe("fittedq", "jax", "numpy", "gymnasium", "mujoco"),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{args.method} {args.seed}: {np.mean(returns):.1f} in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
