"""Rows drawn by their errors: prioritized replay, and loss-adjusted prioritization."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class PriorityRule:
    """p = max(|δ| + offset, least)^α, and what goes with it."""

    exponent: float
    """α, unless another is asked for."""
    offset: float = 0.0
    least: float = 0.0
    weighted: bool = False
    """Whether errors count (1 / N P(i))^β."""
    robust: bool = False
    """Whether Huber's loss takes the place of the squared error."""


PRIORITY_RULES: dict[str, PriorityRule | None] = {
    "uniform": None,
    "prioritized": PriorityRule(exponent=0.6, offset=1e-6, weighted=True),
    "lap": PriorityRule(exponent=0.4, least=1.0, robust=True),
}
"""How a replay is drawn from. Sources: Schaul et al. 2016, section 3.3; Fujimoto et al. 2020, section 4."""


class SumTree:
    """Numbers p_0 … p_{n−1} ≥ 0 in a binary tree of their sums: to find and to change one takes log n steps.

    A sum is always that of its two halves, so that equal numbers make equal trees, whatever came before.
    """

    def __init__(self, size: int):
        self._first = 1 << max(size - 1, 0).bit_length()
        self._sums = np.zeros(2 * self._first)

    @property
    def total(self) -> float:
        """Σ p."""
        return float(self._sums[1])

    def __getitem__(self, index: Int[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
        return self._sums[self._first + index]

    def set(self, index: Int[np.ndarray, "b"], numbers: Float[np.ndarray, "b"] | float) -> None:
        """p_i ← number; the last one, where an index comes twice."""
        node = self._first + index
        self._sums[node] = numbers
        for _ in range(self._first.bit_length() - 1):
            node >>= 1
            self._sums[node] = self._sums[2 * node] + self._sums[2 * node + 1]

    def find(self, mass: Float[np.ndarray, "*b"]) -> Int[np.ndarray, "*b"]:
        """The i with Σ_{k<i} p_k ≤ mass < Σ_{k≤i} p_k, for each mass in [0, Σ p). No p_i = 0 is found."""
        node = np.ones(mass.shape, np.int64)
        for _ in range(self._first.bit_length() - 1):
            node *= 2
            left = self._sums[node]
            # By rounding a mass may lie at the end of all that there is.
            right = (mass >= left) & (self._sums[node + 1] > 0.0)
            mass = np.where(right, mass - left, mass)
            node += right
        return node - self._first


class Priorities:
    """p_i = max(|δ_i| + offset, least)^α of the rows of a ring: row i is drawn with probability P(i) = p_i / Σ_k p_k.

    A new row has the greatest priority that any row has had. A drawn row's error counts w_i = (N P(i))^−β / max_j w_j,
    the maximum over its batch. Rows are known by their number, in the order they came: row i lies at i mod capacity.
    """

    def __init__(self, capacity: int, rule: PriorityRule, exponent: float | None = None):
        self.rule, self._capacity = rule, capacity
        self._exponent = rule.exponent if exponent is None else exponent
        self._tree = SumTree(capacity)
        self._added = 0
        self._greatest = np.ones(1, np.float32)

    @property
    def _size(self) -> int:
        return min(self._added, self._capacity)

    def grow(self, added: int) -> None:
        """Take in that so many rows have come in all."""
        if added > self._added:
            numbers = np.arange(max(self._added, added - self._capacity), added)
            self._tree.set(numbers % self._capacity, float(self._greatest[0]))
            self._added = added

    def draw(
        self, rng: np.random.Generator, shape: tuple[int, int], beta: float
    ) -> tuple[Int[np.ndarray, "K b"], Float[np.ndarray, "K b"]]:
        """(the numbers of the rows of K batches, their weights)."""
        place = self._tree.find(rng.random(shape) * self._tree.total)
        oldest = self._added - self._size
        numbers = oldest + (place - oldest) % self._capacity
        if not self.rule.weighted:
            return numbers, np.ones(shape, np.float32)
        weight = (self._size * self._tree[place] / self._tree.total) ** -beta
        return numbers, (weight / weight.max(axis=1, keepdims=True)).astype(np.float32)

    def learn(self, numbers: Int[np.ndarray, "*b"], errors: Float[np.ndarray, "*b"]) -> None:
        """Rows have these |δ| now; those that were replaced meanwhile have none."""
        held = numbers >= self._added - self._capacity
        numbers, errors = numbers[held], errors[held]
        if not len(numbers):
            return
        size = np.maximum(np.abs(errors) + np.float32(self.rule.offset), np.float32(self.rule.least))
        priority = size**self._exponent
        self._greatest = np.maximum(self._greatest, priority.max(keepdims=True))
        self._tree.set(numbers % self._capacity, priority)

    def saved(self) -> dict[str, np.ndarray]:
        """What `restore` needs beside how many rows have come."""
        return {"priorities": self._tree[np.arange(self._size)].astype(np.float32), "greatest_priority": self._greatest}

    def restore(self, added: int, arrays: dict[str, np.ndarray]) -> None:
        """Put back what `saved` gave, after so many rows."""
        self._added, self._greatest = added, arrays["greatest_priority"].copy()
        self._tree.set(np.arange(self._size), arrays["priorities"])
