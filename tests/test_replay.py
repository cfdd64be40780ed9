"""The replay against a plain deque, on the host and on the device."""

from __future__ import annotations

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fittedq.data.replay import DeviceReplay, Replay
from fittedq.data.segments import RowLog
from fittedq.types import Transition

BATCH_SIZES = st.lists(st.integers(0, 9), max_size=12)


def numbered(start: int, count: int) -> np.ndarray:
    """Rows that say in which order they came."""
    return np.arange(start, start + count, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)


def by_age(replay: Replay | DeviceReplay) -> list[float]:
    """First column, the oldest first."""
    size, position, capacity = int(replay.size), int(replay.position), replay.rows.shape[0]
    first = np.asarray(replay.rows)[:size, 0]
    return (np.roll(first, -position) if size == capacity else first).tolist()


def filled(capacity: int, batches: list[int]) -> Replay:
    replay, count = Replay(capacity, 2), 0
    for batch in batches:
        replay.add(numbered(count, batch))
        count += batch
    return replay


@settings(max_examples=150, deadline=None)
@given(capacity=st.integers(1, 7), batches=BATCH_SIZES)
def test_holds_the_newest_rows_in_order_as_a_deque_does(capacity: int, batches: list[int]) -> None:
    replay, model = Replay(capacity, 2), deque(maxlen=capacity)
    count = 0
    for batch in batches:
        replay.add(numbered(count, batch))
        model.extend(range(count, count + batch))
        count += batch
        assert replay.size == len(model)
        assert by_age(replay) == list(model)


def test_wrap_around_replaces_exactly_the_oldest_rows() -> None:
    replay = filled(5, [4, 3])
    assert replay.position == 2
    assert replay.rows[:, 0].tolist() == [5, 6, 2, 3, 4]


def test_a_batch_larger_than_the_capacity_leaves_its_last_rows() -> None:
    replay = filled(4, [3, 11])
    assert by_age(replay) == [10, 11, 12, 13]


def test_samples_come_from_filled_rows_only_and_reach_all_of_them() -> None:
    replay = filled(100, [7])
    drawn = replay.sample(np.random.default_rng(0), 3, 200)
    assert drawn.shape == (3, 200, 2)
    assert set(np.unique(drawn[..., 0])) == set(range(7))


def test_device_samples_come_from_filled_rows_only_and_reach_all_of_them() -> None:
    replay = DeviceReplay.empty(100, 2).add(jnp.asarray(numbered(5, 7)))
    drawn = np.asarray(replay.sample(jax.random.key(0), 500))
    assert set(np.unique(drawn[:, 0])) == set(range(5, 12))


def test_batches_of_one_call_are_drawn_independently() -> None:
    drawn = filled(50, [50]).sample(np.random.default_rng(0), 2, 30)
    assert not np.array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize("capacity", [1, 3, 5])
@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_device_replay_equals_the_host_replay(capacity: int, batch: int) -> None:
    host, device = Replay(capacity, 2), DeviceReplay.empty(capacity, 2)
    for start in range(0, 4 * batch, batch):
        host.add(numbered(start, batch))
        device = device.add(jnp.asarray(numbered(start, batch)))
        assert by_age(device) == by_age(host)
        if batch <= capacity:
            assert int(device.position) == host.position
            np.testing.assert_array_equal(np.asarray(device.rows), host.rows)


@settings(max_examples=50, deadline=None)
@given(capacity=st.integers(1, 6), batches=BATCH_SIZES, later=BATCH_SIZES)
def test_restore_continues_exactly_where_content_was_taken(capacity: int, batches: list[int], later: list[int]) -> None:
    replay = filled(capacity, batches)
    copy = Replay(capacity, 2)
    copy.restore(RowLog(replay.log().first, tuple(part.copy() for part in replay.log().parts)))
    count = sum(batches)
    for batch in later:
        replay.add(numbered(count, batch))
        copy.add(numbered(count, batch))
        count += batch
    assert (copy.size, copy.position) == (replay.size, replay.position)
    np.testing.assert_array_equal(copy.content(), replay.content())


@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_unpack_is_the_inverse_of_pack(asarray) -> None:
    rng = np.random.default_rng(1)
    batch = Transition(
        obs=asarray(rng.normal(size=(6, 3)).astype(np.float32)),
        action=asarray(rng.normal(size=(6, 2)).astype(np.float32)),
        reward=asarray(rng.normal(size=6).astype(np.float32)),
        next_obs=asarray(rng.normal(size=(6, 3)).astype(np.float32)),
        terminated=asarray(np.array([True, False, True, False, False, True])),
        truncated=asarray(np.array([False, True, True, False, True, False])),
    )
    rows = batch.pack()
    assert rows.shape == (6, Transition.width(3, 2))
    for before, after in zip(jax.tree.leaves(batch), jax.tree.leaves(Transition.unpack(rows, 3, 2)), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(("added", "wanted", "expected"), [(2, 3, [0, 1]), (7, 3, [4, 5, 6]), (7, 99, [2, 3, 4, 5, 6])])
def test_the_newest_rows_come_oldest_first(added, wanted, expected):
    host, device = Replay(5, 1), DeviceReplay.empty(5, 1)
    for number in range(added):
        row = np.full((1, 1), number, np.float32)
        host.add(row)
        device = device.add(jnp.asarray(row))
    for replay in (host, device):
        np.testing.assert_array_equal(replay.newest(wanted)[:, 0], expected)
