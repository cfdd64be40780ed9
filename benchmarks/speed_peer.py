"""A peer's learner, driven line by line: for each number read it makes that many updates and prints their mean seconds.

Runs in the peers' environment; `learner_speed.py` starts it beside ours and asks them in turn.
"""

from __future__ import annotations

import argparse
import sys
import time

import gymnasium
import numpy as np

OBS, ACTION = 17, 6


class Fixed(gymnasium.Env):
    """An environment of the measured sizes; only its spaces matter here."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(OBS, np.float32), {}

    def step(self, action):
        return self.np_random.normal(size=OBS).astype(np.float32), 0.0, False, False, {}


def build(peer: str, algorithm: str):
    if peer == "sbx":
        import sbx as library
    else:
        import stable_baselines3 as library
    model = getattr(library, algorithm.upper())(
        "MlpPolicy",
        Fixed(),
        batch_size=256,
        buffer_size=100_000,
        learning_rate=3e-4,
        policy_kwargs={"net_arch": [256, 256]},
    )
    from stable_baselines3.common.logger import Logger

    model.set_logger(Logger(folder=None, output_formats=[]))
    model._total_timesteps, model._num_timesteps_at_start = 1, 0
    rng = np.random.default_rng(0)
    for _ in range(20_000):
        obs, next_obs = rng.normal(size=(2, 1, OBS)).astype(np.float32)
        action = rng.uniform(-1, 1, (1, ACTION)).astype(np.float32)
        model.replay_buffer.add(obs, next_obs, action, rng.normal(size=1), np.zeros(1), [{}])
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=["sbx", "sb3"], required=True)
    parser.add_argument("--algorithm", choices=["sac", "td3", "ddpg"], required=True)
    parser.add_argument("--per-call", type=int, default=1, help="gradient steps in one call")
    args = parser.parse_args()
    model = build(args.peer, args.algorithm)
    model.train(args.per_call, 256)
    model.train(args.per_call, 256)
    print("ready", flush=True)
    for line in sys.stdin:
        calls = int(line) // args.per_call
        start = time.perf_counter()
        for _ in range(calls):
            model.train(args.per_call, 256)
        print((time.perf_counter() - start) / (calls * args.per_call), flush=True)


if __name__ == "__main__":
    main()
