"""MuJoCo's warnings: in Python's logging, never in a file in the user's folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.wrappers import TransformAction

from fittedq.envs import simulator_log
from fittedq.envs.gym import GymSource, make_flat
from fittedq.envs.registry import NamedEnv


def blown_up(env: Any) -> Any:
    """`env` whose simulation becomes unstable in every step."""

    def shaken(action: np.ndarray) -> np.ndarray:
        env.unwrapped.data.qvel[:] = np.nan
        return action

    return TransformAction(env, shaken, None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty current folder, MuJoCo as if no warning had been taken over or told yet."""
    mujoco = pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(None)
    simulator_log._say_once.cache_clear()
    yield tmp_path
    mujoco.set_mju_user_warning(before)


def test_an_unstable_simulation_writes_no_file_and_is_told_once(
    folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    env = make_flat(lambda: blown_up(NamedEnv("InvertedPendulum-v5").make()))
    env.reset(seed=0)
    with caplog.at_level(logging.WARNING, logger="fittedq.mujoco"):
        for _ in range(3):
            env.step(np.zeros(1, np.float32))
    assert [record.message for record in caplog.records] == [
        "MuJoCo: Nan, Inf or huge value in QVEL at DOF 0. The simulation is unstable."
    ]
    assert list(folder.iterdir()) == []
    assert capfd.readouterr().out == ""


def test_a_function_of_the_users_for_warnings_stays(folder: Path) -> None:
    import mujoco

    heard: list[str] = []
    mujoco.set_mju_user_warning(heard.append)
    env = make_flat(lambda: blown_up(NamedEnv("InvertedPendulum-v5").make()))
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))
    assert len(heard) == 1 and "unstable" in heard[0]


@pytest.mark.slow
def test_processes_of_environments_write_no_file_either(folder: Path) -> None:
    def made() -> Any:
        os.chdir(folder)  # a worker's current folder is the one that Python was started in
        return blown_up(NamedEnv("InvertedPendulum-v5").make())

    source = GymSource(made, n_envs=2, asynchronous=True, env_timeout=60.0)
    try:
        source.step(np.zeros((2, 1), np.float32))
    finally:
        source.close()
    assert list(folder.iterdir()) == []
