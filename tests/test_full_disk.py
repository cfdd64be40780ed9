"""A write that fails is a sentence and leaves nothing; reliability/full_disk.py tries many more points."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fittedq import Dataset, UserError
from fittedq.data.exporters import export
from fittedq.runs.folder import RunFolder


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Writes beyond so many bytes fail, as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng, n = np.random.default_rng(0), 1000
    obs = rng.normal(size=(n + 1, 3))
    return Dataset.from_arrays(
        obs=obs[:-1],
        action=rng.uniform(-1, 1, (n, 1)),
        reward=rng.normal(size=n),
        next_obs=obs[1:],
        terminated=np.zeros(n, bool),
        truncated=np.arange(n) % 50 == 49,
        action_low=-1.0,
        action_high=1.0,
    )


@pytest.mark.parametrize("size", [100, 10_000])
@pytest.mark.parametrize("name", ["data.csv", "data.npz", "data.parquet", "data"])
def test_an_export_that_does_not_fit_is_a_sentence_and_leaves_nothing(
    name: str, size: int, dataset: Dataset, tmp_path: Path
) -> None:
    with no_file_above(size), pytest.raises(UserError, match=r"cannot be written.*File too large"):
        export(dataset, tmp_path / name)
    assert not list(tmp_path.iterdir())
    export(dataset, tmp_path / name)
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("size", [100, 5_000])
def test_a_dataset_that_does_not_fit_is_a_sentence_and_leaves_nothing(
    size: int, dataset: Dataset, tmp_path: Path
) -> None:
    with no_file_above(size), pytest.raises(UserError, match=r"cannot be written.*File too large"):
        dataset.save(tmp_path / "data")
    assert not list(tmp_path.iterdir())
    dataset.save(tmp_path / "data")
    np.testing.assert_array_equal(Dataset.open(tmp_path / "data").columns["obs"], dataset.columns["obs"])


def test_a_run_folder_that_cannot_be_written_is_a_sentence_and_keeps_what_it_holds(tmp_path: Path) -> None:
    config = {"algorithm": "td3", "env": "Pendulum-v1", "seed": 0, "steps": 9, "settings": {}}
    folder = RunFolder(tmp_path / "run")
    with (
        no_file_above(8),
        pytest.raises(UserError, match=r"config\.json cannot be written \(File too large\).*make room"),
    ):
        folder.create(config)
    folder.close()
    folder.create(config)
    folder.append({"step": 1})
    before = folder.metrics_file.read_bytes()
    with no_file_above(len(before) + 5), pytest.raises(UserError, match=r"metrics\.jsonl cannot be written"):
        folder.append({"step": 2})
    with no_file_above(5), pytest.raises(UserError, match=r"metrics\.jsonl cannot be written"):
        folder.rewind(1)
    assert folder.metrics() == [{"step": 1}]
    folder.rewind(1)
    assert folder.metrics_file.read_bytes() == before
    folder.close()
