"""Certified maxima: bounds never below the critic, and intervals that hold the true maximum."""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from fittedq.actions.base import AbstractActionSet, Box, Whole
from fittedq.actions.mixed import Mixed
from fittedq.actions.polytope import Polytope
from fittedq.actions.state_box import StateBox
from fittedq.approx.networks import ACTIVATIONS, QNetwork
from fittedq.errors import UserError
from fittedq.maximize.base import Status
from fittedq.maximize.proofs.bounds import BoxRuns, FoldedNetwork, Upper, members_of
from fittedq.maximize.proofs.certified import _Domain, certified
from fittedq.maximize.proofs.combine import _min_of
from fittedq.maximize.proofs.relax import RELAXATIONS
from fittedq.maximize.region import region_of
from methods import built, mlp

OBS = 3


def make_critic(
    seed: int, m: int, widths=(16, 16), activation="relu", layer_norm=False, n_critics=1, scale=2.5, box=None
) -> QNetwork:
    """A critic whose weights are large enough for a surface with several hills, gains and shifts not trivial."""
    box = box or Box([-1.0] * m, [2.0] * m)
    critic = built(
        QNetwork,
        OBS,
        box,
        widths,
        jax.random.key(seed),
        n_critics=n_critics,
        activation=activation,
        make=mlp(layer_norm),
    )
    rng = np.random.default_rng(seed)
    weights = tuple(np.asarray(weight) * np.float32(scale) for weight in critic.net.weights)
    gains = tuple(rng.normal(1, 0.5, gain.shape).astype(np.float32) for gain in critic.net.gains)
    shifts = tuple(rng.normal(0, 0.5, shift.shape).astype(np.float32) for shift in critic.net.shifts)
    biases = tuple(np.asarray(bias) for bias in critic.net.biases)
    return eqx.tree_at(
        lambda c: (c.net.weights, c.net.biases, c.net.gains, c.net.shifts), critic, (weights, biases, gains, shifts)
    )


