"""What commands that judge how set-points are held have in common."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Annotated, Any

import tyro

from fittedq.agent import Agent
from fittedq.cli.arguments import MaybeFloat, MaybePath
from fittedq.cli.signals import interruptible
from fittedq.control.augmentation import Augmentation
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.diagnose.control import Tracked
from fittedq.diagnose.followed import called, told_to_follow
from fittedq.diagnose.trajectories import Trajectories, check_name
from fittedq.envs.plant import AbstractPlant
from fittedq.errors import UserError, nearest
from fittedq.runs.compare import Comparison, rounds
from fittedq.runs.folder import json_value
from fittedq.runs.progress import counted
from fittedq.runs.saved import learned_from
from fittedq.settings import whole
from fittedq.types import Transition

Coordinates = Annotated[tuple[str, ...], tyro.conf.arg(metavar="COORDINATE …")]
PerMeasured = Annotated[tuple[float, ...], tyro.conf.arg(metavar="NUMBER …")]


@dataclass(frozen=True, kw_only=True)
class JudgesControl:
    """A command that judges how set-points are held."""

    measured: Coordinates = ()
    """The coordinates of the observation that are to follow a set-point, counted from 0, or by the names that a
    description gives them (default: those with a set-point in it, or those whose errors the agent sees)."""
    setpoint: Coordinates = ()
    """The coordinates that are their set-points, one for each."""
    target: PerMeasured = ()
    """Instead of --setpoint: numbers that they are to be held at, one for each."""
    band: PerMeasured = ()
    """How far from its set-point a measured value counts as settled, one number for all or one for each (default: 5 %
    of each step of the set-point)."""
    sample: MaybeFloat = None
    """Seconds between samples (default: as described, or the agent's; else times are told in samples)."""
    plant: MaybePath = None
    """A description of the plant, with names, set-points and the sample time (default: that of the dataset that is
    given, or that the run learned from)."""
    trajectories: MaybePath = None
    """A .png to draw episodes into (measured values, set-points, bands, actions, limits, figures), or a .csv to write
    every sample into."""

    @property
    def judges(self) -> bool:
        """Whether anything is said of set-points."""
        return any(getattr(self, one.name) not in (None, ()) for one in dataclasses.fields(JudgesControl))

    def described(self, log: Dataset | None, runs: Iterable[Path]) -> Description | None:
        """What is known of the plant: by its file, by the log that is given, or by those that the runs learned from."""
        if self.plant is not None:
            return Description.read(self.plant)
        folders = (folder for run in runs if (folder := learned_from(run)) is not None and folder.is_dir())
        logs = [log] if log is not None else (Dataset.open(folder, verify=False) for folder in folders)
        return next((one.description for one in logs if one.description is not None), None)

    def check_described(self, described: Description | None, agents: Mapping[str, Agent]) -> None:
        """A UserError where the description that is given is not that of the agents' plant."""
        if self.plant is None or described is None:
            return
        for name, agent in agents.items():
            state = agent.augmented
            raw = (agent.obs_size, agent.action_set) if state is None else (state.obs_size, state.limits)
            described.check_controller(name, *raw, Augmentation() if state is None else state.augmentation)

    def tracked(self, told: Sequence[Augmentation] = (), described: Description | None = None) -> tuple[Tracked, ...]:
        """What is to follow what: as the user says, else as is described, else as the agents were `told`."""
        names = () if described is None else described.obs
        says = self.measured or self.setpoint or self.target
        found = self._said(names) if says else told_to_follow(told, described)
        for argument in ("band", "sample", "plant", "trajectories"):
            if getattr(self, argument) not in (None, ()) and not found:
                raise UserError(
                    "found no --measured; say which coordinates of the observation are to follow what (--measured 0 "
                    "--setpoint 1, or --measured 0 --target 93).",
                    argument=argument,
                )
        if len(self.band) not in (0, 1, len(found)):
            raise UserError(f"found {len(self.band)} numbers, expected one or {len(found)}.", argument="band")
        bands = self.band * len(found) if len(self.band) == 1 else self.band or (None,) * len(found)
        return tuple(dataclasses.replace(one, band=band) for one, band in zip(found, bands, strict=True))

    def _said(self, names: Sequence[str]) -> list[Tracked]:
        """What the user says follows what."""
        counts = len(self.measured), len(self.setpoint), len(self.target)
        if counts[0] == 0 or sorted(counts[1:]) != [0, counts[0]]:
            raise UserError(
                f"found {counts[0]} measured values, {counts[1]} --setpoint and {counts[2]} --target; give one "
                "--setpoint or one --target for each.",
                argument="measured",
            )
        measured = [_coordinate(word, names, "measured") for word in self.measured]
        setpoints = [_coordinate(word, names, "setpoint") for word in self.setpoint]
        triples = zip_longest(measured, setpoints, self.target)
        return [Tracked(*triple, name=called(triple[0], names)) for triple in triples]

    def seconds(self, told: Sequence[Augmentation] = (), described: Description | None = None) -> float | None:
        """Seconds between samples: as the user says, else as is described or `told`; None where nobody says."""
        if self.sample is not None and not 0 < self.sample < math.inf:
            raise UserError(f"found {self.sample:g}, expected a finite number of seconds above 0.", argument="sample")
        said = (self.sample, (described and described.sample) or None, *(one.sample for one in told))
        return next((sample for sample in said if sample is not None), None)

    def check_trajectories(self) -> None:
        """A UserError before anything is played, where what is asked for cannot be written."""
        if self.trajectories is not None:
            check_name(self.trajectories)

    def write(
        self,
        comparison: Comparison,
        plant: AbstractPlant,
        tracked: Sequence[Tracked],
        seconds: float | None,
        described: Description | None,
    ) -> None:
        """The file of `trajectories`, if there is to be one."""
        if self.trajectories is None:
            return
        said = () if described is None else described.action
        actions = [called(place, said) or f"action {place}" for place in range(plant.action_set.size)]
        limits, figures = (plant.action_set.low, plant.action_set.high), control_of(comparison)
        Trajectories(comparison.episodes, tracked, actions, limits, figures, seconds).write(self.trajectories)


def control_of(comparison: Comparison) -> Mapping[str, Mapping[str, Any]]:
    """Controller → its figures of control, the best first."""
    return {row.name: row.control for row in comparison.rows if row.control is not None}


def played_rounds(
    controllers: Mapping[str, object], plant: AbstractPlant, seed: int, tracked: Sequence[Tracked], episodes: int
) -> list[dict[str, Transition]]:
    """So many `rounds`, with a bar; fewer where Ctrl-C ends them."""
    episodes, played = whole(episodes, "episodes", 1), []
    with interruptible("what was played is told") as stop:
        playing = islice(rounds(controllers, plant, seed, tracked), episodes)
        for one in counted(playing, episodes, "episodes"):
            played.append(one)
            if stop:
                break
    return played


def told_of(agents: Iterable[Agent]) -> list[Augmentation]:
    """What agents were told of set-points and of time."""
    return [agent.augmented.augmentation for agent in agents if agent.augmented is not None]


def print_json(value: object) -> None:
    """One line; what JSON has no number for is null."""
    print(json.dumps(json_value(value)))


def _coordinate(word: str, names: Sequence[str], argument: str) -> int:
    """A number, or the place of a name."""
    if word in names:
        return list(names).index(word)
    if word.isdecimal() and len(word) < 10:
        return int(word)
    known = nearest(word, names) if names else "give its number, counted from 0."
    raise UserError(f"found {word!r}, which is no coordinate of the observation; {known}", argument=argument)
