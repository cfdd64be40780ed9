"""Certified maxima of critics of many sizes, state by state and pooled, beside HiGHS and SCIP on the same instances.

    taskset -c 1 .venv/bin/python benchmarks/certified.py

Critics: random ones (weights 2.5 times those of initialization, so that there are hills), ones fitted to a smooth
function of many peaks, and those that SAC and TD3 learned (benchmarks/work, 100 000 steps, 10 000 on Pendulum), at
states of a rollout of their own policy; `min` is the least of the two critics. A gap of 1e-3 means
upper − value ≤ 1e-3 · max(1, |value|) in real arithmetic. Every configuration is a row of the JSON file and is kept
when the program is started again. Times are those of one thread: `cpu` is the processor's, which other work on the
machine does not lengthen, `wall` the clock's. SCIP is a peer of benchmarks/requirements.txt, in .venv-peers.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import load_file

from fittedq.actions.base import Box
from fittedq.agent import Agent
from fittedq.algorithms import find
from fittedq.approx.networks import Mlp, QNetwork
from fittedq.maximize.base import Status
from fittedq.maximize.exact.milp import _encode, milp
from fittedq.maximize.proofs.bounds import FoldedNetwork, members_of
from fittedq.maximize.proofs.certified import certified
from fittedq.maximize.region import region_of
from fittedq.trainers.state import from_arrays
from machine import describe

OBS = 11
LIMIT = 10.0
POOL = 256
"""States in one call where ours is asked for many at once beside solvers that take one."""
WORK = Path("benchmarks/work")
OUT = Path("benchmarks/results/certified.json")
PROVEN = (Status.OPTIMAL, Status.ROUNDED)
"""Within the tolerance in real arithmetic."""
PEER = Path(".venv-peers/bin/python")
SIZES = {"2x16": (16, 16), "2x64": (64, 64), "2x256": (256, 256), "3x256": (256, 256, 256)}


class Instance(NamedTuple):
    """A critic, states of it, and the actions its policy takes there (None: there is no policy)."""

    critic: QNetwork
    obs: np.ndarray
    action_set: Box
    policy: np.ndarray | None = None


def untrained(size: str, m: int, activation: str, layer_norm: bool, seed: int = 0) -> QNetwork:
    """A critic as it is initialized, in a box of half-width 1."""
    box = Box([-1.0] * m, [1.0] * m)
    key = jax.random.key(seed)
    return QNetwork(
        OBS,
        box,
        SIZES[size],
        key,
        n_critics=1,
        activation=activation,
        make=functools.partial(Mlp, layer_norm=layer_norm),
    )


def random_critic(size: str, m: int, activation: str, layer_norm: bool) -> Instance:
    critic = untrained(size, m, activation, layer_norm)
    weights = tuple(np.asarray(weight) * np.float32(2.5) for weight in critic.net.weights)
    critic = eqx.tree_at(lambda c: c.net.weights, critic, weights)
    return Instance(critic, standard_states(1000), critic.action_set)


def standard_states(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, OBS)).astype(np.float32)


def fitted_critic(size: str, m: int, activation: str, layer_norm: bool, steps: int = 1000) -> Instance:
    """After `steps` of Adam on y = Σ_j c_j cos(w_j · [s, a] + φ_j) − ‖a‖² / 4."""
    critic, adam = untrained(size, m, activation, layer_norm), optax.adam(1e-3)
    wave_key, phase_key, weight_key, data_key = jax.random.split(jax.random.key(1), 4)
    scale = jnp.where(jnp.arange(OBS + m) < OBS, 0.3, 1.5)[:, None]
    target = (
        jax.random.normal(wave_key, (OBS + m, 64)) * scale,
        jax.random.uniform(phase_key, (64,), maxval=2 * np.pi),
        jax.random.normal(weight_key, (64,)) / 8,
    )

    def loss(critic: QNetwork, target: Any, key: jax.Array) -> jax.Array:
        waves, phase, weight = target
        obs_key, action_key = jax.random.split(key)
        obs = jax.random.normal(obs_key, (256, OBS))
        action = jax.random.uniform(action_key, (256, m), minval=-1, maxval=1)
        y = jnp.cos(jnp.concatenate([obs, action], -1) @ waves + phase) @ weight - jnp.sum(action**2, -1) / 4
        return jnp.mean((critic(obs, action)[0] - y) ** 2)

    @jax.jit
    def fit(critic: QNetwork, target: Any, key: jax.Array) -> QNetwork:
        def step(index: jax.Array, state: Any) -> Any:
            critic, adam_state = state
            gradient = jax.grad(loss)(critic, target, jax.random.fold_in(key, index))
            updates, adam_state = adam.update(gradient, adam_state)
            return optax.apply_updates(critic, updates), adam_state

        return jax.lax.fori_loop(0, steps, step, (critic, adam.init(critic)))[0]

    fitted = jax.tree.map(np.asarray, fit(critic, target, data_key))
    return Instance(fitted, standard_states(1000), fitted.action_set)


def learned_agent(run: str) -> Agent:
    """The agent of the newest checkpoint in benchmarks/work/RUN."""
    _, name, *env, _ = run.split("-")
    match = re.fullmatch(r"(sac|td3)(\d*)", name)  # "sac64": SAC with layers 64–64
    assert match, f"{run}: expected a run of SAC or TD3"
    algorithm = find(match[1])(**({"hidden": (int(match[2]),) * 2} if match[2] else {}))
    env_id = "-".join(env)
    made = gym.make(env_id)
    action_set, size = Box(made.action_space.low, made.action_space.high), made.observation_space.shape[0]
    shapes = jax.eval_shape(lambda: algorithm.networks(size, action_set, jax.random.key_data(jax.random.key(0))))
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    arrays = load_file(next(max((WORK / run).glob("step-*")).glob("tensors-*.safetensors")))
    return Agent(algorithm, size, action_set, from_arrays("learner/nets", like, arrays), None, env_id)


def learned(run: str, members: str = "min", count: int = 1000, steps: int = 4000) -> Instance:
    """A learned critic at `count` of the states of `steps` steps of its policy, a little noise on its actions."""
    agent = learned_agent(run)
    env, rng, seen = gym.make(agent.env_id), np.random.default_rng(0), []
    obs, _ = env.reset(seed=0)
    low, high = (np.asarray(end, np.float32) for end in (agent.action_set.low, agent.action_set.high))
    while len(seen) < steps:
        seen.append(obs)
        action = agent.act(obs) + 0.1 * (high - low) / 2 * rng.normal(size=low.shape)
        obs, _, terminated, truncated, _ = env.step(np.clip(action, low, high).astype(np.float32))
        if terminated or truncated:
            obs, _ = env.reset(seed=len(seen))
    states = np.asarray(seen, np.float32)[np.random.default_rng(1).permutation(steps)[:count]]
    critic = agent.nets.critic
    if members == "first":
        parts = (tuple(leaf[:1] for leaf in leaves) for leaves in (critic.net.weights, critic.net.biases))
        critic = eqx.tree_at(lambda c: (c.net.weights, c.net.biases), critic, tuple(parts))
    return Instance(critic, states, agent.action_set, agent.act(states))


def timed(solve: Any) -> tuple[Any, float, float]:
    """(what `solve` returns, processor seconds, seconds)."""
    cpu, wall = time.process_time(), time.perf_counter()
    answer = solve()
    return answer, time.process_time() - cpu, time.perf_counter() - wall


def state_by_state(instance: Instance, tol: float, most: int, budget: float) -> dict[str, Any]:
    """Single states, one call each, until `most` of them or `budget` seconds; at least two."""
    cpu, wall, done, gaps = [], [], [], []
    for row in range(most):
        if row >= 2 and sum(wall) > budget:
            break
        part = instance.obs[row : row + 1]
        solve = partial(certified, instance.critic, part, instance.action_set, tol=tol, time_limit=LIMIT)
        solution, cpu_s, wall_s = timed(solve)
        cpu.append(cpu_s)
        wall.append(wall_s)
        done.append(solution.status[0] in PROVEN)
        gaps.append(float((solution.upper_bound[0] - solution.value[0]) / max(1, abs(solution.value[0]))))
    within = {f"within_{limit:g}s": float(np.mean(np.array(done) & (np.array(cpu) <= limit))) for limit in (1.0, LIMIT)}
    return {
        "states": len(cpu),
        "cpu_ms_median": round(1e3 * float(np.median(cpu)), 2),
        "cpu_ms_worst": round(1e3 * max(cpu), 2),
        "wall_ms_median": round(1e3 * float(np.median(wall)), 2),
        **within,
        "gap_worst": float(f"{max(gaps):.3g}"),
    }


SCIP = """
import json, sys, time
from pyscipopt import Model, quicksum
p = json.load(sys.stdin)
model = Model(); model.hideOutput(); model.setParam("limits/gap", p["tol"]); model.setParam("limits/time", p["limit"])
x = [model.addVar(lb=l, ub=h, vtype="I" if i else "C") for l, h, i in zip(p["low"], p["high"], p["integer"])]
for i, (low, high) in enumerate(zip(p["row_low"], p["row_high"])):
    part = slice(p["start"][i], p["start"][i + 1])
    row = quicksum(v * x[c] for c, v in zip(p["column"][part], p["value"][part]))
    if high < 1e300: model.addCons(row <= high)
    if low > -1e300: model.addCons(row >= low)
