"""A controller that solves at each sample, exported: gradient steps on its critic."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exported import BOX, MEMORY, SOLVING, TRIANGLE, WHOLE, agent_in, guarded_in, plant_rows
from fittedq.actions.base import AbstractActionSet
from fittedq.errors import UserError
from fittedq.export.c_file import CSource
from fittedq.export.program import Ascend
from fittedq.export.reverse import HostCritic
from fittedq.maximize.base import value_and_gradient

LOW = {"refine": 5}
QUICK = ("tanh", "no policy")


@pytest.mark.parametrize("of", SOLVING.values(), ids=list(SOLVING))
def test_the_reverse_pass_is_the_derivative(of: dict[str, Any]) -> None:
    """Against JAX's of min_j q_j, at the critic that is least."""
    agent = agent_in(**of)
    (stage,) = (line.stage for line in agent.program(refine=1).lines if isinstance(line.stage, Ascend))
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(8, agent.obs_size)).astype(np.float32)
    action = rng.uniform(stage.low, stage.high, (8, 2)).astype(np.float32)
    critic = jax.tree.map(jnp.asarray, agent.nets.critic)
    values, gradients = value_and_gradient(critic, jnp.asarray(seen), jnp.asarray(action))
    for s, a, value, gradient in zip(seen, action, np.asarray(values), np.asarray(gradients), strict=True):
        x = np.concatenate([s, (a - stage.center) / stage.half_width]).astype(float)
        q, slope = min((HostCritic(lines)(x) for lines in stage.critics), key=lambda one: one[0])
        np.testing.assert_allclose(q, value, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(slope[len(s) :] / stage.half_width, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("action_set", [BOX, TRIANGLE], ids=["box", "polytope"])
def test_the_steps_are_those_of_act(action_set: AbstractActionSet) -> None:
    """`agent.act(refine=…)` takes them compiled, in single precision."""
    agent, obs = (
        agent_in(activation="tanh", action_set=action_set),
        np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32),
    )
    loop = agent.loop(refine=4)
    found = np.array([loop.step(one)[0] for one in obs])
    np.testing.assert_allclose(found, agent.act(obs, refine=4), atol=1e-4)
    policy = agent.act(obs)
    assert (np.abs(found - policy) <= 0.1 * np.array([2.0, 2.0]) * (1 + 1e-6)).all()
    assert action_set.contains(found, obs).all()
    assert (agent.value(obs, found) >= agent.value(obs, policy) - 1e-6).all() and np.abs(found - policy).max() > 0.05


@pytest.mark.parametrize("of", SOLVING.values(), ids=list(SOLVING))
def test_a_numpy_file_solves_as_the_agent_does(of: dict[str, Any], tmp_path: Path) -> None:
    told = agent_in(**of).export(tmp_path / "out", "numpy", samples=100, **LOW)
    assert told["verified"]["max_difference"] < 1e-6


@pytest.mark.skipif(not any(map(shutil.which, ("gcc", "clang", "cc"))), reason="needs a C compiler")
@pytest.mark.parametrize(
    "of",
    [
        SOLVING["tanh"],
        *(pytest.param(of, marks=pytest.mark.slow) for name, of in SOLVING.items() if name != "tanh"),
    ],
)
def test_c_solves_as_the_agent_does(of: dict[str, Any], tmp_path: Path) -> None:
    told = agent_in(**of).export(tmp_path / "out", CSource(), samples=300, **LOW)
    assert told["verified"]["max_difference"] < 1e-6


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SOLVING]
)
@pytest.mark.parametrize("to", ["onnx", "st"])
def test_models_and_blocks_solve_as_the_agent_does(to: str, name: str, tmp_path: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnxruntime", reason="needs onnxruntime (fittedq[export])")
    told = agent_in(**SOLVING[name]).export(tmp_path / "out", to, samples=100, refine=2)
    assert told["verified"]["max_difference"] < 1e-6


@pytest.mark.skipif(not any(map(shutil.which, ("gcc", "clang", "cc"))), reason="needs a C compiler")
def test_c_solves_among_inequalities_beside_a_fallback(tmp_path: Path) -> None:
    """The fallback is projected in single precision, the solver's steps in double; what both call stands once."""
    agent = guarded_in("hold", action_set=TRIANGLE, activation="tanh")
    told = agent.export(tmp_path / "out", CSource(), samples=300, data=plant_rows().transitions(slice(None)).obs, **LOW)
    assert told["verified"]["max_error"] < 1e-6 and told["verified"]["statuses"]["OK"] > 20


def test_without_a_policy_it_is_never_below_a_start() -> None:
    agent, obs = agent_in("explicit_fqi"), np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    (stage,) = (line.stage for line in agent.program(refine=3).lines if isinstance(line.stage, Ascend))
    loop = agent.loop(refine=3)
    for one in obs:
        action = loop.step(one)[0]
        best = agent.value(np.tile(one, (len(stage.starts), 1)), stage.starts).max()
        assert agent.value(one, action) >= best - 1e-6


@pytest.mark.parametrize("name", ["changes", "changes without a policy"])
def test_under_a_rate_limit_no_action_changes_by_more(name: str) -> None:
    loop, rate = agent_in(**SOLVING[name]).loop(refine=2), np.array(MEMORY.rate_limit)
    taken = np.array([loop.step(one)[0] for one in np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)])
    assert (np.abs(np.diff(taken, axis=0)) <= rate + 1e-6).all() and np.abs(np.diff(taken, axis=0)).max() > 0.01


def test_what_no_export_can_solve_is_named(tmp_path: Path) -> None:
    for agent, words in (
        (agent_in(action_set=WHOLE), "Mixed of actions"),
        (
            agent_in("explicit_fqi", approximator="extra_trees", hidden=(128, 128), action_set=TRIANGLE),
            "looks in trees",
        ),
        (agent_in("td7"), "RangedCritic"),
        (agent_in("explicit_fqi", approximator="polynomial", hidden=(128, 128)), "LinearCritic"),
        (agent_in("svg", horizon="inf", episode_length=5), "found no critic, .* leave refine out"),
    ):
        with pytest.raises(UserError, match=words):
            agent.program(refine=4)
    with pytest.raises(UserError, match="compares values"):
        agent_in().export(tmp_path / "out", CSource(int8=True), samples=100, refine=1)
    with pytest.raises(UserError, match=r"explicit_fqi learns no policy .*--refine 8"):
        agent_in("explicit_fqi").export(tmp_path / "out", "numpy")
    assert not list(tmp_path.iterdir())


def test_a_trust_that_limits_no_step_is_refused(tmp_path: Path) -> None:
    agent = agent_in()
    for give in (lambda: agent.export(tmp_path / "out", "numpy", trust=0.5), lambda: agent.loop(trust=0.5)):
        with pytest.raises(UserError, match=r"found 0.5 and no steps \(refine\) that it limits"):
            give()
    assert not list(tmp_path.iterdir())
