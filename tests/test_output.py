"""What is printed and drawn: names as they are, a missing picture said once, pictures that name their state."""

from __future__ import annotations

import io
import signal
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fittedq.cli import follow, inspect, signals
from fittedq.diagnose import pictures
from fittedq.diagnose.gap import Gap
from fittedq.runs.folder import RunFolder
from fittedq.runs.progress import console, shown
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from standing import Recorder

NAME = "[bold]run[red] :smile:"
"""In rich's markup, bold and red text with a face."""


@pytest.fixture
def ended(tmp_path: Path) -> Callable[..., None]:
    """Says how a run in a folder of that name ended."""
    run = object.__new__(Run)  # of a run only its folder is named
    run.folder = RunFolder(tmp_path / NAME)
    for left in (run.folder.last, run.folder.best):
        left.mkdir(parents=True)
    run.folder.metrics_file.touch()
    summary = {"event": "done", "step": 8, "seconds": 1.0, "finished": None, "warnings": [], "eval_mean": None}
    return lambda **changed: follow._say(console(), run, summary | changed)


def test_a_path_is_no_markup(ended: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended()
    assert f"Run folder: {tmp_path / NAME} (last/, best/, metrics.jsonl" in capsys.readouterr().err
    ended(event="interrupted")
    assert f"Continue: fittedq resume {tmp_path / NAME}\n" in capsys.readouterr().err
    inspect._say({"path": NAME, "settings": {"model": NAME}})
    assert capsys.readouterr().out.count(NAME) == 2


@pytest.mark.parametrize("installed", [False, True])
def test_a_missing_picture_is_said_once_and_only_where_it_is_missing(
    installed: bool,
    ended: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = types.ModuleType("matplotlib")
    module.__spec__ = ModuleSpec("matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib", module if installed else None)
    ended(warnings=["one", "two"], eval_mean=1.0, best=2.0)
    assert capsys.readouterr().err.count("matplotlib") == (0 if installed else 1)


@pytest.mark.parametrize("size", [2, 9])
def test_a_picture_names_the_state_that_it_shows(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    titles: list[str] = []
    monkeypatch.setattr(pictures, "save_picture", lambda figure, path: titles.append(figure.get_suptitle()))
    obs = np.arange(3 * size, dtype=np.float32).reshape(3, size)
    gap = Gap(
        obs=obs,
        policy_action=np.zeros((3, 1), np.float32),
        policy_value=np.array([0.0, 0.0, 1.0]),
        best_action=np.ones((3, 1), np.float32),
        best_value=np.array([0.0, 0.0, 1.25]),
        upper_bound=np.array([0.0, 0.0, 1.5]),
        scale=np.full(3, 4.0),
        residual=np.zeros(3),
        status=np.zeros(3, np.int32),
        softness=np.zeros(3),
    )

    def q(states: Any, actions: Any) -> Any:
        return states[:, 0] + actions[:, 0]

    pictures.draw_state(gap, 2, q, [-1.0], [1.0], tmp_path / "picture.png")
    shown = {2: "4, 5", 9: "18, 19, 20, 21, 22, 23, 24, 25, …"}[size]
    assert titles == [f"state 2, s = [{shown}]: gap 0.25 to 0.5, range of q 4"]


def standing(step: int) -> Any:
    """A run of 1,000 steps at this one, which is asked for nothing more."""
    run: Any = object.__new__(Run)
    run.folder, run.trainer, run.schedule = RunFolder(Path("runs/mine")), Recorder(step), Schedule(steps=1000)
    run.notes, run.warnings, run.best = [], [], None
    run.reports, run.warn = lambda *_, **__: (_ for _ in ()), list
    return run


def test_the_bar_of_a_resumed_run_begins_where_the_run_was() -> None:
    written = io.StringIO()
    run = standing(500)
    assert list(shown(run.reports(), run, Console(file=written, force_terminal=True, width=100))) == []
    assert "500/1,000" in written.getvalue()


def test_a_second_ctrl_c_names_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As said by the thread that reads the signals, which then ends the process."""

    class Ended(Exception): ...

    def end(code: int) -> None:
        raise Ended(code)

    def twice(*_: Any, **__: Any) -> Any:
        signals._asked(signal.SIGINT)
        signals._asked(signal.SIGINT)

    said: list[str] = []
    monkeypatch.setattr(signals, "_say", said.append)
    monkeypatch.setattr(signals, "end", end)
    run = standing(500)
    run.reports = twice
    with pytest.raises(Ended, match="130"):
        follow.follow(run, None, as_json=True)
    assert said[0] == "\nStopping: saving first. (Ctrl-C again stops at once.)\n"
    assert said[1:] == ["\nfittedq: interrupted; continue from what was saved: fittedq resume runs/mine\n"]
