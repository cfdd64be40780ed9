"""The greedy step over all rows of a dataset, and what solvers found at each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import Arr
from fittedq.template.greedy import AbstractGreedy, AbstractSolving
from fittedq.trainers.rows import CHUNK, filled, index_chunks
from fittedq.types import Components, needed


@dataclass(frozen=True)
class Solutions:
    """What a solver found at each row: its newest action, the iteration that is from, the gap there to the policy.

    The policy's own actions never come in: they are no labels.
    """

    action: np.ndarray
    """[rows, m]; the middle of the set where a row was never solved."""
    iteration: np.ndarray
    """−1 where a row was never solved."""
    gap: np.ndarray
    """q̄ at the solver's action less q̄ at the policy's; ∞ where a row was never solved."""

    @staticmethod
    def none(rows: int, action_set: AbstractActionSet) -> Solutions:
        center = np.asarray(action_set.center, np.float32)
        return Solutions(np.tile(center, (rows, 1)), np.full(rows, -1), np.full(rows, np.inf, np.float32))

    def copy(self) -> Solutions:
        return Solutions(self.action.copy(), self.iteration.copy(), self.gap.copy())

    def followed_by(self, more: Solutions) -> Solutions:
        """These rows, then those of `more`."""
        pairs = zip(vars(self).values(), vars(more).values(), strict=True)
        return Solutions(*(np.concatenate(pair) for pair in pairs))

    def since(self, iteration: int) -> np.ndarray:
        """The rows whose action is from this iteration or a later one."""
        return np.flatnonzero(self.iteration >= max(iteration, 1))


class RowsActing:
    """A greedy step over all rows of a dataset, in compiled chunks: solvers start from the last answer of each row."""

    def __init__(self, greedy: AbstractGreedy, seed: int):
        self._solving = greedy if isinstance(greedy, AbstractSolving) else None
        solver, elsewhere, self._max_age = (None, greedy, 0) if self._solving is None else self._solving.split()
        self._solver, self._elsewhere, self._seed = solver, elsewhere, seed
        self._solve = None if solver is None else jax.jit(lambda nets, obs, starts, key: solver(nets, obs, key, starts))
        self._act = None if elsewhere is None else jax.jit(lambda nets, obs, key: elsewhere(nets, obs, key))

    @property
    def solves(self) -> bool:
        """Whether it solves anywhere."""
        return self._solver is not None

    def labels(self, solutions: Solutions, n: int) -> np.ndarray:
        """The rows whose solved action is a label of the policy still, in iteration n."""
        return solutions.since(n - self._max_age)

    def __call__(
        self,
        nets: Components,
        n: int,
        key: Array,
        next_obs: Callable[[np.ndarray], np.ndarray],
        solutions: Solutions,
        acting: np.ndarray,
    ) -> Iterator[float]:
        """Fill `acting` with a' for every row, the solver's answers into `solutions` too; yields the share done."""
        size, chosen = len(acting), np.arange(0)
        if self._solving is not None:
            # A generator of its own: which rows are solved changes nothing in how networks are fitted.
            rng = np.random.default_rng(np.random.SeedSequence([self._seed, 3, n]))
            chosen = self._solving.rows(size, solutions.gap, rng)
        keys = iter(jax.random.split(key, 2 + 2 * (size // CHUNK + 2)))
        for part in index_chunks(np.setdiff1d(np.arange(size), chosen, assume_unique=True)):
            assert self._act is not None
            acting[part] = np.asarray(self._act(nets, filled(next_obs(part)), next(keys)).action)[: len(part)]
            yield 0.2 * part[-1] / size
        for part in index_chunks(chosen):
            answer = self._answers(nets, next_obs(part), solutions.action[part][:, None], next(keys))
            if self._elsewhere is not None:
                solutions.gap[part] = np.asarray(_gap(nets, filled(next_obs(part)), filled(answer)))[: len(part)]
            acting[part] = solutions.action[part] = answer
            solutions.iteration[part] = n
            yield 0.2 + 0.8 * part[-1] / size

    def _answers(self, nets: Components, obs: np.ndarray, starts: np.ndarray, key: Array) -> np.ndarray:
        assert self._solver is not None and self._solve is not None
        if self._solver.solves_on_host(nets):
            return np.asarray(self._solver(nets, obs, key, starts).action)
        return np.asarray(self._solve(nets, filled(obs), filled(starts), key).action)[: len(obs)]


@jax.jit
def _gap(nets: Components, obs: Float[Array, "b s"], action: Float[Array, "b m"]) -> Float[Arr, "b"]:
    """q at an action less q at the policy's."""
    q, policy = needed(nets.critic).least, needed(nets.policy)
    return q(obs, action) - q(obs, policy.act(obs, jnp.zeros_like(action)))
