"""A log's rows with other set-points, and how long a run from a dataset is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fittedq.data.dataset import Dataset
from fittedq.data.description import Column, Description
from fittedq.data.set_points import with_set_points
from fittedq.errors import UserError
from fittedq.runs.resume import reopened
from fittedq.runs.run import Run
from fittedq.runs.schedule import Offline, Schedule

POINTS = Description(
    obs=("level", "wish"),
    action=("pump",),
    reward="-abs(level - wish) - 0.1 * d_pump**2 - 0.01 * (next_level - next_wish)**2 + 0 * d_wish",
    sample=2.0,
    settling=60.0,
    columns={"level": Column(set_point="wish"), "wish": Column("set-point"), "pump": Column("action")},
)


def logged(seed: int = 0, said: Description = POINTS, follows: float = 0.0) -> Dataset:
    """x' = .9 x + a + `follows` · w over two episodes, of 90 rows and of 60 that end for good."""
    rng = np.random.default_rng(seed)
    count, ends = 150, [89, 149]
    action = rng.uniform(-1, 1, (count, 1)).astype(np.float32)
    wish = np.repeat(rng.uniform(2, 8, 15), 10).astype(np.float32)
    level, after = np.zeros(count), np.zeros(count)
    for k in range(count):
        level[k] = 0.0 if k == 90 or k == 0 else after[k - 1]
        after[k] = 0.9 * level[k] + action[k, 0] + follows * wish[k]
    wish_after = np.append(wish[1:], wish[-1])
    wish_after[ends] = wish[ends]
    change = np.diff(action[:, 0], prepend=action[0, 0])
    change[90] = 0
    reward = -np.abs(level - wish) - 0.1 * change**2 - 0.01 * (after - wish_after) ** 2
    flags = {"terminated": np.arange(count) == ends[1], "truncated": np.arange(count) == ends[0]}
    obs, next_obs = np.stack([level, wish], axis=1), np.stack([after, wish_after], axis=1)
    data = Dataset.from_arrays(
        obs=obs, action=action, reward=reward, next_obs=next_obs, **flags, action_low=-1, action_high=1
    )
    data.description = said
    return data


def test_copies_are_the_rows_with_one_other_set_point_a_block() -> None:
    data = logged()
    copied = with_set_points(data, 2)
    rows, count = copied.data.columns, len(data)
    assert copied.copies == 2 and len(copied.data) == 3 * count
    for name, column in data.columns.items():
        np.testing.assert_array_equal(rows[name][:count], column)
    ends = [30, 60, 90, 120, 150]  # blocks of one settling time, 30 rows, within the episodes
    stops = [0, 90, 150] + [first + end for first in (150, 300) for end in ends]
    assert [stop for _, stop in copied.data.episodes()] == stops[1:]
    assert np.flatnonzero(rows["terminated"]).tolist() == [149, 299, 449]
    drawn = []
    for start, stop in copied.data.episodes()[2:]:
        here = slice(start, stop)
        own = slice(start % count, (stop - 1) % count + 1)
        (wish,) = set(rows["obs"][here, 1]) | set(rows["next_obs"][here, 1])
        drawn.append(float(wish))
        level, after, pump = data.columns["obs"][own, 0], data.columns["next_obs"][own, 0], data.columns["action"]
        np.testing.assert_array_equal(rows["obs"][here, 0], level)
        np.testing.assert_array_equal(rows["action"][here], pump[own])
        before = pump[np.maximum(np.arange(own.start, own.stop) - 1, 0 if own.stop <= 90 else 90), 0]
        reward = -np.abs(level - wish) - 0.1 * (pump[own, 0] - before) ** 2 - 0.01 * (after - wish) ** 2
        np.testing.assert_allclose(rows["reward"][here], reward, rtol=1e-5)
    logged_points = data.columns["obs"][:, 1]
    assert len(set(drawn)) == 10 and logged_points.min() <= min(drawn) < 4 < 6 < max(drawn) <= logged_points.max()
    assert "2 times more, with others (wish from " in copied.notes[0]


