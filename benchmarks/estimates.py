"""Whether estimates hold the truth: twelve controllers of different quality on three plants, each judged from logs.

    .venv/bin/python benchmarks/estimates.py --logs 4 5 6 --out benchmarks/results/estimates.json

The plants are a linear one with Gaussian noise, whose controllers' values are known in closed form, the cart-pole and
the two tanks of `fittedq.envs.process`, on which controllers are played from the same first states. A log of wide
steps around three controllers supports all twelve. A narrow one holds one controller with noise of .5 % of the actions,
and supports that one alone. Logs 0 to 3 were used to choose how much wider an interval is than the errors of its parts
(`WIDER`), and the limits of the verdict; the others were not looked at before.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import solve_discrete_are
from scipy.stats import spearmanr

from fittedq.acting.episodes import Memoryless
from fittedq.actions.base import Box
from fittedq.data.dataset import Dataset
from fittedq.envs.process import CartPole, TwoTanks
from fittedq.estimates.chain import MOST_BEGINNINGS
from fittedq.estimates.estimate import estimates
from fittedq.estimates.truth import true_returns
from fittedq.problems.lqr import LinearQuadratic
from machine import describe

Act = Callable[[np.ndarray], np.ndarray]
Step = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""(s, a) → (s', r, terminated), in batches."""


@dataclass(frozen=True)
class Case:
    """A plant, and twelve controllers."""

    gamma: float
    rows: int
    length: int
    box: Box
    begin: Callable[[np.random.Generator, int], np.ndarray]
    step: Step
    acts: Sequence[Act]
    logged: int
    """The controller of the narrow log."""
    wide: float
    """Half the size of the wide log's steps."""
    truth: Callable[[int, np.ndarray, int], float]
    """(controller, starts, horizon) → the mean return."""

    def controller(self, number: int, size: int) -> Memoryless:
        return Memoryless(self.acts[number], size, self.box, f"controller {number}")


def linear() -> Case:
    """s' = A s + B a + w, r = −(sᵀQs + aᵀRa), and gains K of a = −K s."""
    plant = LinearQuadratic(
        A=np.array([[1.0, 0.2], [0.0, 0.9]]),
        B=np.array([[0.0], [0.3]]),
        Q=np.diag([1.0, 0.1]),
        R=np.array([[0.1]]),
        W=0.01 * np.eye(2),
        gamma=0.9,
    )
    best = plant.gain
    changes = [(1, 0), (0.8, 0), (0.6, 0), (0.4, 0), (0.25, 0), (0.1, 0), (1.5, 0), (2, 0), (1, 1), (1, -0.5), (0.5, 2)]
    gains = [scale * best + [[0.0, more]] for scale, more in [*changes, (3, 1)]]

    def step(obs: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        reward = -np.einsum("bi,ij,bj->b", obs, plant.Q, obs) - np.einsum("bi,ij,bj->b", action, plant.R, action)
        after = obs @ plant.A.T + action @ plant.B.T + rng.multivariate_normal(np.zeros(2), plant.W, len(obs))
        return after, reward, np.zeros(len(obs), bool)

    def truth(number: int, starts: np.ndarray, horizon: int) -> float:
        gain, first = gains[number], starts.T @ starts / len(starts)
        moments = plant.discounted_moments(gain, np.zeros((1, 1)), first, horizon)
        return -float(np.trace((plant.Q + gain.T @ plant.R @ gain) @ moments))

    return Case(
        gamma=plant.gamma,
        rows=2_000,
        length=50,
        box=Box((-20.0,), (20.0,)),
        begin=lambda rng, count: rng.uniform(-1, 1, (count, 2)) * [2, 1],
        step=step,
        acts=[lambda obs, gain=gain: -obs @ gain.T for gain in gains],
        logged=3,
        wide=2.0,
        truth=truth,
    )


def _of_env(env: Any, gamma: float, rows: int, length: int, acts: Sequence[Act]) -> Case:
    compiled = jax.jit(jax.vmap(env.transition))

    def step(obs: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), len(obs))
        return tuple(np.asarray(part) for part in compiled(jnp.asarray(obs), jnp.asarray(action, jnp.float32), keys))

    def begin(rng: np.random.Generator, count: int) -> np.ndarray:
        return np.asarray(jax.vmap(env.begin)(jax.random.split(jax.random.key(int(rng.integers(2**31))), count)))

    def truth(number: int, starts: np.ndarray, horizon: int) -> float:
        controller = Memoryless(acts[number], env.obs_size, env.action_set)
        return float(true_returns(controller, env, gamma=gamma, horizon=horizon, starts=starts).mean())

    return Case(gamma, rows, length, env.action_set, begin, step, acts, 4, 0.6 * env.action_set.half_width[0], truth)


