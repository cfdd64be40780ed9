"""The iteration that a fitted run keeps: chosen by rows held out, in no environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fittedq
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.trainers.held_out import HeldOut
from fittedq.trainers.settings import GrowSettings, TrainSettings
from fittedq.types import Components

ROWS = 60
SMALL: dict[str, Any] = {"hidden": (8,), "epochs": 2, "minibatch": 9, "policy_epochs": 1, "gamma": 0.5}
CHOSEN: dict[str, Any] = {"keep": "chosen", "normalize_obs": False}


def columns() -> dict[str, np.ndarray]:
    """s' = (s + a) / 2, r = −s², ending where s > 1.5."""
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(ROWS, 1)).astype(np.float32), rng.uniform(-1, 1, (ROWS, 1)).astype(np.float32)
    following = (obs + action) / 2
    return {
        "obs": obs,
        "action": action,
        "reward": -(obs[:, 0] ** 2),
        "next_obs": following,
        "terminated": obs[:, 0] > 1.5,
    }


def chosen(residuals: list[float]) -> int:
    """The place of the one that is kept after so many iterations."""
    kept = 0
    for place, found in enumerate(residuals):
        kept = place if found < residuals[kept] or place + 1 >= 2 * (kept + 1) else kept
    return kept


def test_an_iteration_is_given_up_once_as_many_have_followed() -> None:
    held, steps = HeldOut.of(ROWS, 0), []
    for step, found in enumerate([0.5, 0.1, 0.4, 0.3, 0.6, 0.2, 0.9], start=1):
        held = held.seen(Components(), step, found)
        steps.append(held.step)
    assert steps == [1, 2, 2, 4, 4, 6, 6]


def log(**other: np.ndarray) -> Dataset:
    return Dataset.from_arrays(**(columns() | other), action_low=-1, action_high=1)


def residual(agent: fittedq.Agent, rows: np.ndarray) -> float:
    """√mean (q(s, a) − r − γ (1 − terminated) q(s', π(s')))², by what the agent itself says."""
    data = {name: column[rows] for name, column in columns().items()}
    ahead = agent.value(data["next_obs"], agent.act(data["next_obs"]))
    target = data["reward"] + 0.5 * (1 - data["terminated"]) * ahead
    return float(np.sqrt(np.mean((agent.value(data["obs"], data["action"]) - target) ** 2)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    """(report, what the last networks say on the rows held out) after each of five iterations; and the run's folder."""
    out, held = tmp_path_factory.mktemp("chosen") / "run", HeldOut.of(ROWS, 0).rows
    seen = []
    for report in fittedq.stream("nfqca", data=log(), steps=5, out=out, **SMALL, **CHOSEN):
        if report.fraction == 0:
            seen.append((report, report.metrics["held_out_residual"], report.agent))
    assert [report.step for report, _, _ in seen] == [1, 2, 3, 4, 5] and len(held) == 6
    return seen, out


def test_the_agent_is_that_of_the_least_residual_so_far(run: tuple[list[Any], Path]) -> None:
    seen, out = run
    held = HeldOut.of(ROWS, 0).rows
    for n in range(1, 6):
        told = [figure for _, figure, _ in seen[:n]]
        best, (report, _, agent) = chosen(told), seen[n - 1]
        assert report.metrics["since_chosen"] == n - 1 - best
        assert report.acts_by.startswith(f"the networks of iteration {best + 1} of {n}, of the least Bellman error")
        np.testing.assert_allclose(residual(agent, held), told[best], rtol=1e-4)
    assert len({figure for _, figure, _ in seen}) == 5
    last = fittedq.load(out)
    jax.tree.map(np.testing.assert_array_equal, last.nets, seen[-1][2].nets)
    origin = json.loads((out / "last" / "manifest.json").read_text())["origin"]
    assert origin["acts_by"] == seen[-1][0].acts_by


def test_no_fit_sees_what_is_held_out(run: tuple[list[Any], Path]) -> None:
    """Other rewards there, within the range of all, change what is chosen but no network."""
    seen, _ = run
    reward, held = columns()["reward"], HeldOut.of(ROWS, 0).rows
    other = reward.copy()
    other[held] = reward.mean()
    other[[reward.argmin(), reward.argmax()]] = reward[[reward.argmin(), reward.argmax()]]
    reports = fittedq.stream("nfqca", data=log(reward=other), steps=1, **SMALL, **CHOSEN)
    (again,) = [report for report in reports if report.fraction == 0]
    jax.tree.map(np.testing.assert_array_equal, again.agent.nets, seen[0][2].nets)
    assert abs(again.metrics["held_out_residual"] - seen[0][1]) > 1e-3


def test_a_stopped_run_goes_on_to_the_same_choice(run: tuple[list[Any], Path], tmp_path: Path) -> None:
    seen, _ = run
    data = log()
    data.save(tmp_path / "log")
    options = SMALL | CHOSEN
    stopped = fittedq.fit("nfqca", tmp_path / "log", steps=5, out=tmp_path / "run", stop_when="step >= 3", **options)
    jax.tree.map(np.testing.assert_array_equal, stopped.nets, seen[2][2].nets)
    resumed = fittedq.resume(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, resumed.nets, seen[-1][2].nets)


def test_a_run_may_end_once_nothing_better_comes() -> None:
    """Steps too small to change a network: no iteration is better than one before, but the first two are given up."""
    options = SMALL | CHOSEN | {"critic_learning_rate": 1e-12, "policy_learning_rate": 1e-12}
    reports = fittedq.stream("nfqca", data=log(), steps=9, stop_when="since_chosen >= 2", **options)
    assert [report.step for report in reports if report.fraction == 0][-1] == 6
    with pytest.raises(UserError, match="'since_chosen' is no figure of this run"):
        fittedq.fit("nfqca", log(), steps=2, stop_when="since_chosen >= 1", **SMALL)


def test_trees_are_chosen_too() -> None:
    options = {"approximator": "extra_trees", "n_trees": 3, "gamma": 0.5, **CHOSEN}
    reports = [
        report for report in fittedq.stream("explicit_fqi", data=log(), steps=3, **options) if not report.fraction
    ]
    figures = [report.metrics["held_out_residual"] for report in reports]
    assert reports[-1].metrics["since_chosen"] == 2 - chosen(figures)


def test_where_nothing_can_be_chosen_it_is_a_sentence() -> None:
    few = Dataset.from_arrays(**{name: column[:7] for name, column in columns().items()}, action_low=-1, action_high=1)
    with pytest.raises(UserError, match="setting keep: found chosen, which holds a tenth of the rows out"):
        fittedq.fit("nfqca", few, steps=1, **SMALL, **CHOSEN)
    with pytest.raises(UserError, match="setting keep: found chosen, and batches are drawn from all rows"):
        fittedq.fit("td3", log(), steps=1, hidden=(4,), keep="chosen")
    with pytest.raises(UserError, match="setting keep: found chosen, and batches are drawn from all rows"):
        fittedq.train("td3", "Pendulum-v1", steps=1, hidden=(4,), keep="chosen")
    with pytest.raises(UserError, match="setting keep: found chosen, and iterations on data that grow"):
        GrowSettings(keep="chosen")
    assert TrainSettings().keep == "last"
