"""`fittedq train ALGORITHM ENV`."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from fittedq.progress import duration, shown
from fittedq.record import plain
from fittedq.run import Report, Run, Schedule
from fittedq.settings import parse_assignments

INTERRUPTED = 130


@dataclass(frozen=True)
class Train:
    """Train a controller in an environment; Ctrl-C saves and stops, `fittedq resume` continues."""

    algorithm: tyro.conf.Positional[str]
    """An algorithm: `fittedq list` names them."""
    env: tyro.conf.Positional[str]
    """A Gymnasium id, such as HalfCheetah-v5, or a JAX environment, such as jax/Pendulum-v1."""
    steps: int = 100_000
    """Environment steps in all."""
    seed: int = 0
    """Seed of networks, actions, batches and episodes."""
    out: Path | None = None
    """Run folder; by default runs/ALGORITHM-ENV-SEED."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """A setting of the algorithm or the training loop; may be given often. `fittedq list ALGORITHM` shows them."""
    eval_every: int = 5_000
    """Environment steps between evaluations on separate seeds; 0: none."""
    eval_episodes: int = 5
    """Episodes in each evaluation."""
    checkpoint_every: int = 10_000
    """Environment steps between checkpoints; 0: only at the end."""
    json: bool = False
    """Print a JSON object per report, for machines."""

    def run(self) -> int:
        schedule = Schedule(
            steps=self.steps,
            eval_every=self.eval_every,
            eval_episodes=self.eval_episodes,
            checkpoint_every=self.checkpoint_every,
        )
        name = f"{self.algorithm}-{self.env.replace('/', '-')}-{self.seed}"
        folder = self.out or Path("runs") / name
        settings = parse_assignments(self.set)
        run = Run(self.algorithm, self.env, schedule, seed=self.seed, settings=settings, folder=folder)
        run.start()
        return follow(run, as_json=self.json)


def follow(run: Run, *, as_json: bool) -> int:
    """Execute a run in sight of its user: progress, Ctrl-C, a summary; the exit code."""
    assert run.folder is not None
    console = Console(file=sys.stderr)
    for note in run.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    report: Report | None = None
    with interruptible() as interrupted:
        reports = run.execute(stop=lambda: bool(interrupted))
        for report in reports if as_json else shown(reports, run.schedule.steps):
            if as_json:
                record = {name: plain(value) for name, value in report.record().items()}
                try:
                    print(json.dumps({"event": "report", **record, "eta_seconds": report.eta_seconds}), flush=True)
                except BrokenPipeError:
                    interrupted.append(signal.SIGPIPE)  # the reader went away: save and stop
    summary: dict[str, Any] = {
        "event": "interrupted" if interrupted else "done",
        "run": str(run.folder.path),
        "step": run.trainer.step,
        "steps": run.schedule.steps,
        "seconds": None if report is None else round(report.seconds, 1),
        "eval_mean": None if report is None or report.eval_returns is None else float(np.mean(report.eval_returns)),
        "best": run.best,
    }
    if as_json:
        print(json.dumps(summary), flush=True)
    else:
        _say(console, run, summary)
    return INTERRUPTED if interrupted else 0


def _say(console: Console, run: Run, summary: dict[str, Any]) -> None:
    assert run.folder is not None
    path = run.folder.path
    if summary["event"] == "interrupted":
        console.print(
            f"Stopped at step {summary['step']:,} and saved. Continue: fittedq resume {path}", highlight=False
        )
        return
    took = "" if summary["seconds"] is None else f" in {duration(summary['seconds'])} of training"
    console.print(f"Done: {summary['step']:,} steps{took}.", highlight=False)
    if summary["eval_mean"] is not None:
        console.print(f"Last evaluation {summary['eval_mean']:.1f}, best {summary['best']:.1f}.", highlight=False)
    picture = f", {run.folder.curve_file}" if run.folder.curve_file.exists() else ""
    console.print(f"Run folder: {path} (last/, best/, metrics.jsonl{picture}).", highlight=False, soft_wrap=True)


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """A list that Ctrl-C (or a terminate signal) fills; a second Ctrl-C stops at once."""
    received: list[int] = []

    def remember(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        print("\nStopping: saving first. (Ctrl-C again stops at once.)", file=sys.stderr)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
