"""What a controller's solver is worth, and how often it can act: the actor, refining steps, many starts, a certificate.

    .venv/bin/python benchmarks/controller_table.py --plants-python .venv-plants/bin/python    # all of it
    .venv/bin/python benchmarks/controller_table.py --env pendulum hopper                      # some
    .venv/bin/python benchmarks/controller_table.py --show                                     # as Markdown

At 16 states that the agent meets: q(s, a) at the action that each controller takes, what is proven to be left of it
(the certified upper bound less that, as a share of the range of q), and its time per action on one core. The actor and
the refining steps are exported to C and timed there, in 5,000 calls; many starts are compiled by JAX, one state at a
time; the certificate is a search of at most a second for each state. The rate is that of the median: at the end of
each table stands the load of the machine while it was measured, and with other work on it the 99th percentile is that
work's. On target-gym's plants the package's own MPC stands beside them, timed along one of its episodes. Trained agents
are kept in `benchmarks/work/controllers`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from controllers import AGENTS, ON_PLANTS, Trained
from fittedq.agent import Agent
from fittedq.envs.plant import AnyEnv
from fittedq.export.c_file import compile_with
from fittedq.export.c_source import template
from fittedq.export.timing import TIMED_WITH, one_core, summary
from fittedq.maximize.base import random_starts, solve
from fittedq.maximize.local.ascent import ProjectedAscent
from machine import describe

RESULT = Path("benchmarks/results/controller_table.json")
STATES, STARTS, ROUNDS, CALLS, SECONDS = 16, 32, 5, 1_000, 1.0
REFINE, TRUST = (0, 1, 2, 4, 8, 16), 2.0
PLANTS = ("first_order", "cstr", "four_tank")
MPC_ACTIONS, MPC_SECONDS = 60, 20.0
"""Of the MPC of a plant: it is timed at so many samples, or for so long."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="*", default=["pendulum", "two_tanks", "hopper"], choices=list(AGENTS))
    parser.add_argument("--plant", nargs="*", default=[], help="of target-gym, where it is installed")
    parser.add_argument("--plants-python", help="an interpreter that has target-gym: do its plants with it")
    parser.add_argument("--show", action="store_true", help="what ran, and nothing else")
    given = parser.parse_args()
    for name in [] if given.show else given.env:
        env, trained = AGENTS[name]
        measured(name, trained, env, [])
    for name in [] if given.show else given.plant:
        from_target_gym(name)
    if given.plants_python and not given.show:
        words = [given.plants_python, __file__, "--env", "--plant", *PLANTS]
        subprocess.run(words, check=True)
    if given.show:
        print("\n\n".join([summarized(results()), *(markdown(name, one) for name, one in results().items())]))


def results() -> dict[str, Any]:
    return json.loads(RESULT.read_text()) if RESULT.exists() else {}


def measured(name: str, trained: Trained, env: AnyEnv, beside: list[dict[str, Any]]) -> None:
    """The table of one agent, which is kept; `beside` are rows of other controllers."""
    agent = trained.agent(name, env)
    before = os.getloadavg()[0]
    with one_core():
        rows = [*table(agent, env), *beside]
    how = {"flags": TIMED_WITH, "states": STATES, "trust": TRUST, "seconds_a_certificate": SECONDS}
    load = {"load_average": [round(one, 1) for one in (before, os.getloadavg()[0])]}
    agents = {"agent": str(trained), "critic": [agent.obs_size + agent.action_set.size, *agent.algorithm.hidden]}
    found = describe("fittedq", "numpy", "jax") | agents | how | load | {"rows": rows}
    RESULT.write_text(json.dumps(results() | {name: found}, indent=1) + "\n")
    print(markdown(name, found), end="\n\n", flush=True)


def table(agent: Agent, env: AnyEnv) -> Iterator[dict[str, Any]]:
    """One row for each controller."""
    met = agent.trajectory(env, 400).obs
    obs = np.asarray(met[np.linspace(0, len(met) - 1, STATES).astype(int)], np.float32)
    agent.gap(obs[:1], tol=1e-3, state_time_limit=SECONDS)  # what is compiled, is compiled
    took, parts = [], []
    for one in obs:
        began = time.perf_counter()
        parts.append(agent.gap(one[None], tol=1e-3, state_time_limit=SECONDS))
        took.append(1e6 * (time.perf_counter() - began))
    gap = parts[0].joined(parts)

    def row(name: str, value: np.ndarray, micros: dict[str, float], where: str) -> dict[str, Any]:
        left = np.maximum(gap.upper_bound - value, 0) / gap.scale
        shares = {"mean": round(float(left.mean()), 6), "worst": round(float(left.max()), 6)}
        return {"controller": name, "value": round(float(value.mean()), 5), "proven_gap": shares} | speed(micros, where)

    for steps in REFINE:
        loop = agent.loop(refine=steps, trust=TRUST if steps else None)
        action = np.array([np.ravel(loop.step(one)[0]) for one in obs])
        name = f"actor + {steps} refining step{'s' * (steps > 1)}" if steps else "actor alone"
        yield row(name, agent.value(obs, action), in_c(agent, steps, met), "C")
    action, micros = multistart(agent, obs)
    yield row(f"{STARTS} starts at once", agent.value(obs, action), micros, "jax.jit")
    yield row("certified argmax", gap.best_value, summary(np.array(took)), "Python")


