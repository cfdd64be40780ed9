"""Trackers are told every figure; one that fails ends no run."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fittedq
from fittedq.cli.main import main
from fittedq.errors import UserError
from fittedq.runs import trackers
from fittedq.runs.folder import RunFolder
from fittedq.runs.report import figures_of
from fittedq.runs.trackers import AbstractTracker

WORDS = ["train", "td3", "Pendulum-v1", "--set", "hidden=8,", "--set", "batch_size=8", "--set", "random_steps=5"]
WORDS += ["--checkpoint-every", "20", "--eval-every", "0", "--seed", "3"]


def events(folder: Path) -> Iterator[tuple[int, str, float]]:
    """(step, figure, value) of event files: records of a length, its check, the event, its check."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                yield event.step, value.tag, value.simple_value


class Failing(AbstractTracker):
    package, extra = "json", "failing"

    def __init__(self, folder: Path, config: Mapping[str, object], step: int):
        assert config["algorithm"] == "td3"

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        raise ConnectionError("no\nnetwork")

    def close(self) -> None:
        raise AssertionError("it was left")


def test_a_tracker_has_what_the_metrics_have_and_another_that_fails_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = pytest.importorskip("tensorboardX.event_file_writer")
    now = time.time()
    monkeypatch.setattr(named, "time", SimpleNamespace(time=lambda: now))  # a run that goes on within the same second
    monkeypatch.setitem(trackers.TRACKERS, "failing", Failing)
    out = tmp_path / "run"
    assert main([*WORDS, "--steps", "20", "--out", str(out), "--track", "failing,tensorboard", "--json"]) == 0
    said = capsys.readouterr()
    assert "warning: failing tracks no more of this run (no network); the run goes on." in said.err
    assert "tracks no more" in json.loads(said.out.splitlines()[-1])["warnings"][0]
    assert main(["resume", str(out), "--steps", "40", "--track", "tensorboard"]) == 0
    found = {(step, name): value for step, name, value in events(out / "tensorboard")}
    lines = RunFolder(out).metrics()
    expected = {
        (line["step"], name): value
        for line in lines
        for name, value in figures_of(line).items()
        if name not in ("step", "finished")
    }
    assert {line["step"] for line in lines} == {20, 40} and "critic/loss" in {name for _, name in found}
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(value, rel=1e-6) for key, value in expected.items())


@pytest.mark.parametrize(
    ("track", "told"),
    [
        ("tensorbord", "--track: found 'tensorbord'; did you mean 'tensorboard'"),
        ("absent", "--track: absent needs no_such_package; pip install 'fittedq[extra]'."),
    ],
)
@pytest.mark.parametrize("seeds", [[], ["--seeds", "2"]])
def test_a_tracker_that_is_not_there_is_refused_before_anything_is_written(
    track: str,
    told: str,
    seeds: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Absent(Failing):
        package, extra = "no_such_package", "extra"

    monkeypatch.setitem(trackers.TRACKERS, "absent", Absent)
    assert main([*WORDS, *seeds, "--out", str(tmp_path / "run"), "--track", track]) == 2
    assert told in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_weights_and_biases_is_told_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "run"
    assert main([*WORDS, "--steps", "20", "--out", str(out), "--track", "wandb"]) == 0
    (file,) = (out / "wandb").glob("offline-run-*/run-*.wandb")
    ends = time.monotonic() + 30  # a process of theirs writes it
    while b"critic/loss" not in file.read_bytes():
        assert time.monotonic() < ends
        time.sleep(0.1)


def test_python_tells_trackers_what_the_command_line_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    tiny: dict[str, Any] = {"hidden": (8,), "batch_size": 8, "random_steps": 5, "checkpoint_every": 20, "seed": 3}
    out = tmp_path / "run"
    fittedq.train("td3", "Pendulum-v1", steps=20, out=out, track="tensorboard", **tiny)
    fittedq.resume(out, steps=40, track="tensorboard")
    steps = {step for step, _, _ in events(out / "tensorboard")}
    assert {20, 40} <= steps == {line["step"] for line in RunFolder(out).metrics()}
    with pytest.raises(UserError, match="did you mean 'tensorboard'"):
        fittedq.train("td3", "Pendulum-v1", steps=20, out=tmp_path / "other", track="tensorbord", **tiny)
    assert not (tmp_path / "other").exists()
    with pytest.raises(UserError, match="give out= too"):
        fittedq.train("td3", "Pendulum-v1", steps=20, track="tensorboard", **tiny)


@pytest.mark.unannotated
def test_what_is_no_name_of_a_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="track: found \\['wandb'\\], expected names such as 'tensorboard,wandb'"):
        fittedq.resume(tmp_path, track=["wandb"])  # pyright: ignore
