"""Hostile files, bad datasets and absurd settings: a sentence each, soon, and before memory is claimed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import fittedq
from fittedq import memory
from fittedq.actions.base import Box
from fittedq.actions.mixed import Mixed
from fittedq.actions.polytope import Polytope
from fittedq.data.dataset import Dataset
from fittedq.data.importers import import_dataset, open_source
from fittedq.data.readers.columns import Rounding
from fittedq.errors import UserError

sys.path.append(str(Path(__file__).parent.parent / "reliability"))
import datasets
import flips
import hostile
from isolated import COMPILING, limited, sentence


@pytest.mark.parametrize("name", hostile.CASES)
def test_a_hostile_file_is_one_sentence(name: str) -> None:
    outcome = limited(hostile.attempt, name, hostile.room(name))
    assert outcome.survived, outcome.cause


# Each kind costs a method's first program; every one of them is read in another way or learned from by another method.
QUICK = set(list(datasets.KINDS)[::3])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in datasets.KINDS]
)
def test_a_bad_dataset_is_a_sentence_or_is_learned_from(name: str) -> None:
    outcome = limited(datasets.attempt, (name, 1), COMPILING)
    assert outcome.survived, outcome.cause


@pytest.mark.parametrize("kind", flips.KINDS)
def test_a_damaged_file_is_named_or_as_it_was(kind: str) -> None:
    for number in range(4):
        outcome = limited(flips.attempt, (kind, number), flips.room(kind))
        assert outcome.survived, outcome.cause


@pytest.mark.slow
@pytest.mark.parametrize("kind", flips.KINDS)
def test_more_damaged_files(kind: str) -> None:
    for number in range(4, 12):
        outcome = limited(flips.attempt, (kind, number), flips.room(kind))
        assert outcome.survived, outcome.cause


@pytest.mark.slow
@pytest.mark.parametrize("name", datasets.KINDS)
def test_more_bad_datasets(name: str) -> None:
    for number in range(2, 20):
        outcome = limited(datasets.attempt, (name, number), COMPILING)
        assert outcome.survived, outcome.cause


def test_what_is_not_bad_is_taken_by_every_way(tmp_path: Path) -> None:
    for way in datasets.WAYS:
        folder = tmp_path / way.__name__
        folder.mkdir()
        log = datasets.good(np.random.default_rng(0))
        assert datasets.changed(way(log, folder), log) is None


def test_the_trials_see_what_they_are_for() -> None:
    def hungry(case: Any, folder: Path) -> Any:
        np.ones(2**29)

    def lost(case: Any, folder: Path) -> Any:
        return hostile.attempt(case, folder)

    assert "MemoryError" in limited(hungry, None).cause
    hostile.CASES["taken"] = lambda folder: None
    try:
        assert limited(lost, "taken").cause == "it was taken"
    finally:
        del hostile.CASES["taken"]
    assert sentence(UserError("a\nb.")) and sentence(UserError("no end")) and not sentence(UserError("one sentence."))


# ---------------------------------------------------------------------- settings


def dataset() -> Dataset:
    log = datasets.good(np.random.default_rng(0))
    return datasets.by_arrays(log, Path())


@pytest.mark.parametrize("algorithm", ["td3", "explicit_fqi", "svg", "smooth_fqi"])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hidden": (10**9, 10**9)}, "1,000,000,000 × 1,000,000,000 .* would take .* TiB of memory, and there is"),
        ({"n_critics": 10**12}, "1,000,000,000,000 of .* would take"),
        ({"hidden": (8,) * 1000}, "found a list of 1,000, expected at most 100"),
    ],
)
def test_networks_that_no_machine_holds(algorithm: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        fittedq.fit(algorithm, dataset(), steps=1, **settings)


@pytest.mark.parametrize(
    ("algorithm", "settings", "words"),
    [
        ("explicit_fqi", {"approximator": "radial", "n_centers": 10**12}, "would take"),
        ("explicit_fqi", {"approximator": "polynomial", "degree": 10**6}, "would take"),
        ("explicit_fqi", {"approximator": "extra_trees", "n_trees": 10**12}, "would take"),
        ("explicit_fqi", {"random_starts": 10**12}, "would take"),
        ("smooth_fqi", {"integration": "sampling", "samples": 10**12}, "would take"),
        ("smooth_fqi", {"points": 10**12}, "would take"),
        ("td3", {"batch_size": 10**12}, "batch_size = 1,000,000,000,000 would take"),
        ("svg", {"n_models": 10**12}, "would take"),
        ("svg", {"horizon": "1000000000000"}, "would take"),
        ("td3", {"policy_delay": 10**12}, "at most 2147483647"),
    ],
)
def test_counts_that_no_machine_holds(algorithm: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        fittedq.fit(
            algorithm, dataset(), steps=1, **({} if "approximator" in settings else {"hidden": (4,)}), **settings
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"replay_size": 10**12}, "setting replay_size: 1,000,000,000,000 rows of 10 numbers would take 36.4 TiB"),
        ({"n_envs": 10**12}, "setting n_envs: 1,000,000,000,000 environments would take"),
        ({"chunk": 10**12}, "settings chunk, .* 1,000,000,000,000 batches of 256 rows at once would take"),
        ({"updates_per_step": 1e12}, "settings chunk, .* would take"),
    ],
)
def test_collecting_that_no_machine_holds(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        fittedq.train("td3", lambda: gymnasium.make("Pendulum-v1"), steps=1, hidden=(4,), **settings)


def test_what_a_container_may_use_is_all_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "max").write_text("max\n")
    monkeypatch.setattr(memory, "GROUP_LIMITS", (str(tmp_path / "max"), str(tmp_path / "none")))
    whole = memory.there_is()
    (tmp_path / "max").write_text("123456789\n")
    assert memory.there_is() == 123456789 < whole
    memory.require(123456789, "it", "choose less")
    with pytest.raises(UserError, match=r"it would take 117\.7 MiB of memory, and there is 117\.7 MiB; choose less\."):
        memory.require(123456790, "it", "choose less")


def test_the_memory_of_networks_by_hand() -> None:
    # Two members of 3 × 4 × 1: 16 weights five times and 5 activations of 10 rows each, 4 bytes a number.
    assert memory.network_bytes([(2, (3, 4, 1))], batch=10) == 2 * 4 * (5 * 16 + 10 * 5)


def test_wide_ranges_of_whole_numbers_claim_no_memory() -> None:
    for wide in (1e12, 3e38):
        action_set = Mixed(Box([-wide], [wide]), [0])
        assert action_set.settings == ()
        assert action_set.project(np.float32([[0.4]]), np.zeros((1, 1), np.float32)).tolist() == [[0.0]]
    with pytest.raises(UserError, match="found 2000000000001 settings"):
        Mixed(Polytope([-1e12, -1], [1e12, 1], [[0, 1]], [0.5]), [0])


# ---------------------------------------------------------------------- what rounding takes


def test_a_column_that_float32_rounds_away_is_told() -> None:
    rounding = Rounding()
    exact = np.stack([1.7e9 + np.arange(100.0), np.arange(100.0)], axis=1)
    for part in (exact[:50], exact[50:]):
        rounding.add(part, part.astype(np.float32))
    (note,) = rounding.notes("obs")
    assert note.startswith("obs [0] changes by 99 in all, and float32 rounds it by up to 6")


def test_an_import_says_what_rounding_takes(tmp_path: Path) -> None:
    log = datasets.good(np.random.default_rng(0))
    log.columns["reward"] = 1.7e9 + np.arange(len(log.columns["reward"]))
    np.savez(tmp_path / "log.npz", **log.columns)
    source = open_source(tmp_path / "log.npz")
    import_dataset(source, out=tmp_path / "d", label="log")
    assert any(note.startswith("reward [0] changes by 23 in all") for note in source.notes)
