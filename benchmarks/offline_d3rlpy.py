"""One offline run of d3rlpy on a set of `offline_sets.py`, with the settings that both sides publish.

Runs in an environment of its own, since d3rlpy 2.8.1 pins Gymnasium 1.0.0:

    python -m venv .venv-d3rlpy && .venv-d3rlpy/bin/pip install -r benchmarks/requirements_d3rlpy.txt

Observations are normalized on both sides. Returns are those of the agent as it is, after every 10 000 updates. A run
that was interrupted starts again; a finished file is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import d3rlpy
import gymnasium
import numpy as np

from machine import describe

EVERY = 10_000


def dataset(path: Path) -> d3rlpy.dataset.MDPDataset:
    """The set as d3rlpy takes it: the end of the log ends its last episode."""
    with np.load(path, allow_pickle=False) as data:
        timeouts = data["truncated"].copy()
        timeouts[-1] |= not data["terminated"][-1]
        return d3rlpy.dataset.MDPDataset(
            data["obs"], data["action"], data["reward"], data["terminated"].astype(np.float32), timeouts
        )


def algorithm(method: str):
    """With d3rlpy's own defaults, which are those published, but for CQL: as its authors reproduce the paper."""
    scaled = {"observation_scaler": d3rlpy.preprocessing.StandardObservationScaler()}
    if method == "td3_bc":
        return d3rlpy.algos.TD3PlusBCConfig(alpha=2.5, batch_size=256, **scaled).create(device="cpu:0")
    if method == "iql":
        config = d3rlpy.algos.IQLConfig(expectile=0.7, weight_temp=3.0, max_weight=100.0, batch_size=256, **scaled)
        return config.create(device="cpu:0")
    encoder = d3rlpy.models.encoders.VectorEncoderFactory([256, 256, 256])
    config = d3rlpy.algos.CQLConfig(
        actor_learning_rate=3e-5,
        critic_learning_rate=3e-4,
        temp_learning_rate=3e-4,
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        batch_size=256,
        n_action_samples=10,
        alpha_learning_rate=0.0,
        initial_alpha=1.0,
        conservative_weight=10.0,
        **scaled,
    )
    return config.create(device="cpu:0")


def evaluate(agent, env: gymnasium.Env, episodes: int, seed: int) -> list[float]:
    """Undiscounted returns of the deterministic policy, one fresh seed per episode."""
    returns = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        total, done = 0.0, False
        while not done:
            action = agent.predict(np.asarray(obs, np.float32)[None])[0]
            obs, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            done = terminated or truncated
        returns.append(total)
    return returns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=("td3_bc", "iql", "cql"), required=True)
    parser.add_argument("--env", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.out.exists():
        print(f"{args.out} is there already: kept")
        return
    d3rlpy.seed(args.seed)
    env, agent, curve = gymnasium.make(args.env), algorithm(args.method), []
    steps = agent.fitter(
        dataset(args.data),
        n_steps=args.updates,
        n_steps_per_epoch=min(EVERY, args.updates),
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    start, looked = time.perf_counter(), 0.0
    for epoch, _ in steps:
        before = time.perf_counter()
        returns = evaluate(agent, env, args.episodes, seed=1_000_000 + args.seed)
        looked += time.perf_counter() - before
        curve.append(
            {"step": epoch * min(EVERY, args.updates), "eval_mean": float(np.mean(returns)), "returns": returns}
        )
        print(f"d3rlpy {args.method} {args.data.stem} {curve[-1]['step']}: {curve[-1]['eval_mean']:.1f}", flush=True)
    result = {
        "library": "d3rlpy",
        "method": args.method,
        "set": args.data.stem,
        "seed": args.seed,
        "updates": args.updates,
        "train_seconds": round(time.perf_counter() - start - looked, 1),
        "curve": curve,
        **describe("d3rlpy", "torch", "gymnasium", "mujoco"),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(temporary, args.out)


if __name__ == "__main__":
    main()
