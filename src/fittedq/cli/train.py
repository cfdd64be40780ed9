"""`fittedq train ALGORITHM ENV`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from fittedq.algorithms.named import NamedMethod
from fittedq.cli.arguments import MaybeInt, MaybePath, MaybeWord, StopCondition
from fittedq.cli.environments import AugmentsState, LimitsActions, NamesEnv, TrustsFile
from fittedq.cli.signals import INTERRUPTED, interruptible
from fittedq.code import check_needed
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.runs.folder import json_value
from fittedq.runs.progress import console, duration, shown
from fittedq.runs.report import Report
from fittedq.runs.run import Run
from fittedq.runs.saved import find_agent
from fittedq.runs.schedule import USUAL_STEPS, Schedule
from fittedq.runs.stop import Reports

EXPLODING = (
    "gradients through the model grow more than a hundredfold up to the longest horizon (health/gradient_norm_…), as "
    "stiff contact makes them; shorten the horizon."
)


@dataclass(frozen=True)
class Train(NamesEnv, LimitsActions, AugmentsState, TrustsFile):
    """Train a controller in an environment or from a dataset. Ctrl-C saves the run and stops it; `fittedq resume`
    continues it."""

    algorithm: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ALGORITHM")]
    """The algorithm's name; `fittedq list` shows all. One of your own: FILE.py:NAME or MODULE:NAME, a class or an
    object."""
    env: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[ENV]", help_behavior_hint="")] = None
    """A Gymnasium id (HalfCheetah-v5, module:Id), a class (module:Class, file.py:Class) or a JAX environment
    (jax/Pendulum-v1; of the gymnax interface gymnax/module:Class). Leave it out to learn from --data alone."""
    data: MaybePath = None
    """A dataset folder (`fittedq data`) to learn from. With an environment, the replay starts with it."""
    eval_env: MaybeWord = None
    """The environment of evaluations, made with the same --env-kwargs and --wrapper; by default the one trained in."""
    steps: MaybeInt = None
    """Environment steps in all (default: 100 000). From data alone: updates (50 000), or iterations of a fitted method
    (40)."""
    seed: int = 0
    """Seed of networks, actions, batches and episodes."""
    out: MaybePath = None
    """Run folder; by default runs/ALGORITHM-ENV-SEED, or runs/ALGORITHM-DATA-SEED; a preset's name stands for its
    algorithm's."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """A setting of the algorithm or of training; `fittedq list ALGORITHM` shows them. May be given often."""
    preset: MaybeWord = None
    """Settings with which the algorithm was published; `fittedq list` shows them. --set overrides them."""
    eval_every: MaybeInt = None
    """Steps between evaluations (default: 5 000, or 10 iterations), whose episodes have seeds of their own. 0: none."""
    eval_episodes: int = 5
    """Episodes in each evaluation."""
    checkpoint_every: MaybeInt = None
    """Steps between checkpoints (default: 10 000, or 10 iterations). 0: only at the end."""
    gap_every: int = 0
    """Steps between measurements of the amortization gap on some of the states learned from (gap/…). 0: none."""
    start: MaybePath = None
    """A run (its best agent) or an agent. Training starts with its networks."""
    stop_when: StopCondition = None
    """Save and stop once this holds at a report (every 1 000 steps, or each iteration of a fitted method, and at
    evaluations and checkpoints), such as "eval_mean > -150 and step > 10000". What is true only between two reports
    is not seen. It may use the newest value of any figure of metrics.jsonl, + - * /, comparisons, and, or, not, abs,
    min, max."""
    json: bool = False
    """Print a JSON object per report, for machines."""

    def run(self) -> int:
        every = {"eval_every": self.eval_every, "checkpoint_every": self.checkpoint_every}
        given = {name: value for name, value in every.items() if value is not None} | {
            "eval_episodes": self.eval_episodes,
            "gap_every": self.gap_every,
        }
        if self.env is None and self.data is None:
            raise UserError("train: found neither an environment nor --data; give one of them.")
        if self.env is None:
            schedule = Schedule.offline(self.algorithm, self.steps, **given)
        else:
            schedule = Schedule(steps=USUAL_STEPS if self.steps is None else self.steps, **given)
        source = self.env or Path(str(self.data)).name
        method = self.preset or folder_name(self.algorithm)
        folder = self.out or Path("runs") / f"{method}-{folder_name(source)}-{self.seed}"
        start = None if self.start is None else find_agent(self.start, None, self.trust_code, like=self.algorithm)
        check_needed(self.trust_code, NamedMethod.of(self.algorithm), start and start.method)
        env = None if self.env is None else self.named(self.env)
        eval_env = self.named(self.eval_env) if self.eval_env is not None or self.env is None else None
        run = Run(
            self.algorithm,
            env,
            schedule,
            data=None if self.data is None else Dataset.open(self.data),
            seed=self.seed,
            settings=self.assignments(self.set),
            folder=folder,
            eval_env=eval_env,
            action_set=self.limits(),
            start=start,
            preset=self.preset,
        )
        return follow(run, self.stop_when, as_json=self.json)


