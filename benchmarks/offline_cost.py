"""Seconds of one core for 10 000 updates of an offline method, ours or d3rlpy's, on a set of `offline_sets.py`.

    taskset -c 0 .venv/bin/python benchmarks/offline_cost.py --who ours --method td3_bc iql cql
    taskset -c 0 .venv-d3rlpy/bin/python benchmarks/offline_cost.py --who d3rlpy --method td3_bc iql cql

Processor seconds, so that others on the machine count little; one thread (`OMP_NUM_THREADS=1`,
`XLA_FLAGS=--xla_cpu_multi_thread_eigen=false`). The first updates, in which programs are compiled, are left out. Each
figure is written into `results/offline_cost.json` beside those that are there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from machine import describe

OUT, WORK = Path("benchmarks/results/offline_cost.json"), Path("benchmarks/work/offline_sets")


def ours(method: str, data: Path, updates: int) -> Iterator[None]:
    """A turn for every so many updates."""
    from fittedq.data.dataset import Dataset
    from fittedq.runs.run import Run
    from fittedq.runs.schedule import Schedule

    settings = {"alpha": 10.0, "policy_learning_rate": 3e-5} if method == "cql" else {}
    run = Run(method, None, Schedule(steps=3 * updates), data=Dataset.open(data), seed=0, settings=settings)
    due = updates
    for _ in run.execute():
        if run.trainer.step >= due:
            due += updates
            yield


def d3rlpy(method: str, data: Path, updates: int) -> Iterator[None]:
    """A turn for every so many updates."""
    from d3rlpy.logging import NoopAdapterFactory

    from offline_d3rlpy import algorithm, dataset

    for _ in algorithm(method).fitter(
        dataset(data.with_suffix(data.suffix + ".npz")),
        n_steps=3 * updates,
        n_steps_per_epoch=updates,
        logger_adapter=NoopAdapterFactory(),
        show_progress=False,
    ):
        yield


WHO: dict[str, Callable[[str, Path, int], Iterator[None]]] = {"ours": ours, "d3rlpy": d3rlpy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--who", choices=WHO, required=True)
    parser.add_argument("--method", nargs="+", choices=("td3_bc", "iql", "cql"), required=True)
    parser.add_argument("--set", default="HalfCheetah-v5-random")
    parser.add_argument("--updates", type=int, default=500, help="updates of a turn, of which there are three")
    args = parser.parse_args()
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    for method in args.method:
        turns, last = [], time.process_time()
        for _ in WHO[args.who](method, WORK / args.set, args.updates):
            turns.append(time.process_time() - last)
            last = time.process_time()
        seconds = round(min(turns[1:]) * 10_000 / args.updates, 1)
        packages = ("fittedq", "jax") if args.who == "ours" else ("d3rlpy", "torch")
        cost = {"processor_seconds_10000_updates": seconds, "set": args.set, **describe(*packages)}
        known[f"{args.who} {method}"] = cost
        OUT.write_text(json.dumps(known, indent=1) + "\n")
        print(f"{args.who} {method}: {seconds} s of a core for 10 000 updates", flush=True)


if __name__ == "__main__":
    main()
