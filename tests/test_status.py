"""One enumeration says how every search ended, and every reader of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fittedq.actions.base import Box
from fittedq.approx.function import FunctionCritic
from fittedq.approx.linear import LinearCritic, Polynomial
from fittedq.approx.networks import QNetwork
from fittedq.approx.trees import Forest, TreeCritic
from fittedq.diagnose.gap import amortization_gap
from fittedq.maximize.base import Chunked, Solution, Status, solve
from fittedq.maximize.exact.grid import Grid
from fittedq.maximize.exact.integer import exhaustive, integer_quadratic
from fittedq.maximize.exact.milp import milp
from fittedq.maximize.exact.quadratic import QuadraticArgmax
from fittedq.maximize.exact.sweep import TreeSweep
from fittedq.maximize.exact.trees import TreeArgmax
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.maximize.local.cem import CrossEntropy
from fittedq.maximize.local.lbfgs import ProjectedLBFGS
from fittedq.maximize.local.reference import ScipyLBFGSB
from fittedq.maximize.proofs.certified import certified
from fittedq.maximize.proofs.proven import CertifiedArgmax
from methods import built

BOX = Box([-1.0], [1.0])
OBS = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def network() -> QNetwork:
    return built(QNetwork, 2, BOX, (4,), jax.random.key(0))


def quadratic() -> LinearCritic:
    critic = LinearCritic.start(Polynomial(2), 2, BOX, np.float32)
    return LinearCritic(critic.features, -np.ones_like(critic.weights), BOX)


def trees() -> TreeCritic:
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(40, 2)), rng.uniform(-1, 1, (40, 1))
    return TreeCritic.start(BOX, Forest(n_trees=2)).fit((obs, action), action[:, 0])


def hill(obs, action):
    return -jnp.sum(action**2, axis=-1) + obs[..., 0]


def local(maximizer, search=solve) -> Solution:
    key = jax.random.key_data(jax.random.key(0))
    return search(maximizer, FunctionCritic(hill, BOX), jnp.asarray(OBS), BOX, jnp.full((3, 1, 1), 0.5), key)


SOLVERS = {
    "ascent": lambda: local(ProjectedAscent(steps=2)),
    "chunked": lambda: local(Chunked(ProjectedAscent(steps=2), 2)),
    "cem": lambda: local(CrossEntropy(iterations=1)),
    "grid": lambda: local(Grid(points=3)),
    "lbfgs": lambda: local(ProjectedLBFGS(steps=2)),
    "reference": lambda: local(ScipyLBFGSB(), search=ScipyLBFGSB.__call__),
    "certified": lambda: certified(network(), OBS, BOX),
    "certified, stopped": lambda: certified(network(), OBS, BOX, tol=1e-9, time_limit=0.0),
    "certified maximizer": lambda: CertifiedArgmax()(network(), OBS, BOX),
    "milp": lambda: milp(network(), OBS, BOX),
    "milp, stopped": lambda: milp(network(), OBS, BOX, tol=1e-9, time_limit=0.0),
    "exhaustive": lambda: exhaustive(network(), OBS, BOX, integer=(0,)),
    "integer": lambda: integer_quadratic(quadratic(), OBS, BOX, integer=(0,)),
    "quadratic": lambda: QuadraticArgmax()(quadratic(), OBS, BOX),
    "sweep": lambda: TreeSweep()(trees(), OBS, BOX),
    "trees": lambda: TreeArgmax()(trees(), OBS, BOX),
    "trees, stopped": lambda: TreeArgmax(state_seconds=0.0)(trees(), OBS, BOX),
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_ends_in_a_status_that_has_a_name(solver):
    status = np.asarray(SOLVERS[solver]().status)
    assert status.dtype == np.int32 and status.shape == (3,)
    assert {int(one) for one in status} <= {int(one) for one in Status}
    assert sum(Status.counts(status).values()) == 3


def test_every_status_is_a_sentence_of_its_own():
    assert [int(one) for one in Status] == list(range(len(Status)))
    sentences = [one.sentence for one in Status]
    assert len(set(sentences)) == len(Status) and all(one[0].isupper() and one.endswith(".") for one in sentences)
    assert Status.TIME_LIMIT.label == "time limit"
    assert Status.counts([5, 8, 5]) == {"optimal": 2, "rounded": 1}
    with pytest.raises(ValueError, match="99"):
        Status.counts([99])


def test_the_gap_says_how_its_searches_ended():
    policy = np.zeros((3, 1), np.float32)
    assert amortization_gap(network(), OBS, policy, BOX).statuses == {"optimal": 3}
    assert amortization_gap(trees(), OBS, policy, BOX).statuses == {"exact": 3}
