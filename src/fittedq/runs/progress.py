"""Progress on a terminal: steps/s, updates/s, time left and the latest returns."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from fittedq.runs.report import Report
from fittedq.runs.run import Run
from fittedq.runs.stop import Reports

HEIGHTS, CURVE = "▁▂▃▄▅▆▇█", 16
"""Of a curve in a line of text, and how many values it shows."""
COMPILING = "compiling (kept for the next start)"


def console(*, to_errors: bool = True) -> Console:
    """Text as it is: what a path or a name holds is no markup, and nothing is colored by guess."""
    return Console(file=sys.stderr if to_errors else sys.stdout, markup=False, highlight=False, emoji=False)


def shown(reports: Reports, run: Run, terminal: Console) -> Reports:
    """The same reports of `run`, shown as they pass: a live bar on a terminal, a line each elsewhere.

    What else is printed on `terminal` meanwhile stands above the bar.
    """
    with closing(reports):
        yield from _shown(reports, run, terminal)


def _shown(reports: Reports, run: Run, terminal: Console) -> Reports:
    if not terminal.is_terminal:
        terminal.print(COMPILING)
        for report in reports:
            if report.fraction == 0:
                terminal.print(line(report), soft_wrap=True)
            yield report
        return
    columns = (
        BarColumn(bar_width=24 if terminal.width >= 80 else 10),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar, below, returns = Progress(*columns, console=terminal), Text(COMPILING), list[float]()
    task = bar.add_task("", total=run.schedule.steps, completed=run.trainer.step)
    with Live(Group(bar, below), console=terminal, refresh_per_second=4):
        for report in reports:
            if report.eval_returns is not None:
                terminal.print(line(report))
                returns.append(float(np.mean(report.eval_returns)))
            bar.update(task, completed=report.step + report.fraction)
            below.plain = "  ".join(one for one in (_rates(report), sparkline(returns)) if one)
            yield report


def counted(values: Iterable[Any], total: int, what: str, *, sums: bool = False) -> Iterator[Any]:
    """Any slow iteration with a bar on standard error; with `sums` each value says how much of `total` is done."""
    terminal = console()
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=total)
        for value in values:
            bar.advance(task) if not sums else bar.update(task, completed=value)
            yield value


def sparkline(values: Sequence[float]) -> str:
    """The newest values as a small picture, from the least of them to the greatest."""
    newest = [value for value in values if np.isfinite(value)][-CURVE:]
    low, high = min(newest, default=0.0), max(newest, default=0.0)
    place = (len(HEIGHTS) - 1) / (high - low) if high > low else 0.0
    return "".join(HEIGHTS[round(place * (value - low))] for value in newest)


def line(report: Report) -> str:
    """One report as a line of text."""
    text = f"step {report.step:>9,} of {report.steps:,}  {_rates(report)}  ETA {duration(report.eta_seconds)}"
    if report.compiling >= 0.1:
        text += f"  compiled for {report.compiling:.1f} s"
    if report.eval_returns is not None:
        text += f"  evaluation {np.mean(report.eval_returns):.1f} (best {report.best:.1f})"
    return text


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _rates(report: Report) -> str:
    rate = report.steps_per_second
    pace = (
        f"{rate:,.0f} steps/s"
        if rate >= 10
        else f"{rate:.2g} steps/s"
        if rate >= 1
        else f"{1 / max(rate, 1e-9):.1f} s/step"
    )
    text = f"{pace}  {report.updates_per_second:,.0f} updates/s"
    if report.finished is not None:
        text += f"  {report.finished}"
    if report.train_return is not None:
        text += f"  return {report.train_return:.1f}"
    return text
