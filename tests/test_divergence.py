"""Divergence is told: what went first is named, nothing bad is saved, no run that went wrong ends wordless."""

from __future__ import annotations

import itertools
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import fittedq
from fittedq.actions.base import Box
from fittedq.actions.mixed import Mixed
from fittedq.algorithms import find
from fittedq.approx.host import host_view, to_host
from fittedq.approx.networks import Mlp
from fittedq.cli.follow import follow
from fittedq.data.dataset import Dataset
from fittedq.envs.native import AbstractJaxEnv
from fittedq.errors import UserError
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from fittedq.template.fits import first_row
from fittedq.template.fqi import FAULTS, fault_after
from fittedq.trainers.divergence import FAR, LARGE, OVERFLOW, Watch
from fittedq.trainers.host import HostTrainer
from fittedq.trainers.state import initial_state
from methods import built

BOX = Box([-1.0], [1.0])


class Host(gymnasium.Env):
    """Rewards of a given size, whatever is done."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, reward: float = 1.0, later: float | None = None):
        self._reward, self._later, self._steps = reward, later, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self._steps += 1
        reward = self._later if self._later is not None and self._steps > 40 else self._reward
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), reward, False, False, {}


class Compiled(AbstractJaxEnv):
    """The same, compiled."""

    reward: float
    obs_size, action_set, episode_length = 2, BOX, 50

    def begin(self, key):
        return jax.random.uniform(key, (2,))

    def observe(self, inner):
        return inner

    def transition(self, inner, action, key):
        return jax.random.uniform(key, (2,)), jnp.asarray(self.reward, jnp.float32), jnp.zeros((), bool)


def logged(reward: float) -> Dataset:
    rng = np.random.default_rng(0)
    obs, action = rng.uniform(-1, 1, (64, 2)), rng.uniform(-1, 1, (64, 1))
    columns = {"obs": obs, "action": action, "reward": np.full(64, reward), "next_obs": obs[::-1]}
    return Dataset.from_arrays(**columns, terminated=np.zeros(64, bool), action_low=-1, action_high=1)


TINY = {"hidden": (8,), "batch_size": 8, "random_steps": 8, "replay_size": 400}
FITTED = {"hidden": (8,), "epochs": 1, "minibatch": 64}
TRAINERS: dict[str, Callable[..., Any]] = {
    "host": lambda reward, **given: fittedq.train("ddpg", Host(reward), steps=160, **TINY, **given),
    "compiled": lambda reward, **given: fittedq.train("ddpg", Compiled(reward), steps=160, **TINY, **given),
    "batch": lambda reward, **given: fittedq.fit("ddpg", logged(reward), steps=192, hidden=(8,), batch_size=8, **given),
    "fitted": lambda reward, **given: fittedq.fit(
        "nfqca", logged(reward), steps=20, clip_targets=False, **FITTED, **given
    ),
    "growing": lambda reward, **given: fittedq.train(
        "nfqca", Host(reward), steps=60, random_steps=8, steps_per_iteration=10, clip_targets=False, **FITTED, **given
    ),
}
WRONG = {
    # Adam's first step moves the last bias by 1e30, whatever the run: the square of the next error is no float.
    "learning rate 1e30": (
        {"reward": 1.0, "critic_learning_rate": 1e30, "policy_learning_rate": 1e30},
        "learning diverged",
    ),
    "learning rate 1": (
        {"reward": 1.0, "critic_learning_rate": 1.0},
        r"critic_learning_rate is 1: the first update moves weights further than they start from 0 \(±0\.35\)",
    ),
    "rewards of 1e30": ({"reward": 1e30}, r"overflow 32-bit floats|they reach 1e\+30"),
    "values of 1e10": ({"reward": 1e6, "gamma": 0.9999}, "networks hardly learn values above 1e"),
}


def words(run: Callable[[], Any]) -> list[str]:
    """What a run says: its warnings, and the sentence it ends with."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            run()
        except UserError as error:
            return [*(str(one.message) for one in said), str(error)]
    return [str(one.message) for one in said]


