"""The greedy step over all rows of a dataset, and what solvers found at each."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.arrays import Arr
from fittedq.errors import UserError
from fittedq.maximize.base import Solution, Status
from fittedq.template.greedy import AbstractGreedy, AbstractSolving, Solved
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


SEARCHED = 1024
"""Rows in one compiled call of a solver; of more rows the search is shortened."""
SAMPLE, SAMPLED = 1 / 64, 64
"""The share of rows at which the full search tries what a shortened one found; they come in calls of 64."""

NextObs = Callable[[np.ndarray], np.ndarray]
"""Numbers of rows [k] → s' there [k, s]."""


class SolverCall(NamedTuple):
    """What one call of a solver gets, beside the networks."""

    obs: Float[np.ndarray, "b s"]
    starts: Float[np.ndarray, "b 1 m"]
    key: UInt[np.ndarray, "2"]


class SolverAnswer(NamedTuple):
    """What it found for each of its rows: an action, q there, and how the search ended (`Status`)."""

    action: Float[np.ndarray, "b m"]
    value: Float[np.ndarray, "b"]
    status: Int[np.ndarray, "b"]


class SearchEffort(Enum):
    """How much a call of a solver does."""

    FULL = "all of its search"
    LOOK = "a look at its starts and some more actions"
    GO_ON = "a shortened search, from the best of its starts"


class AbstractSearch(abc.ABC):
    """Where the calls of a solver over a dataset are made; each depends on the networks and its own numbers alone."""

    @abc.abstractmethod
    def __call__(self, nets: Components, effort: SearchEffort, calls: Iterable[SolverCall]) -> Iterator[SolverAnswer]:
        """The answers, in the order of the calls."""


@final
class SearchHere(AbstractSearch):
    """In this process, one call after the other."""

    def __init__(self, solver: Solved):
        self._solver = solver
        self._programs = {
            SearchEffort.FULL: jax.jit(lambda nets, obs, starts, key: solver.solution(nets, obs, key, starts)),
            SearchEffort.LOOK: jax.jit(
                lambda nets, obs, starts, key: solver.looking().solution(nets, obs, key, starts)
            ),
            SearchEffort.GO_ON: jax.jit(lambda nets, obs, starts, key: solver.going_on(nets, obs, key, starts)),
        }

    def __call__(self, nets: Components, effort: SearchEffort, calls: Iterable[SolverCall]) -> Iterator[SolverAnswer]:
        solve = self._on_host if self._solver.solves_on_host(nets) else self._programs[effort]
        for call in calls:
            found = solve(nets, *call)
            yield SolverAnswer(*map(np.asarray, (found.action, found.value, found.status)))

    def _on_host(self, nets: Components, obs: np.ndarray, starts: np.ndarray, key: np.ndarray) -> Solution:
        return self._solver.solution(nets, obs, jnp.asarray(key), starts)


Where = Callable[[AbstractAlgorithm, int, AbstractActionSet], AbstractSearch]
"""(the method, the size of its observations, its actions) → where it searches."""


def solver_over_rows(algorithm: AbstractAlgorithm, action_set: AbstractActionSet) -> Solved:
    """What solves for a method's actions; a UserError where it has no solver."""
    greedy = algorithm.template(action_set).greedy
    if not isinstance(greedy, AbstractSolving):
        raise UserError(
            f"found {algorithm.name!r}, which searches for no actions, expected a method that does, such as "
            "explicit_fqi.",
            argument="on",
        )
    return greedy.split().solver


