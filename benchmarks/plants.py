"""The plants of target-gym beside their own PID and MPC: what a learned controller earns, and what an action costs.

    make plants-env                                                                     # an environment of its own
    .venv-plants/bin/python benchmarks/plants.py --plant first_order --entry plant --seed 0 1 2
    .venv-plants/bin/python benchmarks/plants.py --plant first_order cstr --entry pid mpc constant td3 svg
    .venv-plants/bin/python benchmarks/plants.py --table                                # what ran so far, as Markdown

Results are merged into `results/plants.json`, one by plant, entry and seed; what is there is not run again. Every
controller, ours too, is judged by the package's own `rollout` from its seeds 0, 1, …: the undiscounted return in the
scored configuration. The last agent is judged. Learning takes as many steps as are asked for; compiling is in its
seconds, which are the wall's and all cores' together (the machine may have had other work). `constant` holds the middle
of the actions. An entry's settings are the same on every plant.

The entries in `TOLD` are told which coordinate is measured and which is its set-point (`error`), as the package's PIDs
are: its environments say so themselves (`obs_value_index`, `obs_target_index`). `recorded` are the ten returns that the
package's repository keeps of its own PID and MPC, with their source.

The PID of the package tunes its gains when it is first asked for, on every plant in turn, and keeps them beside the
package: let that end (it is not counted), for plants that it did not come to have other gains. Its wheel leaves out the
gains that its repository publishes (data/pid_gains.json of YannBerthelot/TargetGym, at commit 0914aac): with `--gains
FILE` the entry `pid, published gains` is the same controller with those, and the table takes the best of the three.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fittedq
from fittedq.files import write_bytes
from machine import describe

RESULT = Path("benchmarks/results/plants.json")
LOCK = Path("benchmarks/work/plants.lock")
PUBLISHED = "pid, published gains"
PACKAGES = ("jax", "numpy", "target-gym", "gymnax")
LOOP: dict[str, Any] = {"n_envs": 8, "updates_per_step": 0.5, "replay_size": 100_000, "random_steps": 1_000}
USUAL = LOOP | {"hidden": (64, 64), "gamma": 0.95, "normalize_obs": True}
WIDE = LOOP | {
    "hidden": (128, 128),
    "gamma": 0.97,
    "updates_per_step": 0.25,
    "replay_size": 200_000,
    "random_steps": 2_000,
}
SMOOTH = {"policy": "deterministic", "dynamics": "env", "policy_learning_rate": 1e-3, "critic_learning_rate": 1e-3}
THROUGH = {
    "hidden": (64, 64),
    "gamma": 0.97,
    "n_envs": 8,
    "updates_per_step": 0.125,
    "batch_size": 64,
    "replay_size": 100_000,
    "random_steps": 2_000,
    "normalize_obs": True,
    "scale_rewards": True,
    "keep": "average",
    "policy": "deterministic",
    "dynamics": "env",
    "critic_learning_rate": "linear:1e-3:1e-4",
    "policy_learning_rate": "linear:1e-3:1e-4",
}
LONG = {
    "horizon": "16",
    "gamma": 0.99,
    "updates_per_step": 0.25,
    "replay_size": 200_000,
    "policy_learning_rate": "linear:1e-3:1e-5",
}
UNTOLD = "plant, white noise, errors untold"
WHITE = {"preset": "plant", "noise_reversion": 1.0}
ENTRIES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "plant": ("auto", 300_000, {"preset": "plant"}),
    "plant, short": ("auto", 100_000, {"preset": "plant"}),
    UNTOLD: ("auto", 100_000, WHITE),
    f"{UNTOLD}, one step": ("auto", 100_000, WHITE | {"n_step": 1}),
    "td3": ("td3", 30_000, USUAL),
    "td3, history": ("td3", 30_000, USUAL | {"history": 3}),
    "td3, wide": ("td3", 60_000, WIDE | {"normalize_obs": True, "batch_size": 128}),
    "svg": ("svg", 20_000, WIDE | SMOOTH | {"horizon": "5", "batch_size": 128}),
    "svg, normalized": ("svg", 20_000, WIDE | SMOOTH | {"horizon": "5", "batch_size": 128, "normalize_obs": True}),
    "svg, horizon 16": ("svg", 40_000, THROUGH | {"horizon": "16"}),
    "svg, long": ("svg", 200_000, THROUGH | LONG),
}
"""(method, steps, settings) by name."""
TOLD = ("plant", "plant, short", "svg, horizon 16", "svg, long")
RECORDED = {"pid": "pid, recorded", "mpc": "mpc, recorded"}
PIDS = ("pid", PUBLISHED, RECORDED["pid"])
MPCS = (RECORDED["mpc"], "mpc")

Policy = Callable[..., Any]
"""obs → action, or (obs, state) → action, as the package's `rollout` calls it."""


