"""A policy beside its fallback, exported: the same loop, whoever acts in it."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from exported import GUARDED, block_text, driven, guarded_in, plant_rows, readings
from fittedq.acting.status import ActingStatus
from fittedq.agent import Agent
from fittedq.baselines import PID, Called, Tracked
from fittedq.errors import UserError
from fittedq.export.c_file import CSource
from fittedq.export.language import AbstractExported
from fittedq.export.languages import LANGUAGES
from fittedq.export.numpy_file import Running, numpy_files
from fittedq.export.onnx_file import OnnxSession, onnx_file
from fittedq.export.structured_text import BlockRunning
from fittedq.export.verify import golden


def written(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


class Sampled(NamedTuple):
    """Samples of a guarded agent: what was seen, where episodes begin, what the agent did."""

    agent: Agent
    obs: np.ndarray
    begins: np.ndarray
    action: np.ndarray
    status: np.ndarray


@functools.cache
def sampled(name: str) -> Sampled:
    """Of one of `GUARDED`."""
    agent = guarded_in(**GUARDED[name])
    loop = agent.loop()
    obs, begins = driven(loop, 132)
    obs, begins = np.concatenate([obs, readings(20)]), np.append(begins, np.arange(20) == 0)
    return Sampled(agent, *golden(loop, obs, begins)[:4])


def compared(running: AbstractExported, known: Sampled) -> None:
    """The same statuses and actions, whoever acts."""
    action, status = running.run(known.obs, known.begins)
    np.testing.assert_array_equal(status, known.status)
    np.testing.assert_allclose(action, known.action, atol=1e-5)
    strange = int((status == ActingStatus.UNFAMILIAR).sum())
    assert min(strange, len(status) - strange) > 15


@pytest.mark.parametrize("name", GUARDED)
def test_a_numpy_file_hands_over_where_the_agent_does(name: str, tmp_path: Path) -> None:
    known = sampled(name)
    compared(Running(written(numpy_files(known.agent.program(), "a test"), tmp_path)), known)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "polytope" else ()) for name in GUARDED]
)
def test_a_model_hands_over_where_the_agent_does(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime (fittedq[export])")
    known = sampled(name)
    written({"controller.onnx": onnx_file(known.agent.program(), {})}, tmp_path)
    compared(OnnxSession(tmp_path / "controller.onnx"), known)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("loops", "lag") else pytest.mark.slow) for name in GUARDED]
)
def test_a_block_hands_over_where_the_agent_does(name: str, tmp_path: Path) -> None:
    known = sampled(name)
    written({"controller.st": block_text(known.agent.program()).encode()}, tmp_path)
    compared(BlockRunning(tmp_path / "controller.st"), known)


def test_a_fallback_that_no_target_can_say_is_named() -> None:
    with pytest.raises(UserError, match=r"the fallback mine, a Called, .* give a PID"):
        guarded_in(Called(lambda obs: obs[:2], "mine")).program()
    with pytest.raises(UserError, match=r"gives 1 numbers, the agent has 2"):
        guarded_in(PID(1.0, tracked=Tracked(0, target=0.0), low=-1.0, high=1.0)).program()


@pytest.mark.skipif(not any(map(shutil.which, ("gcc", "clang", "cc"))), reason="needs a C compiler")
@pytest.mark.parametrize(
    "of",
    [
        GUARDED["memory"],
        *(pytest.param(of, marks=pytest.mark.slow) for name, of in GUARDED.items() if name != "memory"),
    ],
)
def test_c_hands_over_where_the_agent_does(of: dict[str, Any], tmp_path: Path) -> None:
    known = plant_rows().transitions(slice(None)).obs
    told = guarded_in(**of).export(tmp_path / "out", CSource(), samples=1000, data=known)
    assert told["verified"]["max_error"] < 1e-5
    statuses = told["verified"]["statuses"]
    assert min(statuses.get("OK", 0) + statuses.get("LIMITED", 0), statuses["UNFAMILIAR"]) > 20


@pytest.mark.parametrize("of", [GUARDED["action"], GUARDED["memory"]], ids=["action", "memory"])
def test_without_data_the_policy_is_compared_where_it_acts(of: dict[str, Any], tmp_path: Path) -> None:
    """The samples are made of the landmarks, and many begin an episode, where no change can be strange."""
    told = guarded_in(**of).export(tmp_path / "out", "numpy", samples=1000)
    statuses = told["verified"]["statuses"]
    assert statuses.get("OK", 0) + statuses.get("LIMITED", 0) > 50


@functools.cache
def held() -> Sampled:
    """Of an agent that holds its action where a reading is lost, and is not guarded."""
    agent = guarded_in("hold", threshold=0.0)
    obs = np.concatenate([readings(20), np.full((2, 3), np.nan, np.float32), readings(3)])
    return Sampled(agent, *golden(agent.loop(), obs, np.arange(len(obs)) == 0)[:4])


def test_the_action_before_is_held_where_a_reading_is_lost() -> None:
    known = held()
    lost = known.status == ActingStatus.NOT_FINITE
    assert lost.sum() >= 2 and known.agent.program().guard is None
    np.testing.assert_array_equal(known.action[lost], known.action[np.flatnonzero(lost) - 1])
    assert np.abs(known.action[lost] - np.asarray(known.agent.action_set.center)).min() > 1e-3


@pytest.mark.parametrize("target", ["numpy", "onnx", "st", "c"])
def test_exports_hold_without_a_guard(target: str, tmp_path: Path) -> None:
    if target == "onnx":
        pytest.importorskip("onnxruntime", reason="needs onnxruntime (fittedq[export])")
    if target == "c" and not any(map(shutil.which, ("gcc", "clang", "cc"))):
        pytest.skip("needs a C compiler")
    known = held()
    known.agent.export(tmp_path / "out", target, samples=200)
    with LANGUAGES[target].running(tmp_path / "out") as running:
        action, status = running.run(known.obs, known.begins)
    np.testing.assert_array_equal(status, known.status)
    np.testing.assert_allclose(action, known.action, atol=1e-5)


def moved(action: np.ndarray, begins: np.ndarray, agent: Agent) -> np.ndarray:
    """|u_t − u_{t−1}| in rates, [N, m]; before an episode stands the middle."""
    before = np.where(begins[:, None], np.asarray(agent.limits.center), np.roll(action, 1, axis=0))
    assert agent.augmented is not None
    return np.abs(action - before) / np.array(agent.augmented.rate)


def test_a_fallback_moves_no_faster_than_the_agent() -> None:
    """Its PID wants to: the limit bites where it acts, and where it has not acted in the sample before."""
    known = sampled("memory")
    speed, strange = moved(known.action, known.begins, known.agent), known.status == ActingStatus.UNFAMILIAR
    lost = known.status == ActingStatus.NOT_FINITE
    assert speed.max() <= 1 + 1e-5
    assert (speed[strange].max(axis=1) > 1 - 1e-5).sum() > 10
    assert lost.sum() >= 3 and not speed[lost].any()
    controller, actions, taken_over = known.agent.controller(), list[np.ndarray](), list[bool]()
    memory = controller.start(1)
    for obs in known.obs[~lost][:60]:
        action, memory = controller.step(memory, obs[None])
        actions.append(action[0])
        taken_over.append(bool(memory.taken_over[0]))
    speed = moved(np.array(actions), np.arange(60) == 0, known.agent)
    assert speed.max() <= 1 + 1e-5
    assert (speed[taken_over].max(axis=1) > 1 - 1e-5).sum() > 3


@pytest.mark.parametrize("target", ["numpy", "onnx", "st", "c"])
def test_exported_fallbacks_move_no_faster_than_the_agent(target: str, tmp_path: Path) -> None:
    if target == "onnx":
        pytest.importorskip("onnxruntime", reason="needs onnxruntime (fittedq[export])")
    if target == "c" and not any(map(shutil.which, ("gcc", "clang", "cc"))):
        pytest.skip("needs a C compiler")
    known = sampled("memory")
    known.agent.export(tmp_path / "out", target, samples=100, verify=False)
    with LANGUAGES[target].running(tmp_path / "out") as running:
        action, status = running.run(known.obs, known.begins)
    strange = status == ActingStatus.UNFAMILIAR
    speed = moved(action, known.begins, known.agent)
    assert speed.max() <= 1 + 1e-5
    assert (speed[strange].max(axis=1) > 1 - 1e-5).sum() > 10
