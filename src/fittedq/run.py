"""A run in a folder: train, evaluate on separate seeds, checkpoint, stop on request, resume.

`execute` is a generator of reports, so a command line, a notebook or a test decides what to show and when to stop.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from fittedq import algorithms, checkpoint
from fittedq.agent import Agent
from fittedq.algorithms.base import Algorithm
from fittedq.envs.gym import EnvLike, GymSource
from fittedq.envs.native import AbstractJaxEnv, find_jax_env
from fittedq.errors import UserError
from fittedq.files import versions
from fittedq.record import RunFolder
from fittedq.settings import from_json, split_settings
from fittedq.train import AbstractTrainer, CompiledTrainer, HostTrainer, Progress, TrainSettings, never, train

AnyEnv = EnvLike | AbstractJaxEnv


@dataclass(frozen=True)
class Schedule:
    """How long to train and how often to look. Evaluation and checkpoints change nothing in the run itself."""

    steps: int
    report_every: int = 1_000
    eval_every: int = 5_000
    eval_episodes: int = 5
    checkpoint_every: int = 10_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            low = 0 if field.name in ("eval_every", "checkpoint_every") else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise UserError(f"{field.name}: found {value!r}, expected a whole number of at least {low}.")


@dataclass(frozen=True)
class Report:
    """One interval of a run."""

    step: int
    steps: int
    updates: int
    episodes: int
    seconds: float
    """Seconds of training in this process, evaluation and files excluded."""
    steps_per_second: float
    updates_per_second: float
    train_return: float | None
    """Mean return of the training episodes that ended in this interval."""
    eval_returns: list[float] | None
    best: float | None
    metrics: dict[str, float]

    @property
    def eta_seconds(self) -> float:
        return (self.steps - self.step) / max(self.steps_per_second, 1e-9)

    def record(self) -> dict[str, Any]:
        """The line of `metrics.jsonl`."""
        row: dict[str, Any] = {
            "step": self.step,
            "updates": self.updates,
            "episodes": self.episodes,
            "seconds": round(self.seconds, 3),
            "steps_per_second": round(self.steps_per_second, 1),
            "updates_per_second": round(self.updates_per_second, 1),
            "train_return": self.train_return,
        }
        if self.eval_returns is not None:
            row |= {
                "eval_mean": float(np.mean(self.eval_returns)),
                "eval_min": min(self.eval_returns),
                "eval_max": max(self.eval_returns),
                "eval_returns": self.eval_returns,
            }
        return row | self.metrics


class Run:
    """Algorithm, environment and trainer, put together and checked; with a folder where one is wanted."""

    def __init__(
        self,
        algorithm: str,
        env: AnyEnv,
        schedule: Schedule,
        *,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        eval_env: AnyEnv | None = None,
    ):
        cls = algorithms.find(algorithm)
        given, loop_given = split_settings(settings or {}, cls, TrainSettings)
        if not isinstance(seed, int) or seed < 0:
            raise UserError(f"seed: found {seed!r}, expected a whole number of at least 0.")
        self.algorithm: Algorithm = cls(**given)
        self.train_settings = TrainSettings(**loop_given)
        self.schedule, self.seed = schedule, seed
        self.env_id = env if isinstance(env, str) else None
        if isinstance(env, str) and env.startswith("jax/"):
            env = find_jax_env(env)
        self.env = env
        self.eval_env = env if eval_env is None else eval_env
        if isinstance(self.eval_env, VectorEnv) and schedule.eval_every:
            if self.eval_env.spec is None:
                raise UserError("eval_env: a vector environment without a spec cannot be evaluated on; give eval_env.")
            self.eval_env = self.eval_env.spec.id
        self.trainer = self._trainer()
        self.folder = None if folder is None else RunFolder(folder)
        self.best: float | None = None
        self.notes: list[str] = []

    def _trainer(self) -> AbstractTrainer:
        if isinstance(self.env, AbstractJaxEnv):
            return CompiledTrainer(self.algorithm, self.env, self.train_settings, self.seed)
        source = GymSource(
            self.env,
            n_envs=self.train_settings.n_envs,
            asynchronous=self.train_settings.asynchronous,
            seed=self.seed,
        )
        return HostTrainer(self.algorithm, source, self.train_settings, self.seed)

    def config(self) -> dict[str, Any]:
        """What `resume` needs to make this run again."""
        settings = dataclasses.asdict(self.algorithm) | dataclasses.asdict(self.train_settings)
        return {
            "algorithm": self.algorithm.name,
            "env": self.env_id,
            "seed": self.seed,
            **dataclasses.asdict(self.schedule),
            # JSON has lists only; a configuration read back must compare equal.
            "settings": {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()},
            "versions": versions(),
        }

    def agent(self) -> Agent:
        """The live policy and critics."""
        trainer = self.trainer
        return Agent(
            self.algorithm, trainer.obs_size, trainer.action_set, trainer.nets(), trainer.moments(), self.env_id
        )

    def start(self) -> None:
        """Claim the run folder."""
        if self.folder is not None:
            self.folder.create(self.config())

    def restore(self) -> None:
        """Continue from the folder's last whole checkpoint."""
        assert self.folder is not None
        path, exact, problems = checkpoint.restore(self.folder.checkpoints, self.trainer)
        self.notes += [f"{problem} Falling back to {path.name}." for problem in problems]
        if not exact:
            self.notes.append("The environment could not be brought back exactly: a new episode begins.")
        self.folder.rewind(self.trainer.step)
        evaluated = [record["eval_mean"] for record in self.folder.metrics() if record.get("eval_mean") is not None]
        self.best = max(evaluated, default=None)

    def execute(self, stop: Callable[[], bool] = never) -> Iterator[Report]:
        """Train to the schedule's end, or until `stop()`; the folder is saved either way."""
        schedule, trainer = self.schedule, self.trainer
        seconds, start = 0.0, time.perf_counter()
        before = (trainer.step, trainer.updates)
        try:
            for progress in train(trainer, schedule.steps, self._report_every(), stop):
                if progress.step == before[0]:
                    # Stopped before a step was taken.
                    break
                elapsed = time.perf_counter() - start
                seconds += elapsed
                report = self._report(progress, seconds, elapsed, before)
                if self.folder is not None:
                    self.folder.append(report.record())
                    if schedule.checkpoint_every and _crossed(schedule.checkpoint_every, before[0], progress.step):
                        checkpoint.save(self.folder.checkpoints, trainer)
                before = (progress.step, progress.updates)
                yield report
                start = time.perf_counter()
            self._finish()
        finally:
            trainer.close()

    def _report_every(self) -> list[int]:
        """Reports fall on evaluations and checkpoints too."""
        schedule = self.schedule
        return [every for every in (schedule.report_every, schedule.eval_every, schedule.checkpoint_every) if every]

    def _report(self, progress: Progress, seconds: float, elapsed: float, before: tuple[int, int]) -> Report:
        returns = None
        last = progress.step >= self.schedule.steps
        every = self.schedule.eval_every
        if every and (last or _crossed(every, before[0], progress.step)):
            agent = self.agent()
            returns = [float(value) for value in agent.evaluate(self.eval_env, self.schedule.eval_episodes, self.seed)]
            if self.best is None or np.mean(returns) > self.best:
                self.best = float(np.mean(returns))
                if self.folder is not None:
                    agent.save(self.folder.best)
        return Report(
            step=progress.step,
            steps=self.schedule.steps,
            updates=progress.updates,
            episodes=progress.episodes,
            seconds=seconds,
            steps_per_second=(progress.step - before[0]) / max(elapsed, 1e-9),
            updates_per_second=(progress.updates - before[1]) / max(elapsed, 1e-9),
            train_return=float(np.mean(progress.returns)) if progress.returns else None,
            eval_returns=returns,
            best=self.best,
            metrics=progress.metrics,
        )

    def _finish(self) -> None:
        if self.folder is None:
            return
        checkpoint.save(self.folder.checkpoints, self.trainer)
        self.agent().save(self.folder.last)
        self.folder.draw()


