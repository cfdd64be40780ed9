"""What a newcomer meets: paths in place of objects, logs as they lie around, and what is said of a mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import fittedq
from fittedq.acting.status import ActingStatus
from fittedq.actions.base import Box
from fittedq.agent import Agent
from fittedq.algorithms.ddpg import DDPG
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.data.importers import import_dataset, open_source
from fittedq.maximize.base import Status
from test_dataset import episodes_of, made


@pytest.mark.parametrize("kind", [str, Path])
def test_a_dataset_is_given_by_its_folder_too(kind: type, tmp_path: Path) -> None:
    dataset = made(episodes_of([5, 4], "Tt"))
    dataset.save(tmp_path / "d")
    np.testing.assert_equal(Dataset.of(kind(tmp_path / "d")).columns, dataset.columns)
    assert Dataset.of(dataset) is dataset
    # Only after the data does a run look at this setting.
    with pytest.raises(fittedq.UserError, match="setting hidden: found 0, expected whole numbers"):
        fittedq.fit("td3", kind(tmp_path / "d"), hidden=(0,))
    with pytest.raises(fittedq.UserError, match="setting hidden: found 0, expected whole numbers"):
        fittedq.train("td3", "Pendulum-v1", steps=1, data=kind(tmp_path / "d"), hidden=(0,))


def test_what_is_no_dataset_is_one_sentence(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("a,b")
    with pytest.raises(fittedq.UserError, match=r"log.csv is a file, .*fittedq data import .*log.csv --out FOLDER"):
        fittedq.fit("td3", log)
    with pytest.raises(fittedq.UserError, match="not a dataset folder"):
        fittedq.fit("td3", "Pendulum-v1")
    with pytest.raises(fittedq.UserError, match="data: found list, expected a Dataset or the path"):
        Dataset.of([1, 2])


def test_rows_are_counted_from_zero_and_python_is_told_of_no_option_of_its_own(tmp_path: Path) -> None:
    columns = episodes_of([5], "T")
    columns["reward"][2] = np.nan
    with pytest.raises(fittedq.UserError, match="row 2 in reward; the first row is row 0"):
        made(columns)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(fittedq.UserError, match="choose another") as error:
        made(episodes_of([5], "T")).save(tmp_path / "full")
    assert "--" not in str(error.value)


def imported(path: Path, description: Description) -> tuple[Dataset, list[str]]:
    source = open_source(path, description=description)
    return import_dataset(source, out=path.with_suffix(".d"), label=path.name), source.notes


MAP = Description(obs=("angle", "speed"), action=("torque",), reward="r", truncated="cut")
HEADER = "time,angle,speed,torque,r,cut\n"


def test_a_log_whose_episodes_all_end_by_a_time_limit(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(HEADER + "".join(f"{t},{t},0,{t % 2},1,{int(t in (3, 7))}\n" for t in range(8)))
    dataset, notes = imported(log, MAP)
    assert not dataset.columns["terminated"].any()
    np.testing.assert_array_equal(dataset.columns["obs"][:, 0], [0, 1, 2, 4, 5, 6])  # 3 and 7 have no next state
    np.testing.assert_array_equal(dataset.columns["next_obs"][:, 0], [1, 2, 3, 5, 6, 7])
    assert dataset.episodes() == [(0, 3), (3, 6)]
    assert "Columns that were not read: time." in notes


def test_no_column_says_where_an_episode_ends(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(HEADER + "0,0,0,0,0,0\n")
    with pytest.raises(fittedq.UserError, match=r"no column for terminated \(or truncated, or episode\)"):
        imported(log, replace(MAP, truncated=""))


@pytest.mark.parametrize("cell", ["abc", "1.2.3"])
def test_a_cell_that_is_no_number_is_named_by_line_and_column(cell: str, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    rows = [f"{t},{t},NaN,{t % 2},1,0\n" for t in range(8)]
    rows[5] = f"5,5,0,{cell},1,0\n"
    log.write_text("\ufeff" + HEADER + "".join(rows))
    with pytest.raises(fittedq.UserError, match=f"line 7 has '{cell}' in column 'torque', expected a number"):
        imported(log, MAP)


def test_an_unreadable_observation_points_to_step() -> None:
    algorithm, box = DDPG(hidden=(2,)), Box([-1.0], [1.0])
    agent = Agent(algorithm, 2, box, algorithm.networks(2, box, jax.random.key(0)))
    with pytest.raises(fittedq.UserError, match="takes a safe action instead of raising"):
        agent.act([0.0, np.nan])
    assert agent.step([0.0, np.nan])[1] == ActingStatus.NOT_FINITE


def test_words_for_a_whole_number_and_for_a_folder_that_is_no_agent(tmp_path: Path) -> None:
    with pytest.raises(fittedq.UserError, match="batch_size: found 0, expected a whole number at least 1"):
        fittedq.fit("td3", made(episodes_of([5], "T")), batch_size=0)
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(fittedq.UserError, match=f"{path.name} is not an agent"):
            fittedq.load(path)


def test_a_status_shows_its_name_and_the_package_its_version() -> None:
    assert (str(ActingStatus.NOT_FINITE), f"{Status.TIME_LIMIT}") == ("NOT_FINITE", "TIME_LIMIT")
    assert fittedq.__version__[0].isdigit()
