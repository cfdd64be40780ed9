"""argmax_a q(s, a) for many states of a 256–256 ReLU critic: batched local search against SciPy's L-BFGS-B per state.

    .venv/bin/python benchmarks/maximizers.py

The critic (obs 17, action 6 in [−1, 1]) is fitted to a smooth function of many peaks, so that its surface has a shape.
Starts are uniform, and every method gets the same k of them. SciPy runs on the first `--scipy-states` of the states and
its seconds are scaled to all of them; mean values are compared on those states. SciPy is given the faster of two
gradients: one compiled call per evaluation, or the same arithmetic in NumPy with the state's share of the first layer
computed once. Seconds of the batched methods are the median of `--repeats` calls, after one that compiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

# Two BLAS threads on one vector of 256 wait for each other longer than they compute; XLA has its own threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fittedq.actions.base import Box
from fittedq.approx.function import FunctionCritic
from fittedq.approx.networks import QNetwork
from fittedq.maximize.base import Chunked, random_starts, solve
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.maximize.local.cem import CrossEntropy
from fittedq.maximize.local.lbfgs import ProjectedLBFGS
from fittedq.maximize.local.reference import ScipyLBFGSB, climb
from machine import describe

OBS, ACTION = 17, 6
BOX = Box([-1.0] * ACTION, [1.0] * ACTION)


def fitted_critic(steps: int, key: jax.Array) -> QNetwork:
    """A critic after `steps` of Adam on y = Σ_j c_j cos(w_j · [s, a] + φ_j) − ‖a‖² / 4."""
    net_key, wave_key, phase_key, weight_key, data_key = jax.random.split(key, 5)
    waves = (
        jax.random.normal(wave_key, (OBS + ACTION, 64)) * jnp.where(jnp.arange(OBS + ACTION) < OBS, 0.3, 1.5)[:, None]
    )
    phase = jax.random.uniform(phase_key, (64,), maxval=2 * np.pi)
    weight = jax.random.normal(weight_key, (64,)) / 8
    adam = optax.adam(1e-3)
    critic = QNetwork(OBS, BOX, (256, 256), net_key)

    def loss(critic: QNetwork, step: jax.Array) -> jax.Array:
        obs_key, action_key = jax.random.split(jax.random.fold_in(data_key, step))
        obs = jax.random.normal(obs_key, (256, OBS))
        action = jax.random.uniform(action_key, (256, ACTION), minval=-1, maxval=1)
        y = jnp.cos(jnp.concatenate([obs, action], -1) @ waves + phase) @ weight - jnp.sum(action**2, -1) / 4
        return jnp.mean((critic(obs, action)[0] - y) ** 2)

    @jax.jit
    def fit(critic: QNetwork) -> QNetwork:
        def step(index, state):
            critic, adam_state = state
            updates, adam_state = adam.update(eqx.filter_grad(loss)(critic, index), adam_state)
            return optax.apply_updates(critic, updates), adam_state

        return jax.lax.fori_loop(0, steps, step, (critic, adam.init(critic)))[0]

    return fit(critic)


def first_value(critic: QNetwork, obs, action):
    return critic(obs, action)[0]


def scipy_in_numpy(critic: QNetwork, obs: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The best action per state by SciPy's L-BFGS-B from each start, q and its gradient in NumPy."""
    w1, w2, w3 = (np.asarray(weight[0]) for weight in critic.net.weights)
    b1, b2, b3 = (np.asarray(bias[0, 0]) for bias in critic.net.biases)
    w1_action = np.ascontiguousarray(w1[OBS:])
    w1_back, w2_back, w3_flat = np.ascontiguousarray(w1_action.T), np.ascontiguousarray(w2.T), w3[:, 0]
    low, high = np.asarray(BOX.low), np.asarray(BOX.high)
    found = np.empty((len(obs), ACTION), np.float32)
    for row, state in enumerate(obs):
        offset = state @ w1[:OBS] + b1

        def at(action, offset=offset):
            first = action.astype(np.float32) @ w1_action + offset
            second = np.maximum(first, 0) @ w2 + b2
            back = ((second > 0) * w3_flat) @ w2_back
            gradient = ((first > 0) * back) @ w1_back
            return float(np.maximum(second, 0) @ w3_flat + b3[0]), gradient.astype(float)

        ends = [climb(at, start.astype(float), low, high)[0] for start in starts[row]]
        found[row] = max(ends, key=lambda end: at(end)[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=10_000)
    parser.add_argument("--scipy-states", type=int, default=300)
    parser.add_argument("--fit-steps", type=int, default=3_000)
    parser.add_argument("--starts", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2_500, help="states at a time in the batched maximizers")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/maximizers.json"))
    args = parser.parse_args()

    fit_key, obs_key, start_key, search_key = jax.random.split(jax.random.PRNGKey(0), 4)
    critic = fitted_critic(args.fit_steps, fit_key)
    q = jax.tree_util.Partial(first_value, critic)
    obs = jax.random.normal(obs_key, (args.states, OBS))
    all_starts = random_starts(BOX, obs, max(args.starts), start_key)
    some = min(args.scipy_states, args.states)
    methods = {
        "projected ascent, 50 steps": ProjectedAscent(),
        "projected ascent, 25 steps": ProjectedAscent(steps=25),
        "projected L-BFGS, 50 steps": ProjectedLBFGS(),
        "projected L-BFGS, 30 steps": ProjectedLBFGS(steps=30),
        "cross-entropy, 64 x 10": CrossEntropy(),
    }
    results = []

    def report(method: str, starts: int, action, seconds: float, scaled_from: int | None = None) -> None:
        values = np.asarray(first_value(critic, obs, jnp.asarray(action))) if len(action) == len(obs) else None
        compared = np.asarray(first_value(critic, obs[:some], jnp.asarray(action[:some])))
        results.append(
            {
                "method": method,
                "starts": starts,
                "seconds": round(seconds, 4),
                "scaled_from_states": scaled_from,
                "mean_value_on_compared_states": round(float(compared.mean()), 5),
                "mean_value_on_all_states": None if values is None else round(float(values.mean()), 5),
            }
        )
        print(json.dumps(results[-1]), flush=True)

    for count in args.starts:
        starts = all_starts[:, :count]
        report("the best start itself", count, best_start(q, obs, starts), 0.0)
        begin = time.perf_counter()
        found = scipy_in_numpy(critic, np.asarray(obs[:some]), np.asarray(starts[:some]))
        report("SciPy L-BFGS-B, NumPy gradient", count, found, (time.perf_counter() - begin) * len(obs) / some, some)
        reference = ScipyLBFGSB()
        reference(FunctionCritic(q, BOX), obs[:2], BOX, starts[:2], search_key)
        begin = time.perf_counter()
        found = reference(FunctionCritic(q, BOX), obs[:some], BOX, starts[:some], search_key).action
        report("SciPy L-BFGS-B, compiled gradient", count, found, (time.perf_counter() - begin) * len(obs) / some, some)
        for name, maximizer in methods.items():
            sampled = isinstance(maximizer, CrossEntropy)
            if sampled and count > 1:
                continue
            rows = args.rows // 16 if sampled else args.rows
            chunked = Chunked(maximizer, max(1, rows // count))
            action = solve(chunked, FunctionCritic(q, BOX), obs, BOX, starts, search_key).action.block_until_ready()
            seconds = []
            for _ in range(1 if sampled else args.repeats):
                begin = time.perf_counter()
                solve(chunked, FunctionCritic(q, BOX), obs, BOX, starts, search_key).action.block_until_ready()
                seconds.append(time.perf_counter() - begin)
            report(name, count, action, statistics.median(seconds))

    for result in results:
        peers = [r for r in results if r["method"].startswith("SciPy") and r["starts"] == result["starts"]]
        fastest = min(peers, key=lambda peer: peer["seconds"])
        if result["seconds"] > 0 and result not in peers:
            result["times_faster_than_scipy"] = round(fastest["seconds"] / result["seconds"], 1)
            result["mean_value_above_scipy"] = round(
                result["mean_value_on_compared_states"] - max(p["mean_value_on_compared_states"] for p in peers), 5
            )
            print(
                f"{result['method']}, {result['starts']} starts: {result['times_faster_than_scipy']} x SciPy, "
                f"mean value {result['mean_value_above_scipy']:+.5f}"
            )
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    # Above one, other programs shared the cores and the seconds are not to be quoted.
    load = {"load_average_per_core": [round(load / (os.cpu_count() or 1), 2) for load in os.getloadavg()]}
    record = describe("jax", "numpy", "scipy", "fittedq") | load | {"settings": settings, "results": results}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=2) + "\n")


def best_start(q, obs, starts):
    flat = starts.reshape(-1, starts.shape[2])
    values = q(jnp.repeat(obs, starts.shape[1], axis=0), flat).reshape(starts.shape[:2])
    return jnp.take_along_axis(starts, jnp.argmax(values, 1)[:, None, None], 1)[:, 0]


if __name__ == "__main__":
    main()
