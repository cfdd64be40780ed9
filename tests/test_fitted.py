"""Fitted iterations over a dataset, against closed forms, exact reductions and the corrected stopping rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

import fittedq
from fittedq.algorithms import REGISTRY
from fittedq.algorithms.amortized_fqi import AmortizedFQI
from fittedq.algorithms.explicit_fqi import ExplicitFQI
from fittedq.algorithms.nfqca import NFQCA
from fittedq.algorithms.smooth_fqi import SmoothFQI
from fittedq.approx.linear import AbstractFeatures
from fittedq.arrays import namespace
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.maximize.exact.grid import Grid
from fittedq.problems.lqr import LinearQuadratic
from fittedq.settings import setting_fields
from fittedq.template.fits import Fitted, WholeFit
from fittedq.template.greedy import PartlySolved, Solved
from fittedq.template.rates import Linear
from fittedq.trainers.batches import BatchTrainer
from fittedq.trainers.iterations import FittedTrainer
from fittedq.trainers.settings import FitSettings
from fittedq.trainers.solutions import (
    AbstractSearch,
    SearchEffort,
    SearchHere,
    SolverAnswer,
    SolverCall,
    solver_over_rows,
)
from fittedq.types import Components
from methods import each

PLAIN = FitSettings(normalize_obs=False)


def lqr_data(rows: int = 400, seed: int = 0, bound: float = 4.0) -> Dataset:
    """r = −(s² + a²), s' = s + a, noiseless, on states and actions drawn evenly."""
    rng = np.random.default_rng(seed)
    obs, action = rng.uniform(-2, 2, (rows, 1)), rng.uniform(-2, 2, (rows, 1))
    return Dataset.from_arrays(
        obs=obs,
        action=action,
        reward=-(obs**2 + action**2)[:, 0],
        next_obs=obs + action,
        terminated=np.zeros(rows, bool),
        truncated=np.zeros(rows, bool),
        action_low=-bound,
        action_high=bound,
    )


def bounded_data(rows: int = 2_000) -> Dataset:
    """r = −s², s' = s + a, |a| ≤ 1, whose value is −Σ γᵏ max(|s| − k, 0)² (theory, G7)."""
    rng = np.random.default_rng(0)
    obs, action = rng.uniform(-2, 2, (rows, 1)), rng.uniform(-1, 1, (rows, 1))
    return Dataset.from_arrays(
        obs=obs,
        action=action,
        reward=-(obs**2)[:, 0],
        next_obs=obs + action,
        terminated=np.zeros(rows, bool),
        truncated=np.zeros(rows, bool),
        action_low=-1.0,
        action_high=1.0,
    )


def finish(trainer, steps: int):
    """Whole iterations: `advance` may come back in the middle of one."""
    while trainer.step < steps and trainer.finished is None:
        progress = trainer.advance(steps - trainer.step)
    return progress


# ---------------------------------------------------------------------- closed forms


@pytest.mark.as_shipped
def test_linear_fqi_takes_riccatis_steps():
    """P_{n+1} = Q + γAᵀP_nA − …: one iteration of FQI is one step of Riccati's, here in float32."""
    algorithm = ExplicitFQI(approximator="polynomial", ridge=0.0, gamma=0.9, clip_targets=False)
    trainer = FittedTrainer(algorithm, lqr_data(), PLAIN, seed=0)
    for expected in (1.0, 1.473684, 1.570136, 1.585599):
        finish(trainer, trainer.step + 1)
        state = np.array([[1.0]], np.float32)
        # After n fits q_n's maximum over a is −P_n s².
        nets = trainer.nets()
        best = nets.critic.least(state, trainer._fqi.greedy(nets, state, jax.random.PRNGKey(0)).action)
        assert -float(best[0]) == pytest.approx(expected, abs=1e-4)