def speed(micros: dict[str, float], where: str) -> dict[str, Any]:
    """The rate at which half of the actions are ready in time, and that at which 99 of 100 are."""
    rates = {share: round(1e6 / micros[share], 2) for share in ("p50", "p99")}
    return {"microseconds": micros, "hertz": rates, "in": where}


def in_c(agent: Agent, steps: int, met: np.ndarray) -> dict[str, float]:
    """Of the exported controller, compiled for this machine."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "c"
        agent.export(folder, "c", refine=steps, trust=TRUST if steps else None, samples=100)
        (folder / "timer.c").write_text(template("timer.c"))
        rows = np.ascontiguousarray(met[np.arange(CALLS) % len(met)], np.float32)
        (folder / "rows").write_bytes(rows.tobytes())
        compile_with([*TIMED_WITH, "-DFQ_WEIGHTS=1", "-o", "timer", "timer.c", "controller.c", "-lm"], folder)
        run = [folder / "timer", "rows"]
        told = [subprocess.run(run, cwd=folder, check=True, capture_output=True, text=True) for _ in range(ROUNDS)]
    return summary(np.array([float(line) for one in told for line in one.stdout.split()]))


def multistart(agent: Agent, obs: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Projected ascent from the actor's action and random ones, one state at a time."""
    critic, key = jax.tree.map(jnp.asarray, agent.nets.critic), jax.random.key(0)
    seen = obs if agent.moments is None else np.asarray(agent.moments.normalize(obs))

    def search(place: int) -> np.ndarray:
        s = jnp.asarray(seen[place : place + 1])
        own = jnp.asarray(agent.act_flat(obs[place : place + 1]))[:, None]
        starts = jnp.concatenate([own, random_starts(agent.action_set, s, STARTS - 1, key)], axis=1)
        return np.asarray(solve(ProjectedAscent(), critic, s, agent.action_set, starts, key).action)[0]

    return np.array([search(place) for place in range(len(obs))]), summary(np.array(times(search, len(obs))))


def times(call: Callable[[int], object], count: int) -> list[float]:
    """Microseconds of calls, over and over."""
    took = []
    for turn in range(100):
        began = time.perf_counter()
        call(turn % count)
        took.append(1e6 * (time.perf_counter() - began))
    return took


def from_target_gym(name: str) -> None:
    """One plant of the package, beside its own MPC."""
    from target_gym.registry import REGISTRY
    from target_gym.runners.runners import baseline_policy, rollout

    import fittedq

    spec = REGISTRY[name]
    params, took = spec.make_test_params(), list[float]()
    policy, began = baseline_policy(spec, "mpc", params), time.perf_counter()

    def timed(obs: Any, state: Any) -> Any:
        start = time.perf_counter()
        action = policy(obs, state)
        took.append(1e6 * (time.perf_counter() - start))
        if len(took) > MPC_ACTIONS or time.perf_counter() - began > MPC_SECONDS:
            raise TimeoutError
        return action

    try:
        with one_core():
            rollout(spec, params, timed, 0)
    except TimeoutError:
        pass
    mpc = {"controller": "the package's MPC", "value": None, "proven_gap": None, "actions": len(took) - 1}
    beside = mpc | speed(summary(np.array(took[1:] or took)), "its own solver")
    measured(name, ON_PLANTS, fittedq.Gymnax(spec.make_env(), params), [beside])


def summarized(results: dict[str, Any]) -> str:
    """All agents: the gap that each controller leaves, and the median of its time."""
    names = [row["controller"] for row in max((one["rows"] for one in results.values()), key=len)]
    lines = [["agent, its critics", *names], ["---"] * (len(names) + 1)]
    for agent, one in results.items():
        rows = {row["controller"]: row for row in one["rows"]}
        cells = [spoken(rows[name]) if name in rows else "–" for name in names]
        lines.append([f"{agent}, {'–'.join(map(str, one['critic']))}", *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spoken(row: dict[str, Any]) -> str:
    micros, gap = float(f"{row['microseconds']['p50']:.2g}"), row["proven_gap"]
    took = f"{micros:g} µs" if micros < 1000 else f"{micros / 1000:g} ms"
    return took if gap is None else f"{gap['mean']:.2%}, {took}"


def markdown(name: str, found: dict[str, Any]) -> str:
    """One agent's table."""
    head = ["controller", "q reached", "proven gap left, mean (worst)", "p50, µs", "p99, µs", "highest rate, Hz", "in"]
    lines = [head, ["---"] * len(head)]
    for row in found["rows"]:
        gap, micros = row["proven_gap"], row["microseconds"]
        left = "–" if gap is None else f"{gap['mean']:.3%} ({gap['worst']:.2%})"
        value = "–" if row["value"] is None else f"{row['value']:.4f}"
        rate = float(f"{row['hertz']['p50']:.3g}")
        both = [f"{micros[share]:,.4g}" for share in ("p50", "p99")]
        lines.append([row["controller"], value, left, *both, f"{rate:,.10g}", row["in"]])
    said = f"{name} ({found['agent']}; critics {'–'.join(map(str, found['critic']))}; load {found['load_average']})"
    return f"**{said}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
