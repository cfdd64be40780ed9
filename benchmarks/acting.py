"""What acting costs on the host: one observation, with a policy of two hidden layers of 256.

    python benchmarks/acting.py

Processor time, not the clock's, so that a busy machine changes little: the best of 15 rounds of 2,000 calls each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fittedq import algorithms
from fittedq.actions.base import Box
from fittedq.agent import Agent
from machine import describe

OBS, BOX = 17, Box((-1.0,) * 6, (1.0,) * 6)
ROUNDS, CALLS = 15, 2_000


def microseconds(call: Callable[[], Any]) -> float:
    """The shortest mean time of a call."""
    best = np.inf
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(CALLS):
            call()
        best = min(best, (time.process_time() - start) / CALLS)
    return round(1e6 * best, 1)


def main() -> None:
    """Measure and write `results/acting.json`."""
    algorithm = algorithms.find("td3")(hidden=(256, 256))
    agent = Agent(algorithm, OBS, BOX, algorithm.networks(OBS, BOX, jax.random.PRNGKey(0)))
    obs = np.random.default_rng(0).normal(size=OBS).astype(np.float32)
    dead = np.where(np.arange(OBS) == 3, np.float32(np.nan), obs)
    rows = obs[None]
    result = {
        "policy alone, µs": microseconds(lambda: agent.act_flat(rows)),
        "act, µs": microseconds(lambda: agent.act(obs)),
        "act of a list, µs": microseconds(lambda: agent.act(obs.tolist())),
        "step, µs": microseconds(lambda: agent.step(obs)),
        "step where a sensor is dead, µs": microseconds(lambda: agent.step(dead)),
    }
    print(json.dumps(result, indent=1, ensure_ascii=False))
    out = Path(__file__).parent / "results" / "acting.json"
    out.write_text(json.dumps(result | describe("fittedq", "jax", "numpy"), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
