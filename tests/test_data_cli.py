"""`fittedq data`: collecting, every format there and back, a run's replay, and one sentence for every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import jax
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import dataset as arrow_dataset

from fittedq.acting.collect import collect
from fittedq.actions.base import Box
from fittedq.cli.main import main
from fittedq.data.dataset import Dataset, Writer
from fittedq.envs.native import Pendulum, physics
from fittedq.errors import UserError
from fittedq.runs.saved import find_agent
from fittedq.types import Transition
from test_cli import TINY
from test_dataset import BOX, assert_equal, episodes_of, left_in, made, save_npz
from test_gym_source import Counting


@pytest.fixture(scope="module", autouse=True)
def own_settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FITTEDQ_NO_CACHE", "1")
        for name, truncates in (("Counting-v0", False), ("CountingTimed-v0", True)):
            gymnasium.register(name, lambda truncates=truncates: Counting(3, truncates))
        yield
        for name in ("Counting-v0", "CountingTimed-v0"):
            del gymnasium.registry[name]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs `fittedq data … --json`; the one object it prints."""

    def said(*arguments: Any) -> dict[str, Any]:
        assert main(["data", *map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)

    return said


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused; the one sentence it says."""

    def refused(*arguments: Any) -> str:
        assert main(["data", *map(str, arguments)]) == 2
        found = capsys.readouterr()
        assert found.out == ""
        assert found.err.startswith("fittedq: ")
        assert found.err.count("\n") == 1
        assert found.err.strip().endswith((".", "?"))
        return found.err

    return refused


# ---------------------------------------------------------------------- collect


@pytest.mark.parametrize(("env", "column"), [("Counting-v0", "terminated"), ("CountingTimed-v0", "truncated")])
def test_collected_transitions_are_the_environments(
    env: str, column: str, said: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    summary = said("collect", env, "--steps", 8, "--out", tmp_path / "d")
    assert (summary["rows"], summary["episodes"], summary["interrupted"]) == (8, 3, False)
    dataset = Dataset.open(tmp_path / "d")
    first = dataset.columns["obs"][0, 0]
    expected = [[first + row // 3, row % 3] for row in range(8)]
    assert dataset.columns["obs"].tolist() == expected
    assert dataset.columns["next_obs"].tolist() == [[episode, count + 1] for episode, count in expected]
    assert dataset.columns["reward"].tolist() == [1, 2, 3, 1, 2, 3, 1, 2]
    ends = {name: np.flatnonzero(dataset.columns[name]).tolist() for name in ("terminated", "truncated")}
    # The last row is cut: its episode does not run on.
    assert ends == (
        {"terminated": [2, 5], "truncated": [7]}
        if column == "terminated"
        else {"terminated": [], "truncated": [2, 5, 7]}
    )
    assert dataset.origin["collect"] == env


def gathered(path: Path, steps: int, **options: Any) -> Dataset:
    with Writer(path) as writer:
        counts = list(collect("Counting-v0", steps, writer, **options))
        assert counts[-1] == steps
        return writer.finish()


def constant(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda obs: np.full((len(obs), 1), value, np.float32)


def test_episodes_alternate_among_policies(tmp_path: Path) -> None:
    found = gathered(tmp_path / "d", 12, policies=[constant(0.5), constant(-0.25), constant(2.0)])
    # The last is projected onto the box.
    assert found.columns["action"].ravel().tolist() == [0.5] * 3 + [-0.25] * 3 + [1.0] * 3 + [0.5] * 3


def test_noise_has_its_deviation_and_epsilon_its_share(tmp_path: Path) -> None:
    noisy = gathered(tmp_path / "noisy", 2_000, policies=[constant(0.0)], noise=0.1).columns["action"]
    assert abs(noisy.mean()) < 4 * 0.1 / np.sqrt(2_000)
    assert noisy.std() == pytest.approx(0.1, rel=0.08)
    mixed = gathered(tmp_path / "mixed", 2_000, policies=[constant(0.5)], epsilon=0.3).columns["action"]
    share = np.mean(mixed != 0.5)
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 2_000)
    uniform = mixed[mixed != 0.5]
    assert abs(uniform.mean()) < 4 * np.sqrt(1 / 3 / len(uniform))
    assert uniform.std() == pytest.approx(np.sqrt(1 / 3), rel=0.1)


def test_a_jax_environment_is_collected_from_by_its_own_physics(
    said: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        said("collect", "jax/Pendulum-v1", "--steps", 203, "--seed", seed, "--out", tmp_path / name)
    rows, again, other = (Dataset.open(tmp_path / name).transitions(slice(None)) for name in "abc")
    next_obs, reward, _ = jax.vmap(physics(Pendulum()), (0, 0, None))(rows.obs, rows.action, None)
    np.testing.assert_allclose(rows.next_obs, next_obs, atol=1e-4)
    np.testing.assert_allclose(rows.reward, reward, atol=1e-3)
    assert np.flatnonzero(rows.truncated).tolist() == [199, 202]
    assert not rows.terminated.any()
    assert len(Dataset.open(tmp_path / "a").broken_links()) == 0
    np.testing.assert_array_equal(rows.pack(), again.pack())
    assert not np.isin(rows.obs[[0, 200], 0], other.obs[[0, 200], 0]).any(), "episodes begin anew, by the seed"
    assert rows.obs[0, 0] != rows.obs[200, 0]


def test_equal_seeds_collect_equal_data(tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        with Writer(tmp_path / name) as writer:
            list(collect("Pendulum-v1", 20, writer, seed=seed))
            found.append(writer.finish().rows(slice(None)))
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0][:, :4] != found[2][:, :4]).any(axis=1).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps: found 0"),
        ({"noise": -1.0}, "noise: found -1.0"),
        ({"noise": np.nan}, "noise: found nan"),
        ({"epsilon": 1.5}, "epsilon: found 1.5"),
        ({"seed": -1}, "seed: found -1"),
        ({"policies": []}, "policies: found none"),
        ({"policies": [lambda obs: np.zeros((1, 2))]}, r"found an action of shape \(1, 2\)"),
    ],
)
def test_a_wrong_setting_of_collect_is_one_sentence(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        gathered(tmp_path / "d", **({"steps": 5} | options))
    assert left_in(tmp_path) == []


def test_ctrl_c_keeps_what_was_collected(tmp_path: Path) -> None:
    out = tmp_path / "d"
    command = [sys.executable, "-m", "fittedq", "data", "collect", "Pendulum-v1", "--steps", "100000000", "--json"]
    process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(file.stat().st_size > 4_000 for file in tmp_path.glob(".fittedq-*/reward.npy")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    summary = json.loads(text)
    dataset = Dataset.open(out)
    assert summary["interrupted"] is True
    assert len(dataset) == summary["rows"] > 500
    assert dataset.columns["truncated"][-1]
    assert len(dataset.broken_links()) == 0
    assert left_in(tmp_path) == ["d"]


# ---------------------------------------------------------------------- there and back


@pytest.mark.parametrize("name", ["d.csv", "d.npz", "d.parquet", "minari"])
def test_an_export_imports_as_it_was(name: str, said: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """A table of text has no place for the limits of actions."""
    columns = episodes_of([4, 1, 3, 5], "TttT")
    made(columns).save(tmp_path / "d")
    assert said("export", tmp_path / "d", "--out", tmp_path / name)["rows"] == 13
    limits = ("--action-low", *map(str, BOX.low), "--action-high", *map(str, BOX.high)) if name == "d.csv" else ()
    summary = said("import", tmp_path / name, "--out", tmp_path / "e", *limits)
    assert (summary["rows"], summary["episodes"], summary["notes"]) == (13, 4, [])
    found = Dataset.open(tmp_path / "e")
    assert_equal(found, columns)
    assert found.action_set == BOX
    assert left_in(tmp_path) == sorted(["d", "e", name])


def test_minari_splits_where_the_data_does_not_run_on(said: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    columns = episodes_of([4, 3], "T-")
    columns["next_obs"][1] += 1
    made(columns).save(tmp_path / "d")
    said("export", tmp_path / "d", "--out", tmp_path / "m")
    with h5py.File(tmp_path / "m" / "data" / "main_data.hdf5") as file:
        assert {name: len(group["observations"]) for name, group in file.items()} == {
            "episode_0": 3,
            "episode_1": 3,
            "episode_2": 4,
        }
    said("import", tmp_path / "m", "--out", tmp_path / "e")
    columns["truncated"][[1, 6]] = True
    assert_equal(Dataset.open(tmp_path / "e"), columns)


def test_d4rl_without_next_observations_drops_what_it_cannot_know(
    said: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    columns = episodes_of([4, 3, 5], "Tt-")
    with h5py.File(tmp_path / "log.hdf5", "w") as file:
        for name, key in D4RL.items():
            if name != "next_obs":
                file[key] = columns[name]
        file["infos/qpos"] = np.zeros((12, 9))
    summary = said(
        "import", tmp_path / "log.hdf5", "--out", tmp_path / "d", "--action-low", -1, -2, "--action-high", 1, 2
    )
    found = Dataset.open(tmp_path / "d")
    kept = [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]
    np.testing.assert_array_equal(found.columns["reward"], columns["reward"][kept])
    not_terminal = found.columns["terminated"] == 0
    np.testing.assert_array_equal(found.columns["next_obs"][not_terminal], columns["next_obs"][kept][not_terminal])
    # The rows before those left out: of the timeout, and of the end of the file.
    assert np.flatnonzero(found.columns["truncated"]).tolist() == [5, 9]
    assert found.action_set == BOX
    assert [note.split(",")[0][:22] for note in summary["notes"]] == [
        "Columns that were not ",
        "1 terminal row has no ",
        "2 rows were left out w",
    ]


D4RL = {
    "obs": "observations",
    "action": "actions",
    "reward": "rewards",
    "next_obs": "next_observations",
    "terminated": "terminals",
    "truncated": "timeouts",
}


def test_d4rl_whole_takes_the_range_for_the_bounds_and_says_so(
    said: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    columns = episodes_of([4, 3, 5], "Tt-")
    with h5py.File(tmp_path / "log.hdf5", "w") as file:
        for name, key in D4RL.items():
            file[key] = columns[name].astype(float)
    summary = said("import", tmp_path / "log.hdf5", "--out", tmp_path / "d")
    found = Dataset.open(tmp_path / "d")
    assert_equal(found, columns)
    assert found.action_set.low == tuple(columns["action"].min(0).tolist())
    (note,) = summary["notes"]
    assert "does not say the actions' bounds" in note


def test_csv_is_read_by_a_map_and_an_episode_column(said: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    lines = ["run,x,v,u,r,done", "a,0,1,0.5,1,0", "a,1,2,-0.5,2,0", "a,2,3,0.5,3,1", "b,5,1,0.25,4,0", "b,6.5,1,0,5,0"]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    said(
        "import", tmp_path / "log.csv", "--out", tmp_path / "d", "--action-low", -1, "--action-high", 1,
        "--obs", "x,v", "--action", "u", "--reward", "r", "--terminated", "done", "--episode", "run",
    )  # fmt: skip
    found = Dataset.open(tmp_path / "d")
    assert found.columns["obs"].tolist() == [[0, 1], [1, 2], [2, 3], [5, 1]]
    assert found.columns["next_obs"].tolist() == [[1, 2], [2, 3], [2, 3], [6.5, 1]]
    assert found.columns["action"].ravel().tolist() == [0.5, -0.5, 0.5, 0.25]
    assert found.columns["terminated"].tolist() == [False, False, True, False]
    assert found.columns["truncated"].tolist() == [False, False, False, True]


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_in_either_order_are_read(order: Any, said: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    columns = episodes_of([4, 3], "Tt")
    save_npz(tmp_path / "log.npz", {name: np.asarray(column, order=order) for name, column in columns.items()})
    said("import", tmp_path / "log.npz", "--out", tmp_path / "d", "--action-low", -2, "--action-high", 2)
    assert_equal(Dataset.open(tmp_path / "d"), columns)


def test_dict_observations_of_minari_are_flattened_by_name(said: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "main_data.hdf5", "w") as file:
        group = file.create_group("episode_0")
        group["observations/goal"] = np.arange(3.0).reshape(3, 1)
        group["observations/at"] = np.arange(6.0).reshape(3, 2) + 10
        group["actions"], group["rewards"] = np.array([[0.0], [1.0]]), [1.0, 2.0]
        group["terminations"], group["truncations"] = [False, False], [False, False]
    summary = said("import", tmp_path, "--out", tmp_path / "d")
    found = Dataset.open(tmp_path / "d")
    assert found.columns["obs"].tolist() == [[10, 11, 0], [12, 13, 1]]
    assert found.columns["next_obs"].tolist() == [[12, 13, 1], [14, 15, 2]]
    assert found.columns["truncated"].tolist() == [False, True]
    assert any("1 episode ends without a flag" in note for note in summary["notes"])


def test_a_runs_replay_is_imported_oldest_first(
    said: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    settings = ["replay_size=50" if word.startswith("replay_size=") else word for word in TINY]
    assert (
        main(["train", "ddpg", "Pendulum-v1", "--steps", "70", "--out", str(run), "--eval-every", "0", *settings]) == 0
    )
    capsys.readouterr()
    assert said("import", run, "--out", tmp_path / "d")["rows"] == 50
    found = Dataset.open(tmp_path / "d")
    assert found.action_set == Box([-2.0], [2.0])
    np.testing.assert_array_equal(found.columns["next_obs"][:-1], found.columns["obs"][1:])

    # The agent of the run collects in its turn.
    said("collect", "Pendulum-v1", "--steps", 30, "--policy", run, "--seed", 5, "--out", tmp_path / "e")
    collected = Dataset.open(tmp_path / "e")
    expected = find_agent(run).act(collected.columns["obs"])
    # One observation at a time, and all at once: the same but for the order of float32 sums.
    np.testing.assert_allclose(collected.columns["action"], expected, atol=1e-6)


# ---------------------------------------------------------------------- check


def test_check_prints_json_or_words_and_is_no_error(
    said: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(episodes_of([3, 3, 3], "TTT")).save(tmp_path / "d")
    found = said("check", tmp_path / "d")
    assert (found["rows"], found["episodes"], found["at_cap"]) == (9, 3, 3)
    assert len(found["warnings"]) == 1
    assert main(["data", "check", str(tmp_path / "d")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "3: 3 terminated, 0 truncated" in text
    assert "warning: 3 of 3 episodes end `terminated` at exactly 3 steps" in text


# ---------------------------------------------------------------------- mistakes


def test_mistakes_of_import_are_one_sentence_and_leave_nothing(refused: Callable[..., str], tmp_path: Path) -> None:
    columns = episodes_of([4, 3], "Tt")
    log, out = tmp_path / "log.npz", tmp_path / "d"

    def importing(*more: Any, **arrays: Any) -> str:
        save_npz(log, {name: value for name, value in (columns | arrays).items() if value is not None})
        sentence = refused("import", log, "--out", out, *more)
        assert left_in(tmp_path) == ["log.npz"]
        return sentence

    assert "no column for reward" in importing(reward=None)
    assert "differ in length" in importing(reward=np.zeros(3))
    assert "Python objects" in importing(reward=np.array([None] * 7))
    assert "1 row holds NaN" in importing(reward=np.array([1, 2, 3, np.nan, 5, 6, 7]))
    assert "found no transitions" in importing(**{name: column[:0] for name, column in columns.items()})
    outside = importing("--action-low", -0.01, "--action-high", 0.01)
    assert "outside the declared bounds" in outside
    assert "log.npz" in outside
    assert "expected both or neither" in importing("--action-low", -1)
    assert "3 lower" in importing("--action-low", -1, -1, -1, "--action-high", 1)
    assert "option --rewards is unknown; did you mean '--reward'" in importing("--rewards", "reward")
    assert "--reward: 'rewad': there is no column 'rewad'; did you mean 'reward'?" in importing("--reward", "rewad")
    assert "--format: 'd4r' is unknown; did you mean 'd4rl'?" in importing("--format", "d4r")
    assert "is no HDF5 file" in importing("--format", "d4rl")
    data = log.read_bytes()
    log.write_bytes(data[: len(data) // 2])
    assert "truncated" in refused("import", log, "--out", out)
    assert "is not there" in refused("import", tmp_path / "nothing", "--out", out)
    assert "neither a Minari dataset" in refused("import", tmp_path, "--out", out)
    log.rename(tmp_path / "log.txt")
    assert "cannot be told from its name" in refused("import", tmp_path / "log.txt", "--out", out)


def test_bad_rows_are_dropped_where_asked(said: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    columns = episodes_of([5], "T")
    columns["reward"][2] = np.nan
    save_npz(tmp_path / "log.npz", columns | {"action_low": BOX.low, "action_high": BOX.high})
    summary = said("import", tmp_path / "log.npz", "--out", tmp_path / "d", "--drop-bad")
    assert (summary["rows"], summary["notes"]) == (4, ["1 bad row was dropped."])
    assert Dataset.open(tmp_path / "d").episodes() == [(0, 2), (2, 4)]


def minari(path: Path, **changed: Any) -> Path:
    """A Minari folder of two episodes of two steps; `changed` replaces what the second holds."""
    (path / "data").mkdir(parents=True)
    with h5py.File(path / "data" / "main_data.hdf5", "w") as file:
        for index in range(2):
            group = file.create_group(f"episode_{index}")
            arrays = {
                "observations": np.zeros((3, 1)),
                "actions": np.array([[0.0], [1.0]]),
                "rewards": np.ones(2),
                "terminations": np.array([False, True]),
                "truncations": np.zeros(2, bool),
            }
            for name, array in (arrays | (changed if index else {})).items():
                group[name] = array
    return path


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"observations": np.zeros((2, 1))}, "episode_1: found 2 observations, 2 actions"),
        ({"terminations": np.array([True, False])}, "episode_1: an end is flagged at step 1 of 2"),
        ({"rewards": np.zeros(0)}, "episode_1 has length zero"),
        ({"actions": np.zeros(2, int)}, "continuous, not discrete"),
        ({"observations": np.array([b"a", b"b", b"c"])}, "expected numbers"),
    ],
)
def test_minari_episodes_that_contradict_themselves_are_refused(
    changed: dict[str, Any], words: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    assert words in refused("import", minari(tmp_path / "m", **changed), "--out", tmp_path / "d")
    assert left_in(tmp_path) == ["m"]


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_a_minari_folder_of_tables_is_read(
    format: str, said: Callable[..., dict[str, Any]], refused: Callable[..., str], tmp_path: Path
) -> None:
    """Each episode is a table of T + 1 rows, the last of which pads all but the observation."""
    data = tmp_path / "m" / "data"
    data.mkdir(parents=True)
    space = {"type": "Box", "low": [-1.0], "high": [2.0]}
    metadata = {"data_format": format, "total_episodes": 2, "action_space": json.dumps(space)}
    (data / "metadata.json").write_text(json.dumps(metadata))
    for index in range(2):
        wide = pa.FixedSizeListArray.from_arrays(pa.array(10.0 * index + np.arange(6.0)), 2)
        obs = pa.StructArray.from_arrays(
            [pa.FixedSizeListArray.from_arrays(pa.array([7.0, 8, 9]), 1), wide], ["b", "a"]
        )
        action = pa.FixedSizeListArray.from_arrays(pa.array([0.0, 1.0, 0.0], pa.float32()), 1)
        columns = {"observations": obs, "actions": action, "rewards": [1.0, 2.0, 0.0]}
        flags = {"terminations": [False, index == 0, False], "truncations": [False, index == 1, False]}
        batch = pa.RecordBatch.from_pydict({"episode_id": [index] * 3, **columns, **flags})
        arrow_dataset.write_dataset(
            batch, data, format=format, partitioning=["episode_id"], existing_data_behavior="overwrite_or_ignore"
        )
    said("import", tmp_path / "m", "--out", tmp_path / "d")
    found = Dataset.open(tmp_path / "d")
    assert found.columns["obs"].tolist() == [[0, 1, 7], [2, 3, 8], [10, 11, 7], [12, 13, 8]]
    assert found.columns["next_obs"].tolist() == [[2, 3, 8], [4, 5, 9], [12, 13, 8], [14, 15, 9]]
    assert found.columns["terminated"].tolist() == [False, True, False, False]
    assert found.columns["truncated"].tolist() == [False, False, False, True]
    assert found.action_set == Box((-1.0,), (2.0,))
    for file in (data / "1").iterdir():
        file.unlink()
    assert "1 holds no file of the format" in refused("import", tmp_path / "m", "--out", tmp_path / "e")


def test_a_minari_folder_with_episodes_missing_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    (minari(tmp_path / "m") / "data" / "metadata.json").write_text(json.dumps({"total_episodes": 3}))
    assert "holds 2 episodes, its metadata.json says 3" in refused("import", tmp_path / "m", "--out", tmp_path / "d")


def test_an_existing_folder_is_never_written_over(refused: Callable[..., str], tmp_path: Path) -> None:
    made(episodes_of([3], "T")).save(tmp_path / "d")
    assert "not an empty folder" in refused("collect", "Counting-v0", "--steps", 5, "--out", tmp_path / "d")
    made(episodes_of([3], "T")).save(tmp_path / "e")
    assert "is there already" in refused("export", tmp_path / "d", "--out", tmp_path / "e")
    (tmp_path / "empty.csv").mkdir()
    told = refused("export", tmp_path / "d", "--out", tmp_path / "empty.csv")
    assert f"{tmp_path / 'empty.csv'} is a folder, expected the name of a file" in told
    (tmp_path / "empty.csv").rmdir()
    assert "--format: " in refused("export", tmp_path / "d", "--out", tmp_path / "f.txt")
    assert "no format ends in '.txt'" in refused("export", tmp_path / "d", "--out", tmp_path / "f.txt")
    assert "is not a dataset folder" in refused("check", tmp_path)
    assert "'Pendulum-v1'" in refused("collect", "Pendulm-v1", "--steps", 5, "--out", tmp_path / "g")
    assert left_in(tmp_path) == ["d", "e"]


# ---------------------------------------------------------------------- a collection that is killed

UNIT = Box((-1.0,), (1.0,))


def killed_while_writing(out: Path, batches: list[Transition]) -> None:
    """A process that appends the batches to a dataset as `data collect` does, and is killed."""
    child = os.fork()
    if child == 0:
        try:
            writer = Writer(out, action_set=UNIT, rescuable={"collect": "Counting-v0"})
            for batch in batches:
                writer.append(batch)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


# JAX warns of any fork; this child uses none of it.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_what_a_killed_collection_left_is_made_a_dataset(refused: Callable[..., str], tmp_path: Path) -> None:
    whole = gathered(tmp_path / "whole", 8)
    killed_while_writing(tmp_path / "d", [whole.transitions(slice(0, 5)), whole.transitions(slice(5, 7))])
    (left,) = tmp_path.glob(".fittedq-*")
    with (left / "obs.npy").open("ab") as file:
        file.write(b"\0" * 12)  # killed within a write: a row and a half more in one column
    whole.save(tmp_path / "another")
    assert (left / "unfinished.json").is_file(), "others who write here leave it alone"
    with Writer(tmp_path / "d", action_set=UNIT, rescuable={}) as alive:
        alive.append(whole.transitions(slice(0, 1)))
        told = refused("collect", "Counting-v0", "--steps", 5, "--out", tmp_path / "d")
    assert "was killed; the 7 transitions that it left are now the dataset there" in told
    found = Dataset.open(tmp_path / "d")
    expected = whole.rows(slice(0, 7))
    expected[-1, -1] = not whole.columns["terminated"][6]
    np.testing.assert_array_equal(found.rows(slice(None)), expected)
    assert (found.action_set, found.origin) == (UNIT, {"collect": "Counting-v0"})
    assert left_in(tmp_path) == ["another", "d", "whole"]


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_collection_killed_before_its_first_row_is_swept_and_a_damaged_one_named(
    said: Callable[..., dict[str, Any]], refused: Callable[..., str], tmp_path: Path
) -> None:
    killed_while_writing(tmp_path / "d", [])
    said("collect", "Counting-v0", "--steps", 5, "--out", tmp_path / "d")
    assert left_in(tmp_path) == ["d"]
    killed_while_writing(tmp_path / "e", [Dataset.open(tmp_path / "d").transitions(slice(0, 5))])
    (left,) = tmp_path.glob(".fittedq-*")
    (left / "action.npy").write_bytes(b"")
    assert f"{left} was left by a collection that was killed, and cannot be read" in refused(
        "collect", "Counting-v0", "--steps", 5, "--out", tmp_path / "e"
    )
    assert left.is_dir()
