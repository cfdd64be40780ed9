"""A controller in Structured Text beside the agent that it comes from, and beside a second reader of the language."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import pytest

from exported import AGENTS, GUARDED, agent_in, block_text, guarded_in, readings, tree_agent
from fittedq.acting.status import ActingStatus
from fittedq.export.plcopen import NAMESPACE
from fittedq.export.st_block import literal
from fittedq.export.st_reader import read_block
from fittedq.export.structured_text import BlockRunning, Signal, structured_text

NARROW: dict[str, dict[str, Any]] = {
    "simba": {"policy_hidden": (8,)},
    "simba_v2": {"policy_hidden": (8,)},
    "crossq": {"policy_hidden": (8, 8)},
    "td7": {"encoder_hidden": (8, 8), "embedding": 8},
}
SMALL = {name: of | NARROW.get(name, {}) for name, of in AGENTS.items()}


@pytest.mark.parametrize("of", SMALL.values(), ids=list(SMALL))
def test_a_block_acts_as_the_agent_in_every_loop(of: dict[str, Any]) -> None:
    agent = agent_in(**of)
    program, loop = agent.program(), agent.loop()
    instance = read_block(block_text(program)).instances()
    names = [variable.name for variable in instance.block.of("VAR_INPUT") if variable.kind == "REAL"]
    width, seen = np.asarray(agent.spaces.shaped(np.asarray(agent.action_set.half_width))), set[int]()
    count = 20 if of == AGENTS["polytope"] else 60
    for row, obs in enumerate(readings(count)):
        given: dict[str, Any] = dict(zip(names, obs, strict=True))
        if program.memory is not None:
            given["reset"] = row == 40
        if row == 40:
            loop.reset()
        (action, status), out = loop.step(obs), instance(**given)
        found = np.array([out[f"u{place}"] for place in range(program.action_size)])
        assert out["status"] == status
        np.testing.assert_allclose(found / width, action / width, atol=1e-5, err_msg=f"{row} {status}")
        seen.add(int(status))
    assert {ActingStatus.OK, ActingStatus.NOT_FINITE} <= seen


@pytest.mark.parametrize("name", ["simba_v2", "polytope"])
def test_many_instances_at_once_act_as_each_alone(name: str) -> None:
    agent, obs = agent_in(**SMALL[name]), readings(30)
    out = read_block(block_text(agent.program())).instances()(**{f"y{place}": obs[:, place] for place in range(3)})
    width = np.asarray(agent.action_set.half_width)
    for row, one in enumerate(obs):
        action, status = agent.step(one)
        found = np.array([np.broadcast_to(out[f"u{place}"], 30)[row] for place in range(2)])
        np.testing.assert_allclose(found / width, np.ravel(action) / width, atol=1e-5)
        assert out["status"][row] == status


def test_a_call_with_reset_begins_an_episode() -> None:
    program = agent_in(**AGENTS["memory"]).program()
    new, used = (read_block(block_text(program)).instances() for _ in range(2))
    for row in readings(10):
        used(**dict(zip(("y0", "y1", "y2"), row, strict=True)), reset=False)
    given = dict(zip(("y0", "y1", "y2"), (1.0, 2.0, 0.5), strict=True))
    assert new(**given, reset=False) == used(**given, reset=True)


def test_names_are_such_as_a_plc_takes_and_no_text_ends_a_comment() -> None:
    program = agent_in(**AGENTS["td3"]).program()
    observations = [Signal("IF", "°C *) VAR"), Signal("2 bad--name!", "(*"), Signal("x1", "")]
    text = structured_text(program, observations, [Signal("total", ""), Signal("Total", "")], "a *) b\nc")
    block = read_block(text)
    assert [variable.name for variable in block.of("VAR_INPUT")] == ["IF_2", "observation_1", "x1_2"]
    assert [variable.name for variable in block.of("VAR_OUTPUT")] == ["total_2", "Total_3", "status"]
    assert text.isascii()


@pytest.mark.parametrize("value", [1 / 3, -1e-5, 123456.789, 1e6, -3.4028235e38, 1.5e-38, 0.1, -2.0])
def test_literals_are_the_number_again(value: float) -> None:
    for kind, name in ((np.float32, "REAL"), (np.float64, "LREAL")):
        text = f"FUNCTION_BLOCK T VAR_OUTPUT y : {name} := {literal(value, kind)}; END_VAR END_FUNCTION_BLOCK"
        assert read_block(text).instances()()["y"] == kind(value) or abs(value) > 1e38
    assert literal(np.inf) == "3.4028234E38" and np.float32(3.4028234e38) == np.finfo(np.float32).max
    assert literal(1e-40) == "0.0"


@pytest.mark.slow
def test_another_parser_of_the_language_reads_the_blocks() -> None:
    blark = pytest.importorskip("blark.parse", reason="needs blark")
    for name in ("polytope", "memory"):
        text = block_text(agent_in(**{**AGENTS[name], "hidden": (2,)}).program())
        assert blark.parse_source_code(text).exception is None
    guarded = guarded_in(**{**GUARDED["loops"], "hidden": (2,)}).program()
    guard, change = guarded.guard, guarded.guard and guarded.guard.change
    assert guard is not None and change is not None
    few = replace(change, errors=change.errors[:2], weights=change.weights[:1])
    guarded = replace(guarded, guard=replace(guard, landmarks=guard.landmarks[:2], change=few))
    for program in (guarded, agent_in(hidden=(2,)).program(refine=1), tree_agent(number=20).program(refine=1)):
        assert blark.parse_source_code(block_text(program)).exception is None
    assert blark.parse_source_code("FUNCTION_BLOCK T IF END_FUNCTION_BLOCK").exception is not None


def test_the_files_of_an_export_are_verified_and_hold_the_same_block(tmp_path: Path) -> None:
    agent, names = agent_in(**AGENTS["memory"]), ["level (1)", "inflow", "set-point", "valve", "pump"]
    told = agent.export(tmp_path / "out", "st", samples=300, names=names, units={"level (1)": "m", "valve": "%"})
    assert told["verified"]["samples"] == 300 and told["verified"]["max_error"] <= 1e-5
    text = (tmp_path / "out" / "controller.st").read_text()
    assert "level_1 : REAL; (* level (1) [m] *)" in text and "valve : REAL; (* valve [%] *)" in text
    space = {"p": NAMESPACE}
    pou = Xml.parse(tmp_path / "out" / "controller.xml").getroot().find(".//p:pou", space)
    block = read_block(text)
    assert pou is not None and pou.get("name") == block.name
    declared = {one.get("name"): one for one in pou.iterfind("p:interface//p:variable", space)}
    assert list(declared) == [variable.name for variable in block.variables.values()]
    for name, one in declared.items():
        values = [float(cell.get("value", "")) for cell in one.iterfind("p:initialValue//p:simpleValue", space)]
        initial = block.variables[str(name).upper()].initial
        assert values == list(initial) or (not values and not any(initial))
    body = "".join(pou.find("p:body/p:ST", space).itertext())  # type: ignore[union-attr]
    assert body.strip() == block.body.strip()


def test_episodes_side_by_side_are_the_agents_one_after_another(tmp_path: Path) -> None:
    agent_in(**AGENTS["memory"]).export(tmp_path / "out", "st", samples=100)
    obs, begins = readings(40), np.isin(np.arange(40), [0, 3, 17, 20])
    running, loop = BlockRunning(tmp_path / "out" / "controller.st"), agent_in(**AGENTS["memory"]).loop()
    actions, statuses = running.run(obs, begins)
    for row, begin in enumerate(begins):
        if begin:
            loop.reset()
        action, status = loop.step(obs[row])
        np.testing.assert_allclose(actions[row], action, atol=2e-5)
        assert statuses[row] == status
