"""How often, and by how much, local solvers miss the certified maximum of learned critics.

    taskset -c 1 .venv/bin/python benchmarks/local_misses.py

At 200 states of the SAC policies on Hopper (m = 3) and HalfCheetah (m = 6), the least of both critics is maximized by
branch and bound to a gap of 1e-4 · |q|, and by local solvers from 1, 4 and 16 starts: uniform, or the policy's action
and the rest uniform (`warm`). A miss is a value below the best known one by more than 1e-3 of q's range at the state,
the range being from the least of 1 000 random actions to the best known: certain, since that value is attained.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from certified import Instance, learned, timed  # first: it sets the number of threads
from fittedq.maximize.base import AbstractMaximizer, Chunked, Status, random_starts, solve
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.maximize.local.cem import CrossEntropy
from fittedq.maximize.local.lbfgs import ProjectedLBFGS
from fittedq.maximize.proofs.certified import certified
from machine import describe

SOLVERS: dict[str, AbstractMaximizer] = {
    "L-BFGS": Chunked(ProjectedLBFGS(), 100),
    "Adam ascent": Chunked(ProjectedAscent(), 100),
    "CEM": Chunked(CrossEntropy(), 20),
}


def misses(instance: Instance, tol: float, limit: float) -> dict[str, Any]:
    """The certified maxima, the policy's shortfall and every solver's."""
    obs, box, policy = instance.obs, instance.action_set, instance.policy
    assert policy is not None
    critic = jax.tree.map(jnp.asarray, instance.critic)
    proof = partial(certified, instance.critic, obs, box, tol=tol, warm_start=policy, time_limit=limit)
    truth, cpu, _ = timed(proof)
    samples = random_starts(box, obs, 1000, jax.random.key(3))
    value_at = jax.jit(lambda critic, obs, action: critic.least(obs, action))
    sampled = np.stack([np.asarray(value_at(critic, obs, samples[:, column])) for column in range(1000)], axis=1)

    found, seconds = {}, {}
    for name, maximizer in SOLVERS.items():
        for count in (1, 4, 16):
            uniform = random_starts(box, obs, count, jax.random.key(7))
            warm = jnp.concatenate([jnp.asarray(policy)[:, None], uniform[:, : count - 1]], axis=1)
            for label, starts in (("uniform", uniform), ("warm", warm)):
                run = partial(solve, maximizer, critic, jnp.asarray(obs), box, starts, jax.random.key(5))
                jax.block_until_ready(run())
                solution, spent, _ = timed(lambda run=run: jax.block_until_ready(run()))
                key = f"{name}, {count} {label}"
                found[key], seconds[key] = np.asarray(solution.value, float), spent
    # A local solver may beat the incumbent within the tolerance: the best value anyone attained is the reference.
    best = np.max([truth.value, *found.values()], axis=0)
    span = best - sampled.min(axis=1)

    def shortfall(value: np.ndarray) -> dict[str, Any]:
        share = (best - value) / span
        missed = share > 1e-3
        return {
            "missed": round(float(missed.mean()), 3),
            "median_shortfall_of_missed": round(float(np.median(share[missed])), 4) if missed.any() else 0.0,
            "p95_shortfall": round(float(np.quantile(share, 0.95)), 4),
            "worst_shortfall": round(float(share.max()), 4),
        }

    return {
        "states": len(obs),
        "certified": {
            "tol": tol,
            "optimal": round(float(np.isin(truth.status, (Status.OPTIMAL, Status.ROUNDED)).mean()), 3),
            "cpu_ms_per_state": round(1e3 * cpu / len(obs), 1),
            "median_gap_of_range": float(f"{np.median((truth.upper_bound - truth.value) / span):.2g}"),
            **shortfall(truth.value),
        },
        "median_range": round(float(np.median(span)), 2),
        "median_abs_q": round(float(np.median(np.abs(best))), 1),
        "policy": shortfall(np.asarray(value_at(critic, obs, policy), float)),
        "solvers": {
            key: {"cpu_ms_per_state": round(1e3 * seconds[key] / len(obs), 3), **shortfall(value)}
            for key, value in found.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=int, default=200)
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--limit", type=float, default=100.0, help="seconds for the certified maxima of one critic")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/local_misses.json"))
    args = parser.parse_args()
    result: dict[str, Any] = describe("fittedq", "numpy", "jax") | {"critics": {}}
    for env in ("Hopper-v5", "HalfCheetah-v5"):
        instance = learned(f"fittedq-sac-{env}-0", count=args.states)
        result["critics"][env] = misses(instance, args.tol, args.limit)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        print(env, json.dumps(result["critics"][env]), flush=True)


if __name__ == "__main__":
    main()
