"""Updates per second of two versions of the learner, asked in turn in one run; medians and their ratio.

    git worktree add ../before COMMIT
    .venv/bin/python benchmarks/two_versions.py ../before --rounds 15

The figure for each algorithm is how much faster this checkout is than the other: 1 is as fast.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np

from learner_speed import HERE, OURS, Contestant
from machine import describe


def contestant(checkout: Path, algorithm: str, per_call: int) -> Contestant:
    """This environment's Python with the package of that checkout, driven by its own script."""
    script = checkout / "benchmarks" / "speed_ours.py"
    path = f"PYTHONPATH={checkout / 'src'}"
    return Contestant(
        str(checkout), ["env", path, OURS, str(script), f"--algorithm={algorithm}", f"--per-call={per_call}"]
    )


def commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--updates", type=int, default=100)
    args = parser.parse_args()
    checkouts, results = (args.before.resolve(), HERE.parent.resolve()), []
    for algorithm in ("sac", "td3", "ddpg"):
        for per_call in (1, 50):
            pair = [contestant(checkout, algorithm, per_call) for checkout in checkouts]
            for one in pair:
                one.wait_ready()
            for _ in range(args.rounds):
                for one in pair:
                    one.turn(args.updates)
            for one in pair:
                one.close()
            before, after = (float(np.median(one.seconds)) for one in pair)
            row = {"algorithm": algorithm, "per_call": per_call, "speed_after_by_before": round(before / after, 3)}
            results.append({**row, "seconds_per_update": [one.seconds for one in pair]})
            print(json.dumps(row), flush=True)
    about = {**describe("fittedq", "jax", "numpy"), "before": commit(args.before), "after": commit(HERE.parent)}
    (HERE / "results" / "learner_versions.json").write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
