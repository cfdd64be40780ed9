"""The penalty on saturation, against its formula; and the preset that has it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fittedq
from fittedq.actions.base import Box
from fittedq.algorithms.presets import preset_for
from fittedq.approx.networks import DeterministicPolicy, QNetwork, TanhGaussianPolicy
from fittedq.template.losses import Improve
from fittedq.template.targets import FirstCritic
from fittedq.types import Components
from methods import built

KEY = jax.random.PRNGKey(0)
BOX = Box((-2.0, 0.0), (2.0, 1.0))


def far_out(factor: float) -> Components:
    """A policy whose last layer is so many times as large, and a critic."""
    policy = built(DeterministicPolicy, 3, BOX, (8,), KEY)
    large = eqx.tree_at(lambda one: one.net.weights[-1], policy, factor * policy.net.weights[-1])
    return Components(critic=built(QNetwork, 3, BOX, (8,), KEY), policy=large)


def test_the_penalty_is_the_mean_square_of_what_is_squashed() -> None:
    nets, obs = far_out(5.0), jax.random.normal(KEY, (64, 3))
    plain, _ = Improve(FirstCritic())(nets.policy, nets, obs, KEY)
    held, _ = Improve(FirstCritic(), 0.3)(nets.policy, nets, obs, KEY)
    action = nets.policy.act(obs, jnp.zeros((64, 2)))
    z = jnp.arctanh((action - jnp.array([0.0, 0.5])) / jnp.array([2.0, 0.5]))
    assert float(held - plain) == pytest.approx(0.3 * float(jnp.mean(z**2)), rel=1e-3)


def test_a_saturated_policy_has_a_gradient_with_it_and_none_without() -> None:
    nets, obs = far_out(1e4), jax.random.normal(KEY, (64, 3))

    def slope(saturation: float) -> float:
        def loss(policy):
            return Improve(FirstCritic(), saturation)(policy, nets, obs, KEY)[0]

        return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(eqx.filter_grad(loss)(nets.policy)))

    assert slope(0.0) < 1e-3 < 1.0 < slope(1e-3)


def test_it_is_refused_where_nothing_saturates() -> None:
    nets = Components(critic=built(QNetwork, 3, BOX, (8,), KEY), policy=built(TanhGaussianPolicy, 3, BOX, (8,), KEY))
    with pytest.raises(fittedq.UserError, match="a TanhGaussianPolicy is no DeterministicPolicy"):
        Improve(FirstCritic(), 1e-3).check_components(nets)
    with pytest.raises(fittedq.UserError, match="saturation"):
        fittedq.train("td3", "Pendulum-v1", steps=10, saturation=-1.0)


def test_the_preset_trains_a_plant_by_its_name_alone_on_the_device_and_on_the_host() -> None:
    settings = preset_for("plant", "td3").settings
    assert settings["saturation"] and settings["keep"] == "average"
    small = {"hidden": (8,), "random_steps": 8, "batch_size": 8}
    for env in ("jax/Pendulum-v1", "Pendulum-v1"):
        agent = fittedq.train("auto", env, steps=24, preset="plant", **small)
        assert agent.algorithm.saturation == settings["saturation"]
        assert np.isfinite(agent.act(np.array([1.0, 0.0, 0.0]))).all()
