"""A controller that searches a tree ensemble at each sample, exported: looks along one axis after another."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest

from exported import block_text, tree_agent
from fittedq.actions.base import Box
from fittedq.agent import Agent
from fittedq.approx.trees import TreeCritic
from fittedq.control.augmentation import Augmentation
from fittedq.errors import UserError
from fittedq.export import numeric
from fittedq.export.program import SearchTrees
from fittedq.export.reverse import tree_numbers
from fittedq.maximize.exact.sweep import TreeSweep

pytest.importorskip("sklearn", reason="needs scikit-learn (fittedq[trees])")
ONE = Box((-2.0,), (3.0,))


@functools.cache
def known(actions: int = 2, history: int = 1) -> Agent:
    return tree_agent(
        ONE if actions == 1 else Box((-2.0, -1.0), (2.0, 3.0)), Augmentation(history=history) if history > 1 else None
    )


def stage_of(agent: Agent, refine: int) -> SearchTrees:
    (stage,) = (line.stage for line in agent.program(refine=refine).lines if isinstance(line.stage, SearchTrees))
    return stage


def test_the_tables_are_the_critic() -> None:
    agent, rng = known(), np.random.default_rng(0)
    obs, action = rng.normal(size=(200, 3)).astype(np.float32), rng.uniform(-2, 3, (200, 2)).astype(np.float32)
    stage, critic = stage_of(agent, 1), agent.nets.critic
    assert isinstance(critic, TreeCritic) and len(stage.child) <= len(critic.child)
    found = numeric.tree_mean(np.concatenate([obs, action], axis=1), **tree_numbers(stage))
    np.testing.assert_allclose(found, critic(obs, action)[0], rtol=1e-5)


def test_it_ends_between_its_best_start_and_the_exact_maximum() -> None:
    """Over one action, where the sweep is exact: in most states three looks leave little of the gap."""
    agent, obs = known(1), np.random.default_rng(1).normal(size=(30, 3)).astype(np.float32)
    stage, normal = stage_of(agent, 3), agent.moments.normalize(obs)
    loop = agent.loop(refine=3)
    found = np.array([loop.step(one)[0] for one in obs], np.float32)
    value, best = (
        np.asarray(agent.nets.critic(normal, one)[0])
        for one in (found, TreeSweep()(agent.nets.critic, normal, ONE).action)
    )
    starts = np.array([agent.nets.critic(normal, np.tile(one, (30, 1)))[0] for one in stage.starts]).max(axis=0)
    assert (value >= starts - 1e-6).all() and (value <= best + 1e-6).all()
    assert (best - value).mean() < 0.5 * (best - starts).mean()


def test_it_stays_within_its_trust() -> None:
    stage = stage_of(known(), 4)
    given = {**{name: getattr(stage, name) for name in ("starts", "looks", "half_width", "low", "high")}, "trust": 0.1}
    forest, start = tuple(tree_numbers(stage).values()), np.array([-1.9, 2.0])
    found = numeric.looked_along(np.zeros(3), start, forest, **given)
    assert (np.abs(found - start) <= 0.1 * stage.half_width * (1 + 1e-6)).all()
    assert (found >= stage.low).all() and (found <= stage.high).all()


@pytest.mark.parametrize(("to", "history"), [("numpy", 2), ("onnx", 1), ("onnx", 2), ("st", 1)])
def test_an_export_searches_as_the_agent_does(to: str, history: int, tmp_path: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnxruntime", reason="needs onnxruntime (fittedq[export])")
    told = known(2, history).export(tmp_path / "out", to, samples=100, refine=2)
    assert told["verified"]["max_difference"] < 1e-6 and "best of 16 starts" in told["facts"]["solver"]


@pytest.mark.skipif(not any(map(shutil.which, ("gcc", "clang", "cc"))), reason="needs a C compiler")
def test_c_searches_as_the_agent_does(tmp_path: Path) -> None:
    told = known().export(tmp_path / "out", "c", samples=300, refine=3)
    assert told["verified"]["max_difference"] < 1e-6
    assert "comparisons in trees" in told["facts"]["operations"]


def test_a_forest_that_no_plc_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fittedq.export.st_solver.MOST_NODES", 10)
    with pytest.raises(UserError, match=r"nodes of trees, expected at most 10 in Structured Text; export to c"):
        block_text(known().program(refine=1))
