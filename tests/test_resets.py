"""Networks that start anew, on the replay as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fittedq
from fittedq.actions.base import Box
from fittedq.algorithms import SAC
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from fittedq.trainers.resets import resetting
from fittedq.trainers.settings import TrainSettings
from fittedq.trainers.state import initial_state

BOX = Box((-1.0,), (1.0,))
SMALL: dict[str, Any] = {"hidden": (4,), "batch_size": 4}
LOOP: dict[str, Any] = SMALL | {"random_steps": 4, "replay_size": 50}


def equal(one: Any, other: Any) -> bool:
    leaves = (jax.tree.leaves(tree) for tree in (one, other))
    return all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


@pytest.mark.parametrize("names", [None, ("critic",)])
def test_a_reset_renews_what_it_names_and_nothing_else(names: tuple[str, ...] | None) -> None:
    settings = TrainSettings(reset_every=5, reset_components=names)
    algorithm = SAC(hidden=(4,))
    fqi, first = initial_state(algorithm, 2, BOX, 4, 0, settings)
    moved = jax.tree.map(lambda leaf: leaf + 1, first)  # everything is otherwise, and step is 1
    renewed = resetting(algorithm, fqi, 2, BOX, settings, seed=3)
    assert renewed is not None
    state = renewed(moved)
    key = jax.random.fold_in(jax.random.key_data(jax.random.key(3)), 1)
    new = algorithm.networks(2, BOX, key)
    for place, update in enumerate(fqi.updates):
        name, fresh = update.component, names is None or update.component in names
        assert equal(getattr(state.nets, name), getattr(new if fresh else moved.nets, name))
        expected = update.fit.init(getattr(new, name)) if fresh else moved.optimizer_states[place]
        assert equal(state.optimizer_states[place], expected)
    assert equal(state.frozen.critic, new.critic)
    assert equal(
        (state.key, state.step, state.metrics, state.fault), (moved.key, moved.step, moved.metrics, moved.fault)
    )


@pytest.mark.parametrize("env", ["Pendulum-v1", pytest.param("jax/Pendulum-v1", marks=pytest.mark.slow)])
def test_a_run_resets_when_it_is_due_and_goes_on_bit_for_bit(env: str, tmp_path: Path) -> None:
    """Eight updates are after step 11, in this process and in one that was stopped before and after it."""
    options = LOOP | {"reset_every": 8, "policy_learning_rate": 1e-9}
    run = Run("ddpg", env, Schedule(steps=20, report_every=1), settings=options, folder=tmp_path / "whole")
    seen = {report.updates: np.array(run.trainer.nets().policy.net.weights[0]) for report in run.reports()}  # type: ignore[union-attr]
    pairs = zip(seen.items(), [*seen.values()][1:], strict=False)
    assert [updates + 1 for (updates, before), after in pairs if not np.allclose(before, after, atol=1e-6)] == [8, 16]
    whole = fittedq.load(tmp_path / "whole" / "last")
    for report in fittedq.stream("ddpg", env, steps=20, report_every=1, out=tmp_path / "run", **options):
        if report.step == 10:
            break
    assert equal(fittedq.resume(tmp_path / "run").nets, whole.nets)


def test_from_a_dataset_too() -> None:
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(40, 2)), rng.uniform(-1, 1, (40, 1))
    data = Dataset.from_arrays(
        obs=obs, action=action, reward=obs[:, 0], next_obs=obs, terminated=obs[:, 0] > 0, action_low=-1, action_high=1
    )
    options = SMALL | {"policy_learning_rate": 1e-9, "report_every": 1, "reset_every": 2}
    policies = [report.agent.nets.policy for report in fittedq.stream("ddpg", data=data, steps=3, **options)]
    weights = [np.asarray(policy.net.weights[0]) for policy in policies]  # type: ignore[union-attr]
    assert not np.allclose(weights[0], weights[1], atol=1e-6) and np.allclose(weights[1], weights[2], atol=1e-6)
    with pytest.raises(UserError, match="setting reset_every: found 2, expected 0: a fitted method"):
        fittedq.fit("nfqca", data, steps=1, hidden=(4,), reset_every=2)


def test_what_cannot_be_reset_is_a_sentence() -> None:
    with pytest.raises(UserError, match="setting reset_components: the method fits no model; it fits critic, policy"):
        fittedq.train("ddpg", "Pendulum-v1", steps=1, reset_every=5, reset_components=("model",), **LOOP)
    with pytest.raises(UserError, match="setting reset_components: found 'actor'"):
        fittedq.train("ddpg", "Pendulum-v1", steps=1, reset_every=5, reset_components=("actor",), **LOOP)
    with pytest.raises(UserError, match="setting reset_components: reset_every is 0"):
        TrainSettings(reset_components=("critic",))
    run = Run("ddpg", "Pendulum-v1", Schedule(steps=9), settings=LOOP | {"reset_every": 100})
    run.close()
    assert run.warn() == ["reset_every is 100, and the run takes about 5 updates: nothing is reset."]
