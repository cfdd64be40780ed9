"""The last policy beside the mean of the last ones, and what could tell a good one from one that fails.

    .venv/bin/python benchmarks/flutter.py --algorithm td3 --seed 1 --out benchmarks/results/flutter/td3-1.json

Every 200 of the last 2 000 steps on Pendulum-v1: returns of the live policy and of the mean (`keep=average`) from the
same 40 starts, with no noise. Beside them what needs no environment: the median and the root of the mean square of
δ = min_j q_j(s, a) − r − γ min_j q_j(s', π(s')) on 512 rows of the replay, and the mean gap max_a q − q(s, π(s)) on a
grid of 41 actions, as a share of the range of q. A finished file is kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from fittedq.approx.host import host_view
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from fittedq.settings import parse_assignments
from fittedq.types import Components, Transition
from machine import describe

STEPS, LAST, EVERY, STARTS, ROWS, ACTIONS = 8_000, 2_000, 200, 40, 512, 41
FAILED = -500
"""A return below it: the pendulum was not held upright."""


def returns(nets: Components) -> np.ndarray:
    """Returns of 200 samples of Pendulum-v1 from the same starts, in NumPy."""
    policy, rng = host_view(nets.policy), np.random.default_rng(7)
    angle, rate = rng.uniform(-np.pi, np.pi, STARTS), rng.uniform(-1, 1, STARTS)
    total, still = np.zeros(STARTS), np.zeros((STARTS, 1), np.float32)
    for _ in range(200):
        obs = np.stack([np.cos(angle), np.sin(angle), rate], axis=1).astype(np.float32)
        torque = np.clip(policy.act(obs, still)[:, 0], -2, 2)
        total -= ((angle + np.pi) % (2 * np.pi) - np.pi) ** 2 + 0.1 * rate**2 + 0.001 * torque**2
        rate = np.clip(rate + (15 * np.sin(angle) + 3 * torque) * 0.05, -8, 8)
        angle = angle + rate * 0.05
    return total


def signals(nets: Components, rows: Transition, gamma: float) -> dict[str, float]:
    """What rows of the replay say of a policy and its critics."""
    policy, q, still = host_view(nets.policy), host_view(nets.critic).least, np.zeros((ROWS, 1), np.float32)
    ahead = q(rows.next_obs, policy.act(rows.next_obs, still))
    delta = q(rows.obs, rows.action) - rows.reward - gamma * (1 - rows.terminated) * ahead
    grid = np.linspace(-2, 2, ACTIONS, dtype=np.float32)
    values = np.stack([q(rows.obs, np.full((ROWS, 1), action, np.float32)) for action in grid])
    own = q(rows.obs, policy.act(rows.obs, still))
    gap = np.maximum(values.max(0) - own, 0) / np.maximum(values.max(0) - values.min(0), 1e-6)
    return {
        "residual_median": float(np.median(np.abs(delta))),
        "residual_rms": float(np.sqrt(np.mean(delta**2))),
        "gap": float(gap.mean()),
        "gap_p95": float(np.quantile(gap, 0.95)),
    }


def judged(nets: Components) -> dict[str, float]:
    found = returns(nets)
    return {"mean": float(found.mean()), "worst": float(found.min()), "failed": int((found < FAILED).sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithm", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="assignments", nargs="*", default=[], help="settings as key=value")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.out.exists():
        print(f"{args.out} is there already: kept")
        return
    settings = {"random_steps": 1_000, "keep": "average", **parse_assignments(args.assignments)}
    run = Run(args.algorithm, "Pendulum-v1", Schedule(steps=STEPS, eval_every=0), seed=args.seed, settings=settings)
    looks = []
    while run.trainer.step < STEPS:
        run.trainer.advance(EVERY)
        if run.trainer.step >= STEPS - LAST:
            packed = next(iter(run.trainer.snapshot().rows.values())).all()
            chosen = np.random.default_rng(0).integers(0, len(packed), ROWS)
            rows = Transition.unpack(np.asarray(packed[chosen], np.float32), 3, 1)
            nets, kept = run.trainer.nets(), run.trainer.kept()
            look = {"step": run.trainer.step, "live": judged(nets), "average": judged(kept)}
            looks.append(look | signals(nets, rows, run.algorithm.discount))
            print(args.algorithm, args.seed, looks[-1], flush=True)
    run.close()
    about = {"algorithm": args.algorithm, "seed": args.seed, "settings": settings, "acts_by": run.trainer.acts_by}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({**describe("fittedq", "jax"), **about, "looks": looks}, indent=1) + "\n")


if __name__ == "__main__":
    main()
