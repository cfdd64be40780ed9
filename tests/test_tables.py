"""Tables and live views: as wide as the terminal and nothing cut; plain lines where there is none."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from fittedq.cli.board import Board
from fittedq.cli.main import main
from fittedq.cli.tables import print_rows, table_lines, without
from fittedq.runs.progress import HEIGHTS, sparkline
from fittedq.runs.tasks import Task, Told
from test_aggregate import recorded

WIDTHS = (60, 80, 120, 200)
DRAWN = re.compile(r"[\u2500-\u259f]")
"""Boxes and blocks."""
COLORED = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
RUNS = [
    ["run", "algorithm", "environment or data", "seed", "steps", "best", "last", "state"],
    ["five/seed-0", "sac (droq)", "HalfCheetah-v5", "0", "60,000 of 100,000", "1,234.5", "1,200.0", "stopped"],
    ["five/lr=0.0003-gamma=0.99-with-a-name-that-is-long-in-itself", "td3", "log/heater", "1", "6", "", "", "new"],
]
PAIRS = [
    ["extra mujoco", "without mujoco, gymnasium, and a sentence of many words that goes on and on"],
    ["disk", "5 G"],
]


def on_terminal(width: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that a terminal of so many columns shows, without colors."""
    ours, theirs = pty.openpty()
    parts = list[bytes]()

    def read() -> None:  # a terminal that nobody reads holds up who writes
        with contextlib.suppress(OSError):
            while part := os.read(ours, 2**12):
                parts.append(part)

    reader = threading.Thread(target=read)
    with open(theirs, "w", encoding="utf-8") as screen, monkeypatch.context() as patch:
        reader.start()
        patch.setenv("COLUMNS", str(width))
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stdout", screen)
        act()
    reader.join()
    os.close(ours)
    return [COLORED.sub("", line).rstrip("\r") for line in b"".join(parts).decode().split("\n")]


@pytest.mark.parametrize("rows", [RUNS, PAIRS])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_is_no_wider_than_the_terminal_and_nothing_is_cut(rows: list[list[str]], width: int) -> None:
    head = rows is RUNS
    lines = table_lines(rows, width, head=head)
    assert max(map(len, lines)) <= width
    for word in (word for row in rows[head:] for cell in row for word in cell.split()):
        assert word in " ".join(lines)
    assert not DRAWN.search("\n".join(lines))


def test_what_fits_is_a_line_a_row_and_what_does_not_is_folded_before_it_is_put_below() -> None:
    assert table_lines(PAIRS, None, head=False) == ["  ".join((name.ljust(12), text)) for name, text in PAIRS]
    folded = table_lines(PAIRS, 60, head=False)
    assert [line[:14].strip() for line in folded] == ["extra mujoco", "", "disk"]
    below = table_lines(RUNS, 60, head=True)
    assert below[0] == "five/seed-0" and below[1].split() == ["algorithm", "sac", "(droq)"]
    wide = table_lines(RUNS, 200, head=True)
    assert len(wide) == len(RUNS) and wide[1].index("HalfCheetah") == wide[0].index("environment")
    long = "a" * 100
    assert "".join(line.strip() for line in table_lines([["x", long]], 60, head=False)) == "x" + long
    assert table_lines([], 60, head=True) == []


def test_all_lines_of_a_folded_head_are_bold(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = list[tuple[str, bool]]()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(Console, "print", lambda console, text, **more: shown.append((text.plain, bool(text.style))))
    monkeypatch.setenv("COLUMNS", "60")
    print_rows([["run", "how long it took on one core of the machine that had it", "what it came to"], ["a", "9", "8"]])
    assert len(shown) > 2 and [bold for _, bold in shown] == [True] * (len(shown) - 1) + [False]
    shown.clear()
    print_rows(RUNS)
    assert "".join(text for text, bold in shown if bold) == "".join(row[0] for row in RUNS[1:])


@pytest.mark.parametrize("width", WIDTHS)
def test_every_command_keeps_to_the_terminal(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a-run-with-a-long-name", "another-run-with-a-long-name"):
        recorded(tmp_path / name, [1.0, 2.0], seed=len(name), settings={"gamma": 0.9 + len(name) / 1000})
    folders = [str(one) for one in tmp_path.iterdir()]
    commands = (
        ["--help"],
        ["list"],
        ["list", "td3"],
        ["runs", str(tmp_path)],
        ["compare", *folders, "--recorded"],
    )
    for words in commands:
        capsys.readouterr()
        assert main(words) == 0
        plain = capsys.readouterr().out
        shown = on_terminal(width, lambda words=words: main(words), monkeypatch)
        if words[0] in ("--help", "runs") or words == ["list"]:  # others say sentences too, which a terminal folds
            assert max(map(len, shown)) <= width, words
        words_said = {word for word in plain.split() if len(word) < width} - {"run", "runs", "setting"}  # first heads
        assert words_said <= set(" ".join(shown).split()), words
        assert not DRAWN.search("\n".join(shown))


def test_what_is_piped_is_plain_and_a_line_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        recorded(tmp_path / f"a-run-with-a-name-that-is-long-{seed}" / ("b" * 60), [1.0, 2.0], seed=seed)
    assert main(["runs", str(tmp_path)]) == 0
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    said = capsys.readouterr().out
    assert len(said.partition("usage")[0].splitlines()) == 3 and "--robustness" in said
    assert not DRAWN.search(said) and "\x1b" not in said


def reported(step: int, **figures: float) -> dict[str, object]:
    return {
        "event": "report",
        "step": step,
        "steps": 100_000,
        "updates_per_second": 200.0,
        "eta_seconds": 9.0,
        **figures,
    }


@pytest.mark.parametrize("width", WIDTHS)
def test_the_live_table_has_curves_and_leaves_out_what_there_is_no_room_for(width: int) -> None:
    tasks = [Task(f"seed {seed}", (), {}) for seed in range(3)]
    board = Board(tasks)
    for task in tasks[:2]:
        for step in range(1, 5):
            board.take(Told(task, record=reported(1_000 * step, eval_mean=float(step), best=4.0, train_return=-1.0)))
    lines = board.lines(width)
    assert len(lines) == 4 and max(map(len, lines)) <= width
    assert all("4,000 of 100,000" in line and "4.0" in line for line in lines[1:3]) and "waiting" in lines[3]
    if width >= 80:
        assert all("▁▃▆█" in line for line in lines[1:3])
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, height=20)
    screen.print(board)
    assert isinstance(screen.file, io.StringIO)
    assert [COLORED.sub("", line) for line in screen.file.getvalue().splitlines()] == lines


def test_the_least_columns_go_first() -> None:
    rows = [["run", "a", "b"], ["seed 0", "1" * 20, "2" * 20]]
    assert without(rows, ("a", "b"), 50) == rows
    assert without(rows, ("a", "b"), 49) == [["run", "b"], ["seed 0", "2" * 20]]
    assert without(rows, ("a", "b"), 10) == [["run"], ["seed 0"]]


def test_a_curve_goes_from_the_least_to_the_greatest() -> None:
    assert sparkline([float(one) for one in range(8)]) == HEIGHTS
    assert sparkline([3.0, 3.0]) == "▁▁" and sparkline([]) == "" and sparkline([float("nan"), 1.0]) == "▁"
    assert sparkline([1e9, *map(float, range(16))])[0] == "▁" and len(sparkline([0.0] * 40)) == 16
