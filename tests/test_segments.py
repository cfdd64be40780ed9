"""Checkpoints of a replay: what was written is never written again, and every row comes back where it was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fittedq.data import segments
from fittedq.data.replay import DeviceReplay
from fittedq.errors import UserError
from fittedq.runs import checkpoint
from standing import Collector


def written(path: Path) -> int:
    """Bytes of rows that are this checkpoint's alone."""
    return sum(file.stat().st_size for file in path.glob("rows-*") if file.stat().st_nlink == 1)


def restored(folder: Path, capacity: int) -> Collector:
    trainer = Collector(capacity)
    checkpoint.restore(folder, trainer)
    return trainer


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    capacity=st.integers(1, 12),
    batches=st.lists(st.tuples(st.integers(0, 15), st.booleans()), min_size=1, max_size=6),
    small=st.sampled_from([0, 24, 10**6]),
)
def test_every_row_comes_back_where_it_was(
    capacity: int,
    batches: list[tuple[int, bool]],
    small: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("run")
    trainer, before = Collector(capacity), None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SEGMENT_BYTES", small)
        for rows, restart in batches:
            trainer.collect(rows)
            before = checkpoint.save(folder, trainer, before=before)
            again = restored(folder, capacity)
            assert (again.replay.added, again.replay.size) == (trainer.replay.added, trainer.replay.size)
            np.testing.assert_array_equal(again.replay.rows, trainer.replay.rows)
            trainer = again if restart else trainer


def test_a_checkpoint_writes_the_new_rows_and_drops_what_no_checkpoint_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 0)
    trainer, before, on_disk = Collector(1000), None, []
    for _ in range(30):
        trainer.collect(100)
        before = checkpoint.save(tmp_path, trainer, before=before)
        assert written(before) == 100 * 2 * 4
        on_disk.append(len({file.stat().st_ino for file in tmp_path.rglob("rows-*")}))
    # 1000 rows are ten segments; the older of two checkpoints needs one more.
    assert on_disk[9:] == [10] + 20 * [11]


def test_small_segments_are_joined_until_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 500 * 8)
    trainer, before = Collector(10_000), None
    for _ in range(50):
        trainer.collect(100)
        before = checkpoint.save(tmp_path, trainer, before=before)
        assert written(before) <= 500 * 8
    assert before is not None
    assert len(list(before.glob("rows-*"))) == 10


def test_rows_of_another_past_are_not_taken_over(tmp_path: Path) -> None:
    """A run that fell back and went another way must not meet the rows of the way it left."""
    first = Collector(1000)
    first.collect(10)
    path = checkpoint.save(tmp_path, first)
    first.collect(10)
    checkpoint.save(tmp_path, first, before=path)
    other = Collector(1000)
    other.add(np.full((10, 2), -1, np.float32))
    other.add(np.full((10, 2), -1, np.float32))
    checkpoint.save(tmp_path, other)
    np.testing.assert_array_equal(restored(tmp_path, 1000).replay.content(), -1)


@pytest.mark.parametrize("damage", ["missing", "short", "folder"])
def test_what_is_missing_of_the_checkpoint_before_is_written_again(damage: str, tmp_path: Path) -> None:
    trainer = Collector(1000)
    trainer.collect(10)
    before = checkpoint.save(tmp_path, trainer)
    (segment,) = before.glob("rows-*")
    if damage == "missing":
        segment.unlink()
    elif damage == "short":
        segment.write_bytes(b"1234")
    else:
        for file in before.iterdir():
            file.unlink()
    trainer.collect(10)
    checkpoint.save(tmp_path, trainer, before=before)
    np.testing.assert_array_equal(restored(tmp_path, 1000).replay.rows, trainer.replay.rows)


def test_without_links_a_copy_is_as_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 0)

    def no_links(source: Any, target: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    trainer, before = Collector(1000), None
    for _ in range(3):
        trainer.collect(10)
        before = checkpoint.save(tmp_path, trainer, before=before)
    np.testing.assert_array_equal(restored(tmp_path, 1000).replay.rows, trainer.replay.rows)


def test_a_flipped_bit_in_a_segment_is_named(tmp_path: Path) -> None:
    trainer = Collector(1000)
    trainer.collect(100)
    (segment,) = checkpoint.save(tmp_path, trainer).glob("rows-*")
    data = bytearray(segment.read_bytes())
    data[7] ^= 1
    segment.write_bytes(data)
    with pytest.raises(UserError, match=f"{segment.name}: its SHA-256 differs"):
        restored(tmp_path, 1000)


def test_a_replay_on_the_device_comes_back_where_it_was() -> None:
    for count in (0, 3, 5, 13):
        trainer = Collector(5)
        for _ in range(count):
            trainer.collect(1)
        device = DeviceReplay.restored(trainer.replay.log(), 5)
        np.testing.assert_array_equal(np.asarray(device.rows), trainer.replay.rows)
        assert (int(device.size), int(device.position)) == (trainer.replay.size, trainer.replay.position)
