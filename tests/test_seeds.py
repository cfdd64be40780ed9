"""Seeds side by side: each a run like any other, stopped and gone on with as one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fittedq import list_runs
from fittedq.cli.arguments import parse, words_of
from fittedq.cli.main import main
from fittedq.cli.train import Train
from fittedq.errors import UserError
from fittedq.machine import cores
from fittedq.runs.tasks import Task, side_by_side

TINY = ["--set", "hidden=8,", "--set", "batch_size=8", "--set", "random_steps=20", "--checkpoint-every", "50"]


def test_words_of_a_command_make_it_again() -> None:
    words = [
        *["td3", "plant.py:Tank", "--steps=40", "--set=gamma=0.9", "--set=hidden=8,", "--env-kwargs=leak=-0.1"],
        *["--integer", "0", "2", "--limit=-a0 <= 1", "--rate-limit", "0.5", "1.5", "--stop-when=-1 > step", "--json"],
        *["--increments", "--start=runs/a b"],
    ]
    command = parse(Train, "fittedq train", words)
    assert parse(Train, "fittedq train", words_of(command)) == command
    assert words_of(Train("td3", "Pendulum-v1")) == ["td3", "Pendulum-v1"]


def test_tasks_are_told_as_they_go_and_a_core_has_one_at_a_time() -> None:
    tasks = [
        Task("one", ("--version",), {}),
        Task("wrong", ("trian",), {}),
        Task("rows", ("runs", "--json", "tests"), {}),
    ]
    told = list(side_by_side(tasks, cores()[:1]))
    assert {one.task.name: one.code for one in told if one.code is not None} == {"one": 0, "wrong": 2, "rows": 0}
    assert next(one.text for one in told if one.task.name == "one") == "fittedq 0.1.0"  # no object: a sentence
    assert any("train" in (one.text or "") for one in told if one.task.name == "wrong")
    names = [one.task.name for one in told]
    assert names == sorted(names, key=["one", "wrong", "rows"].index)  # one after another on one core


def test_none_begins_once_it_is_to_stop() -> None:
    assert list(side_by_side([Task("one", ("--version",), {})], cores(), stop=lambda: True)) == []


def test_the_same_command_goes_on_and_then_has_nothing_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["train", "td3", "Pendulum-v1", "--steps", "100", *TINY, "--eval-every", "0", "--out", str(out)]
    assert main([*command, "--stop-when", "step >= 50", "--or-resume"]) == 0
    capsys.readouterr()
    assert main([*command, "--or-resume", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["report", "done"] and lines[-1]["step"] == 100
    files = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    assert main([*command, "--or-resume"]) == 0
    assert "is finished" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == files
    assert main([*command, "--or-resume", "--set", "gamma=0.5"]) == 2  # another run is refused, as without it
    assert "another configuration" in capsys.readouterr().err


def test_tasks_are_carried_out_where_a_system_cannot_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name)
    assert cores() == list(range(os.cpu_count() or 1))
    assert list(side_by_side([Task("one", ("--version",), {})], cores()))[-1].code == 0


def test_tasks_of_the_same_name_are_refused_before_one_begins() -> None:
    tasks = [Task("one", ("--version",), {}), Task("one", ("--help",), {})]
    with pytest.raises(UserError, match="two named 'one'"):
        list(side_by_side(tasks, cores()))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seeds", "2", "--set", "gama=0.9"], "did you mean 'gamma'"),
        (["--seeds", "0"], "seeds: found 0"),
        (["--seeds", "2", "--processes", "0"], "processes: found 0"),
        (["--processes", "2"], "found no --seeds"),
    ],
)
def test_wrong_counts_are_refused(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "td3", "Pendulum-v1", "--out", str(tmp_path / "g"), *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "g").exists()


@pytest.mark.slow
def test_all_seeds_are_saved_by_one_interrupt_and_go_on_by_the_same_command(tmp_path: Path) -> None:
    out = tmp_path / "group"
    words = [
        "train",
        "td3",
        "Pendulum-v1",
        "--steps",
        "1200",
        "--seed",
        "7",
        "--seeds",
        "3",
        *TINY,
        "--eval-every",
        "0",
    ]
    command = [sys.executable, "-m", "fittedq", *words, "--out", str(out)]
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert first["seed"] in (7, 8, 9) and first["event"] == "report"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    states = [one.state for one in list_runs(out)]
    assert process.returncode in (0, 130) and "running" not in states
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [(one.seed, one.step, one.state) for one in list_runs(out)] == [
        (seed, 1200, "finished") for seed in (7, 8, 9)
    ]


@pytest.mark.slow
def test_a_seed_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    out = tmp_path / "group"
    (out / "seed-1").mkdir(parents=True)
    (out / "seed-1" / "best").mkdir()  # not ours
    words = [
        "train",
        "td3",
        "Pendulum-v1",
        "--steps",
        "60",
        "--seeds",
        "2",
        *TINY,
        "--eval-every",
        "0",
        "--out",
        str(out),
    ]
    done = subprocess.run([sys.executable, "-m", "fittedq", *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "seed 1: fittedq: " in done.stderr and "Not done: seed 1" in done.stderr
    assert [one.seed for one in list_runs(out)] == [0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's death")
def test_runs_whose_parent_is_killed_save_themselves_and_end(tmp_path: Path) -> None:
    out = tmp_path / "group"
    words = ["train", "td3", "Pendulum-v1", "--steps", "500000", "--seeds", "1", *TINY, "--eval-every", "0"]
    command = [sys.executable, "-m", "fittedq", *words, "--out", str(out), "--json"]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # as Ray does, and who is begun inherits it
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert process.stdout is not None
    process.stdout.readline()  # its run is at work
    process.kill()
    process.communicate()
    until = time.monotonic() + 120
    while [one.state for one in list_runs(out)] != ["stopped"]:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert 0 < (list_runs(out)[0].step or 0) < 500_000
