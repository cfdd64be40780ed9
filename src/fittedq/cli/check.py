"""`fittedq data check`: what is in a dataset, what is suspicious about it, and what it can teach."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from fittedq.cli.arguments import MaybePath
from fittedq.cli.tables import print_rows
from fittedq.data.checks.base import LOOK_HERE, AbstractCheck
from fittedq.data.checks.lessons import checks_of
from fittedq.data.checks.sample import MOST_ROWS
from fittedq.data.dataset import Dataset
from fittedq.data.quality import Quality, Spread, quality_of
from fittedq.errors import UserError
from fittedq.runs.folder import json_value
from fittedq.runs.progress import console


@dataclass(frozen=True)
class Check:
    """Show what is in a dataset, what is suspicious about it, and what it can teach: whether its actions were explored,
    how much of their box was tried, whether the state hides something, and how small a difference it can tell."""

    path: tyro.conf.Positional[Path]
    """A dataset folder."""
    gamma: float | None = None
    """The discount with which you will train; by default that of the description's settling time, else 0.99."""
    settling: float | None = None
    """Rows that the plant takes to settle; by default the description tells, else a linear model of the log."""
    pictures: MaybePath = None
    """A folder for a picture of each check."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        if self.gamma is not None and not 0 <= self.gamma < 1:
            raise UserError(f"found {self.gamma:g}, expected a discount from 0 to below 1.", argument="gamma")
        if self.settling is not None and not 0 < self.settling < float("inf"):
            raise UserError(f"found {self.settling:g}, expected a number of rows above 0.", argument="settling")
        dataset = Dataset.open(self.path)
        quality = quality_of(dataset)
        checks = checks_of(dataset, gamma=self.gamma, settling=self.settling)
        if self.pictures is not None:
            from fittedq.diagnose.pictures import draw_checks

            draw_checks(checks, self.pictures)
        if self.json:
            print(json.dumps({"path": str(self.path), **json_value(_object(quality, checks))}))
        else:
            _show(self.path, quality, checks)
        return 0


def _object(quality: Quality, checks: Sequence[AbstractCheck]) -> dict[str, object]:
    """All that was found; what to look at is among the warnings too."""
    failed = [f"{check.title}: {check.finding()}. {check.remedy()}" for check in checks if check.verdict == LOOK_HERE]
    return {
        **dataclasses.asdict(quality),
        "warnings": quality.warnings + failed,
        "checks": {check.title: check.figures() for check in checks},
    }


def _show(path: Path, quality: Quality, checks: Sequence[AbstractCheck]) -> None:
    ends = f"{quality.terminated:,} terminated, {quality.truncated:,} truncated"
    if quality.unfinished:
        ends += ", the last unfinished"
    rows = [
        ["transitions", f"{quality.rows:,} ({quality.obs_size} observation, {quality.action_size} action numbers)"],
        ["episodes", f"{quality.episodes:,}: {ends}"],
        ["length", _spread(quality.length)],
        ["return", _spread(quality.returns)],
        ["reward", _spread(quality.reward)],
    ]
    columns = (quality.action_low, quality.action_high, quality.action_min, quality.action_max, quality.at_bounds)
    for axis, (low, high, least, greatest, share) in enumerate(zip(*columns, strict=True)):
        name = quality.action_names[axis] if quality.action_names else f"action {axis}"
        tried = f"{least:.4g} to {greatest:.4g} in the box [{low:.4g}, {high:.4g}]"
        rows.append([name, f"{tried}; {100 * share:.1f} % on its bounds"])
    terminal = console(to_errors=False)
    terminal.print(f"{path}", soft_wrap=True)
    print_rows(rows, head=False)
    if quality.rows > MOST_ROWS:
        note = f"The checks below, the rewards' excepted, look at some {MOST_ROWS:,} rows, in pieces from everywhere."
        terminal.print(note, soft_wrap=True)
    for check in checks:
        terminal.print(check.told(), soft_wrap=True)
    for warning in quality.warnings:
        terminal.print(f"warning: {warning}", soft_wrap=True)
    failed = [check.title for check in checks if check.verdict == LOOK_HERE]
    if failed:
        terminal.print(f"warning: look at {', '.join(failed)} above before you train on this log.", soft_wrap=True)
    elif not quality.warnings:
        terminal.print("No warnings.")


def _spread(spread: Spread) -> str:
    if spread.min is None or spread.mean is None or spread.max is None:
        return "none"
    return f"{spread.mean:.4g} on average ({spread.min:.4g} to {spread.max:.4g})"