def test_fitted_methods_find_the_gain_of_lqr():
    """π = −K s with K = .588403 at γ = .9, by a solver, by imitation and by ascent, from one dataset."""
    gain, data = LinearQuadratic.scalar().gain.item(), lqr_data(800)
    linear = {"approximator": "polynomial", "gamma": 0.9}
    policy = {"hidden": (32,), "activation": "silu", "minibatch": 64, "policy_epochs": 20}
    obs = np.linspace(-1.5, 1.5, 7, dtype=np.float32)[:, None]
    agents = {
        "explicit_fqi": fittedq.fit("explicit_fqi", data, steps=25, **linear),
        "amortized_fqi": fittedq.fit("amortized_fqi", data, steps=25, solve_share=0.5, **linear, **policy),
    }
    for name, agent in agents.items():
        found = -np.linalg.lstsq(obs, agent.act(obs), rcond=None)[0].item()
        assert found == pytest.approx(gain, rel=0.03), name


@pytest.mark.slow
def test_trees_with_an_exact_sweep_value_a_bounded_action():
    """−Σ γᵏ max(|s| − k, 0)² with γ = .9 (theory, G7), to the trees' resolution."""
    settings = {"gamma": 0.9, "approximator": "extra_trees", "n_trees": 20}
    agent = fittedq.fit("explicit_fqi", bounded_data(), steps=6, **settings)
    obs = np.linspace(-1.9, 1.9, 9, dtype=np.float32)[:, None]
    truth = -sum(0.9**k * np.maximum(np.abs(obs) - k, 0) ** 2 for k in range(4))[:, 0]
    assert np.abs(agent.value(obs, agent.act(obs)) - truth).max() < 0.3
    assert agent.act(obs)[0, 0] > 0.5
    assert agent.act(obs)[-1, 0] < -0.5


def test_smooth_fqi_converges_to_the_smooth_value():
    """One state, r = −a² on [−1, 1]: v = v_β(−a²) / (1 − γ), v_β = β log ∫ exp(−a²/β) da, here by a fine sum."""
    rng = np.random.default_rng(0)
    action, nothing = rng.uniform(-1, 1, (100, 1)), np.zeros((100, 1))
    data = Dataset.from_arrays(
        obs=nothing,
        action=action,
        reward=-(action**2)[:, 0],
        next_obs=nothing,
        terminated=np.zeros(100, bool),
        truncated=np.zeros(100, bool),
        action_low=-1.0,
        action_high=1.0,
    )
    grid = np.linspace(-1, 1, 200_001)
    beta, gamma = 0.5, 0.8
    smooth = beta * np.log(np.mean(np.exp(-(grid**2) / beta)) * 2)
    for integration, of_its_own in (("quadrature", {}), ("sampling", {"samples": 1024})):
        algorithm = SmoothFQI(
            approximator="polynomial",
            gamma=gamma,
            temperature=beta,
            integration=integration,
            **of_its_own,
        )
        trainer = FittedTrainer(algorithm, data, PLAIN, seed=0)
        finish(trainer, 60)
        q = float(trainer.nets().critic(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))[0, 0])
        assert q == pytest.approx(gamma * smooth / (1 - gamma), abs=2e-3 if integration == "quadrature" else 3e-2)


# ---------------------------------------------------------------------- exact reductions


