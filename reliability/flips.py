"""One bit flipped, or the end cut off: a damaged file is named, or its content is what it was.

    python reliability/flips.py

CSV and HDF5 have no checksum, Parquet none of its footer: there a flipped digit is another digit, and nobody can know.
Such cases are counted as `another value`; a crash, a hang or a traceback is a loss there too.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from campaign import Outcome, campaign
from isolated import Isolated, sentence

from fittedq.data.dataset import COLUMNS, Dataset
from fittedq.data.exporters import export
from fittedq.data.importers import import_dataset, open_source
from fittedq.errors import UserError

ROWS = 60


def sound() -> Dataset:
    rng = np.random.default_rng(0)
    path = rng.normal(size=(ROWS + 1, 2))
    ends = np.arange(ROWS) % 20 == 19
    return Dataset.from_arrays(
        obs=path[:-1],
        action=rng.uniform(-1, 1, (ROWS, 1)),
        reward=rng.normal(size=ROWS),
        next_obs=path[1:],
        terminated=ends & (np.arange(ROWS) < 30),
        truncated=ends & (np.arange(ROWS) >= 30),
        action_low=-1,
        action_high=1,
    )


def contents(dataset: Dataset) -> Any:
    """What two equal datasets have in common."""
    return [dataset.columns[name].tobytes() for name in COLUMNS], dataset.action_set, dataset.origin


# ---------------------------------------------------------------------- kinds of files


def make_dataset(folder: Path) -> None:
    sound().save(folder / "data")


def read_dataset(folder: Path) -> Any:
    return contents(Dataset.open(folder / "data"))


def imported(path: Path) -> Any:
    dataset = import_dataset(open_source(path), path.with_name("out"), label=path.name)
    return contents(dataset)[:2]


def make_table(name: str, folder: Path) -> None:
    export(sound(), folder / name)


def make_csv(folder: Path) -> None:
    dataset = sound()
    names = [f"{name}_{axis}" for name in ("obs", "action", "next_obs") for axis in range(2 - (name == "action"))]
    numbers = np.column_stack([dataset.columns[name] for name in ("obs", "action", "next_obs", "reward")])
    flags = np.column_stack([dataset.columns[name] for name in ("terminated", "truncated")]).astype(int)
    lines = [",".join([*names, "reward", "terminated", "truncated"])]
    lines += [",".join([*map(repr, row.tolist()), *map(str, ends)]) for row, ends in zip(numbers, flags, strict=True)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")


def make_hdf5(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "log.h5", "w") as file:
        for name, column in sound().columns.items():
            file[name] = column


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any], str, bool]] = {
    "dataset's manifest": (make_dataset, read_dataset, "data/manifest.json", True),
    "dataset's columns": (make_dataset, read_dataset, "data/*.npy", True),
    ".npz": (partial(make_table, "log.npz"), lambda folder: imported(folder / "log.npz"), "log.npz", True),
    ".csv": (make_csv, lambda folder: imported(folder / "log.csv"), "log.csv", False),
    ".h5": (make_hdf5, lambda folder: imported(folder / "log.h5"), "log.h5", False),
    ".parquet": (
        partial(make_table, "log.parquet"),
        lambda folder: imported(folder / "log.parquet"),
        "log.parquet",
        False,
    ),
    "Minari's main_data.hdf5": (
        partial(make_table, "log"),
        lambda folder: imported(folder / "log"),
        "log/data/main_data.hdf5",
        False,
    ),
    "Minari's metadata.json": (
        partial(make_table, "log"),
        lambda folder: imported(folder / "log"),
        "log/data/metadata.json",
        False,
    ),
}
"""What makes a sound one in a folder, what a user reads of it, the files that are damaged, whether checksums cover all
of them."""
PER_KIND = 200


@cache
def whole(kind: str) -> tuple[Path, Any]:
    """A folder with a sound one, and what is read of it."""
    folder = Path(tempfile.mkdtemp(prefix="sound-"))
    make, read, _, _ = KINDS[kind]
    make(folder)
    copy = Path(tempfile.mkdtemp(prefix="sound-"))
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    return folder, read(copy)


def damage(path: Path, rng: np.random.Generator) -> str:
    """One bit flipped (four times of five) or the end cut off."""
    data = bytearray(path.read_bytes())
    if rng.random() < 0.8:
        at, bit = int(rng.integers(len(data))), int(rng.integers(8))
        data[at] ^= 1 << bit
        what = f"bit {bit} of byte {at} of {path.name} flipped"
    else:
        at = int(rng.integers(len(data)))
        del data[at:]
        what = f"{path.name} cut off after {at} bytes"
    path.write_bytes(data)
    return what


def attempt(case: tuple[str, int], folder: Path) -> Outcome:
    """Survived: a sentence that names the file, or the content as it was; `another value` where no checksum says so."""
    kind, number = case
    _, read, pattern, protected = KINDS[kind]
    source, expected = whole(kind)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    rng = np.random.default_rng([list(KINDS).index(kind), number])
    files = sorted(folder.glob(pattern))
    path = files[int(rng.integers(len(files)))]
    what = damage(path, rng)
    try:
        found = read(folder)
    except UserError as error:
        wrong = sentence(error)
        if wrong is None and not any(part in str(error) for part in (path.name, str(path.relative_to(folder)), "log")):
            wrong = f"does not name {path.name}: {error}"
        became = "refused"
    else:
        wrong = "was taken with another content" if found != expected and protected else None
        became = "as it was" if found == expected else "another value"
    return Outcome(kind, wrong is None, "" if wrong is None else f"{what}: {wrong}", {"became": became})


def cases() -> dict[str, tuple[str, int]]:
    return {f"{kind} {number}": (kind, number) for kind in KINDS for number in range(PER_KIND)}


def main() -> int:
    isolated = Isolated(attempt)
    return campaign(
        "flips",
        "A file with a flipped bit or without its end is named, or read as it was; never a traceback, never a hang.",
        {name: partial(isolated, case) for name, case in cases().items()},
    )


if __name__ == "__main__":
    sys.exit(main())
