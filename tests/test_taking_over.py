"""A controller that takes over from another one: no jump larger than what was said, in Python and in C."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exported import AGENTS, BOX, MEMORY, agent_in, readings
from fittedq.acting.loop import SafeLoop
from fittedq.acting.status import ActingStatus
from fittedq.errors import UserError
from fittedq.export.c_file import Compiled
from fittedq.export.language import AbstractFollowing
from fittedq.export.languages import at_work

WIDTH = np.subtract(BOX.high, BOX.low)


@pytest.mark.parametrize("of", [AGENTS["td3"], AGENTS["polytope"], AGENTS["history"], AGENTS["memory"]])
def test_no_action_jumps_by_more_than_was_said_until_it_has_met_its_own(of: dict[str, Any]) -> None:
    agent, over, present = agent_in(**of), 8, np.float32([-1.0, 0.5])
    loop, alone = agent.loop(present, over=over), agent.loop(present)
    steady = np.float32([0.3, -0.2, 0.1])
    taken, statuses = zip(*(loop.step(steady) for _ in range(60)), strict=True)
    jumps = np.abs(np.diff([present, *taken], axis=0))
    assert (jumps <= WIDTH / over * (1 + 1e-5)).all() and jumps.max() > 0.02
    if of is AGENTS["polytope"]:
        assert (np.array([[1.0, 1.0], [-1.0, 0.5]]) @ np.transpose(taken) <= np.array([[3.0], [1.5]]) + 1e-5).all()
    if of is AGENTS["td3"]:
        own, met = alone.step(steady)[0], statuses.index(ActingStatus.OK)
        assert 0 < met < over and set(statuses[met:]) == {ActingStatus.OK}
        np.testing.assert_array_equal(taken[-1], own)
        # It goes straight to what it decides.
        first, whole = np.subtract(taken[0], present), np.subtract(own, present)
        assert abs(first[0] * whole[1] - first[1] * whole[0]) < 1e-4


def test_what_it_goes_on_from_is_asked_for() -> None:
    with pytest.raises(UserError, match="over: found no action `before`"):
        agent_in().loop(over=3)
    with pytest.raises(UserError, match="over: found 0"):
        agent_in().loop([0.0, 0.0], over=0)


@pytest.mark.skipif(not any(map(shutil.which, ("gcc", "clang", "cc"))), reason="needs a C compiler")
@pytest.mark.parametrize("added", [None, MEMORY])
def test_c_takes_over_as_the_loop_does(added: Any, tmp_path: Path) -> None:
    """Beside another controller first, whose actions it remembers; then in charge, also while a sensor is dead."""
    agent, present = agent_in(added=added), np.float32([1.5, -0.5])
    agent.export(tmp_path / "c", "c", samples=100)
    with at_work(tmp_path / "c") as (running, _):
        assert isinstance(running, Compiled)
        loop = agent.loop()
        running.reset()
        for at, obs in enumerate(readings(40)[1:]):
            ours, theirs = loop.step(obs), running.step(obs)
            np.testing.assert_allclose(theirs[0], ours[0], atol=4e-5)
            assert ours[1] == theirs[1]
            if at < 6:
                loop.follow(present)
                running.follow(present)
            if at == 6:
                loop.take_over(present, 5)
                running.take_over(present, 5)


@pytest.mark.parametrize(
    "target",
    [
        "loop",
        "numpy",
        "onnx",
        pytest.param(
            "c",
            marks=pytest.mark.skipif(not any(map(shutil.which, ("gcc", "clang", "cc"))), reason="needs a C compiler"),
        ),
    ],
)
def test_a_position_that_cannot_be_read_is_not_gone_on_from(target: str, tmp_path: Path) -> None:
    """Where actions are changes, one that is not finite would stay so for ever."""
    if target == "onnx":
        pytest.importorskip("onnxruntime", reason="needs onnxruntime (fittedq[export])")
    agent, steady, dead = agent_in(added=MEMORY), np.float32([0.3, -0.2, 0.1]), np.float32([np.nan, 0.5])
    with contextlib.ExitStack() as stack:
        if target == "loop":
            running = agent.loop()
        else:
            agent.export(tmp_path / "out", target, samples=100)
            running, _ = stack.enter_context(at_work(tmp_path / "out"))
        running.reset()
        known = np.array([running.step(steady)[0] for _ in range(2)])
        running.reset(dead)
        first, _ = running.step(steady)
        assert isinstance(running, SafeLoop | AbstractFollowing)
        running.follow(dead)
        second, _ = running.step(steady)
        np.testing.assert_array_equal([first, second], known)
        if isinstance(running, SafeLoop | Compiled):
            running.take_over(dead, 5)
            assert np.isfinite(running.step(steady)[0]).all()


def test_what_was_executed_names_all_actions() -> None:
    with pytest.raises(UserError, match=r"executed: found shape \(1,\), expected \(2,\)"):
        agent_in().loop().follow(np.ones(1, np.float32))
