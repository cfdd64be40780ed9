"""Controllers from two small logs, on the plants that the logs are of: a heater and two tanks.

    .venv/bin/python benchmarks/shared_cases.py --cases ../shared/cases --out benchmarks/results/shared_cases.json

The folder holds the logs and `make.py`, which has the plants and the PI to beat; where it is absent, nothing is run.
Only the log is learned from. A return is the sum over an episode of the reward after each sample, meaned over 20
episodes; it is told of the last agent of every seed. `rise` is the first part of it, `late` the rest: a controller that
settles beside its set-point loses there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import fittedq
from fittedq.agent import Agent
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.data.importers import import_dataset, open_source
from machine import describe

EPISODES, SEEDS = 20, 6
CONSTANT = {"critic_learning_rate": 1e-3, "policy_learning_rate": 1e-3}
OWN = "nfqca, the log's own set-points only"
METHODS: dict[str, dict[str, Any]] = {
    "nfqca": {},
    OWN: {"set_point_copies": 0},
    "nfqca, 40 iterations, constant rates, own set-points": {"steps": 40, "set_point_copies": 0, **CONSTANT},
}
Control = Callable[[np.ndarray], np.ndarray]
"""Observations [b, s] → actions [b, m], with a memory of its own."""


class AbstractCase(ABC):
    """A log, its description, and episodes on its plant, where y ∈ [b, s] has the set-point last."""

    log: str
    text: str
    samples: int
    rise: int

    def __init__(self, make: ModuleType):
        self.make = make

    @abstractmethod
    def start(self) -> tuple[list[Any], np.ndarray]:
        """A plant and a first observation for each episode."""

    @abstractmethod
    def step(self, plant: Any, action: np.ndarray) -> list[float]:
        """What is measured after one sample."""

    @abstractmethod
    def reward(self, error: np.ndarray) -> np.ndarray:
        """Of the errors after a sample."""

    @abstractmethod
    def baselines(self, plants: list[Any]) -> dict[str, Control]:
        """Controllers to compare with."""

    def played(self, control: Control, plants: list[Any], obs: np.ndarray) -> dict[str, float]:
        """Return, its parts, and the error at the end."""
        errors = np.zeros((self.samples, EPISODES))
        for k in range(self.samples):
            actions = control(obs)
            measured = [self.step(plant, action) for plant, action in zip(plants, actions, strict=True)]
            obs = np.concatenate([np.array(measured), obs[:, -1:]], axis=1)
            errors[k] = obs[:, -2] - obs[:, -1]
        rewards = self.reward(errors).mean(axis=1)
        figures = {
            "return": rewards.sum(),
            "rise": rewards[: self.rise].sum(),
            "late": rewards[self.rise :].sum(),
            "error_at_end": errors[-100:].mean(),
            "size_of_error_at_end": np.abs(errors[-100:]).mean(),
        }
        return {name: round(float(figure), 3) for name, figure in figures.items()}


class Heater(AbstractCase):
    """Σ −((T − 93)/10)² over 400 samples of 3 s, from 22 + (seed mod 30) °C."""

    log, samples, rise = "excited.csv", 400, 40
    text = """time = "t"
settling = 120                   # 40 rows, as `data check` tells
reward = "-((temp - setpoint)/10)**2"
[columns]
temp = { role = "measured", set_point = "setpoint" }
setpoint = { role = "set-point" }
u = { role = "action", low = 0, high = 255 }
[controller]
history = 2
error = ["temp"]
"""

    def start(self) -> tuple[list[Any], np.ndarray]:
        plants = [self.make.Heater(22.0 + seed % 30, seed) for seed in range(EPISODES)]
        return plants, np.array([[plant.sensor, 93.0] for plant in plants])

    def step(self, plant: Any, action: np.ndarray) -> list[float]:
        return [plant.step(float(action[0]))]

    def reward(self, error: np.ndarray) -> np.ndarray:
        return -((error / 10) ** 2)

    def baselines(self, plants: list[Any]) -> dict[str, Control]:
        pis = [self.make.PI(6.0, 0.05, 3.0, 0, 255) for _ in plants]
        hold = plants[0].loss * (93.0 - plants[0].ambient) / plants[0].gain

        def deadbeat(obs: np.ndarray) -> np.ndarray:
            """Brings the block itself, which no sensor shows, to 93 °C as fast as it may: near the best possible."""
            need = np.array([[(93.0 - plant.block) / (plant.gain * plant.dt)] for plant in plants])
            return np.clip(hold + 0.6 * need, 0, 255)

        return {
            "PI(6, .05)": lambda obs: np.array([[pi(93.0 - y)] for pi, y in zip(pis, obs[:, 0], strict=True)]),
            "bang-bang": lambda obs: np.where(obs[:, :1] < 93.0, 255.0, 0.0),
            "of the true state": deadbeat,
        }


class Tanks(AbstractCase):
    """Σ −|y2 − set-point| over 300 samples from (5, 5), set-point uniform in 3 … 12."""

    log, samples, rise = "two_tanks.csv", 300, 60
    text = """time = "time"
