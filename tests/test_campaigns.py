"""Samples of the campaigns of `reliability/`: sixty kills, ten points of a full disk, two minutes of everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


def result(tmp_path: Path, name: str, *flags: str) -> dict[str, Any]:
    """What the campaign writes."""
    out = tmp_path / f"{name}.json"
    command = [sys.executable, str(ROOT / "reliability" / f"{name}.py"), "--out", str(out), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert out.exists(), done.stdout + done.stderr
    return json.loads(out.read_text())


def test_killed_runs_are_whole_resume_and_end_as_if_never_killed(tmp_path: Path) -> None:
    kills = result(tmp_path, "kills", "--count", "13")
    assert kills["losses"] == []
    assert kills["tried"] >= 60
    inside = kills["facts"]["killed at"]
    assert 2 * (inside["checkpoint"] + inside["final"]) >= kills["tried"]


def test_a_full_disk_costs_a_sentence_and_nothing_that_was_saved(tmp_path: Path) -> None:
    disk = result(tmp_path, "full_disk", "--count", "10")
    assert disk["losses"] == []
    assert disk["tried"] == 10


def test_two_minutes_of_everything_leave_no_descriptor_no_thread_and_no_program(tmp_path: Path) -> None:
    soak = result(tmp_path, "soak", "--minutes", "2", "--duty", "0.8")
    assert {loss["case"] for loss in soak["losses"]} <= {"resident memory"}  # which is judged by the hour
    assert soak["last"]["steps"] > soak["first"]["steps"]
    assert min(soak["done"].values()) >= 1
