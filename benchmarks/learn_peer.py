"""One learning run of a peer (SBX or Stable-Baselines3), with the settings of `learn_ours.py`.

Runs in the peers' environment (`benchmarks/requirements.txt`). Writes the curve as JSON; a finished file is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import gymnasium
import numpy as np

from machine import describe


def evaluate(model, env_id: str, episodes: int, seed: int) -> list[float]:
    """Undiscounted returns of the deterministic policy, one fresh seed per episode."""
    env = gymnasium.make(env_id)
    returns = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        total, done = 0.0, False
        while not done:
            action, _ = model.predict(obs, deterministic=True)
            obs, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            done = terminated or truncated
        returns.append(total)
    env.close()
    return returns


def build(peer: str, algorithm: str, env_id: str, seed: int, random_steps: int):
    from stable_baselines3.common.noise import NormalActionNoise

    env = gymnasium.make(env_id)
    shared = {
        "learning_rate": 3e-4,
        "batch_size": 256,
        "gamma": 0.99,
        "tau": 0.005,
        "train_freq": 1,
        "gradient_steps": 1,
        "learning_starts": random_steps,
        "buffer_size": 1_000_000,
        "policy_kwargs": {"net_arch": [256, 256]},
        "seed": seed,
    }
    if algorithm == "td3":
        m = env.action_space.shape[0]
        shared["action_noise"] = NormalActionNoise(np.zeros(m), 0.1 * np.ones(m))
    if peer == "sbx":
        import sbx

        cls = {"sac": sbx.SAC, "td3": sbx.TD3}[algorithm]
    else:
        import stable_baselines3

        cls = {"sac": stable_baselines3.SAC, "td3": stable_baselines3.TD3}[algorithm]
    return cls("MlpPolicy", env, **shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=["sbx", "sb3"], required=True)
    parser.add_argument("--algorithm", choices=["sac", "td3"], required=True)
    parser.add_argument("--env", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--random-steps", type=int, default=10_000)
    parser.add_argument("--eval-every", type=int, default=10_000)
    parser.add_argument("--eval-episodes", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.out.exists():
        print(f"{args.out} is there already: kept")
        return

    model = build(args.peer, args.algorithm, args.env, args.seed, args.random_steps)
    curve, trained_s = [], 0.0
    for step in range(args.eval_every, args.steps + 1, args.eval_every):
        start = time.perf_counter()
        model.learn(args.eval_every, reset_num_timesteps=False, log_interval=10**9)
        trained_s += time.perf_counter() - start
        returns = evaluate(model, args.env, args.eval_episodes, seed=1_000_000 + args.seed)
        curve.append({"step": step, "returns": returns})
        print(f"{args.peer} {args.algorithm} {args.env} {step}: {np.mean(returns):.1f}", flush=True)

    means = [float(np.mean(point["returns"])) for point in curve]
    result = {
        "library": args.peer,
        "algorithm": args.algorithm,
        "env": args.env,
        "seed": args.seed,
        "steps": args.steps,
        "random_steps": args.random_steps,
        "last": means[-1],
        "best": max(means),
        "train_seconds": round(trained_s, 1),
        "curve": curve,
        **describe("stable_baselines3", "sbx-rl", "jax", "torch", "gymnasium", "mujoco"),
    }
    temporary = args.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1))
    os.replace(temporary, args.out)


if __name__ == "__main__":
    main()
