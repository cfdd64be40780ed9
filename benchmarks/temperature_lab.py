"""The example of the Temperature Control Lab, with several logs and seeds: judged, then tried beside tuned PIDs.

    .venv/bin/python benchmarks/temperature_lab.py --out benchmarks/results/temperature_lab.json

Seed k is both that of the log and that of the learner, whose last agent is told. Agents are kept in `--work`, so that a
run that was stopped goes on. The simulator is that of `tclab` 1.0.0.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import fittedq
from fittedq.baselines import Constant
from fittedq.data.dataset import Dataset
from machine import describe

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import temperature_lab as lab


def parts_of(work: Path, seed: int) -> tuple[Dataset, Dataset]:
    """(rows to learn from, rows held out) of a log."""
    if not (work / "judge").exists():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        lab.parts(work, seed)
    return Dataset.open(work / "learn"), Dataset.open(work / "judge")


def judged(work: Path, seed: int, known: dict[str, Any]) -> dict[str, Any]:
    """One log: its agent and the others, each beside what it earns."""
    learn, held_out = parts_of(work, seed)
    if not (work / "agent").exists():
        lab.learned(learn, seed).save(work / "agent")
    controllers = {"nfqca": fittedq.load(work / "agent"), **known}
    rows = {}
    for name, controller in controllers.items():
        one, true = lab.told(controller, held_out), lab.played(controller)
        rows[name] = {"true": float(true.mean()), "holds": bool(one.low <= true.mean() <= one.high), **one.describe()}
        rows[name]["returns"] = true.tolist()
        holds = "holds" if rows[name]["holds"] else "MISSES"
        print(f"{seed} {name}: {holds} {true.mean():.2f}: {one.value:.2f} [{one.low:.2f}, {one.high:.2f}]", flush=True)
        print("   ", one.sentence(), flush=True)
    return {"seed": seed, "rows": [len(learn), len(held_out)], "controllers": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("temperature_lab_work"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    known: dict[str, Any] = {**lab.tuned(), "Q1 = 30": Constant((30.0,))}
    found = []
    for seed in range(args.seeds):
        # A baseline is the same whatever the log: it is judged by the first one.
        found.append(judged(args.work / str(seed), seed, known if seed == 0 else {}))
        agents = [one["controllers"]["nfqca"] for one in found]
        ruled, searched = (found[0]["controllers"][name]["true"] for name in ("PI by SIMC", "PID by search"))
        summary = {
            "agents": len(agents),
            "hold": sum(one["holds"] for one in agents),
            "beat_the_pi_by_rule": sum(one["true"] > ruled for one in agents),
            "beat_the_searched_pid": sum(one["true"] > searched for one in agents),
        }
        if args.out:
            told = {"pids": {name: str(one) for name, one in known.items()}, "summary": summary, "logs": found}
            args.out.write_text(json.dumps(told | describe("fittedq", "jax", "numpy", "tclab"), indent=1) + "\n")
    print(summary)


if __name__ == "__main__":
    main()
