"""How long one action takes: an exported controller in C, ONNX and NumPy, the agent itself, and SBX's predict.

python benchmarks/export_speed.py --peers PYTHON_WITH_SBX    # one core, 17-256-256-6 in float32, one JSON line

The floor is the time in which the same compiler's code reads the weights once and multiplies each by a number: what no
order of the products can save. `operations of C` are so many multiplications and additions of numbers that are in
registers already: where they take less than the floor, reading binds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from fittedq import algorithms
from fittedq.actions.base import Box
from fittedq.agent import Agent
from fittedq.data.statistics import RunningMoments
from fittedq.export.timing import one_core, summary, timed_calls
from machine import describe

SIZE, ACTIONS = 17, 6
PEER = """
import sys, time, json, numpy as np, gymnasium
from {package} import SAC
class Shape(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, ({size},), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, ({actions},), np.float32)
    def reset(self, seed=None, options=None): return np.zeros({size}, np.float32), {{}}
    def step(self, action): return np.zeros({size}, np.float32), 0.0, False, False, {{}}
model = SAC("MlpPolicy", Shape(), buffer_size=10, {more})
obs = np.random.default_rng(0).normal(size=({calls}, {size})).astype(np.float32)
for row in obs[:500]: model.predict(row, deterministic=True)
took = []
for row in obs:
    begin = time.perf_counter()
    model.predict(row, deterministic=True)
    took.append(1e6 * (time.perf_counter() - begin))
print(json.dumps(took))
"""


def peer(python: str, package: str, more: str) -> dict[str, float]:
    text = PEER.format(package=package, size=SIZE, actions=ACTIONS, more=more, calls=4000)
    done = subprocess.run([python, "-c", text], check=True, capture_output=True, text=True)
    return summary(np.array(json.loads(done.stdout.splitlines()[-1])))


def agent() -> Agent:
    """SAC's networks as drawn, normalized."""
    box, method = Box([-1.0] * ACTIONS, [1.0] * ACTIONS), algorithms.find("sac")(hidden=(256, 256))
    nets = method.networks(SIZE, box, jax.random.key(0))
    seen = np.random.default_rng(0).normal(size=(1000, SIZE)).astype(np.float32)
    return Agent(method, SIZE, box, nets, RunningMoments.start(SIZE).update(seen))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", metavar="PYTHON", help="a Python that has sbx and stable-baselines3")
    given = parser.parse_args()
    one, obs = agent(), np.random.default_rng(1).normal(size=(4000, SIZE)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        told = one.export(Path(name) / "onnx", "onnx", data=obs, samples=500, rate=1000.0)["timing"]
        with one_core():
            rows = {**told["microseconds"], "onnxruntime, run alone": bare_onnx(Path(name) / "onnx", obs)}
            rows["agent.step"] = summary(timed_calls(one.step, obs))
            if given.peers:
                rows["SBX predict"] = peer(given.peers, "sbx", "policy_kwargs=dict(net_arch=[256, 256])")
                rows["SB3 predict"] = peer(given.peers, "stable_baselines3", "policy_kwargs=dict(net_arch=[256, 256])")
    machine = {**describe("fittedq", "numpy", "jax", "onnxruntime"), "network": "17-256-256-6, float32"}
    print(json.dumps({**machine, **told, "one core": True, "microseconds": rows}, indent=1))


def bare_onnx(folder: Path, obs: np.ndarray) -> dict[str, float]:
    """A session's run and nothing else."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(next(folder.glob("*.onnx"))), options)
    names = [one.name for one in session.get_inputs()]
    feeds = [{name: row[None] if place == 0 else None for place, name in enumerate(names)} for row in obs]
    if len(names) > 1:
        raise SystemExit(f"the graph of a controller without a memory has the inputs {names}, expected one")
    took = []
    for feed in feeds:
        begin = time.perf_counter()
        session.run(None, feed)
        took.append(1e6 * (time.perf_counter() - begin))
    return summary(np.array(took[500:]))


if __name__ == "__main__":
    main()
