"""`fittedq compare RUN… BASELINE… --env ENV`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fittedq.agent import Agent
from fittedq.baselines.named import Circumstances, baseline
from fittedq.cli.arguments import MaybePath, MaybeWord
from fittedq.cli.environments import GivesCode, NamesEnv
from fittedq.cli.setpoints import JudgesControl, control_of, played_rounds, print_json, print_rows, told_of
from fittedq.cli.signals import INTERRUPTED
from fittedq.data.dataset import Dataset
from fittedq.diagnose.trajectories import figure_rows
from fittedq.envs.plant import resolve
from fittedq.envs.registry import NamedEnv
from fittedq.errors import UserError, plural
from fittedq.runs.compare import Comparison, compared
from fittedq.runs.saved import without_env


@dataclass(frozen=True)
class Compare(NamesEnv, GivesCode, JudgesControl):
    """Play the same episodes with several controllers, and show who is ahead by how much.

    The others are compared with the first one that is named. Intervals hold the mean with 95 % (Student's t, of the
    paired differences of returns)."""

    controllers: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN|BASELINE …")]]
    """Folders of runs or agents; pid (tuned on the plant: SIMC from a step response, then a search), lqr (of a linear
    model fitted to --data, or to random samples), constant (the middle of the actions) or constant:NUMBER,…, cloned
    (imitates --data); or code of yours, FILE.py:NAME or MODULE:NAME: a controller, a class without arguments, or a
    function of one observation."""
    env: MaybeWord = None
    """The environment; by default the one that the runs were trained in."""
    episodes: int = 20
    """Episodes that each plays."""
    seed: int = 0
    """Seed of the episodes. What is tuned, is tuned on others."""
    data: MaybePath = None
    """The dataset of a log of this plant: its own returns stand beside the others', and baselines may be made of it."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        agents, env = self._agents_and_env()
        log = None if self.data is None else Dataset.open(self.data)
        told, plant, described = told_of(agents.values()), resolve(env), self.described(log, map(Path, agents))
        tracked, seconds = self.tracked(told, described), self.seconds(told, described)
        self.check_trajectories()
        given = Circumstances(plant, tracked, seconds or 1.0, self.seed, log)
        controllers = {
            name: agents[name] if name in agents else baseline(name, given) for name in dict.fromkeys(self.controllers)
        }
        played = played_rounds(controllers, plant, self.seed, tracked, self.episodes)
        comparison = compared(played, plant, tracked, seconds or 1.0, log)
        stopped = len(played) < self.episodes
        self.write(comparison, plant, tracked, seconds, described)
        if self.json:
            rows = [row.describe() for row in comparison.rows]
            about = {"env": str(env), "episodes": len(played), "compared_with": comparison.first}
            print_json(about | {"controllers": rows, "verdict": comparison.verdict, "interrupted": stopped})
        else:
            print(f"{env}, {plural(len(played), 'episode', 'episodes')} each")
            _show(comparison)
            print_rows(figure_rows(control_of(comparison), seconds) if tracked else [])
            print(comparison.verdict)
        return INTERRUPTED if stopped else 0

    def _agents_and_env(self) -> tuple[dict[str, Agent], NamedEnv]:
        """The agents among the controllers, by name, and the one environment that all are to act in."""
        agents = {name: self.agent(Path(name)) for name in self.controllers if Path(name).is_dir()}
        named = self.named(self.env)
        if named is not None:
            return agents, named
        envs = {name: agent.env for name, agent in agents.items()}
        for name, env in envs.items():
            if env is None:
                raise UserError(f"{name} {without_env(Path(name))}; name one with --env.")
        told = {name: str(env) for name, env in envs.items()}
        if len(set(told.values())) != 1:
            found = "; ".join(f"{name} in {env}" for name, env in told.items()) or "no run that names one"
            raise UserError(f"environments: found {found}; name the one to compare in with --env.")
        env = self.chosen(None, next(iter(agents.values())))
        assert env is not None
        return agents, env


def _show(comparison: Comparison) -> None:
    rows = [["controller", "mean return [95 %]", f"ahead of {comparison.first} [95 %]"]]
    for row in comparison.rows:
        rows.append([row.name, str(row.mean), "" if row.ahead is None else str(row.ahead)])
    print_rows(rows)
