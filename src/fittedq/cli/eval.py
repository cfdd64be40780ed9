"""`fittedq eval RUN`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from fittedq.cli.arguments import MaybeFloat, MaybeWord
from fittedq.cli.environments import GivesCode, NamesEnv
from fittedq.cli.signals import INTERRUPTED, interruptible
from fittedq.errors import UserError, plural
from fittedq.runs.progress import counted
from fittedq.runs.saved import without_env


@dataclass(frozen=True)
class Eval(NamesEnv, GivesCode):
    """Play episodes with a saved agent and print their returns."""

    path: tyro.conf.Positional[Path]
    """A run folder (its best agent) or an agent folder (such as RUN/last)."""
    env: MaybeWord = None
    """The environment; by default the one it was trained in, with its arguments and wrappers."""
    episodes: int = 10
    """Episodes to play."""
    seed: int = 0
    """Seed of the episodes."""
    refine: int = 0
    """Solver steps that improve each action by the agent's own critic before it is taken."""
    trust: MaybeFloat = None
    """How far these steps may move an action, in half-widths of the action's box (default: 0.1)."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        agent = self.agent(self.path)
        env = self.chosen(self.named(self.env), agent)
        if env is None:
            raise UserError(f"{self.path} {without_env(self.path)}; name one with --env.")
        if self.trust is not None and not self.refine:
            raise UserError(
                f"found {self.trust:g} and no --refine, whose steps it limits; give both.", argument="trust"
            )
        trust: dict[str, Any] = {} if self.trust is None else {"trust": self.trust}
        with interruptible("what was played is told") as stop:
            returns = agent.episodes(
                env, self.episodes, self.seed, refine=self.refine, stop=lambda: bool(stop), **trust
            )
            values = np.array(list(counted(returns, self.episodes, "episodes")))
        stopped = len(values) < self.episodes
        if stopped and not len(values):
            raise KeyboardInterrupt
        if self.json:
            figures = {"mean": values.mean(), "std": values.std(), "returns": values.tolist(), "interrupted": stopped}
            print(json.dumps({"path": str(self.path), "env": str(env), **figures}))
        else:
            asked_for = f" of the {self.episodes:,} asked for" if stopped else ""
            print(
                f"{agent.algorithm.name} on {env}: mean return {values.mean():.1f} over "
                f"{plural(len(values), 'episode', 'episodes')}{asked_for} (standard deviation {values.std():.1f}, "
                f"worst {values.min():.1f}, best {values.max():.1f})"
            )
        return INTERRUPTED if stopped else 0