def test_amortized_with_every_state_solved_labels_as_explicit_does():
    """B_opt = everything: the same q, bit for bit, where the policy's start, 0, is a point of the solver's grid."""
    data, shared = lqr_data(300), {"hidden": (16,), "maximizer": "grid", "random_starts": 1, "epochs": 2}
    explicit = FittedTrainer(ExplicitFQI(**shared), data, PLAIN, seed=3)
    amortized = FittedTrainer(AmortizedFQI(**shared, solve_share=1.0), data, PLAIN, seed=3)
    # The same first critic: theirs are drawn from keys of their own.
    amortized._nets = amortized._nets.replace("critic", explicit._nets.critic)
    policy = amortized._nets.policy
    still = eqx.tree_at(lambda policy: policy.net, policy, jax.tree.map(np.zeros_like, policy.net))
    amortized._nets = amortized._nets.replace("policy", still)
    finish(explicit, 1)
    finish(amortized, 1)
    np.testing.assert_array_equal(explicit._solutions.action, amortized._solutions.action)
    for one, other in zip(
        jax.tree.leaves(explicit.nets().critic), jax.tree.leaves(amortized.nets().critic), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_run_is_the_same_when_saved_and_restored_midway():
    data = lqr_data(300)
    for algorithm in (
        AmortizedFQI(hidden=(8,)),
        NFQCA(hidden=(8,)),
        ExplicitFQI(approximator="extra_trees", n_trees=5),
    ):
        whole = FittedTrainer(algorithm, data, PLAIN, seed=0)
        finish(whole, 3)
        first = FittedTrainer(algorithm, data, PLAIN, seed=0)
        finish(first, 2)
        second = FittedTrainer(algorithm, data, PLAIN, seed=0)
        assert second.restore(*first.snapshot())
        finish(second, 3)
        for one, other in zip(jax.tree.leaves(whole.nets()), jax.tree.leaves(second.nets()), strict=True):
            np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------------- B_opt, its window, stopping


def test_c20_an_empty_set_of_solved_states_leaves_the_policy_and_counts_as_no_error():
    trainer = FittedTrainer(AmortizedFQI(**SHORT, solve_share=0.0), lqr_data(100), PLAIN, seed=0)
    before = jax.tree.map(np.array, trainer.nets().policy)
    progress = finish(trainer, 2)
    assert progress.metrics["delta_d"] == 0.0
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(trainer.nets().policy), strict=True):
        np.testing.assert_array_equal(one, other)


SHORT: dict[str, Any] = {"hidden": (8,), "epochs": 2, "policy_epochs": 2}
"""Without its epochs a fit takes a hundred steps, whose number means nothing here."""


class SearchRecorded(AbstractSearch):
    """Another's search, whose answers are kept as they pass."""

    def __init__(self, inner: AbstractSearch, answers: list[dict[float, float]]):
        self.inner, self.answers = inner, answers

    def __call__(self, nets: Components, effort: SearchEffort, calls: Iterable[SolverCall]) -> Iterator[SolverAnswer]:
        for call in calls:
            (answer,) = self.inner(nets, effort, [call])
            self.answers[-1] |= dict(zip(call.obs[:, 0].tolist(), answer.action[:, 0].tolist(), strict=True))
            yield answer


class Recorded:
    """A trainer whose solver's answers, and the data of whose fits, are kept as they pass."""

    def __init__(self, algorithm: AmortizedFQI, data: Dataset):
        self.answers: list[dict[float, float]] = []
        """By iteration: the solver's answer at each s' that it was asked about."""
        self.fits: dict[int, Any] = {}
        """The newest data of each update."""
        search = SearchRecorded(SearchHere(solver_over_rows(algorithm, data.action_set)), self.answers)
        self.trainer = FittedTrainer(algorithm, data, PLAIN, seed=0, search=search)
        fits = list(self.trainer._fits)

        def fitting(index: int, start: WholeFit) -> Iterator[Fitted]:
            self.fits[index] = start.data
            return fits[index](start)

        self.trainer._fits = [partial(fitting, index) for index in range(len(fits))]

    def iterate(self) -> None:
        self.answers.append({})
        finish(self.trainer, self.trainer.step + 1)