def folder_name(text: str) -> str:
    """`text` without what a file system forbids in a name, and no longer than one takes."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]+', "-", text).strip("-. ")[:80] or "env"


def follow(run: Run, stop_when: str | None, *, as_json: bool, first: str | None = None) -> int:
    """Execute a run in sight of its user: the `first` line, progress, Ctrl-C, a summary; the exit code."""
    assert run.folder is not None
    with interruptible(then=f"continue from what was saved: fittedq resume {run.folder.path}") as stop:
        reports = run.reports(stop_when, stop=lambda: bool(stop))
        terminal = console()
        if first is not None:
            terminal.print(first, soft_wrap=True)
        for note in run.notes:
            terminal.print(f"note: {note}", soft_wrap=True)
        _warn(terminal, run.warn())
        report = _watched(run, terminal, reports, as_json=as_json)
        _warn(terminal, run.warn())
        early = run.trainer.step < run.schedule.steps and run.trainer.finished is None
        stopped = bool(stop) and early
        summary: dict[str, Any] = {
            "event": "interrupted" if stopped else "done",
            "run": str(run.folder.path),
            "step": run.trainer.step,
            "steps": run.schedule.steps,
            "finished": stop_when if early and not stopped else run.trainer.finished,
            "seconds": None if report is None else round(report.seconds, 1),
            "eval_mean": None if report is None or report.eval_returns is None else float(np.mean(report.eval_returns)),
            "best": run.best,
            "warnings": run.warnings,
        }
        if as_json:
            print(json.dumps(summary), flush=True)
        else:
            _say(terminal, run, summary)
    return INTERRUPTED if stopped else 0


def _watched(run: Run, terminal: Console, reports: Reports, *, as_json: bool) -> Report | None:
    """Execute a run and show its reports; the last one."""
    report: Report | None = None
    warned = False
    for report in reports if as_json else shown(reports, run, terminal):
        if report.metrics.get("health/exploding") and not warned:
            _warn(terminal, [EXPLODING])
            warned = True
        _warn(terminal, report.warnings)
        if as_json and report.fraction == 0:
            record = {"event": "report", **report.record(), "eta_seconds": report.eta_seconds}
            print(json.dumps(json_value(record)), flush=True)
    return report


def _warn(terminal: Console, sentences: Iterable[str]) -> None:
    for sentence in sentences:
        terminal.print(f"warning: {sentence}", soft_wrap=True)


def _say(terminal: Console, run: Run, summary: dict[str, Any]) -> None:
    assert run.folder is not None
    path = run.folder.path
    if summary["event"] == "interrupted":
        stopped = f"Stopped at step {summary['step']:,} and saved."
        terminal.print(f"{stopped} Continue: fittedq resume {path}", soft_wrap=True)
        return
    took = "" if summary["seconds"] is None else f" in {duration(summary['seconds'])} of training"
    why = "" if summary["finished"] is None else f": {summary['finished']}"
    terminal.print(f"Done: {summary['step']:,} steps{took}{why}.")
    if summary["finished"] is not None and run.trainer.finished is None:
        terminal.print(f"Continue: fittedq resume {path}", soft_wrap=True)
    if summary["eval_mean"] is not None:
        terminal.print(f"Last evaluation {summary['eval_mean']:.1f}, best {summary['best']:.1f}.")
    left = (run.folder.last, run.folder.best, run.folder.metrics_file, run.folder.curve_file)
    names = ", ".join(f"{one.name}/" if one.is_dir() else one.name for one in left if one.exists())
    if find_spec("matplotlib") is None:
        terminal.print("No picture of the learning curve: it needs matplotlib (pip install 'fittedq[viz]').")
    terminal.print(f"Run folder: {path} ({names}).", soft_wrap=True)
