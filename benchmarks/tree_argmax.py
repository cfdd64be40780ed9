"""Exact maxima of tree ensembles: time per state for one to six actions.

    .venv/bin/python benchmarks/tree_argmax.py

100 extra-trees on 4 000 rows of a smooth function of three states and m actions, leaves of five rows and of one; 20
states each, ten seconds a state at most.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np

from fittedq import Box
from fittedq.approx.trees import Forest, TreeCritic
from fittedq.maximize.base import Status
from fittedq.maximize.exact.sweep import TreeSweep
from fittedq.maximize.exact.trees import TreeArgmax
from machine import describe

RESULT = Path("benchmarks/results/tree_argmax.json")
ROWS, STATES, TREES = 4_000, 20, 100


def main() -> None:
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else {}
    for m in (1, 2, 3, 6):
        for leaf in (5, 1):
            name = f"m={m}, leaves of {leaf}"
            if name in rows:
                continue
            rng = np.random.default_rng(m)
            box = Box([-1.0] * m, [1.0] * m)
            obs, action = rng.normal(size=(ROWS, 3)), rng.uniform(-1, 1, (ROWS, m))
            y = np.sin(2 * action + obs[:, :1]).sum(axis=1) - 0.3 * (action**2).sum(axis=1) + 0.5 * obs[:, 1]
            forest = Forest(n_trees=TREES, min_samples_leaf=leaf)
            critic = TreeCritic.start(box, forest).fit((obs, action), y)
            seconds, proven, gaps = [], [], []
            for state in rng.normal(size=(STATES, 1, 3)).astype(np.float32):
                begin = time.perf_counter()
                solution = TreeArgmax(state_seconds=10.0)(critic, state, box)
                seconds.append(time.perf_counter() - begin)
                proven.append(bool(solution.status[0] == Status.EXACT))
                gaps.append(float(solution.upper_bound[0] - solution.value[0]))
            rows[name] = {
                "median_seconds": float(np.median(seconds)),
                "worst_seconds": max(seconds),
                "proven": float(np.mean(proven)),
                "worst_gap": max(gaps),
            }
            if m == 1:
                states = rng.normal(size=(1_000, 3)).astype(np.float32)
                begin = time.perf_counter()
                TreeSweep()(critic, states, box)
                rows[name]["sweep_seconds_per_state"] = (time.perf_counter() - begin) / 1_000
            print(name, rows[name], flush=True)
            temporary = RESULT.with_suffix(".tmp")
            temporary.write_text(json.dumps({"rows": rows, **describe("fittedq", "numpy", "scikit-learn")}, indent=1))
            os.replace(temporary, RESULT)


if __name__ == "__main__":
    main()
