"""A FIFO replay of packed rows."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from fittedq import memory
from fittedq.data.returns import stretch
from fittedq.data.segments import RowLog


class Replay:
    """The last `capacity` rows on the host, drawn uniformly with replacement; the oldest row is replaced first.

    Memory is claimed as rows arrive, not at the start.
    """

    def __init__(self, capacity: int, width: int):
        check_size(capacity, width)
        self.rows = np.zeros((capacity, width), np.float32)
        self.added = 0
        """Rows that ever came; row i lies at i mod capacity."""

    @property
    def capacity(self) -> int:
        return self.rows.shape[0]

    @property
    def size(self) -> int:
        """Rows held."""
        return min(self.added, self.capacity)

    @property
    def position(self) -> int:
        """Where the next row goes."""
        return self.added % self.capacity

    def add(self, rows: Float[np.ndarray, "b width"]) -> None:
        """Append rows in order; those over capacity replace the oldest."""
        rows = rows[-self.capacity :]
        count = rows.shape[0]
        first = min(count, self.capacity - self.position)
        self.rows[self.position : self.position + first] = rows[:first]
        self.rows[: count - first] = rows[first:]
        self.added += count

    def sample(self, rng: np.random.Generator, batches: int, batch: int) -> Float[np.ndarray, "batches batch width"]:
        """`batches` independent batches."""
        return self.rows.take(rng.integers(0, self.size, (batches, batch)), axis=0)

    def take(self, numbers: Int[np.ndarray, "*b"]) -> Float[np.ndarray, "*b width"]:
        """The rows of these numbers."""
        return self.rows.take(numbers % self.capacity, axis=0)

    def content(self) -> Float[np.ndarray, "size width"]:
        """The rows held, as stored (not in order of age once the replay is full)."""
        return self.rows[: self.size]

    def newest(self, count: int) -> Float[np.ndarray, "n width"]:
        """Up to `count` rows, oldest first."""
        return self.rows[newest(count, self.size, self.position, self.capacity)]

    def log(self) -> RowLog:
        """The rows held, by number."""
        return ring_log(self.rows, self.added)

    def restore(self, log: RowLog) -> None:
        """Put back what `log` gave: every row where it was."""
        self.added = log.first
        for rows in log.since(log.first):
            self.add(rows)


def ring_log(rows: Float[np.ndarray, "capacity width"], added: int) -> RowLog:
    """What a ring holds to which so many rows were added."""
    size = min(added, len(rows))
    turn = added % len(rows) if added > len(rows) else 0
    return RowLog(added - size, (rows[turn:size], rows[:turn]))


def newest(count: int, size: int, position: int, capacity: int) -> np.ndarray:
    """Where a ring holds its newest rows, oldest first."""
    count = min(count, size)
    return (position - count + np.arange(count)) % capacity


def check_size(capacity: int, width: int) -> None:
    """A UserError where a replay of so many rows would not fit in memory once it is full."""
    what = f"setting replay_size: {capacity:,} rows of {width:,} numbers"
    memory.require(4 * capacity * width, what, "choose a smaller one")


class DeviceReplay(eqx.Module):
    """The same replay as a pytree, for loops compiled whole."""

    rows: Float[Array, "capacity width"]
    size: Int[Array, ""]
    position: Int[Array, ""]

    @staticmethod
    def empty(capacity: int, width: int) -> DeviceReplay:
        check_size(capacity, width)
        # Two zeros: a buffer that is donated may not appear twice.
        rows = jnp.zeros((capacity, width), jnp.float32)
        return DeviceReplay(rows, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def add(self, rows: Float[Array, "b width"]) -> DeviceReplay:
        capacity = self.rows.shape[0]
        rows = rows[-capacity:]
        count = rows.shape[0]
        indices = (self.position + jnp.arange(count)) % capacity
        return DeviceReplay(
            self.rows.at[indices].set(rows),
            jnp.minimum(self.size + count, capacity),
            (self.position + count) % capacity,
        )

    @staticmethod
    def restored(log: RowLog, capacity: int) -> DeviceReplay:
        """The replay whose rows `log` holds."""
        ring = Replay(capacity, log.width)
        ring.restore(log)
        size, position = (jnp.asarray(number, jnp.int32) for number in (ring.size, ring.position))
        return DeviceReplay(jax.device_put(ring.rows), size, position)

    def newest(self, count: int) -> Float[np.ndarray, "n width"]:
        """Up to `count` rows, oldest first, on the host."""
        return np.array(self.rows[newest(count, int(self.size), int(self.position), self.rows.shape[0])])

    def sample(self, key: PRNGKeyArray, batch: int) -> Float[Array, "batch width"]:
        return self.rows[jax.random.randint(key, (batch,), 0, self.size)]

    def stretches(
        self, key: PRNGKeyArray, batch: int, steps: int, stride: int
    ) -> tuple[Float[Array, "batch n width"], Bool[Array, "batch n"]]:
        """As many rows, each with the n − 1 that may follow it (`returns.stretch`), and which of them have come."""
        capacity = self.rows.shape[0]
        place = jax.random.randint(key, (batch,), 0, self.size)
        oldest = self.position - self.size
        index, come = stretch((place - oldest) % capacity, steps, stride, self.size)
        return self.rows[(jnp.asarray(index) + oldest) % capacity], jnp.asarray(come)
