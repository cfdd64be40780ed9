"""A controller in ONNX beside the agent that it comes from, and beside a second reader of ONNX."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exported import AGENTS, GUARDED, agent_in, guarded_in, readings, tree_agent
from fittedq.acting.status import ActingStatus
from fittedq.errors import UserError
from fittedq.export.onnx_file import OPSET, OnnxSession, carried, onnx_file
from fittedq.export.program import ControlProgram

onnx = pytest.importorskip("onnx", reason="needs onnx (fittedq[export])")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (fittedq[export])")


def session_of(program: ControlProgram, folder: Path) -> OnnxSession:
    path = folder / "controller.onnx"
    path.write_bytes(onnx_file(program, {}))
    return OnnxSession(path)


@pytest.mark.parametrize("of", AGENTS.values(), ids=list(AGENTS))
def test_a_model_acts_as_the_agent_in_every_loop(of: dict[str, Any], tmp_path: Path) -> None:
    agent = agent_in(**of)
    session, loop = session_of(agent.program(), tmp_path), agent.loop()
    width, seen = np.asarray(agent.spaces.shaped(np.asarray(agent.action_set.half_width))), set[int]()
    for row, obs in enumerate(readings(60)):
        if row == 40:
            loop.reset()
            session.reset()
        (action, status), (found, code) = loop.step(obs), session.step(obs)
        assert code == status
        np.testing.assert_allclose(found / width, action / width, atol=1e-5, err_msg=f"{row} {status}")
        seen.add(code)
    assert {ActingStatus.OK, ActingStatus.NOT_FINITE} <= seen


@pytest.mark.parametrize("name", ["td3", "polytope", "memory"])
def test_a_batch_is_its_rows(name: str) -> None:
    program, obs = agent_in(**AGENTS[name]).program(), readings(20)
    session = onnxruntime.InferenceSession(onnx_file(program, {}), providers=["CPUExecutionProvider"])
    start = {f"{name}_in": np.repeat(value[None], 20, axis=0) for name, value in carried(program).items()}
    given = {"observation": obs} | start
    together = session.run(None, given)
    for row in range(20):
        alone = session.run(None, {key: value[row : row + 1] for key, value in given.items()})
        for one, many in zip(alone, together, strict=True):
            np.testing.assert_allclose(one[0], many[row], atol=1e-5, equal_nan=True)


def test_the_file_says_what_it_holds() -> None:
    program = agent_in(**AGENTS["memory"]).program()
    content = onnx_file(program, {"algorithm": "td3", "observations": '["a", "b", "c"]'})
    assert content == onnx_file(program, {"algorithm": "td3", "observations": '["a", "b", "c"]'})
    model = onnx.load_model_from_string(content)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    assert [value.name for value in model.graph.input] == ["observation", "history_in"]
    assert [value.name for value in model.graph.output] == ["action", "status", "history_out"]
    assert {value.name for value in model.graph.initializer} >= {"dense_2.weight", "dense_2.bias", "normalize_1.mean"}
    assert {one.key: one.value for one in model.metadata_props}["algorithm"] == "td3"


def test_an_export_is_verified_and_tells_names_and_units(tmp_path: Path) -> None:
    agent, names = agent_in(**AGENTS["memory"]), ["level", "inflow", "set-point", "valve", "pump"]
    told = agent.export(tmp_path / "out", "onnx", samples=300, names=names, units={"level": "m"}, sample=0.5)
    assert told["verified"]["samples"] == 300 and told["verified"]["max_error"] <= 1e-5
    about = {one.key: one.value for one in onnx.load(tmp_path / "out" / "controller.onnx").metadata_props}
    assert json.loads(about["observations"]) == names[:3] and json.loads(about["actions"]) == names[3:]
    assert (json.loads(about["units"]), about["sample"]) == ({"level": "m"}, "0.5")
    assert json.loads(about["statuses"])["LIMITED"] == ActingStatus.LIMITED


def test_a_loop_may_begin_after_an_action(tmp_path: Path) -> None:
    agent = agent_in(**AGENTS["memory"])
    session, obs = session_of(agent.program(), tmp_path), readings(2)[1]
    session.reset(np.array([1.0, 2.0], np.float32))
    np.testing.assert_allclose(session.step(obs)[0], agent.loop(before=[1.0, 2.0]).step(obs)[0], atol=1e-5)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_one_sentence(missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"the package {missing}; install fittedq\[export\]"):
        agent_in().export(tmp_path / "out", "onnx", samples=100)
    assert not list(tmp_path.iterdir())


def read_again(name: str) -> ControlProgram:
    """A program by its name."""
    if name in ("solver", "trees"):
        return (agent_in(activation="tanh") if name == "solver" else tree_agent()).program(refine=2)
    guarded = name.removeprefix("guarded ")
    return (agent_in(**AGENTS[name]) if name == guarded else guarded_in(**GUARDED[guarded])).program()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simba_v2", "memory", "guarded loops", "guarded memory", "solver", "trees"])
def test_a_generator_of_c_from_onnx_reads_it_and_agrees(name: str, tmp_path: Path) -> None:
    cli = pytest.importorskip("emx_onnx_cgen.cli", reason="needs emx-onnx-cgen")
    path = tmp_path / "controller.onnx"
    path.write_bytes(onnx_file(read_again(name), {}))
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        code = cli.main(["verify", str(path), "--input-dim", "batch=1"])
    assert code == 0 and "Result: OK" in told.getvalue(), told.getvalue()
