"""Each margin of the certified search, against exact arithmetic: without it some bound here is false."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fittedq.actions.base import Box
from fittedq.diagnose.gap import Gap
from fittedq.maximize.base import Status
from fittedq.maximize.proofs.bounds import FoldedNetwork, members_of
from fittedq.maximize.proofs.certified import certified
from fittedq.maximize.proofs.relax import RELAXATIONS, Smooth

Layers = list[tuple[np.ndarray, np.ndarray]]
UNIT = Box([-1.0], [1.0])


def exact(layers: Layers, obs: np.ndarray, action: np.ndarray) -> Fraction:
    """A ReLU network in rational arithmetic."""
    h = [Fraction(float(x)) for x in (*obs, *action)]
    for number, (weight, bias) in enumerate(layers):
        z = [
            sum((x * Fraction(float(w)) for x, w in zip(h, column, strict=True)), Fraction(float(b)))
            for column, b in zip(weight.T, bias, strict=True)
        ]
        h = z if number == len(layers) - 1 else [max(x, Fraction(0)) for x in z]
    return h[0]


def maxima(layers: Layers, obs: np.ndarray) -> np.ndarray:
    """max over −1 ≤ a ≤ 1 of networks with one hidden layer: q is linear between the kinks of its neurons."""
    (first, bias), (last, constant) = layers
    best = []
    for state in obs:
        at_zero = state @ first[: len(state)] + bias
        slope = first[len(state)]
        kinks = -at_zero[slope != 0] / slope[slope != 0]
        points = np.concatenate([[-1.0, 1.0], kinks[np.abs(kinks) < 1]])
        best.append((np.maximum(at_zero + points[:, None] * slope, 0) @ last + constant).max())
    return np.array(best)


def hills(seed: int, width: int) -> Layers:
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(3, width)), rng.normal(size=width)),
        (rng.normal(size=(width, 1)), rng.normal(size=1)),
    ]


def test_states_that_wait_at_the_time_limit_are_bounded_too():
    """Far more states than are searched at once: those never begun keep the bound of their whole box."""
    layers, obs = hills(0, 12), np.random.default_rng(1).normal(size=(400, 2))
    truth = maxima(layers, obs)
    stopped = certified(layers, obs, UNIT, tol=1e-6, time_limit=0.0)
    assert (stopped.upper_bound >= truth).all()
    proven = stopped.status == Status.OPTIMAL
    assert (stopped.upper_bound - stopped.value <= 2e-6 * np.maximum(1, np.abs(truth)))[proven].all()
    assert (stopped.status == Status.TIME_LIMIT).sum() > 100


def twins(rng: np.random.Generator, pairs: int, size: float) -> Layers:
    """Σ_i c_i (relu(w_i · x + b_i) − relu(w_i · x + b_i)): 0 in real arithmetic, not as single precision adds it."""
    first = rng.normal(size=(2, pairs)).astype(np.float32)
    bias = rng.uniform(1, 2, pairs).astype(np.float32)
    last = (size * rng.uniform(0.5, 1, (pairs, 1))).astype(np.float32)
    return [
        (np.concatenate([first, first], axis=1), np.concatenate([bias, bias])),
        (np.concatenate([last, -last]), np.zeros(1, np.float32)),
    ]


def in_single(layers: Layers, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """The network in single precision, every sum from its first term to its last: the same on every processor."""
    h = np.concatenate([np.repeat(obs[None], len(action), 0), action], axis=1)
    for number, (weight, bias) in enumerate(layers):
        total = np.repeat(bias[None], len(h), 0)
        for row, column in zip(weight, h.T, strict=True):
            total = total + column[:, None] * row
        h = total if number == len(layers) - 1 else np.maximum(total, 0)
    return h[:, 0]


def test_the_rounding_of_the_critic_itself_is_inside_its_bound():
    rng = np.random.default_rng(0)
    beyond = 0
    for _ in range(12):
        layers, obs = twins(rng, 8, 1e5), rng.normal(size=(1, 1)).astype(np.float32)
        solution = certified(layers, obs, UNIT, tol=1e-3, time_limit=2.0)
        single = in_single(layers, obs[0], rng.uniform(-1, 1, (3000, 1)).astype(np.float32)).max()
        assert single <= solution.upper_bound[0]
        assert solution.status[0] == Status.ROUNDED
        assert solution.upper_bound[0] - solution.value[0] > 2e-3
        beyond += single > solution.value[0] + 2e-3
    # The bound in real arithmetic, a thousandth above the value, would be false.
    assert beyond == 12


def test_the_same_critic_in_double_precision_is_optimal():
    rng = np.random.default_rng(0)
    layers = [(weight.astype(float), bias.astype(float)) for weight, bias in twins(rng, 8, 1e5)]
    solution = certified(layers, np.zeros((1, 1)), UNIT, tol=1e-3)
    assert solution.status[0] == Status.OPTIMAL
    assert -1e-3 <= solution.value[0] <= 0 <= solution.upper_bound[0] <= 2e-3


@pytest.mark.parametrize("depth", [1, 2])
def test_the_rounding_of_the_bound_is_inside_it(depth):
    """On boxes that are points the linear bound is q, and only the margins stand between it and a false one."""
    rng = np.random.default_rng(depth)
    false, width = 0, 12
    for _ in range(6):
        # All neurons are on, so no line is above its neuron: there is no slack but the margin.
        layers = [(rng.normal(size=(2, width)), rng.uniform(5, 6, width))]
        for _ in range(depth - 1):
            layers.append((rng.uniform(0, 1, (width, width)), np.ones(width)))
        half = 1e12 * rng.uniform(0.5, 1, (width // 2, 1))
        layers.append((np.concatenate([half, -half]), np.zeros(1)))
        obs = rng.normal(size=(1, 1))
        (folded,) = (
            FoldedNetwork(part, obs, -np.ones((1, 1)), np.ones((1, 1))) for part in members_of(layers, 1, 1, "relu")
        )
        points = rng.uniform(-1, 1, (20, 1))
        upper = folded.upper(np.zeros(20, int), points, np.zeros((20, 1)))
        plain = folded.values(np.zeros(20, int), points)[0]
        for point, bound, value in zip(points, upper.bound, plain, strict=True):
            truth = exact(layers, obs[0], point)
            assert truth <= Fraction(float(bound))
            false += truth > Fraction(float(value))
    # Half of the values in double precision are below the truth: without a margin half of the bounds would be false.
    assert 30 <= false <= 90


def test_the_value_is_rounded_down():
    rng = np.random.default_rng(3)
    for _ in range(12):
        layers = [(weight.astype(float), bias.astype(float)) for weight, bias in twins(rng, 8, 1e13)]
        layers[1][0][:8] *= 1 + 1e-9
        obs = rng.normal(size=(1, 1))
        solution = certified(layers, obs, UNIT, tol=1e-3, time_limit=0.0)
        truth = exact(layers, obs[0], solution.action[0])
        assert Fraction(float(solution.value[0])) <= truth <= Fraction(float(solution.upper_bound[0]))


@pytest.mark.parametrize("activation", [name for name, kind in RELAXATIONS.items() if isinstance(kind, Smooth)])
def test_constants_of_smooth_activations_bound_their_slopes_and_bends(activation):
    """Difference quotients are never above sup |f'| and sup |f''|; the constants are, and hardly more."""
    smooth, step = RELAXATIONS[activation], 1e-3
    z = np.arange(-12, 12, step)
    f = smooth.value(z)
    slope, bend = np.abs(np.diff(f)).max() / step, np.abs(np.diff(f, 2)).max() / step**2
    assert slope <= smooth.lipschitz + 1e-9 and smooth.lipschitz <= slope + 2e-3
    assert bend <= smooth.curvature + 1e-6 and smooth.curvature <= bend + 2e-3
    place, least = smooth.lowest
    if np.isfinite(place):
        assert f.min() == pytest.approx(least, abs=1e-7) and smooth.value(np.array(place)) == pytest.approx(least)
        assert (f >= least).all()
    else:
        assert (np.diff(f) >= 0).all()


def test_the_interval_of_a_gap_begins_at_nought_where_rounding_says_less():
    """Values are rounded down: the best one known may be a little below the policy's own."""
    column = np.zeros((2, 1))
    value, best, bound = np.array([1.0, 1.0]), np.array([1 - 1e-7, 1.5]), np.array([1 - 1e-8, 2.0])
    nought, status = np.zeros(2), np.full(2, Status.OPTIMAL)
    gap = Gap(column, column, value, column, best, bound, np.ones(2), nought, status, nought)
    np.testing.assert_array_equal(gap.lower, [0, 0.5])
    np.testing.assert_array_equal(gap.upper, [0, 1])
