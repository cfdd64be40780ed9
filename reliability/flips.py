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
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from campaign import Outcome, campaign
from isolated import COMPILING, READING, Isolated, sentence

import fittedq
from fittedq.data.dataset import COLUMNS, Dataset
from fittedq.data.exporters import export
from fittedq.data.importers import import_dataset, open_source
from fittedq.errors import UserError
from fittedq.runs.resume import reopened
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule

ROWS = 60
Read = tuple[Any, str]


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


def read_dataset(folder: Path) -> Read:
    return contents(Dataset.open(folder / "data")), ""


def imported(path: Path) -> Read:
    dataset = import_dataset(open_source(path), out=path.with_name("out"), label=path.name)
    return contents(dataset)[:2], ""


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


def make_run(folder: Path) -> None:
    """Three iterations of the smallest method there is, with a checkpoint after each."""
    make_dataset(folder)
    schedule = Schedule(steps=3, report_every=1, eval_every=0, checkpoint_every=1)
    settings = {"approximator": "polynomial", "random_starts": 0}
    run = Run(
        "explicit_fqi",
        None,
        schedule,
        data=Dataset.open(folder / "data"),
        settings=settings,
        folder=folder / "run",
    )
    run.start()
    for _ in run.execute():
        pass


def resumed(folder: Path) -> Read:
    """What `fittedq resume` goes on from: settings, the trainer's whole state, and what it says of damage."""
    run = reopened(folder / "run", steps=4)
    try:
        arrays, meta, _ = run.trainer.snapshot()
        config = {name: value for name, value in run.config().items() if name != "versions"}
        return (config, meta, {name: array.tobytes() for name, array in arrays.items()}), " ".join(run.notes)
    finally:
        run.close()


def loaded(folder: Path) -> Read:
    """What `fittedq.load` makes of an agent's folder."""
    agent = fittedq.load(folder / "run" / "last")
    return agent.act(np.linspace(-1, 1, 6).reshape(3, 2).astype(np.float32)).tobytes(), ""


@dataclass(frozen=True)
class Kind:
    make: Callable[[Path], None]
    """Makes a sound one in a folder."""
    read: Callable[[Path], Read]
    """What a user reads of it, and what is said beside."""
    files: str
    """Those that are damaged."""
    protected: bool = True
    """Whether checksums cover all of it: then another content is never taken unsaid."""
    resumes: bool = False
    """Whether a damaged one must not keep a run from going on."""


def table(name: str, files: str, protected: bool = False) -> Kind:
    return Kind(partial(make_table, name), lambda folder: imported(folder / name), files, protected)


KINDS: dict[str, Kind] = {
    "dataset's manifest": Kind(make_dataset, read_dataset, "data/manifest.json"),
    "dataset's columns": Kind(make_dataset, read_dataset, "data/*.npy"),
    ".npz": table("log.npz", "log.npz", protected=True),
    ".csv": Kind(make_csv, lambda folder: imported(folder / "log.csv"), "log.csv", protected=False),
    ".h5": Kind(make_hdf5, lambda folder: imported(folder / "log.h5"), "log.h5", protected=False),
    ".parquet": table("log.parquet", "log.parquet"),
    "Minari's main_data.hdf5": table("log", "log/data/main_data.hdf5"),
    "Minari's metadata.json": table("log", "log/data/metadata.json"),
    "run's config.json": Kind(make_run, resumed, "run/config.json"),
    "run's metrics.jsonl": Kind(make_run, resumed, "run/metrics.jsonl", resumes=True),
    "checkpoint's manifest": Kind(make_run, resumed, "run/checkpoints/step-0000000003/manifest.json", resumes=True),
    "checkpoint's tensors": Kind(make_run, resumed, "run/checkpoints/step-0000000003/*.safetensors", resumes=True),
    "agent's manifest": Kind(make_run, loaded, "run/last/manifest.json"),
    "agent's tensors": Kind(make_run, loaded, "run/last/*.safetensors"),
}
PER_KIND = 150


def room(kind: str) -> int:
    """What a trial may claim: making and resuming a run compiles."""
    return COMPILING if KINDS[kind].make is make_run else READING


@cache
def made(make: Callable[[Path], None]) -> Path:
    """A folder in which something was made, once."""
    folder = Path(tempfile.mkdtemp(prefix="sound-"))
    make(folder)
    return folder


@cache
def whole(kind: str) -> tuple[Path, Any]:
    """A folder with a sound one, and what is read of it."""
    folder, copy = made(KINDS[kind].make), Path(tempfile.mkdtemp(prefix="sound-"))
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    return folder, KINDS[kind].read(copy)[0]


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
    trial = KINDS[kind]
    source, expected = whole(kind)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    rng = np.random.default_rng([list(KINDS).index(kind), number])
    files = sorted(folder.glob(trial.files))
    path = files[int(rng.integers(len(files)))]
    what = damage(path, rng)
    try:
        found, said = trial.read(folder)
    except UserError as error:
        wrong = "the run does not go on" if trial.resumes else sentence(error)
        if wrong is None and not any(part in str(error) for part in (path.name, str(path.relative_to(folder)), "log")):
            wrong = f"does not name {path.name}: {error}"
        became = "refused"
    else:
        named = path.name in said
        wrong = "was taken with another content" if found != expected and trial.protected and not named else None
        became = "as it was" if found == expected else "passed over, and named" if named else "another value"
    return Outcome(kind, wrong is None, "" if wrong is None else f"{what}: {wrong}", {"became": became})


def cases() -> dict[str, tuple[str, int]]:
    return {f"{kind} {number}": (kind, number) for kind in KINDS for number in range(PER_KIND)}


def main() -> int:
    reading, compiling = Isolated(attempt), Isolated(attempt, COMPILING)
    return campaign(
        "flips",
        "A damaged file with checksums is named or read as it was; one without gives a sentence or another value; no "
        "traceback, no hang.",
        {name: partial(compiling if room(case[0]) == COMPILING else reading, case) for name, case in cases().items()},
    )


if __name__ == "__main__":
    sys.exit(main())