def judged(spec: Any, params: Any, make: Callable[[], Policy], episodes: int) -> dict[str, Any]:
    """Returns over the package's seeds, and the milliseconds that an action takes at the median."""
    from target_gym.runners.runners import rollout

    returns, seconds = [], []
    for seed in range(episodes):
        policy, taken = make(), []

        def timed(obs: Any, state: Any, policy: Policy = policy, taken: list[float] = taken) -> Any:
            start = time.perf_counter()
            action = policy(obs, state)
            taken.append(time.perf_counter() - start)
            return action

        returns.append(float(np.sum(rollout(spec, params, timed, seed)[2])))
        seconds += taken
    return {"returns": returns, "mean": float(np.mean(returns)), "action_ms": 1e3 * float(np.median(seconds))}


def ours(agent: fittedq.Agent) -> Policy:
    """A fresh loop of the agent."""
    loop = agent.controller().loop()
    return lambda obs, state: loop.act(np.asarray(obs, np.float32))


@contextlib.contextmanager
def with_gains(file: Path | None) -> Iterator[None]:
    """The package's PID with the gains of a file in place of those it tuned itself."""
    from target_gym.experts import pid

    before, pid._gains_cache = pid._gains_cache, json.loads(file.read_text()) if file else pid._gains_cache
    try:
        yield
    finally:
        pid._gains_cache = before


def errors(env: Any) -> tuple[str, ...]:
    """The errors of a plant of the package, as the setting `error` has them: MEASURED:SET_POINT."""
    pairs = zip(np.atleast_1d(env.obs_value_index), np.atleast_1d(env.obs_target_index), strict=True)
    return tuple(f"{measured}:{set_point}" for measured, set_point in pairs)


