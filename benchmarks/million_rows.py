"""One iteration of explicit FQI on 1 000 000 transitions: seconds, peak memory, and how often progress is reported.

    .venv/bin/python benchmarks/million_rows.py --out benchmarks/results/million_rows.json

Pendulum-v1's equations, uniform states and actions; default settings: two critics of 256–256, five passes.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

import fittedq
from fittedq.actions.base import Box
from fittedq.data.dataset import Writer
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from fittedq.types import Transition
from machine import describe

ROWS = 1_000_000


def pendulum(rng: np.random.Generator, count: int) -> Transition:
    """`count` transitions of Pendulum-v1 from even states, each an episode cut after one step."""
    angle, speed, torque = (rng.uniform(-bound, bound, count) for bound in (np.pi, 8.0, 2.0))
    reward = -(angle**2 + 0.1 * speed**2 + 0.001 * torque**2)
    next_speed = np.clip(speed + 0.05 * (15.0 * np.sin(angle) + 3.0 * torque), -8.0, 8.0)
    next_angle = angle + 0.05 * next_speed

    def observed(angle: np.ndarray, speed: np.ndarray) -> np.ndarray:
        return np.stack([np.cos(angle), np.sin(angle), speed], axis=1).astype(np.float32)

    return Transition(
        obs=observed(angle, speed),
        action=torque[:, None].astype(np.float32),
        reward=reward.astype(np.float32),
        next_obs=observed(next_angle, next_speed),
        terminated=np.zeros(count, bool),
        truncated=np.ones(count, bool),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    path = args.work / f"pendulum-even-{args.rows}"
    if not path.exists():
        rng = np.random.default_rng(0)
        with Writer(path) as writer:
            writer.declare(Box([-2.0], [2.0]))
            for _ in range(args.rows // 10_000):
                writer.append(pendulum(rng, 10_000))
            writer.finish()
    data = fittedq.Dataset.open(path)
    run = Run("explicit_fqi", None, Schedule.offline("explicit_fqi", steps=1), data=data, seed=0, settings={})
    start, reports = time.perf_counter(), []
    for report in run.execute():
        reports.append(time.perf_counter() - start)
        if len(reports) % 20 == 0:
            print(f"{reports[-1]:.0f} s: {report.fraction:.3f} of the iteration", flush=True)
    result = {
        "rows": len(data),
        "seconds": round(reports[-1], 1),
        "reports": len(reports),
        "longest_silence_seconds": round(float(np.diff([0.0, *reports]).max()), 1),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        **describe("fittedq", "jax", "numpy"),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
