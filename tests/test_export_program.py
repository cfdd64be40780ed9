"""A controller in stages, and the NumPy file made of them, beside the agent that they come from."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from exported import AGENTS, MEMORY, agent_in, readings
from fittedq.acting.loop import Taken
from fittedq.acting.status import ActingStatus
from fittedq.actions.base import Box
from fittedq.actions.state_box import StateBox
from fittedq.errors import UserError
from fittedq.export import numeric
from fittedq.export.host import Host
from fittedq.export.language import Golden
from fittedq.export.numpy_file import numpy_files
from fittedq.export.program import ControlProgram, Dense
from fittedq.export.verify import rounding


def module_of(files: dict[str, bytes], folder: Path) -> ModuleType:
    """The exported file, imported."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    spec = importlib.util.spec_from_file_location("controller", folder / "controller.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("of", AGENTS.values(), ids=list(AGENTS))
def test_a_numpy_file_acts_as_the_agent_in_every_loop(of: dict[str, Any], tmp_path: Path) -> None:
    agent = agent_in(**of)
    module, loop = module_of(numpy_files(agent.program(), "a test"), tmp_path), agent.loop()
    controller, width = module.Controller(), np.asarray(agent.spaces.shaped(np.asarray(agent.action_set.half_width)))
    seen = set[int]()
    for row, obs in enumerate(readings(60)):
        if row == 40:
            loop.reset()
            controller.reset()
        (action, status), (found, code) = loop.step(obs), controller.step(obs)
        assert code == status
        np.testing.assert_allclose(found / width, action / width, atol=1e-5, err_msg=f"{row} {status}")
        seen.add(code)
    assert {ActingStatus.OK, ActingStatus.NOT_FINITE} <= seen
    assert (ActingStatus.LIMITED in seen) == (of in (AGENTS["polytope"], AGENTS["memory"]))
    text = (tmp_path / "controller.py").read_text()
    assert text.count("\n") < 120 + 60 * (of is AGENTS["polytope"])
    assert [line for line in text.splitlines() if "import " in line] == ["import numpy as np"]


def test_the_memory_forgets_a_dead_reading_and_keeps_what_was_executed() -> None:
    agent = agent_in(added=MEMORY)
    with_it, without = agent.loop(), agent.loop()
    first, last = readings(2)
    for loop in (with_it, without):
        loop.step(first)
    before = without.step([np.nan, 0.0, 0.0])[0]
    np.testing.assert_array_equal(before, with_it.step([0.0, np.inf, 0.0])[0])
    moved = with_it.step(last)[0]
    assert np.isfinite(moved).all() and (np.abs(moved - before) <= np.array([0.25, 0.5]) * (1 + 1e-6)).all()


def test_what_no_program_can_say_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"activation .*lambda"):
        agent_in(activation=lambda x: x * 0.5).program()
    box = StateBox(lambda obs: obs[:, :2] - 5, lambda obs: obs[:, :2] + 5, Box((-9.0, -9.0), (9.0, 9.0)))
    with pytest.raises(UserError, match="StateBox"):
        agent_in(action_set=box).program()


def test_batches_and_single_states_agree() -> None:
    agent = agent_in("simba_v2")
    host, obs = Host(agent.program()), np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    np.testing.assert_allclose(host(obs), np.stack([host(row) for row in obs]), atol=1e-6)


def one_by_one(x: Any, weight: Any, bias: Any) -> Any:
    """A layer that adds its products one after another, as plain C does."""
    total = np.zeros(weight.shape[1], np.float32)
    for row, value in zip(weight, x, strict=True):
        total = total + row * value
    return total + bias


def cancelling(program: ControlProgram) -> ControlProgram:
    """Hidden units that come twice, and count with weights of a thousand that nearly cancel."""
    *_, hidden, last = (place for place, line in enumerate(program.lines) if isinstance(line.stage, Dense))
    stages = [line.stage for line in program.lines]
    first, second = stages[hidden], stages[last]
    assert isinstance(first, Dense) and isinstance(second, Dense)
    twice = [np.concatenate([half[..., :32], half[..., :32]], axis=-1) for half in (first.weight, first.bias)]
    signs = np.repeat([1.0, -1.0], 32)[:, None].astype(np.float32)
    stages[hidden] = dataclasses.replace(first, weight=twice[0], bias=twice[1])
    stages[last] = dataclasses.replace(second, weight=1000 * signs + second.weight / 100)
    lines = (line._replace(stage=stage) for line, stage in zip(program.lines, stages, strict=True))
    return dataclasses.replace(program, lines=tuple(lines))


def test_another_order_of_adding_is_within_what_single_precision_is_told_to_be_off() -> None:
    program = cancelling(agent_in(hidden=(64, 64)).program())
    exact, plain = Host(program, np.float64), Host(program)
    seen = readings(40)[np.isfinite(readings(40)).all(axis=1)]
    action = np.array([plain(state) for state in seen])
    taken = tuple(Taken(state[None], one[None]) for state, one in zip(seen, action, strict=True))
    told = Golden(seen, np.ones(len(seen), bool), action, np.zeros(len(seen), int), taken)
    plain._calls = [(one_by_one if call[0] is numeric.layer else call[0], *call[1:]) for call in plain._calls]
    off = [np.max(np.abs(plain(state) - exact(state.astype(float))) / 2) for state in seen]
    rounded = np.array([*rounding(program, told, range(len(seen))).values()])
    assert (rounded > np.array(off) / 20).all(), "the agent's own rounding alone is 0 by chance at some of them"
    assert rounded.mean() < 6 * np.mean(off), "nothing else is excused"
