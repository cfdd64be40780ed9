"""Agents whose controllers are measured: trained once, kept in `benchmarks/work/controllers`, and taken again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import fittedq
from fittedq.agent import Agent
from fittedq.envs.plant import AnyEnv

WORK = Path("benchmarks/work/controllers")


class Trained(NamedTuple):
    """How an agent is trained on an environment."""

    method: str
    steps: int
    settings: dict[str, Any]

    def agent(self, name: str, env: AnyEnv) -> Agent:
        """The last agent of the run `name`, which is made where it is not there."""
        folder = WORK / name
        if not (folder / "last").is_dir():
            fittedq.train(self.method, env, steps=self.steps, out=folder, **self.settings)
        return fittedq.load(folder / "last")

    def __str__(self) -> str:
        told = ", ".join(f"{setting}={value}" for setting, value in self.settings.items()) or "its defaults"
        return f"{self.method}, {self.steps:,} steps, seed 0, {told}"


PLANT = {"preset": "plant"}
AGENTS = {
    "pendulum": ("Pendulum-v1", Trained("td3", 10_000, {"hidden": (64, 64)})),
    "two_tanks": ("jax/TwoTanks-v1", Trained("auto", 40_000, PLANT)),
    "cart_pole": ("jax/CartPole-v1", Trained("auto", 40_000, PLANT)),
    "hopper": ("Hopper-v5", Trained("td3", 15_000, {})),
}
"""(environment, how) by name."""
ON_PLANTS = Trained("auto", 100_000, PLANT)
"""On a plant of target-gym."""
