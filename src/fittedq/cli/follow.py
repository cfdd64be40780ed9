"""A run in sight of its user."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
from rich.console import Console

from fittedq.cli.signals import INTERRUPTED, interruptible
from fittedq.runs.folder import json_value
from fittedq.runs.progress import console, duration, shown
from fittedq.runs.report import Report
from fittedq.runs.run import Run
from fittedq.runs.stop import Reports
from fittedq.runs.trackers import TrackerKinds, tracked

EXPLODING = (
    "gradients through the model grow more than a hundredfold up to the longest horizon (health/gradient_norm_…), as "
    "stiff contact makes them; shorten the horizon."
)


def follow(
    run: Run,
    stop_when: str | None,
    *,
    as_json: bool,
    first: str | None = None,
    track: TrackerKinds = (),
) -> int:
    """Execute a run in sight of its user and its trackers: the `first` line, progress, Ctrl-C, a summary; the exit
    code."""
    assert run.folder is not None
    with interruptible(then=f"continue from what was saved: fittedq resume {run.folder.path}") as stop:
        reports = tracked(run.reports(stop_when, stop=lambda: bool(stop)), run, track)
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