def run(name: str, entry: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One controller on one plant."""
    episodes, steps = given.episodes, given.steps
    from target_gym.registry import REGISTRY
    from target_gym.runners.runners import baseline_policy

    spec = REGISTRY[name]
    params = spec.make_test_params()
    env = fittedq.Gymnax(spec.make_env(), params)
    if entry == "constant":
        middle = np.asarray(env.action_set.center, np.float32)
        return judged(spec, params, lambda: lambda obs, state: middle, episodes)
    if entry in ("pid", PUBLISHED, "mpc"):
        with with_gains(given.gains if entry == PUBLISHED else None):
            return judged(spec, params, lambda: baseline_policy(spec, entry.split(",")[0], params), episodes)
    method, usual, settings = ENTRIES[entry]
    settings = settings | ({"error": errors(spec.make_env())} if entry in TOLD else {})
    start, worked = time.perf_counter(), time.process_time()
    agent = fittedq.train(method, env, steps=steps or usual, seed=seed, **settings)
    seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - worked}
    found = judged(spec, params, lambda: ours(agent), episodes)
    return (
        found | {name: round(one, 1) for name, one in seconds.items()} | {"steps": steps or usual, "settings": settings}
    )


def kept(key: str, found: dict[str, Any]) -> dict[str, Any]:
    """The file's results and this one, which is written; several processes may run at once."""
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = (json.loads(RESULT.read_text()) if RESULT.exists() else {}) | {key: found}
        write_bytes(RESULT, (json.dumps(results, indent=1) + "\n").encode())
    return results


RESAMPLES = 4_000


def interval(figure: Callable[..., Any], ours: Any, *theirs: Any) -> tuple[float, float, float]:
    """(value, low, high) of figure(mean return, means of others), 95 %: the bootstrap draws our seeds [k] of training,
    and the package's seeds [n], which all controllers share, so that what they have in common cancels.

    `ours` is [k, n], `theirs` are [n].
    """
    rng, (k, n) = np.random.default_rng(0), ours.shape
    seeds, episodes = rng.integers(k, size=(RESAMPLES, k)), rng.integers(n, size=(RESAMPLES, n))
    drawn = ours[seeds[:, :, None], episodes[:, None, :]].mean((1, 2))
    value = figure(ours.mean(), *(one.mean() for one in theirs))
    low, high = np.quantile(figure(drawn, *(one[episodes].mean(1) for one in theirs)), [0.025, 0.975])
    return float(value), float(low), float(high)


def told(found: tuple[float, float, float] | None, digits: int) -> str:
    return "–" if found is None else "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*found, d=digits)


def row(own: dict[str, list[dict[str, Any]]], entry: str) -> dict[str, Any]:
    """What the table says of one plant: means, and an entry with its intervals beside the best PID and MPC."""

    def best(names: tuple[str, ...]) -> Any:
        there = [own[name][0]["returns"] for name in names if name in own]
        return np.array(max(there, key=np.mean)) if there else None

    constant, pid = best(("constant",)), best(PIDS)
    mpc = next((np.array(own[name][0]["returns"]) for name in MPCS if name in own), None)
    ours = [one["returns"] for one in own.get(entry, [])]
    says: dict[str, Any] = {"constant": constant, "pid": pid, "mpc": mpc, "seeds": len(ours), "ours": None}
    says |= {"means": [float(np.mean(one)) for one in ours], "ahead": None, "share": None}
    if ours:
        ours = np.array([one[: min(map(len, ours))] for one in ours])
        says["ours"] = interval(lambda mean: mean, ours)
        if pid is not None:
            says["ahead"] = interval(lambda mean, other: mean - other, ours, pid[: ours.shape[1]])
        if mpc is not None and constant is not None:
            ends = (constant[: ours.shape[1]], mpc[: ours.shape[1]])
            says["share"] = interval(lambda mean, low, high: (mean - low) / (high - low), ours, *ends)
    return says


def counted(found: list[tuple[float, float, float]], limit: float) -> str:
    """How many values, and how many whole intervals, are at the limit or above."""
    values, whole = (sum(one[place] >= limit for one in found) for place in (0, 1))
    return f"{values} of {len(found)}, {whole} of them with the whole interval"


def table(results: dict[str, Any], entry: str) -> str:
    """By plant, with 95 % intervals: a constant action, the best of its PIDs, MPC and an entry; how far the entry is
    ahead of the PID, and its share of the way from the constant action to MPC. Plants without the entry are named."""
    lines = [f"| plant | constant | PID | MPC | {entry} | its seeds | ahead of the PID | share |", "|---" * 8 + "|"]
    rows: dict[str, dict[str, Any]] = {}
    absent = []
    for plant in dict.fromkeys(key.split("/")[0] for key in results):
        own: dict[str, list[dict[str, Any]]] = {}
        for key, one in sorted(results.items()):
            if key.startswith(f"{plant}/"):
                own.setdefault(key.split("/")[1], []).append(one)
        if entry not in own:
            absent.append(plant)
            continue
        rows[plant] = says = row(own, entry)
        ends = ["–" if says[name] is None else f"{says[name].mean():.1f}" for name in ("constant", "pid", "mpc")]
        cells = [told(says["ours"], 1), ", ".join(f"{mean:.1f}" for mean in says["means"])]
        lines.append(
            f"| {plant} | " + " | ".join([*ends, *cells, told(says["ahead"], 1), told(says["share"], 2)]) + " |"
        )
    ahead, share = ([says[name] for says in rows.values() if says[name]] for name in ("ahead", "share"))
    return "\n".join(
        [
            *lines,
            "",
            f"Ahead of the PID: {counted(ahead, 0.0)}. At a share of .95: {counted(share, 0.95)}.",
            *([f"Not run: {', '.join(absent)}."] if absent else []),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plant", nargs="+", default=[])
    parser.add_argument(
        "--entry",
        nargs="+",
        default=["pid", "constant", "td3"],
        choices=["pid", PUBLISHED, "mpc", "constant", *ENTRIES],
    )
    parser.add_argument("--gains", type=Path, default=None, help=f"of the entry {PUBLISHED!r}")
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--steps", type=int, default=None, help="in place of the entry's own")
    parser.add_argument("--table", nargs="?", const="plant", choices=list(ENTRIES), help="of an entry")
    given = parser.parse_args()
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for plant in given.plant:
        for entry in given.entry:
            for seed in given.seed if entry in ENTRIES else [0]:
                key = f"{plant}/{entry}/{seed}"
                results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
                if key in results:
                    continue
                found = run(plant, entry, seed, given) | {"about": describe(*PACKAGES)}
                results = kept(key, found)
                print(key, round(results[key]["mean"], 2), results[key].get("seconds", ""), flush=True)
    if given.table or not given.plant:
        print(table(results, given.table or "plant"))


if __name__ == "__main__":
    main()
