"""Foreign files as transitions: D4RL's HDF5, Minari, .npz, CSV, Parquet, and the replay of a run.

Each reader streams batches in the file's order. Where a file holds no next observations they are those of the following
row; a row that needs one and has none (a timeout, a file's end) is left out and counted.

What a file declares is compared with what it holds, and with `MOST_COLUMNS` and `MOST_HELD`, before memory is claimed.
Nothing outside the file is read for it: links, external storage and virtual datasets are refused.
"""

from __future__ import annotations

import glob
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from fittedq.actions.base import Box
from fittedq.control.augmentation import Augmentation
from fittedq.data.dataset import Dataset, Writer
from fittedq.data.description import Description, resolved
from fittedq.data.readers.cells import same_unit
from fittedq.data.readers.columns import Source, listed_numbers, readable
from fittedq.data.readers.csv import read_csv
from fittedq.data.readers.d4rl import read_d4rl
from fittedq.data.readers.dialect import OTHERS
from fittedq.data.readers.minari import minari_folder, read_minari
from fittedq.data.readers.npz import read_npz
from fittedq.data.readers.parquet import read_parquet
from fittedq.data.readers.replay import read_replay
from fittedq.data.shaping import LogReading
from fittedq.data.times import Times
from fittedq.errors import UserError, nearest, plural
from fittedq.files import place
from fittedq.memory import amount


def open_source(
    path: str | Path, format: str = "auto", description: Description | None = None, *, drop_bad: bool = False
) -> Source:
    """The reader of `path`: `format` is one of `READERS`, or `auto` to tell it from the name.

    `description` says what the columns are; with `drop_bad`, rows that hold no numbers count as bad ones instead of
    being refused. UserError: a file that is not there, truncated, of an unknown kind, or without a column that is
    needed.
    """
    path = place(path, "path")
    try:
        there = path.exists()
    except OSError as error:
        raise UserError(f"{str(path)[:100]} … is no path of a file ({error.strerror}).") from None
    if not there:
        raise UserError(f"{path} is not there; check the path.")
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is a pipe, a socket or a device, expected a file or a folder; save the data first.")
    if format == "auto":
        format = _format_of(path)
    if format not in READERS:
        raise UserError(f"{format!r} is unknown; {nearest(format, ['auto', *READERS])}", argument="format")
    if path.is_dir() != (format in FOLDERS):
        found, expected = ("a folder", "a file") if path.is_dir() else ("a file", "a folder")
        raise UserError(
            f"{path} is {found}, and the format {format} is {expected}; check one of them.", argument="format"
        )
    if description is not None and description != Description() and format in FOLDERS:
        raise UserError(f"columns are named for the format {format}, whose columns are fixed; leave that out.")
    with readable(path):
        return READERS[format](path, LogReading(description or Description(), str(path), drop_bad))


def import_dataset(
    source: Source, *more: Source, out: str | Path, label: str, action_set: Box | None = None, drop_bad: bool = False
) -> Dataset:
    """Everything that sources hold as one dataset folder, no episode across two of them; `source.notes` gets what was
    decided on the way."""
    asked = None if source.reading is None else source.reading.description
    action_set = action_set or (asked and asked.limits()) or source.action_set
    _check_disk(source.size + sum(one.size for one in more), place(out, "out"), label)
    with Writer(out, action_set=action_set, drop_bad=drop_bad, label=label) as writer:
        for one in (source, *more):
            if one is not source:
                writer.cut()
            for batch, keep in one.batches:
                writer.append(batch, keep)
            _check_alike(source, one, label)
        description = _described(source, writer)
        clocks = [one.reading.times for one in (source, *more) if one.reading is not None and one.reading.times]
        dataset = writer.finish({"import": label}, description, Times.together(clocks))
    source.notes += _notes_on_units(source)
    for one in more:
        source.notes += [note for note in one.notes if note not in source.notes]
    if writer.dropped:
        source.notes.append(f"{plural(writer.dropped, 'bad row was', 'bad rows were')} dropped.")
    if action_set is None:
        box = dataset.action_set
        source.notes.append(
            f"The file does not say the actions' bounds: the data's range is taken, low {listed_numbers(box.low)}, "
            f"high {listed_numbers(box.high)}; give --action-low and --action-high where you know them."
        )
    return dataset


