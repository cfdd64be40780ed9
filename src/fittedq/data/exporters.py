"""Datasets in formats that others read: Minari, .npz, Parquet, CSV. Each is streamed, and whole or not there."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np

from fittedq.data.dataset import COLUMNS, VECTORS, Dataset
from fittedq.errors import UserError, nearest
from fittedq.files import Scratch, fsync_folder, is_free, place, write_json

MINARI_VERSION = "0.5.0"
"""The Minari release whose layout is written; later ones read it."""


def export(dataset: Dataset, path: str | Path, format: str = "auto") -> Path:
    """Write `dataset` to `path` as one of `WRITERS` (`auto`: by the name's ending, a folder is Minari's).

    UserError: `path` is there already, cannot be written, or a package is missing.
    """
    path = place(path, "path")
    if format == "auto":
        formats = {".npz": "npz", ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", "": "minari"}
        if path.suffix not in formats:
            raise UserError(
                f"no format ends in {path.suffix!r}, as {path} does; name one ({', '.join(WRITERS)}).",
                argument="format",
            )
        format = formats[path.suffix]
    if format not in WRITERS:
        raise UserError(f"{format!r} is unknown; {nearest(format, ['auto', *WRITERS])}", argument="format")
    with appearing(path, folder=format == "minari") as temporary:
        WRITERS[format](dataset, temporary, path.name)
    return path


@contextmanager
def appearing(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """A name in a scratch folder that becomes `path`, a file or a `folder`, where all went well, else vanishes.

    What is there already is never replaced: it cannot be known to be ours. Only an empty folder becomes a folder.
    """
    try:
        if not folder and path.is_dir():
            raise UserError(f"{path} is a folder, expected the name of a file to make, such as {path / 'log'}.")
        if not is_free(path):
            raise UserError(f"{path} is there already; choose another place.")
        with Scratch(path) as scratch:
            made = scratch.folder / "export"
            yield made
            os.replace(made, path)
            fsync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); choose another place.") from None
    except ModuleNotFoundError as error:
        raise UserError(f"{path} needs {error.name} to be written; pip install 'fittedq[data]'.") from None


def _write_npz(dataset: Dataset, path: Path, name: str) -> None:
    """One array per column, named as in `Dataset.from_arrays`, and action_low, action_high [m]."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for column in COLUMNS:
            values = dataset.columns[column]
            with archive.open(f"{column}.npy", "w", force_zip64=True) as file:
                header = {
                    "descr": np.lib.format.dtype_to_descr(values.dtype),
                    "fortran_order": False,
                    "shape": values.shape,
                }
                np.lib.format.write_array_header_1_0(file, header)
                for part in dataset.chunks():
                    file.write(np.ascontiguousarray(values[part]).tobytes())
        for bound, numbers in (("action_low", dataset.action_set.low), ("action_high", dataset.action_set.high)):
            with archive.open(f"{bound}.npy", "w") as file:
                np.lib.format.write_array(file, np.asarray(numbers, np.float32), allow_pickle=False)


def _write_parquet(dataset: Dataset, path: Path, name: str) -> None:
    """Numbered columns (obs_0, obs_1, …), reward, terminated, truncated, and the episode's number."""
    import pyarrow as pa
    from pyarrow import parquet

    stops = np.array([stop for _, stop in dataset.episodes()])
    fields = [
        *((f"{column}_{axis}", pa.float32()) for column in VECTORS for axis in range(dataset.columns[column].shape[1])),
        ("reward", pa.float32()),
        ("terminated", pa.bool_()),
        ("truncated", pa.bool_()),
        ("episode", pa.int64()),
    ]
    bounds = {"action_low": dataset.action_set.low, "action_high": dataset.action_set.high}
    schema = pa.schema(fields, metadata={key: json.dumps(value) for key, value in bounds.items()})
    with parquet.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        for part in dataset.chunks():
            batch = dataset.transitions(part)._asdict()
            columns = [np.ascontiguousarray(column) for name in VECTORS for column in batch[name].T]
            columns += [batch["reward"], batch["terminated"], batch["truncated"]]
            columns.append(np.searchsorted(stops, np.arange(part.start, part.stop), side="right"))
            writer.write_table(pa.table([pa.array(np.asarray(column)) for column in columns], schema=schema))


