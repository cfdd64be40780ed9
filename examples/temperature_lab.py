"""The Temperature Control Lab: from a log under steps to a controller that is judged before it is tried.

    pip install fittedq tclab==1.0.0
    python examples/temperature_lab.py

One heater of the lab's simulator (`tclab.TCLabModel`) is driven by steps for eight hours. Its log is described,
imported and split; a controller is learned from one part, and `estimate` tells from the other what it would earn. Only
then is it tried on the simulator, beside PID controllers that are tuned there: by a rule from a step response, and by a
search over episodes.
"""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tclab import TCLabModel

import fittedq
from fittedq.baselines import PID, Constant, FirstOrderDelay, Tracked, search, step_response
from fittedq.data.blocks import split
from fittedq.data.description import Description
from fittedq.data.importers import import_dataset, open_source

SAMPLE, SAMPLES = 10.0, 120
"""Seconds, and how many samples an episode has: 20 minutes."""
SET_POINTS = np.linspace(30, 60, 16)
PLANT = """time = "t"
settling = 120                   # how far ahead is planned; rising takes the lab longer
reward = "-abs(T1 - setpoint)/10"
[columns]
T1 = { role = "measured", set_point = "setpoint", unit = "degC" }
setpoint = { role = "set-point" }
Q1 = { role = "action", low = 0, high = 100 }
[controller]
history = 3
error = ["T1"]
"""
SETTLES = 60
"""Samples until the lab has settled: no block of a log is shorter."""
T1 = Tracked(0, setpoint=1)


class Lab(gymnasium.Env[np.ndarray, np.ndarray]):
    """(T1, set-point) of a lab that is cold at first; Q1 in % is the action. The set-points come one after another.

    A reward is that of the observation that is acted at, as the log has it.
    """

    observation_space = gymnasium.spaces.Box(-50, 150, (2,), np.float64)
    action_space = gymnasium.spaces.Box(0, 100, (1,), np.float32)

    def __init__(self) -> None:
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        random.seed(seed)  # the simulator's noise
        with contextlib.redirect_stdout(io.StringIO()):
            self.lab = TCLabModel(synced=False)
        self.episode, self.sample = self.episode + 1, 0
        self.obs = np.array([self.lab.T1, SET_POINTS[self.episode % len(SET_POINTS)]])
        return self.obs, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = -abs(self.obs[0] - self.obs[1]) / 10
        self.lab.Q1(float(np.asarray(action).item()))
        self.sample += 1
        self.lab.update(self.sample * SAMPLE)
        self.obs = np.array([self.lab.T1, self.obs[1]])
        return self.obs, reward, False, self.sample == SAMPLES, {}


def logged(path: Path, seed: int, hours: float = 8.0) -> None:
    """A table of the lab under steps of 50 to 400 s, with set-points that nobody follows."""
    rng, rows, left, wanted = np.random.default_rng(seed), [], 0, 0
    env = Lab()
    obs = env.reset(seed=seed)[0]
    for sample in range(int(hours * 3600 / SAMPLE)):
        if left == 0:
            heater, left = (
                float(rng.choice([0.0, 100.0, rng.uniform(0, 100)], p=[0.25, 0.25, 0.5])),
                rng.integers(5, 41),
            )
        if wanted == 0:
            set_point, wanted = float(rng.uniform(28, 62)), SAMPLES
        left, wanted = left - 1, wanted - 1
        rows.append(f"{sample * SAMPLE:g},{heater:.4g},{obs[0]:.5g},{set_point:.4g}")
        obs = env.step(np.array([heater]))[0]
    path.write_text("\n".join(["t,Q1,T1,setpoint", *rows]) + "\n")


def tuned() -> dict[str, PID]:
    """PID controllers for the lab: by SIMC, and by a search for what earns the most there."""
    low, high = np.array([30.0]), np.array([50.0])
    time, y, before = step_response(Lab, T1, before=low, after=high, rest=60, samples=60, dt=SAMPLE)
    told = FirstOrderDelay.of_step(time, y, before, 20.0).sampled(SAMPLE)
    rule = PID(*told.simc(), tracked=T1, low=0.0, high=100.0, dt=SAMPLE)
    first = PID(*told.cohen_coon(), tracked=T1, low=0.0, high=100.0, dt=SAMPLE)
    found = [search(one, Lab, tries=120, episodes=len(SET_POINTS)) for one in (rule, first)]
    return {"PI by SIMC": rule, "PID by search": max(found, key=lambda one: one.mean).pid}


def parts(work: Path, seed: int) -> tuple[fittedq.Dataset, fittedq.Dataset]:
    """A log of the lab: rows to learn from, and rows held out to judge by."""
    logged(work / "lab.csv", seed)
    (work / "plant.toml").write_text(PLANT)
    source = open_source(work / "lab.csv", description=Description.read(work / "plant.toml"))
    data = import_dataset(source, out=work / "lab", label="lab.csv")
    return split(data, work / "learn", work / "judge", share=0.4, settling=SETTLES)


def learned(data: fittedq.Dataset, seed: int, **more: Any) -> fittedq.Agent:
    """A controller."""
    constant = {"critic_learning_rate": 1e-3, "policy_learning_rate": 1e-3}
    return fittedq.fit("nfqca", data, seed=seed, steps=40, **constant, **more)


def told(controller: object, held_out: fittedq.Dataset) -> fittedq.Estimate:
    """What it would earn from a cold lab, before it is tried."""
    starts = [[21.0, set_point] for set_point in SET_POINTS]
    return fittedq.estimate(controller, held_out, gamma=1.0, horizon=SAMPLES, starts=starts, settling=SETTLES)


def played(controller: object) -> np.ndarray:
    """What it earns on the lab: an episode for each set-point."""
    return fittedq.true_returns(controller, Lab, gamma=1.0, horizon=SAMPLES, number=len(SET_POINTS))


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        learn, held_out = parts(Path(work), seed=0)
        agent = learned(learn, seed=0, progress=True)
        print(f"before it is tried: {told(agent, held_out)}")
    for name, controller in {"it": agent, **tuned(), "Q1 = 30": Constant((30.0,))}.items():
        print(f"{name} earns {played(controller).mean():.2f} on the lab")


if __name__ == "__main__":
    main()
