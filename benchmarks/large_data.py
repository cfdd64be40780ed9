"""TD3+BC on 20 million rows drawn by block, beside the same rows held in memory: updates/s in turn, resident memory.

    .venv/bin/python benchmarks/large_data.py --out benchmarks/results/large_data.json

Rows as wide as HalfCheetah-v5's (17 observations, 6 actions), 3.2 GiB on disk, normal numbers: what is learned does not
matter. Each run is a process of its own; the first quarter of its updates is not counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import fittedq
from fittedq.actions.base import Box
from fittedq.data.dataset import Writer
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from fittedq.trainers import rows
from fittedq.types import Transition
from machine import describe

PART = 200_000


def write(path: Path, count: int) -> None:
    """A dataset of normal observations, in episodes of 1 000 rows."""
    rng = np.random.default_rng(0)
    with Writer(path, action_set=Box([-1.0] * 6, [1.0] * 6)) as writer:
        for _ in range(count // PART):
            obs = rng.standard_normal((PART, 17), dtype=np.float32)
            action = rng.uniform(-1, 1, (PART, 6)).astype(np.float32)
            never, end = np.zeros(PART, bool), np.arange(PART) % 1000 == 999
            writer.append(Transition(obs, action, -(obs[:, 0] ** 2), obs * np.float32(0.9), never, end))
        writer.finish()


def measured(path: Path, how: str, updates: int) -> dict[str, object]:
    """One run in this process."""
    if how == "held":
        rows.HELD_IN_MEMORY = 2**40
    data = fittedq.Dataset.open(path, verify=False)
    run = Run("td3_bc", None, Schedule(steps=updates), data=data, seed=0, settings={})
    marks = [(run.trainer.step, time.perf_counter(), time.process_time()) for _ in run.execute()]
    (first, wall, cpu), (last, wall_end, cpu_end) = marks[len(marks) // 4], marks[-1]
    return {
        "how": how,
        "updates_per_second": round((last - first) / (wall_end - wall), 1),
        "updates_per_processor_second": round((last - first) / (cpu_end - cpu), 1),
        "peak_resident_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--updates", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"))
    parser.add_argument("--how", choices=("blocks", "held"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/large_data.json"))
    args = parser.parse_args()
    path = args.work / f"large-{args.rows}"
    if args.how is not None:
        print(json.dumps(measured(path, args.how, args.updates)))
        return
    if not path.exists():
        write(path, args.rows)
    results = []
    for how in ("blocks", "held") * args.rounds:
        own = [f"--rows={args.rows}", f"--updates={args.updates}", f"--work={args.work}", f"--how={how}"]
        told = subprocess.run([sys.executable, __file__, *own], capture_output=True, text=True, check=True).stdout
        results.append(json.loads(told.splitlines()[-1]))
        print(results[-1], flush=True)

    def ratio(figure: str) -> float:
        blocks, held = (np.median([one[figure] for one in results if one["how"] == how]) for how in ("blocks", "held"))
        return round(float(blocks / held), 3)

    ratios = {name: ratio(name) for name in ("updates_per_second", "updates_per_processor_second")}
    result = {"rows": args.rows, "blocks_over_held": ratios, "runs": results}
    args.out.write_text(json.dumps(result | describe("fittedq", "jax", "numpy"), indent=1) + "\n")
    print(ratios)


if __name__ == "__main__":
    main()
