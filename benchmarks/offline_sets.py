"""Logged data of Hopper, HalfCheetah and Walker2d, made by our own agents.

    .venv/bin/python benchmarks/offline_sets.py --env Hopper-v5 --kind medium     # one of them
    .venv/bin/python benchmarks/offline_sets.py --queue > benchmarks/offline.txt  # all, and the runs on them

They lie under `benchmarks/work/offline_sets`. For each environment one run of SAC, seed 0, is looked at twice: `medium`
after as many steps as earn about a third of what `expert` does (`AGENTS`).

| set | who acted |
|---|---|
| random | uniform actions |
| medium | `medium`, with noise .1 |
| replay | the replay of the run up to `medium` |
| expert | episodes of `medium` and of `expert` in turn, with noise .1 |

Each set has 200 000 rows (the replay as many as the run has steps), as a dataset and as one `.npz`. What was made is in
`results/offline_sets/ENV-KIND.json`: rows, returns, the SHA-256 of the `.npz`, the machine. The sets are not in the
repository. Everything can be interrupted: what is whole is kept, a run goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import fittedq
from fittedq.acting.collect import collect
from fittedq.data.dataset import Writer
from fittedq.data.exporters import export
from fittedq.data.importers import import_dataset, open_source
from fittedq.files import write_json
from machine import describe

AGENTS = {"HalfCheetah-v5": (50_000, 300_000), "Hopper-v5": (100_000, 300_000), "Walker2d-v5": (100_000, 300_000)}
"""Steps of SAC after which it is looked at."""
KINDS = ("medium", "replay", "random", "expert")
ROWS, NOISE = 200_000, 0.1
WORK, RESULTS = Path("benchmarks/work/offline_sets"), Path("benchmarks/results")
SEEDS, UPDATES = range(3), 100_000
TELLING = [(env, kind) for env in ("HalfCheetah-v5", "Hopper-v5") for kind in ("medium", "replay")]
"""Sets that are run first, one seed after the other."""
CQL_KIND = "medium"
OURS = {
    "td3_bc": "td3_bc",
    "iql": "iql",
    "cql": "cql --set alpha=10 --set policy_learning_rate=3e-5",
}


def medium(env: str, work: Path) -> fittedq.Agent:
    """The agent, and the replay up to it, kept beside the run."""
    run, kept, replay = work / f"sac-{env}", work / f"sac-{env}-medium", work / f"{env}-replay"
    if not (kept.exists() and replay.exists()):
        steps = AGENTS[env][0]
        begun = (run / "config.json").exists()
        agent = fittedq.resume(run, steps=steps) if begun else fittedq.train("sac", env, steps=steps, out=run)
        if not replay.exists():
            import_dataset(open_source(run), out=replay, label=run.name, action_set=agent.action_set)
        agent.save(kept)
    return fittedq.load(kept)


def collected(env: str, path: Path, policies: list) -> None:
    """One set, whole or not there."""
    if path.exists():
        return
    with Writer(path) as writer:
        for _ in collect(env, ROWS, writer, policies=policies, noise=NOISE, seed=1):
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


def make(env: str, kind: str, work: Path, out: Path) -> None:
    """One set."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{env}-{kind}"
    if kind == "random":
        collected(env, path, [None])
    else:
        middling = medium(env, work)
        if kind == "medium":
            collected(env, path, [middling.act])
        if kind == "expert":
            collected(env, path, [middling.act, fittedq.resume(work / f"sac-{env}", steps=AGENTS[env][1]).act])
    data, file = fittedq.Dataset.open(path), path.with_suffix(path.suffix + ".npz")
    made = told(data, file if file.exists() else export(data, file))
    recipe = {"agents": AGENTS[env], "noise": 0.0 if kind in ("random", "replay") else NOISE}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        out, {"env": env, "kind": kind, "recipe": recipe, **made, **describe("fittedq", "jax", "numpy", "mujoco")}
    )
    print(f"{path.name}: {made}", flush=True)


def run(who: str, method: str, env: str, kind: str, seed: int) -> str:
    """The command of one run on a set."""
    name = f"{env}-{kind}"
    out = RESULTS / "offline" / f"{who}-{method}-{name}-{seed}.json"
    if who == "ours":
        return (
            f".venv/bin/python benchmarks/learn_run.py --out {out} {OURS[method]} --data {WORK / name} "
            f"--eval-env {env} --steps {UPDATES} --eval-every 10000 --eval-episodes 10 --seed {seed}"
        )
    return (
        f".venv-d3rlpy/bin/python benchmarks/offline_d3rlpy.py --method {method} --env {env} "
        f"--data {WORK / name}.npz --updates {UPDATES} --seed {seed} --out {out}"
    )


def cells() -> Iterator[tuple[str, str, str, int]]:
    """(method, environment, kind of set, seed), what tells most first."""
    for seed in SEEDS:
        yield from ((method, *one, seed) for one in TELLING for method in ("td3_bc", "iql"))
    others = [(env, kind) for kind in KINDS for env in AGENTS if (env, kind) not in TELLING]
    for seed in SEEDS:
        yield from ((method, *one, seed) for one in others for method in ("td3_bc", "iql"))
    for seed in SEEDS:
        yield from (("cql", env, CQL_KIND, seed) for env in AGENTS)


def queue() -> Iterator[str]:
    """One command a line: a set before its first run, then both libraries in turn."""
    made = set[tuple[str, str]]()
    for method, env, kind, seed in cells():
        if (env, kind) not in made:
            yield f".venv/bin/python benchmarks/offline_sets.py --env {env} --kind {kind}"
            made.add((env, kind))
        yield from (run(who, method, env, kind, seed) for who in ("ours", "d3rlpy"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=AGENTS)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--queue", action="store_true")
    parser.add_argument("--work", type=Path, default=WORK)
    args = parser.parse_args()
    if args.queue:
        print("\n".join(queue()))
        return
    if not (args.env and args.kind):
        parser.error("give --env and --kind, or --queue")
    out = RESULTS / "offline_sets" / f"{args.env}-{args.kind}.json"
    if out.exists() and (args.work / f"{args.env}-{args.kind}").exists():
        print(f"{out} is there already: kept")
        return
    make(args.env, args.kind, args.work, out)


if __name__ == "__main__":
    main()
