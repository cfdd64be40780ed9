"""Amortized FQI from small logs, to compare two versions of what its policy imitates.

    .venv/bin/python benchmarks/imitation.py --task pendulum --seed 0 --work WORK --out FILE
    .venv/bin/python benchmarks/imitation.py --task halfcheetah --seed 0 --work WORK --out FILE

For another version, run the same command with that checkout's `src` on PYTHONPATH: the result names its commit.
The logs are made once in WORK and shared. Pendulum's are 6 000 uniform actions, new for each seed. HalfCheetah's is the
second half of `fittedq train sac HalfCheetah-v5 --steps 40000 --seed 0 --out WORK/sac0`. A finished result is kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np

import fittedq
from fittedq.acting.collect import collect
from fittedq.actions.base import Box
from fittedq.data.dataset import Writer
from fittedq.data.importers import import_dataset, open_source
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from machine import describe

BOX = Box([-1.0] * 6, [1.0] * 6)
TASKS = {"pendulum": ("Pendulum-v1", 30, 20), "halfcheetah": ("HalfCheetah-v5", 40, 5)}
"""Environment, iterations unless --iterations says otherwise, episodes of the evaluation."""


def dataset(task: str, seed: int, work: Path) -> fittedq.Dataset:
    """The log, made once."""
    path = work / ("halfcheetah-20k" if task == "halfcheetah" else f"pendulum-6k-{seed}")
    if path.exists():
        return fittedq.Dataset.open(path)
    if task == "halfcheetah":
        newest, whole = max((work / "sac0" / "checkpoints").glob("step-*")), work / "halfcheetah-40k"
        import_dataset(open_source(newest), out=whole, label="sac", action_set=BOX)
        with Writer(path) as writer:
            writer.declare(BOX)
            writer.append(fittedq.Dataset.open(whole).transitions(slice(20_000, 40_000)))
            writer.finish()
    else:
        with Writer(path) as writer:
            for _ in collect("Pendulum-v1", 6_000, writer, policies=[None], noise=0.3, seed=seed):
                pass
            writer.finish()
    return fittedq.Dataset.open(path)


def commit() -> str:
    """The version of the package that runs."""
    command = ["git", "-C", str(Path(fittedq.__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.out.exists():
        print(f"{args.out} is there already: kept")
        return
    env, iterations, episodes = TASKS[args.task]
    data = dataset(args.task, args.seed, args.work)
    schedule = Schedule(steps=args.iterations or iterations, eval_every=0)
    run = Run("amortized_fqi", None, schedule, data=data, seed=args.seed)
    start = time.process_time()
    report = list(run.execute())[-1]
    seconds = time.process_time() - start
    returns = run.agent().evaluate(env, episodes, seed=args.seed)
    result = {
        "task": args.task,
        "seed": args.seed,
        "commit": commit(),
        "transitions": len(data),
        "iterations": run.trainer.step,
        "cpu_seconds": round(seconds, 1),
        "mean_return": float(np.mean(returns)),
        "returns": [float(value) for value in returns],
        "metrics": report.metrics,
        **describe("jax", "numpy", "gymnasium", "mujoco"),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{args.task} {args.seed} {result['commit']}: {np.mean(returns):.1f} in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
