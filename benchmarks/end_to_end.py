"""Environment steps per second on HalfCheetah-v5, one update per step and no staleness: ours and the peers', in turn.

    .venv/bin/python benchmarks/end_to_end.py --rounds 9

One worker per contestant (this file with --worker), warm, past its random steps; each turn is a stretch of steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

ENV = "HalfCheetah-v5"
WARM_UP = 1_500


def work_ours(algorithm: str, chunk: int) -> None:
    from fittedq.algorithms import find
    from fittedq.envs.gym import GymSource
    from fittedq.trainers.host import HostTrainer
    from fittedq.trainers.settings import TrainSettings

    settings = TrainSettings(random_steps=1_000, chunk=chunk)
    trainer = HostTrainer(find(algorithm)(), GymSource(ENV, seed=0), settings, seed=0)
    serve(lambda steps: trainer.advance(steps))


def work_peer(peer: str, algorithm: str) -> None:
    from learn_peer import build

    model = build(peer, algorithm, ENV, seed=0, random_steps=1_000)
    serve(lambda steps: model.learn(steps, reset_num_timesteps=False, log_interval=10**9))


def serve(advance) -> None:
    """Warm up, then for each number read take that many steps and print the mean seconds of one."""
    advance(WARM_UP)
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        advance(int(line))
        print((time.perf_counter() - start) / int(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", choices=["fittedq", "fittedq-chunk", "sbx", "sb3"])
    parser.add_argument("--algorithm", default="sac")
    parser.add_argument("--algorithms", nargs="+", default=["sac", "td3"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/end_to_end.json"))
    args = parser.parse_args()
    if args.worker:
        if args.worker.startswith("fittedq"):
            return work_ours(args.algorithm, chunk=16 if args.worker == "fittedq-chunk" else 1)
        return work_peer(args.worker, args.algorithm)

    import numpy as np

    from learner_speed import OURS, PEER, Contestant
    from machine import describe

    results = []
    for algorithm in args.algorithms:
        contestants = [
            Contestant(
                name,
                [
                    OURS if name.startswith("fittedq") else PEER,
                    __file__,
                    f"--worker={name}",
                    f"--algorithm={algorithm}",
                ],
            )
            for name in ("fittedq", "fittedq-chunk", "sbx", "sb3")
        ]
        for contestant in contestants:
            contestant.wait_ready()
        for _ in range(args.rounds):
            for contestant in contestants:
                contestant.turn(args.steps // 16 * 16)
        for contestant in contestants:
            contestant.close()
        rates = {contestant.name: 1 / float(np.median(contestant.seconds)) for contestant in contestants}
        results.append(
            {
                "algorithm": algorithm,
                "env": ENV,
                "steps_per_second": {name: round(rate, 1) for name, rate in rates.items()},
                "ratio_to_sbx": round(rates["fittedq"] / rates["sbx"], 3),
                "ratio_to_sb3": round(rates["fittedq"] / rates["sb3"], 3),
                "seconds_per_step": {contestant.name: contestant.seconds for contestant in contestants},
            }
        )
        print(json.dumps({key: value for key, value in results[-1].items() if key != "seconds_per_step"}), flush=True)
        described = describe("fittedq", "jax", "gymnasium", "mujoco")
        args.out.write_text(json.dumps({**described, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
