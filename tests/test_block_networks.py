"""Networks of residual blocks, against their formulas in float64."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fittedq.actions.base import Box
from fittedq.algorithms.simba import SimBa
from fittedq.algorithms.xqc import XQC
from fittedq.approx.host import host_view, to_host
from fittedq.approx.networks import QNetwork, TanhGaussianPolicy
from fittedq.approx.residual import ResidualMlp, of_blocks
from fittedq.errors import UserError
from fittedq.maximize.base import Effort, proven
from fittedq.maximize.proofs.bounds import perceptron

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BOX = Box((-1.0,), (3.0,))
OBS, ROWS, WIDTH = 3, 5, 6


def shaken(net):
    """The network with every parameter moved, so that none is 0 or 1."""
    return jax.tree.map(lambda leaf: leaf + 0.3 * RNG.normal(size=leaf.shape).astype(np.float32), net)


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
    net = shaken(ResidualMlp((OBS, WIDTH, WIDTH, 2), KEY, lead=(2,)))
    x = RNG.normal(size=(ROWS, OBS)).astype(np.float32)
    expected = residual_by_hand(net, x)
    assert expected.shape == (2, ROWS, 2) and net.members == 2
    np.testing.assert_allclose(net(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(to_host(net)(x), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(net.by_batch(x)[0], net(x))


def test_a_residual_network_has_the_layers_that_its_memory_is_counted_by():
    widths = of_blocks((OBS, WIDTH, WIDTH, 2))
    net = ResidualMlp((OBS, WIDTH, WIDTH, 2), KEY)
    assert [weight.shape for weight in net.weights] == list(itertools.pairwise(widths))
    assert widths == (OBS, WIDTH, 4 * WIDTH, WIDTH, 4 * WIDTH, WIDTH, 2)


def test_the_ends_of_a_residual_network_start_orthonormal_and_its_blocks_with_variance_2_over_fan_in():
    first, up, *_, last = float64(ResidualMlp((5, 64, 2), KEY).weights)
    np.testing.assert_allclose(first @ first.T, np.eye(5), atol=1e-4)
    np.testing.assert_allclose(last.T @ last, np.eye(2), atol=1e-4)
    assert up.var() == pytest.approx(2 / 64, rel=0.1)


@pytest.mark.parametrize("make", [ResidualMlp])
def test_what_acts_on_the_host_is_what_was_compiled(make):
    policy = TanhGaussianPolicy(OBS, BOX, (WIDTH, WIDTH), KEY, make=make)
    obs, normal = RNG.normal(size=(ROWS, OBS)).astype(np.float32), RNG.normal(size=(ROWS, 1)).astype(np.float32)
    acted = host_view(to_host(policy)).act(obs, normal)
    assert isinstance(acted, np.ndarray) and acted.dtype == np.float32
    np.testing.assert_allclose(acted, policy.act(jnp.asarray(obs), jnp.asarray(normal)), atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (SimBa, {"hidden": (8, 4)}),
        (SimBa, {"policy_hidden": (8, 4)}),
        (XQC, {"hidden": (8, 4), "normalization": "residual"}),
    ],
)
def test_blocks_of_other_widths_are_refused(cls, settings):
    with pytest.raises(UserError, match="found widths 8, 4, expected one width for all blocks"):
        cls(**settings)


def test_nothing_is_proven_of_a_network_of_blocks_and_a_sentence_says_so():
    critic = QNetwork(OBS, BOX, (WIDTH,), KEY, make=ResidualMlp)
    assert proven(critic, BOX, Effort()) is None
    with pytest.raises(UserError, match="found a critic on ResidualMlp with OneValue, expected a perceptron"):
        perceptron(critic)


def test_weights_decay_and_the_temperature_does_not():
    algorithm = SimBa(hidden=(4,), policy_hidden=(4,))
    nets = algorithm.networks(OBS, BOX, KEY)
    for part, kept in ((nets.policy, 0.99), (nets.log_temperature, 1.0)):
        fit = algorithm.descend(1.0)
        still = jax.tree.map(jnp.zeros_like, part)
        change, _ = fit.optimizer.update(still, fit.init(part), part)
        for before, after in zip(
            jax.tree.leaves(part), jax.tree.leaves(optax.apply_updates(part, change)), strict=True
        ):
            np.testing.assert_allclose(after, kept * before, rtol=1e-6, atol=1e-9)
