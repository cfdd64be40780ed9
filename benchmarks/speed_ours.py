"""Our learner, driven line by line like `speed_peer.py`: for each number read, that many updates, mean seconds."""

from __future__ import annotations

import argparse
import json
import sys
import time

import jax
import numpy as np

from fittedq.actions.base import Box
from fittedq.algorithms import find
from fittedq.data.replay import Replay
from fittedq.trainers.learner import Learner
from fittedq.trainers.state import initial_state
from fittedq.types import Transition

OBS, ACTION, BATCH = 17, 6, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithm", required=True)
    parser.add_argument("--per-call", type=int, default=1, help="updates in one call of the compiled learner")
    parser.add_argument("--settings", type=json.loads, default={}, help="the method's settings, as JSON")
    args = parser.parse_args()
    algorithm = find(args.algorithm)(**args.settings)
    fqi, state = initial_state(algorithm, OBS, Box([-1.0] * ACTION, [1.0] * ACTION), BATCH, seed=0)
    learner = Learner(fqi, state, OBS, ACTION)
    rng = np.random.default_rng(0)
    replay = Replay(100_000, Transition.width(OBS, ACTION))
    rows = rng.normal(size=(20_000, replay.rows.shape[1])).astype(np.float32)
    rows[:, OBS : OBS + ACTION] = rng.uniform(-1, 1, (len(rows), ACTION))
    rows[:, -2:] = 0.0
    replay.add(rows)

    def update() -> None:
        # What a peer's call does too: draw the batches, learn, have the new policy at hand.
        learner.learn(replay.sample(rng, args.per_call, BATCH))
        learner.host_policy()

    update()
    update()
    jax.block_until_ready(learner.state)
    print("ready", flush=True)
    for line in sys.stdin:
        calls = int(line) // args.per_call
        start = time.perf_counter()
        for _ in range(calls):
            update()
        print((time.perf_counter() - start) / (calls * args.per_call), flush=True)


if __name__ == "__main__":
    main()
