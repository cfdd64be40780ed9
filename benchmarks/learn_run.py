"""One learning run by the command line, resumed where it was left; its curve as data.

    .venv/bin/python benchmarks/learn_run.py --out benchmarks/results/NAME.json xqc HalfCheetah-v4 --steps 50000

What follows `--out FILE` is what `fittedq train` takes, with `--steps`. The run's folder stays under
`benchmarks/work/NAME`. A finished curve is kept, and one of fewer steps is gone on with.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from fittedq.files import write_json
from machine import describe

FIGURES = (
    "step",
    "updates",
    "eval_mean",
    "eval_min",
    "eval_max",
    "eval_returns",
    "train_return",
    "seconds",
    "critic/outside",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    args, train = parser.parse_known_args()
    if args.out.exists() and json.loads(args.out.read_text())["curve"][-1]["step"] >= args.steps:
        print(f"{args.out} is there already: kept")
        return
    folder = args.work / args.out.stem
    begun = (folder / "config.json").exists()
    words = ["resume", str(folder)] if begun else ["train", *train, "--out", str(folder)]
    command = [sys.executable, "-m", "fittedq", *words, "--steps", str(args.steps)]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        sys.exit(f"{' '.join(command)}: did not come to its end; start it again")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    looks = [line for line in lines if line.get("eval_mean") is not None]
    curve = [{name: line[name] for name in FIGURES if name in line} for line in looks]
    config = json.loads((folder / "config.json").read_text())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, {**describe("fittedq", "jax", "gymnasium", "mujoco"), "config": config, "curve": curve})
    print(f"{args.out}: {curve[-1]['eval_mean']:.0f} after {curve[-1]['step']:,} steps", flush=True)


if __name__ == "__main__":
    main()