@pytest.mark.parametrize("max_age", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_c21_what_the_solver_found_is_a_label_until_its_age_exceeds_max_age(max_age):
    """The policy's labels at iteration n: each row's newest answer, to the bit, of iterations n − max_age … n alone."""
    recorded = Recorded(AmortizedFQI(**SHORT, solve_share=0.3, max_age=max_age, maximizer="grid"), lqr_data(60))
    for _ in range(max_age + 3):
        recorded.iterate()
        expected: dict[float, float] = {}
        for answers in recorded.answers[-1 - max_age :]:
            expected |= answers
        data = recorded.fits[1]
        assert (data.weight == 1).all()
        assert dict(zip(data.obs[:, 0].tolist(), data.action[:, 0].tolist(), strict=True)) == expected
    assert len(expected) > 18 * (max_age > 0)


def test_targets_bootstrap_from_the_solver_where_it_solved_and_from_the_policy_elsewhere():
    """y = r + γ q̄(s', a'), a' the answer of this iteration, or π̄(s'), and never an older answer."""
    data = lqr_data(60)
    algorithm = AmortizedFQI(**SHORT, solve_share=0.3, maximizer="grid", clip_targets=False)
    recorded = Recorded(algorithm, data)
    next_obs, reward = (np.asarray(data.columns[name]) for name in ("next_obs", "reward"))
    for _ in range(3):
        nets = recorded.trainer.nets()
        recorded.iterate()
        action = np.array(nets.policy.act(next_obs, np.zeros_like(next_obs)))
        for row, found in enumerate(map(recorded.answers[-1].get, next_obs[:, 0].tolist())):
            action[row] = action[row] if found is None else found
        expected = reward + algorithm.gamma * np.asarray(nets.critic(next_obs, action)).min(axis=0)
        np.testing.assert_allclose(recorded.fits[0].y, expected, rtol=1e-4, atol=1e-4)


def test_a_run_that_solves_the_worst_rows_resumes_with_their_gaps():
    """Every row was solved once when it is saved: which are solved next is a matter of the gaps alone."""
    data = lqr_data(60)
    algorithm = AmortizedFQI(**SHORT, solve_share=0.34, solve_rule="gap", maximizer="grid")
    whole = FittedTrainer(algorithm, data, PLAIN, seed=0)
    finish(whole, 3)
    arrays, meta, rows = whole.snapshot()
    assert np.isfinite(arrays["solutions/gap"]).all()
    again = FittedTrainer(algorithm, data, PLAIN, seed=0)
    assert again.restore(arrays, meta, rows)
    for trainer in (whole, again):
        finish(trainer, 4)
    np.testing.assert_array_equal(whole._solutions.iteration, again._solutions.iteration)
    np.testing.assert_array_equal(whole._solutions.gap, again._solutions.gap)


def test_the_gap_rule_solves_new_rows_first_then_the_worst():
    greedy = PartlySolved(Solved(Grid()), 0.5, count=2, rule="gap")
    rng = np.random.default_rng(0)
    assert greedy.rows(4, np.array([0.1, np.inf, 3.0, 0.2]), rng).tolist() == [1, 2]
    assert len(PartlySolved(Solved(Grid()), 0.5).rows(10, np.full(10, np.inf), rng)) == 5


def test_c01_the_loop_ends_when_the_changes_fall_below_the_tolerance():
    """An exact fit of r alone (γ = 0) repeats itself: δ_q > 0 at first, then 0; it stops at 2, not at 1."""
    algorithm = ExplicitFQI(approximator="polynomial", gamma=0.0, ridge=0.0)
    trainer = FittedTrainer(algorithm, lqr_data(200), FitSettings(normalize_obs=False, tolerance=1e-3), seed=0)
    progress = finish(trainer, 10)
    assert trainer.step == 2
    assert trainer.finished is not None
    assert "δ_q" in trainer.finished
    assert progress.metrics["delta_q"] < 1e-3


def test_c22_a_policy_that_cannot_fit_its_labels_stops_by_its_change():
    """δ_d, a regression error, stays up; q and the policy have stopped moving, and the reason says so."""
    trainer = FittedTrainer(AmortizedFQI(hidden=(8,)), lqr_data(50), FitSettings(tolerance=0.1), seed=0)
    reason = trainer._verdict({"delta_q": 0.01, "delta_d": 5.0, "policy_change": 0.02})
    assert reason is not None
    assert "policy" in reason
    assert trainer._verdict({"delta_q": 0.01, "delta_d": 5.0, "policy_change": 0.2}) is None
    assert trainer._verdict({"delta_q": 0.2, "delta_d": 0.0, "policy_change": 0.0}) is None


def test_c02_the_change_of_q_is_a_mean_over_pairs():
    """δ_q does not depend on how many action dimensions there are: q_0 → q_1 = mean |q_1 − q_0| over D."""
    data = lqr_data(200)
    trainer = FittedTrainer(ExplicitFQI(approximator="polynomial", gamma=0.0), data, PLAIN, seed=0)
    progress = finish(trainer, 1)
    assert progress.metrics["delta_q"] == pytest.approx(np.abs(data.columns["reward"]).mean(), rel=1e-3)


@pytest.mark.slow
def test_c23_imitating_tied_maximizers_averages_them_and_ascent_does_not():
    """q = −(a² − 1)², maxima at ±1: a mean of labels is the minimum between them."""
    rng = np.random.default_rng(0)
    action, obs = rng.uniform(-1.5, 1.5, (1_000, 1)), rng.normal(size=(1_000, 1))
    data = Dataset.from_arrays(
        obs=obs,
        action=action,
        reward=-((action**2 - 1) ** 2)[:, 0],
        next_obs=obs,
        terminated=np.ones(1_000, bool),
        truncated=np.zeros(1_000, bool),
        action_low=-1.5,
        action_high=1.5,
    )
    settings = {"approximator": "polynomial", "degree": 4, "hidden": (16,), "policy_epochs": 40, "ridge": 0.0}
    own = {"maximizer": "ascent", "random_starts": 1, "solve_share": 1.0}
    found = {}
    for loss in ("imitate", "improve"):
        algorithm = AmortizedFQI(**settings, **own, policy_loss=loss)
        trainer = FittedTrainer(algorithm, data, PLAIN, seed=0)
        trainer._solutions.action[:] = np.where(rng.uniform(size=(1_000, 1)) < 0.5, 1.0, -1.0)
        finish(trainer, 3)
        mode = np.asarray(trainer.nets().policy.act(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)))
        found[loss] = float(-((mode[0, 0] ** 2 - 1) ** 2))
    assert found["improve"] > -0.05
    assert found["imitate"] < found["improve"]


