"""`fittedq compare RUN… BASELINE… --env ENV`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from fittedq.agent import Agent
from fittedq.baselines.logged import LoggedPlant
from fittedq.baselines.named import Circumstances, baseline
from fittedq.cli.arguments import MaybeInt, MaybePath, MaybeWord
from fittedq.cli.environments import GivesCode, NamesEnv
from fittedq.cli.perturbing import PerturbsPlant
from fittedq.cli.setpoints import JudgesControl, control_of, played_rounds, print_json, told_of
from fittedq.cli.signals import INTERRUPTED
from fittedq.cli.tables import print_rows
from fittedq.code import check_needed
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.diagnose.control import Tracked
from fittedq.diagnose.pictures import check_picture
from fittedq.diagnose.trajectories import figure_rows
from fittedq.envs.plant import AbstractPlant, resolve
from fittedq.envs.registry import NamedEnv
from fittedq.errors import UserError, plural
from fittedq.files import write_table
from fittedq.pages.comparison import comparison_page
from fittedq.pages.page import check_page
from fittedq.runs.compare import Comparison, compared
from fittedq.runs.groups import LAST, Group, Standings, draw, groups
from fittedq.runs.saved import find_agent, without_env


@dataclass(frozen=True)
class Compare(NamesEnv, GivesCode, JudgesControl, PerturbsPlant):
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
    recorded: bool = False
    """Compare what runs recorded when they were evaluated, grouped by all but their seeds, instead of playing: their
    interquartile means, and how often one is ahead. Folders may hold several runs. No other option but --which,
    --curves, --table, --html and --json goes with it."""
    which: Annotated[Literal["last", "best"] | None, tyro.conf.arg(help_behavior_hint="")] = None
    """With --recorded: the evaluation of each run that counts (default: last)."""
    curves: MaybePath = None
    """With --recorded: a picture (.png) of returns by steps and by time, and of the shares of runs above each score."""
    table: MaybePath = None
    """With --recorded: a file of the scores (.csv), or of the table (.tex)."""
    html: MaybePath = None
    """With --recorded: a page to send to somebody (.html), which needs no network."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        if self.recorded:
            return self._recorded()
        for name in ("which", "curves", "table", "html"):
            if getattr(self, name) is not None:
                raise UserError("found no --recorded that it belongs to; give both.", argument=name)
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
        asked = self.perturbations(plant)
        given = Circumstances(plant, tracked, seconds or 1.0, self.seed, log)
        controllers = {
            name: agents[name] if name in agents else baseline(name, given) for name in dict.fromkeys(self.controllers)
        }
        played = played_rounds(controllers, plant, self.seed, tracked, self.episodes)
        comparison = compared(played, plant, tracked, seconds or 1.0, log)
        stopped = len(played) < self.episodes
        off = self.perturbed(controllers, [] if stopped else asked, (comparison, played), self.seed, tracked)
        stopped |= off.stopped(len(asked))
        self.write(comparison, plant, tracked, seconds, described)
        if self.json:
            rows = [row.describe() for row in comparison.rows]
            about = {"env": env, **about, "episodes": len(played), "compared_with": comparison.first}
            lost = {"robustness": off.describe()} if asked else {}
            print_json(about | {"controllers": rows, "verdict": comparison.verdict, **lost, "interrupted": stopped})
        else:
            print(f"{env}, {plural(len(played), 'episode', 'episodes')} each")
            for name, value in about.items():
                print(f"{name}: {_told(value)}")
            _show(comparison)
            print_rows(figure_rows(control_of(comparison), seconds) if tracked else [])
            print(comparison.verdict)
            print_rows(off.table() if asked else [])
        return INTERRUPTED if stopped else 0

    def _recorded(self) -> int:
        """The standings of runs by what they recorded."""
        goes = {"controllers", "recorded", "which", "curves", "table", "html", "json"}
        for field in dataclasses.fields(self):
            if field.name not in goes and getattr(self, field.name) != field.default:
                raise UserError("found --recorded too, which plays nothing; leave one out.", argument=field.name)
        which = self.which or LAST
        found = groups(map(Path, self.controllers))
        standings = Standings.of(found, which)
        self._write_recorded(found, standings, which)
        if self.json:
            print_json(standings.describe())
        else:
            print(standings.told)
            print_rows(standings.table())
            if standings.caution is not None:
                print(standings.caution)
        return 0

    def _write_recorded(self, found: Sequence[Group], standings: Standings, which: str) -> None:
        """The files that are asked for; where one of them cannot be written, none is."""
        files = ((self.curves, (".png",)), (self.table, (".csv", ".tex")), (self.html, (".html",)))
        for path, endings in files:
            if path is not None and path.suffix not in endings:
                raise UserError(f"{path}: found {path.suffix or 'no ending'!r}, expected {' or '.join(endings)}.")
        if self.curves is not None:
            check_picture(self.curves)
        if self.html is not None:
            check_page(self.html)
        if self.table is not None:
            write_table(self.table, standings.as_csv() if self.table.suffix == ".csv" else standings.as_latex())
        if self.curves is not None:
            draw(found, which, self.curves)
        if self.html is not None:
            comparison_page(found, which).write(self.html)

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


def _told(explained: float | Sequence[float]) -> str:
    """A share explained, or that of each coordinate; one that does not change has none."""
    return ", ".join("stays" if np.isnan(each) else f"{each:.4f}" for each in np.atleast_1d(explained))


def _show(comparison: Comparison) -> None:
    rows = [["controller", "mean return [95 %]", f"ahead of {comparison.first} [95 %]"]]
    for row in comparison.rows:
        rows.append([row.name, str(row.mean), "" if row.ahead is None else str(row.ahead)])
    print_rows(rows)
