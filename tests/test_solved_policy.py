"""A controller that solves for its action, against brute force over a fine grid."""

import equinox as eqx
import jax
import numpy as np
import pytest

from fittedq.actions.base import Box
from fittedq.approx.networks import QNetwork
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.template.greedy import Solved, SolvedPolicy
from fittedq.types import Components

STATES, GRID = 200, 1001


def hilly(seed: int) -> QNetwork:
    """q with several maxima along its one action in most states."""
    critic = QNetwork(2, Box([-1.0], [1.0]), (32, 32), jax.random.PRNGKey(seed), activation="tanh")
    return eqx.tree_at(lambda c: c.net.weights[0], critic, replace_fn=lambda w: w.at[..., 2, :].multiply(12.0))


def shortfall(policy: SolvedPolicy, critic: QNetwork, obs: np.ndarray) -> np.ndarray:
    """What each action is below the maximum of a grid, as a share of q's range there."""
    action = np.linspace(-1, 1, GRID, dtype=np.float32)[:, None]
    values = np.asarray(jax.vmap(lambda s: critic.least(jax.numpy.tile(s, (GRID, 1)), action))(obs))
    taken = np.asarray(critic.least(obs, policy.act(obs, np.zeros((len(obs), 1), np.float32))))
    return (values.max(1) - taken) / (values.max(1) - values.min(1))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_controller_climbs_the_highest_of_many_hills(seed: int):
    """From two random points it ends on a lower one in some states of either critic, up to .16 of the range."""
    critic = hilly(seed)
    obs = np.random.default_rng(0).normal(size=(STATES, 2)).astype(np.float32)
    policy = SolvedPolicy(Solved(ProjectedAscent(), random_starts=2), Components(critic=critic))
    assert shortfall(policy, critic, obs).max() < 0.01
