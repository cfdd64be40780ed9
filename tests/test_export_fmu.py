"""A controller as FMUs, driven by a simulator of others."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exported import AGENTS, agent_in, readings
from fittedq.agent import Agent
from fittedq.errors import UserError
from fittedq.export import shared_library
from fittedq.export.fmu import FMU_2, FMU_3, Fmu
from fittedq.export.fmu_description import IDENTIFIER

NAMES = ["level", "status", "set-point", "valve", "pump"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Agent, Path]:
    """An agent that remembers, and its FMUs for this machine."""
    agent, out = agent_in(**AGENTS["memory"]), tmp_path_factory.mktemp("fmu") / "out"
    told = agent.export(out, Fmu(machines=()), samples=200, names=NAMES, units={"level": "m"}, sample=0.1)
    assert told["verified"]["samples"] == 200 and told["verified"]["max_error"] <= 1e-5
    return agent, out


@pytest.mark.parametrize("name", [FMU_2, FMU_3])
def test_a_simulator_finds_nothing_wrong_and_gets_the_agents_actions(name: str, exported: tuple[Agent, Path]) -> None:
    fmpy = pytest.importorskip("fmpy", reason="needs fmpy")
    validation = pytest.importorskip("fmpy.validation")
    agent, out = exported
    assert validation.validate_fmu(str(out / name)) == []
    obs = readings(40)[1:21]
    times = 0.1 * np.arange(20)
    given = np.array(
        [tuple(row) for row in np.column_stack([times, obs])], [(each, float) for each in ("time", *NAMES[:3])]
    )
    found = fmpy.simulate_fmu(str(out / name), stop_time=1.9, output_interval=0.1, input=given)
    loop = agent.loop()
    # What a simulator records at a time is what the step that ended there gave; at the beginning, a look ahead.
    for row, at in zip(obs[:19], found[1:], strict=True):
        action, status = loop.step(row)
        np.testing.assert_allclose([at["valve"], at["pump"]], action, atol=2e-5)
        assert at["status_2"] == status
    np.testing.assert_allclose(found[0]["valve"], found[1]["valve"])


def test_instances_know_nothing_of_one_another_and_snapshots_are_taken_back(exported: tuple[Agent, Path]) -> None:
    fmpy, fmi2 = pytest.importorskip("fmpy"), pytest.importorskip("fmpy.fmi2")
    agent, out = exported
    about, folder = fmpy.read_model_description(str(out / FMU_2)), fmpy.extract(str(out / FMU_2))
    try:
        one, two = (
            fmi2.FMU2Slave(
                guid=about.guid, unzipDirectory=folder, modelIdentifier=IDENTIFIER, instanceName=f"c{number}"
            )
            for number in range(2)
        )
        for each in (one, two):
            each.instantiate()
            each.setupExperiment(startTime=0.0)
            each.enterInitializationMode()
            each.exitInitializationMode()

        def stepped(unit: Any, row: np.ndarray, number: int) -> list[float]:
            unit.setReal([1, 2, 3], row.tolist())
            ahead = unit.getReal([4, 5])
            unit.doStep(0.1 * number, 0.1)
            assert unit.getReal([4, 5]) == ahead
            return ahead

        obs, loop = readings(30)[1:5], agent.loop()
        for number, row in enumerate(obs[:3]):
            np.testing.assert_allclose(stepped(one, row, number), loop.step(row)[0], atol=2e-5)
        kept = one.getFMUstate()
        then = stepped(one, obs[3], 3)
        one.setFMUstate(kept)
        assert stepped(one, obs[3], 3) == then != stepped(two, obs[3], 0)
        one.reset()
        one.setupExperiment(startTime=0.0)
        one.enterInitializationMode()
        one.exitInitializationMode()
        np.testing.assert_allclose(stepped(one, obs[0], 0), agent.loop().step(obs[0])[0], atol=2e-5)
        with pytest.raises(fmpy.fmi1.FMICallException):
            one.doStep(0.1, 0.05)
        for each in (one, two):
            each.terminate()
            each.freeInstance()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_same_controller_gives_the_same_sources_and_tokens(exported: tuple[Agent, Path], tmp_path: Path) -> None:
    agent, out = exported
    words: dict[str, Any] = {"samples": 200, "names": NAMES, "units": {"level": "m"}, "sample": 0.1}
    agent.export(tmp_path / "again", Fmu(machines=()), verify=False, **words)
    agent_in(activation="tanh", **AGENTS["memory"]).export(tmp_path / "other", Fmu(machines=()), verify=False, **words)
    first, again, other = (zipfile.ZipFile(path / FMU_3) for path in (out, tmp_path / "again", tmp_path / "other"))
    told = "modelDescription.xml"
    assert first.read(told) == again.read(told) != other.read(told)
    sources = {name for name in first.namelist() if name.startswith("sources/")}
    assert {f"sources/{name}" for name in ("fmi3.c", "controller.c", "buildDescription.xml", "fmu.h")} <= sources
    assert all(first.read(name) == again.read(name) for name in sources)


def test_without_a_compiler_an_export_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_library, "find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match="needs a C compiler, and none was found"):
        agent_in().export(tmp_path / "out", "fmu", samples=100)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_libraries_are_built_for_other_machines(tmp_path: Path) -> None:
    pytest.importorskip("ziglang", reason="needs ziglang")
    agent_in().export(tmp_path / "out", "fmu", samples=100)
    with zipfile.ZipFile(tmp_path / "out" / FMU_3) as files:
        library = f"binaries/aarch64-linux/{IDENTIFIER}.so"
        assert files.read(library)[:4] == b"\x7fELF" and files.read(library)[18] == 183  # EM_AARCH64
        assert files.read(f"binaries/x86_64-windows/{IDENTIFIER}.dll")[:2] == b"MZ"
