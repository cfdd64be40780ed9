"""Networks of residual blocks, against their formulas in float64."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fittedq.actions.base import Box
from fittedq.algorithms.simba import SimBa
from fittedq.algorithms.simba_v2 import SimbaV2
from fittedq.algorithms.xqc import XQC
from fittedq.approx.host import host_view, to_host
from fittedq.approx.hyperspherical import SHIFT, HypersphericalMlp, of_spherical_blocks
from fittedq.approx.networks import QNetwork, TanhGaussianPolicy
from fittedq.approx.residual import ResidualMlp, of_blocks
from fittedq.errors import UserError
from fittedq.maximize.proofs.bounds import unproven
from fittedq.template.targets import Labelled
from methods import built, made

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BOX = Box((-1.0,), (3.0,))
OBS, ROWS, WIDTH = 3, 5, 6


def shaken(net):
    """The network with every parameter moved, so that none is 0 or 1."""

    def moved(leaf):
        return jnp.asarray(np.asarray(leaf) + 0.3 * RNG.normal(size=leaf.shape).astype(np.float32))

    return jax.tree.map(moved, net)


@jax.jit
def applied(net, x):
    """The outputs, and those of the network as it is fitted."""
    return net(x), net.by_batch(x)[0]


def float64(arrays):
    return [np.asarray(array, float) for array in arrays]


def residual_by_hand(net: ResidualMlp, x: np.ndarray) -> np.ndarray:
    """Embedding, blocks, outputs, one after another."""
    weights, biases, gains, shifts = (float64(part) for part in (net.weights, net.biases, net.gains, net.shifts))

    def norm(x, place):
        deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return gains[place] * (x - x.mean(-1, keepdims=True)) / deviation + shifts[place]

    x = x @ weights[0] + biases[0]
    for block in range(len(gains) - 1):
        wide = np.maximum(norm(x, block) @ weights[2 * block + 1] + biases[2 * block + 1], 0)
        x = x + wide @ weights[2 * block + 2] + biases[2 * block + 2]
    return norm(x, -1) @ weights[-1] + biases[-1]


def test_a_residual_network_is_its_formula_for_every_member():
    net = shaken(built(ResidualMlp, (OBS, WIDTH, WIDTH, 2), KEY, lead=(2,)))
    x = RNG.normal(size=(ROWS, OBS)).astype(np.float32)
    expected = residual_by_hand(net, x)
    assert expected.shape == (2, ROWS, 2) and net.members == 2
    np.testing.assert_allclose(applied(net, x)[0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(to_host(net)(x), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(*applied(net, x))


def test_a_residual_network_has_the_layers_that_its_memory_is_counted_by():
    widths = of_blocks((OBS, WIDTH, WIDTH, 2))
    net = built(ResidualMlp, (OBS, WIDTH, WIDTH, 2), KEY)
    assert [weight.shape for weight in net.weights] == list(itertools.pairwise(widths))
    assert widths == (OBS, WIDTH, 4 * WIDTH, WIDTH, 4 * WIDTH, WIDTH, 2)


def test_the_ends_of_a_residual_network_start_orthonormal_and_its_blocks_with_variance_2_over_fan_in():
    first, up, *_, last = float64(built(ResidualMlp, (5, 64, 2), KEY).weights)
    np.testing.assert_allclose(first @ first.T, np.eye(5), atol=1e-4)
    np.testing.assert_allclose(last.T @ last, np.eye(2), atol=1e-4)
    assert up.var() == pytest.approx(2 / 64, rel=0.1)


def of_length_1(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def spherical_by_hand(net: HypersphericalMlp, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """(outputs, the features after the embedding and after each block)."""
    weights, scales, shares = (float64(part) for part in (net.weights, net.scales, net.shares))
    x = of_length_1(np.concatenate([x, np.full((len(x), 1), 3.0)], axis=-1))
    x = of_length_1(x @ weights[0] * scales[0])
    features = [x]
    for block, share in enumerate(shares):
        wide = np.maximum(x @ weights[2 * block + 1] * scales[block + 1], 0)
        alpha = share * np.sqrt(x.shape[-1]) / (len(shares) + 1)
        x = of_length_1((1 - alpha) * x + alpha * of_length_1(wide @ weights[2 * block + 2]))
        features.append(x)
    return x @ weights[-2] * scales[-1] @ weights[-1] + np.asarray(net.bias, float), features


@pytest.mark.parametrize("change", [lambda net: net, shaken], ids=["first", "shaken"])
def test_a_hyperspherical_network_is_its_formula_for_every_member(change):
    net = change(built(HypersphericalMlp, (OBS, WIDTH, WIDTH, 2), KEY, lead=(2,)))
    x = RNG.normal(size=(ROWS, OBS)).astype(np.float32)
    expected, _ = spherical_by_hand(net, x)
    assert expected.shape == (2, ROWS, 2) and net.members == 2
    np.testing.assert_allclose(applied(net, x)[0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(to_host(net)(x), expected, rtol=1e-4, atol=1e-4)


def test_a_hyperspherical_network_starts_as_published():
    """Scales √(2/width), shares 1/(blocks + 1), columns of length 1; the first block goes a third of the way."""
    net = built(HypersphericalMlp, (OBS, 64, 64, 2), KEY)
    widths = of_spherical_blocks((OBS, 64, 64, 2))
    assert [weight.shape for weight in net.weights] == list(itertools.pairwise(widths))
    assert widths == (OBS + 1, 64, 256, 64, 256, 64, 64, 2) and SHIFT == 3.0
    for scale, width in zip(net.scales, (64, 256, 256, 64), strict=True):
        np.testing.assert_allclose(scale, np.full((1, width), np.sqrt(2 / width)), rtol=1e-6)
    np.testing.assert_allclose(net.shares, 1 / 8, rtol=1e-6)  # 1/√64; the share itself is 1/3
    for weight in net.weights:
        np.testing.assert_allclose((np.asarray(weight) ** 2).sum(0), 1.0, rtol=1e-5)
    x = RNG.normal(size=(ROWS, OBS)).astype(np.float32)
    _, (before, after, _) = spherical_by_hand(net, x)
    wide = np.maximum(before @ float64(net.weights)[1], 0)
    np.testing.assert_allclose(after, of_length_1(2 / 3 * before + of_length_1(wide @ float64(net.weights)[2]) / 3))


def test_the_length_of_an_input_is_kept_by_the_constant_beside_it():
    """Without it x and 2 x would be one point of the sphere."""
    net, x = built(HypersphericalMlp, (OBS, WIDTH, 2), KEY), np.ones((1, OBS), np.float32)
    assert np.abs(to_host(net)(x) - to_host(net)(2 * x)).max() > 1e-3


def test_a_block_whose_units_are_all_off_has_an_output_and_a_slope():
    """It makes a row of zeros, which has no direction."""
    net = built(HypersphericalMlp, (OBS, WIDTH, 2), KEY)
    off = eqx.tree_at(lambda net: net.scales[1], net, jnp.asarray(np.zeros_like(net.scales[1])))
    value, slope = jax.jit(jax.value_and_grad(lambda x: off(x).sum()))(np.ones((1, OBS), np.float32))
    assert np.isfinite(value) and np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_weights_are_back_on_the_sphere_after_an_update_and_nothing_else_is_moved_by_that():
    algorithm = SimbaV2(hidden=(4,), policy_hidden=(4,), bins=5)
    (update,) = (update for update in algorithm.template(BOX).updates if update.component == "critic")
    nets = made(algorithm, OBS, BOX, KEY)
    y, action = (np.linspace(-1, end, ROWS, dtype=np.float32)[:, None] for end in (1, 3))
    data = jax.tree.map(jnp.asarray, Labelled((np.ones((ROWS, OBS), np.float32), action), y, np.ones_like(y)))
    fit, old = update.fit, nets.critic.net

    @jax.jit
    def fitted(critic):
        return fit(update.loss, critic, fit.init(critic), nets, data, KEY, jnp.ones((), jnp.int32))

    after, *_ = fitted(nets.critic)
    for before, weight in zip(old.weights, after.net.weights, strict=True):
        assert not np.array_equal(before, weight)
        np.testing.assert_allclose((np.asarray(weight, float) ** 2).sum(-2), 1.0, rtol=1e-5)
    long = eqx.tree_at(lambda net: net.weights, after.net, tuple(3 * np.asarray(w) for w in after.net.weights))
    projected = jax.jit(type(long).projected)(long)
    for kept in ("bias", "scales", "shares"):
        parts = (jax.tree.leaves(getattr(net, kept)) for net in (projected, after.net))
        for one, other in zip(*parts, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("make", [ResidualMlp, HypersphericalMlp])
def test_what_acts_on_the_host_is_what_was_compiled(make):
    policy = built(TanhGaussianPolicy, OBS, BOX, (WIDTH, WIDTH), KEY, make=make)
    obs, normal = RNG.normal(size=(ROWS, OBS)).astype(np.float32), RNG.normal(size=(ROWS, 1)).astype(np.float32)
    acted = host_view(to_host(policy)).act(obs, normal)
    assert isinstance(acted, np.ndarray) and acted.dtype == np.float32
    np.testing.assert_allclose(acted, jax.jit(type(policy).act)(policy, obs, normal), atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (SimBa, {"hidden": (8, 4)}),
        (SimBa, {"policy_hidden": (8, 4)}),
        (SimbaV2, {"policy_hidden": (8, 4)}),
        (XQC, {"hidden": (8, 4), "normalization": "residual"}),
    ],
)
def test_blocks_of_other_widths_are_refused(cls, settings):
    with pytest.raises(UserError, match="found widths 8, 4, expected one width for all blocks"):
        cls(**settings)


@pytest.mark.parametrize("make", [ResidualMlp, HypersphericalMlp])
def test_nothing_is_proven_of_a_network_of_blocks_and_a_sentence_says_so(make):
    critic = built(QNetwork, OBS, BOX, (WIDTH,), KEY, make=make)
    assert f"found a critic on {make.__name__} with the head OneValue, of which no sound bound" in unproven(critic)


def test_weights_decay_and_the_temperature_does_not():
    algorithm = SimBa(hidden=(4,), policy_hidden=(4,))
    nets = made(algorithm, OBS, BOX, KEY)
    for part, kept in ((nets.policy, 0.99), (nets.log_temperature, 1.0)):
        fit = algorithm.descend(1.0)

        @jax.jit
        def stepped(part, fit=fit):
            change, _ = fit.optimizer.update(jax.tree.map(jnp.zeros_like, part), fit.init(part), part)
            return optax.apply_updates(part, change)

        for before, after in zip(*map(jax.tree.leaves, (part, stepped(part))), strict=True):
            np.testing.assert_allclose(after, kept * np.asarray(before), rtol=1e-6, atol=1e-9)
