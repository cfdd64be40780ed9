"""The amortization gap against critics whose maximum is known, `fittedq inspect`, and refined actions."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fittedq
from fittedq import Box, Mixed, Polytope, UserError
from fittedq.actions.base import AbstractActionSet
from fittedq.approx.linear import LinearCritic, Polynomial
from fittedq.approx.networks import DeterministicPolicy, QNetwork
from fittedq.cli.main import main
from fittedq.diagnose.gap import Gap, amortization_gap, gap_figures
from fittedq.maximize.local.refine import refined
from fittedq.maximize.proofs.proven import CertifiedArgmax
from fittedq.template.greedy import Solved
from fittedq.types import Components
from methods import built

BOX = Box([-1.0, -2.0], [1.0, 2.0])
PEAK = np.array([0.3, -0.5], np.float32)


def tent(action_set: AbstractActionSet = BOX) -> QNetwork:
    """q = −|u_0 − .3| − |u_1 + .25|, u the action in half-widths, written as a network of four ReLUs."""
    critic = built(QNetwork, 3, action_set, (4,), jax.random.key(0))
    first, second = np.zeros((1, 5, 4), np.float32), np.full((1, 4, 1), -1.0, np.float32)
    first[0, 3, :2], first[0, 4, 2:] = (1, -1), (1, -1)
    bias = np.array([-0.3, 0.3, 0.25, -0.25], np.float32)
    leaves = ((first, second), (bias.reshape(1, 1, 4), np.zeros((1, 1, 1), np.float32)))
    return eqx.tree_at(lambda c: (c.net.weights, c.net.biases), critic, leaves)


def states(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)


def test_the_gap_of_a_known_critic_is_what_it_is():
    obs = states(3)
    action = PEAK + np.array([[0, 0], [0.2, 0], [0, 1]], np.float32)
    gap = amortization_gap(tent(), obs, action, BOX, tol=1e-4)
    truth = np.array([0.0, 0.2, 0.5])
    assert (gap.lower <= truth + 1e-6).all()
    assert (truth <= gap.upper + 1e-6).all()
    np.testing.assert_allclose(gap.lower, truth, atol=1e-3)
    np.testing.assert_allclose(gap.upper, truth, atol=1e-3)
    # The farthest corner is 1.3 + 1.25 below the peak.
    np.testing.assert_allclose(gap.scale, 2.55, atol=1e-2)
    figures = gap.summary(within=0.05)
    assert (figures["policy_good"], figures["actor_fails"], figures["undecided"]) == pytest.approx((1 / 3, 2 / 3, 0))
    assert gap.worst(1) == [2]
    assert figures["upper_worst"] == pytest.approx(0.5, abs=1e-3)


def test_a_soft_policy_may_give_up_twice_what_entropy_costs_at_a_quadratic():
    """Gaps of 0, .2 and .5; two actions at β = .11 allow .22, in any unit."""
    action = PEAK + np.array([[0, 0], [0.2, 0], [0, 1]], np.float32)
    gap = amortization_gap(tent(), states(3), action, BOX, tol=1e-4, temperature=0.11)
    for unit in (1.0, 100.0):
        figures = gap.times(unit).summary(within=0.05)
        assert (figures["policy_good"], figures["actor_fails"]) == pytest.approx((2 / 3, 1 / 3))
        assert figures["softness"] == pytest.approx(0.22 * unit)
    draws = np.random.default_rng(0).normal(size=(100_000, 2)) * np.sqrt(0.11 / 2)
    assert 2 * np.mean((draws**2).sum(axis=1)) == pytest.approx(0.22, rel=0.02)  # exp(q/β) of q = −‖a‖²


def test_the_gap_respects_the_action_set():
    """With a_0 + a_1 ≤ −1 the peak is cut off: at a = (.3, −1.3) q = −.4, the best that is left."""
    polytope = Polytope(BOX.low, BOX.high, [[1, 1]], [-1])
    obs, action = states(1), np.array([[0.0, -1.0]], np.float32)
    gap = amortization_gap(tent(polytope), obs, action, polytope, tol=1e-3)
    np.testing.assert_allclose(gap.policy_value, -0.55, atol=1e-6)
    np.testing.assert_allclose(gap.best_value, -0.4, atol=1e-2)
    assert gap.lower[0] <= 0.15 + 1e-6
    assert gap.upper[0] >= 0.15 - 1e-6


def test_quadratics_have_exact_gaps_and_other_critics_are_refused():
    weights = jnp.asarray([[0, 0, 0, 0, 0, -1.0]], jnp.float32)
    critic = LinearCritic(Polynomial(2), weights, Box([-1.0], [1.0]))
    gap = amortization_gap(critic, states(2)[:, :1], np.full((2, 1), 0.5, np.float32), Box([-1.0], [1.0]))
    np.testing.assert_allclose(gap.lower, 0.25, atol=1e-5)
    np.testing.assert_allclose(gap.upper, 0.25, atol=1e-5)
    cubic = LinearCritic.start(Polynomial(3), 1, Box([-1.0], [1.0]))
    with pytest.raises(UserError, match="can be bounded"):
        amortization_gap(cubic, states(2)[:, :1], np.zeros((2, 1), np.float32), Box([-1.0], [1.0]))


# ---------------------------------------------------------------------- acting


def test_refining_climbs_to_the_peak_within_its_trust_region():
    critic, obs = tent(), states(8)
    start = np.random.default_rng(1).uniform(BOX.low, BOX.high, (8, 2)).astype(np.float32)
    half_width = np.asarray(BOX.half_width)
    free = refined(critic, obs, start, BOX, steps=60, trust=2.0)
    np.testing.assert_allclose(critic.least(obs, jnp.asarray(free)), 0, atol=0.05)
    near = refined(critic, obs, start, BOX, steps=60, trust=0.1)
    assert (np.abs(near - start) <= 0.1 * half_width * (1 + 1e-4)).all()
    gained = np.asarray(critic.least(obs, jnp.asarray(near)) - critic.least(obs, jnp.asarray(start)))
    assert (gained >= 0).all()
    far = (np.abs(start - PEAK) > 0.1 * half_width).all(axis=1)
    assert far.any()
    assert (gained[far] > 0.15).all()


@pytest.mark.parametrize("action_set", [Polytope(BOX.low, BOX.high, [[1, 1]], [-1]), Mixed(BOX, [1])])
def test_refining_never_leaves_the_action_set_and_never_loses(action_set):
    critic, obs = tent(action_set), states(40)
    start = np.random.default_rng(1).uniform(BOX.low, BOX.high, (40, 2)).astype(np.float32)
    start = np.asarray(action_set.project(start, obs))
    for trust in (0.05, 0.6):
        end = refined(critic, obs, start, action_set, steps=15, trust=trust)
        assert action_set.contains(end, obs).all()
        assert (np.abs(end - start) <= trust * np.asarray(BOX.half_width) * (1 + 1e-4)).all()
        assert (critic.least(obs, jnp.asarray(end)) >= critic.least(obs, jnp.asarray(start))).all()


def test_a_deadline_ends_refining():
    critic, obs, start = tent(), states(1), np.zeros((1, 2), np.float32)
    refined(critic, obs, start, BOX, steps=1)
    begin = time.perf_counter()
    refined(critic, obs, start, BOX, steps=100_000, deadline=0.05)
    assert time.perf_counter() - begin < 1.0
    np.testing.assert_array_equal(refined(critic, obs, start, BOX, steps=5, deadline=0.0), start)
    with pytest.raises(UserError, match="between 1 and"):
        refined(critic, obs, start, BOX, steps=0)


# ---------------------------------------------------------------------- agents and the command


SHORT: dict[str, Any] = {"steps": 80, "hidden": (8,), "batch_size": 8, "random_steps": 40}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gap") / "run"
    fittedq.train("td3", "Pendulum-v1", out=folder, **SHORT)
    return folder


def test_an_agents_gap_is_that_of_its_value(run):
    agent = fittedq.load(run)
    obs = states(5)
    gap = agent.gap(obs, tol=1e-3)
    np.testing.assert_allclose(gap.policy_value, agent.value(obs, agent.act(obs)), atol=1e-5)
    dense = np.linspace(-2, 2, 2001, dtype=np.float32)[:, None]
    for row in range(5):
        values = agent.value(np.repeat(obs[row : row + 1], 2001, axis=0), dense)
        assert gap.upper_bound[row] >= values.max()
        assert gap.best_value[row] >= values.max() - 2e-3 * gap.scale[row] - 1e-6
    better = agent.act(obs, refine=20, trust=2.0)
    assert (agent.value(obs, better) >= gap.policy_value - 1e-6).all()
    halves = Gap.joined([agent.gap(obs[:2], tol=1e-3), agent.gap(obs[2:], tol=1e-3)])
    np.testing.assert_allclose(halves.lower, gap.lower, atol=2e-3 * gap.scale.max())


def test_inspect_says_what_a_run_is_and_measures_its_gap(run, tmp_path, capsys):
    assert main(["inspect", str(run), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["algorithm"], about["env"], about["step"], about["obs_size"]) == ("td3", "Pendulum-v1", 80, 3)
    command = ["inspect", str(run), "--gap", "--states", "12", "--pictures", str(tmp_path / "pictures"), "--worst", "2"]
    assert main([*command, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["gap"]["states"] == 12
    assert 0 <= figures["gap"]["lower_median"] <= figures["gap"]["upper_median"]
    shares = [figures["gap"][name] for name in ("policy_good", "actor_fails", "undecided")]
    assert sum(shares) == pytest.approx(1)
    assert figures["verdict"]["actor_fails"]["value"] == figures["gap"]["actor_fails"]
    assert len(figures["worst"]) == 2
    assert figures["worst"][0]["upper"] >= figures["worst"][0]["lower"] >= 0
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["worst-1.png", "worst-2.png"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "of the range of q" in told and "good up to 0.05" in told
    assert "action_set  kind box; low -2; high 2\n" in told and "{" not in told
    assert main(["eval", str(run), "--episodes", "1", "--refine", "2"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gap", "--states", "0"], "--states: found 0"),
        (["--gap", "--env", "Hopper-v9"], "unknown"),
        (["--gap", "--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_to_inspect_is_one_sentence(run, arguments, message, capsys):
    assert main(["inspect", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_gap_in_training_is_a_metric_that_changes_nothing(run, tmp_path):
    plain = fittedq.load(run / "last")
    looked = fittedq.train("td3", "Pendulum-v1", out=tmp_path / "run", gap_every=20, **SHORT)
    for one, other in zip(jax.tree.leaves(plain.nets), jax.tree.leaves(looked.nets), strict=True):
        np.testing.assert_array_equal(one, other)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [20, 40, 60, 80]
    assert all(record["gap/lower_p95"] >= record["gap/lower_median"] >= -1e-6 for record in records)
    rng = np.random.default_rng(0)
    data = fittedq.Dataset.from_arrays(
        obs=rng.normal(size=(64, 1)),
        action=rng.uniform(-1, 1, (64, 1)),
        reward=np.zeros(64),
        next_obs=rng.normal(size=(64, 1)),
        terminated=np.zeros(64, bool),
        action_low=-1,
        action_high=1,
    )
    with pytest.raises(UserError, match="gap_every"):
        fittedq.fit("explicit_fqi", data, steps=1, gap_every=1)


def test_a_local_gap_is_below_the_certified_one():
    policy = built(DeterministicPolicy, 3, BOX, (4,), jax.random.key(1))
    obs = states(16)
    figures = gap_figures(Components(critic=tent(), policy=policy), obs)
    action = np.asarray(policy.act(jnp.asarray(obs), jnp.zeros((16, 2))))
    gap = amortization_gap(tent(), obs, action, BOX, tol=1e-3)
    assert figures["gap/lower_median"] <= np.median(gap.upper) + 1e-5
    assert figures["gap/lower_median"] >= np.median(gap.lower) - 0.05
    twice = gap_figures(Components(critic=tent(), policy=policy), obs, 2.0)
    assert twice["gap/lower_p95"] == pytest.approx(2 * figures["gap/lower_p95"], rel=1e-6)


@pytest.mark.slow
def test_the_proven_maximizer_of_the_fitted_methods_is_never_below_its_starts():
    critic, obs = tent(), states(6)
    starts = np.random.default_rng(2).uniform(BOX.low, BOX.high, (6, 2, 2)).astype(np.float32)
    greedy = Solved(CertifiedArgmax(tol=1e-3), 0)
    solution = greedy.chosen(critic)(critic, obs, critic.action_set, starts)
    at_starts = np.stack([critic(obs, starts[:, k])[0] for k in range(2)])
    assert (solution.value >= at_starts.max(axis=0)).all()
    assert (solution.upper_bound >= -1e-9).all()
    np.testing.assert_allclose(solution.value, 0, atol=2e-3)
    assert greedy.chosen(critic).on_host
    data = {"obs": obs, "action": starts[:, 0], "reward": obs[:, 0], "next_obs": obs, "terminated": np.zeros(6, bool)}
    dataset = fittedq.Dataset.from_arrays(**data, action_low=BOX.low, action_high=BOX.high)
    agent = fittedq.fit("amortized_fqi", dataset, steps=2, maximizer="certified", hidden=(8,), minibatch=6)
    assert agent.action_set.contains(agent.act(obs), obs).all()
    with pytest.raises(UserError, match="certified bounds networks"):
        fittedq.fit("explicit_fqi", dataset, steps=1, maximizer="certified", approximator="polynomial")