def test_copies_are_three_by_themselves_and_the_same_for_every_run() -> None:
    first, again = (with_set_points(logged(), None) for _ in range(2))
    assert first.copies == 3
    np.testing.assert_array_equal(first.data.columns["obs"], again.data.columns["obs"])
    assert with_set_points(logged(), 0).data.columns["reward"].shape == (150,)


COLUMNS = dict(POINTS.columns)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (logged(said=replace(POINTS, reward="earned", columns=COLUMNS | {"earned": Column("ignored")})), "no formula"),
        (logged(said=replace(POINTS, reward="level - other")), "reads more than what is observed and done"),
        (logged(said=replace(POINTS, reward="level - next_pump")), "reads the action of the next row"),
        (logged(said=replace(POINTS, reward="level")), "does not give the rewards of the rows"),
        (logged(said=replace(POINTS, terminated="level > wish")), "a formula of a set-point ends episodes"),
        (logged(follows=0.5), "level reacts to a set-point beside the action"),
    ],
)
def test_rows_that_tell_of_their_own_set_points_only_are_left_and_said(data: Dataset, said: str) -> None:
    copied = with_set_points(data, None)
    assert copied.data is data and copied.copies == 0
    assert said in copied.notes[0]
    with pytest.raises(UserError, match=f"set_point_copies: found 2, but .*{said}"):
        with_set_points(data, 2)


def test_an_observation_computed_from_a_set_point_is_found() -> None:
    data = logged()
    columns = dict(data.columns)
    for name in ("obs", "next_obs"):
        error = columns[name][:, :1] - columns[name][:, 1:]
        columns[name] = np.concatenate([columns[name], error.astype(np.float32)], axis=1)
    more = Dataset(columns, data.action_set)
    more.description = replace(POINTS, obs=("level", "wish", "e"), columns={**POINTS.columns, "e": Column()})
    assert "is computed from a set-point" in with_set_points(more, None).notes[0]


def test_without_a_set_point_that_changes_nothing_is_copied() -> None:
    data = logged()
    for name in ("obs", "next_obs"):
        data.columns[name][:, 1] = 5
    assert with_set_points(data, None).notes == ()
    data.description = None
    with pytest.raises(UserError, match="found 1, and no set-point changes"):
        with_set_points(data, 1)


TINY: dict[str, Any] = {"hidden": (2,), "epochs": 1, "policy_epochs": 1}


def test_a_run_says_how_many_copies_it_learned_from_and_goes_on_with_them(tmp_path: Path) -> None:
    data = logged()
    data.save(tmp_path / "d")
    data = Dataset.open(tmp_path / "d")
    run = Run("nfqca", None, Schedule.offline("nfqca", 1), data=data, settings=TINY, folder=tmp_path / "run")
    assert any("3 times more" in note for note in run.notes)
    for _ in run.reports():
        pass
    assert run.config()["settings"]["set_point_copies"] == 3
    again = reopened(tmp_path / "run", steps=2)
    assert again.data is not None and len(again.data) == 600
    again.close()


def test_a_run_from_data_is_as_long_as_its_discount_asks_for() -> None:
    lengths = {0.98: 250, 0.9: 50, 0.5: 40, 0.999: 500, 0.0: 40}
    assert {gamma: Schedule.offline("nfqca").at(gamma).steps for gamma in lengths} == lengths
    assert Schedule.offline("nfqca", 7).at(0.98).steps == 7
    assert Schedule.offline("td3").at(0.98).steps == 50_000
    run = Run("nfqca", None, Schedule.offline("nfqca"), data=logged(), settings=TINY | {"set_point_copies": 0})
    assert run.schedule.steps == 5 * 30 + 3, "5/(1 − exp(−1/30)) = 152.5 for 30 rows of settling"
    run.close()
    with pytest.raises(UserError, match="steps: found 0"):
        Offline(0)
