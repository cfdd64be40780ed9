"""Shards of the argmax over a dataset: what a worker answers is what a search here does, to the bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fittedq import Box, StateBox
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.algorithms.explicit_fqi import ExplicitFQI
from fittedq.algorithms.nfqca import NFQCA
from fittedq.cli.main import main
from fittedq.errors import EnvError, UserError
from fittedq.runs import shards
from fittedq.runs.shards import CALLS_A_SHARD, SearchOnRay, ordered
from fittedq.trainers.solutions import SearchEffort, SearchHere, SolverCall, solver_over_rows

BOX = Box([-1.0], [2.0])


class Inline:
    """What of Ray a search asks for, carried out in this process; `failing` shards fail."""

    class exceptions:
        RayError = OSError

    def __init__(self, failing: bool = False):
        self.failing, self.most = failing, 0
        self.asked: list[Any] = []

    def put(self, value: Any) -> Any:
        return value

    def remote(self, function: Any) -> Inline:
        self.function = function
        return self

    def options(self, **about: Any) -> Inline:
        ray = self

        class Asking:
            def remote(self, *given: Any) -> Any:
                ray.asked.append(given)
                ray.most = max(ray.most, len(ray.asked))
                return given

        return Asking()  # pyright: ignore[reportReturnType]

    def get(self, given: Any) -> Any:
        if self.failing:
            raise OSError("the worker is gone")
        self.asked.remove(given)
        order, effort, arrays, shard = given
        json.loads(order)  # words
        assert all(type(one) is np.ndarray for one in (*arrays.values(), *(array for call in shard for array in call)))
        return self.function(order, effort, arrays, shard)


@pytest.fixture(autouse=True)
def _not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is no worker."""
    monkeypatch.setattr(shards, "_kept", ExitStack)


def calls(count: int) -> Iterator[SolverCall]:
    rng = np.random.default_rng(0)
    for key in np.asarray(jax.random.split(jax.random.PRNGKey(0), count)):
        yield SolverCall(
            rng.normal(size=(8, 2)).astype(np.float32), rng.uniform(-1, 2, (8, 1, 1)).astype(np.float32), key
        )


@pytest.mark.parametrize("count", [1, 2 * CALLS_A_SHARD + 1])
@pytest.mark.parametrize("effort", SearchEffort)
def test_answers_of_workers_are_those_of_a_search_here_in_order(count: int, effort: SearchEffort) -> None:
    algorithm = ExplicitFQI(hidden=(4,))
    nets, ray = algorithm.networks(2, BOX, jax.random.PRNGKey(1)), Inline()
    here = SearchHere(solver_over_rows(algorithm, BOX))
    there = SearchOnRay(ray, ordered(algorithm, 2, BOX), 2)
    expected = list(here(nets, effort, calls(count)))
    found = list(there(nets, effort, calls(count)))
    assert len(found) == count and ray.most == min(2, -(-count // CALLS_A_SHARD))
    for one, other in zip(expected, found, strict=True):
        for array, its in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, its)


def test_a_solver_on_the_host_is_asked_for_trees_that_have_grown() -> None:
    algorithm = ExplicitFQI(approximator="extra_trees", n_trees=3)
    rng = np.random.default_rng(0)
    first = algorithm.networks(2, BOX, jax.random.PRNGKey(1))
    obs, action = rng.normal(size=(60, 2)).astype(np.float32), rng.uniform(-1, 2, (60, 1)).astype(np.float32)
    nets = first.replace("critic", first.critic.fit((obs, action), obs[:, 0] - action[:, 0] ** 2))
    solver = solver_over_rows(algorithm, BOX)
    assert solver.solves_on_host(nets)
    (expected,) = SearchHere(solver)(nets, SearchEffort.FULL, calls(1))
    (found,) = SearchOnRay(Inline(), ordered(algorithm, 2, BOX), 1)(nets, SearchEffort.FULL, calls(1))
    np.testing.assert_array_equal(expected.action, found.action)


def test_a_cluster_that_fails_is_a_sentence_and_the_run_is_kept() -> None:
    algorithm = ExplicitFQI(hidden=(4,))
    search = SearchOnRay(Inline(failing=True), ordered(algorithm, 2, BOX), 2)
    with pytest.raises(EnvError, match="the cluster failed while rows were searched"):
        list(search(algorithm.networks(2, BOX, jax.random.PRNGKey(1)), SearchEffort.FULL, calls(1)))


@pytest.mark.parametrize(
    ("algorithm", "action_set", "told"),
    [
        (NFQCA(hidden=(4,)), BOX, "'nfqca', which searches for no actions"),
        (ExplicitFQI(activation=jnp.sin), BOX, "activation is code, which no task carries"),
        (ExplicitFQI(), StateBox(lambda s: s - 1, lambda s: s + 1, BOX), "functions of the state"),
    ],
)
def test_what_no_task_carries_is_refused(algorithm: AbstractAlgorithm, action_set: Box, told: str) -> None:
    with pytest.raises(UserError, match=told):
        ordered(algorithm, 1, action_set)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["td3", "Pendulum-v1"], "--on: found ray without --seeds and --data"),
        (["explicit_fqi", "--data", "d", "--or-resume"], "--or-resume: found --on ray too"),
        (["explicit_fqi", "--data", "d", "--processes", "0"], "processes: found 0"),
    ],
)
def test_wrong_words_are_refused(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words, "--on", "ray", "--out", str(tmp_path / "r")]) == 2
    assert told in capsys.readouterr().err and list(tmp_path.iterdir()) == []
