"""What public functions and commands are given: NumPy's numbers as Python's, all that is wrong as one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fittedq
from fittedq.actions.base import Box
from fittedq.envs.gym import make_env
from fittedq.errors import UserError
from fittedq.runs.folder import RunFolder


def test_arguments_of_the_wrong_kind_are_a_sentence(tmp_path: Path) -> None:
    program = [sys.executable, str(Path(__file__).with_name("given.py")), str(tmp_path)]
    ran = subprocess.run(program, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_an_evaluation_elsewhere_is_refused_before_training() -> None:
    with pytest.raises(UserError, match="environment: its observations have shape"):
        fittedq.train(
            "td3", "Pendulum-v1", steps=10**9, hidden=(8,), eval_env="MountainCarContinuous-v0", eval_every=10**9
        )


def test_names_with_a_colon_and_nothing_beside_it_are_a_sentence() -> None:
    for name in (":", "os:", ":Pendulum-v1"):
        with pytest.raises(UserError, match=f"^environment '{name}': expected 'module:Id'"):
            make_env(name)


def test_the_root_of_all_folders_is_no_run_folder() -> None:
    with pytest.raises(UserError, match=r"^out: found /, the root of all folders"):
        RunFolder(Path("/")).create({})


def test_a_terminal_that_knows_ascii_alone_shows_everything() -> None:
    program = [sys.executable, "-m", "fittedq", "--help"]
    shown = subprocess.run(
        program, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0 and "usage: fittedq COMMAND ?" in shown.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written_is_a_sentence() -> None:
    with open("/dev/full", "w") as full:
        program = [sys.executable, "-m", "fittedq", "list"]
        shown = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (2, "fittedq: No space left on device.\n")


@pytest.mark.parametrize("high", [1 + 1e-12, 1 + 5e-8])
def test_actions_that_single_precision_cannot_tell_apart_are_refused(high: float) -> None:
    with pytest.raises(UserError, match=r"action bounds: dimension 0 .* too narrow for numbers of single precision"):
        Box([1.0], [high])
    with pytest.raises(UserError, match="too narrow"):
        Box([-1e-40], [1e-40])
    assert Box([1.0], [1 + 2e-7]).size == 1
