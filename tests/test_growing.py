"""Fitted methods that collect their own data: every row counts, and a run continues bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

import fittedq
from fittedq import UserError
from fittedq.algorithms import NFQCA, AmortizedFQI
from fittedq.envs.gym import GymSource
from fittedq.trainers.growing import GrowingTrainer
from fittedq.trainers.settings import GrowSettings

RATES = {"critic_learning_rate": 1e-3, "policy_learning_rate": 1e-3}
"""Of a length that a run is resumed beyond."""
SMALL = {"hidden": (8,), "minibatch": 32, "epochs": 1, "policy_epochs": 2, **RATES}


def make(algorithm=NFQCA, **settings) -> GrowingTrainer:
    grow = GrowSettings(random_steps=100, steps_per_iteration=50, **settings)
    return GrowingTrainer(algorithm(**SMALL), GymSource("Pendulum-v1", seed=3), grow, seed=3)


def go_to(trainer: GrowingTrainer, step: int) -> None:
    while trainer.step < step:
        trainer.advance(step - trainer.step)


def assert_equal(one: GrowingTrainer, other: GrowingTrainer) -> None:
    (arrays, meta, rows), (others, other_meta, other_rows) = one.snapshot(), other.snapshot()
    np.testing.assert_array_equal(rows["replay"].all(), other_rows["replay"].all())
    assert meta == other_meta
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)


def test_each_iteration_fits_all_that_was_collected():
    trainer = make()
    go_to(trainer, 99)
    assert trainer.updates == 0
    go_to(trainer, 260)
    _, meta, rows = trainer.snapshot()
    # Iterations after 100, 150, 200 and 250 steps; one epoch of the critic and two of the policy, in batches of 32.
    assert meta["fitted"]["step"] == 4
    assert trainer.updates == sum(3 * (rows // 32) for rows in (100, 150, 200, 250))
    assert meta["packed"] == 250
    rows = rows["replay"].all()
    assert len(rows) == 260
    # Episodes of 200 steps follow one another: s' of a row is s of the next.
    np.testing.assert_array_equal(rows[:199, 4:7], rows[1:200, :3])
    assert trainer.episodes == 1


@pytest.mark.parametrize(
    "algorithm", [pytest.param(NFQCA, marks=pytest.mark.as_shipped), pytest.param(AmortizedFQI, marks=pytest.mark.slow)]
)
def test_a_growing_run_continues_bit_for_bit(algorithm):
    straight, first, second = (make(algorithm, normalize_obs=algorithm is NFQCA) for _ in range(3))
    go_to(straight, 310)
    go_to(first, 220)
    assert second.restore(*first.snapshot())
    go_to(second, 310)
    assert_equal(straight, second)


def test_an_iteration_that_was_interrupted_is_done_again():
    straight, first, second = (make() for _ in range(3))
    go_to(straight, 200)
    go_to(first, 148)
    first.advance(52, stop=lambda: first.snapshot()[1]["taken"] == 150)
    arrays, meta, rows = first.snapshot()
    assert (meta["taken"], meta["due"], meta["step"]) == (150, True, 149)
    assert second.restore(arrays, meta, rows)
    go_to(second, 200)
    assert_equal(straight, second)


def test_a_run_from_the_interface_learns_saves_and_refuses_what_it_does_not_use(tmp_path):
    settings = {**SMALL, "random_steps": 100, "steps_per_iteration": 50}
    agent = fittedq.train("nfqca", "Pendulum-v1", steps=200, out=tmp_path / "run", **settings)
    longer = fittedq.resume(tmp_path / "run", steps=250)
    straight = fittedq.train("nfqca", "Pendulum-v1", steps=250, **settings)
    obs = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.testing.assert_array_equal(longer.act(obs), straight.act(obs))
    assert not np.array_equal(longer.act(obs), agent.act(obs))
    with pytest.raises(UserError, match="updates_per_step"):
        fittedq.train("nfqca", "Pendulum-v1", steps=200, updates_per_step=2)
    with pytest.raises(UserError, match="collect a dataset first"):
        fittedq.train("nfqca", "jax/Pendulum-v1", steps=200)


@pytest.mark.slow
def test_nfqca_swings_up_on_data_of_its_own():
    agent = fittedq.train("nfqca", "Pendulum-v1", steps=6_000, steps_per_iteration=100)
    assert agent.evaluate("Pendulum-v1", 20).mean() > -200
