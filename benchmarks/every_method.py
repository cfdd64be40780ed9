"""Every method on one pendulum, in networks of 64 units: three seeds each, a curve of returns.

    .venv/bin/python benchmarks/every_method.py                       # all, one after the other
    .venv/bin/python benchmarks/every_method.py --method sac td7 --seed 0

Methods that collect take 10,000 steps in Pendulum-v1, 1,000 of them random. Methods for logs take 20,000 rows of
`offline_pendulum.py` of the same seed: fitted methods those of `mixed`, and as many iterations as are usual; methods
that stay near the log those of `medium`, and 20,000 updates. Each keeps its own number of layers; all else is as by
default. Ten looks of ten episodes each; what ran is in the file and is not run again. `docs/figures/curves.py` draws
the curves.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from fittedq.algorithms import REGISTRY
from fittedq.files import write_json
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from machine import describe
from offline_pendulum import ENV, dataset, logged_returns

RESULT = Path("benchmarks/results/every_method.json")
LOG_OF = dict.fromkeys(("explicit_fqi", "amortized_fqi", "nfqca", "smooth_fqi"), "mixed")
LOG_OF |= dict.fromkeys(("td3_bc", "iql", "cql", "edac", "rebrac"), "medium")
WIDTH, STEPS, UPDATES, LOOKS, EPISODES = 64, 10_000, 20_000, 10, 10


def run_of(name: str, seed: int, work: Path) -> Run:
    """The run of one method and seed."""
    cls = REGISTRY[name]
    settings: dict[str, Any] = {"hidden": tuple(WIDTH for _ in cls().hidden)}
    if name not in LOG_OF:
        schedule = Schedule(steps=STEPS, eval_every=STEPS // LOOKS, eval_episodes=EPISODES)
        return Run(name, ENV, schedule, seed=seed, settings=settings | {"random_steps": 1_000})
    usual = Schedule.offline(name, None if cls.fitted else UPDATES).at(cls().discount).steps
    schedule = Schedule(steps=usual, report_every=usual, eval_every=max(usual // LOOKS, 1), eval_episodes=EPISODES)
    log = dataset(LOG_OF[name], seed, work)
    return Run(name, None, schedule, data=log, eval_env=ENV, seed=seed, settings=settings)


def curve(run: Run) -> list[dict[str, Any]]:
    """Returns at each look."""
    looks = [report for report in run.execute() if report.eval_returns is not None]
    return [{"step": look.step, "returns": [float(value) for value in look.eval_returns or ()]} for look in looks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", nargs="*", choices=REGISTRY, default=list(REGISTRY))
    parser.add_argument("--seed", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"))
    args = parser.parse_args()
    for seed in args.seed:
        for name in args.method:
            kept = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": {}}
            if f"{name} {seed}" in kept["runs"]:
                continue
            start, worked = time.perf_counter(), time.process_time()
            run = run_of(name, seed, args.work)
            found = curve(run)
            seconds = {
                "seconds": round(time.perf_counter() - start, 1),
                "processor_seconds": round(time.process_time() - worked, 1),
            }
            log = {"log": logged_returns(dataset(LOG_OF[name], seed, args.work))} if name in LOG_OF else {}
            kept["runs"][f"{name} {seed}"] = {"method": name, "seed": seed, **seconds, **log, "curve": found}
            write_json(RESULT, kept | describe("fittedq", "jax", "gymnasium"))
            print(name, seed, round(sum(found[-1]["returns"]) / EPISODES, 1), seconds, flush=True)


if __name__ == "__main__":
    main()
