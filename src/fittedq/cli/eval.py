"""`fittedq eval RUN`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import Int

from fittedq.acting.stepwise import Statuses, Stepwise
from fittedq.actions.base import Box
from fittedq.agent import Agent
from fittedq.baselines.named import Circumstances, baseline
from fittedq.cli.arguments import MaybeFloat, MaybeWord
from fittedq.cli.environments import GivesCode, NamesEnv
from fittedq.cli.guard import SetsFallback
from fittedq.cli.perturbing import PerturbsPlant
from fittedq.cli.setpoints import JudgesControl, control_of, played_rounds, print_json, told_of
from fittedq.cli.signals import INTERRUPTED, interruptible
from fittedq.cli.tables import print_rows
from fittedq.diagnose.trajectories import figure_rows
from fittedq.envs.plant import resolve
from fittedq.envs.registry import NamedEnv
from fittedq.errors import UserError, plural
from fittedq.export.folder import is_export
from fittedq.export.languages import at_work
from fittedq.runs.compare import compared
from fittedq.runs.progress import counted
from fittedq.runs.saved import without_env


@dataclass(frozen=True)
class Eval(NamesEnv, GivesCode, JudgesControl, PerturbsPlant, SetsFallback):
    """Play episodes with a saved agent and print their returns; with --measured, how it holds set-points."""

    path: tyro.conf.Positional[Path]
    """A run folder (its best agent), an agent folder (such as RUN/last), or an export to c, numpy or onnx, which is
    compiled and stepped as a plant would (--env names the plant)."""
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
        if is_export(self.path):
            return self._exported()
        agent = self.agent(self.path)
        env = self.chosen(self.named(self.env), agent)
        if env is None:
            raise UserError(f"{self.path} {without_env(self.path)}; name one with --env.")
        if self.trust is not None and not self.refine:
            raise UserError(
                f"found {self.trust:g} and no --refine, whose steps it limits; give both.", argument="trust"
            )
        trust: dict[str, Any] = {} if self.trust is None else {"trust": self.trust}
        if self.judges or self.perturbs or self.vary or self.baseline is not None:
            return self._beside(agent, env, trust)
        self.guard(agent, Circumstances(resolve(env), seed=self.seed))
        if agent.threshold:
            return self._guarded(agent, env, trust)
        with interruptible("what was played is told") as stop:
            returns = agent.episodes(
                env, self.episodes, self.seed, refine=self.refine, stop=lambda: bool(stop), **trust
            )
            values = np.array(list(counted(returns, self.episodes, "episodes")))
        if len(values) < self.episodes and not len(values):
            raise KeyboardInterrupt
        self._tell(agent.algorithm.name, env, values, {})
        return INTERRUPTED if len(values) < self.episodes else 0

    def _exported(self) -> int:
        """An exported controller in the loop, beside the baseline; what the fallback did is counted."""
        env = self.named(self.env)
        if env is None:
            raise UserError(f"{self.path} is an export, which names no plant to play in; give --env.")
        unfit = {"refine": self.refine, "trust": self.trust, "threshold": self.threshold, "fallback": self.fallback}
        for argument, value in unfit.items():
            if value:
                raise UserError(f"found {value} for an export, which acts as it was written.", argument=argument)
        with at_work(self.path) as (running, told):
            plant, name, about = resolve(env), str(self.path), told["about"]
            box = Box(about["low"], about["high"])
            acting = Stepwise(running, len(about["observations"]), box, name)
            asked = self.perturbations(plant)
            described = self.described(None, [])
            tracked, seconds = self.tracked([], described), self.seconds([], described)
            self.check_trajectories()
            controllers: dict[str, object] = {name: acting}
            if self.baseline is not None:
                given = Circumstances(plant, tracked, seconds or about["sample"] or 1.0, self.seed)
                controllers[self.baseline] = baseline(self.baseline, given)
            played = played_rounds(controllers, plant, self.seed, tracked, self.episodes)
            stopped = len(played) < self.episodes
            comparison = compared(played, plant, tracked, seconds or 1.0)
            off = self.perturbed(controllers, [] if stopped else asked, (comparison, played), self.seed, tracked)
        self.write(comparison, plant, tracked, seconds, described)
        rows = {row.name: row for row in comparison.rows}
        status = Statuses(acting.statuses, len(played), ("as it is", *map(str, (one for one, _ in asked))))
        more: dict[str, Any] = {"control": rows[name].control, "statuses": status.describe()}
        more |= {"baseline": rows[self.baseline].describe()} if self.baseline is not None else {}
        self._tell(
            about["algorithm"], env, rows[name].returns, more | ({"robustness": off.describe()} if asked else {})
        )
        if not self.json:
            print_rows(figure_rows(control_of(comparison), seconds) if tracked else [])
            print_rows(off.table() if asked else [])
            print_rows(status.table())
        return INTERRUPTED if stopped or off.stopped(len(asked)) else 0

    def _guarded(self, agent: Agent, env: NamedEnv, trust: dict[str, Any]) -> int:
        """Episodes beside the fallback, whose samples are counted."""
        with interruptible("what was played is told") as stop:
            judged = agent.judged(env, self.episodes, self.seed, refine=self.refine, stop=lambda: bool(stop), **trust)
            played = list(counted(judged, self.episodes, "episodes"))
        if not played:
            raise KeyboardInterrupt
        counts = np.array([[one.fallbacks, one.samples] for one in played])
        self._tell(agent.algorithm.name, env, np.array([one.total for one in played]), _fallback_figures(agent, counts))
        return INTERRUPTED if len(played) < self.episodes else 0

    def _beside(self, agent: Agent, env: NamedEnv, trust: dict[str, Any]) -> int:
        """Whole episodes on the host, of which everything is kept, also those of the baseline."""
        told, plant, name = told_of([agent]), resolve(env), str(self.path)
        described = self.described(None, [self.path])
        self.check_described(described, {name: agent})
        tracked, seconds = self.tracked(told, described), self.seconds(told, described)
        self.check_trajectories()
        given = Circumstances(plant, tracked, seconds or 1.0, self.seed)
        self.guard(agent, given)
        asked = self.perturbations(plant)
        controllers: dict[str, object] = {name: agent.controller(refine=self.refine, **trust)}
        if any(one.dead is not None for one, _ in asked):
            if self.refine:
                raise UserError(
                    "found it beside a dead sensor, where the loop acts as exported; leave it out.", argument="refine"
                )
            controllers[name] = agent.stepwise(name)
        if self.baseline is not None:
            controllers[self.baseline] = baseline(self.baseline, given)
        played = played_rounds(controllers, plant, self.seed, tracked, self.episodes)
        comparison = compared(played, plant, tracked, seconds or 1.0)
        stopped = len(played) < self.episodes
        off = self.perturbed(controllers, [] if stopped else asked, (comparison, played), self.seed, tracked)
        self.write(comparison, plant, tracked, seconds, described)
        rows = {row.name: row for row in comparison.rows}
        more = {"control": rows[name].control, "baseline": self.baseline and rows[self.baseline].describe()}
        if agent.threshold:
            strange = [agent.guarded().taken_over(one[name]) for one in played]
            more |= _fallback_figures(agent, np.array([[one.sum(), len(one)] for one in strange]))
        more |= {"robustness": off.describe()} if asked else {}
        self._tell(agent.algorithm.name, env, rows[name].returns, more)
        if not self.json:
            print_rows(figure_rows(control_of(comparison), seconds) if tracked else [])
            if self.baseline is not None:
                print(comparison.verdict)
            print_rows(off.table() if asked else [])
        return INTERRUPTED if stopped or off.stopped(len(asked)) else 0

    def _tell(self, who: str, env: NamedEnv, values: np.ndarray, more: dict[str, Any]) -> None:
        stopped = len(values) < self.episodes
        if self.json:
            figures = {"mean": values.mean(), "std": values.std(), "returns": values.tolist(), "interrupted": stopped}
            print_json({"path": str(self.path), "env": str(env), **figures, **more})
        else:
            asked_for = f" of the {self.episodes:,} asked for" if stopped else ""
            print(
                f"{who} on {env}: mean return {values.mean():.1f} over "
                f"{plural(len(values), 'episode', 'episodes')}{asked_for} (standard deviation {values.std():.1f}, "
                f"worst {values.min():.1f}, best {values.max():.1f})"
            )
            if "fallback" in more:
                found = more["fallback"]
                print(
                    f"the fallback, {found['acts']}, acted at {found['share']:.1%} of the samples: below a familiarity "
                    f"of {found['threshold']:g}"
                )


def _fallback_figures(agent: Agent, counts: Int[np.ndarray, "episodes 2"]) -> dict[str, Any]:
    """What acted beside the policy, and at which share of the samples; `counts` are its samples and all, by episode."""
    shares = (counts[:, 0] / counts[:, 1]).tolist()
    told = {"acts": agent.fallback_in_words, "threshold": agent.threshold, "shares": shares}
    return {"fallback": {**told, "share": float(counts[:, 0].sum() / counts[:, 1].sum())}}
