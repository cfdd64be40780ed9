"""Normalized and distributional critics under the certified search: folded exactly, bounded soundly."""

from __future__ import annotations

import equinox as eqx
import jax
import numpy as np
import pytest

from fittedq.actions.base import Box
from fittedq.approx.batch_norm import EPSILON, BatchNormMlp
from fittedq.approx.dense import dense
from fittedq.approx.heads import AbstractHead, Categorical, OneValue, Quantiles
from fittedq.approx.networks import Mlp, QNetwork
from fittedq.approx.residual import ResidualMlp
from fittedq.diagnose.gap import amortization_gap
from fittedq.errors import UserError
from fittedq.maximize.base import Effort, Status, refuse_misfit
from fittedq.maximize.choose import proven
from fittedq.maximize.exact.milp import MilpArgmax, milp
from fittedq.maximize.proofs.bounds import FoldedNetwork, members_of
from fittedq.maximize.proofs.certified import certified
from fittedq.maximize.proofs.readings import Outputs, SoftmaxMean, greatest_mean
from methods import built

OBS, STATES, LOW, HIGH = 2, 6, -1.0, 2.0
HEADS = [OneValue(), Quantiles(5), Categorical(-3, 5, 21)]


def critic_of(head: AbstractHead, seed: int = 0, m: int = 1, make=BatchNormMlp, far: float = 1.0) -> QNetwork:
    """Two critics with statistics, gains and shifts of no pattern, in NumPy; means of about `far`."""
    rng = np.random.default_rng(seed)
    box = Box([LOW] * m, [HIGH] * m)
    critic = built(QNetwork, OBS, box, (10, 10), jax.random.key(seed), n_critics=2, make=make, head=head)

    def noisy(leaf: np.ndarray) -> np.ndarray:
        return (np.asarray(leaf) + 0.4 * rng.normal(size=leaf.shape)).astype(np.float32)

    critic = jax.tree.map(noisy, critic)
    if make is BatchNormMlp:
        running = critic.net.statistics
        moments = (
            tuple(far * mean for mean in running.mean),
            tuple(np.exp(variance).astype(np.float32) for variance in running.variance),
        )
        critic = eqx.tree_at(lambda c: (c.net.statistics.mean, c.net.statistics.variance), critic, moments)
    return eqx.tree_at(lambda c: c.action_set, critic, box)


def in_float64(critic: QNetwork) -> QNetwork:
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), critic)


def make_obs(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(STATES, OBS)).astype(np.float32)


def folded(critic: QNetwork, obs: np.ndarray) -> list[FoldedNetwork]:
    m = critic.action_set.size
    low, high = np.full((len(obs), m), LOW), np.full((len(obs), m), HIGH)
    return [FoldedNetwork(member, obs.astype(float), low, high) for member in members_of(critic, OBS, m, "")]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_the_folded_network_is_the_critic(head):
    """Values to double precision's rounding, and slopes by differences."""
    critic, obs, rng = critic_of(head, m=2), make_obs(), np.random.default_rng(1)
    state, action = rng.integers(0, STATES, 200), rng.uniform(LOW, HIGH, (200, 2))
    double = in_float64(critic)
    truth = double(obs[state].astype(float), action)
    for member, (net, expected) in enumerate(zip(folded(critic, obs), truth, strict=True)):
        value, gradient = net.values(state, action, gradient=True)
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)
        assert (net.own < 1e-8).all()
        for axis in range(2):
            step = 1e-7 * np.eye(2)[axis]
            ends = [double(obs[state].astype(float), action + sign * step)[member] for sign in (1, -1)]
            # Next to a kink differences are no slope.
            near = np.abs((ends[0] - ends[1]) / 2e-7 - gradient[:, axis]) < 1e-5 * (1 + np.abs(gradient).max())
            assert near.mean() > 0.98
    for layer in dense(jax.tree.map(lambda leaf: np.asarray(leaf[0], float), critic.net)).layers:
        # What the critic itself adds up is no less than what is left of it.
        assert (layer.terms.weight >= np.abs(layer.weight)).all() and (layer.terms.bias >= np.abs(layer.bias)).all()