def _write_csv(dataset: Dataset, path: Path, name: str) -> None:
    """The columns of Parquet, true and false as 1 and 0; every number is the shortest text of its float32."""
    stops = np.array([stop for _, stop in dataset.episodes()])
    flags = ("terminated", "truncated")
    names = [f"{column}_{axis}" for column in VECTORS for axis in range(dataset.columns[column].shape[1])]
    with path.open("x", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*names, "reward", *flags, "episode"])
        for part in dataset.chunks():
            batch = dataset.transitions(part)._asdict()
            numbers = np.concatenate([*(batch[one] for one in VECTORS), np.asarray(batch["reward"])[:, None]], axis=1)
            ends = [np.searchsorted(stops, np.arange(part.start, part.stop), side="right")]
            ends = np.stack([*(np.asarray(batch[one], int) for one in flags), *ends], axis=1)
            rows.writerows(np.concatenate([numbers.astype(np.float32).astype(str), ends.astype(str)], axis=1).tolist())


def _write_minari(dataset: Dataset, path: Path, name: str) -> None:
    """data/main_data.hdf5 with a group per episode, T + 1 observations and T of all else; data/metadata.json.

    An episode is split, and its first part truncated, where a next observation is not the next row's: the layout
    stores each observation once. An unfinished last episode is truncated.
    """
    import h5py

    (path / "data").mkdir(parents=True)
    main = path / "data" / "main_data.hdf5"
    ends = {stop for _, stop in dataset.episodes()} | {int(row) + 1 for row in dataset.broken_links()}
    start = 0
    with _Patient(main) as stream, h5py.File(stream, "w", track_order=True) as file:
        for index, stop in enumerate(sorted(ends)):
            if stream.failure is not None:
                break
            episode = dataset.transitions(slice(start, stop))
            truncated = np.array(episode.truncated)
            truncated[-1] |= not episode.terminated[-1]
            group = file.create_group(f"episode_{index}")
            group.attrs["id"], group.attrs["total_steps"] = index, stop - start
            group["observations"] = np.concatenate([episode.obs, episode.next_obs[-1:]])
            group["actions"], group["rewards"] = episode.action, np.asarray(episode.reward, np.float64)
            group["terminations"], group["truncations"] = episode.terminated, truncated
            start = stop
    metadata = {
        "total_episodes": len(ends),
        "total_steps": len(dataset),
        "data_format": "hdf5",
        "observation_space": _box([-np.inf] * dataset.obs_size, [np.inf] * dataset.obs_size),
        "action_space": _box(dataset.action_set.low, dataset.action_set.high),
        "dataset_id": _dataset_id(name),
        "minari_version": MINARI_VERSION,
        "dataset_size": round(main.stat().st_size / 1e6, 1),
    }
    write_json(path / "data" / "metadata.json", metadata)


@final
class _Patient(io.FileIO):
    """A file for HDF5, whose library crashes the process when a write fails: the failure is raised when it closes."""

    failure: OSError | None = None

    def __init__(self, path: Path):
        super().__init__(path, "w+")

    def write(self, data: Any, /) -> int:
        left = memoryview(data).cast("B")
        try:
            while left and self.failure is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.failure = error
        return memoryview(data).nbytes

    def __exit__(self, *raised: object) -> None:
        self.close()
        if self.failure is not None:
            raise self.failure


def _box(low: object, high: object) -> str:
    bounds = {"low": np.asarray(low, float).tolist(), "high": np.asarray(high, float).tolist()}
    return json.dumps({"type": "Box", "dtype": "float32", "shape": [len(bounds["low"])], **bounds})


def _dataset_id(name: str) -> str:
    """A name that Minari accepts: letters, digits, - and _, with a version."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name).strip("-") or "dataset"
    return f"fittedq/{plain}-v0"


WRITERS: dict[str, Callable[[Dataset, Path, str], None]] = {
    "csv": _write_csv,
    "minari": _write_minari,
    "npz": _write_npz,
    "parquet": _write_parquet,
}