def _described(source: Source, writer: Writer) -> Description | None:
    """What is known of the columns, where each of them holds one number a row; checked against the rows."""
    reading = source.reading
    if reading is None or (len(reading.found["obs"]), len(reading.found["action"])) != writer.sizes:
        return None
    said = reading.description
    if writer.count and said.history > writer.longest:
        raise UserError(
            f"{reading.label}: the controller is to see {said.history} observations, and the longest episode has "
            f"{plural(writer.longest, 'row', 'rows')}; say a shorter history, or import a longer log."
        )
    found = resolved(said, reading.found["obs"], reading.found["action"], reading.sample or said.sample)
    try:
        Augmentation(**found.augmentation())
    except UserError as error:
        raise UserError(f"{reading.label}: {error}") from None
    return found


def _notes_on_units(source: Source) -> list[str]:
    """A sentence for each column of which file and description say different units."""
    reading = source.reading
    said = {} if reading is None else {name: one.unit for name, one in reading.description.columns.items() if one.unit}
    return [
        f"Column {name!r} is in {reading.units[name]} by the file and in {unit} by the description: its numbers are "
        "taken as they are."
        for name, unit in said.items()
        if reading is not None and name in reading.units and not same_unit(reading.units[name], unit)
    ]


def matching(patterns: Sequence[Path]) -> list[Path]:
    """The files that are named, those of a pattern in the order of their names; a UserError where there are none."""
    found: list[Path] = []
    for pattern in patterns:
        if pattern.exists() or not re.search(r"[*?[]", str(pattern)):
            found.append(pattern)
            continue
        matched = sorted(map(Path, glob.glob(str(pattern.expanduser()), recursive=True)))
        if not matched:
            raise UserError(f"no file matches {str(pattern)!r}; check the pattern.")
        found += matched
    return list(dict.fromkeys(found))


def _check_alike(first: Source, other: Source, label: str) -> None:
    """Refuse files of different units or sample times."""
    units, others = (one.reading.units if one.reading is not None else {} for one in (first, other))
    for name in units.keys() & others.keys():
        if not same_unit(units[name], others[name]):
            raise UserError(
                f"{label}: column {name!r} is in {units[name]} in one file and in {others[name]} in another; import "
                "them apart, or convert one of them."
            )
    times = [one.reading.sample for one in (first, other) if one.reading is not None]
    if len(times) == 2 and times[0] and times[1] and abs(times[0] - times[1]) > 0.01 * times[0]:
        raise UserError(
            f"{label}: one file's rows are {times[0]:g} s apart and another's {times[1]:g} s; import them apart, or "
            f"put both on one grid with --sample {max(times[0], times[1]):g} --resample line (or hold)."
        )


def _check_disk(size: int, out: Path, label: str) -> None:
    """Refuse what does not fit on the disk where `out` will be."""
    folder = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{label} declares transitions that take {amount(size)} as a dataset, and {folder} has {amount(free)} "
            "free; choose another place, or check where the file comes from."
        )


def _format_of(path: Path) -> str:
    if path.is_dir():
        if minari_folder(path) is not None:
            return "minari"
        if (path / "checkpoints").is_dir() or path.name.startswith("step-"):
            return "replay"
        raise UserError(
            f"{path} is a folder, but neither a Minari dataset (data/main_data.hdf5) nor a run (checkpoints/); "
            "give one of these or a file."
        )
    if path.name == "main_data.hdf5":
        raise UserError(f"{path} is part of a Minari dataset; give the dataset's folder.")
    suffix = next((one for one in reversed(path.suffixes) if one.lower() not in PACKED_ENDINGS), "").lower()
    if suffix not in SUFFIXES or (suffix[1:] in TEXT[2:] and _begins(path) in OTHERS):
        raise UserError(
            f"the kind of {path} cannot be told from its name; name it ({', '.join(READERS)}).", argument="format"
        )
    return SUFFIXES[suffix]


def _begins(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


READERS: dict[str, Callable[[Path, LogReading], Source]] = {
    "d4rl": read_d4rl,
    "minari": read_minari,
    "npz": read_npz,
    "csv": read_csv,
    "parquet": read_parquet,
    "replay": read_replay,
}


# What the last of these say of a file is little.
TEXT = ("csv", "tsv", "txt", "dat", "log", "asc", "prn", "tab")
SUFFIXES = {".hdf5": "d4rl", ".h5": "d4rl", ".npz": "npz", ".parquet": "parquet", ".pq": "parquet"} | {
    f".{name}": "csv" for name in TEXT
}
"""The format that a name's ending tells."""


PACKED_ENDINGS = (".gz", ".bz2", ".xz")
"""Endings of compressed files, which text may be."""


FOLDERS = ("minari", "replay")
"""The formats that are folders."""
