"""Explicit FQI's search over a dataset on Ray, with 1 to N cores of this machine, beside a search in one process.

    .venv/bin/python benchmarks/search_on_ray.py --out benchmarks/results/search_on_ray.json

A network as it begins, of the method's usual size, is searched at so many random states: each solver call has 256 rows
or 1,024. The first pass compiles and is not timed. A search here has all cores, by XLA's threads. Needs Ray
(`pip install 'fittedq[cluster]'`). Labels are compared with those of the search here, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import jax
import numpy as np
import ray

from fittedq import Box
from fittedq.algorithms.explicit_fqi import ExplicitFQI
from fittedq.files import write_json
from fittedq.machine import cores
from fittedq.runs.shards import shards_on_ray
from fittedq.trainers.solutions import AbstractSearch, RowsActing, Solutions, solver_over_rows
from fittedq.types import Components
from machine import describe

OBS, ACTIONS = 8, 3
BOX = Box([-1.0] * ACTIONS, [1.0] * ACTIONS)
METHOD = ExplicitFQI()


def passed(nets: Components, rows: np.ndarray, search: AbstractSearch | None, times: int) -> tuple[list[float], bytes]:
    """Seconds of each pass over all rows after the first one, and the actions found."""
    seconds, found = [], b""
    acting = RowsActing(solver_over_rows(METHOD, BOX), 0, search)
    for _ in range(1 + times):
        solutions, actions = Solutions.none(len(rows), BOX), np.empty((len(rows), ACTIONS), np.float32)
        began = time.perf_counter()
        for _ in acting(nets, 1, jax.random.PRNGKey(0), rows.__getitem__, solutions, actions):
            pass
        seconds.append(time.perf_counter() - began)
        found = actions.tobytes()
    return seconds[1:], found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    nets = METHOD.networks(OBS, BOX, jax.random.PRNGKey(0))
    states = np.random.default_rng(0).normal(size=(given.rows, OBS)).astype(np.float32)
    seconds, expected = passed(nets, states, None, given.passes)
    told: list[dict[str, object]] = [{"where": "here", "cores": len(cores()), "seconds": seconds}]
    for count in range(1, len(cores()) + 1):
        ray.init(num_cpus=count, include_dashboard=False, log_to_driver=False)
        with shards_on_ray(None, None) as where:
            seconds, found = passed(nets, states, where(METHOD, OBS, BOX), given.passes)
        ray.shutdown()
        told.append({"where": "ray", "cores": count, "seconds": seconds, "equal": found == expected})
        print(json.dumps(told[-1]), flush=True)
    about = {"rows": given.rows, "load": os.getloadavg()[0], "results": told}
    write_json(given.out, about | describe("jax", "numpy", "ray"))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
