"""Datasets against what went in: every row, every end, every fault; nothing half-written, nothing held twice."""

from __future__ import annotations

import itertools
import json
import os
import re
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fittedq.actions.base import Box
from fittedq.data import dataset as module
from fittedq.data.dataset import COLUMNS, Dataset, Writer, as_transition
from fittedq.data.importers import import_dataset, open_source
from fittedq.data.quality import quality_of, row_hashes
from fittedq.data.readers import npz
from fittedq.data.readers.hdf5 import hdf5_size
from fittedq.data.readers.replay import by_environment
from fittedq.data.replay import Replay
from fittedq.errors import UserError
from fittedq.expressions import split_names
from fittedq.types import Transition

BOX = Box([-1.0, -2.0], [1.0, 2.0])


def episodes_of(lengths: list[int], ends: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns of episodes of these lengths that run on exactly; `ends` says T(erminated), t(runcated) or - of each."""
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    for length, end in zip(lengths, ends, strict=True):
        path = rng.normal(size=(length + 1, 3)).astype(np.float32)
        last = np.arange(length) == length - 1
        parts["obs"].append(path[:-1])
        parts["next_obs"].append(path[1:])
        parts["action"].append(rng.uniform([-1, -2], [1, 2], (length, 2)).astype(np.float32))
        parts["reward"].append(rng.normal(size=length).astype(np.float32))
        parts["terminated"].append(last & (end == "T"))
        parts["truncated"].append(last & (end == "t"))
    return {name: np.concatenate(values) for name, values in parts.items()}


def made(columns: dict[str, Any]) -> Dataset:
    return Dataset.from_arrays(**columns, action_low=BOX.low, action_high=BOX.high)


def assert_equal(found: Dataset, expected: dict[str, np.ndarray]) -> None:
    for name in COLUMNS:
        assert found.columns[name].dtype == (bool if name in ("terminated", "truncated") else np.float32)
        np.testing.assert_array_equal(found.columns[name], expected[name], err_msg=name)


def written(path: Path, *batches: Transition, **options: Any) -> Dataset:
    with Writer(path, **options) as writer:
        for batch in batches:
            writer.append(batch)
        return writer.finish()


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------- in memory, on disk


def test_a_saved_dataset_opens_as_it_was_and_is_read_only(tmp_path: Path) -> None:
    columns = episodes_of([4, 3, 5], "Tt-")
    made(columns).save(tmp_path / "d")
    assert left_in(tmp_path) == ["d"]
    found = Dataset.open(tmp_path / "d")
    assert_equal(found, columns)
    assert (len(found), found.obs_size, found.action_size, found.action_set) == (12, 3, 2, BOX)
    with pytest.raises(ValueError, match="read-only"):
        found.columns["reward"][0] = 1.0
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert manifest["count"] == 12
    assert manifest["versions"]["numpy"] == np.__version__
    for name in COLUMNS:
        file = tmp_path / "d" / f"{name}.npy"
        assert manifest["files"][file.name]["bytes"] == file.stat().st_size
        # A plain .npy: any reader's.
        with open(file, "rb") as stream:
            np.testing.assert_array_equal(np.lib.format.read_array(stream, allow_pickle=False), columns[name])


def test_rows_are_packed_transitions() -> None:
    columns = episodes_of([4, 3], "Tt")
    dataset = made(columns)
    expected = np.column_stack([columns[n] for n in ("obs", "action", "next_obs", "reward", "terminated", "truncated")])
    np.testing.assert_array_equal(dataset.rows(slice(None)), expected)
    picked = np.array([5, 0, 5, 3])
    np.testing.assert_array_equal(dataset.rows(picked), expected[picked])
    assert dataset.rows(picked).dtype == np.float32
    again = Transition.unpack(dataset.rows(picked), 3, 2)
    for name, column in dataset.transitions(picked)._asdict().items():
        np.testing.assert_array_equal(column, getattr(again, name))


@pytest.mark.parametrize(
    ("lengths", "ends", "expected"),
    [
        ([2, 3], "Tt", [(0, 2), (2, 5)]),
        ([2, 3], "t-", [(0, 2), (2, 5)]),
        ([1, 1, 1], "TtT", [(0, 1), (1, 2), (2, 3)]),
        ([4], "-", [(0, 4)]),
    ],
)
def test_episodes_end_where_a_flag_says_so_or_the_data_does(
    lengths: list[int], ends: str, expected: list[tuple[int, int]]
) -> None:
    assert made(episodes_of(lengths, ends)).episodes() == expected


def test_numbers_of_any_type_are_taken_and_one_bound_stands_for_all() -> None:
    dataset = Dataset.from_arrays(
        obs=[[1], [2]],
        action=np.array([[0.1, 0.2], [0, 0]]),
        reward=np.array([1, 2], np.int8),
        next_obs=np.array([[2], [3]], np.float16),
        terminated=[0, 1.0],
        action_low=-0.2,
        action_high=[0.1, 0.2],
    )
    assert dataset.columns["truncated"].tolist() == [False, False]
    assert dataset.columns["terminated"].tolist() == [False, True]
    # 0.1 in float32 is above 0.1: the bound is rounded as the action is.
    assert dataset.action_set == Box(np.float32([-0.2, -0.2]), np.float32([0.1, 0.2]))
    assert dataset.columns["action"][0, 0] <= dataset.action_set.high[0]


def with_changed(name: str, value: Any) -> dict[str, Any]:
    columns: dict[str, Any] = episodes_of([3], "T")
    columns[name] = value(columns[name]) if callable(value) else value
    return columns


def put(row: int, number: float) -> Any:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(float)
        array[row] = number
        return array

    return change


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("reward", None, "column reward is missing"),
        ("obs", lambda array: array[:, 0], r"obs has shape \(3,\), expected \(N, s\)"),
        ("action", np.zeros((3, 0)), r"action has shape \(3, 0\), expected \(N, m\)"),
        ("reward", np.zeros((3, 1)), r"reward has shape \(3, 1\), expected \(N,\)"),
        ("reward", np.zeros(2), "reward has 2 rows and obs has 3"),
        ("next_obs", np.zeros((3, 4)), r"next_obs has shape \(3, 4\), expected \(3, 3\)"),
        ("obs", [[1, 2], [3]], "obs is ragged"),
        ("reward", np.array([None, 1, 2]), "reward has type object, expected numbers"),
        ("terminated", [0, 2, 1], "terminated holds 2, expected only 0 and 1"),
        ("terminated", [0, np.nan, 1], "terminated holds nan"),
        ("obs", put(1, np.nan), r"1 row holds NaN or infinity \(row 1 in obs; the first row is row 0\)"),
        ("reward", put(2, np.inf), r"\(row 2 in reward;"),
        ("reward", put(2, 1e300), r"\(row 2 in reward;"),
        ("action", put(0, 1.5), r"1 row has an action outside the declared bounds \(row 0: \[1.5, 1.5\];"),
    ],
)
def test_a_bad_column_is_one_sentence(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        made(with_changed(name, value))
    assert str(error.value).endswith(".")


def test_no_rows_are_refused() -> None:
    empty = {name: column[:0] for name, column in episodes_of([3], "T").items()}
    with pytest.raises(UserError, match="found no transitions"):
        made(empty)


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        ([0.0], [1.0, 2.0, 3.0], "1|2 lower"),
        (1.0, 1.0, "empty or one point"),
        (-np.inf, 1, "finite"),
        ("a", 1, "numbers"),
    ],
)
def test_bounds_that_bound_nothing_are_refused(low: Any, high: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Dataset.from_arrays(**episodes_of([3], "T"), action_low=low, action_high=high)


# ---------------------------------------------------------------------- the writer


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_batches_of_any_size_give_the_same_files(size: int, tmp_path: Path) -> None:
    columns = episodes_of([4, 3, 5], "Tt-")
    whole = made(columns)
    with Writer(tmp_path / "d", action_set=BOX) as writer:
        for start in range(0, 12, size):
            writer.append(whole.transitions(slice(start, start + size)))
        found = writer.finish()
    assert_equal(found, columns)
    assert_equal(Dataset.open(tmp_path / "d"), columns)


@pytest.mark.parametrize("size", [1, 2, 3, 30])
def test_the_row_before_one_left_out_is_cut_and_no_other(size: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    columns = episodes_of([5, 1, 6, 2, 8, 7], "TttT-T")
    keep = rng.random(29) < 0.6
    expected = {name: column.copy() for name, column in columns.items()}
    for row in range(28):
        if not keep[row + 1] and not columns["terminated"][row]:
            expected["truncated"][row] = True
    with Writer(tmp_path / "d", action_set=BOX) as writer:
        for start in range(0, 29, size):
            part = slice(start, start + size)
            writer.append(made(columns).transitions(part), keep[part])
        found = writer.finish()
    assert expected["truncated"].sum() > columns["truncated"].sum()
    assert_equal(found, {name: column[keep] for name, column in expected.items()})


def test_bad_rows_are_dropped_on_request_and_counted(tmp_path: Path) -> None:
    columns = episodes_of([6], "T")
    columns["obs"][2, 1] = np.nan
    columns["action"][4] = 3.0
    with Writer(tmp_path / "d", action_set=BOX, drop_bad=True) as writer:
        writer.append(as_transition(columns))
        found = writer.finish()
    assert writer.dropped == 2
    np.testing.assert_array_equal(found.columns["reward"], columns["reward"][[0, 1, 3, 5]])
    assert found.columns["truncated"].tolist() == [False, True, True, False]


def test_all_faults_are_counted_and_the_first_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    columns = episodes_of([40], "T")
    columns["reward"][::4] = np.nan
    columns["obs"][4] = np.inf
    parts = [{name: column[start : start + 7] for name, column in columns.items()} for start in range(0, 40, 7)]
    with pytest.raises(UserError, match="log: 10 rows hold NaN") as error:
        written(tmp_path / "d", *map(as_transition, parts), label="log")
    assert "row 0 in reward; row 4 in obs and reward; row 8 in reward; row 12 in reward; row 16 in reward; …" in str(
        error.value
    )
    assert left_in(tmp_path) == []


def test_without_bounds_the_range_of_the_data_is_the_box(tmp_path: Path) -> None:
    columns = episodes_of([5, 5], "TT")
    with Writer(tmp_path / "d") as writer:
        for part in (slice(0, 3), slice(3, 10)):
            writer.append(made(columns).transitions(part))
        box = writer.finish().action_set
    assert box == Box(columns["action"].min(0), columns["action"].max(0))
    columns["action"][:, 1] = 0.5
    with pytest.raises(UserError, match="--action-low"):
        written(tmp_path / "e", as_transition(columns))


def test_what_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    batch = as_transition(episodes_of([3], "T"))
    with Writer(tmp_path / "d") as writer:
        writer.append(batch)
    with pytest.raises(UserError, match="3 observation and 1 action"):
        written(tmp_path / "d", batch, batch._replace(action=batch.action[:, :1]))
    assert left_in(tmp_path) == []


def test_a_folder_that_holds_something_is_never_written_over(tmp_path: Path) -> None:
    dataset = made(episodes_of([3], "T"))
    (tmp_path / "empty").mkdir()
    dataset.save(tmp_path / "empty")
    before = (tmp_path / "empty" / "manifest.json").read_bytes()
    with pytest.raises(UserError, match="not an empty folder"):
        dataset.save(tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        dataset.save(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        dataset.save(tmp_path / "file" / "d")
    assert (tmp_path / "empty" / "manifest.json").read_bytes() == before
    assert left_in(tmp_path) == ["empty", "file"]


def test_copying_a_dataset_never_holds_it_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(episodes_of([60_000], "T")).save(tmp_path / "d")
    bytes_on_disk = sum(file.stat().st_size for file in (tmp_path / "d").iterdir())
    monkeypatch.setattr(module, "CHUNK_BYTES", 2**16)
    tracemalloc.start()
    try:
        Dataset.open(tmp_path / "d").save(tmp_path / "e")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bytes_on_disk > 2e6
    assert peak < bytes_on_disk / 4
    assert (tmp_path / "e" / "obs.npy").read_bytes() == (tmp_path / "d" / "obs.npy").read_bytes()


# ---------------------------------------------------------------------- damage


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    made(episodes_of([4, 3], "Tt")).save(tmp_path / "d")
    return tmp_path / "d"


def test_every_flipped_byte_is_found(saved: Path) -> None:
    for file in sorted(saved.iterdir()):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        whole = file.read_bytes()
        file.write_bytes(data)
        with pytest.raises(UserError, match=re.escape(file.name)):
            Dataset.open(saved)
        file.write_bytes(whole)
    assert len(Dataset.open(saved)) == 7


def test_without_verify_lengths_are_still_checked(saved: Path) -> None:
    file = saved / "reward.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    Dataset.open(saved, verify=False)
    file.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"reward.npy has 155 bytes, expected 156"):
        Dataset.open(saved, verify=False)
    file.unlink()
    with pytest.raises(UserError, match=r"reward\.npy is missing"):
        Dataset.open(saved)


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a dataset folder"):
        Dataset.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="not one of ours"):
        Dataset.open(tmp_path)


# ---------------------------------------------------------------------- rows that follow one another


def linked_by_hand(columns: dict[str, np.ndarray], episode: np.ndarray | None) -> list[tuple[int, np.ndarray, bool]]:
    """(row, its next observation, whether it is cut) of every row that can be kept without next observations."""
    count, rows = len(columns["reward"]), []
    for row in range(count):
        last = row == count - 1
        stops = columns["terminated"][row]
        jumps = columns["truncated"][row] or (episode is not None and not last and episode[row] != episode[row + 1])
        if stops:
            rows.append((row, columns["obs"][row], bool(columns["truncated"][row])))
        elif not jumps and not last:
            rows.append((row, columns["obs"][row + 1], False))
        elif rows and rows[-1][0] == row - 1 and not columns["terminated"][row - 1]:
            rows[-1] = (row - 1, rows[-1][1], True)
    return rows


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("numbered", [False, True], ids=["flags", "episode column"])
@pytest.mark.parametrize("ends", ["TtTtt-", "-tTttT", "tTTTTt"])
def test_next_observations_come_from_the_following_row_within_an_episode(
    size: int, numbered: bool, ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [4, 1, 3, 2, 6, 5]
    columns = episodes_of(lengths, ends)
    episode = np.repeat(np.arange(6), lengths) if numbered else None
    if episode is not None:
        columns["truncated"][:] = False
    arrays = {name: columns[name] for name in ("obs", "action", "reward", "terminated", "truncated")}
    save_npz(tmp_path / "log.npz", arrays | ({} if episode is None else {"episode": episode}))
    monkeypatch.setattr(npz, "chunk_rows", lambda width: size)
    source = open_source(tmp_path / "log.npz")
    found = import_dataset(source, out=tmp_path / "d", label="log", action_set=BOX)

    expected = linked_by_hand(columns, episode)
    kept = [row for row, _, _ in expected]
    np.testing.assert_array_equal(found.columns["reward"], columns["reward"][kept])
    np.testing.assert_array_equal(found.columns["next_obs"], [after for _, after, _ in expected])
    np.testing.assert_array_equal(found.columns["terminated"], columns["terminated"][kept])
    np.testing.assert_array_equal(found.columns["truncated"], [cut for _, _, cut in expected])
    lost = 21 - len(kept)
    assert lost == 0 or any(re.match(f"{lost} rows? w", note) for note in source.notes)


def save_npz(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def test_next_observations_in_the_file_lose_no_row(tmp_path: Path) -> None:
    columns = episodes_of([4, 1, 3], "Tt-")
    save_npz(tmp_path / "log.npz", columns | {"action_low": [-1, -2], "action_high": [1, 2]})
    source = open_source(tmp_path / "log.npz")
    assert source.action_set == BOX
    assert_equal(import_dataset(source, out=tmp_path / "d", label="log"), columns)
    assert source.notes == []


# ---------------------------------------------------------------------- a ring of rows


@pytest.mark.parametrize("n_envs", [1, 2, 3])
@pytest.mark.parametrize("steps", [4, 10, 23, 60])
def test_a_replay_is_read_oldest_first_and_environment_by_environment(n_envs: int, steps: int) -> None:
    replay = Replay(25, 2)
    for step in range(steps):
        replay.add(np.array([[env, step] for env in range(n_envs)], np.float32))
    order = by_environment(replay.size, steps * n_envs, n_envs)
    kept = [(step, env) for step in range(steps) for env in range(n_envs)][-25:]
    expected = sorted((env, step) for step, env in kept)
    assert [tuple(row) for row in replay.log().all()[order].tolist()] == expected


# ---------------------------------------------------------------------- HDF5's own length


@pytest.mark.parametrize("libver", ["earliest", "latest", "v108"])
@pytest.mark.parametrize("share", [0.12, 0.5])
def test_a_truncated_hdf5_file_says_how_much_is_there(libver: Any, share: float, tmp_path: Path) -> None:
    path = tmp_path / "log.hdf5"
    with h5py.File(path, "w", libver=libver) as file:
        for name, column in episodes_of([2_000], "T").items():
            file[name] = column
    size = path.stat().st_size
    assert hdf5_size(path) == size
    os.truncate(path, int(size * share))
    with pytest.raises(UserError, match=f"is truncated: {100 * share:.0f} % of the expected bytes are there"):
        open_source(path)


def test_a_file_that_is_no_hdf5_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.h5").write_bytes(b"not at all" * 100)
    with pytest.raises(UserError, match="is no HDF5 file"):
        open_source(tmp_path / "log.h5")


# ---------------------------------------------------------------------- quality


def test_check_finds_what_was_put_in() -> None:
    columns = episodes_of([5, 3, 5, 5, 2], "TTTTt")
    columns["action"][:10, 1] = 2.0
    columns["obs"][:, 2] = columns["next_obs"][:, 2] = 7.0
    for name in COLUMNS:
        columns[name][6] = columns[name][1]
    quality = quality_of(made(columns))
    assert (quality.rows, quality.episodes, quality.terminated, quality.truncated, quality.unfinished) == (
        20,
        5,
        4,
        1,
        0,
    )
    assert (quality.length.min, quality.length.mean, quality.length.max) == (2, 4, 5)
    starts = [0, 5, 8, 13, 18, 20]
    returns = [columns["reward"][a:b].sum() for a, b in itertools.pairwise(starts)]
    assert quality.returns.min == pytest.approx(min(returns), rel=1e-6)
    assert quality.returns.mean == pytest.approx(np.mean(returns), rel=1e-6)
    assert quality.returns.max == pytest.approx(max(returns), rel=1e-6)
    assert quality.reward.mean == pytest.approx(columns["reward"].mean(dtype=float))
    assert quality.constant_obs == [2]
    assert quality.constant_action == []
    assert quality.action_max == columns["action"].max(0).tolist()
    assert quality.at_bounds == [0.0, np.mean(columns["action"][:, 1] == 2.0)]
    assert (quality.duplicates.count, quality.duplicates.first) == (1, [6])
    assert (quality.broken.count, quality.broken.first) == (2, [5, 6])
    assert quality.at_cap == 3
    text = " ".join(quality.warnings)
    assert "1 row has (row 6) an exact copy" in text
    assert "3 of 5 episodes end `terminated` at exactly 5 steps" in text
    assert "observation [2] never changes" in text
    assert "2 rows have (row 5, 6) a next observation" in text


def test_check_of_sound_data_warns_of_nothing_and_leaves_out_the_unfinished_return() -> None:
    columns = episodes_of([9, 3, 7, 9], "TTt-")
    quality = quality_of(made(columns))
    assert quality.warnings == []
    assert quality.unfinished == 1
    returns = [columns["reward"][a:b].sum() for a, b in ((0, 9), (9, 12), (12, 19))]
    assert quality.returns.mean == pytest.approx(np.mean(returns), rel=1e-6)


def test_check_lists_what_a_dataset_should_not_hold() -> None:
    columns = episodes_of([8], "-")
    columns["reward"][:] = 2.0
    columns["action"][5] = 9.0
    columns["obs"][3, 0] = columns["next_obs"][2, 0] = np.nan
    quality = quality_of(Dataset(columns, BOX))
    assert (quality.not_finite.first, quality.outside.first) == ([2, 3], [5])
    assert (quality.reward.min, quality.reward.max) == (2.0, 2.0)
    text = " ".join(quality.warnings)
    for words in (
        "(row 2, 3) NaN",
        "(row 5) an action outside",
        "the reward is 2 in every row",
        "no end of an episode",
    ):
        assert words in text


def test_check_is_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = made(episodes_of([9, 3, 7, 9], "TTt-"))
    whole = quality_of(dataset)
    monkeypatch.setattr(module, "CHUNK_BYTES", 200)
    assert len(list(dataset.chunks())) > 5
    assert quality_of(dataset) == whole


def test_row_hashes_tell_equal_rows_from_all_others() -> None:
    # Small whole numbers as floats share most of their bits: the hard case.
    grid = np.stack(np.meshgrid(*[np.arange(-8, 8)] * 4), axis=-1).reshape(-1, 4).astype(np.float32)
    assert len(np.unique(row_hashes(grid))) == len(grid) == 16**4
    np.testing.assert_array_equal(row_hashes(grid * np.float32(-1)), row_hashes(0.0 - grid))


def test_columns_are_named_in_words() -> None:
    assert split_names('a, b,"set,point"', "obs") == ("a", "b", "set,point")
    for words in ("", "a,", 'a,"b'):
        with pytest.raises(UserError, match="expected names"):
            split_names(words, "obs")


@pytest.mark.parametrize("column", ["obs", "reward", "terminated"])
@pytest.mark.parametrize("listed", [False, True])
def test_what_lies_behind_a_mask_is_no_number(column: str, listed: bool) -> None:
    shape = (4, 2) if column == "obs" else (4,)
    masked = np.ma.masked_array(np.zeros(shape), mask=False)
    given: dict[str, Any] = dict.fromkeys(("obs", "next_obs"), np.zeros((4, 2))) | {"action": np.zeros((4, 1))}
    given |= dict.fromkeys(("reward", "terminated"), np.zeros(4)) | {column: masked}
    assert len(Dataset.from_arrays(**given, action_low=-1, action_high=1)) == 4
    masked[3] = np.ma.masked
    with pytest.raises(UserError, match=f"{column} holds masked values"):
        Dataset.from_arrays(**given | {column: list(masked) if listed else masked}, action_low=-1, action_high=1)


def test_rows_that_coarse_numbers_make_equal_are_no_copies_but_a_copied_part_is() -> None:
    columns = episodes_of([200], "t")
    for name, decimals in {"obs": 1, "next_obs": 1, "action": 0, "reward": 0}.items():
        columns[name] = np.round(columns[name], decimals)
    columns["obs"][:, 1:] = columns["next_obs"][:, 1:] = 0
    for name in COLUMNS:
        columns[name][199] = columns[name][0]
    coarse = quality_of(made(columns))
    assert coarse.coarse and coarse.duplicates.count > 0 and coarse.copied < 20
    assert not any("copy" in warning for warning in coarse.warnings)
    for name in COLUMNS:
        columns[name][150:180] = columns[name][20:50]
    copied = quality_of(made(columns))
    assert copied.copied >= 30
    assert any("in a row: they count twice" in warning for warning in copied.warnings)