def test_targets_stay_within_what_the_rewards_allow():
    """Where nothing is ever earned, q = 0 whatever a network says at first."""
    columns = lqr_data(60).columns | {"reward": np.zeros(60)}
    nothing = Dataset.from_arrays(**columns, action_low=-4.0, action_high=4.0)
    metrics = finish(FittedTrainer(NFQCA(hidden=(8,), gamma=0.5), nothing, PLAIN, seed=0), 1).metrics
    assert metrics["max_abs_target"] == metrics["largest_value"] == 0


# ---------------------------------------------------------------------- every algorithm, from a dataset


OTHERS = each("explicit_fqi", of=(name for name in REGISTRY if name != "ddpg"))


@pytest.mark.parametrize("name", [pytest.param("ddpg", marks=pytest.mark.as_shipped), *OTHERS])
def test_every_algorithm_learns_from_a_dataset_and_resumes(name, tmp_path):
    lqr_data(300).save(tmp_path / "data")
    data, folder = Dataset.open(tmp_path / "data"), tmp_path / "run"
    small: dict[str, Any] = {"hidden": (8,)} | ({"model_hidden": (8,)} if name == "svg" else {})
    # A schedule over three steps is not one over five.
    read = [field for field in setting_fields(REGISTRY[name]) if field.name not in REGISTRY[name].ignores]
    small |= {field.name: field.default.first for field in read if isinstance(field.default, Linear)}
    small |= {field.name: 2 for field in read if field.name in ("epochs", "policy_epochs")}
    agent = fittedq.fit(name, data, steps=3, **small, out=folder)
    obs = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    assert np.isfinite(agent.act(obs)).all()
    assert np.isfinite(agent.value(obs, agent.act(obs))).all()
    np.testing.assert_array_equal(fittedq.load(folder).act(obs), agent.act(obs))
    longer = fittedq.resume(folder, steps=5)
    whole = fittedq.fit(name, data, steps=5, **small)
    np.testing.assert_array_equal(longer.act(obs), whole.act(obs))


def test_a_tree_agent_is_saved_and_loaded(tmp_path):
    agent = fittedq.fit("explicit_fqi", lqr_data(300), steps=2, approximator="extra_trees", n_trees=5)
    agent.save(tmp_path / "agent")
    obs = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(fittedq.load(tmp_path / "agent").act(obs), agent.act(obs))