@pytest.mark.parametrize("make", [BatchNormMlp, Mlp])
@pytest.mark.parametrize("head", HEADS[1:], ids=lambda head: type(head).__name__)
def test_linear_bounds_are_nowhere_below_the_critic(head, make):
    unsound = tightest = 0
    for seed in range(4):
        rng, m, boxes = np.random.default_rng(seed), 1 + seed % 3, 150
        critic, obs = critic_of(head, seed, m, make), make_obs(seed)
        state = rng.integers(0, STATES, boxes)
        radius = 1.5 * np.exp(-rng.exponential(2, (boxes, 1))) * rng.uniform(0, 1, (boxes, m)) ** 2
        center = np.clip(rng.uniform(LOW, HIGH, (boxes, m)), LOW + radius, HIGH - radius)
        for member, net in enumerate(folded(critic, obs)):
            upper = net.upper(state, center, radius)
            epsilon = rng.uniform(-1, 1, (24, boxes, m))
            epsilon[:8] = np.sign(epsilon[:8])
            epsilon[0] = np.sign(upper.slope)
            rows = np.broadcast_to(obs[state].astype(float), (24, boxes, OBS)).reshape(-1, OBS)
            action = (center + radius * epsilon).reshape(-1, m)
            q = in_float64(critic)(rows, action)[member].reshape(24, boxes)
            linear = upper.constant + np.einsum("kbm,bm->kb", epsilon, upper.slope)
            unsound += int((q > linear + 1e-10).any(axis=0).sum())
            # Of second order: on small boxes next to nothing is lost.
            small = radius.max(axis=1) < 0.02
            tightest = max(tightest, np.median(upper.bound[small] - q.max(axis=0)[small]))
    assert unsound == 0
    assert tightest < 5e-3


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_certified_maxima_are_those_of_a_fine_grid(head, m):
    critic, obs = critic_of(head, seed=3, m=m), make_obs(3)
    axes = np.meshgrid(*[np.linspace(LOW, HIGH, 4001 if m == 1 else 201)] * m, indexing="ij")
    mesh = np.stack(axes, axis=-1).reshape(-1, m)
    double = in_float64(critic)
    truth = np.array([double(np.repeat(row[None].astype(float), len(mesh), 0), mesh).min(0).max() for row in obs])
    solution = certified(critic, obs, critic.action_set, tol=1e-3)
    assert (solution.upper_bound >= truth - 1e-12).all()
    assert (solution.status == Status.OPTIMAL).all()
    # Between two points of the grid q rises by less than this.
    assert (solution.value <= truth + (1e-4 if m == 1 else 2e-2)).all()
    at_best = double(obs.astype(float), solution.action.astype(float)).min(0)
    assert (solution.value <= at_best).all() and (at_best <= solution.value + 1e-7).all()


def cancelling(head: AbstractHead, seed: int) -> QNetwork:
    """Statistics of inputs that lie 10⁵ away, and of a layer that takes them back: the folded bias is small."""
    critic = critic_of(head, seed)
    net, running = critic.net, critic.net.statistics
    mean = 1e5 * np.sign(running.mean[0])
    scale = net.gains[0] / np.sqrt(running.variance[0] + EPSILON)
    back = -(mean * scale) @ np.asarray(net.weights[0], float)
    leaves = [leaf.astype(np.float32) for leaf in (mean, back)]
    return eqx.tree_at(lambda c: c.net.statistics.mean, critic, (*leaves, *running.mean[2:]))


def opposed(head: AbstractHead, seed: int) -> QNetwork:
    """Quantiles that are large and of both signs: their mean is small."""
    critic = critic_of(head, seed, make=Mlp)
    signs = (1e4 * (np.arange(head.outputs) - (head.outputs - 1) / 2)).astype(np.float32)
    return eqx.tree_at(lambda c: c.net.weights[-1], critic, critic.net.weights[-1] + signs)


