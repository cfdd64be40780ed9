"""Runs side by side in sight of their user."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.text import Text

from fittedq.cli.signals import INTERRUPTED, interruptible
from fittedq.cli.tables import print_rows, table_lines, without
from fittedq.errors import plural
from fittedq.runs.progress import console, duration, sparkline
from fittedq.runs.tasks import Task, Told

LEFT_OUT = ("updates/s", "return", "best", "left", "curve")
"""Columns that a narrow terminal does without, the first ones first."""
RETURNS = ("eval_mean", "train_return")
"""Figures whose curve is shown: the first one that has two values."""
HEAD = ("run", "step", "updates/s", "return", "evaluation", "best", "left", "")


class Board:
    """The newest of every task, as a table."""

    def __init__(self, tasks: Sequence[Task]):
        self.newest: dict[str, dict[str, Any]] = {task.name: {} for task in tasks}
        self.state: dict[str, str] = {task.name: "waiting" for task in tasks}
        self._returns: dict[str, dict[str, list[float]]] = {}

    def take(self, told: Told) -> None:
        """Take in what a task said."""
        name = told.task.name
        self.newest.setdefault(name, {})
        if told.record is not None:
            self.newest[name] |= {key: value for key, value in told.record.items() if value is not None}
            for figure in RETURNS:
                if told.record.get("event") == "report" and told.record.get(figure) is not None:
                    self._returns.setdefault(name, {}).setdefault(figure, []).append(told.record[figure])
            self.state[name] = "learning" if told.record.get("event") == "report" else str(told.record.get("event"))
        if told.code not in (None, 0, INTERRUPTED):
            self.state[name] = f"failed ({told.code})"

    def forget(self, name: str) -> None:
        """Show a task no more."""
        self.newest.pop(name, None)

    def rows(self) -> Iterator[list[str]]:
        """The cells of each task, below `HEAD`."""
        for name, newest in self.newest.items():
            yield [name, *_cells(newest), self.state[name]]

    def lines(self, width: int) -> list[str]:
        """The table on a terminal: with the curve of each run, and without what there is no room for."""
        place = HEAD.index("best") + 1
        rows = [[*row[:place], self._curve(row[0]), *row[place:]] for row in self.rows()]
        head = [*HEAD[:place], "curve", *HEAD[place:]]
        return table_lines(without([head, *rows], LEFT_OUT, width), width, head=True)

    def _curve(self, name: str) -> str:
        """Its evaluations; its episodes' returns until there are two."""
        known = self._returns.get(name, {})
        return next((sparkline(known[one]) for one in RETURNS if len(known.get(one, ())) > 1), "")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for place, line in enumerate(self.lines(options.max_width)):
            yield Text(line, style="bold" if place == 0 else "", no_wrap=True)


def _cells(newest: Mapping[str, Any]) -> Iterator[str]:
    """step, updates/s, return, evaluation, best and time left, as far as they are known."""
    newest = {name: value for name, value in newest.items() if value is not None}
    step, steps = newest.get("step"), newest.get("steps")
    yield "" if step is None else f"{step:,}" if steps in (None, step) else f"{step:,} of {steps:,}"
    for name, form in (
        ("updates_per_second", ",.0f"),
        ("train_return", ",.1f"),
        ("eval_mean", ",.1f"),
        ("best", ",.1f"),
    ):
        yield format(newest[name], form) if name in newest else ""
    yield duration(newest["eta_seconds"]) if newest.get("event") == "report" and "eta_seconds" in newest else ""


CarriedOut = Callable[[Callable[[], bool]], Iterator[Told]]
"""Carries out tasks until a condition holds, and tells what they say."""


def follow_all(tasks: Sequence[Task], carried_out: CarriedOut, *, as_json: bool) -> int:
    """Carry out all tasks in sight of the user; the exit code: that of a task that failed, or of Ctrl-C, else 0."""
    board, codes = Board(tasks), {}
    leave = "the runs save themselves and end."
    with interruptible("every run is saved first", leave) as stop, follow_live(board, as_json=as_json) as terminal:
        for told in carried_out(lambda: bool(stop)):
            board.take(told)
            tell(told, terminal, as_json=as_json)
            if told.code is not None:
                codes[told.task.name] = told.code
    failed = {name: code for name, code in codes.items() if code not in (0, INTERRUPTED)}
    if not as_json:
        _conclude(board, codes, console())
    return next(iter(failed.values()), INTERRUPTED if stop or INTERRUPTED in codes.values() else 0)


@contextmanager
def follow_live(board: RenderableType, *, as_json: bool) -> Iterator[Console]:
    """A terminal under whose lines the board is kept up to date; elsewhere there are the lines alone."""
    terminal = console()
    if as_json or not terminal.is_terminal:
        yield terminal
        return
    with Live(board, console=terminal, refresh_per_second=4):
        yield terminal


def tell(told: Told, terminal: Console, *, as_json: bool) -> None:
    """Say what a task said: as JSON, as a line, or not at all where a board shows it."""
    name = told.task.name
    if told.text is not None:
        terminal.print(f"{name}: {told.text}", soft_wrap=True)
    elif as_json and told.record is not None:
        print(json.dumps({**told.task.about, **told.record}), flush=True)
    elif told.record is not None and not terminal.is_terminal:
        cells = [f"{what} {cell}" for what, cell in zip(HEAD[1:], _cells(told.record), strict=False) if cell]
        terminal.print(f"{name}: {', '.join(cells)}", soft_wrap=True)


def _conclude(board: Board, codes: Mapping[str, int], terminal: Console) -> None:
    """The table once more, and the mean over seeds."""
    if not terminal.is_terminal:
        print_rows([list(HEAD), *board.rows()])
    last = [one["eval_mean"] for name, one in board.newest.items() if codes.get(name) == 0 and "eval_mean" in one]
    if last:
        runs = plural(len(last), "run", "runs")
        worst = f", worst {min(last):,.1f}" if len(last) > 1 else ""
        terminal.print(f"Last evaluation over {runs}: mean {np.mean(last):,.1f}{worst}.")
    undone = [name for name in board.newest if codes.get(name) != 0]
    if undone:
        terminal.print(f"Not done: {', '.join(undone)}; the same command goes on with them.")
