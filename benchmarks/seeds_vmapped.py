"""Seeds of a JAX environment in one program (`vmap`) beside one pinned process for each: steps per second of all seeds.

    .venv/bin/python benchmarks/seeds_vmapped.py --out benchmarks/results/seeds_vmapped.json

The compiled loop of a run is mapped over `--seeds` states whose counters are shared, so that its conditions stay
branches. Every case is a process of its own on the cores it is given, and JAX has a thread for each. Each is timed on a
second call, once its program is compiled and the updates have begun. Rounds go in turns; the figure is the median of
their rates per second of processor and per second by the clock. Other work disturbs the clock, and the processor less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import equinox as eqx
import jax
import jax.numpy as jnp

from fittedq.files import write_json
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from fittedq.trainers.compiled import CompiledTrainer, LoopState
from machine import describe

SIZES = {"usual": {}, "small": {"hidden": (64, 64), "batch_size": 64}}
ENVS = ("jax/Pendulum-v1", "jax/TwoTanks-v1")
METHODS = ("td3", "sac")
REPLAY = 50_000


def shared(state: LoopState) -> LoopState:
    """The axes of a loop's state over seeds: 0, but for what counts, which all seeds have in common."""
    axes = jax.tree.map(lambda _: 0, state)
    counters = lambda one: (one.step, one.learner.step, one.replay.size, one.replay.position)  # noqa: E731
    return eqx.tree_at(counters, axes, (None,) * 4)


def rates(method: str, env: str, size: str, seeds: int, steps: int) -> dict[str, float]:
    """Steps of all seeds a second, of processor and by the clock."""
    settings = SIZES[size] | {"random_steps": steps // 2, "replay_size": REPLAY}
    trainers: list[CompiledTrainer] = []
    for seed in range(seeds):
        trainer = Run(method, env, Schedule(steps=10**6), settings=settings, seed=seed).trainer
        assert isinstance(trainer, CompiledTrainer)
        trainers.append(trainer)
    states, axes = [one._state for one in trainers], shared(trainers[0]._state)

    def stacked(axis: int | None, *leaves: jax.Array) -> jax.Array:
        return leaves[0] if axis is None else jnp.stack(leaves)

    state = states[0]
    scan = trainers[0]._scan
    if seeds > 1:
        state = jax.tree.map(stacked, axes, *states, is_leaf=lambda one: one is None)
        scan = jax.vmap(scan, in_axes=(axes, None), out_axes=(axes, 0))
    run = jax.jit(scan, static_argnums=1, donate_argnums=0)
    state, _ = jax.block_until_ready(run(state, steps))  # past the random steps
    before, clock = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    jax.block_until_ready(run(state, steps))
    spent, clock = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - clock
    processor = spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime
    return {"per_processor_second": seeds * steps / processor, "per_second": seeds * steps / clock}


def in_a_process(cores: int, *words: object) -> dict[str, float]:
    """`rates` on so many cores."""
    command = [sys.executable, __file__, "--case", json.dumps(words), "--cores", str(cores)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 5])
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--envs", nargs="+", default=list(ENVS))
    parser.add_argument("--sizes", nargs="+", default=list(SIZES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case")
    parser.add_argument("--cores", type=int)
    given = parser.parse_args()
    if given.case is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])
        print(json.dumps(rates(*json.loads(given.case))))
        return
    cores, found = len(os.sched_getaffinity(0)), []
    for method in given.methods:
        for env in given.envs:
            for size in given.sizes:
                cases = [(1, 1), *((on, seeds) for seeds in given.seeds for on in sorted({1, cores}))]
                rounds = [
                    [in_a_process(on, method, env, size, seeds, given.steps) for on, seeds in cases]
                    for _ in range(given.rounds)
                ]
                for place, (on, seeds) in enumerate(cases):
                    told = {name: median(one[place][name] for one in rounds) for name in rounds[0][place]}
                    told |= {"per_second_and_core": told["per_second"] / on}
                    row = {"method": method, "env": env, "size": size, "cores": on, "seeds": seeds, **told}
                    found.append(row | {"rounds": [one[place] for one in rounds]})
                    print({name: value for name, value in found[-1].items() if name != "rounds"}, flush=True)
                if given.out is not None:
                    load = {"load": os.getloadavg()[0]}
                    write_json(given.out, {"rows": found, "steps": given.steps, **load, **describe("jax", "numpy")})


if __name__ == "__main__":
    main()
