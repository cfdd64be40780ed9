"""Which maximizer a critic gets over a set of actions, a user's among them."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fittedq import Box, Mixed, Polytope, StateBox, UserError
from fittedq.actions.base import AbstractActionSet
from fittedq.approx.function import FunctionCritic
from fittedq.approx.linear import LinearCritic, Polynomial
from fittedq.approx.networks import QNetwork
from fittedq.approx.trees import Forest, TreeCritic
from fittedq.diagnose.gap import amortization_gap
from fittedq.maximize.base import AbstractMaximizer, Solution, Status
from fittedq.maximize.choose import Effort, auto, exact, only_certified, only_exact, proven
from fittedq.template.greedy import Solved
from fittedq.types import AbstractCritic, Components

LINE, PLANE = Box([-1.0], [1.0]), Box([-1.0, -1.0], [1.0, 1.0])
CUT = Polytope(PLANE.low, PLANE.high, [[1.0, 1.0]], [0.5])


def network(action_set: AbstractActionSet) -> QNetwork:
    return QNetwork(2, action_set, (4,), jax.random.key(0))


def trees(action_set: AbstractActionSet) -> TreeCritic:
    return TreeCritic.start(action_set, Forest(n_trees=2))


def polynomial(action_set: AbstractActionSet, degree: int = 2) -> LinearCritic:
    return LinearCritic.start(Polynomial(degree), 2, action_set)


@pytest.mark.parametrize(
    ("critic", "quick", "ends_exact", "bounded"),
    [
        (network(LINE), "ProjectedAscent", None, "CertifiedArgmax"),
        (network(CUT), "ProjectedAscent", None, "CertifiedArgmax"),
        (trees(LINE), "TreeSweep", "TreeSweep", "TreeSweep"),
        (trees(PLANE), "CrossEntropy", "TreeArgmax", "TreeArgmax"),
        (trees(CUT), "CrossEntropy", None, None),
        (polynomial(PLANE), "QuadraticArgmax", "QuadraticArgmax", "QuadraticArgmax"),
        (polynomial(StateBox(lambda s: s[:, :1], lambda s: s[:, :1] + 1, LINE)), *["QuadraticArgmax"] * 3),
        (polynomial(CUT), "ProjectedAscent", None, "QuadraticArgmax"),
        (polynomial(Mixed(PLANE, [0])), "ProjectedAscent", None, "QuadraticArgmax"),
        (polynomial(LINE, 3), "ProjectedAscent", None, None),
        (LinearCritic(Polynomial(1), np.zeros((2, 4), np.float32), LINE), "ProjectedAscent", None, None),
        (FunctionCritic(lambda s, a: a[:, 0], LINE), "ProjectedAscent", None, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, AbstractCritic) else str(value),
)
def test_a_critic_over_a_set_has_the_maximizer_that_reads_it(critic, quick, ends_exact, bounded):
    found = [choose(critic, critic.action_set, Effort()) for choose in (exact, proven)]
    assert [one and type(one).__name__ for one in found] == [ends_exact, bounded]
    assert type(auto(critic, critic.action_set)).__name__ == quick
    if ends_exact is None:
        with pytest.raises(UserError, match="there is no exact one"):
            only_exact(critic, critic.action_set)


def test_only_networks_are_certified():
    assert only_certified(network(LINE), LINE).on_host
    with pytest.raises(UserError, match="certified bounds networks, found a TreeCritic"):
        only_certified(trees(LINE), LINE)


class Peak(AbstractCritic):
    """q(s, a) = −|a − peak|, a critic of a user's."""

    peak: Any
    action_set: Box
    has_gradient: ClassVar[bool] = True

    @property
    def size(self) -> int:
        return 1

    def subset(self, indices):
        return self

    def __call__(self, obs, action, key=None):
        return -jnp.abs(jnp.asarray(action) - self.peak).sum(axis=-1)[None]


class PeakArgmax(AbstractMaximizer[Peak]):
    """Its maximum, the peak in the box."""

    needs_starts: ClassVar[bool] = False
    on_host: ClassVar[bool] = False

    def __call__(self, critic, obs, action_set, starts=None, key=None):
        del starts, key
        action = action_set.project(jnp.tile(jnp.asarray(critic.peak), (obs.shape[0], 1)), obs)
        value = critic.least(obs, action)
        return Solution(action, value, value, jnp.full(obs.shape[0], Status.EXACT, jnp.int32))


@exact.register
def _(critic: Peak, action_set: AbstractActionSet, effort: Effort) -> AbstractMaximizer | None:
    del critic, action_set, effort
    return PeakArgmax()


def test_a_users_critic_is_solved_by_the_maximizer_registered_for_it():
    critic = Peak(peak=np.array([2.0], np.float32), action_set=LINE)
    obs = np.zeros((3, 2), np.float32)
    greedy = jax.jit(Solved())(Components(critic=critic), obs, jax.random.PRNGKey(0))
    np.testing.assert_array_equal(greedy.action, np.ones((3, 1)))
    np.testing.assert_array_equal(greedy.upper_bound, -np.ones(3))
    gap = amortization_gap(critic, obs, np.zeros((3, 1), np.float32), LINE)
    np.testing.assert_allclose(gap.lower, 1.0)
    np.testing.assert_allclose(gap.upper, 1.0)
    assert gap.statuses == {"exact": 3}
