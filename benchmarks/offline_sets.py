"""Logged data of Hopper, HalfCheetah and Walker2d, made by our own agents.

    .venv/bin/python benchmarks/offline_sets.py --env Hopper-v5        # four sets, under benchmarks/work/offline
    .venv/bin/python benchmarks/offline_sets.py --queue ours > benchmarks/offline_ours.txt      # the runs on them
    .venv/bin/python benchmarks/offline_sets.py --queue d3rlpy > benchmarks/offline_d3rlpy.txt

One run of SAC, seed 0: `medium` is its agent after 100 000 steps, `expert` that after 500 000.

| set | who acted |
|---|---|
| random | uniform actions |
| medium | `medium`, with noise .1 |
| replay | the replay of the run up to `medium` |
| expert | episodes of `medium` and of `expert` in turn, with noise .1 |

Each set has 200 000 rows (the replay as many as the run has steps), as a dataset and as one `.npz`. What was made
is in `results/offline_sets/ENV.json`: rows, returns, the SHA-256 of the `.npz`, the machine. The sets are not in the
repository. Everything can be interrupted: what is whole is kept, a run goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np

import fittedq
from fittedq.acting.collect import collect
from fittedq.data.dataset import Writer
from fittedq.data.exporters import export
from fittedq.data.importers import import_dataset, open_source
from fittedq.files import write_json
from machine import describe

ENVS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5")
KINDS = ("random", "medium", "replay", "expert")
MEDIUM, EXPERT, ROWS, NOISE = 100_000, 500_000, 200_000, 0.1
WORK, RESULTS = Path("benchmarks/work/offline"), Path("benchmarks/results")
SEEDS, UPDATES = range(3), 100_000
CQL_SETS = tuple(f"{env}-medium" for env in ENVS)
OURS = {
    "td3_bc": "td3_bc",
    "iql": "iql",
    "cql": "cql --set alpha=10 --set policy_learning_rate=3e-5",
}


def agents(env: str, run: Path, medium: int, expert: int) -> tuple[fittedq.Agent, fittedq.Agent]:
    """(medium, expert), the medium one and the replay up to it kept beside the run."""
    kept = run.with_name(f"{run.name}-medium")
    if not kept.exists():
        begun = (run / "config.json").exists()
        agent = fittedq.resume(run, steps=medium) if begun else fittedq.train("sac", env, steps=medium, out=run)
        replay = run.with_name(f"{env}-replay")
        if not replay.exists():
            import_dataset(open_source(run), out=replay, label=str(run), action_set=agent.action_set)
        agent.save(kept)
    return fittedq.load(kept), fittedq.resume(run, steps=expert)


def collected(env: str, path: Path, policies: list, rows: int) -> None:
    """One set, whole or not there."""
    if path.exists():
        return
    with Writer(path) as writer:
        for _ in collect(env, rows, writer, policies=policies, noise=NOISE, seed=1):
            pass
        writer.finish()


def told(data: fittedq.Dataset, file: Path) -> dict[str, object]:
    """What a set is: its size, what it earned, its bytes."""
    reward = data.columns["reward"]
    returns = [float(reward[start:stop].sum()) for start, stop in data.episodes()]
    return {
        "rows": len(data),
        "episodes": len(returns),
        "return_mean": float(np.mean(returns)),
        "return_most": max(returns),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


def make(env: str, medium: int, expert: int, rows: int, work: Path, out: Path) -> None:
    """All sets of one environment."""
    work.mkdir(parents=True, exist_ok=True)
    collected(env, work / f"{env}-random", [None], rows)
    middling, best = agents(env, work / f"sac-{env}", medium, expert)
    collected(env, work / f"{env}-medium", [middling.act], rows)
    collected(env, work / f"{env}-expert", [middling.act, best.act], rows)
    sets = {}
    for kind in KINDS:
        data, file = fittedq.Dataset.open(work / f"{env}-{kind}"), work / f"{env}-{kind}.npz"
        sets[kind] = told(data, file if file.exists() else export(data, file))
    recipe = {"medium": medium, "expert": expert, "rows": rows, "noise": NOISE}
    out.parent.mkdir(parents=True, exist_ok=True)
    machine = describe("fittedq", "jax", "numpy", "gymnasium", "mujoco")
    write_json(out, {"env": env, "recipe": recipe, "sets": sets, **machine})
    print(json.dumps(sets, indent=1))


def queue(who: str) -> list[str]:
    """One command a run."""
    lines = []
    for env in ENVS:
        for kind in KINDS:
            name = f"{env}-{kind}"
            for method in ("td3_bc", "iql", *(["cql"] if name in CQL_SETS else [])):
                for seed in SEEDS:
                    out = RESULTS / "offline" / f"{who}-{method}-{name}-{seed}.json"
                    ours = (
                        f".venv/bin/python benchmarks/learn_run.py --out {out} {OURS[method]} --data {WORK / name} "
                        f"--eval-env {env} --steps {UPDATES} --eval-every 10000 --eval-episodes 10 --seed {seed}"
                    )
                    theirs = (
                        f".venv-d3rlpy/bin/python benchmarks/offline_d3rlpy.py --method {method} --env {env} "
                        f"--data {WORK / name}.npz --updates {UPDATES} --seed {seed} --out {out}"
                    )
                    lines.append(ours if who == "ours" else theirs)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=ENVS)
    parser.add_argument("--queue", choices=("ours", "d3rlpy"))
    parser.add_argument("--medium", type=int, default=MEDIUM)
    parser.add_argument("--expert", type=int, default=EXPERT)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.queue:
        print("\n".join(queue(args.queue)))
        return
    out = args.out or RESULTS / "offline_sets" / f"{args.env}.json"
    if out.exists():
        print(f"{out} is there already: kept")
        return
    make(args.env, args.medium, args.expert, args.rows, args.work, out)


if __name__ == "__main__":
    main()