QUICK = [("host", wrong) for wrong in WRONG] + [(name, "learning rate 1e30") for name in ("compiled", "fitted")]


@pytest.mark.parametrize(
    ("trainer", "wrong"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product(TRAINERS, WRONG)
    ],
)
def test_no_run_that_goes_wrong_ends_without_a_word(trainer: str, wrong: str) -> None:
    given, expected = WRONG[wrong]
    said = words(lambda: TRAINERS[trainer](**given))
    assert any(re.search(expected, sentence) for sentence in said), said


def test_a_fault_is_the_first_and_stays() -> None:
    figures = [1.0, jnp.inf, jnp.nan]
    fault = fault_after(jnp.zeros((), jnp.int32), jnp.asarray(7), figures)
    assert divmod(int(fault), FAULTS) == (7, 1)
    assert fault_after(fault, jnp.asarray(8), [jnp.nan, 1.0, 1.0]) == fault
    assert fault_after(jnp.zeros((), jnp.int32), jnp.asarray(8), [1.0, 2.0, 3.0]) == 0


def test_one_row_of_the_gradient_tells_of_an_error_anywhere() -> None:
    net = built(Mlp, (2, 8, 8, 1), jax.random.PRNGKey(0))
    x = jax.random.normal(jax.random.PRNGKey(1), (16, 2))

    def loss(net: Mlp) -> Any:
        """Finite; its derivative is 0 / 0 in the last row alone."""
        return jnp.sqrt(jnp.square(net(x)[-1, 0]) * 0.0)

    assert np.isfinite(jax.jit(loss)(net))
    assert not np.isfinite(first_row(jax.jit(jax.grad(loss))(net))).all()
    assert first_row(jnp.ones(())) == 1.0


def test_what_diverges_is_never_saved_and_the_last_good_checkpoint_resumes(tmp_path: Path) -> None:
    schedule = Schedule(steps=200, report_every=10, eval_every=0, checkpoint_every=10)
    run = Run("ddpg", Host(later=1e30), schedule, settings=TINY, folder=tmp_path / "run")
    run.start()
    with pytest.raises(UserError, match=r"diverged at update \d+: the critic's (target|loss) is not finite"):
        for _ in run.execute():
            pass
    again = Run("ddpg", Host(), schedule, settings=TINY, folder=tmp_path / "run")
    again.restore()
    assert again.trainer.step == 40
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(again.trainer.nets()))
    again.trainer.close()


def test_no_snapshot_is_taken_of_networks_that_are_not_finite() -> None:
    trainer = Run("ddpg", Host(), Schedule(steps=20, eval_every=0), settings=TINY).trainer
    assert isinstance(trainer, HostTrainer)
    state = trainer.learner.host_state()
    policy = jax.tree.map(lambda leaf: leaf * np.nan, state.nets.policy)
    trainer.learner.state = eqx.tree_at(lambda state: state.nets.policy, state, policy)
    with pytest.raises(UserError, match="diverged by update 0: the policy's largest parameter is not finite"):
        trainer.snapshot()
    trainer.close()


def test_the_limits_of_rewards_are_those_of_32_bit_floats() -> None:
    algorithm = find("ddpg")(gamma=0.5, hidden=(8,))
    fqi, _ = initial_state(algorithm, 2, BOX, 4, seed=0)

    def said(reward: float) -> list[str]:
        watch = Watch(algorithm, fqi, BOX)
        watch.see([0.0, reward])
        return watch.told()

    assert np.isfinite(np.square(np.float32(2 * OVERFLOW * 0.999)))
    assert float(np.finfo(np.float32).max) < (2 * OVERFLOW * 1.001) ** 2
    assert said(0.49 * LARGE) == []
    assert "hardly learn" in said(0.51 * LARGE)[0]
    assert "hardly learn" in said(0.49 * OVERFLOW)[0]
    assert "overflow" in said(-0.51 * OVERFLOW)[0]


