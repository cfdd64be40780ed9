"""A run in a folder: train, evaluate on separate seeds, checkpoint, stop on request, resume.

`execute` is a generator of reports, so a command line, a notebook or a test decides what to show and when to stop.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt

from fittedq import algorithms
from fittedq.acting.episodes import check_spaces
from fittedq.acting.familiar import LEAST_ROWS, ROWS, Familiarity
from fittedq.actions.base import AbstractActionSet
from fittedq.actions.limits import Limits
from fittedq.actions.saved import through_json
from fittedq.agent import Agent
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.algorithms.named import NamedMethod
from fittedq.algorithms.presets import chosen, preset_name
from fittedq.algorithms.saved import as_saved, origin
from fittedq.code import told
from fittedq.control.augmentation import Augmentation
from fittedq.control.state import AugmentedState
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.data.set_points import with_set_points
from fittedq.data.sketch import sketch_of
from fittedq.diagnose.gap import gap_figures
from fittedq.envs.augmented import AugmentedEnv
from fittedq.envs.plant import AbstractPlant, AnyEnv, resolve
from fittedq.envs.registry import NamedEnv
from fittedq.envs.simulator import physics_of
from fittedq.envs.spaces import Spaces
from fittedq.errors import EnvError, UserError, plural
from fittedq.files import AGENT, CHECKPOINT, load_folder, read_manifest, versions
from fittedq.programs import compile_seconds, keep_programs
from fittedq.runs import checkpoint
from fittedq.runs.folder import RunFolder
from fittedq.runs.report import Report
from fittedq.runs.schedule import Offline, Schedule
from fittedq.runs.settled import Settled
from fittedq.runs.start import begin_with, origin_of
from fittedq.runs.stop import Reports, Rule, StopWhen, until
from fittedq.settings import MOST_SEED, as_dict, as_json, setting_fields, takes_arguments, whole
from fittedq.template.fqi import LAST
from fittedq.template.rates import Linear, check_schedule, over
from fittedq.trainers.base import Progress, advance_to, never
from fittedq.trainers.choose import Ingredients
from fittedq.trainers.settings import AbstractDrawing, FitSettings, TrainSettings, in_a_run
from fittedq.trainers.solutions import Where
from fittedq.trainers.state import check_own_networks

GAP_STATES = 64
"""States on which the gap is looked at in training."""


class Run:
    """An algorithm, a source of data and a trainer, put together and checked; with a folder where one is wanted.

    The source is an environment, a dataset, or an environment whose replay starts with a dataset. `settings` override
    those of the `preset`. What a controller sees is that of the plant as it is `described`, else as the dataset is.
    `where` says where a solver searches over the dataset, if not in this process.
    """

    def __init__(
        self,
        algorithm: algorithms.Asked,
        env: AnyEnv | None,
        schedule: Schedule | Offline,
        *,
        data: Dataset | None = None,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        eval_env: AnyEnv | None = None,
        action_set: AbstractActionSet | Limits | None = None,
        start: Agent | None = None,
        preset: str | None = None,
        described: Description | None = None,
        where: Where | None = None,
    ):
        keep_programs()
        if env is not None:
            algorithm, preset = chosen(algorithm, preset)
        self.method = NamedMethod.of(algorithm)
        """The words that named the algorithm, where it is code."""
        algorithm = algorithms.asked_for(algorithm)
        if env is None and data is None:
            raise UserError("train: found neither an environment nor a dataset; give one of them.")
        if described is not None:
            data = None if data is None else data.described(described)
        self.plant: AbstractPlant | None = None if env is None else resolve(env, action_set)
        self.eval_plant = self.plant if eval_env is None else resolve(eval_env, action_set)
        self.eval_name = None if eval_env is None or self.eval_plant is None else self.eval_plant.name
        self._plant_said = described
        _check_described(described, self.plant, action_set)
        said = described if data is None else data.description
        self._described = {} if said is None else said.augmentation()
        """What the plant's description says a controller sees; settings given beside it come first."""
        settled = Settled.of(algorithm, self.plant, settings or {}, preset, self._described)
        self.augmentation, method, self._preset = settled.augmentation, settled.method, preset_name(preset)
        self.train_settings = settled.training
        self.plant = self._trained_on()
        self.schedule, self.seed = schedule.at(method.discount), whole(seed, "seed", high=MOST_SEED)
        if self.eval_plant is not None and self.schedule.eval_every:
            self.eval_plant = self.eval_plant.single()
        self.notes: list[str] = []
        self.data = None if data is None else self._told(data.limited(action_set))
        self.updates = max(1, self.train_settings.updates(self.schedule.steps))
        """Updates in all, or iterations: about how many it takes."""
        if isinstance(self.train_settings, AbstractDrawing):
            self.train_settings = in_a_run(self.train_settings, self.updates)
        self.algorithm: AbstractAlgorithm = _in_a_run(method, self.updates)
        self._saved = as_saved(self.algorithm)
        self.state = self._augmented_state()
        if as_dict(self.algorithm).get("dynamics") == "env" and "model" not in self._saved and self.plant is not None:
            # The environment's own physics: given again with it, so no file names it.
            own = self.plant.env if self.state is None else AugmentedEnv.over(self.plant.env, self.state)
            self.algorithm = algorithms.made(self.algorithm, {"model": physics_of(own)})
        if where is not None:
            settled.choice.check_searches(self.algorithm)
        parts = Ingredients(self.algorithm, self.plant, self.data, self.train_settings, self.seed, self.state, where)
        self.trainer, self.source = settled.choice.make(parts)
        self.spaces: Spaces | None = None if self.source is None else self.source.spaces
        """What the environment hands out and takes, where there is one on the host."""
        if self.eval_plant is None:
            self.schedule = dataclasses.replace(self.schedule, eval_every=0)
        self._tell_of_schedules()
        try:
            self._check_parts()
            self._begin_with(start)
        except BaseException:
            self.trainer.close()
            raise
        self.folder = None if folder is None else RunFolder(folder)
        self.best: float | None = None
        self.changes: dict[str, Any] = {}
        """What a resume changes; it is written where the run goes on."""
        self.warnings: list[str] = []
        self._warned = 0
        """All that was warned of so far."""
        self._checkpoint: Path | None = None
        """The last one saved or restored."""
        self._compiling, self._spent = 0.0, dict[str, float]()

    def _told(self, data: Dataset) -> Dataset:
        """The rows that are learned from: with other set-points too, where data alone are learned from."""
        if not isinstance(self.train_settings, FitSettings):
            return data
        copied = with_set_points(data, self.train_settings.set_point_copies)
        self.train_settings = dataclasses.replace(self.train_settings, set_point_copies=copied.copies)
        self.notes += copied.notes
        return copied.data

    def _trained_on(self) -> AbstractPlant | None:
        """The plant, with other parameters in each episode where it is to be randomized."""
        if self.plant is None or not isinstance(self.train_settings, TrainSettings):
            return self.plant
        return self.train_settings.trained_on(self.plant)

    def _augmented_state(self) -> AugmentedState | None:
        """What the learner sees and decides, where that is more than an observation and an action."""
        raw = self.data if self.plant is None else self.plant
        if self.augmentation.adds_nothing or raw is None:
            return None
        longest = None if self.plant is None else self.plant.episode_length
        if longest is not None and self.augmentation.history > longest:
            raise UserError(
                f"setting history: found {self.augmentation.history}, but an episode of the environment has at most "
                f"{longest} samples; expected fewer observations than an episode has."
            )
        return AugmentedState(self.augmentation, raw.obs_size, raw.action_set)

    def _tell_of_schedules(self) -> None:
        """Warn of a learning rate that takes longer to its end than the run, and of resets that it never comes to."""
        every = self.train_settings.reset_every if isinstance(self.train_settings, AbstractDrawing) else 0
        if every > self.updates:
            self.trainer.watch.say(
                "resets",
                f"reset_every is {every:,}, and the run takes about {self.updates:,} updates: nothing is reset.",
            )
        for name, rate in as_dict(self.algorithm).items():
            if isinstance(rate, Linear) and rate.updates is not None and rate.updates > self.updates:
                self.trainer.watch.say(
                    f"{name}'s schedule",
                    f"{name} comes to {rate.last:g} in {plural(rate.updates, 'update', 'updates')}, and the run takes "
                    f"about {self.updates:,}: it ends at {float(rate(np.asarray(self.updates))):.3g}.",
                )

    def _begin_with(self, start: Agent | None) -> None:
        self._origin_of_start = None if start is None else origin_of(start)
        if start is not None:
            begin_with(self.trainer, self.algorithm, start, self.train_settings.normalize_obs, self.state)

    def _check_parts(self) -> None:
        """A UserError unless settings, data and environments go together."""
        nets, schedule = self.trainer.nets(), self.schedule
        check_own_networks(self.algorithm, nets, self.trainer.obs_size, self.trainer.action_set)
        if schedule.gap_every and (nets.policy is None or nets.critic is None or not nets.critic.has_gradient):
            raise UserError(
                f"{self.algorithm.name!r} with these settings has no policy, or no critic with a gradient, to compare; "
                "leave it 0.",
                argument="gap_every",
            )
        if self.train_settings.normalize_obs and self.trainer.action_set.reads is None:
            raise UserError(
                "action set: its bounds are functions of observations in their own units; set normalize_obs to false."
            )
        if nets.model is not None and nets.model.own_units and not self.trainer.translates:
            for name in ("normalize_obs", "scale_rewards"):
                if getattr(self.train_settings, name, False):
                    raise UserError(
                        f"model: known physics has units of its own, and is translated to those of {name} only where "
                        f"it learns in a JAX environment; set {name} to false, or train in one."
                    )
        self._check_evaluation()

    def _check_evaluation(self) -> None:
        """A UserError where evaluation needs another agent, or would reset the environment that is trained in."""
        plant, source = self.eval_plant, self.source
        asked = self.schedule.eval_every or (self.plant is None and self.data is not None)
        if plant is None or not asked or (plant is self.plant and plant.makes_new):
            return
        made = plant.make()
        if source is not None and source.shares(made):
            raise UserError(
                "the callable returns the environment that is trained in, expected a new one each time: evaluation "
                "would reset it in the middle of an episode.",
                argument="eval_env",
            )
        try:
            whose = "the agent" if self.data is None else "the dataset"
            raw = self.trainer if self.state is None else self.state
            check_spaces(made, raw.obs_size, self.limits, whose)
            self.spaces = self.spaces or made.spaces
        finally:
            made.close()

    @property
    def limits(self) -> AbstractActionSet:
        """The admissible actions of the environment or the data, whatever the learner's are."""
        return self.trainer.action_set if self.state is None else self.state.limits

    @property
    def env_name(self) -> NamedEnv | None:
        """What the environment that is trained in is called, where it has a name."""
        return None if self.plant is None else self.plant.name

    def config(self) -> dict[str, Any]:
        """What `resume` needs to make this run again."""
        return {
            "algorithm": self.algorithm.name,
            **origin(self.algorithm, self.method),
            "env": None if self.env_name is None else self.env_name.describe(),
            "data": None if self.data is None else self.data.path,
            "eval_env": None if self.eval_name is None else self.eval_name.describe(),
            "action_set": through_json(self.limits.describe()),
            "seed": self.seed,
            **dataclasses.asdict(self.schedule),
            "settings": self._saved | as_json(self.train_settings) | self._augmentation_as_json(),
            "versions": versions(),
            **({} if self._origin_of_start is None else {"start": self._origin_of_start}),
            **({} if self._preset is None else {"preset": self._preset}),
            **({} if self._plant_said is None else {"plant": self._plant_said.described()}),
        }

    def _augmentation_as_json(self) -> dict[str, Any]:
        usual = not self._described and self.augmentation == Augmentation()
        return {} if usual else as_json(self.augmentation)

    def agent(self) -> Agent:
        """The live policy and critics, and how familiar states are by the data so far."""
        agent = self._live()
        agent.familiarity = self._familiarity()
        return agent

    def _familiarity(self) -> Familiarity | None:
        rows = self.trainer.seen_rows(ROWS)
        return None if len(rows.reward) < LEAST_ROWS else Familiarity.of(rows, self.state)

    def _live(self) -> Agent:
        trainer = self.trainer
        return Agent(
            self.algorithm,
            trainer.obs_size,
            trainer.action_set,
            trainer.kept(),
            trainer.moments(),
            self.env_name or self.eval_name,
            self.spaces,
            reward_scale=trainer.reward_scale,
            method=self.method,
            augmented=self.state,
            learned=self._learned,
            columns=self._columns,
        )

    @property
    def _columns(self) -> tuple[str, ...]:
        described = self._plant_said if self.data is None else self.data.description
        return () if described is None else described.called

    @cached_property
    def _learned(self) -> UInt[np.ndarray, "k"] | None:
        return None if self.data is None else sketch_of(self.data)

    def __repr__(self) -> str:
        source = self.env_name or ("an environment of its own" if self.plant is not None else f"{self.data!r}")
        folder = "no folder" if self.folder is None else str(self.folder.path)
        return (
            f"Run({self.algorithm.name} on {source}, seed {self.seed}: step {self.trainer.step} of "
            f"{self.schedule.steps}, {folder})"
        )

    def warn(self) -> list[str]:
        """What there is to warn of that was not said yet."""
        self.warnings += self.trainer.watch.told()
        new, self._warned = self.warnings[self._warned :], len(self.warnings)
        return new

    def start(self) -> None:
        """Claim the run folder, or write down there what a resume changes, unless that was done."""
        if self.folder is None:
            return
        if not self.folder.claimed:
            self.folder.create(self.config())
            if self._origin_of_start is not None:
                self._save()  # no file but this one knows what it begins with
        if self.changes:
            self.folder.change(self.trainer.step, self.changes)
            self.changes = {}

    def restore(self) -> None:
        """Continue from the folder's last whole checkpoint, or from the start where none was reached."""
        assert self.folder is not None
        if self.folder.begun:
            identity = self.folder.identity()
            path, exact, problems = checkpoint.restore(self.folder.checkpoints, self.trainer, run=identity)
            self._checkpoint, self.best = path, read_manifest(path, CHECKPOINT)["run"]["best"]
            self.notes += [f"{problem} Falling back to {path.name}." for problem in problems]
            if not exact:
                self.notes.append("The environment could not be brought back exactly: a new episode begins.")
        elif "start" in self.folder.config():
            raise UserError(
                f"run folder {self.folder.path} was begun with an agent's networks, and has no checkpoint that "
                "holds them; begin it again, with the same start."
            )
        else:
            self.notes.append("The run has no checkpoint: it begins at step 0.")
        unreadable = self.folder.rewind(self.trainer.step)
        if unreadable:
            lines = plural(unreadable, "line", "lines")
            self.notes.append(f"{lines} of {self.folder.metrics_file} could not be read: left out.")

    def reports(self, stop_when: str | Rule | None = None, stop: Callable[[], bool] = never) -> Reports:
        """`start`, then `execute` up to the first report after which `stop_when`, a condition in words or a function of
        the report, is true; a wrong one is refused before anything is written. Where a run that goes on has a condition
        that holds by its newest figures, it ends there."""
        try:
            if isinstance(stop_when, str):
                known = {} if self.folder is None else self.folder.figures()
                stop_when = StopWhen(stop_when, known).checked(self.schedule)
            elif stop_when is not None and not _is_rule(stop_when):
                raise UserError(
                    f"found {told(stop_when)}, expected a condition in words or a function of a report.",
                    argument="stop_when",
                )
            self.start()
        except BaseException:
            self.close()
            raise
        if isinstance(stop_when, StopWhen) and stop_when.holds and self.trainer.step:
            self.warnings.append(f"{stop_when} holds already at step {self.trainer.step:,}: nothing is trained.")
            return self.execute(lambda: True)
        return until(self.execute(stop), stop_when)

    def execute(self, stop: Callable[[], bool] = never) -> Reports:
        """Train to the schedule's end, until `stop()` or until the generator is closed; the folder is saved either
        way."""
        schedule, trainer = self.schedule, self.trainer
        # Compiling is none of training's time: a rate with it in says nothing of what is to come.
        seconds, interval, start, compiled = 0.0, 0.0, time.perf_counter(), compile_seconds()
        before = (trainer.step, trainer.updates)
        try:
            self.start()
            for progress in advance_to(trainer, schedule.steps, self._report_every(), stop):
                self._compiling = compile_seconds() - compiled
                interval += max(time.perf_counter() - start - self._compiling, 0.0)
                if progress.step > before[0]:
                    seconds += interval
                    report = self._report(progress, seconds, interval, before, stop)
                    if self.folder is not None:
                        self.folder.append(report.record())
                        if schedule.checkpoint_every and _crossed(schedule.checkpoint_every, before[0], progress.step):
                            self._save()
                    before, interval = (progress.step, progress.updates), 0.0
                    yield report
                elif progress.fraction > 0:
                    yield self._report(progress, seconds + interval, interval, before, stop)
                else:
                    # Stopped before a step was taken.
                    break
                start, compiled = time.perf_counter(), compile_seconds()
            self._finish()
        except GeneratorExit:
            # Who asked for reports wants no more: as much a stop as any.
            self._finish()
        except EnvError as error:
            # What was learned is whole, and the environment may do better next time.
            if self.folder is None or not trainer.step:
                raise
            if not self._is_saved():
                self._save()
            raise EnvError(
                f"{error} The {trainer.step:,} steps before are saved in {self.folder.path}; continue with "
                f"`fittedq resume {self.folder.path}`."
            ) from error
        finally:
            self.close()

    def close(self) -> None:
        """Release the environments, and the folder for other processes."""
        self.trainer.close()
        if self.folder is not None:
            self.folder.close()

    def complete(self) -> bool:
        """Write what a run that has taken all its steps lacks because it was killed; whether anything was."""
        assert self.folder is not None
        try:
            if load_folder(self.folder.last, AGENT)[1]["origin"] == self._origin():
                return False
        except UserError:
            pass
        self.start()
        self._finish()
        return True

    def _report_every(self) -> list[int]:
        """Reports fall on evaluations and checkpoints too."""
        schedule = self.schedule
        looks = (schedule.report_every, schedule.eval_every, schedule.checkpoint_every, schedule.gap_every)
        return [every for every in looks if every]

    def _report(
        self,
        progress: Progress,
        seconds: float,
        elapsed: float,
        before: tuple[int, int],
        stop: Callable[[], bool],
    ) -> Report:
        returns = None
        unfinished = progress.fraction > 0
        last = progress.step >= self.schedule.steps or self.trainer.finished is not None
        every = self.schedule.eval_every
        if (
            every
            and self.eval_plant is not None
            and not unfinished
            and (last or _crossed(every, before[0], progress.step))
        ):
            with self._timed("evaluating"):
                returns = self._evaluated(self.eval_plant, stop)
        stages = {"training": elapsed, "compiling": self._compiling, **self._spent}
        self._spent = {} if not unfinished else self._spent
        return Report(
            step=progress.step,
            steps=self.schedule.steps,
            updates=progress.updates,
            episodes=progress.episodes,
            seconds=seconds,
            steps_per_second=(progress.step + progress.fraction - before[0]) / max(elapsed, 1e-9),
            updates_per_second=(progress.updates - before[1]) / max(elapsed, 1e-9),
            train_return=float(np.mean(progress.returns)) if progress.returns else None,
            eval_returns=returns,
            best=self.best,
            metrics=progress.metrics | self._gap(progress, before[0]),
            fraction=progress.fraction,
            finished=self.trainer.finished,
            warnings=tuple(self.warn()),
            compiling=self._compiling,
            stages=stages,
            acts_by=self.trainer.acts_by,
            live=partial(self._agent_at, progress.step),
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """What is done meanwhile counts as this stage's."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[stage] = self._spent.get(stage, 0.0) + time.perf_counter() - start

    def _evaluated(self, env: AbstractPlant, stop: Callable[[], bool]) -> list[float] | None:
        """The returns of an evaluation, whose agent is kept if it is the best so far; None where `stop()` ends it."""
        agent, episodes = self._live(), self.schedule.eval_episodes
        returns = list(agent.episodes(env, episodes, self.seed, stop=stop))
        if len(returns) < episodes:
            self.warnings.append(f"the evaluation at step {self.trainer.step:,} was stopped before its end: left out.")
            return None
        if self.best is None or np.mean(returns) > self.best:
            self.best = float(np.mean(returns))
            if self.folder is not None:
                agent.familiarity = self._familiarity()
                agent.keep(self.folder.best, origin=self._origin())
        return returns

    def _agent_at(self, step: int) -> Agent:
        """The agent after `step` steps, while there is one."""
        if self.trainer.step != step:
            raise UserError(
                f"report: its agent of step {step:,} is gone, training is at step {self.trainer.step:,}; ask for it "
                "before the next report."
            )
        return self.agent()

    def _gap(self, progress: Progress, before: int) -> dict[str, float]:
        """A lower bound of the amortization gap, where it is due; it draws nothing from the run's own streams."""
        every, nets = self.schedule.gap_every, self.trainer.nets()
        if not every or progress.fraction > 0 or not _crossed(every, before, progress.step):
            return {}
        obs = self.trainer.seen_obs(GAP_STATES)
        return gap_figures(nets, obs, self.trainer.reward_scale) if len(obs) else {}

    def _finish(self) -> None:
        if self.folder is None:
            return
        if not self._is_saved():
            self._save()
        try:
            self.folder.draw()
        except UserError as error:
            # A picture is no reason to go without the agent.
            self.warnings.append(str(error))
        # Last of all: where it is there, nothing is missing.
        self.agent().keep(self.folder.last, origin=self._origin())

    def _is_saved(self) -> bool:
        return self._checkpoint is not None and self._checkpoint.name == checkpoint.name(self.trainer.step)

    def _save(self) -> None:
        assert self.folder is not None
        about = self.folder.identity() | {"best": self.best}
        with self._timed("saving"):
            self._checkpoint = checkpoint.save(
                self.folder.checkpoints, self.trainer, run=about, before=self._checkpoint
            )

    def _origin(self) -> dict[str, Any]:
        assert self.folder is not None
        told = {} if self.trainer.acts_by == LAST else {"acts_by": self.trainer.acts_by}
        return {"step": self.trainer.step, "settings": self.folder.identity()["settings"], **told}


def _check_described(
    described: Description | None, plant: AbstractPlant | None, action_set: AbstractActionSet | Limits | None
) -> None:
    """Refuse a description of another plant than the environment; limits that are given come before its own."""
    if described is not None and plant is not None:
        described.check_sizes("the environment", plant.obs_size, plant.action_set.size)
        if action_set is None:
            described.check_limits(plant.action_set)


def _in_a_run(algorithm: AbstractAlgorithm, updates: int) -> AbstractAlgorithm:
    """The algorithm, its schedules over so many updates where they say no number of their own; others are checked."""
    settings = as_dict(algorithm)
    for field in setting_fields(type(algorithm)):
        if Linear in field.metadata["kinds"] and callable(settings[field.name]):
            check_schedule(field.name, settings[field.name], updates)
    now = {name: over(value, updates) for name, value in settings.items() if isinstance(value, Linear)}
    return algorithms.made(algorithm, {name: value for name, value in now.items() if value != settings[name]})


def _is_rule(rule: object) -> bool:
    return callable(rule) and not isinstance(rule, type) and takes_arguments(rule, 1)


def _crossed(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return after // every > before // every