def in_float64(critic: QNetwork) -> QNetwork:
    """The same network, evaluated by its own formula in double precision."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), critic)


def make_obs(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, OBS)).astype(np.float32)


def on_grid(critic: QNetwork, obs: np.ndarray, points: int, combine=np.min, low=None, high=None) -> np.ndarray:
    """max over a grid of the box per state, in float64: below the true maximum, and near it."""
    box = critic.action_set
    low, high = (np.asarray(box.low) if low is None else low), (np.asarray(box.high) if high is None else high)
    axes = [np.linspace(a, b, points) for a, b in zip(low, high, strict=True)]
    mesh = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, box.size)
    double = in_float64(critic)
    return np.array(
        [combine(double(np.repeat(row[None].astype(float), len(mesh), 0), mesh), axis=0).max() for row in obs]
    )


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_band_holds_the_activation_on_every_interval(activation):
    rng = np.random.default_rng(0)
    scale = np.exp(rng.uniform(-8, 4, 3000))
    low = rng.normal(size=3000) * 3 * rng.choice([0.1, 1, 5], 3000)
    high = low + scale
    relaxation = RELAXATIONS[activation]
    band = relaxation.band(low, high)
    z = low + (high - low) * np.linspace(0, 1, 401)[:, None]
    f = ACTIVATIONS[activation](z)
    excess = np.abs(f - band.slope * z - band.offset) - band.error
    assert (excess <= 1e-13 * (1 + np.abs(z).max(axis=0))).all()
    least, greatest = relaxation.range(low, high)
    assert (least <= f + 1e-12).all() and (f <= greatest + 1e-12).all()
    # Not merely wide: on narrow intervals within what the samples show, but for f''·width²/64 and unsampled kinks.
    tightest = (f - band.slope * z).max(axis=0) - (f - band.slope * z).min(axis=0)
    narrow = scale < 0.5
    assert (2 * band.error <= tightest + 0.02 * scale**2 + 0.01 * scale * (activation.endswith("relu")) + 1e-12)[
        narrow
    ].all()


CONFIGS = [
    (activation, layer_norm, widths)
    for activation in sorted(ACTIVATIONS)
    for layer_norm in (False, True)
    for widths in ((12, 12), (8, 8, 8))
]


def count_unsound(seed: int, boxes: int, activation: str, layer_norm: bool, widths: tuple[int, ...]) -> int:
    """Boxes with a sampled point above the linear bound or outside the pool of its own rounding."""
    rng = np.random.default_rng(seed)
    m, n_critics, states = int(rng.integers(1, 5)), int(rng.integers(1, 3)), 8
    critic = make_critic(seed, m, widths, activation, layer_norm, n_critics, scale=float(rng.uniform(0.5, 6)))
    obs = make_obs(seed, states)
    low, high = (np.tile(np.asarray(end), (states, 1)) for end in (critic.action_set.low, critic.action_set.high))
    folded = [FoldedNetwork(net, obs.astype(float), low, high) for net in members_of(critic, OBS, m, "")]
    state = rng.integers(0, states, boxes)
    radius = 1.5 * np.exp(-rng.exponential(2, (boxes, 1))) * rng.uniform(0, 1, (boxes, m)) ** 2
    center = np.clip(rng.uniform(-1, 2, (boxes, m)), -1 + radius, 2 - radius)
    slope_steps = int(rng.integers(0, 4))
    upper = _min_of([net.upper(state, center, radius, slope_steps) for net in folded])
    epsilon = rng.uniform(-1, 1, (24, boxes, m))
    # Corners and the bound's own best corner are where bounds fail first.
    epsilon[:8] = np.sign(epsilon[:8])
    epsilon[0] = np.sign(upper.slope)
    action = center + radius * epsilon
    rows = np.broadcast_to(obs[state].astype(float), (24, boxes, OBS)).reshape(-1, OBS)
    q = in_float64(critic)(rows, action.reshape(-1, m)).min(axis=0).reshape(24, boxes)
    linear = upper.constant + np.einsum("kbm,bm->kb", epsilon, upper.slope)
    assert np.isfinite(linear).all()
    # Clipping to the root box and the reference's own float64 rounding are all the tolerance there is.
    return int((q > linear + 1e-10 * (1 + np.abs(q))).any(axis=0).sum())


@pytest.mark.parametrize(("activation", "layer_norm", "widths"), CONFIGS)
def test_linear_bound_is_nowhere_below_the_critic(activation, layer_norm, widths):
    assert sum(count_unsound(seed, 180, activation, layer_norm, widths) for seed in range(4)) == 0


def test_the_deviation_of_a_norm_moves_with_the_action():
    """Seeds at which a bound that takes it for fixed is too low on some box."""
    assert sum(count_unsound(seed, 180, "relu", True, (12, 12)) for seed in (5, 6)) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "layer_norm", "widths"), CONFIGS)
def test_a_million_bounds_are_sound(activation, layer_norm, widths):
    assert sum(count_unsound(1000 + seed, 400, activation, layer_norm, widths) for seed in range(90)) == 0


@pytest.mark.parametrize("layer_norm", [False, True])
def test_bounds_close_quadratically_as_boxes_shrink(layer_norm):
    critic = make_critic(3, 2, activation="tanh", layer_norm=layer_norm)
    obs = make_obs(3, 50)
    low, high = np.full((50, 2), -1.0), np.full((50, 2), 2.0)
    (net,) = (FoldedNetwork(net, obs.astype(float), low, high) for net in members_of(critic, OBS, 2, ""))
    rows, center = np.arange(50), np.random.default_rng(0).uniform(-0.5, 1.5, (50, 2))
    q = net.values(rows, center)[0]
    loose = [np.median(net.upper(rows, center, np.full((50, 2), r)).constant - q) for r in (0.04, 0.01)]
    assert loose[1] < loose[0] / 8


def triangle_relaxation(net: FoldedNetwork, row: int, center: np.ndarray, radius: np.ndarray) -> float:
    """max of q over a box where every ReLU may be anything in its triangle, by a linear program: no choice of lines
    gives less."""
    (first, second), last = net.piece.layers, net.piece.last
    m, n, k = len(center), first.weight.shape[1], second.weight.shape[1]
    layers = net.runs(np.array([row])).enclose(center[None], radius[None])
    rows, limits, bounds = [], [], list(zip(center - radius, center + radius, strict=True))
    blocks = ((first.weight, net.offset[row], slice(0, m), m), (second.weight, second.bias, slice(m, m + n), m + n))
    for layer, (weight, bias, inputs, start) in zip(layers, blocks, strict=True):
        low, high = (end[0] for end in layer.range)
        for unit in range(weight.shape[1]):
            above = np.zeros(m + n + k)
            above[inputs], above[start + unit] = weight[:, unit], -1
            rows.append(above)  # h ≥ z
            limits.append(-bias[unit])
            share = high[unit] / (high[unit] - low[unit]) if low[unit] < 0 < high[unit] else float(low[unit] >= 0)
            below = np.zeros(m + n + k)
            below[inputs], below[start + unit] = -share * weight[:, unit], 1
            rows.append(below)  # h ≤ chord
            limits.append(share * bias[unit] - share * min(low[unit], 0) * (high[unit] > 0))
            bounds.append((0, None))
    cost = np.concatenate([np.zeros(m + n), -last.weight[:, 0]])
    return -linprog(cost, np.array(rows), np.array(limits), bounds=bounds).fun + last.bias[0]


def test_improved_slopes_close_in_on_the_best_lines_there_are():
    critic, m = make_critic(5, 6, (24, 24)), 6
    obs, rng = make_obs(5, 12), np.random.default_rng(5)
    low, high = np.full((12, m), -1.0), np.full((12, m), 2.0)
    (net,) = (FoldedNetwork(net, obs.astype(float), low, high) for net in members_of(critic, OBS, m, ""))
    state, radius = np.arange(12), rng.uniform(0.1, 0.5, (12, m))
    center = rng.uniform(-0.5, 1.5, (12, m))
    best = np.array([triangle_relaxation(net, *box) for box in zip(state, center, radius, strict=True)])
    bounds = [net.upper(state, center, radius, steps).bound for steps in (0, 2, 30)]
    for bound in bounds:
        assert (bound >= best - 1e-7).all()
    left = [np.mean(bound - best) for bound in bounds]
    assert left[1] < 0.5 * left[0] and left[2] < 0.2 * left[0]
    assert (bounds[1] <= bounds[0]).all() and (bounds[2] <= bounds[1]).all()


def exact_1d(critic: QNetwork, obs: np.ndarray) -> np.ndarray:
    """max over an interval of a 1-D ReLU network: linear between its kinks, found layer by layer."""
    (net,) = members_of(critic, OBS, 1, "")
    low, high = critic.action_set.low[0], critic.action_set.high[0]
    best = []
    for row in obs.astype(float):

        def pre_activations(points: np.ndarray, depth: int, row: np.ndarray = row) -> np.ndarray:
            unit = (points - net.center) / net.half_width
            h = np.concatenate([np.repeat(row[None], len(points), 0), unit[:, None]], axis=1)
            for layer in (*net.layers, net.last)[: depth + 1]:
                z = h @ layer.weight + layer.bias
                h = np.maximum(z, 0)
            return z

        points = np.array([low, high])
        for depth in range(len(net.layers)):
            z = pre_activations(points, depth)
            with np.errstate(divide="ignore", invalid="ignore"):
                share = z[:-1] / (z[:-1] - z[1:])
            kinks = points[:-1, None] + share * np.diff(points)[:, None]
            kinks = kinks[(share > 0) & (share < 1)]
            points = np.unique(np.concatenate([points, kinks]))
        best.append(pre_activations(points, len(net.layers)).max())
    return np.array(best)


@pytest.mark.parametrize("widths", [(16,), (16, 16), (8, 8, 8)])
def test_1d_relu_maxima_are_those_of_all_kinks(widths):
    for seed in range(5):
        critic, obs = in_float64(make_critic(seed, 1, widths)), make_obs(seed, 20)
        solution = certified(critic, obs, critic.action_set, tol=1e-6)
        truth = exact_1d(critic, obs)
        assert (solution.status == Status.OPTIMAL).all()
        assert (solution.value <= truth + 1e-12).all()
        assert (solution.value >= truth - 2e-6 * np.maximum(1, np.abs(truth))).all()
        assert (solution.upper_bound >= truth).all()
        assert (solution.upper_bound <= truth + 2e-6 * np.maximum(1, np.abs(truth))).all()


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_maxima_agree_with_dense_grids(activation, layer_norm):
    critic = in_float64(make_critic(11, 2, (10, 10), activation, layer_norm))
    obs = make_obs(11, 4)
    solution = certified(critic, obs, critic.action_set, tol=1e-3)
    grid = on_grid(critic, obs, 151)
    assert (solution.status == Status.OPTIMAL).all()
    assert (solution.upper_bound >= grid).all()
    assert (solution.value >= grid - 1e-3 * np.maximum(1, np.abs(grid))).all()
    value = in_float64(critic)(obs.astype(float), np.asarray(solution.action, float)).min(axis=0)
    # Rounded down: layer norm's worst case, a deviation of nearly zero, costs most.
    assert (solution.value <= value + 1e-12).all()
    assert (solution.value >= value - 1e-4).all()


@pytest.mark.parametrize(("name", "combine"), [("min", np.min), ("mean", np.mean)])
def test_ensembles_are_combined(name, combine):
    critic = make_critic(5, 2, n_critics=3)
    obs = make_obs(5, 6)
    solution = certified(critic, obs, critic.action_set, tol=1e-3, combine=name)
    grid = on_grid(critic, obs, 201, combine)
    assert (solution.status == Status.OPTIMAL).all()
    assert (solution.upper_bound >= grid).all()
    assert (solution.value >= grid - 1e-3 * np.maximum(1, np.abs(grid))).all()
    assert (solution.upper_bound <= solution.value + 2e-3 * np.maximum(1, np.abs(grid))).all()


def test_a_minimum_is_bounded_by_a_mixture_of_its_members():
    """min(a, −a) ≤ 0 on [−1, 1]; each member alone only says 1."""
    lines = [
        (np.array([[0.0]] * OBS + [[sign]]), np.zeros(1), np.ones((1, 1)), np.full(1, -3.0)) for sign in (1.0, -1.0)
    ]
    # relu(±a + 3) − 3 = ±a: two members of one ensemble, written as weights.
    critic = make_critic(0, 1, (1,), n_critics=2, box=Box([-1.0], [1.0]))
    weights = tuple(np.stack([line[2 * layer] for line in lines]).astype(np.float32) for layer in range(2))
    biases = (np.full((2, 1, 1), 3, np.float32), np.full((2, 1, 1), -3, np.float32))
    critic = eqx.tree_at(lambda c: (c.net.weights, c.net.biases), critic, (weights, biases))
    low, high = np.array([[-1.0]]), np.array([[1.0]])
    obs = np.zeros((1, OBS))
    members = [FoldedNetwork(net, obs, low, high) for net in members_of(critic, OBS, 1, "")]
    row = np.zeros(1, int)
    uppers = [net.upper(row, np.zeros((1, 1)), np.ones((1, 1))) for net in members]
    assert all(upper.bound[0] >= 1 for upper in uppers)
    assert 0 <= _min_of(uppers).bound[0] < 1e-9


@pytest.mark.parametrize("limits", [{"time_limit": 0.0}, {"state_time_limit": 1e-6}])
def test_the_interval_holds_the_maximum_whenever_it_stops(limits):
    critic = make_critic(2, 3, (32, 32), n_critics=2)
    obs = make_obs(2, 12)
    stopped = certified(critic, obs, critic.action_set, tol=1e-6, **limits)
    solved = certified(critic, obs, critic.action_set, tol=1e-3)
    assert (stopped.status == Status.TIME_LIMIT).any()
    assert np.isfinite(stopped.upper_bound).all()
    assert (stopped.value <= solved.upper_bound).all()
    assert (stopped.upper_bound >= solved.value).all()
    assert (stopped.upper_bound > solved.upper_bound + 0.01).any()


def test_warm_starts_are_a_guarantee():
    critic = make_critic(7, 3, (32, 32))
    obs = make_obs(7, 8)
    best = certified(critic, obs, critic.action_set, tol=1e-4)
    for warm in (best.action, np.stack([best.action, 0 * best.action, np.full_like(best.action, np.nan)], axis=1)):
        again = certified(critic, obs, critic.action_set, tol=0.5, time_limit=0.0, warm_start=warm)
        # The order of a sum depends on how many are evaluated at once.
        assert (again.value >= best.value - 1e-13).all()
    outside = certified(critic, obs, critic.action_set, warm_start=np.full((8, 3), 9.0))
    assert (np.asarray(critic.action_set.high) >= outside.action).all()


def test_state_dependent_bounds_and_sides_of_no_width():
    critic = make_critic(9, 2)
    obs = make_obs(9, 10)
    action_set = StateBox(
        lambda s: np.stack([np.tanh(s[:, 0]), 0.25 + 0 * s[:, 0]], axis=1).astype(np.float32),
        lambda s: np.stack([np.tanh(s[:, 0]) + 0.5, 0.25 + 0 * s[:, 0]], axis=1).astype(np.float32),
        critic.action_set,
    )
    solution = certified(critic, obs, action_set, tol=1e-4)
    low, high = action_set.bounds(obs)
    assert (solution.status == Status.OPTIMAL).all()
    assert ((low <= solution.action) & (solution.action <= high)).all()
    assert solution.action.dtype == np.float32
    for row in range(10):
        grid = on_grid(critic, obs[row : row + 1], 200, low=low[row], high=high[row])[0]
        assert solution.upper_bound[row] >= grid
        assert solution.value[row] >= grid - 1e-4 * max(1, abs(grid))


def test_a_list_of_layers_is_a_critic_in_plain_units():
    critic = make_critic(4, 2, activation="silu", box=Box([-1.0, -1.0], [1.0, 1.0]))
    obs = make_obs(4, 5)
    layers = [(weight[0], bias[0, 0]) for weight, bias in zip(critic.net.weights, critic.net.biases, strict=True)]
    one = certified(critic, obs, critic.action_set)
    other = certified(layers, obs, critic.action_set, activation="silu")
    np.testing.assert_allclose(one.value, other.value, atol=1e-9)
    np.testing.assert_allclose(one.upper_bound, other.upper_bound, atol=1e-9)


def exact_value(layers: list, row: np.ndarray, action: np.ndarray) -> Fraction:
    """A ReLU network in rational arithmetic."""
    h = [Fraction(float(x)) for x in (*row, *action)]
    for number, (weight, bias) in enumerate(layers):
        z = [
            sum((x * Fraction(float(w)) for x, w in zip(h, column, strict=True)), Fraction(float(b)))
            for column, b in zip(weight.T, bias, strict=True)
        ]
        h = z if number == len(layers) - 1 else [max(x, Fraction(0)) for x in z]
    return h[0]


def test_rounding_of_weights_that_cancel_is_inside_the_bound():
    """Pairs of neurons whose huge outputs cancel: evaluated in float32, q is off by far more than the tolerance."""
    rng = np.random.default_rng(0)
    box = Box([-1.0, -1.0], [1.0, 1.0])
    exceeded = 0
    for _ in range(6):
        wide = rng.normal(size=(OBS + 2, 8)).astype(np.float32)
        twin = np.nextafter(wide, np.float32(9))
        first = np.concatenate([wide, twin], axis=1)
        bias = np.concatenate([np.full(8, 2), np.full(8, 2)]).astype(np.float32)
        second = rng.normal(size=(8, 1)).astype(np.float32) * np.float32(1e6)
        last = np.concatenate([second, -second])
        layers = [(first, bias), (last, np.zeros(1, np.float32))]
        obs = rng.normal(size=(1, OBS)).astype(np.float32)
        solution = certified(layers, obs, box, tol=1e-3, time_limit=0.3)
        action = rng.uniform(-1, 1, (20000, 2)).astype(np.float32)
        x = np.concatenate([np.repeat(obs, len(action), 0), action], axis=1)
        in_single = np.maximum(x @ first + bias, 0) @ last
        assert in_single.max() <= solution.upper_bound[0]
        exceeded += in_single.max() > solution.value[0] + 1e-3 * max(1, abs(solution.value[0]))
        for chosen in (np.asarray(solution.action[0]), *action[:20]):
            exact = exact_value(layers, obs[0], chosen)
            assert exact <= Fraction(float(solution.upper_bound[0]))
        assert exact_value(layers, obs[0], solution.action[0]) >= Fraction(float(solution.value[0]))
    # Without the margin for the critic's own rounding these bounds would be wrong.
    assert exceeded >= 3


@pytest.mark.as_shipped
@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_compiled_critic_stays_below_the_bound(layer_norm):
    critic = make_critic(6, 2, (64, 64), layer_norm=layer_norm)
    obs = make_obs(6, 3)
    solution = certified(critic, obs, critic.action_set, tol=1e-4, time_limit=3.0)
    action = np.random.default_rng(0).normal(size=(3, 2000, 2)) * 1e-3 + np.asarray(solution.action)[:, None]
    action = np.clip(action, critic.action_set.low, critic.action_set.high).astype(np.float32)
    compiled = eqx.filter_jit(lambda critic, obs, action: critic(obs, action)[0])
    for row in range(3):
        q = compiled(jax.tree.map(jnp.asarray, critic), jnp.repeat(obs[row : row + 1], 2000, 0), action[row])
        assert float(q.max()) <= solution.upper_bound[row]


def wide_polytope(m: int) -> Polytope:
    """Σ|a − ½| bounded, and one slanted row: corners of the box are cut off, and the hull is not the box."""
    signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * m, indexing="ij"), axis=-1).reshape(-1, m)
    slanted = np.linspace(1, 2, m)
    return Polytope(
        [-1.0] * m,
        [2.0] * m,
        np.vstack([signs, slanted]),
        np.append(0.5 * signs.sum(axis=1) + 0.8 * m, 0.9 * slanted.sum()),
    )


def merged(net: FoldedNetwork, state: np.ndarray, center: np.ndarray, radius: np.ndarray, counts: list[int]) -> BoxRuns:
    """The networks that are left on the first box of each run of boxes."""
    first = np.cumsum([0, *counts[:-1]])
    layers = net.runs(state[first]).enclose(center[first], radius[first])
    reach = np.abs(center[first]) + radius[first]
    locals_ = [net.local(int(state[row]), layers, number, reach[number]) for number, row in enumerate(first)]
    return BoxRuns.of(net.activation, net.reading, locals_, counts)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("widths", [(40,), (40, 40), (24, 40, 24)])
def test_networks_without_their_linear_neurons_are_the_same_function(activation, widths):
    rng = np.random.default_rng(0)
    for seed, size in enumerate((1.0, 0.3, 0.05, 1e-6)):
        critic, obs = make_critic(seed, 3, widths, activation), make_obs(seed, 4)
        low, high = np.full((4, 3), -1.0), np.full((4, 3), 2.0)
        (net,) = (FoldedNetwork(part, obs.astype(float), low, high) for part in members_of(critic, OBS, 3, activation))
        counts = [30, 1, 50, 20]
        first = np.repeat(np.cumsum([0, *counts[:-1]]), counts)
        state = np.repeat([2, 0, 1, 3], counts)
        radius = size * rng.uniform(0.1, 1, (101, 3))[first]
        center = np.clip(rng.uniform(-1, 2, (101, 3))[first], -1 + radius, 2 - radius)
        runs = merged(net, state, center, radius, counts)
        hidden = [layer.weight.shape[1] for piece, _, _ in runs.runs for layer in piece.layers]
        assert max(hidden) <= max(widths) and sum(hidden) < 4 * sum(widths)
        inside = center + radius * rng.uniform(-1, 1, center.shape)
        q = net.values(state, inside)[0]
        np.testing.assert_allclose(runs.values(inside), q, rtol=1e-12, atol=1e-12)
        # Smaller boxes within: the bounds are no looser than the whole network's.
        radius = radius * rng.uniform(0.2, 1, radius.shape)
        inside = np.clip(inside, center - radius, center + radius)
        upper = runs.upper(runs.enclose(center, radius))
        linear = upper.constant + ((inside - center) / radius * upper.slope).sum(axis=1)
        assert (linear >= net.values(state, inside)[0]).all()
        assert (upper.bound <= net.upper(state, center, radius).bound + 1e-9).all()


def test_large_searches_split_into_subtrees():
    """Enough boxes that subtrees are halved, with an answer known from a search that never does."""
    critic, obs = make_critic(8, 4, (48, 48), n_critics=2), make_obs(8, 2)
    solution = certified(critic, obs, critic.action_set, tol=1e-2)
    grid = on_grid(critic, obs, 15)
    assert (solution.status == Status.OPTIMAL).all()
    assert (solution.upper_bound >= grid).all()
    assert (solution.value >= grid - 1e-2 * np.maximum(1, np.abs(grid))).all()


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_polytopes_agree_with_dense_grids(activation):
    double = in_float64(make_critic(21, 2, (16, 16), activation, n_critics=2))
    obs, polytope = make_obs(21, 6), wide_polytope(2)
    mesh = np.stack(np.meshgrid(*[np.linspace(-1, 2, 301)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    mesh = mesh[polytope.contains(mesh, mesh)]
    for critic in (double, make_critic(21, 2, (16, 16), activation, n_critics=2)):
        solution = certified(critic, obs, polytope, tol=1e-3)
        box = certified(critic, obs, critic.action_set, tol=1e-3)
        assert (solution.status == Status.OPTIMAL).all()
        assert polytope.contains(solution.action, obs).all()
        rows = [np.repeat(row[None].astype(float), len(mesh), 0) for row in obs]
        grid = np.array([double(row, mesh).min(axis=0).max() for row in rows])
        tolerance = 1e-3 * np.maximum(1, np.abs(grid))
        assert (solution.upper_bound >= grid).all()
        assert (solution.value >= grid - tolerance).all()
        # Points of the grid lie within 1/200 of any other, and q is not that steep.
        assert (solution.value <= grid + 0.05).all()
        # The rows matter: in most of these states the box's maximum is outside.
        assert (box.value > solution.upper_bound + 0.01).sum() >= 3


def test_lines_over_a_polytope_hold_where_it_is_and_nothing_of_it_is_lost():
    rng = np.random.default_rng(0)
    polytope, m = wide_polytope(3), 3
    obs = np.zeros((1, OBS))
    domain = _Domain(polytope, obs, region_of("test", polytope, obs), np.float64)
    points = rng.uniform(-1, 2, (20000, m))
    points = points[polytope.contains(points, points)]
    radius = np.exp(rng.uniform(-4, 0.4, (400, m)))
    center = rng.uniform(-1, 2, (400, m))
    upper = Upper(rng.normal(size=400), rng.normal(size=(400, m)) * radius, np.zeros((400, m)))
    lowered = domain.dual(upper, center, radius)
    low, high, kept = domain.shrunk(center - radius, center + radius)
    tightest = 0
    for box in range(400):
        held = points[(np.abs(points - center[box]) <= radius[box]).all(axis=1)]
        if not len(held):
            continue
        assert kept[box]
        assert ((low[box] <= held) & (held <= high[box])).all()
        unit = (held - center[box]) / radius[box]
        before, after = (line.constant[box] + unit @ line.slope[box] for line in (upper, lowered))
        assert (after >= before).all()
        tightest += lowered.bound[box] < upper.bound[box] - 1e-3
    assert tightest > 50
    # Empty ones exist, and are seen.
    assert (~kept).sum() > 20


def test_whole_coordinates_agree_with_enumeration():
    critic = in_float64(make_critic(13, 3, (16, 16), box=Box([-2.0, -2.0, -2.0], [2.0, 2.0, 2.0])))
    obs = make_obs(13, 8)
    line = np.linspace(-2, 2, 401)

    def enumerated(axes: list[np.ndarray], allowed=lambda mesh: np.ones(len(mesh), bool)) -> np.ndarray:
        mesh = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        mesh = mesh[allowed(mesh)]
        return np.array([critic(np.repeat(row[None].astype(float), len(mesh), 0), mesh)[0].max() for row in obs])

    whole = np.arange(-2.0, 3.0)
    box = critic.action_set
    pure, mixed = Mixed(box, (0, 1, 2)), Mixed(box, (0, 2))
    best = certified(critic, obs, pure, tol=1e-6)
    np.testing.assert_allclose(best.value, enumerated([whole] * 3), atol=1e-9)
    assert (best.upper_bound >= best.value).all() and (best.status == Status.OPTIMAL).all()
    assert (best.action == np.round(best.action)).all()

    rows = Polytope(box.low, box.high, [[1.0, 1.0, 1.0], [-1.0, 2.0, 0.0]], [1.5, 2.0])
    for action_set, allowed in (
        (mixed, lambda mesh: np.ones(len(mesh), bool)),
        (Mixed(rows, (0, 2)), lambda mesh: rows.contains(mesh, mesh)),
    ):
        grid = enumerated([whole, line, whole], allowed)
        solution = certified(critic, obs, action_set, tol=1e-3)
        assert (solution.status == Status.OPTIMAL).all()
        assert action_set.contains(solution.action, obs).all()
        assert (solution.upper_bound >= grid).all()
        assert (solution.value >= grid - 1e-3 * np.maximum(1, np.abs(grid))).all()
        assert (solution.value <= grid + 0.02).all()


@pytest.mark.parametrize("seed", [14, 15])
def test_no_whole_number_is_skipped_where_the_maximum_is_hard_to_find(seed):
    """A lattice of 13³ on a rugged critic: at one of these states no climb from the starts ends at the best point."""
    critic = in_float64(make_critic(seed, 3, (16, 16), box=Box([-6.0] * 3, [6.0] * 3)))
    obs, whole = make_obs(13, 8), np.arange(-6.0, 7.0)
    mesh = np.stack(np.meshgrid(whole, whole, whole, indexing="ij"), axis=-1).reshape(-1, 3)
    best = np.array([critic(np.repeat(row[None].astype(float), len(mesh), 0), mesh)[0].max() for row in obs])
    solution = certified(critic, obs, Mixed(critic.action_set, (0, 1, 2)), tol=1e-6)
    np.testing.assert_allclose(solution.value, best, atol=1e-5)
    assert (solution.upper_bound >= best).all()


class Ball(AbstractActionSet):
    """A set that no bound is known for."""

    separable: ClassVar[bool] = False
    low: tuple[float, ...]
    high: tuple[float, ...]
    whole: ClassVar[Whole] = Whole()
    reads: ClassVar[tuple[int, ...] | None] = ()
    interior: ClassVar[np.ndarray] = np.zeros((0, 2))

    def region(self, obs):
        return None

    def describe(self):
        return {"kind": "ball"}

    def admissible(self, unit, obs):
        return unit

    def bounds(self, obs, dtype=None):
        return np.asarray(self.low), np.asarray(self.high)

    def project(self, action, obs):
        return action

    def contains(self, action, obs):
        return np.ones(len(action), bool)


def test_bad_input_is_one_sentence():
    critic, obs = make_critic(0, 2), make_obs(0, 2)
    box = critic.action_set
    layers = [(np.ones((OBS + 2, 4)), np.zeros(4)), (np.ones((4, 1)), np.zeros(1))]
    with pytest.raises(UserError, match="activation 'mish'"):
        certified(layers, obs, box, activation="mish")
    with pytest.raises(UserError, match="found the action set Ball"):
        certified(critic, obs, Ball(box.low, box.high))
    with pytest.raises(UserError, match="tol is 0"):
        certified(critic, obs, box, tol=0)
    with pytest.raises(UserError, match="combine is 'max'"):
        certified(critic, obs, box, combine="max")
    with pytest.raises(UserError, match="layer 1 has a weight"):
        certified([layers[0], (np.ones((5, 1)), np.zeros(1))], obs, box)
    with pytest.raises(UserError, match="layer 0 of the critic"):
        certified([(layers[0][0] * np.nan, layers[0][1]), layers[1]], obs, box)
    with pytest.raises(UserError, match="warm_start has shape"):
        certified(critic, obs, box, warm_start=np.zeros((3, 2)))
    with pytest.raises(UserError, match="observations of 4"):
        certified(critic, np.zeros((2, 4), np.float32), box)
    with pytest.raises(UserError, match="finite numbers"):
        certified(critic, np.full((2, OBS), np.nan, np.float32), box)


@pytest.mark.parametrize("dead", [0, 1])
def test_a_layer_whose_neurons_are_all_off_leaves_a_constant(dead):
    critic = make_critic(0, 2)
    biases = [np.array(bias) for bias in critic.net.biases]
    biases[dead][:] = -1e3
    critic = eqx.tree_at(lambda c: c.net.biases, critic, tuple(biases))
    obs = make_obs(0, 3)
    solution = certified(critic, obs, critic.action_set)
    truth = np.asarray(critic(obs, solution.action)).min(axis=0)
    assert (solution.status == Status.OPTIMAL).all()
    np.testing.assert_allclose(solution.value, truth, atol=1e-3)
    np.testing.assert_allclose(solution.upper_bound, truth, atol=1e-2)
