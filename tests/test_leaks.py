"""One process may train again and again: a run that is over leaves no compiled program behind."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import pytest

import fittedq
from fittedq import Dataset

NETS = {"hidden": (8,)}


def logged() -> Dataset:
    rng = np.random.default_rng(0)
    columns = {"obs": rng.normal(size=(64, 3)), "action": rng.uniform(-2, 2, (64, 1)), "reward": rng.normal(size=64)}
    columns |= {"next_obs": rng.normal(size=(64, 3)), "terminated": np.zeros(64, bool)}
    return Dataset.from_arrays(**columns, action_low=-2.0, action_high=2.0)


RUNS: dict[str, Callable[[], object]] = {
    "fitted": partial(fittedq.fit, "nfqca", logged(), steps=1, minibatch=32, epochs=1, **NETS),
    "batches": partial(fittedq.fit, "ddpg", logged(), steps=2, batch_size=8, **NETS),
    "online": partial(fittedq.train, "ddpg", "Pendulum-v1", steps=12, random_steps=10, batch_size=8, **NETS),
}


@pytest.mark.parametrize(
    "kind", ["fitted", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("batches", "online"))]
)
def test_a_second_run_of_a_kind_leaves_no_program_behind(kind: str) -> None:
    left = []
    for _ in range(3):
        RUNS[kind]()
        gc.collect()
        left.append(len(jax.local_devices()[0].client.live_executables()))
    assert left[2] == left[1]
