"""What a critic promises against what followed, and how far policies drift."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fittedq
from fittedq.actions.base import Box
from fittedq.approx.models import KnownModel
from fittedq.cli.main import main
from fittedq.diagnose.values import discounted_returns, overestimation, policy_drift
from fittedq.template.gradients import GradientHealth, Windows, longest_sound, model_error
from fittedq.types import Transition


def rewards(values, terminated=(), truncated=()):
    count = len(values)
    obs, steps = np.zeros((count, 1), np.float32), np.arange(count)
    return Transition(
        obs, obs, np.array(values, np.float32), obs, np.isin(steps, terminated), np.isin(steps, truncated)
    )


def test_returns_end_with_their_episodes():
    rows = rewards([1, 2, 4, 8, 16], terminated=(1,), truncated=(3,))
    returns, beyond = discounted_returns(rows, 0.5)
    np.testing.assert_allclose(returns, [2.0, 2.0, 8.0, 8.0, 16.0])
    np.testing.assert_allclose(beyond, [0.0, 0.0, 0.25, 0.5, 0.5])


def test_overestimation_is_what_the_critic_adds():
    count, gamma = 40, 0.8
    rows = rewards(np.ones(count), truncated=(count - 1,))
    true = np.full(count, 1 / (1 - gamma))  # of a reward of 1 without end
    over = overestimation(true + 0.5, rows, gamma)
    # The last 13 returns are cut off with more than a twentieth of their weight to come.
    assert len(over) == count - 13
    assert (over >= 0.5).all() and over[0] == pytest.approx(0.5, abs=1e-3)
    ended = rewards(np.ones(3), terminated=(2,))
    np.testing.assert_allclose(overestimation(np.zeros(3), ended, gamma), [-2.44, -1.8, -1.0])


def test_drift_is_in_half_widths():
    before, after = np.zeros((2, 2)), np.array([[0.3, 4.0], [0.0, -1.0]])
    np.testing.assert_allclose(policy_drift(before, after, Box((-0.3, -1), (0.3, 1))), [np.sqrt(17), 1.0])


@pytest.mark.slow
def test_a_trajectory_is_whole_episodes_in_order():
    agent = fittedq.train("ddpg", "jax/Pendulum-v1", steps=20, random_steps=10, batch_size=8, hidden=(8,))
    for env in ("jax/Pendulum-v1", "Pendulum-v1"):
        rows = agent.trajectory(env, 500)
        assert len(rows.reward) == 600 and rows.truncated.sum() == 3
        within = ~rows.truncated[:-1]
        np.testing.assert_array_equal(rows.next_obs[:-1][within], rows.obs[1:][within])
        np.testing.assert_allclose(rows.action, agent.act(rows.obs), atol=1e-5)
    assert agent.value_range((-1.0, 0.0)) == pytest.approx((-100.0, 0.0))
    returns = agent.evaluate("jax/Pendulum-v1", 3)
    rows = agent.trajectory("jax/Pendulum-v1", 3)
    np.testing.assert_allclose(returns, np.asarray(rows.reward, np.float64).reshape(3, 200).sum(axis=1), rtol=1e-6)


@pytest.mark.parametrize("algorithm", ["sac", pytest.param("svg", marks=pytest.mark.slow)])
def test_inspect_tells_the_health_of_a_run(algorithm, tmp_path, capsys):
    own = {"horizon": "2", "model_hidden": (8,)} if algorithm == "svg" else {}
    out = tmp_path / "run"
    fittedq.train(
        algorithm, "Pendulum-v1", steps=40, out=out, eval_every=20, eval_episodes=1, random_steps=10, batch_size=8,
        hidden=(8,), gamma=0.9, **own,
    )  # fmt: skip
    assert main(["inspect", str(out), "--health", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    figures, judged = found["health"], found["verdict"]
    assert {"residual_median", "overestimation_share", "beyond_rewards_share", "drift_mean"} <= set(judged)
    assert ("model_error" in judged) == ("gradient_growth" in judged) == (algorithm == "svg")
    assert {one["verdict"] for one in judged.values()} <= {"good", "look here"}
    assert {"residual_median", "overestimation_mean", "drift_mean"} <= set(figures)
    assert ("health/model_error_2" in figures) == (algorithm == "svg")
    assert all(np.isfinite(value) for value in figures.values())
    assert main(["inspect", str(out), "--health"]) == 0
    said = capsys.readouterr().out
    assert (
        "good up to" in said
        and "overestimation" in said
        and "policy drift" in said
        and ("horizon   2" in said) == (algorithm == "svg")
    )


def test_no_horizon_is_sound_beyond_one_that_is_not():
    errors, ones = np.array([0.1, 0.3, 0.2, 0.1]), np.ones(4)
    health = GradientHealth((0, 1, 2, 4), np.array([1.0, 1.0, 3.0, 1.0]), ones)
    steady = GradientHealth(health.horizons, ones, ones)
    for found, error, growth, expected in (
        (steady, 0.3, 1, 4), (steady, 0.2, 1, 1), (steady, 0.05, 1, 0), (health, 1, 3, 4), (health, 1, 2.9, 1),
    ):  # fmt: skip
        assert longest_sound(errors, found, error, growth) == expected


def test_a_models_error_is_in_deviations_of_each_coordinate():
    """States swing between ±σ, and the model says that they stay: off by 2σ after a step, right after two."""
    swing = np.array([[[-1], [1], [-1]], [[1], [-1], [1]]], np.float32)
    seen = Windows(swing * np.array([1, 1000], np.float32), np.zeros((2, 2, 1), np.float32))
    still = KnownModel(lambda state, action, noise: (state, 0.0, False))
    np.testing.assert_allclose(model_error(still, seen), [2, 0], rtol=1e-5)