def test_values_are_judged_by_the_rewards_seen_once() -> None:
    algorithm = find("ddpg")(gamma=0.5, hidden=(8,))
    fqi, state = initial_state(algorithm, 2, BOX, 4, seed=0)
    watch = Watch(algorithm, fqi, BOX)
    watch.see([-3.0, 2.0])
    largest = watch.largest(fqi.updates[0].loss.target, state.nets)
    assert largest == 6.0
    obs = np.zeros((4, 2), np.float32)
    watch.judge_values(FAR * largest, largest, obs)
    assert watch.told() == []
    watch.judge_values(1.01 * FAR * largest, largest, obs)
    watch.judge_values(9e9, largest, obs)
    (sentence,) = watch.told()
    assert "allow at most 6: it diverges; lower critic_learning_rate" in sentence


def test_a_run_says_once_and_in_its_metrics_what_it_warns_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run("ddpg", Host(1e6), Schedule(steps=20, eval_every=0), settings=TINY, folder=tmp_path / "run")
    run.start()
    assert follow(run, None, as_json=False) == 0
    told = capsys.readouterr().err
    assert told.count("warning: rewards between 1e+06 and 1e+06") == 1
    (record,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(record["warnings"]) == 1


def test_nothing_is_said_of_values_where_one_side_is_not_known() -> None:
    """Entropy has no lower end: in a box of |A| < 1 it pulls q below anything that the rewards say."""
    sac, thin = find("sac")(hidden=(8,), gamma=0.9), Box([-0.01], [0.01])
    fqi, state = initial_state(sac, 2, thin, 4, seed=0)
    watch = Watch(sac, fqi, thin)
    watch.see([-0.0175, 0.0])
    largest = watch.largest(fqi.updates[0].loss.target, state.nets)
    assert largest == np.inf
    assert "largest_value" not in watch.check(to_host(state))
    assert not watch.doubts(1e30, largest)


def test_values_that_a_new_critic_has_of_itself_are_no_divergence() -> None:
    td3 = find("td3")(hidden=(8,), gamma=0.5)
    fqi, state = initial_state(td3, 2, BOX, 4, seed=7)
    watch = Watch(td3, fqi, BOX)
    watch.see([0.0, 0.0])
    obs = 1e4 * np.random.default_rng(0).standard_normal((64, 2), np.float32)
    own = float(np.abs(host_view(state.nets.critic)(obs, np.zeros((64, 1), np.float32))).max())
    assert own > 10 * FAR
    assert watch.doubts(own, 0.0)
    watch.judge_values(own, 0.0, obs)
    assert watch.told() == []
    watch.judge_values(FAR**2 * own, 0.0, obs)
    assert "it diverges" in watch.told()[0]


def test_only_what_was_updated_can_have_stopped_learning() -> None:
    td3 = find("td3")(hidden=(8,), policy_delay=3)
    fqi, state = initial_state(td3, 2, BOX, 4, seed=0)
    watch = Watch(td3, fqi, BOX)
    figures = watch.check(to_host(state))
    assert figures["critic/gradient"] == figures["policy/gradient"] == 0.0
    assert [watch.still(figures, step) for step in (0, 1, 2, 3)] == [[], ["critic"], ["critic"], ["critic", "policy"]]


@pytest.mark.parametrize("action_set", [BOX, Mixed(BOX, (0,))], ids=["box", "whole"])
def test_a_policy_is_dead_where_states_differ_and_its_numbers_do_not(action_set: Any) -> None:
    ddpg = find("ddpg")(hidden=(8,))
    fqi, state = initial_state(ddpg, 2, action_set, 4, seed=0)
    dead = eqx.tree_at(lambda nets: nets.policy.net.weights[-1], state.nets, replace_fn=jnp.zeros_like)
    obs = 1e-3 * np.random.default_rng(0).standard_normal((8, 2), np.float32)
    for nets, seen, expected in ((state.nets, obs, 0), (dead, obs, 1), (state.nets, obs[:1].repeat(8, 0), 0)):
        watch = Watch(ddpg, fqi, action_set)
        watch.judge_spread("policy", nets, seen)
        assert len(watch.told()) == expected
