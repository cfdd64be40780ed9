"""Which maximizer a critic gets over a set of actions, a user's among them."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fittedq
from fittedq import Box, Dataset, ExplicitFQI, Mixed, Polytope, StateBox, UserError
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.saved import as_saved, restored
from fittedq.approx.function import FunctionCritic
from fittedq.approx.linear import LinearCritic, Polynomial
from fittedq.approx.networks import QNetwork
from fittedq.approx.trees import Forest, TreeCritic
from fittedq.diagnose.gap import amortization_gap
from fittedq.maximize.base import AbstractMaximizer, Solution, Status
from fittedq.maximize.choose import Effort, auto, exact, only_certified, only_exact, proven
from fittedq.maximize.exact.integer import Exhaustive, IntegerArgmax
from fittedq.maximize.exact.milp import MilpArgmax
from fittedq.maximize.exact.trees import TreeArgmax
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.maximize.proofs.proven import CertifiedArgmax
from fittedq.template.greedy import Solved
from fittedq.types import AbstractCritic, Components
from methods import built

LINE, PLANE = Box([-1.0], [1.0]), Box([-1.0, -1.0], [1.0, 1.0])
CUT = Polytope(PLANE.low, PLANE.high, [[1.0, 1.0]], [0.5])


def network(action_set: AbstractActionSet) -> QNetwork:
    return built(QNetwork, 2, action_set, (4,), jax.random.key(0))


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


GRID = Mixed(Box([-2.0, -2.0], [2.0, 2.0]), [0, 1])
BINARY = Mixed(Box([0.0, 0.0], [1.0, 1.0]), [0, 1])


def log() -> Dataset:
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(30, 2)).astype(np.float32), rng.uniform(0, 1, (30, 2)).astype(np.float32)
    columns = {"obs": obs, "action": action, "reward": obs[:, 0], "next_obs": obs, "terminated": np.zeros(30, bool)}
    return Dataset.from_arrays(**columns, action_low=[0, 0], action_high=[1, 1])


@pytest.mark.parametrize(
    ("word", "critic"),
    [("milp", network(PLANE)), ("milp", network(GRID)), ("milp", network(CUT)), ("exhaustive", network(GRID)),
     ("exhaustive", trees(GRID)), ("integer_quadratic", polynomial(BINARY)),
     ("integer_quadratic", polynomial(GRID, 1))],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_an_exact_maximizer_by_word_finds_what_trying_every_action_finds(word, critic):
    rng = np.random.default_rng(1)
    obs = rng.normal(size=(3, 2)).astype(np.float32)
    if isinstance(critic, TreeCritic):
        inputs = rng.normal(size=(40, 2)), np.round(rng.uniform(-2, 2, (40, 2)))
        critic = critic.fit(tuple(part.astype(np.float32) for part in inputs), rng.normal(size=40), seed=0)
    if isinstance(critic, LinearCritic):
        critic = LinearCritic(critic.features, rng.normal(size=critic.weights.shape), critic.action_set)
    ends = [np.linspace(low, high, 5) for low, high in zip(critic.action_set.low, critic.action_set.high, strict=True)]
    tried = np.stack(np.meshgrid(*ends), axis=-1).reshape(-1, 2).astype(np.float32)
    tried = tried[
        (np.asarray(critic.action_set.project(tried, np.zeros((len(tried), 2), np.float32))) == tried).all(axis=1)
    ]
    most = [np.asarray(critic.least(np.tile(row, (len(tried), 1)), tried)).max() for row in obs]
    greedy = ExplicitFQI(maximizer=word).solved(critic.action_set)(
        Components(critic=critic), obs, jax.random.PRNGKey(0)
    )
    value = np.asarray(critic.least(obs, np.asarray(greedy.action, np.float32)))
    assert (value >= np.asarray(most) - 2e-3 * np.maximum(1, np.abs(most))).all()
    assert (np.asarray(greedy.upper_bound) >= value - 1e-4).all()
    whole = list(critic.action_set.integer)
    np.testing.assert_array_equal(np.asarray(greedy.action)[:, whole], np.round(np.asarray(greedy.action)[:, whole]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"maximizer": "milp", "approximator": "extra_trees"}, "MilpArgmax: found a TreeCritic, expected a QNetwork"),
        ({"maximizer": "milp", "activation": "tanh"}, "MilpArgmax: found an activation that is not piecewise linear"),
        ({"maximizer": "milp", "layer_norm": True}, "MilpArgmax: found layer norm"),
        ({"maximizer": "milp", "hidden": ()}, "MilpArgmax: found a critic without a hidden layer"),
        ({"maximizer": "exhaustive"}, r"Exhaustive: found the continuous dimensions \[0, 1\]"),
        ({"maximizer": "exhaustive:3", "action_set": BINARY}, r"Exhaustive: found 4 points .*, expected at most 3"),
        ({"maximizer": "integer_quadratic"}, "IntegerArgmax: found a QNetwork, expected a LinearCritic"),
        (
            {"maximizer": "integer_quadratic", "approximator": "radial"},
            "IntegerArgmax: found features that are no",
        ),
        ({"maximizer": TreeArgmax()}, "TreeArgmax: found a QNetwork, expected a TreeCritic"),
    ],
)
def test_a_maximizer_that_does_not_read_the_critic_is_refused_before_anything_is_learned(settings, said, tmp_path):
    with pytest.raises(UserError, match=f"setting maximizer: {said}"):
        fittedq.fit("explicit_fqi", log(), steps=1, out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_an_exact_maximizer_by_word_labels_is_saved_and_acts(tmp_path):
    kwargs = {"approximator": "polynomial", "action_set": BINARY, "ridge": 1e-2}
    agents = [
        fittedq.fit("explicit_fqi", log(), steps=2, maximizer=word, **kwargs)
        for word in ("exhaustive", "integer_quadratic")
    ]
    for agent in agents:
        assert set(np.ravel(agent.act(log().transitions(slice(None)).obs))) <= {0.0, 1.0}
    np.testing.assert_allclose(agents[0].nets.critic.weights, agents[1].nets.critic.weights, rtol=1e-3, atol=1e-4)
    agents[0].save(tmp_path / "agent")
    assert fittedq.load(tmp_path / "agent").algorithm.maximizer == "exhaustive"
    words = {
        "exhaustive:50": Exhaustive(50),
        "integerargmax:0.01": IntegerArgmax(0.01),
        "milpargmax:0.01:3": MilpArgmax(0.01, 3.0),
        " milp:0.01:3": MilpArgmax(0.01, 3.0),
        "ascent:7": ProjectedAscent(7),
        "certified:0.5:1": CertifiedArgmax(0.5, 1.0),
        "certified:0.5:1:30": CertifiedArgmax(0.5, 1.0, 30.0),
    }
    for word, made in words.items():
        method = ExplicitFQI(maximizer=word)
        assert method.maximizer == made
        about = {"algorithm": method.name, "settings": json.loads(json.dumps(as_saved(method)))}
        assert restored(about, {}, "FILE") == method
    with pytest.raises(UserError, match=r"expected certified:TOL:STATE_SECONDS:SECONDS .*, numbers all: tol = -1"):
        ExplicitFQI(maximizer="certified:-1")
    with pytest.raises(UserError, match=r"CertifiedArgmax: tol: found 0\.0, expected a number above 0"):
        CertifiedArgmax(0.0)