class RowsActing:
    """A greedy step over all rows of a dataset, in compiled chunks: solvers start from the last answer of each row.

    Where many rows are solved, the best of these answers and of some more actions is taken; where it lies at a limit
    that q still rises towards, the row is solved. A shortened search goes on at the other rows, and the full search
    goes on from its own at a sample of all. If that gains more there than the solver's tolerance, it is made at all the
    others too. So an answer is never worse than the last one, under the newest q. `search` says where the solver's
    calls are made, by default in this process.
    """

    def __init__(self, greedy: AbstractGreedy, seed: int, search: AbstractSearch | None = None):
        self._solving = greedy if isinstance(greedy, AbstractSolving) else None
        solver, elsewhere, self._max_age = (None, greedy, 0) if self._solving is None else self._solving.split()
        self._solver, self._elsewhere, self._seed = solver, elsewhere, seed
        self._search = SearchHere(solver) if search is None and solver is not None else search
        self._act = jax.jit(lambda nets, obs, key: needed(elsewhere)(nets, obs, key))

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
        next_obs: NextObs,
        solutions: Solutions,
        acting: np.ndarray,
    ) -> Iterator[float]:
        """Fill `acting` with a' for every row, the solver's answers into `solutions` too; yields the share done."""
        size, chosen = len(acting), np.arange(0)
        # A generator of its own: which rows are solved changes nothing in how networks are fitted.
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, 3, n]))
        if self._solving is not None:
            chosen = self._solving.rows(size, solutions.gap, rng)
        act_key, solve_key = jax.random.split(key)
        for part in index_chunks(np.setdiff1d(np.arange(size), chosen, assume_unique=True)):
            act_key, own = jax.random.split(act_key)
            acting[part] = np.asarray(self._act(nets, filled(next_obs(part)), own).action)[: len(part)]
            yield 0.2 * part[-1] / size
        for done in self._solved(nets, chosen, solve_key, next_obs, solutions, rng):
            yield 0.2 + 0.8 * done
        acting[chosen], solutions.iteration[chosen] = solutions.action[chosen], n
        if self._elsewhere is not None:
            for part in index_chunks(chosen):
                gap = _gap(nets, filled(next_obs(part)), filled(acting[part]))
                solutions.gap[part] = np.asarray(gap)[: len(part)]

    def _solved(
        self,
        nets: Components,
        chosen: np.ndarray,
        key: Array,
        next_obs: NextObs,
        solutions: Solutions,
        rng: np.random.Generator,
    ) -> Iterator[float]:
        """Put the answers at the chosen rows into `solutions`; yields the share done."""
        solver, value = self._solver, np.empty(len(solutions.action), np.float32)
        status = np.empty(len(value), np.int32)
        if solver is None or not len(chosen):
            return

        on_host, whole = solver.solves_on_host(nets), len(chosen) > SEARCHED

        def search(
            rows: np.ndarray, begin: float, end: float, size: int = SEARCHED, effort: SearchEffort = SearchEffort.FULL
        ) -> Iterator[float]:
            keys = iter(np.asarray(jax.random.split(jax.random.fold_in(key, int(1e3 * begin)), len(rows) // size + 1)))
            groups, least = list(index_chunks(rows, size)), size if whole else 1

            def call(group: np.ndarray) -> SolverCall:
                obs, starts = next_obs(group), solutions.action[group][:, None]
                if on_host:
                    return SolverCall(obs, starts, np.asarray(key))
                return SolverCall(filled(obs, least), filled(starts, least), next(keys))

            answers = needed(self._search)(nets, effort, map(call, groups))
            for group, answer in zip(groups, answers, strict=True):
                solutions.action[group], value[group], status[group] = (array[: len(group)] for array in answer)
                yield begin + (end - begin) * (1 + group[-1]) / (1 + rows[-1])

        if on_host:
            yield from search(chosen, 0.0, 1.0, CHUNK)
        elif not whole or solver.shorter(nets) is None:
            yield from search(chosen, 0.0, 1.0)
        else:
            yield from search(chosen, 0.0, 0.1, effort=SearchEffort.LOOK)
            unsettled = chosen[status[chosen] != Status.CONVERGED]
            yield from search(unsettled, 0.1, 0.2, effort=SearchEffort.GO_ON)
            count = SAMPLED * max(1, round(SAMPLE * len(chosen) / SAMPLED))
            sample = np.sort(rng.choice(chosen, count, replace=False))
            shortly = value[sample]
            yield from search(sample, 0.2, 0.3, SAMPLED)
            if not (value[sample] - shortly).mean() <= solver.tolerance * value[sample].std():
                others = np.setdiff1d(chosen, sample, assume_unique=True)
                yield from search(others, 0.3, 1.0, SAMPLED)


@jax.jit
def _gap(nets: Components, obs: Float[Array, "b s"], action: Float[Array, "b m"]) -> Float[Arr, "b"]:
    """q at an action less q at the policy's."""
    q, policy = needed(nets.critic).least, needed(nets.policy)
    return q(obs, action) - q(obs, policy.act(obs, jnp.zeros_like(action)))
