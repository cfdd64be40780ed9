"""Batches from a dataset larger than memory: drawn from a pool of its blocks, which changes block by block."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from fittedq.trainers.rows import Rows

BLOCK = 4096
"""Rows that follow one another in the dataset, read at once, at most: all blocks are as long, to a row."""
POOL_BYTES = 2**28
"""Of packed rows at hand."""


class BlockPool:
    """The rows of m blocks of a dataset, uniform over which batches are drawn.

    Every pass takes the blocks in a new random order. The oldest makes way for the next one each time that a block's
    worth of rows was drawn, so that a row is drawn once a pass on average, and read once. What is at hand depends on
    the seed and the number of rows drawn alone: a resumed run reads the same blocks again.
    """

    def __init__(self, rows: Rows, seed: int, pool_bytes: int = POOL_BYTES):
        self._rows, self._seed = rows, seed
        self._blocks = -(-rows.size // BLOCK)
        self._starts = np.arange(self._blocks + 1) * rows.size // self._blocks
        self._count = min(self._blocks, max(1, pool_bytes // (4 * rows.width * BLOCK)))
        self._held = np.empty((self._count, BLOCK, rows.width), np.float32)
        self._numbers = np.full(self._count, -1)
        """The block in each place."""
        self._place = np.full(self._blocks, -1)
        """The place of each block, −1 where it is not at hand."""
        self._turns = np.full(self._count, -1)
        """The turn in which each place was filled."""
        self._epoch, self._order = -1, np.arange(0)
        """A pass, and its order of blocks."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, int], drawn: int) -> Int[np.ndarray, "K b"]:
        """Numbers of rows at hand, once `drawn` rows were drawn before."""
        first = drawn // BLOCK
        for turn in range(first, first + self._count):
            self._fill(turn)
        ends = np.cumsum(np.diff(self._starts)[self._numbers])
        at = rng.integers(0, ends[-1], shape)
        place = np.searchsorted(ends, at, side="right")
        return self._starts[self._numbers[place] + 1] - ends[place] + at

    def take(self, numbers: Int[np.ndarray, "*b"]) -> Float[np.ndarray, "*b width"]:
        """The packed rows of these numbers; those not at hand, such as the ones after a block's end, are read."""
        block = np.searchsorted(self._starts, numbers, side="right") - 1
        place = self._place[block]
        packed, away = self._held[place, numbers - self._starts[block]], place < 0
        if away.any():
            packed[away] = self._rows(numbers[away])
        return packed

    def _fill(self, turn: int) -> None:
        """Have the block of a turn in its place."""
        place = turn % self._count
        if self._turns[place] == turn:
            return
        gone, number = self._numbers[place], self._block(turn)
        if gone >= 0 and self._place[gone] == place:
            self._place[gone] = -1
        part = slice(*self._starts[number : number + 2].tolist())
        self._held[place, : part.stop - part.start] = self._rows(part)
        self._numbers[place], self._place[number], self._turns[place] = number, place, turn

    def _block(self, turn: int) -> int:
        """The block that comes in a turn."""
        epoch, index = divmod(turn, self._blocks)
        if self._epoch != epoch:
            order = np.random.default_rng(np.random.SeedSequence([self._seed, 6, epoch]))
            self._epoch, self._order = epoch, order.permutation(self._blocks)
        return int(self._order[index])
