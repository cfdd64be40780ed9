"""Rows drawn by their errors, against the distributions that the papers define."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fittedq
from fittedq.algorithms import TD3, XQC
from fittedq.data.dataset import Dataset
from fittedq.data.priorities import PRIORITY_RULES, Priorities, PriorityRule, SumTree
from fittedq.errors import UserError
from fittedq.settings import as_json
from fittedq.template.losses import ERRORS, Huber, Regress, RegressReturns
from fittedq.template.rates import Linear
from fittedq.template.targets import Labelled
from fittedq.trainers.settings import TrainSettings, in_a_run
from fittedq.types import Components
from methods import made

PER, LAP = PRIORITY_RULES["prioritized"], PRIORITY_RULES["lap"]
assert PER is not None and LAP is not None


@settings(max_examples=60, deadline=None)
@given(numbers=st.lists(st.integers(0, 5), min_size=1, max_size=20).filter(any))
def test_every_number_is_found_by_the_mass_that_it_has(numbers: list[int]) -> None:
    tree = SumTree(len(numbers))
    tree.set(np.arange(len(numbers)), 1.0)
    tree.set(np.arange(len(numbers)), np.array(numbers, float))
    assert tree.total == sum(numbers)
    mass = np.arange(sum(numbers) * 4) / 4
    assert tree.find(mass).tolist() == np.searchsorted(np.cumsum(numbers), mass, side="right").tolist()


def test_what_has_no_mass_is_not_found_at_the_end_of_all_either() -> None:
    tree = SumTree(5)
    tree.set(np.array([0, 2]), np.array([0.1, 0.2]))
    assert tree.find(np.array([tree.total, np.nextafter(tree.total, 0), 1.0])).tolist() == [2, 2, 2]


def test_a_tree_is_the_same_whatever_came_before() -> None:
    rng, one, other = np.random.default_rng(0), SumTree(100), SumTree(100)
    for _ in range(50):
        one.set(rng.integers(0, 100, 7), rng.random(7))
    other.set(np.arange(100), one[np.arange(100)])
    assert np.array_equal(one._sums, other._sums)


@pytest.mark.parametrize("rule", [PER, LAP], ids=["prioritized", "lap"])
def test_rows_are_drawn_as_a_plain_loop_says(rule: PriorityRule) -> None:
    """A ring of 7 rows that wraps, errors that come late: probabilities, weights and what new rows get, one by one."""
    rng, capacity, beta = np.random.default_rng(0), 7, 0.5
    ring, errors, greatest = Priorities(capacity, rule), {}, 1.0
    before = np.empty((0, 2), int)
    for added in (2, 5, 6, 9, 15, 16, 22, 23, 29, 30, 36, 37):
        ring.grow(added)
        errors |= {number: greatest for number in range(added) if number not in errors}
        held = range(max(0, added - capacity), added)
        p = np.array([errors[number] for number in held])
        drawn, weight = ring.draw(np.random.default_rng(added), (2, 2), beta)
        mass = np.random.default_rng(added).random((2, 2)) * p.sum()
        # Rows lie by their number mod capacity, and masses follow that order.
        order = np.argsort([number % capacity for number in held])
        expected = np.array(held)[order][np.searchsorted(np.cumsum(p[order]), mass, side="right")]
        assert np.array_equal(drawn, expected)
        chance = np.array([[errors[number] for number in row] for row in drawn]) / p.sum()
        by_hand = (len(p) * chance) ** -beta if rule.weighted else np.ones((2, 2))
        np.testing.assert_allclose(weight, by_hand / by_hand.max(axis=1, keepdims=True), rtol=1e-5)
        for numbers in (before, drawn):
            found = rng.exponential(size=numbers.shape).astype(np.float32) * 3
            ring.learn(numbers.ravel(), found.ravel())
            for number, error in zip(numbers.ravel(), found.ravel(), strict=True):
                if number >= added - capacity:
                    errors[number] = float(np.float32(max(error + rule.offset, rule.least)) ** rule.exponent)
                    greatest = max(greatest, errors[number])
        before = drawn


def test_what_was_saved_draws_the_same() -> None:
    one = Priorities(8, PER, exponent=0.9)
    one.grow(11)
    one.learn(np.arange(4, 11), np.arange(7, dtype=np.float32))
    other = Priorities(8, PER, exponent=0.9)
    other.restore(11, one.saved())
    for ring in (one, other):
        ring.grow(12)
    drawn = [ring.draw(np.random.default_rng(0), (1, 50), 0.4) for ring in (one, other)]
    assert np.array_equal(drawn[0][0], drawn[1][0]) and np.array_equal(drawn[0][1], drawn[1][1])


@settings(max_examples=40, deadline=None)
@given(error=st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=6), exponent=st.sampled_from([0.4, 1.0]))
def test_laps_gradient_is_that_of_the_loss_it_stands_for(error: list[float], exponent: float) -> None:
    """Fujimoto et al. 2020, theorem 3: E_p[Huber'(δ)] is, times λ = mean max(|δ|, 1)^α, the mean of sign(δ) |δ|^α
    beyond 1 and of δ below."""
    delta = np.array(error)
    ring = Priorities(len(delta), LAP, exponent)
    ring.grow(len(delta))
    ring.learn(np.arange(len(delta)), delta.astype(np.float32))
    p = ring._tree[np.arange(len(delta))]
    slope = np.asarray(jax.vmap(jax.grad(lambda x: Huber()(x)))(jnp.asarray(delta, jnp.float32)))
    stands_for = np.where(np.abs(delta) <= 1, delta, np.sign(delta) * np.abs(delta) ** exponent)
    np.testing.assert_allclose(np.sum(p * slope) / len(delta), stands_for.mean(), rtol=1e-4, atol=1e-5)


class Constant:
    """f_j(x) = c_j for each of two critics."""

    def __call__(self, obs: Any, action: Any, key: Any) -> Any:
        return jnp.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])


def test_rows_count_by_their_weight_and_tell_their_largest_error() -> None:
    data = Labelled((jnp.zeros((3, 1)),) * 2, jnp.array([0.0, 1.0, 4.0]), importance=jnp.array([1.0, 0.5, 0.0]))
    target: Any = TD3().template(fittedq.Box((-1.0,), (1.0,))).updates[0].target
    loss, metrics = Regress(target)(Constant(), Components(), data, jax.random.key(0))
    assert float(loss) == pytest.approx((1 * 1 + 0.5 * 0 + 0) / 3 + (4 + 0.5 * 1 + 0) / 3)
    assert metrics[ERRORS].tolist() == [2.0, 1.0, 3.0]


def test_a_distributions_rows_count_too() -> None:
    xqc = XQC(hidden=(4,), bins=5, normalization="layer")
    nets = made(xqc, 1, fittedq.Box((-1.0,), (1.0,)), jax.random.key(0))
    critic: Any = nets.critic
    inputs, y = (jnp.ones((2, 1)) * jnp.array([[1.0], [2.0]]),) * 2, jnp.array([[1.0], [-2.0]])
    target: Any = XQC().template(fittedq.Box((-1.0,), (1.0,))).updates[0].target
    data = [
        Labelled(inputs, y, jnp.ones((2, 1)), importance=None if weight is None else jnp.array(weight))
        for weight in (None, [1.0, 1.0], [2.0, 0.0], [0.0, 2.0])
    ]
    losses, metrics = zip(*(RegressReturns(target)(critic, nets, one, jax.random.key(0)) for one in data), strict=True)
    assert float(losses[0]) == float(losses[1])
    assert float(losses[2] + losses[3]) == pytest.approx(2 * float(losses[0]), rel=1e-6)
    assert ERRORS not in metrics[0]
    expected = np.abs(np.asarray(critic(*inputs)) - np.array([1.0, -2.0])).max(axis=0)
    np.testing.assert_allclose(metrics[1][ERRORS], expected, rtol=1e-6)


SMALL: dict[str, Any] = {"hidden": (4,), "batch_size": 4}
LOOP: dict[str, Any] = SMALL | {"random_steps": 5, "replay_size": 15}


def same(one: fittedq.Agent, other: fittedq.Agent) -> bool:
    leaves = (jax.tree.leaves(agent.nets) for agent in (one, other))
    return all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


@pytest.mark.parametrize(
    "more",
    [
        {"replay": "prioritized"},
        pytest.param({"replay": "lap", "n_step": 2, "updates_per_step": 3.0}, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_bit_for_bit(more: dict[str, Any], tmp_path: Path) -> None:
    """Stopped between td3's delayed updates, while a batch waits, after the ring has wrapped."""
    whole = fittedq.train("td3", "Pendulum-v1", steps=26, **LOOP | more)
    for _ in fittedq.stream("td3", "Pendulum-v1", steps=26, report_every=19, out=tmp_path / "run", **LOOP | more):
        break
    assert same(fittedq.resume(tmp_path / "run"), whole)
    for name, value in {"replay": "uniform", "priority_exponent": 1.0}.items():
        with pytest.raises(UserError, match=f"keeps its {name}"):
            fittedq.resume(tmp_path / "run", steps=30, set={name: value})


def test_a_dataset_is_drawn_from_by_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(40, 2)), rng.uniform(-1, 1, (40, 1))
    data = Dataset.from_arrays(
        obs=obs,
        action=action,
        reward=obs[:, 0],
        next_obs=obs,
        terminated=obs[:, 0] > 0,
        action_low=-1.0,
        action_high=1.0,
    )
    data.save(tmp_path / "data")
    options = SMALL | {"replay": "prioritized", "report_every": 3}
    reports = [report.agent for report in fittedq.stream("td3", data=tmp_path / "data", steps=6, **options)]
    for _ in fittedq.stream("td3", data=tmp_path / "data", steps=6, out=tmp_path / "run", **options):
        break
    assert same(fittedq.resume(tmp_path / "run"), reports[-1])


