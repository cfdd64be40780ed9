"""Controllers from the small logs, judged by blocks that were held out of them, then tried on the plants they are of.

    .venv/bin/python benchmarks/estimate_cases.py --cases ../shared/cases --out benchmarks/results/estimate_cases.json

A true return is that of 20 episodes on the plant of `make.py`, Σ r of the rows as the log counts them (the reward of a
row is that of its own observation), from the same first states as the estimate. It is told of the last agent of every
seed. Agents are kept in `--work`, so that a run that was stopped goes on. A controller counts as `holds` where the
interval holds its return, as `beats` where it earns more than the PI of the plant, and as a `surprise` where it earns
less than the interval's lower end and was not refused ("cannot tell").
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import fittedq
from fittedq.acting.episodes import AbstractController
from fittedq.baselines import PID, Constant, Loops, Tracked
from fittedq.data.blocks import split
from fittedq.data.dataset import Dataset
from fittedq.estimates.estimate import estimates
from fittedq.estimates.result import CANNOT
from machine import describe
from shared_cases import AbstractCase, Heater, Tanks, imported, module_of


def played(case: AbstractCase, controller: AbstractController[Any]) -> float:
    """The mean return of a controller on the plant."""
    plants, obs = case.start()
    memory, total = controller.start(len(plants)), np.zeros(len(plants))
    for _ in range(case.samples):
        total += case.reward(obs[:, -2] - obs[:, -1])
        action, memory = controller.step(memory, obs.astype(np.float32))
        measured = [case.step(plant, np.asarray(one)) for plant, one in zip(plants, action, strict=True)]
        obs = np.concatenate([np.array(measured), obs[:, -1:]], axis=1)
    return float(total.mean())


def judged(case: AbstractCase, data: Dataset, work: Path, known: dict[str, Any], seeds: int) -> list[dict[str, Any]]:
    """Agents that learned from a part of the log, and others, beside what they earn."""
    parts = [work / "learn", work / "held_out"]
    if not parts[1].exists():
        shutil.rmtree(parts[0], ignore_errors=True)
        split(data, *parts, share=0.5)
    learn, held_out = (Dataset.open(part) for part in parts)
    controllers = dict(known)
    for seed in range(seeds):
        kept = work / f"seed-{seed}"
        if not kept.exists():
            fittedq.fit("nfqca", learn, steps=60, seed=seed).save(kept)
        controllers[f"nfqca, seed {seed}"] = fittedq.load(kept)
    starts = case.start()[1]
    found = estimates(controllers, held_out, gamma=1.0, horizon=case.samples, starts=starts)
    rows = []
    for name, controller in controllers.items():
        acting = controller.controller() if isinstance(controller, fittedq.Agent) else controller
        true, one = played(case, acting), found[name]
        told = {"holds": one.low <= true <= one.high, "surprise": true < one.low and one.verdict != CANNOT}
        rows.append({"controller": name, "true": true, **told, **one.describe()})
        inside = "holds" if told["holds"] else "MISSES"
        interval = f"{one.value:.1f} [{one.low:.1f}, {one.high:.1f}]"
        print(f"  {name}: {inside} {true:.1f}: {interval} {one.sentence()}", flush=True)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many of the agents hold, beat the first row's PI, are refused, and surprise."""
    pi, agents = rows[0]["true"], [row for row in rows if row["controller"].startswith("nfqca")]
    return {
        "agents": len(agents),
        "hold": sum(row["holds"] for row in agents),
        "beat_the_pi": sum(row["true"] > pi for row in agents),
        "refused": sum(row["verdict"] == CANNOT for row in agents),
        "surprises": sum(row["surprise"] for row in agents),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=Path("../shared/cases"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("estimate_cases_work"))
    parser.add_argument("--logs", nargs="+", help="by default all three")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not (args.cases / "make.py").exists():
        print(f"{args.cases}: no make.py, so nothing is run.")
        return
    make = module_of(args.cases)
    heater, tanks = Heater(make), Tanks(make)
    pi = PID(6.0, 0.05, tracked=Tracked(0, setpoint=1), low=0.0, high=255.0, dt=3.0)
    steady: dict[str, Any] = {"PI(6, .05)": pi, "constant 100": Constant((100.0,))}
    loop = PID(0.25, 0.02, tracked=Tracked(1, setpoint=2), low=0.0, high=1.0, dt=1.0)
    open_valves: dict[str, Any] = {
        "PI(.25, .02) on u1": Loops({0: loop}, hold=(0.0, 0.5)),
        "constant .4, .5": Constant((0.4, 0.5)),
    }
    logs: dict[str, tuple[AbstractCase, dict[str, Any]]] = {
        "excited.csv": (heater, steady),
        "closed_loop.csv": (heater, steady),
        "two_tanks.csv": (tanks, open_valves),
    }
    result: dict[str, Any] = {}
    for log, (case, known) in ((log, logs[log]) for log in args.logs or logs):
        print(log, flush=True)
        work = args.work / Path(log).stem
        work.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work / Path(log).stem, ignore_errors=True)
        data = imported(args.cases / log, case.text, work)
        rows = judged(case, data, work, known, args.seeds)
        result[log] = {"summary": summary(rows), "controllers": rows}
        print(result[log]["summary"], flush=True)
        if args.out:
            about = describe("fittedq", "jax", "numpy")
            found = {"gamma": 1, "horizon": "an episode", "logs": result, **about}
            args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
