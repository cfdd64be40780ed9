"""Batches on the host: rows drawn uniformly or by their errors, of one step or of several."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fittedq.data.priorities import Priorities
from fittedq.data.returns import joined_steps, next_action, stretch
from fittedq.trainers.settings import AbstractDrawing
from fittedq.trainers.state import Arrays

Draw = Callable[[np.random.Generator, tuple[int, int], int], np.ndarray]
"""(generator, shape, rows drawn before) → numbers of rows."""
Take = Callable[[np.ndarray], np.ndarray]
"""Numbers of rows [*b] → the packed rows [*b, width], new ones."""


class Batches(NamedTuple):
    """K batches of packed rows, and the numbers of these."""

    rows: Float[np.ndarray, "K b width"]
    numbers: Int[np.ndarray, "K b"]


class Drawing:
    """Draws as `settings` say from rows that are known by their number, the newest `capacity` of them.

    Rows that are not drawn by their errors are drawn by `uniform` where it is given.
    """

    def __init__(
        self,
        settings: AbstractDrawing,
        capacity: int,
        gamma: float,
        obs_size: int,
        action_size: int,
        next_actions: bool = False,
        uniform: Draw | None = None,
    ):
        self._uniform = uniform
        self._settings, self._capacity, self._gamma, self._next_actions = settings, capacity, gamma, next_actions
        self._sizes = (obs_size, action_size)
        rule = settings.rule
        self.priorities = None if rule is None else Priorities(capacity, rule, settings.priority_exponent)

    def __call__(
        self,
        rng: np.random.Generator,
        batches: int,
        stop: int,
        take: Take,
        in_units: Callable[[np.ndarray], None],
        updates: int,
        stride: Callable[[np.ndarray], int | np.ndarray],
    ) -> Batches:
        """Batches of the rows before number `stop`: `take` gives them, `in_units` turns them into what the networks
        see, in place. `stride(numbers)` is how far the next row of the same environment lies."""
        shape, weight, discount, acted = (batches, self._settings.batch_size), None, None, None
        if self.priorities is None and self._uniform is not None:
            numbers = self._uniform(rng, shape, updates * shape[1])
        elif self.priorities is None:
            numbers = rng.integers(max(0, stop - self._capacity), stop, shape)
        else:
            self.priorities.grow(stop)
            numbers, weight = self.priorities.draw(rng, shape, self._settings.beta(updates))
        if self._next_actions:
            index, come = stretch(numbers, 2, stride(numbers), stop)
            both = take(np.asarray(index))
            rows, acted = both[..., 0, :], np.asarray(next_action(both, come, *self._sizes))
        elif self._settings.n_step == 1:
            rows = take(numbers)
        else:
            index, come = stretch(numbers, self._settings.n_step, stride(numbers), stop)
            rows, discount = joined_steps(take(np.asarray(index)), come, self._gamma, *self._sizes)
        rows = np.ascontiguousarray(rows)
        in_units(rows)
        beside = [column[..., None] for column in (discount, weight) if column is not None]
        beside += [] if acted is None else [acted]
        return Batches(np.concatenate([rows, *beside], axis=-1) if beside else rows, numbers)

    def learn(self, numbers: Int[np.ndarray, "K b"], errors: object) -> None:
        """Take in the rows' errors, where rows are drawn by them."""
        if self.priorities is not None:
            self.priorities.learn(numbers.ravel(), np.asarray(errors).ravel())

    def saved(self) -> Arrays:
        """What `restore` needs beside how many rows have come."""
        return {} if self.priorities is None else self.priorities.saved()

    def restore(self, added: int, arrays: Arrays) -> None:
        """Put back what `saved` gave."""
        if self.priorities is not None:
            self.priorities.restore(added, arrays)