def test_what_would_be_without_effect_or_cannot_be_is_a_sentence() -> None:
    lap = {"replay": "lap"}
    with pytest.raises(UserError, match="setting replay: found 'laps'; did you mean 'lap'"):
        TrainSettings(replay="laps")
    with pytest.raises(UserError, match="setting priority_exponent: replay is uniform"):
        TrainSettings(priority_exponent=0.5)
    with pytest.raises(UserError, match="setting importance_exponent: replay lap weighs no errors"):
        TrainSettings(replay="lap", importance_exponent=0.5)
    with pytest.raises(UserError, match="lap takes squared errors, and the critic's loss is RegressReturns"):
        fittedq.train("xqc", "Pendulum-v1", steps=1, replay_size=9, **SMALL | lap)
    with pytest.raises(UserError, match="setting replay: found lap, expected uniform for a JAX environment"):
        fittedq.train("td3", "jax/Pendulum-v1", steps=1, **SMALL | lap)


def test_beta_grows_over_the_run() -> None:
    asked = TrainSettings(replay="prioritized")
    assert in_a_run(asked, 10).importance_exponent == Linear(0.4, 1.0, 10)
    assert [in_a_run(asked, 10).beta(count) for count in (0, 5, 10, 99)] == pytest.approx([0.4, 0.7, 1.0, 1.0])
    assert TrainSettings(replay="prioritized", importance_exponent=Linear(0.5, 1.0)).beta(3) == 0.5
    assert as_json(in_a_run(TrainSettings(), 10)) == as_json(TrainSettings())
