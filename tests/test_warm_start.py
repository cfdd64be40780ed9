"""A warm start: the first networks are an agent's, to the bit, wherever they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fittedq
from fittedq.agent import Agent
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.files import load_folder
from fittedq.runs.resume import reopened
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule

pytestmark = pytest.mark.slow  # many runs; a method composed of slots is resumed in test_slots

TINY: dict[str, Any] = {"hidden": (8,), "batch_size": 8, "replay_size": 1000, "random_steps": 20}
FIT: dict[str, Any] = {"hidden": (8,), "epochs": 1, "minibatch": 32}
SCHEDULE = Schedule(steps=60, report_every=20, checkpoint_every=20)
RNG = np.random.default_rng(0)
OBS = RNG.normal(size=(64, 3)).astype(np.float32)


def logged(shift: float = 0.0) -> Dataset:
    action = RNG.uniform(-2, 2, (64, 1))
    ends = np.arange(64) % 16 == 15
    columns = {"obs": OBS + shift, "action": action, "reward": OBS[:, 0], "next_obs": OBS, "terminated": ends}
    return Dataset.from_arrays(**columns, action_low=-2, action_high=2)


DATA = logged()


@pytest.fixture(scope="module")
def agent() -> Agent:
    run = Run("ddpg", "Pendulum-v1", SCHEDULE, seed=7, settings=TINY)
    list(run.execute())
    return run.agent()


def assert_same(one: Any, other: Any) -> None:
    for mine, others in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(mine, others)


def test_a_run_begins_with_the_agents_networks_to_the_bit(agent: Agent) -> None:
    small = TINY | {"normalize_obs": False}
    settings = {name: small[name] for name in ("hidden", "batch_size", "normalize_obs")}
    grown = {"hidden": (8,), "n_critics": 1, "normalize_obs": False}
    for run in (
        Run("ddpg", "Pendulum-v1", SCHEDULE, seed=1, settings=TINY, start=agent),
        Run("td3", "Pendulum-v1", SCHEDULE, settings=TINY | {"n_critics": 1, "n_target_critics": 1}, start=agent),
        Run("ddpg", "jax/Pendulum-v1", SCHEDULE, settings=TINY, start=agent),
        Run("ddpg", None, SCHEDULE, data=DATA, settings=settings, start=agent),
        Run("nfqca", None, SCHEDULE, data=DATA, settings=grown, start=agent),
        Run("nfqca", "Pendulum-v1", SCHEDULE, settings=grown, start=agent),
    ):
        begun = run.agent()
        run.close()
        assert_same((begun.nets.critic, begun.nets.policy), (agent.nets.critic, agent.nets.policy))
        np.testing.assert_array_equal(begun.act(OBS), agent.act(OBS))


def test_the_frozen_copies_begin_there_too_and_acting_follows(agent: Agent) -> None:
    run = Run("ddpg", "Pendulum-v1", SCHEDULE, seed=1, settings=TINY, start=agent)
    state = run.trainer.learner.host_state()  # type: ignore[attr-defined]
    assert_same(state.frozen.critic, agent.nets.critic)
    zero = np.zeros((64, 1), np.float32)
    np.testing.assert_array_equal(run.trainer._policy.act(OBS, zero), agent.nets.policy.act(OBS, zero))  # type: ignore[attr-defined]
    run.close()


@pytest.mark.parametrize("algorithm", ["ddpg", "nfqca"])
def test_a_run_killed_at_its_start_still_begins_there(agent: Agent, tmp_path: Path, algorithm: str) -> None:
    grown = {**FIT, "random_steps": 20, "steps_per_iteration": 20, "n_critics": 1}
    settings = TINY if algorithm == "ddpg" else grown
    runs = [
        Run(algorithm, "Pendulum-v1", SCHEDULE, settings=settings, folder=tmp_path / name, start=agent)
        for name in ("straight", "killed")
    ]
    list(runs[0].reports())
    runs[1].start()
    runs[1].close()
    again = reopened(tmp_path / "killed")
    assert again.trainer.step == 0
    assert_same(again.trainer.nets().policy, agent.nets.policy)
    list(again.reports())
    one, other = (load_folder(tmp_path / name / "last", "agent")[0] for name in ("straight", "killed"))
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


def test_normalization_comes_along(agent: Agent) -> None:
    offline = fittedq.fit("nfqca", DATA, steps=1, **FIT, n_critics=1)
    assert offline.moments is not None
    settings = {"hidden": (8,), "n_critics": 1, "normalize_obs": True}
    for source in ({"env": "Pendulum-v1"}, {"env": None, "data": DATA}):
        run = Run("nfqca", schedule=SCHEDULE, settings=settings, start=offline, **source)
        np.testing.assert_array_equal(run.agent().act(OBS), offline.act(OBS))
        run.close()
    online = Run("ddpg", "Pendulum-v1", SCHEDULE, settings=TINY | {"normalize_obs": True}, start=offline)
    np.testing.assert_array_equal(online.agent().act(OBS), offline.act(OBS))
    online.close()
    with pytest.raises(UserError, match="normalized by other data"):
        Run("nfqca", None, SCHEDULE, data=logged(1.0), settings=settings, start=offline)


@pytest.mark.parametrize(
    ("algorithm", "env", "settings", "sentence"),
    [
        ("ddpg", "Pendulum-v1", {"hidden": (8, 4)}, r"its critic is a QNetwork of 1×4×8 .* relu, this run's .*1×8×4"),
        ("ddpg", "Pendulum-v1", {"activation": "tanh"}, "this run's a QNetwork of .* tanh; give both one shape"),
        ("td3", "Pendulum-v1", {}, "its critic is a QNetwork of 1×4×8"),
        ("sac", "Pendulum-v1", {"n_critics": 1, "n_target_critics": 1}, "no log_temperature, which sac learns"),
        ("svg", "Pendulum-v1", {"n_critics": 1, "temperature": 0.1}, "is of ddpg and has no model, which svg learns"),
        ("ddpg", "Pendulum-v1", {"normalize_obs": True}, "observations in their own units; set normalize_obs to false"),
        ("ddpg", "MountainCarContinuous-v0", {}, "its observations have 3 numbers, this run's 2"),
    ],
)
def test_what_does_not_fit_is_a_sentence(
    agent: Agent, algorithm: str, env: str, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        Run(algorithm, env, SCHEDULE, settings=TINY | settings, start=agent)
    assert str(caught.value).startswith("start: the agent does not fit: ")


def test_another_action_set_is_refused(agent: Agent) -> None:
    with pytest.raises(UserError, match="its actions lie in"):
        fittedq.train("ddpg", "Pendulum-v1", steps=1, start=agent, action_set=fittedq.Limits(("|a| <= 1",)), **TINY)


def test_a_run_is_no_other_run_for_its_start(agent: Agent, tmp_path: Path) -> None:
    agent.save(tmp_path / "agent")
    Run("ddpg", "Pendulum-v1", SCHEDULE, settings=TINY, folder=tmp_path / "run", start=agent).start()
    with pytest.raises(UserError, match="holds a run of another configuration"):
        fittedq.train("ddpg", "Pendulum-v1", steps=60, out=tmp_path / "run", **TINY)
    with pytest.raises(UserError, match="holds a run of the same configuration"):
        fittedq.train("ddpg", "Pendulum-v1", steps=60, out=tmp_path / "run", start=tmp_path / "agent", **TINY)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.rename(tmp_path / path.name)
    with pytest.raises(UserError, match="was begun with an agent's networks, and has no checkpoint"):
        reopened(tmp_path / "run")