def resume(folder: Path, *, steps: int | None = None, env: AnyEnv | None = None) -> Run:
    """The run of a folder, at its last whole checkpoint.

    `steps` extends it; `env` stands in for an environment that has no id.
    """
    config = RunFolder(folder).open()
    env = config["env"] if env is None else env
    if env is None:
        raise UserError(
            f"run folder {folder}: its environment was made in Python, not from an id; continue it there with "
            "fittedq.resume(folder, env=...)."
        )
    names = [field.name for field in dataclasses.fields(Schedule)]
    schedule = Schedule(**{name: config[name] for name in names if name in config})
    if steps is not None:
        schedule = dataclasses.replace(schedule, steps=steps)
    run = Run(
        config["algorithm"],
        env,
        schedule,
        seed=config["seed"],
        settings=from_json(config["settings"]),
        folder=folder,
    )
    run.restore()
    if schedule.steps > max(run.trainer.step, config["steps"]):
        RunFolder(folder).extend(schedule.steps)
    return run


def find_agent(path: Path) -> Agent:
    """The agent of an agent folder, or the best (else the last) of a run folder."""
    if (path / "config.json").is_file():
        for candidate in (path / "best", path / "last"):
            if candidate.is_dir():
                return Agent.load(candidate)
        raise UserError(f"run folder {path} holds no saved agent yet; train it further first.")
    return Agent.load(path)


def _crossed(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return after // every > before // every
