"""A controller from three real logs of a heated box, beside a PID, on a model fitted to the logs.

    .venv/bin/python benchmarks/incubator.py --logs ../shared/logs --out benchmarks/results/incubator.json

The folder holds the logs (INTO-CPS-Association/example_digital-twin_incubator, 2020: a heater and a fan in a box,
switched at random, rows some 3 s apart); where it is absent, nothing is run. All three are imported with one
description. There is no plant to play on: the controllers play 20 episodes of 200 samples of 15 s in a linear model
with three lags, whose R² is told first. Intervals are 95 %, of the mean and of the paired differences from the PID.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import fittedq
from fittedq.baselines import LoggedPlant, Tracked
from fittedq.baselines.named import Circumstances, baseline
from fittedq.data.checks.lessons import checks_of
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.data.importers import import_dataset, matching, open_source
from fittedq.envs.plant import resolve
from fittedq.runs.folder import json_value
from machine import describe

SEEDS, LAGS, SAMPLE = (0, 1, 2), 3, 15.0
PLANT = """time = "time"
sample = 15
settling = 900                   # 60 rows, as `data check` tells
reward = "-((t3 - 35)/10)**2"

[columns]
t3 = { role = "measured", unit = "degC", set_point = 35.0 }
t2 = { role = "measured", unit = "degC" }
t1 = { role = "disturbance", unit = "degC" }
heater_on = { role = "action", low = 0, high = 1 }

[controller]
history = 3
error = ["t3"]

[log]
resample = "line"
"""


def imported(logs: Path, work: Path) -> Dataset:
    """All logs, as `fittedq data import "LOGS/*.csv" --plant plant.toml --out data/box` has them."""
    plant = work / "plant.toml"
    plant.write_text(PLANT)
    sources = [open_source(path, description=Description.read(plant)) for path in matching([logs / "*.csv"])]
    dataset = import_dataset(*sources, out=work / "box", label="the incubator's logs")
    for note in sources[0].notes:
        print(note, flush=True)
    return dataset


def bang_bang(obs: np.ndarray) -> np.ndarray:
    """The heater is on below the set-point."""
    return np.array([1.0 if obs[0] < 35.0 else 0.0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=Path, default=Path("../shared/logs"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not args.logs.is_dir():
        print(f"{args.logs}: no logs, so nothing is run.")
        return
    with tempfile.TemporaryDirectory() as work:
        log = imported(args.logs, Path(work))
    checks = {check.title: check.verdict for check in checks_of(log)}
    model = LoggedPlant.of(log, lags=LAGS)
    box = Tracked(0, target=35.0, name="t3 in degC")
    plant = resolve(model.env)
    given = Circumstances(plant, (box,), SAMPLE, 0, log)
    controllers: dict[str, Any] = {name: baseline(name, given) for name in ("pid", "lqr", "cloned", "constant:0.5")}
    controllers["bang-bang"] = bang_bang
    seconds = {}
    for seed in SEEDS:
        start = time.perf_counter()
        controllers[f"nfqca, seed {seed}"] = fittedq.fit("nfqca", log, seed=seed)
        seconds[seed] = round(time.perf_counter() - start, 1)
    found = fittedq.compare(controllers, plant, episodes=20, tracked=[box], dt=SAMPLE, log=log)
    for row in found.rows:
        print(row.name, row.mean, row.ahead, flush=True)
    print(found.verdict)
    if args.out:
        result = {
            "rows": len(log),
            "checks": checks,
            "model_explains": dict(zip(("t3", "t2", "t1"), model.explained.round(4).tolist(), strict=True)),
            "reward_explained": round(model.reward_explained, 4),
            "controllers": [row.describe() for row in found.rows],
            "verdict": found.verdict,
            "seconds_of_training": seconds,
            **describe("fittedq", "jax", "numpy"),
        }
        args.out.write_text(json.dumps(json_value(result), indent=1) + "\n")


if __name__ == "__main__":
    main()
