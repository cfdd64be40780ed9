"""How a component is fitted is a slot: what each fit does with D, and templates that lack what a slot needs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fittedq.actions.base import Box
from fittedq.approx.linear import LinearCritic, Polynomial, RadialBasis
from fittedq.approx.trees import Forest, TreeCritic
from fittedq.errors import UserError
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.template.fits import Budget, Descend, Fitted, GrowTrees, LeastSquares, WholeFit
from fittedq.template.fqi import FQI, Copy, Polyak, Sync, Update
from fittedq.template.greedy import PolicyAction, Solved
from fittedq.template.losses import AbstractLoss, Imitate, Improve, Regress, TuneTemperature
from fittedq.template.rollout import ImproveThrough, NoTail, Rollout
from fittedq.template.targets import (
    AbstractTarget,
    Bellman,
    BellmanFromValue,
    Clipped,
    FirstCritic,
    Labelled,
    MinOverCritics,
)
from fittedq.types import Components, Transition, sized

BOX = Box((-1.0,), (1.0,))
KEY = jax.random.PRNGKey(0)
SGD = Descend(optax.sgd(0.1))


class Constant(AbstractTarget):
    """y = r."""

    def __call__(self, nets, batch, greedy, key):
        return Labelled((batch.obs, batch.action), batch.reward)

    def value_range(self, nets, reward):
        return 2 * reward[0], 2 * reward[1]


def rows(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return (rng.uniform(-1, 1, (count, 1)).astype(np.float32), rng.uniform(-1, 1, (count, 1)).astype(np.float32))


def whole(component: Any, state: Any, data: Any, first: Any = None) -> WholeFit:
    return WholeFit(component, state, first, Components(), data, np.random.default_rng(0), KEY, 1)


def test_least_squares_solves_what_descent_only_approaches():
    obs, action = rows()
    y = (1 + 2 * obs + 3 * action)[:, 0]
    data = Labelled((obs, action), y)
    critic = LinearCritic.start(Polynomial(1), 1, BOX)
    (end,) = LeastSquares().over(Regress(Constant()))(whole(critic, (), data))
    np.testing.assert_allclose(end.component.weights, [[1.0, 2.0, 3.0]], atol=1e-5)
    assert (end.done, end.steps, end.state) == (1.0, 1, ())


def test_trees_take_new_cuts_in_each_fit_and_the_same_ones_for_the_same_stream():
    obs, action = rows()
    data = Labelled((obs, action), (obs * action)[:, 0])
    critic = TreeCritic.start(BOX, Forest(n_trees=3))
    fit = GrowTrees().over(Regress(Constant()))
    start = whole(critic, (), data)
    (one,), (two,) = fit(start), fit(start)
    (again,) = fit(whole(critic, (), data))
    at = (obs + 0.01, action)
    assert not np.array_equal(one.component(*at), two.component(*at))
    np.testing.assert_array_equal(one.component(*at), again.component(*at))
    # Saved arrays are longer than the first ones; a component is read back in its own size.
    arrays = {f"nets/critic/{name}": np.asarray(getattr(one.component, name)) for name in ("threshold", "child")}
    assert sized(Components(critic=critic), arrays).critic.child.shape == one.component.child.shape
    assert sized(Components(critic=critic), {}).critic.child.shape == critic.child.shape


def test_radial_features_stand_on_rows_of_the_dataset():
    obs, action = rows()
    start = RadialBasis(np.zeros((5, 2), np.float32), np.ones(2, np.float32))
    critic = LinearCritic.start(start, 1, BOX)
    centers = LeastSquares(centers=5).prepared(critic, (obs, action)).features.centers
    pairs = set(map(tuple, np.concatenate([obs, action], axis=1).tolist()))
    assert len(set(map(tuple, centers.tolist())) & pairs) == 5
    assert LeastSquares().prepared(critic, (obs, action)) is critic


class Slope(AbstractLoss):
    """w: its gradient is one, whatever the rows."""

    def label(self, nets, batch, greedy, key):
        return batch.obs

    def __call__(self, component, nets, data, key):
        return component, {"seen": jnp.sum(data)}


@pytest.mark.parametrize(("reset", "ends"), [(False, 4.0), (True, 9.0)])
def test_a_fit_starts_from_the_last_parameters_or_the_first(reset: bool, ends: float):
    """Six steps of size 1: three passes over four rows in minibatches of two, down from 10 or from 15."""
    fit = Descend(optax.sgd(1.0), Budget(epochs=3, minibatch=2, reset=reset))
    last, first = jnp.asarray(10.0), jnp.asarray(15.0)
    *on_the_way, end = fit.over(Slope())(whole(last, fit.init(last), np.ones((4, 1), np.float32), first))
    assert float(end.component) == ends
    assert sum(step.steps for step in on_the_way) == 6
    assert [step.done for step in on_the_way] == pytest.approx([0, 1 / 3, 2 / 3])
    assert end.done == 1.0 and end.figures["seen"] == 2.0
    assert isinstance(end, Fitted) and float(last) == 10.0  # what was handed in is as it was


def test_a_small_log_is_passed_over_until_there_are_steps_enough():
    """Five rows in minibatches of two are two steps a pass; 25 steps are 13 passes, so 26 steps."""
    last = jnp.asarray(10.0)
    budget = Budget(epochs=3, minibatch=2, least=25)
    assert (budget.passes(2), Budget(epochs=3, least=5).passes(2), Budget(epochs=3).passes(0)) == (13, 3, 3)
    fit = Descend(optax.sgd(1.0), budget)
    *on_the_way, end = fit.over(Slope())(whole(last, fit.init(last), np.ones((5, 1), np.float32), last))
    assert float(end.component) == 10.0 - 26
    assert [step.done for step in on_the_way] == pytest.approx(np.arange(13) / 13)


def test_a_target_is_clipped_to_the_range_that_rewards_allow_or_to_its_own():
    y = np.array([-9.0, 0.5, 9.0], np.float32)
    data = Labelled((y[:, None], y[:, None]), y)
    batch = Transition(y[:, None], y[:, None], y, y[:, None], y > 100, y > 100)
    seen, fixed = Clipped(Constant()), Clipped(Constant(), range=(-1.0, 3.0))
    settled, figures = seen.settled(data, Components(), (-1.0, 2.0))
    np.testing.assert_array_equal(settled.y, [-2.0, 0.5, 4.0])
    assert figures == {"max_abs_target": 4.0, "largest_value": 4.0}
    np.testing.assert_array_equal(fixed(Components(), batch, None, KEY).y, [-1.0, 0.5, 3.0])
    unclipped, figures = Constant().settled(data, Components(), (-1.0, 2.0))
    assert unclipped is data and figures["max_abs_target"] == 9.0


# ---------------------------------------------------------------------- what a slot needs

CRITIC = Update("critic", Regress(Bellman(0.9, FirstCritic())), SGD)
COPIED = Sync(critic=Copy())
NETS = Components(critic=LinearCritic.start(Polynomial(1), 1, BOX))


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (CRITIC, "update of critic: Bellman needs an action at s', and the template has no greedy step"),
        (Update("policy", Imitate(), SGD), "update of policy: Imitate needs an action at s'"),
        (Update("log_temperature", TuneTemperature(-1.0), SGD), "TuneTemperature needs an action at s'"),
    ],
)
def test_a_template_without_a_greedy_step_refuses_slots_that_need_one(update: Update, words: str):
    with pytest.raises(UserError, match=words):
        FQI((update,), COPIED)


def test_imitation_needs_a_solver():
    with pytest.raises(UserError, match="Imitate needs actions that a solver found"):
        FQI((Update("policy", Imitate(), SGD),), COPIED, PolicyAction())
    FQI((Update("policy", Imitate(), SGD),), COPIED, Solved(ProjectedAscent()))


@pytest.mark.parametrize(
    ("fqi", "words"),
    [
        (FQI((CRITIC,), COPIED, PolicyAction()), "greedy: PolicyAction needs a policy, and there is none"),
        (FQI((Update("critic", Regress(BellmanFromValue(0.9)), SGD),), COPIED), "BellmanFromValue needs a value"),
        (FQI((Update("policy", Improve(MinOverCritics()), SGD),), COPIED), "^policy: there is none among the compon"),
        (FQI((), Sync(value=Polyak(0.1))), "^value: there is none among the components"),
        (FQI((Update("critic", ImproveThrough(Rollout(3, 0.9, NoTail())), SGD),), COPIED), "Rollout needs a model"),
    ],
)
def test_a_slot_without_its_component_is_one_sentence(fqi: FQI, words: str):
    with pytest.raises(UserError, match=words):
        fqi.check(NETS)


@pytest.mark.parametrize(
    "update",
    [
        Update("critic", Regress(Constant()), LeastSquares()),
        Update("critic", Regress(Constant()), GrowTrees()),
        Update("critic", Regress(Clipped(Constant())), SGD),
    ],
)
def test_what_needs_a_whole_dataset_refuses_batches(update: Update):
    fqi = FQI((update,), COPIED)
    fqi.check(NETS)
    with pytest.raises(UserError, match=r"update of critic: \w+ needs a whole dataset"):
        fqi.check_batches()
    FQI((Update("critic", Regress(Clipped(Constant(), (0.0, 1.0))), SGD),), COPIED).check_batches()


def test_own_fits_inside_a_compiled_update_are_a_sentence():
    column, flag = np.zeros((2, 1), np.float32), np.zeros(2, bool)
    batch = Transition(column, column, column[:, 0], column, flag, flag)
    with pytest.raises(UserError, match="LeastSquares: fits all of a dataset at once"):
        FQI((Update("critic", Regress(Constant()), LeastSquares()),), COPIED).init(NETS, KEY, batch)
