"""How familiar a state is: against rows that were never seen, closed forms, and files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fittedq
from fittedq.acting.familiar import STRETCHES, Change, Familiarity, Place, Shares
from fittedq.actions.base import Box
from fittedq.control.augmentation import Augmentation
from fittedq.control.state import AugmentedState
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from fittedq.types import Transition

BOX = Box((-1.0,), (1.0,))
TINY: dict[str, Any] = {"hidden": (8,), "batch_size": 8, "replay_size": 1000}


def log(rows: int, seed: int, gain: float = 0.5) -> Transition:
    """y' = 0.8 y + gain u + 0.1 y u + noise, u uniform and held for 3 samples; the second coordinate is a set-point."""
    rng = np.random.default_rng(seed)
    action = np.repeat(rng.uniform(-1, 1, rows // 3 + 1), 3)[:rows].astype(np.float32)
    y, obs = 0.0, np.zeros((rows + 1, 2), np.float32)
    for row in range(rows):
        y = 0.8 * y + (gain + 0.1 * y) * action[row] + rng.normal(0, 0.02)
        obs[row + 1, 0] = y
    obs[:, 1] = np.repeat(rng.uniform(-1, 1, rows // 50 + 1), 50)[: rows + 1]
    flags = np.zeros(rows, bool)
    return Transition(obs[:-1], action[:, None], -(obs[1:, 0] ** 2), obs[1:], flags, flags)


def dataset(rows: Transition) -> Dataset:
    return Dataset.from_arrays(**rows._asdict(), action_low=-1, action_high=1)


@pytest.fixture(scope="module")
def agent() -> fittedq.Agent:
    td3 = fittedq.TD3(hidden=(8,))
    made = fittedq.Agent(td3, 2, BOX, td3.networks(2, BOX, jax.random.key(0)))
    made.familiarity = fittedq.familiarity(made, dataset(log(3000, 0)))
    return made


@pytest.mark.parametrize("level", [0.05, 0.2, 0.5])
def test_at_most_a_share_of_new_rows_is_below_it(agent: fittedq.Agent, level: float) -> None:
    shares = []
    for seed in range(1, 9):
        new = log(1000, seed)
        shares.append((agent.familiar(new.next_obs, before=new.obs, action=new.action) < level).mean())
    spread = np.std(shares, ddof=1) / np.sqrt(len(shares))
    assert np.mean(shares) < level + 3 * spread
    assert np.mean(shares) > 0.3 * level  # and it is no constant


def test_what_is_off_the_data_is_far_below(agent: fittedq.Agent) -> None:
    new = log(1000, 9)
    stuck = np.abs(new.next_obs[:, 0] - new.obs[:, 0]) > 0.15
    weak = log(1000, 10, gain=0.1)
    driven = np.abs(weak.action[:, 0]) > 0.3
    strange = {
        "another regime": agent.familiar(new.next_obs + np.float32([6, 0])),
        "a stuck sensor": agent.familiar(new.obs[stuck], before=new.obs[stuck], action=new.action[stuck]),
        "another gain": agent.familiar(weak.next_obs[driven], before=weak.obs[driven], action=weak.action[driven]),
    }
    assert {name: float((share < 0.05).mean()) > 0.8 for name, share in strange.items()} == dict.fromkeys(strange, True)


def test_a_place_is_judged_by_its_nearest_row_of_other_stretches() -> None:
    obs = np.arange(STRETCHES * 10, dtype=np.float32)[:, None]
    place = Place.of(obs)
    deviation = obs.std()
    # Within a stretch of 10 rows the others' nearest is 1 … 5 (5 … 10 at the two ends) rows away.
    inner = [min(row % 10 + 1, 10 - row % 10) for row in range(10, 90)]
    outer = [10 - row for row in range(10)] + [row + 1 for row in range(10)]
    farthest = np.sort([*inner, *outer])
    assert place.shares.distances[-1] == pytest.approx(10 / deviation, rel=1e-5)
    for steps in (1.0, 3.0, 5.0):
        share = (1 + (farthest >= steps).sum()) / 101
        assert place.shares(np.array([0.9999 * steps / deviation]))[0] == pytest.approx(share, abs=0.03)
    found, nearest = place(np.array([[99 + 10.0], [99 + 20.0], [np.float32(3e38)]]))
    assert nearest.tolist() == [99] * 3
    assert found.tolist() == pytest.approx([3 / 101, 0, 0], abs=1e-6)


def test_shares_of_rows_that_lie_equally_far() -> None:
    shares = Shares.of(np.repeat([0.0, 1.0], 500))
    assert shares(np.array([0.0, 1.0, 1.5, 2.0, 9.0])) == pytest.approx([1, 501 / 1001, 501 / 2002, 0, 0], abs=0.02)
    assert Shares.of(np.zeros(100))(np.array([0.0, 1e-3])).tolist() == [1, 0]


def fitted(*given: Any) -> tuple[Change, np.ndarray]:
    found = Change.of(*given)
    assert found is not None
    return found


def test_a_change_that_follows_a_quadratic_law_is_known_to_its_end() -> None:
    rng = np.random.default_rng(0)
    past = rng.normal(size=(2000, 3)).astype(np.float32)
    law = (1 + past[:, :1] * past[:, 1:2] - 2 * past[:, 2:] ** 2).astype(np.float32)
    noise = rng.normal(0, 0.1, law.shape).astype(np.float32)
    nearest = np.zeros(2000, int)
    change, _ = fitted(past, law + noise, nearest, 1)
    assert change.weights.shape == (1, 10)
    # One landmark for all: σ is the noise's deviation.
    assert change.scale[0, 0] * change.newest.scale[0] == pytest.approx(0.1, rel=0.1)
    assert change(past[:5], law[:5], nearest[:5])[0].min() > 0.8
    assert change(past[:5], law[:5] + 1, nearest[:5])[0].max() == 0
    few, _ = fitted(past[:60], law[:60], nearest[:60], 1)
    assert few.weights.shape == (1, 4)
    assert Change.of(past[:30], law[:30], nearest[:30], 1) is None


def test_a_place_with_more_noise_is_allowed_more() -> None:
    rng = np.random.default_rng(0)
    past, nearest = rng.normal(size=(4000, 1)).astype(np.float32), np.repeat([0, 1], 2000)
    deviation = np.where(nearest == 0, 0.01, 0.3)
    change, _ = fitted(past, (past[:, 0] + deviation * rng.normal(size=4000))[:, None], nearest, 3)
    # σ² of 2 000 rows of .01² and 5 of the mean of both; a place without a row has that mean.
    every = (0.01**2 + 0.3**2) / 2
    expected = np.sqrt([(2000 * 0.01**2 + 5 * every) / 2005, (2000 * 0.3**2 + 5 * every) / 2005, every])
    assert change.scale[:, 0] * change.newest.scale[0] == pytest.approx(expected, rel=0.1)
    off = past[:10] + 0.15
    assert change(past[:10], off, nearest[:10])[0].max() < 0.01 < 0.3 < change(past[:10], off, nearest[-10:])[0].min()


def test_an_agent_with_a_history_judges_the_change_by_it() -> None:
    state = AugmentedState(Augmentation(history=3, error=("0:1",)), 2, BOX)
    assert state.measured.tolist() == [0] and state.earlier.tolist() == [3, 4, 5, 6, 7, 8]
    seen = dataset(log(3000, 0)).augmented(state)
    known = Familiarity.of(seen.transitions(slice(None)), state)
    new = dataset(log(1000, 1)).augmented(state).transitions(slice(5, None))
    frozen = np.array(new.next_obs)
    frozen[:, 0] = frozen[:, 3]  # y_t = y_{t−1}
    moved = np.abs(new.next_obs[:, 0] - new.next_obs[:, 3]) > 0.15
    assert (known(new.next_obs, known.past(new.next_obs)) > 0.05).mean() > 0.9
    assert (known(frozen[moved], known.past(frozen[moved])) < 0.05).mean() > 0.8
    assert not known.reads_before
    assert AugmentedState(Augmentation(error=("0=1",)), 2, BOX).earlier.tolist() == []


def test_it_is_saved_with_the_agent_and_comes_back(agent: fittedq.Agent, tmp_path: Path) -> None:
    agent.save(tmp_path / "agent")
    new = log(50, 3)
    expected = agent.familiar(new.next_obs, before=new.obs, action=new.action)
    for other in (fittedq.load(tmp_path / "agent"), copy.deepcopy(agent)):
        assert np.array_equal(other.familiar(new.next_obs, before=new.obs, action=new.action), expected)
    assert agent.familiar(new.obs[0]) == agent.familiar(new.obs)[0]


@pytest.mark.parametrize(
    "change",
    [
        {"place/landmarks": None},
        {"place/landmarks": np.zeros((3, 9), np.float32)},
        {"newest": np.array([7])},
        {"change/scale": np.full((256, 2), np.nan, np.float32)},
        {"change/scale": np.ones(2, np.float32)},
        {"own": np.array([[0.5]])},
    ],
)
def test_damaged_tensors_are_told(agent: fittedq.Agent, change: dict[str, Any]) -> None:
    assert agent.familiarity is not None
    whole = agent.familiarity.arrays()
    changed = whole | {f"familiarity/{name}": array for name, array in change.items()}
    arrays = {name: array for name, array in changed.items() if array is not None}
    with pytest.raises(UserError, match=r"here: .*does not fit together.*damaged"):
        Familiarity.restored(arrays, 2, "here")
    assert Familiarity.restored({}, 2, "here") is None


def test_an_older_agent_says_so_and_is_given_it(agent: fittedq.Agent, tmp_path: Path) -> None:
    old = copy.deepcopy(agent)
    old.familiarity = None
    old.save(tmp_path / "agent")
    old = fittedq.load(tmp_path / "agent")
    with pytest.raises(UserError, match="knows nothing of the data"):
        old.familiar([0.0, 0.0])
    old.familiarity = fittedq.familiarity(old, dataset(log(3000, 0)))
    new = log(50, 3)
    assert np.array_equal(old.familiar(new.obs), agent.familiar(new.obs))


def test_wrong_questions_are_sentences(agent: fittedq.Agent) -> None:
    with pytest.raises(UserError, match="one of `before` and `action`"):
        agent.familiar([0.0, 0.0], before=[0.0, 0.0])
    with pytest.raises(UserError, match="found 1 observations, 2 before and 1 actions"):
        agent.familiar([0.0, 0.0], before=np.zeros((2, 2)), action=[0.0])
    with pytest.raises(UserError, match="observation"):
        agent.familiar([np.nan, 0.0])
    with pytest.raises(UserError, match=r"found 20 rows, expected at least 100"):
        fittedq.familiarity(agent, dataset(log(20, 0)))
    rows = log(200, 0)
    wider = rows._replace(obs=rows.obs[:, :1], next_obs=rows.next_obs[:, :1])
    with pytest.raises(UserError, match="agent's own plant"):
        fittedq.familiarity(agent, dataset(wider))


@pytest.mark.parametrize("env", ["Pendulum-v1", pytest.param("jax/Pendulum-v1", marks=pytest.mark.slow)])
def test_what_is_trained_in_an_environment_knows_its_replay(env: str) -> None:
    trained = fittedq.train("td3", env, steps=220, **{**TINY, "random_steps": 300})
    assert trained.familiar([1.0, 0.0, 0.1]) > 0.05
    assert trained.familiar([5.0, 5.0, 0.1]) == 0
    assert trained.familiarity is not None and trained.familiarity.change is not None
    few = fittedq.train("td3", env, steps=60, **{**TINY, "random_steps": 300})
    assert few.familiarity is None


@pytest.mark.parametrize("algorithm", ["nfqca", "td3"])
@pytest.mark.parametrize("normalize_obs", [True, False])
def test_what_is_fitted_knows_the_rows_in_their_own_units(algorithm: str, normalize_obs: bool) -> None:
    data = dataset(log(300, 0))
    settings: dict[str, Any] = {"hidden": (8,), "normalize_obs": normalize_obs}
    fitted = Run(algorithm, None, Schedule(steps=1), data=data, settings=settings).agent()
    assert fitted.familiarity is not None
    by_hand = fittedq.familiarity(fitted, data).arrays()
    for name, array in fitted.familiarity.arrays().items():
        assert np.array_equal(array, by_hand[name])


def test_growing_data_are_known() -> None:
    trained = fittedq.train("nfqca", "Pendulum-v1", steps=120, random_steps=200, hidden=(8,))
    assert trained.familiar([5.0, 5.0, 0.1]) == 0


@pytest.mark.slow
def test_a_resumed_run_knows_what_the_whole_one_does(tmp_path: Path) -> None:
    settings: dict[str, Any] = {**TINY, "random_steps": 300, "checkpoint_every": 110}
    fittedq.train("td3", "Pendulum-v1", steps=160, out=tmp_path / "whole", **settings)
    fittedq.train("td3", "Pendulum-v1", steps=110, out=tmp_path / "parts", **settings)
    fittedq.resume(tmp_path / "parts", steps=160)
    whole, parts = (fittedq.load(tmp_path / name / "last").familiarity for name in ("whole", "parts"))
    assert whole is not None and parts is not None
    assert all(np.array_equal(array, parts.arrays()[name]) for name, array in whole.arrays().items())
