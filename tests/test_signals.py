"""Signals and lost terminals: at once before a run begins, saved first while it goes on, at once when asked twice."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fittedq.files import read_signed, write_signed

TINY = ["--set", "hidden=8,", "--set", "batch_size=8", "--set", "random_steps=20", "--set", "replay_size=1000"]
ROOT = Path(__file__).parent.parent

# A stand-in for a command: says when it begins, trains in sight of signals, and spends its time in the C library.
STAND_IN = """
import sys, time
from fittedq.cli import signals
signals.install()
print("starting", flush=True)
if sys.argv[1] == "import":
    # What an import may do to an exception that a handler raises in it.
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass
with signals.interruptible() as stop:
    print("training", flush=True)
    if sys.argv[1] == "compiled":
        import ctypes
        # As compiled programs do, it gives the interpreter's lock back and asks nobody whether to stop.
        while True:
            ctypes.CDLL(None).poll(None, 0, 60_000)
    while not stop:
        time.sleep(0.01)
    print("saved", flush=True)
"""


def start(*arguments: str, before: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", before + STAND_IN, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def read_until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    while process.stdout.readline().strip() != word:
        assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["int", "term", "hup"])
def test_before_training_a_signal_ends_the_process_though_exceptions_are_swallowed(number: signal.Signals) -> None:
    process = start("import")
    read_until(process, "starting")
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (130, "\nfittedq: interrupted.\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["int", "term", "hup"])
def test_in_training_a_signal_asks_to_save_first(number: signal.Signals) -> None:
    process = start("train")
    read_until(process, "training")
    process.send_signal(number)
    said, errors = process.communicate(timeout=10)
    assert (process.returncode, said) == (0, "saved\n")
    assert errors == "\nStopping: saving first. (Ctrl-C again stops at once.)\n"


def test_a_second_ctrl_c_stops_at_once_inside_a_call_that_never_looks() -> None:
    process = start("compiled")
    read_until(process, "training")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=5)
    assert process.returncode == 130
    assert errors.endswith("\nfittedq: interrupted.\n")


def test_a_signal_that_was_ignored_at_the_start_stays_ignored() -> None:
    process = start("train", before="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    read_until(process, "training")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[0] == "saved\n"


REPLACING = """
import sys, time
from pathlib import Path
from fittedq import files
from fittedq.cli import signals
from fittedq.export import folder
from fittedq.files import UNFINISHED, Scratch
signals.install()
exchanged = files.exchanged
def slowly(one, other):
    print("training", flush=True)
    time.sleep(0.5)
    return exchanged(one, other)
with Scratch(Path(sys.argv[1])) as scratch:
    (scratch.folder / "half").write_text("written")
    if sys.argv[2] == "publishing":
        files.exchanged = slowly
        folder.publish(scratch, {"target": "c", "files": {}, "new": True})
    elif sys.argv[2] == "collecting":
        (scratch.folder / UNFINISHED).write_text("{}")
        scratch.keep()
    print("training", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("meanwhile", "new", "others"), [("writing", False, 0), ("publishing", True, 0), ("collecting", False, 1)]
)
def test_ctrl_c_leaves_an_export_that_is_replaced_whole_and_nothing_half_written(
    meanwhile: str, new: bool, others: int, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_signed(out / "export.json", {"target": "c", "files": {}, "new": False})
    command = [sys.executable, "-c", REPLACING, str(out), meanwhile]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    read_until(process, "training")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == "\nfittedq: interrupted.\n"
    assert process.returncode == 130
    assert read_signed(out / "export.json")["new"] is new
    assert len([path for path in tmp_path.iterdir() if path != out]) == others


# ---------------------------------------------------------------------- whole commands


def command(out: Path) -> list[str]:
    arguments = ["train", "ddpg", "Pendulum-v1", "--steps", "1000000", "--eval-every", "0", "--out", str(out), *TINY]
    return [sys.executable, "-m", "fittedq", *arguments]


def wait_for(path: Path, process: subprocess.Popen[Any]) -> None:
    end = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


def saved_step(out: Path) -> int:
    (newest,) = sorted((out / "checkpoints").glob("step-*"))[-1:]
    assert (out / "last" / "manifest.json").is_file()
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert int(newest.name[5:]) == steps[-1]
    return steps[-1]


@pytest.mark.slow
def test_a_reader_of_the_progress_that_goes_away_lets_the_run_save_and_stop(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(command(out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()  # what `| head -1` does
    assert process.wait(timeout=60) == 130
    assert saved_step(out) >= 1000


def test_a_terminal_that_goes_away_lets_the_run_save_and_stop(tmp_path: Path) -> None:
    out = tmp_path / "run"
    terminal, other = pty.openpty()
    process = subprocess.Popen(command(out), stdin=other, stdout=other, stderr=other)
    os.close(other)
    os.set_blocking(terminal, False)
    wait_for(out / "metrics.jsonl", process)
    os.close(terminal)  # not its session's leader: no SIGHUP comes, and writing to it fails
    assert process.wait(timeout=60) == 130
    assert saved_step(out) >= 1000