settling = 60                    # as `data check` tells
reward = "-abs(y2 - setpoint)"
[columns]
y1 = { role = "measured" }
y2 = { role = "measured", set_point = "setpoint" }
setpoint = { role = "set-point" }
u1 = { role = "action", low = 0, high = 1 }
u2 = { role = "action", low = 0, high = 1 }
[controller]
history = 2
error = ["y2"]
"""

    def start(self) -> tuple[list[Any], np.ndarray]:
        points = [np.random.default_rng(seed).uniform(3, 12) for seed in range(EPISODES)]
        return [self.make.Tanks() for _ in points], np.array([[5.0, 5.0, point] for point in points])

    def step(self, plant: Any, action: np.ndarray) -> list[float]:
        return list(plant.step(float(action[0]), float(action[1])))

    def reward(self, error: np.ndarray) -> np.ndarray:
        return -np.abs(error)

    def baselines(self, plants: list[Any]) -> dict[str, Control]:
        pis = [self.make.PI(0.25, 0.02, 1.0, 0, 1) for _ in plants]
        return {
            "PI(.25, .02) on u1": lambda obs: np.array(
                [[pi(e), 0.5] for pi, e in zip(pis, obs[:, 2] - obs[:, 1], strict=True)]
            ),
            "bang-bang on both": lambda obs: np.where(obs[:, 1:2] < obs[:, 2:], 1.0, 0.0) * np.ones(2),
        }


def remembering(agent: Agent) -> Control:
    """An agent's controller, whose memory is kept here."""
    controller = agent.controller()
    memory = controller.start(EPISODES)

    def control(obs: np.ndarray) -> np.ndarray:
        nonlocal memory
        action, memory = controller.step(memory, obs.astype(np.float32))
        return action

    return control


def imported(log: Path, text: str, work: Path) -> Dataset:
    """The log with its description, as `fittedq data import LOG --plant plant.toml` has it."""
    plant, out = work / f"{log.stem}.toml", work / log.stem
    plant.write_text(text)
    return import_dataset(open_source(log, description=Description.read(plant)), out=out, label=log.name)


def module_of(cases: Path) -> ModuleType:
    """The plants, from the folder's `make.py`."""
    spec = importlib.util.spec_from_file_location("make", cases / "make.py")
    assert spec is not None and spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    return make


def judged(case: AbstractCase) -> dict[str, Any]:
    """Figures of the baselines."""
    found = {}
    for name in case.baselines(case.start()[0]):
        plants, obs = case.start()
        found[name] = case.played(case.baselines(plants)[name], plants, obs)
    return found


def learned(cases: Path, task: tuple[type[AbstractCase], str, int]) -> dict[str, float]:
    """Figures of the last agent of one seed of one method."""
    kind, method, seed = task
    case, start = kind(module_of(cases)), time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        data = imported(cases / case.log, case.text, Path(work))
        agent = fittedq.fit("nfqca", data, seed=seed, **METHODS[method])
    seconds = round(time.perf_counter() - start, 1)
    return {"seed": seed, **case.played(remembering(agent), *case.start()), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, default=Path("../shared/cases"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not (args.cases / "make.py").exists():
        print(f"{args.cases}: no make.py, so nothing is run.")
        return
    kinds: tuple[type[AbstractCase], ...] = (Tanks, Heater)
    # The heater's log has one set-point.
    methods = {Tanks: list(METHODS), Heater: [name for name in METHODS if name != OWN]}
    tasks = [(kind, name, seed) for kind in kinds for name in methods[kind] for seed in range(SEEDS)]
    tables = {kind.log: judged(kind(module_of(args.cases))) for kind in kinds}
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        for (kind, name, _), found in zip(tasks, pool.map(partial(learned, args.cases), tasks), strict=True):
            print(kind.log, name, json.dumps(found), flush=True)
            method = {"settings": METHODS[name], "seeds": []}
            tables[kind.log].setdefault(name, method)["seeds"].append(found)
    if args.out:
        result = {"episodes": EPISODES, "plants": tables, **describe("fittedq", "jax", "numpy")}
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