def cart_pole() -> Case:
    """Linear gains of the upright pole, some of them too weak or wrong."""
    env = CartPole()

    def after(state: Any, force: Any) -> Any:
        return env.transition(state, force, jax.random.key(0))[0]

    still = (jnp.zeros(4), jnp.zeros(1))
    A, B = (np.asarray(part, np.float64) for part in jax.jacobian(after, argnums=(0, 1))(*still))

    def gain(weights: list[float], cost: float) -> np.ndarray:
        P = solve_discrete_are(A, B, np.diag(weights), cost * np.eye(1))
        return np.linalg.solve(cost * np.eye(1) + B.T @ P @ B, B.T @ P @ A)

    fast, usual, slow = gain([1, 0.1, 5, 0.1], 0.01), gain([1, 0.1, 1, 0.1], 0.1), gain([0.1, 0.1, 1, 0.1], 1.0)
    scaled = [(fast, 1), (usual, 1), (slow, 1), (fast, 0.7), (fast, 0.5), (usual, 0.6), (slow, 0.5), (fast, 0.3)]
    scaled += [(slow, 0.2), (fast, 0), (fast, -0.3), (usual, 1.5)]
    acts = [lambda obs, k=k, f=f: np.clip(-f * obs @ k.T, -10, 10) for k, f in scaled]
    return _of_env(env, 0.975, 3_000, 200, acts)


def two_tanks() -> Case:
    """The voltage that holds the set-point, and a proportional part on either level."""
    env = TwoTanks()

    def law(hold: float, lower: float, upper: float) -> Act:
        def act(obs: np.ndarray) -> np.ndarray:
            voltage = env.outlets[1] * np.sqrt(2 * env.gravity * np.maximum(obs[:, 2:3], 0)) / env.pump
            error = obs[:, 2:3] - obs[:, 1:2]
            return np.clip(hold * voltage + lower * error - upper * (obs[:, :1] - obs[:, 1:2]), 0, 12)

        return act

    settings = [(1, 1, 0.3), (1, 0.5, 0.2), (1, 2, 0.5), (1, 0.2, 0), (1, 0, 0), (0.8, 1, 0.3), (1.3, 0.5, 0)]
    settings += [(0.6, 0, 0), (1, 3, 0), (1.5, 0, 0), (0.5, 0.5, 0), (0.2, 0, 0)]
    return _of_env(env, 0.95, 2_000, 100, [law(*one) for one in settings])


def logged(case: Case, seed: int, narrow: bool) -> Dataset:
    """Rows under one controller with noise of .5 % of the box, or under three with steps."""
    rng, parts, total = np.random.default_rng([seed, narrow]), [], 0
    low, high = (np.asarray(end) for end in (case.box.low, case.box.high))
    while total < case.rows:
        obs, kind = case.begin(rng, 1), int(rng.integers(3))
        wide = [case.acts[0], case.acts[4], lambda rows: np.tile((low + high) / 2, (len(rows), 1))][kind]
        for step in range(min(case.length, case.rows - total)):
            if step % 5 == 0:
                noise = rng.uniform(-1, 1, (1, len(low))) * ((high - low) / 200 if narrow else case.wide)
            action = np.clip((case.acts[case.logged] if narrow else wide)(obs) + noise, low, high)
            after, reward, ended = case.step(obs, action, rng)
            parts.append((obs, action, reward, after, ended, [step + 1 == case.length and not ended[0]]))
            obs, total = after, total + 1
            if ended[0]:
                break
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
    return Dataset.from_arrays(**dict(zip(names, columns, strict=True)), action_low=low, action_high=high)


