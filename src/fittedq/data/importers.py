"""Foreign files as transitions: D4RL's HDF5, Minari, .npz, CSV, Parquet, and the replay of a run.

Each reader streams batches in the file's order. Where a file holds no next observations they are those of the following
row; a row that needs one and has none (a timeout, a file's end) is left out and counted.

What a file declares is compared with what it holds, and with `MOST_COLUMNS` and `MOST_HELD`, before memory is claimed.
Nothing outside the file is read for it: links, external storage and virtual datasets are refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from fittedq.actions.base import Box
from fittedq.data.dataset import Dataset, Writer
from fittedq.data.readers.columns import ALIASES, ColumnMap, Source, listed_numbers, readable
from fittedq.data.readers.csv import read_csv
from fittedq.data.readers.d4rl import read_d4rl
from fittedq.data.readers.minari import minari_folder, read_minari
from fittedq.data.readers.npz import read_npz
from fittedq.data.readers.parquet import read_parquet
from fittedq.data.readers.replay import read_replay
from fittedq.errors import UserError, nearest, plural
from fittedq.files import place
from fittedq.memory import amount


def open_source(path: str | Path, format: str = "auto", column_map: ColumnMap | None = None) -> Source:
    """The reader of `path`: `format` is one of `READERS`, or `auto` to tell it from the name.

    `column_map` gives the file's column or columns for obs, action, reward, next_obs, terminated, truncated, episode.
    UserError: a file that is not there, truncated, of an unknown kind, or without a column that is needed.
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
    column_map = dict(column_map or {})
    for name in column_map:
        if name not in ALIASES:
            raise UserError(f"column {name!r} of the map is unknown; {nearest(name, ALIASES)}")
    if column_map and format in FOLDERS:
        raise UserError(f"a column map was given for the format {format}, whose columns are fixed; leave it out.")
    with readable(path):
        source = READERS[format](path, column_map)
    return source


def import_dataset(
    source: Source, out: str | Path, *, label: str, action_set: Box | None = None, drop_bad: bool = False
) -> Dataset:
    """Everything `source` holds as a dataset folder; what was decided on the way is added to `source.notes`."""
    action_set = action_set or source.action_set
    _check_disk(source.size, place(out, "out"), label)
    with Writer(out, action_set=action_set, drop_bad=drop_bad, label=label) as writer:
        for batch, keep in source.batches:
            writer.append(batch, keep)
        dataset = writer.finish({"import": label})
    if writer.dropped:
        source.notes.append(f"{plural(writer.dropped, 'bad row was', 'bad rows were')} dropped.")
    if action_set is None:
        box = dataset.action_set
        source.notes.append(
            f"The file does not say the actions' bounds: the data's range is taken, low {listed_numbers(box.low)}, "
            f"high {listed_numbers(box.high)}; give --action-low and --action-high where you know them."
        )
    return dataset


def _check_disk(size: int, out: Path, label: str) -> None:
    """Refuse what does not fit on the disk where `out` will be."""
    folder = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{label} declares transitions that take {amount(size)} as a dataset, and {folder} has {amount(free)} "
            "free; choose another place, or check where the file comes from."
        )


def parse_map(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """`obs=x,y action=u` as a column map."""
    column_map = {}
    for word in words:
        name, separator, columns = word.partition("=")
        if not separator or not columns:
            raise UserError(f"--map {word}: expected name=column,…, for example --map obs=angle,velocity action=u.")
        column_map[name.strip()] = tuple(column.strip() for column in columns.split(","))
    return column_map


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
    suffixes = {".hdf5": "d4rl", ".h5": "d4rl", ".npz": "npz", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
    if path.name == "main_data.hdf5":
        raise UserError(f"{path} is part of a Minari dataset; give the dataset's folder.")
    if path.suffix.lower() not in suffixes:
        raise UserError(
            f"the kind of {path} cannot be told from its name; name it ({', '.join(READERS)}).", argument="format"
        )
    return suffixes[path.suffix.lower()]


READERS: dict[str, Callable[[Path, ColumnMap], Source]] = {
    "d4rl": read_d4rl,
    "minari": read_minari,
    "npz": read_npz,
    "csv": read_csv,
    "parquet": read_parquet,
    "replay": read_replay,
}


FOLDERS = ("minari", "replay")
"""The formats that are folders."""
