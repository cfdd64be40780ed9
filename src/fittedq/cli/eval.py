"""`fittedq eval RUN`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from fittedq.cli.arguments import MaybeWord
from fittedq.cli.environments import NamesEnv, TrustsFile
from fittedq.errors import UserError
from fittedq.runs.progress import counted
from fittedq.runs.run import find_agent, without_env


@dataclass(frozen=True)
class Eval(NamesEnv, TrustsFile):
    """Returns of a saved agent over fresh episodes."""

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
    trust: float = 0.1
    """How far they may go, in half-widths of the action's box."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        agent = find_agent(self.path)
        env = self.named(self.env) or (agent.env and agent.env.trusted(self.trust_code))
        if env is None:
            raise UserError(f"{self.path} {without_env(self.path)}; name one with --env.")
        refinement = {"refine": self.refine, "trust": self.trust} if self.refine else {}
        values = np.array(
            list(counted(agent.episodes(env, self.episodes, self.seed, **refinement), self.episodes, "episodes"))
        )
        if self.json:
            figures = {"mean": values.mean(), "std": values.std(), "returns": values.tolist()}
            print(json.dumps({"path": str(self.path), "env": str(env), **figures}))
        else:
            print(
                f"{agent.algorithm.name} on {env}: mean return {values.mean():.1f} over {len(values)} episodes "
                f"(standard deviation {values.std():.1f}, worst {values.min():.1f}, best {values.max():.1f})"
            )
        return 0
