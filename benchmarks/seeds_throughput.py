"""Seeds side by side beside a single run: steps per second of processor and by the clock, each per core.

    .venv/bin/python benchmarks/seeds_throughput.py --out benchmarks/results/seeds_throughput.json

In each round, in turns: one run on one core, then `--seeds N` with N the cores there are, one on each. Processor time
is that of the whole command with all its children, starting and compiling included (programs are kept from a run
before the first). By the clock it is the steady rate that each run tells at its last report. The ratio is that of the
medians over rounds. Other work disturbs the clock, and the processor time less; the machine's load is told.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from fittedq.files import write_json
from machine import describe

METHOD, ENV = "sac", "Pendulum-v1"


def carried_out(out: Path, seeds: int, steps: int) -> dict[str, float]:
    """Steps per second of processor, and by the clock, each per core."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ["train", METHOD, ENV, "--steps", str(steps), "--eval-every", "0", "--checkpoint-every", "0"]
    words += [
        "--set",
        "random_steps=500",
        "--seeds",
        str(seeds),
        "--processes",
        str(seeds),
        "--out",
        str(out),
        "--json",
    ]
    done = subprocess.run([sys.executable, "-m", "fittedq", *words], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    rates = [one["steps_per_second"] for one in reports if one["event"] == "report" and one["step"] == steps]
    return {"per_processor_second": seeds * steps / spent, "per_clock_second": sum(rates) / len(rates)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    rounds: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        carried_out(Path(folder) / "first", 1, 1_000)
        for number in range(given.rounds):
            found: dict[str, object] = {"load": os.getloadavg()[0]}
            for seeds in (1, cores):
                found[f"{seeds}"] = carried_out(Path(folder) / f"{number}-{seeds}", seeds, given.steps)
            rounds.append(found)
    ratios = {
        figure: median(one[str(cores)][figure] for one in rounds) / median(one["1"][figure] for one in rounds)
        for figure in ("per_processor_second", "per_clock_second")
    }
    told = {"method": METHOD, "env": ENV, "steps": given.steps, "seeds": cores, "rounds": rounds, "ratios": ratios}
    write_json(given.out, told | describe("jax", "numpy"))
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