def judged(case: Case, data: Dataset, narrow: bool) -> list[dict[str, Any]]:
    """Every controller's estimate beside the truth; of a narrow log, not the controller that wrote it."""
    rows: list[dict[str, Any]] = []
    numbers = [number for number in range(len(case.acts)) if not (narrow and number == case.logged)]
    begin = time.perf_counter()
    found = estimates(
        {str(number): case.controller(number, data.obs_size) for number in numbers}, data, gamma=case.gamma
    )
    seconds = (time.perf_counter() - begin) / len(numbers)
    firsts = np.array([start for start, _ in data.episodes()])
    taken = firsts[np.unique(np.linspace(0, len(firsts) - 1, min(len(firsts), MOST_BEGINNINGS)).astype(int))]
    for name, one in found.items():
        truth = case.truth(int(name), np.asarray(data.columns["obs"][taken], np.float64), one.horizon)
        told = one.describe()
        rows.append({"controller": int(name), "true": truth, **told, "seconds": round(seconds, 1)})
        inside = "holds" if one.low <= truth <= one.high else "MISSES"
        print(
            f"  {name:>2} {inside} {truth:9.3f}: {one.value:9.3f} [{one.low:.3f}, {one.high:.3f}] {one.sentence()}",
            flush=True,
        )
    return rows


CASES: dict[str, Callable[[], Case]] = {"linear": linear, "cart_pole": cart_pole, "two_tanks": two_tanks}


def summary(logs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was promised, in numbers."""
    told: dict[str, Any] = {}
    for narrow in (False, True):
        rows = [row for log in logs if log["narrow"] == narrow for row in log["rows"]]
        held = [row["low"] <= row["true"] <= row["high"] for row in rows]
        cannot = [row["verdict"] == "cannot tell" for row in rows]
        right = [held[place] for place in range(len(rows)) if not cannot[place]]
        told["narrow" if narrow else "wide"] = {
            "cases": len(rows),
            "held": int(sum(held)),
            "cannot_tell": int(sum(cannot)),
            "told_and_held": [int(sum(right)), len(right)],
        }
    told["plants"] = {}
    for plant in dict.fromkeys(log["plant"] for log in logs):
        wide = [log["rows"] for log in logs if log["plant"] == plant and not log["narrow"]]
        true = np.array([[row["true"] for row in rows] for rows in wide])
        ranks = [
            float(spearmanr(*([row[name] for row in rows] for name in ("true", "value"))).statistic) for rows in wide
        ]
        told["plants"][plant] = {
            "rank_correlation": [round(rank, 3) for rank in ranks],
            "median_width": round(float(np.median([row["high"] - row["low"] for rows in wide for row in rows])), 4),
            "range_of_true_returns": round(float(np.ptp(true, axis=1).mean()), 3),
            "deviation_of_true_returns": round(float(true.std(axis=1).mean()), 3),
            "held": f"{sum(row['low'] <= row['true'] <= row['high'] for rows in wide for row in rows)} of {true.size}",
        }
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, nargs="+", default=[4, 5, 6])
    parser.add_argument("--plants", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    logs = []
    for plant in args.plants:
        case = CASES[plant]()
        for seed in args.logs:
            for narrow in (False, True):
                print(f"{plant}, log {seed}, {'narrow' if narrow else 'wide'}", flush=True)
                rows = judged(case, logged(case, seed, narrow), narrow)
                logs.append({"plant": plant, "log": seed, "narrow": narrow, "rows": rows})
                result = {"summary": summary(logs), "logs": logs, **describe("fittedq", "jax", "numpy")}
                if args.out:
                    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()
