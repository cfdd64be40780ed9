"""Over many rows a search goes on from its last answers: how many evaluations that saves, and what it never costs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fittedq.actions.base import Box
from fittedq.algorithms.amortized_fqi import AmortizedFQI
from fittedq.approx.networks import QNetwork
from fittedq.data.dataset import Dataset
from fittedq.maximize.base import BestStart, Chunked, random_starts, shorter, solve
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.maximize.local.cem import CrossEntropy
from fittedq.maximize.local.lbfgs import ProjectedLBFGS
from fittedq.template.fits import Budget, Descend, WholeFit
from fittedq.template.greedy import Solved
from fittedq.template.losses import Imitate, Imitated
from fittedq.trainers.iterations import FittedTrainer
from fittedq.trainers.settings import FitSettings
from fittedq.trainers.solutions import SAMPLE, SEARCHED, RowsActing, Solutions
from fittedq.types import AbstractCritic, Components
from methods import built

BOX = Box((-1.0,), (1.0,))
KEY = jax.random.PRNGKey(0)
ROWS, FEW = 4 * SEARCHED, SEARCHED + SEARCHED // 2
OBS = np.random.default_rng(0).uniform(-0.9, 0.9, (ROWS, 1)).astype(np.float32)
EVALUATED: list[int] = []


class Peaks(AbstractCritic):
    """q = 100 s + max(0, 1 − 9 (a − s)²) + h max(0, 1 − 9 (a + s)²): tops at s and −s, the second h high; it counts
    the rows it evaluates."""

    action_set: Box
    height: Any

    @property
    def size(self):
        return 1

    def __call__(self, obs, action, key=None):
        jax.debug.callback(lambda: EVALUATED.append(obs.shape[0]))
        own, other = (jnp.maximum(0, 1 - 9 * (action - sign * obs)[:, 0] ** 2) for sign in (1, -1))
        return (100 * obs[:, 0] + own + self.height * other)[None]

    def subset(self, indices):
        return self


class Slope(AbstractCritic):
    """q = size · s · a; it counts the rows it evaluates."""

    action_set: Box
    height: Any

    @property
    def size(self):
        return 1

    def __call__(self, obs, action, key=None):
        jax.debug.callback(lambda: EVALUATED.append(obs.shape[0]))
        return (self.height * obs[:, 0] * action[:, 0])[None]

    def subset(self, indices):
        return self


def peaks(height: float) -> Components:
    return Components(critic=Peaks(BOX, jnp.asarray(height)))


def answered(acting: RowsActing, nets: Components, n: int, solutions: Solutions) -> tuple[np.ndarray, int]:
    """q at the answers for all rows, and the rows that were evaluated for them."""
    EVALUATED.clear()
    actions = np.empty_like(solutions.action)
    for _ in acting(nets, n, KEY, OBS.__getitem__, solutions, actions):
        pass
    jax.effects_barrier()
    count = sum(EVALUATED)
    return np.asarray(nets.critic.least(OBS[: len(actions)], actions)), count


def test_where_the_last_answers_hold_a_sixth_of_the_evaluations_gives_the_same_labels():
    """Full: 3 starts · 51 values and gradients a row. Shortened: 5 values, 12 with a gradient, and a full sample."""
    full, short = (RowsActing(Solved(ProjectedAscent(), 2, tolerance=one), 0) for one in (0.0, 1e-3))
    solutions = Solutions.none(ROWS, BOX)
    _, before = answered(full, peaks(0.5), 1, solutions)
    assert before == ROWS * 3 * 51
    again = solutions.copy()
    best, _ = answered(full, peaks(0.4), 2, solutions)
    value, after = answered(short, peaks(0.4), 2, again)
    assert after == ROWS * (5 + 1 + 11) + round(SAMPLE * ROWS) * 3 * 51
    assert after < before / 5
    assert (best - value).mean() < 1e-3


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_rows_at_a_limit_are_solved_by_a_look(size: float):
    """q = size · s · a rises towards a = sign s, by however little: no step is taken there."""
    nets = Components(critic=Slope(BOX, jnp.asarray(size)))
    acting, solutions = RowsActing(Solved(ProjectedAscent(), 2), 0), Solutions.none(ROWS, BOX)
    answered(RowsActing(Solved(ProjectedAscent(), 2, tolerance=0.0), 0), nets, 1, solutions)
    assert np.array_equal(solutions.action, np.sign(OBS))
    _, count = answered(acting, nets, 2, solutions)
    assert count == ROWS * (5 + 1) + round(SAMPLE * ROWS) * 3 * 51
    assert np.array_equal(solutions.action, np.sign(OBS))
    solutions.action[:] = 0.9 * np.sign(OBS)
    _, count = answered(acting, nets, 3, solutions)
    assert count >= ROWS * (5 + 1 + 11)
    np.testing.assert_allclose(solutions.action, np.sign(OBS), atol=0.05)


def test_a_sample_that_gains_has_all_rows_searched():
    """Every last answer lies on a top that the new q has sunk: the random starts of the full search alone find the
    other one, and a shortened search would stay."""
    solver = Solved(ProjectedAscent(), 2, tolerance=1e-4)
    acting, solutions = RowsActing(solver, 0), Solutions.none(ROWS, BOX)
    solutions.action[:] = OBS
    value, count = answered(acting, peaks(3.0), 2, solutions)
    assert count > ROWS * 3 * 51
    staying = 100 * OBS[:, 0] + 1
    apart = np.abs(OBS[:, 0]) > 0.5
    assert (value >= staying - 1e-3).all()
    assert np.mean(value[apart] > staying[apart] + 1.9) > 0.5


def test_no_search_over_rows_is_worse_than_the_last_answers():
    """Whatever q becomes: networks drawn anew each time."""
    acting, solutions = RowsActing(Solved(ProjectedAscent(steps=10), 1), 0), Solutions.none(FEW, BOX)
    for n in range(1, 4):
        critic = built(QNetwork, 1, BOX, (4,), jax.random.PRNGKey(n), n_critics=2)
        before = np.asarray(critic.least(OBS[:FEW], solutions.action))
        after, _ = answered(acting, Components(critic=critic), n, solutions)
        assert (after >= before - 1e-6).all()


@pytest.mark.parametrize(
    "search", [ProjectedAscent(), ProjectedLBFGS(), CrossEntropy(), Chunked(ProjectedAscent(), 7)], ids=repr
)
def test_a_shortened_search_is_never_worse_than_its_best_start(search: Any):
    critic = built(QNetwork, 1, BOX, (4,), KEY, n_critics=2)
    obs = jnp.asarray(OBS[:20])
    starts = random_starts(BOX, obs, 3, KEY)
    looked = solve(BestStart(), critic, obs, BOX, starts, KEY)
    best = np.max([critic.least(obs, starts[:, one]) for one in range(3)], axis=0)
    np.testing.assert_allclose(looked.value, best, atol=1e-6)
    found = solve(shorter(search), critic, obs, BOX, looked.action[:, None], KEY)
    assert (np.asarray(found.value) >= best - 1e-6).all()
    np.testing.assert_allclose(found.value, critic.least(obs, found.action), atol=1e-6)
    assert shorter(shorter(search)) != search


def test_labels_of_a_network_are_those_of_a_dense_grid():
    """After one iteration on a q and one on another nearby, of two critics with kinks."""
    acting, solutions = RowsActing(Solved(ProjectedAscent(), 2), 0), Solutions.none(FEW, BOX)
    first = built(QNetwork, 1, BOX, (8, 8), KEY, n_critics=2)
    second = jax.tree.map(lambda leaf: 1.02 * leaf + 0.01, first)
    grid = np.linspace(-1, 1, 401, dtype=np.float32)
    for n, critic in enumerate((first, second), 1):
        value, _ = answered(acting, Components(critic=critic), n, solutions)
    rows = np.arange(0, len(value), 16)
    every = jax.jit(lambda *both: second.least(*both))(
        np.repeat(OBS[rows], 401, 0), np.tile(grid, len(rows))[:, None]
    ).reshape(-1, 401)
    assert np.mean(every.max(1) - value[rows]) < 3e-3 * value.std()


def test_steps_on_any_number_of_rows_are_one_program():
    """Labels of amortized FQI change their number in every iteration."""
    policy = AmortizedFQI(hidden=(4,)).networks(1, BOX, KEY).policy
    fit = Descend(optax.sgd(0.1), Budget(1, 4))
    over = fit.over(Imitate())
    for count in (260, 300, 511, 513, 700):
        data = Imitated(OBS[:count], OBS[:count], np.ones(count, np.float32))
        start = WholeFit(policy, fit.init(policy), policy, Components(), data, np.random.default_rng(0), KEY, 1)
        assert sum(part.steps for part in over(start)) == count // 4
    assert over._steps._cache_size() == 1


def test_a_fit_that_was_interrupted_goes_on_bit_for_bit_from_its_last_answers():
    rows = SEARCHED + 100
    obs, action = OBS[:rows], OBS[-rows:]
    flags = np.zeros(rows, bool)
    columns = {"obs": obs, "action": action, "reward": -(obs**2)[:, 0], "next_obs": obs + 0.1 * action}
    data = Dataset.from_arrays(**columns, terminated=flags, action_low=-1, action_high=1)
    small = {"hidden": (4,), "epochs": 1, "solve_share": 1.0, "random_starts": 1, "n_critics": 1}
    algorithm = AmortizedFQI(maximizer=ProjectedAscent(steps=5), **small)

    def trainer() -> FittedTrainer:
        return FittedTrainer(algorithm, data, FitSettings(), seed=0)

    def finished(trainer: FittedTrainer, steps: int) -> FittedTrainer:
        while trainer.step < steps:
            trainer.advance(steps - trainer.step)
        return trainer

    whole, begun = finished(trainer(), 3), finished(trainer(), 2).snapshot()
    resumed = trainer()
    resumed.restore(begun.arrays, begun.meta, {})
    expected, found = whole.snapshot().arrays, finished(resumed, 3).snapshot().arrays
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
