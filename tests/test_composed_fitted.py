"""A method from slots that fits all of a dataset in each step: the registry's to the bit, saved and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

import fittedq
from fittedq import (
    FQI,
    NFQCA,
    Bellman,
    Budget,
    Clipped,
    Composed,
    Copy,
    Dataset,
    Descend,
    ExplicitFQI,
    Gaussian,
    Improve,
    ImproveThrough,
    KnownModel,
    LeastSquares,
    MilpArgmax,
    MinOverCritics,
    NoTail,
    OwnNoise,
    PolicyAction,
    Polyak,
    Regress,
    Rollout,
    Solved,
    Sync,
    Update,
    UserError,
)
from fittedq.algorithms.saved import as_saved, restored
from fittedq.code import sketch

BOX = fittedq.Box((-2.0,), (2.0,))
NETS: dict[str, Any] = {"hidden": (4,), "n_critics": 1}


def composed(
    fitted: bool | None = True, *, budget: Budget | None = None, rule: Any = None, clip: bool = True, **other: Any
) -> Composed:
    """`nfqca` by hand, of one pass each."""
    budget, rule, target = budget or Budget(1, 20), rule or Copy(), Bellman(0.98, MinOverCritics())
    fits = (Descend(optax.adam(1e-3), budget), Descend(optax.adam(1e-3), budget))
    slots: dict[str, Any] = {
        "fqi": FQI(
            greedy=PolicyAction(),
            updates=(
                Update("critic", Regress(Clipped(target) if clip else target), fits[0]),
                Update("policy", Improve(MinOverCritics()), fits[1]),
            ),
            sync=Sync(critic=rule, policy=rule),
        ),
        "networks": NFQCA(**NETS).networks,
        "exploration": Gaussian(0.1),
    }
    return Composed(**slots | other, fitted=fitted)


def solving() -> Composed:
    """`explicit_fqi` on a polynomial, by hand: least squares need a whole dataset, so nothing has to be said."""
    method = ExplicitFQI(approximator="polynomial")
    update = Update("critic", Regress(Clipped(Bellman(0.98, MinOverCritics()))), LeastSquares(1e-6))
    fqi = FQI(greedy=Solved(random_starts=2), updates=(update,), sync=Sync(critic=Copy()))
    return Composed(fqi=fqi, networks=method.networks, exploration=Gaussian(0.1))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(40, 3)).astype(np.float32), rng.uniform(-2, 2, (40, 1)).astype(np.float32)
    columns = {"obs": obs, "action": action, "reward": obs[:, 0], "next_obs": obs, "terminated": np.zeros(40, bool)}
    path = tmp_path_factory.mktemp("composed") / "log"
    Dataset.from_arrays(**columns, action_low=-2, action_high=2).save(path)
    return path


def same(one: fittedq.Agent, other: fittedq.Agent) -> None:
    assert jax.tree.structure(one.nets) == jax.tree.structure(other.nets)
    for pair in zip(jax.tree.leaves(one.nets), jax.tree.leaves(other.nets), strict=True):
        np.testing.assert_array_equal(*pair)


def test_a_hand_written_fitted_method_is_the_registrys_is_saved_and_resumed(log: Path, tmp_path: Path) -> None:
    one_pass: dict[str, Any] = {"epochs": 1, "policy_epochs": 1, "minibatch": 20}
    one_pass |= {"critic_learning_rate": 1e-3, "policy_learning_rate": 1e-3}
    whole = fittedq.fit("nfqca", log, steps=3, **NETS, **one_pass)
    fittedq.fit(composed(), log, steps=2, out=tmp_path / "run")
    resumed = fittedq.resume(tmp_path / "run", steps=3, code=composed())
    same(resumed, whole)
    same(fittedq.load(tmp_path / "run" / "last", code=composed()), whole)
    grown = [
        fittedq.train(method, "Pendulum-v1", steps=60, random_steps=30, steps_per_iteration=20, **settings)
        for method, settings in ((composed(), {}), ("nfqca", NETS | one_pass))
    ]
    same(*grown)


def test_a_slot_that_needs_a_dataset_makes_the_method_a_fitted_one(log: Path) -> None:
    same(fittedq.fit(solving(), log, steps=2), fittedq.fit("explicit_fqi", log, steps=2, approximator="polynomial"))
    plain = composed(None, clip=False)
    assert not plain.fitted
    updates = plain.template(BOX).updates
    by_proof = composed(None, fqi=FQI(greedy=Solved(MilpArgmax()), updates=updates, sync=Sync()))
    asking = (composed(None), composed(None, clip=False, budget=Budget(reset=True)), by_proof, solving())
    assert all(method.fitted for method in asking)
    assert sketch(composed()) == sketch(composed(False)), "older files say nothing of it"


def test_networks_over_another_action_set_are_refused() -> None:
    other = composed(networks=lambda size, actions, key: NFQCA(**NETS).networks(size, BOX, key))
    other.networks(3, fittedq.Box((-2.0,), (2.0,)), jax.random.key(0))
    with pytest.raises(UserError, match=r"networks: it made a .* over .*; make it over the action set that is given"):
        other.networks(3, fittedq.Box((-1.0,), (1.0,)), jax.random.key(0))


def test_a_run_from_data_in_memory_says_why_it_cannot_go_on(log: Path, tmp_path: Path) -> None:
    rows = Dataset.open(log)
    held = {name: rows.columns[name] for name in rows.columns}
    data = Dataset.from_arrays(**held, action_low=-2, action_high=2)
    fittedq.fit("ddpg", data, steps=1, hidden=(4,), batch_size=4, out=tmp_path / "run")
    with pytest.raises(UserError, match="it learns from data that were given in Python"):
        fittedq.resume(tmp_path / "run", steps=2)


@pytest.mark.parametrize("fitted", [True, False])
def test_files_say_whether_a_method_is_fitted(fitted: bool) -> None:
    saved, code = as_saved(composed(fitted)), {"algorithm": composed(not fitted)}
    with pytest.raises(UserError, match=f"code: found fitted = {not fitted}, expected {fitted}, as FILE has it"):
        restored({"algorithm": "composed", "settings": saved}, code, "FILE")
    older = {name: value for name, value in saved.items() if name != "fitted"}
    assert restored({"algorithm": "composed", "settings": older}, code, "FILE") is code["algorithm"]


def test_what_iterations_would_pass_over_is_one_sentence(log: Path) -> None:
    with pytest.raises(UserError, match=r"sync of critic: found Polyak\(tau=0\.1\), expected Copy\(\)"):
        fittedq.fit(composed(rule=Polyak(0.1)), log, steps=1)
    with pytest.raises(UserError, match="update of critic: Budget needs a whole dataset"):
        fittedq.fit(composed(False, clip=False, budget=Budget(held_out=0.1)), log, steps=1)
    on_host = FQI(greedy=Solved(MilpArgmax()), updates=composed(clip=False).template(BOX).updates, sync=Sync())
    with pytest.raises(UserError, match="greedy: MilpArgmax needs a whole dataset"):
        fittedq.fit(composed(False, fqi=on_host), log, steps=1)
    with pytest.raises(UserError, match="log_temperature: found one beside a greedy step"):
        fittedq.fit(composed(networks=fittedq.SAC(hidden=(4,)).networks), log, steps=1)
    climb = Update("policy", ImproveThrough(Rollout(1, 0.9, NoTail())), Descend(optax.adam(1e-3)))
    with pytest.raises(UserError, match="the template has no critic"):
        fittedq.fit(composed(fqi=FQI(updates=(climb,), sync=Sync()), networks=without_critic), log, steps=1)
    with pytest.raises(UserError, match="exploration: found OwnNoise, expected Gaussian"):
        fittedq.train(composed(exploration=OwnNoise()), "Pendulum-v1", steps=40, random_steps=30)
    with pytest.raises(UserError, match="fits growing data on the host, not inside a compiled JAX environment"):
        fittedq.train(composed(), "jax/Pendulum-v1", steps=40)


def without_critic(*sizes: Any) -> fittedq.Components:
    still = KnownModel(lambda obs, action, noise: (obs, action[:, 0], obs[:, 0] > np.inf))
    return fittedq.Components(policy=NFQCA(**NETS).networks(*sizes).policy, model=still)
