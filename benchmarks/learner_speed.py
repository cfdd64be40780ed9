"""Updates per second of the learners, ours and the peers', asked in turn in one run; medians and ratios.

    .venv/bin/python benchmarks/learner_speed.py --rounds 15

Batch 256, layers 256–256, observation 17, action 6. Each contestant is a warm process that waits for its turn, so that
noise of the machine falls on all alike. The peers need `make bench-env`. Beside the rates stands the share of the
machine's own float32 matrix product at 256×256×256 (NumPy's BLAS, same run) that the updates attain.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from machine import describe

HERE = Path(__file__).parent
PEER, OURS = ".venv-peers/bin/python", ".venv/bin/python"


def flops(algorithm: str, obs: int = 17, action: int = 6, hidden: int = 256, batch: int = 256) -> float:
    """Floating-point operations in the matrix products of one update of ours."""

    def product(*sizes: int) -> float:
        return 2.0 * batch * sum(a * b for a, b in pairwise(sizes))

    outputs = 2 * action if algorithm == "sac" else action
    critic = product(obs + action, hidden, hidden, 1)
    critic_inputs = product(hidden, hidden, 1)  # backward through all but the first layer's inputs
    policy = product(obs, hidden, hidden, outputs)
    policy_inputs = product(hidden, hidden, outputs)
    critics = 1 if algorithm == "ddpg" else 2
    climbed = 2 if algorithm == "sac" else 1
    regress = policy + critics * (critic + critic + critic + critic_inputs)
    improve = policy + climbed * (critic + critic_inputs + product(obs + action, hidden)) + policy + policy_inputs
    return regress + improve * (0.5 if algorithm == "td3" else 1.0)


class Contestant:
    """A warm process that makes updates when asked."""

    def __init__(self, name: str, command: list[str]):
        self.name, self.seconds = name, []
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def wait_ready(self) -> None:
        while (line := self._read()) != "ready":
            print(line)

    def turn(self, updates: int) -> None:
        self._process.stdin.write(f"{updates}\n")
        self._process.stdin.flush()
        self.seconds.append(float(self._read()))

    def _read(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} stopped; run its command by hand to see why")
        return line.strip()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def sgemm_rate(products: int = 400) -> float:
    """Floating-point operations per second of NumPy's float32 product at 256×256×256."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 256, 256)).astype(np.float32)
    out = np.empty_like(left)
    start = time.perf_counter()
    for _ in range(products):
        np.dot(left, right, out=out)
    return products * 2 * 256**3 / (time.perf_counter() - start)


def contest(algorithm: str, rounds: int, updates: int) -> dict[str, object]:
    contestants = [
        Contestant(
            f"fittedq, {k} per call", [OURS, f"{HERE}/speed_ours.py", f"--algorithm={algorithm}", f"--per-call={k}"]
        )
        for k in (1, 50)
    ]
    peers = [("sbx", k) for k in (1, 50)] + [("sb3", 1)]
    contestants += [
        Contestant(
            f"{peer}, {k} per call",
            [PEER, f"{HERE}/speed_peer.py", f"--peer={peer}", f"--algorithm={algorithm}", f"--per-call={k}"],
        )
        for peer, k in peers
    ]
    for contestant in contestants:
        contestant.wait_ready()
    gemm = []
    for _ in range(rounds):
        gemm.append(sgemm_rate())
        for contestant in contestants:
            contestant.turn(updates)
    for contestant in contestants:
        contestant.close()
    rates = {contestant.name: 1 / float(np.median(contestant.seconds)) for contestant in contestants}
    ours = max(rate for name, rate in rates.items() if name.startswith("fittedq"))
    sbx = max(rate for name, rate in rates.items() if name.startswith("sbx"))
    sb3 = rates["sb3, 1 per call"]
    return {
        "algorithm": algorithm,
        "updates_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "ratio_to_sbx_best": round(ours / sbx, 3),
        "ratio_to_sb3": round(ours / sb3, 3),
        "sgemm_gflops": round(float(np.median(gemm)) / 1e9, 1),
        "share_of_sgemm": round(ours * flops(algorithm) / float(np.median(gemm)), 3),
        "seconds_per_update": {contestant.name: contestant.seconds for contestant in contestants},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithms", nargs="+", default=["sac", "td3", "ddpg"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/learner_speed.json"))
    args = parser.parse_args()
    results = []
    for algorithm in args.algorithms:
        results.append(contest(algorithm, args.rounds, args.updates))
        print(json.dumps({key: value for key, value in results[-1].items() if key != "seconds_per_update"}), flush=True)
    versions = describe("fittedq", "jax", "numpy")
    listing = subprocess.run([PEER, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    wanted = ("sbx-rl", "stable_baselines3", "torch==", "jax==", "jaxlib==", "flax==")
    versions["peer_versions"] = [line for line in listing.splitlines() if line.startswith(wanted)]
    args.out.write_text(json.dumps({**versions, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