@pytest.mark.parametrize(
    ("made", "head"),
    [*((cancelling, head) for head in HEADS), (opposed, HEADS[1])],
    ids=lambda part: getattr(part, "__name__", type(part).__name__),
)
def test_where_terms_cancel_the_critics_own_rounding_is_inside_the_bound(made, head):
    missed = 0
    for seed in range(3):
        critic, obs = made(head, seed), make_obs(seed)
        actions = np.random.default_rng(seed).uniform(LOW, HIGH, (500, 1)).astype(np.float32)
        state = np.arange(STATES)
        rows, points = np.repeat(obs, len(actions), 0), np.tile(actions, (STATES, 1))
        single, double = critic(rows, points), in_float64(critic)(rows.astype(float), points.astype(float))
        assert single.dtype == np.float32
        error = np.abs(single - double).reshape(2, STATES, -1).max(axis=2)
        ends = np.full((STATES, 1), LOW), np.full((STATES, 1), HIGH)
        for member, network in enumerate(members_of(critic, OBS, 1, "")):
            # The same network with rounding that knows only what the folding left.
            bare = network._replace(
                layers=tuple(layer._replace(terms=None) for layer in network.layers),
                last=network.last._replace(terms=None),
            )
            claimed = []
            for one in (network, bare):
                net = FoldedNetwork(one, obs.astype(float), *ends)
                layers = net.runs(state).enclose((ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2)
                claimed.append(net.rounding(state, layers))
            assert (error[member] <= claimed[0]).all()
            missed += (error[member] > claimed[1]).sum()
        solution = certified(critic, obs, critic.action_set, time_limit=0.0)
        assert (single.min(axis=0).reshape(STATES, -1).max(axis=1) <= solution.upper_bound).all()
    assert missed >= STATES


def test_the_mean_over_interval_logits_is_that_of_the_worst_corner():
    rng = np.random.default_rng(0)
    values, log_weight = np.sort(rng.normal(size=(200, 6)), axis=1), 3 * rng.normal(size=(200, 6))
    reach = rng.exponential(1, (200, 6))
    corners = np.stack(np.meshgrid(*[[-1, 1]] * 6, indexing="ij"), -1).reshape(-1, 6)
    weight = np.exp(log_weight + corners[:, None] * reach)
    worst = ((weight * values).sum(-1) / weight.sum(-1)).max(axis=0)
    np.testing.assert_allclose(greatest_mean(values, log_weight, reach), worst, rtol=1e-12)
    # Weights that double precision cannot hold beside each other.
    wide = greatest_mean(values, 400 * log_weight, 1e3 + reach)
    np.testing.assert_allclose(wide, values[:, -1], rtol=1e-9)


def test_the_line_above_a_softmax_mean_is_above_it_and_touches_where_nothing_moves():
    rng = np.random.default_rng(0)
    boxes, m, head = 400, 2, Categorical(-2, 3, 9)
    reading = SoftmaxMean(head.support.astype(float))
    size = np.exp(rng.uniform(-6, 1.5, (boxes, 1)))
    slope, error = size[:, :, None] * rng.normal(size=(boxes, m, 9)), size * rng.exponential(0.2, (boxes, 9))
    middle, radius = 3 * rng.normal(size=(boxes, 9)), rng.uniform(0, 1, (boxes, m))
    # What all outputs share is not seen.
    slope = slope + 50 * rng.normal(size=(boxes, m, 1))
    line = reading.above(boxes, Outputs(radius, slope, middle, error))
    slack = np.full(boxes, np.inf)
    for draw in range(60):
        delta = radius * (np.sign if draw < 30 else np.asarray)(rng.uniform(-1, 1, (boxes, m)))
        outputs = middle + np.einsum("bm,bmk->bk", delta, slope) + error * np.sign(rng.normal(size=error.shape))
        q = head.mean(outputs)
        assert (q <= line.ceiling).all()
        above = (line.slope * outputs).sum(1) + line.constant - q
        assert (above >= -1e-11).all()
        slack = np.minimum(slack, above)
    narrow = size[:, 0] < 0.05
    assert (slack[narrow] <= 20 * size[narrow, 0] ** 2 + 1e-9).all()
    gradient = reading.gradient(middle)
    np.testing.assert_allclose(line.slope[narrow], gradient[narrow], atol=0.2)
    assert (np.abs(gradient.sum(axis=1)) < 1e-12).all()


def test_mixed_integer_programs_take_folded_networks_and_refuse_a_softmax():
    obs = make_obs()[:2]
    for head in HEADS[:2]:
        critic = critic_of(head, seed=1)
        exact, bounded = milp(critic, obs, critic.action_set), certified(critic, obs, critic.action_set)
        np.testing.assert_allclose(exact.value, bounded.value, atol=3e-3)
    with pytest.raises(UserError, match=r"mean of a softmax \(Categorical\).*use `certified`"):
        milp(critic_of(HEADS[2]), obs, Box([LOW], [HIGH]))
    with pytest.raises(UserError, match="mean of a softmax"):
        refuse_misfit(MilpArgmax(), critic_of(HEADS[2]), Box([LOW], [HIGH]))


def test_a_network_that_nobody_folded_is_refused_by_its_names():
    other = critic_of(HEADS[2], make=ResidualMlp)
    maximizer = proven(other, other.action_set, Effort())
    with pytest.raises(UserError, match=r"found a critic on ResidualMlp with the head Categorical.*ProjectedAscent"):
        maximizer(other, make_obs(), other.action_set)
    with pytest.raises(UserError, match="found a critic on ResidualMlp with the head Categorical"):
        amortization_gap(other, make_obs(), np.zeros((STATES, 1), np.float32), other.action_set)
    with pytest.raises(UserError, match="found a critic on ResidualMlp with the head Categorical"):
        refuse_misfit(maximizer, other, other.action_set)
