"""How soon fittedq starts, cold and warm; what takes turns is asked in turn, and medians are kept.

    .venv/bin/python benchmarks/startup.py

`first update` is from typing `fittedq train td3 Pendulum-v1` to a report after the first step that learns, the
1,001st: the defaults, and a checkpoint there, since a run reports where it saves. Cold, no program was ever compiled;
warm, another seed's run has left its programs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from machine import describe

RESULT = Path(__file__).parent / "results" / "startup.json"
TARGETS = {"help": 0.4, "version": 0.4, "first update, cold": 12.0, "first update, warm": 4.0}


def timed(*arguments: str, environment: dict[str, str]) -> float:
    """Seconds of a Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def first_update(seed: int, environment: dict[str, str]) -> float:
    """Seconds until a run has told of its first update."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "-m",
            "fittedq",
            "train",
            "td3",
            "Pendulum-v1",
            "--json",
            "--checkpoint-every",
            "1001",
            "--seed",
            str(seed),
            "--out",
            f"{folder}/run",
        ]
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        told = any(json.loads(line).get("updates", 0) >= 1 for line in process.stdout)
        seconds = time.perf_counter() - start
        process.kill()
        process.wait()
    if not told:
        raise SystemExit("the run ended before its first update; run the command by hand to see why")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", type=int, default=11, help="rounds of what takes no second")
    parser.add_argument("--long", type=int, default=5, help="rounds of a run's first update")
    args = parser.parse_args()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "FITTEDQ_"))}
    short = {
        "help": ("-m", "fittedq", "--help"),
        "version": ("-m", "fittedq", "--version"),
        "import jax": ("-c", "import jax"),
        "import fittedq": ("-c", "import fittedq"),
        "import all of fittedq": ("-c", "import fittedq; [getattr(fittedq, name) for name in fittedq.__all__]"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in [*short, "first update, cold", "first update, warm"]}
    for _ in range(args.short):
        for name, arguments in short.items():
            seconds[name].append(timed(*arguments, environment=kept))
    for turn in range(args.long):
        with tempfile.TemporaryDirectory() as cache:
            for seed, kind in enumerate(("cold", "warm")):
                found = first_update(2 * turn + seed, kept | {"XDG_CACHE_HOME": cache})
                seconds[f"first update, {kind}"].append(found)
    medians = {name: round(median(values), 3) for name, values in seconds.items()}
    result = {
        **describe("fittedq", "jax", "jaxlib", "numpy"),
        "medians": medians,
        "targets": TARGETS,
        "import fittedq / import jax": round(medians["import fittedq"] / medians["import jax"], 3),
        "seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