model.setObjective(quicksum(c * v for c, v in zip(p["cost"], x) if c), "maximize")
start = time.process_time(); model.optimize()
print(json.dumps({"seconds": time.process_time() - start, "status": model.getStatus()}))
"""


def by_scip(instance: Instance, row: int, tol: float) -> tuple[bool, float]:
    """(whether SCIP proves the program that HiGHS gets, its seconds without building it)."""
    obs = instance.obs[row : row + 1]
    region = region_of("benchmark", instance.action_set, obs, (), None)
    members = members_of(instance.critic, obs.shape[1], instance.action_set.size, "relu")
    folded = [FoldedNetwork(member, obs.astype(float), region.low, region.high) for member in members]
    program = _encode(folded, region, 0, "min").program
    fields = {
        name: np.nan_to_num(getattr(program, name), posinf=1e301, neginf=-1e301).tolist()
        for name in ("cost", "low", "high", "row_low", "row_high")
    }
    fields |= {name: getattr(program.matrix, name).tolist() for name in ("start", "column", "value")}
    fields |= {"integer": program.integer.tolist(), "tol": tol, "limit": LIMIT}
    result = subprocess.run(
        [PEER, "-c", SCIP], input=json.dumps(fields), capture_output=True, text=True, check=True, timeout=60
    )
    answer = json.loads(result.stdout)
    return answer["status"] in ("optimal", "gaplimit"), float(answer["seconds"])


def by_highs(instance: Instance, row: int, tol: float) -> tuple[bool, float]:
    """(whether HiGHS proves it, processor seconds with building the program)."""
    part = instance.obs[row : row + 1]
    solution, cpu, _ = timed(partial(milp, instance.critic, part, instance.action_set, tol=tol, state_time_limit=LIMIT))
    return solution.status[0] in PROVEN, cpu


def beside(instance: Instance, tol: float, states: int) -> dict[str, Any]:
    """Certified, HiGHS and SCIP in turn on the same states; a solver that runs out of time is asked no more."""
    solvers = {"highs": by_highs} | ({"scip": by_scip} if PEER.exists() else {})
    ours, row = [], {}
    for state in range(states):
        part = instance.obs[state : state + 1]
        ours.append(timed(partial(certified, instance.critic, part, instance.action_set, tol=tol))[1])
    row["certified_cpu_s"] = round(float(np.median(ours)), 5)
    # The other solvers have no batches; ours has, and that is how it is used.
    many = instance.obs[:POOL]
    solution, cpu, _ = timed(partial(certified, instance.critic, many, instance.action_set, tol=tol, time_limit=60.0))
    assert np.isin(solution.status, PROVEN).all()
    row["certified_pooled_cpu_s"] = round(cpu / len(many), 6)
    for name, solve in solvers.items():
        seconds, proven = [], True
        for state in range(states):
            proven, cpu = solve(instance, state, tol)
            seconds.append(cpu)
            if not proven:
                break
        row[f"{name}_cpu_s"] = round(float(np.median(seconds)), 4)
        row[f"{name}_proves"] = proven
        row[f"{name}_ratio"] = round(float(np.median(seconds)) / float(np.median(ours)), 1)
        row[f"{name}_ratio_pooled"] = round(float(np.median(seconds)) / row["certified_pooled_cpu_s"], 1)
    return row


def pooled(instance: Instance, count: int, tol: float, scale: str = "value") -> dict[str, Any]:
    """All states in one call; by `range` the gap is relative to the median range of q over the actions instead."""
    if scale == "range":
        box, rng = instance.action_set, np.random.default_rng(0)
        action = rng.uniform(box.low, box.high, (200, box.size)).astype(np.float32)
        q = np.stack([np.asarray(instance.critic(row[None].repeat(200, 0), action))[0] for row in instance.obs[:100]])
        size = np.median(np.maximum(1, np.abs(q.max(axis=1))))
        tol *= float(np.median(q.max(axis=1) - q.min(axis=1)) / size)
    solve = partial(certified, instance.critic, instance.obs[:count], instance.action_set, tol=tol, time_limit=60.0)
    solution, cpu, wall = timed(solve)
    return {
        "states": count,
        "cpu_s": round(cpu, 2),
        "wall_s": round(wall, 2),
        "tol": float(f"{tol:.3g}"),
        "certified": float(np.mean(np.isin(solution.status, PROVEN))),
        "median_abs_q": round(float(np.median(np.abs(solution.value))), 3),
    }


def configurations() -> Iterator[tuple[str, Any, Any]]:
    """(the row's name, how to make the instance, how to measure it), the most telling first."""

    def single(instance: Instance, most: int = 12) -> dict[str, Any]:
        first = state_by_state(instance, 1e-2, most, 3.0)
        row = {"1e-2": first}
        # What 10 seconds do not settle to 1e-2 they do not settle to 1e-3.
        return row | ({"1e-3": state_by_state(instance, 1e-3, most, 4.0)} if first[f"within_{LIMIT:g}s"] else {})

    runs = [
        (name, env) for env in ("Pendulum-v1", "Hopper-v5", "HalfCheetah-v5", "Walker2d-v5") for name in ("sac", "td3")
    ]
    for name, env in runs:
        for members in ("first", "min"):
            yield (
                f"learned {name} {env} {members}",
                partial(learned, f"fittedq-{name}-{env}-0", members),
                partial(single, most=40),
            )
    for size, m in (("2x256", 3), ("2x64", 6), ("2x256", 6)):
        count = 1000 if (size, m) != ("2x256", 6) else 100
        for kind, make in (("random", random_critic), ("fitted", fitted_critic)):
            yield (
                f"pooled {kind} {size} m={m}",
                partial(make, size, m, "relu", False),
                partial(pooled, count=count, tol=1e-2),
            )
    for run in ("sac Hopper-v5", "sac64 HalfCheetah-v5", "sac HalfCheetah-v5"):
        make = partial(learned, f"fittedq-{run.replace(' ', '-')}-0", "first")
        for scale in ("value", "range"):
            yield f"pooled learned {run} first, by {scale}", make, partial(pooled, count=1000, tol=1e-2, scale=scale)
    for size, m in (("2x16", 1), ("2x16", 3), ("2x16", 6), ("2x64", 1), ("2x64", 2), ("2x64", 3), ("2x256", 1)):
        yield (
            f"beside random {size} m={m}",
            partial(random_critic, size, m, "relu", False),
            partial(beside, tol=1e-3, states=3),
        )
    for m in (1, 3):
        yield (
            f"beside fitted 2x64 m={m}",
            partial(fitted_critic, "2x64", m, "relu", False),
            partial(beside, tol=1e-3, states=3),
        )
    for env in ("Pendulum-v1", "Hopper-v5", "HalfCheetah-v5"):
        yield (
            f"beside learned sac {env} first",
            partial(learned, f"fittedq-sac-{env}-0", "first"),
            partial(beside, tol=1e-3, states=2),
        )
    for size in SIZES:
        for m in (1, 2, 3, 6, 8):
            yield f"random {size} relu m={m}", partial(random_critic, size, m, "relu", False), single
    for kind, make in (("fitted", fitted_critic), ("random", random_critic)):
        for label, activation, layer_norm in (
            ("relu", "relu", False),
            ("tanh", "tanh", False),
            ("silu", "silu", False),
            ("relu+norm", "relu", True),
        ):
            for size, m in (("2x64", 1), ("2x64", 3), ("2x64", 6), ("2x256", 1), ("2x256", 3), ("2x256", 6)):
                name = f"{kind} {size} {label} m={m}"
                if (kind, label) != ("random", "relu"):
                    yield name, partial(make, size, m, activation, layer_norm), single


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    args = parser.parse_args()
    result = json.loads(args.out.read_text()) if args.out.exists() else {"rows": {}}
    result |= describe("fittedq", "numpy", "highspy", "jax")
    for name, make, measure in configurations():
        if args.only not in name or name in result["rows"]:
            continue
        result["rows"][name] = measure(make())
        print(name, json.dumps(result["rows"][name]), flush=True)
        temporary = args.out.with_suffix(".tmp")
        temporary.write_text(json.dumps(result, indent=1) + "\n")
        os.replace(temporary, args.out)


if __name__ == "__main__":
    main()
