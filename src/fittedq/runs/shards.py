"""The argmax over a large dataset as tasks on a Ray cluster: shards of the calls that a solver makes.

A worker gets words (the method and its settings as JSON) and plain arrays (the networks, rows, starts, keys), makes the
solver once, and answers with plain arrays. The calls are those of a search on this machine, of the same shapes, so the
same programs are compiled and the answers are the same where processors are. A shard whose worker or node dies is
begun again by Ray.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import islice
from typing import final

import jax
import jax.numpy as jnp
import numpy as np

from fittedq.actions.base import AbstractActionSet
from fittedq.actions.saved import action_set_of, through_json
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.algorithms.saved import as_saved, origin, restored
from fittedq.errors import EnvError, UserError, in_one_line
from fittedq.machine import pin
from fittedq.programs import keep_programs
from fittedq.runs.cluster import RETRIES, Ray, check_nodes, connected, core_of_its_own, ray_library
from fittedq.settings import is_code
from fittedq.trainers.solutions import (
    AbstractSearch,
    SearchEffort,
    SearchHere,
    SolverAnswer,
    SolverCall,
    Where,
    solver_over_rows,
)
from fittedq.trainers.state import Arrays, from_arrays, network_shapes, to_arrays
from fittedq.types import Components, sized

CALLS_A_SHARD = 4
"""Calls in a shard: some seconds of work, beside which it is nothing to send them."""
AHEAD = 2
"""Shards for each core that are asked for, where nobody says how many: while one is answered the next one is there."""


@contextmanager
def shards_on_ray(address: str | None, at_once: int | None) -> Iterator[Where]:
    """While this lasts a dataset's rows are searched on the cluster at `address`, at most `at_once` shards at a time
    (None: all its cores are used). UserError: no cluster, or one on which the answers would be others."""
    ray = ray_library()
    with connected(ray, address):
        check_nodes(ray, json.dumps({"mark": ""}))
        most = at_once or AHEAD * int(ray.cluster_resources().get("CPU", 1))

        def where(algorithm: AbstractAlgorithm, obs_size: int, action_set: AbstractActionSet) -> AbstractSearch:
            return SearchOnRay(ray, ordered(algorithm, obs_size, action_set), most)

        yield where


def ordered(algorithm: AbstractAlgorithm, obs_size: int, action_set: AbstractActionSet) -> str:
    """A solver in words, as JSON; a UserError where some of it is code, which no task carries."""
    settings = as_saved(algorithm)
    code = next((name for name, value in settings.items() if is_code(value)), None)
    if code is not None:
        raise UserError(f"{code} is code, which no task carries to a cluster; search here.", argument="on")
    solver_over_rows(algorithm, action_set)
    action = through_json(action_set.describe())
    action_set_of(action)  # refuses bounds that are functions
    said = {"algorithm": algorithm.name, **origin(algorithm, None), "settings": settings}
    return json.dumps(said | {"obs_size": obs_size, "action_set": action})


@final
class SearchOnRay(AbstractSearch):
    """On the workers of a cluster, shard by shard."""

    def __init__(self, ray: Ray, order: str, most: int):
        self._ray, self._order, self._most = ray, order, most
        self._answer = ray.remote(answered).options(num_cpus=1, max_retries=RETRIES)

    def __call__(self, nets: Components, effort: SearchEffort, calls: Iterable[SolverCall]) -> Iterator[SolverAnswer]:
        held, coming, asked = self._ray.put(to_arrays("nets", nets)), iter(calls), deque[Ray]()
        while shard := [tuple(call) for call in islice(coming, CALLS_A_SHARD)]:
            asked.append(self._answer.remote(self._order, effort.name, held, shard))
            if len(asked) >= self._most:
                yield from self._got(asked.popleft())
        while asked:
            yield from self._got(asked.popleft())

    def _got(self, shard: Ray) -> Iterator[SolverAnswer]:
        try:
            found = self._ray.get(shard)
        except self._ray.exceptions.RayError as error:
            why = in_one_line(getattr(error, "cause", error))
            raise EnvError(f"the cluster failed while rows were searched ({why}).") from None
        yield from (SolverAnswer(*one) for one in found)


def answered(
    order: str, effort: str, arrays: Arrays, shard: list[tuple[np.ndarray, ...]]
) -> list[tuple[np.ndarray, ...]]:
    """On a worker: (action, value, status) of each call of a shard, under the networks of these arrays."""
    search, like = _made(order)
    nets = jax.tree.map(jnp.asarray, from_arrays("nets", sized(like, arrays), arrays))
    return [tuple(one) for one in search(nets, SearchEffort[effort], (SolverCall(*call) for call in shard))]


@cache
def _made(order: str) -> tuple[AbstractSearch, Components]:
    """The search, and components of the shapes it reads: once for a worker, whose process keeps a core from then on."""
    _kept()
    said = json.loads(order)
    algorithm, action_set = restored(said, {}, "the task"), action_set_of(said["action_set"])
    shapes = network_shapes(algorithm, said["obs_size"], action_set)
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return SearchHere(solver_over_rows(algorithm, action_set)), like


@cache
def _kept() -> ExitStack:
    """This process on a core of its own, as long as it lives, with compiled programs kept."""
    held = ExitStack()
    pin(0, [held.enter_context(core_of_its_own())])
    keep_programs()
    return held
