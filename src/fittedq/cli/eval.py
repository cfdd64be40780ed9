"""`fittedq eval RUN`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from fittedq.agent import Agent
from fittedq.baselines.named import Circumstances, baseline
from fittedq.cli.arguments import MaybeFloat, MaybeWord
from fittedq.cli.environments import GivesCode, NamesEnv
from fittedq.cli.setpoints import JudgesControl, control_of, played_rounds, print_json, print_rows, told_of
from fittedq.cli.signals import INTERRUPTED, interruptible
from fittedq.diagnose.trajectories import figure_rows
from fittedq.envs.plant import resolve
from fittedq.envs.registry import NamedEnv
from fittedq.errors import UserError, plural
from fittedq.runs.compare import compared
from fittedq.runs.progress import counted
from fittedq.runs.saved import without_env


@dataclass(frozen=True)
class Eval(NamesEnv, GivesCode, JudgesControl):
    """Play episodes with a saved agent and print their returns; with --measured, how it holds set-points."""

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
    baseline: MaybeWord = None
    """Another controller that plays the same episodes, as `fittedq compare` names it: pid, constant, FILE.py:NAME."""
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
        if self.judges or self.baseline is not None:
            return self._beside(agent, env, trust)
        with interruptible("what was played is told") as stop:
            returns = agent.episodes(
                env, self.episodes, self.seed, refine=self.refine, stop=lambda: bool(stop), **trust
            )
            values = np.array(list(counted(returns, self.episodes, "episodes")))
        if len(values) < self.episodes and not len(values):
            raise KeyboardInterrupt
        self._tell(agent, env, values, {})
        return INTERRUPTED if len(values) < self.episodes else 0

    def _beside(self, agent: Agent, env: NamedEnv, trust: dict[str, Any]) -> int:
        """Whole episodes on the host, of which everything is kept, also those of the baseline."""
        told, plant, name = told_of([agent]), resolve(env), str(self.path)
        described = self.described(None, [self.path])
        self.check_described(described, {name: agent})
        tracked, seconds = self.tracked(told, described), self.seconds(told, described)
        self.check_trajectories()
        controllers: dict[str, object] = {name: agent.controller(refine=self.refine, **trust)}
        if self.baseline is not None:
            given = Circumstances(plant, tracked, seconds or 1.0, self.seed)
            controllers[self.baseline] = baseline(self.baseline, given)
        played = played_rounds(controllers, plant, self.seed, tracked, self.episodes)
        comparison = compared(played, plant, tracked, seconds or 1.0)
        self.write(comparison, plant, tracked, seconds, described)
        rows = {row.name: row for row in comparison.rows}
        more = {"control": rows[name].control, "baseline": self.baseline and rows[self.baseline].describe()}
        self._tell(agent, env, rows[name].returns, more)
        if not self.json:
            print_rows(figure_rows(control_of(comparison), seconds) if tracked else [])
            if self.baseline is not None:
                print(comparison.verdict)
        return INTERRUPTED if len(played) < self.episodes else 0

    def _tell(self, agent: Agent, env: NamedEnv, values: np.ndarray, more: dict[str, Any]) -> None:
        stopped = len(values) < self.episodes
        if self.json:
            figures = {"mean": values.mean(), "std": values.std(), "returns": values.tolist(), "interrupted": stopped}
            print_json({"path": str(self.path), "env": str(env), **figures, **more})
        else:
            asked_for = f" of the {self.episodes:,} asked for" if stopped else ""
            print(
                f"{agent.algorithm.name} on {env}: mean return {values.mean():.1f} over "
                f"{plural(len(values), 'episode', 'episodes')}{asked_for} (standard deviation {values.std():.1f}, "
                f"worst {values.min():.1f}, best {values.max():.1f})"
            )
