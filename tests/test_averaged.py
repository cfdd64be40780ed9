"""What a run's agent acts by: the last networks, or the mean of its iterates."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fittedq
from fittedq.actions.base import Box
from fittedq.algorithms import TD3
from fittedq.approx.batch_norm import BatchNormMlp
from fittedq.approx.hyperspherical import HypersphericalMlp
from fittedq.approx.net import of_its_kind
from fittedq.approx.networks import DeterministicPolicy
from fittedq.arrays import Tree
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from fittedq.template.fqi import Tick, Trailing
from fittedq.trainers.base import advance_to
from fittedq.trainers.settings import FitSettings, GrowSettings, TrainSettings
from fittedq.trainers.state import initial_state
from methods import built

BOX = Box((-1.0,), (1.0,))
SMALL: dict[str, Any] = {"hidden": (4,), "random_steps": 6, "batch_size": 4, "replay_size": 50}
AVERAGE: dict[str, Any] = {"keep": "average", "average_share": 0.5}
WORDS = "the mean over about the last 6 of 11 updates"
KEY = jax.random.key_data(jax.random.key(0))


def weights_of(follow: Trailing, count: int) -> np.ndarray:
    """How much each of the first iterates weighs in the mean of all."""
    mean = np.zeros(count)
    for k in range(1, count + 1):
        rate = float(follow.rate(Tick(jnp.asarray(k))))
        mean = (1 - rate) * mean + rate * np.eye(count)[k - 1]
    return mean


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_the_mean_weighs_iterates_as_its_formula_says(share: float) -> None:
    """∝ i (i + 1) … (i + p − 1): Γ(i + p) / Γ(i), of any 40 iterates, whatever was there before the first."""
    power, i = 1 / share - 1, np.arange(1, 41)
    expected = np.exp([math.lgamma(n + power) - math.lgamma(n) for n in i])
    found = weights_of(Trailing(share), 40)
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=2e-5)
    np.testing.assert_allclose(found @ (40 - i), share * 39 / (1 + share), rtol=2e-5)


def test_a_window_ends_in_an_exponential_mean() -> None:
    found = weights_of(Trailing(1.0, window=4.0), 12)
    np.testing.assert_allclose(found[4:], 0.25 * 0.75 ** np.arange(7, -1, -1), rtol=1e-6)
    np.testing.assert_allclose(found[:4], 0.25 * 0.75**8, rtol=1e-6)  # the mean of the first four, fading


def iterates(algorithm: str, env: Any, steps: int, **settings: Any) -> tuple[Run, list[Tree]]:
    """A run, and what acted after each of its updates, from reports of one step each."""
    run = Run(algorithm, env, Schedule(steps=steps), settings=SMALL | settings)
    seen: list[Tree] = []
    for progress in advance_to(run.trainer, steps, (1,)):
        if progress.updates > len(seen):
            seen.append(jax.tree.map(np.array, run.trainer.nets().acting))
    run.close()
    return run, seen


def mean_of(seen: list[Tree], share: float) -> Tree:
    weights = weights_of(Trailing(share), len(seen))
    return jax.tree.map(lambda *leaves: np.tensordot(weights, np.stack(leaves), 1), *seen)


def close(one: Tree, other: Tree) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_an_online_agent_is_the_mean_of_its_policies_and_learns_as_without_it() -> None:
    run, seen = iterates("ddpg", "Pendulum-v1", 14, **AVERAGE)
    _, plain = iterates("ddpg", "Pendulum-v1", 14)
    for one, other in zip(seen, plain, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    agent = run.agent()
    close(agent.nets.acting, mean_of(seen, 0.5))
    jax.tree.map(np.testing.assert_array_equal, agent.nets.critic, run.trainer.nets().critic)
    assert len(seen) == 9 and not np.allclose(*(jax.tree.leaves(part)[0] for part in (seen[-1], agent.nets.policy)))


def log(rows: int = 40) -> Dataset:
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(rows, 2)), rng.uniform(-1, 1, (rows, 1))
    columns = {"reward": obs[:, 0], "next_obs": obs, "terminated": obs[:, 0] > 0}
    return Dataset.from_arrays(obs=obs, action=action, **columns, action_low=-1, action_high=1)


def test_a_fitted_agent_is_the_mean_over_its_iterations() -> None:
    data = log()
    small = {"hidden": (4,), "epochs": 1, "minibatch": 10, "policy_epochs": 1}
    for method, more in (("nfqca", small), ("explicit_fqi", {"approximator": "polynomial"})):
        run = Run(method, None, Schedule.offline(method, 4, eval_every=0), data=data, settings=AVERAGE | more)
        seen = []
        for _ in advance_to(run.trainer, 4, (1,)):
            if run.trainer.step > len(seen):
                seen.append(jax.tree.map(np.array, run.trainer.nets().acting))
        assert len(seen) == 4
        close(run.agent().nets.acting, mean_of(seen, 0.5))


def test_growing_data_too() -> None:
    settings = {"hidden": (4,), "steps_per_iteration": 2, "random_steps": 4, "epochs": 1, "policy_epochs": 1}
    run = Run("nfqca", "Pendulum-v1", Schedule(steps=9), settings=settings | AVERAGE)
    seen: list[Tree] = []
    for progress in advance_to(run.trainer, 9, (1,)):
        if progress.fraction == 0 and run.trainer.updates:
            policy = jax.tree.map(np.array, run.trainer.nets().acting)
            if not seen or not np.array_equal(*(jax.tree.leaves(one)[0] for one in (seen[-1], policy))):
                seen.append(policy)
    run.close()
    assert len(seen) == 3
    close(run.agent().nets.acting, mean_of(seen, 0.5))


@pytest.mark.parametrize("env", ["Pendulum-v1", pytest.param("jax/Pendulum-v1", marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_to_the_same_mean_bit_for_bit(env: str, tmp_path: Path) -> None:
    options = SMALL | AVERAGE
    whole = fittedq.train("ddpg", env, steps=16, **options)
    for report in fittedq.stream("ddpg", env, steps=16, report_every=1, out=tmp_path / "run", **options):
        if report.step == 11:
            break
    told = json.loads((tmp_path / "run" / "last" / "manifest.json").read_text())["origin"]
    assert told["acts_by"] == report.acts_by == "the mean over about the last 4 of 6 updates"
    resumed = fittedq.resume(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["acts_by"] == WORDS
    jax.tree.map(np.testing.assert_array_equal, resumed.nets, whole.nets)
    assert fittedq.load(tmp_path / "run").act(np.zeros(3)) == resumed.act(np.zeros(3))
    with pytest.raises(UserError, match="a run keeps its keep"):
        fittedq.resume(tmp_path / "run", steps=20, set={"keep": "last"})


def test_no_mean_adds_nothing_to_what_is_compiled_or_saved() -> None:
    fqi, state = initial_state(TD3(hidden=(4,)), 2, BOX, 4, 0, TrainSettings())
    assert fqi.mean is None and not jax.tree.leaves(state.mean)


def test_a_mean_of_networks_on_the_sphere_is_on_it() -> None:
    first, second = (
        built(DeterministicPolicy, 3, BOX, (4,), key, make=HypersphericalMlp) for key in jax.random.split(KEY)
    )
    mean = of_its_kind(jax.tree.map(lambda a, b: (a + b) / 2, first, second), jnp.ones((2, 3)))
    for weight in mean.net.weights:
        np.testing.assert_allclose(np.square(weight).sum(-2), 1, rtol=1e-5)
    np.testing.assert_array_equal(mean.net.bias, (first.net.bias + second.net.bias) / 2)


def test_a_mean_of_batch_normalized_networks_has_its_own_statistics() -> None:
    """What its layers have at the states: at these it acts as its `by_batch` says, and no mean of variances does."""
    first, second = (
        built(DeterministicPolicy, 3, BOX, (8, 8), key, make=BatchNormMlp) for key in jax.random.split(KEY)
    )
    obs = jax.random.normal(KEY, (64, 3)) * 3 + 1
    halved = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    mean = of_its_kind(halved, obs)
    np.testing.assert_allclose(mean.net(obs), mean.net.by_batch(obs)[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(np.square(mean.net.weights[0]).sum(-2), 1, rtol=1e-5)
    assert np.abs(mean.net(obs) - halved.net(obs)).max() > 0.1


def test_what_has_no_mean_is_a_sentence() -> None:
    with pytest.raises(UserError, match="setting keep: found average, and what acts is a TreeCritic"):
        fittedq.fit("explicit_fqi", log(), steps=1, approximator="extra_trees", keep="average")
    with pytest.raises(UserError, match="setting keep: found average with reset_every = 100"):
        TrainSettings(keep="average", reset_every=100)
    for settings in (TrainSettings, FitSettings, GrowSettings):
        with pytest.raises(UserError, match="setting average_share: keep is last, so nothing is averaged"):
            settings(average_share=0.5)
        with pytest.raises(UserError, match="setting keep: found 'best'"):
            settings(keep="best")