@pytest.mark.slow
def test_c24_rprop_and_reset_learn_the_lqr_that_warm_adam_learns():
    """The paper's way (networks anew in each iteration, Rprop on all rows) and the warm one find one gain."""
    data, obs = lqr_data(1_000, bound=2.0), np.linspace(-1.5, 1.5, 7, dtype=np.float32)[:, None]
    shared = {"gamma": 0.5, "activation": "silu", "hidden": (32, 32), "n_critics": 1}
    rprop = {"optimizer": "rprop", "reset": True, "epochs": 300, "policy_epochs": 150}
    paper = fittedq.fit("nfqca", data, steps=4, **shared, **rprop)
    warm = fittedq.fit("nfqca", data, steps=12, **shared, epochs=20, policy_epochs=10, minibatch=64)
    gain = LinearQuadratic.scalar(gamma=0.5).gain.item()
    for agent in (paper, warm):
        assert -np.linalg.lstsq(obs, agent.act(obs), rcond=None)[0].item() == pytest.approx(gain, abs=0.1)


def test_held_out_rows_stop_a_fit_early():
    algorithm = NFQCA(hidden=(8,), epochs=50, held_out=0.3, patience=1)
    trainer = FittedTrainer(algorithm, lqr_data(200), PLAIN, seed=0)
    metrics = finish(trainer, 3).metrics
    assert np.isfinite(metrics["critic/held_out_loss"])
    assert trainer.updates <= 3 * 100


# ---------------------------------------------------------------------- bad input


def test_methods_without_a_policy_need_data():
    with pytest.raises(UserError, match="learns no policy, so it cannot collect data"):
        fittedq.train("explicit_fqi", "Pendulum-v1", steps=10)


def test_data_of_other_dimensions_than_the_environments_are_refused():
    with pytest.raises(UserError, match="the dataset's"):
        fittedq.fit("nfqca", lqr_data(50), eval_env="Pendulum-v1", steps=1)
    with pytest.raises(UserError, match="use the environment it was taken from"):
        fittedq.train("td3", "Pendulum-v1", steps=10, data=lqr_data(50))


def test_an_exact_maximizer_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="maximizer"):
        fittedq.fit("explicit_fqi", lqr_data(50), steps=1, maximizer="exact")


def test_batches_come_from_the_dataset():
    trainer = BatchTrainer(REGISTRY["td3"](hidden=(8,)), lqr_data(50), FitSettings(batch_size=16), seed=0)
    while trainer.step < 70:
        trainer.advance(70 - trainer.step)
    assert trainer.updates == 70
    assert dataclasses.replace(PLAIN, batch_size=8).batch_size == 8


class Waves(AbstractFeatures):
    """1, a, a², sin s, a sin s, sin² s."""

    def __call__(self, obs, action):
        xp = namespace(obs, action)
        s, a = xp.sin(obs[:, 0]), action[:, 0]
        return xp.stack([xp.ones_like(a), a, a**2, s, a * s, s**2], axis=-1)


def test_q_is_linear_in_features_of_the_users(tmp_path):
    """r = −(a − sin s)², one step: π(s) = sin s, exactly representable by the features and by no polynomial."""
    rng = np.random.default_rng(0)
    obs, action = rng.uniform(-3, 3, (300, 1)), rng.uniform(-2, 2, (300, 1))
    data = fittedq.Dataset.from_arrays(
        obs=obs,
        action=action,
        reward=-((action - np.sin(obs))[:, 0] ** 2),
        next_obs=obs,
        terminated=np.ones(300, bool),
        action_low=-2,
        action_high=2,
    )
    settings = {"steps": 1, "normalize_obs": False, "clip_targets": False, "maximizer": "lbfgs", "ridge": 0.0}
    agent = fittedq.fit("explicit_fqi", data, features=Waves(), **settings)
    seen = np.linspace(-3, 3, 9, dtype=np.float32)[:, None]
    np.testing.assert_allclose(agent.act(seen), np.sin(seen), atol=5e-3)
    agent.save(tmp_path / "agent")
    loaded = fittedq.load(tmp_path / "agent", code={"features": Waves()})
    np.testing.assert_array_equal(loaded.act(seen), agent.act(seen))
    with pytest.raises(UserError, match=r"its features is code, which no file holds: Waves\(\)"):
        fittedq.load(tmp_path / "agent")
