"""`fittedq compare RUN… BASELINE… --env ENV`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fittedq.agent import Agent
from fittedq.baselines.logged import LoggedPlant
from fittedq.baselines.named import Circumstances, baseline
from fittedq.cli.arguments import MaybeInt, MaybePath, MaybeWord
from fittedq.cli.environments import GivesCode, NamesEnv
from fittedq.cli.setpoints import JudgesControl, control_of, played_rounds, print_json, print_rows, told_of
from fittedq.cli.signals import INTERRUPTED
from fittedq.code import check_needed
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.diagnose.control import Tracked
from fittedq.diagnose.trajectories import figure_rows
from fittedq.envs.plant import AbstractPlant, resolve
from fittedq.envs.registry import NamedEnv
from fittedq.errors import UserError, plural
from fittedq.runs.compare import Comparison, compared
from fittedq.runs.saved import find_agent, without_env


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
    model: bool = False
    """Play in a linear model that is fitted to --data, where there is no plant to play in."""
    lags: MaybeInt = None
    """Observations that the model sees, and the actions between them (default: the description's history, or 1)."""
    length: int = 200
    """Samples of an episode in the model."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        # The method that is given is that of the runs that it fits; others need none.
        agents = {
            name: find_agent(Path(name), None, self.trust_code, like=self.code)
            for name in self.controllers
            if Path(name).is_dir()
        }
        log = None if self.data is None else Dataset.open(self.data)
        told, described = told_of(agents.values()), self.described(log, map(Path, agents))
        self.check_described(described, agents)
        tracked, seconds = self.tracked(told, described), self.seconds(told, described)
        self.check_trajectories()
        env, plant, about = self._place(agents, log, tracked, described)
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
            about = {"env": env, **about, "episodes": len(played), "compared_with": comparison.first}
            print_json(about | {"controllers": rows, "verdict": comparison.verdict, "interrupted": stopped})
        else:
            print(f"{env}, {plural(len(played), 'episode', 'episodes')} each")
            for name, value in about.items():
                print(f"{name}: {value}")
            _show(comparison)
            print_rows(figure_rows(control_of(comparison), seconds) if tracked else [])
            print(comparison.verdict)
        return INTERRUPTED if stopped else 0

    def _place(
        self,
        agents: Mapping[str, Agent],
        log: Dataset | None,
        tracked: Sequence[Tracked],
        described: Description | None,
    ) -> tuple[str, AbstractPlant, dict[str, Any]]:
        """Where all play: what it is called, itself, and how well a model explains its log."""
        if not self.model:
            if self.lags is not None:
                raise UserError("found no --model that it belongs to; give both.", argument="lags")
            env = self._env(agents)
            return str(env), resolve(env), {}
        if log is None or self.env is not None:
            found = "no --data to fit it to" if log is None else f"--env {self.env} too"
            raise UserError(f"found {found}; expected --data, and no --env.", argument="model")
        lags = self.lags or (1 if described is None else described.history)
        stay = [one.setpoint for one in tracked if one.setpoint is not None]
        fitted = LoggedPlant.of(log, lags=lags, stay=stay, episode_length=self.length)
        about = {"model_explains": fitted.explained.round(4).tolist(), "reward_explained": fitted.reward_explained}
        lagging = plural(lags, "lag", "lags")
        return f"a linear model of {self.data} with {lagging}", resolve(fitted.env), about

    def _env(self, agents: Mapping[str, Agent]) -> NamedEnv:
        """The one environment that all are to act in."""
        named = self.named(self.env)
        envs = {} if named is not None else {name: agent.env for name, agent in agents.items()}
        check_needed(self.trust_code, *envs.values(), *(agent.method for agent in agents.values()))
        if named is not None:
            return named
        for name, env in envs.items():
            if env is None:
                raise UserError(f"{name} {without_env(Path(name))}; name one with --env, or give --data and --model.")
        told = {name: str(env) for name, env in envs.items()}
        if len(set(told.values())) != 1:
            found = "; ".join(f"{name} in {env}" for name, env in told.items()) or "no run that names one"
            raise UserError(f"environments: found {found}; name the one to compare in with --env.")
        (env, *_) = (env for env in envs.values() if env is not None)
        return env.trusted(self.trust_code)


def _show(comparison: Comparison) -> None:
    rows = [["controller", "mean return [95 %]", f"ahead of {comparison.first} [95 %]"]]
    for row in comparison.rows:
        rows.append([row.name, str(row.mean), "" if row.ahead is None else str(row.ahead)])
    print_rows(rows)
