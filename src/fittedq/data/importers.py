"""Foreign files as transitions: D4RL's HDF5, Minari, .npz, CSV, Parquet, and the replay of a run.

Each reader streams batches in the file's order. Where a file holds no next observations they are those of the following
row; a row that needs one and has none (a timeout, a file's end) is left out and counted.

What a file declares is compared with what it holds, and with `MOST_NUMBERS` and `MOST_HELD`, before memory is claimed.
Nothing outside the file is read for it: links, external storage and virtual datasets are refused.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from fittedq.actions.base import Box
from fittedq.data.dataset import Dataset, Writer, action_bounds, as_transition, chunk_rows, chunks
from fittedq.data.segments import read_rows
from fittedq.errors import UserError, in_one_line, nearest
from fittedq.files import CHECKPOINT, load_folder, place, read_json
from fittedq.memory import amount
from fittedq.types import Transition

Columns = dict[str, np.ndarray]
ColumnMap = Mapping[str, Sequence[str]]
Batch = tuple[Transition, Bool[np.ndarray, "b"]]
"""Transitions and which of them to keep."""

ALIASES: dict[str, tuple[str, ...]] = {
    "obs": ("obs", "observations"),
    "action": ("action", "actions"),
    "reward": ("reward", "rewards"),
    "next_obs": ("next_obs", "next_observations"),
    "terminated": ("terminated", "terminals", "terminations"),
    "truncated": ("truncated", "timeouts", "truncations"),
    "episode": ("episode",),
}
"""The names by which a column is found without a map."""

MOST_NUMBERS = 2**16
"""Numbers in one row of a file, or columns of a table: more are refused."""
MOST_HELD = 2**30
"""Bytes that a file may make us hold at once: an episode of Minari's, an array in Fortran's order, a compressed chunk.
All else is streamed, `CHUNK_BYTES` at a time."""


@dataclass
class Source:
    """Logged transitions in a foreign file."""

    batches: Iterator[Batch]
    total: int
    """About how many batches there are."""
    action_set: Box | None = None
    """The actions' bounds, where the file says them."""
    size: int = 0
    """Bytes that the transitions it declares take as a dataset; 0 where it declares none."""
    notes: list[str] = field(default_factory=list)
    """What was left out or put in, a sentence each; complete when the batches are."""


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
    with _readable(path):
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
        source.notes.append(f"{_count(writer.dropped, 'bad row was', 'bad rows were')} dropped.")
    if action_set is None:
        box = dataset.action_set
        source.notes.append(
            f"The file does not say the actions' bounds: the data's range is taken, low {_numbers(box.low)}, high "
            f"{_numbers(box.high)}; give --action-low and --action-high where you know them."
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
        if _minari_folder(path) is not None:
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


# ---------------------------------------------------------------------- rows that follow one another


def _linked(chunked: Iterable[Columns], label: str, notes: list[str]) -> Iterator[Batch]:
    """Batches from columns in order; one row is held back, for it may need the one that follows."""
    held: Columns | None = None
    lost = unknown = 0
    roundings = {name: Rounding() for name in ("obs", "reward")}
    for chunk in itertools.chain(chunked, [None]):
        if chunk is not None and held is not None:
            if chunk.keys() != held.keys():
                raise UserError(f"{label}: its columns change on the way.")
            chunk = {name: np.concatenate([held[name], values]) for name, values in chunk.items()}
        last = chunk is None
        columns = held if chunk is None else chunk
        if columns is None:
            break
        batch, keep = _settled(columns, label, last)
        held = {name: values[-1:] for name, values in columns.items()}
        lost += int((~keep).sum())
        if "next_obs" not in columns:
            unknown += int((batch.terminated & keep).sum())
        if len(keep):
            for name, rounding in roundings.items():
                rounding.add(columns[name][: len(keep)], getattr(batch, name))
            yield batch, keep
    for name, rounding in roundings.items():
        notes += rounding.notes(name)
    if unknown:
        notes.append(
            f"{_count(unknown, 'terminal row has', 'terminal rows have')} no next observation in the file; the row's "
            "own stands in its place, which no target reads."
        )
    if lost:
        notes.append(
            f"{_count(lost, 'row was', 'rows were')} left out where an episode was cut short, for the file "
            "holds no next observations."
        )


TOO_COARSE = 1e-3
"""Share of a column's range by which float32 may round it unnoticed."""


class Rounding:
    """How much of a column's range its rounding to float32 takes: much, where a small change has a great offset."""

    def __init__(self) -> None:
        self._error: Any = 0.0
        self._low: Any = np.inf
        self._high: Any = -np.inf

    def add(self, values: np.ndarray, rounded: np.ndarray) -> None:
        """Count more rows [b] or [b, s]."""
        with np.errstate(over="ignore", invalid="ignore"):
            exact, rounded = (array.reshape(len(array), -1).astype(float) for array in (values, rounded))
            self._error = np.fmax(self._error, np.fmax.reduce(np.abs(exact - rounded), axis=0, initial=0.0))
            self._low = np.fmin(self._low, np.fmin.reduce(exact, axis=0, initial=np.inf))
            self._high = np.fmax(self._high, np.fmax.reduce(exact, axis=0, initial=-np.inf))

    def notes(self, name: str) -> list[str]:
        """A sentence for each number of the column that loses more than `TOO_COARSE` of its range."""
        error, reach = np.atleast_1d(self._error), np.atleast_1d(self._high - self._low)
        return [
            f"{name} [{axis}] changes by {reach[axis]:.3g} in all, and float32 rounds it by up to {error[axis]:.3g}: "
            "subtract an offset before."
            for axis in np.flatnonzero(np.isfinite(error) & (error > TOO_COARSE * reach))
        ]


def _settled(columns: Columns, label: str, last: bool) -> Batch:
    """All rows but the last as transitions; of the `last` rows of a file, all."""
    length = len(columns["obs"])
    count = length if last else length - 1
    known = {name: values[:count] for name, values in columns.items() if name != "episode"}
    if "terminated" not in known:
        known["terminated"] = np.zeros(count, bool)
    if "next_obs" not in columns:
        known["next_obs"] = (
            columns["obs"][1:] if not last else np.concatenate([columns["obs"][1:], columns["obs"][-1:]])
        )
    batch = as_transition(known, label)
    terminated, truncated = np.asarray(batch.terminated), np.array(batch.truncated)
    if "episode" in columns:
        changes = columns["episode"][1:] != columns["episode"][:-1]
        truncated[: len(changes)] |= np.asarray(changes, bool) & ~terminated[: len(changes)]
    keep = np.ones(count, bool)
    if "next_obs" not in columns:
        keep = ~truncated | terminated
        if last:
            keep[-1] = terminated[-1]
        own = np.asarray(terminated | truncated)[:, None]
        batch = batch._replace(next_obs=np.where(own, batch.obs, batch.next_obs))
    return batch._replace(truncated=truncated), keep


def _find_columns(available: Sequence[str], column_map: ColumnMap, label: str) -> dict[str, list[str]]:
    """The file's column or columns for each of ours."""
    names = set(available)
    _check_columns(len(available), label)
    found: dict[str, list[str]] = {}
    for name, aliases in ALIASES.items():
        if name in column_map:
            missing = [column for column in column_map[name] if column not in names]
            if missing:
                raise UserError(
                    f"{label}: column {missing[0]!r}, mapped to {name}, is not there; {nearest(missing[0], available)}"
                )
            found[name] = list(column_map[name])
            if len(set(found[name])) < len(found[name]):
                raise UserError(f"{label}: {', '.join(found[name])}, mapped to {name}, names a column twice.")
            continue
        for alias in aliases:
            numbered = itertools.takewhile(names.__contains__, (f"{alias}_{index}" for index in itertools.count()))
            columns = [alias] if alias in names else list(numbered)
            if columns:
                found[name] = columns
                break
    needed = [name for name in ("obs", "action", "reward") if name not in found]
    if not {"terminated", "truncated", "episode"} & found.keys():
        needed.append("terminated (or truncated, or episode)")
    if needed:
        listed = ", ".join(sorted(available)[:20]) or "none"
        raise UserError(
            f"{label}: no column for {', '.join(needed)}; its columns are {listed}; name them with --map, for example "
            f"--map {needed[0].split()[0]}=COLUMN."
        )
    used = set(itertools.chain(*found.values()))
    twice = [column for column, count in Counter(available).items() if count > 1 and column in used]
    if twice:
        raise UserError(f"{label} has more than one column {twice[0]!r}; rename or remove all but one.")
    return found


def _check_columns(count: int, label: str) -> None:
    if count > MOST_NUMBERS:
        raise UserError(f"{label} has {count:,} columns, expected at most {MOST_NUMBERS:,}; leave some out.")


def _row_sizes(shapes: Mapping[str, tuple[int, ...]], label: str) -> int:
    """The numbers in one row of columns of these shapes; a UserError where they are no rows, or rows too wide."""
    for name, shape in shapes.items():
        if not shape:
            raise UserError(f"{label}: {name} is one number, expected rows.")
    width = sum(math.prod(shape[1:]) for shape in shapes.values())
    if width > MOST_NUMBERS:
        raise UserError(
            f"{label} declares rows of {width:,} numbers, expected at most {MOST_NUMBERS:,}; it is damaged or no log "
            "of transitions."
        )
    return width


def _held(size: int, what: str) -> None:
    """Refuse what would have to be held at once and is too large for it."""
    if size > MOST_HELD:
        raise UserError(
            f"{what} declares {amount(size)} that would have to be held at once, expected at most "
            f"{amount(MOST_HELD)}; it is damaged, or has to be saved in smaller parts."
        )


def _joined(parts: list[np.ndarray], name: str, label: str) -> np.ndarray:
    """One column from several of the file's, side by side."""
    if len(parts) == 1:
        return parts[0]
    try:
        return np.concatenate([part[:, None] if part.ndim == 1 else part for part in parts], axis=1)
    except ValueError as error:
        raise UserError(f"{label}: the columns of {name} cannot be put side by side ({in_one_line(error)}).") from None


def _notes_on(found: Mapping[str, Sequence[str]], available: Iterable[str]) -> list[str]:
    """Sentences on the columns that a file lacks, and on those of it that are not read."""
    notes = []
    if "terminated" not in found:
        notes.append("The file has no terminal flags: every episode's end counts as truncated, none as terminated.")
    unread = sorted(set(available) - {"action_low", "action_high"} - set(itertools.chain(*found.values())))
    if unread:
        more = f" and {len(unread) - 10:,} more" if len(unread) > 10 else ""
        notes.append(f"Columns that were not read: {', '.join(unread[:10])}{more}.")
    return notes


def _same_length(lengths: Mapping[str, int], label: str) -> int:
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"{label}: its columns differ in length ({listed}), expected one row per transition in each.")
    return next(iter(lengths.values()))


# ---------------------------------------------------------------------- HDF5


def _read_d4rl(path: Path, column_map: ColumnMap) -> Source:
    """observations, actions, rewards, terminals and, where there are any, timeouts and next_observations [N, …]."""
    label = str(path)
    with _hdf5(path) as file:
        h5py = _import("h5py", path)
        available: list[str] = []
        file.visititems(lambda name, item: available.append(name) if isinstance(item, h5py.Dataset) else None)
        if "episode_0" in file and "observations" not in file:
            raise UserError(f"{path} is laid out as Minari's main_data.hdf5; give the folder above its data/.")
        _refuse_links(file, label)
        found = _find_columns(available, column_map, label)
        sets = {key: _numbers_in(file, key, label) for keys in found.values() for key in keys}
        width = _row_sizes({key: values.shape for key, values in sets.items()}, label)
        count = _same_length({key: len(values) for key, values in sets.items()}, label)
        size = chunk_rows(width)

    def read() -> Iterator[Columns]:
        with _hdf5(path) as file:
            for part in chunks(count, size):
                yield {name: _joined([file[key][part] for key in keys], name, label) for name, keys in found.items()}

    source = Source(iter(()), -(-count // size), size=4 * width * count)
    source.notes += _notes_on(found, available)
    source.batches = _guarded(_linked(read(), label, source.notes), path)
    return source


def _refuse_links(file: Any, label: str) -> None:
    """A UserError for a link at the top of a file: what stands under that name lies elsewhere, perhaps in another file.

    Links deeper down are never followed either: `visititems` passes over them.
    """
    for name in file:
        kind = type(file.get(name, getlink=True)).__name__
        if kind != "HardLink":
            raise UserError(
                f"{label}: {name} is a link to another place ({kind}), expected numbers in the file itself."
            )


def _numbers_in(group: Any, name: str, label: str) -> Any:
    """The dataset of a group by that name: numbers, all in the file itself, of a size that is there."""
    item = group[name]
    if not hasattr(item, "dtype") or item.dtype.kind not in "biuf" or item.shape is None:
        raise UserError(f"{label}: {name} has type {getattr(item, 'dtype', 'group')}, expected numbers.")
    if item.external or item.is_virtual:
        raise UserError(f"{label}: {name} is stored in other files, expected numbers in the file itself; copy them in.")
    size, stored = math.prod(item.shape) * item.dtype.itemsize, item.id.get_storage_size()
    if stored != size and (item.chunks is None or (size and not stored)):
        raise UserError(f"{label}: {name} declares {amount(size)} and holds {amount(stored)}; it is damaged.")
    if item.chunks is not None:
        _held(math.prod(item.chunks) * item.dtype.itemsize, f"{label}: a chunk of {name}")
    return item


MINARI_SAYS = ("total_episodes", "action_space")
"""What is read of Minari's metadata, in its file or among the attributes of main_data.hdf5."""


def _minari_folder(path: Path) -> Path | None:
    """The folder that holds main_data.hdf5."""
    return next((folder for folder in (path / "data", path) if (folder / "main_data.hdf5").is_file()), None)


def _read_minari(path: Path, column_map: ColumnMap) -> Source:
    """data/main_data.hdf5 with a group per episode, T + 1 observations and T of all else; data/metadata.json.

    Of the metadata only counts and the action space's bounds are read; no environment is made.
    """
    folder = _minari_folder(path)
    if folder is None:
        raise UserError(f"{path} holds no data/main_data.hdf5; give the folder of a local Minari dataset in HDF5.")
    main = folder / "main_data.hdf5"
    metadata = read_json(folder / "metadata.json") if (folder / "metadata.json").is_file() else {}
    if not isinstance(metadata, dict):
        raise UserError(f"{folder / 'metadata.json'} holds no names and values; it is damaged or not Minari's.")
    with _hdf5(main) as file:
        _refuse_links(file, str(main))
        names = [name for name in file if name.startswith("episode_") and name[8:].isdecimal()]
        said = {
            name: file.attrs[name] for name in MINARI_SAYS if name in file.attrs and not file.attrs.get_id(name).shape
        }
    metadata = {name: value for name, value in said.items() if isinstance(value, str)} | metadata
    names.sort(key=lambda name: int(name[8:]))
    if not names:
        raise UserError(f"{main} holds no episodes (groups episode_0, episode_1, …); it is empty or not Minari's.")
    expected = metadata.get("total_episodes")
    if isinstance(expected, int) and expected != len(names):
        raise UserError(
            f"{main} holds {len(names)} episodes, its metadata.json says {expected}; it is incomplete: fetch it again."
        )
    source = Source(iter(()), len(names), _space_bounds(metadata.get("action_space")))
    source.batches = _guarded(_minari_batches(main, names, source.notes), main)
    return source


def _minari_batches(main: Path, names: list[str], notes: list[str]) -> Iterator[Batch]:
    unfinished = 0
    with _hdf5(main) as file:
        for name in names:
            group, label = file[name], f"{main}: {name}"
            missing = {"observations", "actions", "rewards", "terminations", "truncations"} - set(group)
            if missing:
                raise UserError(f"{label} has no {', '.join(sorted(missing))}; it is damaged or not Minari's.")
            _refuse_links(group, label)
            obs, action = _flat(group, "observations", label), _flat(group, "actions", label)
            flags = [_whole(group, key, label) for key in ("terminations", "truncations")]
            reward = _whole(group, "rewards", label)
            length = len(reward)
            lengths = [len(obs) - 1, len(action), length, *map(len, flags)]
            lengths += [int(group.attrs["total_steps"])] if "total_steps" in group.attrs else []
            if length == 0:
                raise UserError(f"{label} has length zero; leave the episode out.")
            if len(set(lengths)) > 1:
                raise UserError(
                    f"{label}: found {len(obs)} observations, {len(action)} actions, {length} rewards, "
                    f"{len(flags[0])} terminations, {len(flags[1])} truncations"
                    + (f" and total_steps {lengths[-1]}" if len(lengths) > 5 else "")
                    + ", expected T + 1 observations and T of all else."
                )
            ends = np.flatnonzero(flags[0].astype(bool) | flags[1].astype(bool))
            if len(ends) and ends[0] != length - 1:
                raise UserError(
                    f"{label}: an end is flagged at step {ends[0] + 1} of {length}, expected none before the last step."
                )
            if not len(ends):
                flags[1] = np.arange(length) == length - 1
                unfinished += 1
            batch = as_transition(
                {
                    "obs": obs[:-1],
                    "action": action,
                    "reward": reward,
                    "next_obs": obs[1:],
                    "terminated": flags[0],
                    "truncated": flags[1],
                },
                label,
            )
            yield batch, np.ones(length, bool)
    if unfinished:
        notes.append(
            f"{_count(unfinished, 'episode ends', 'episodes end')} without a flag; the last row is marked truncated."
        )


MOST_NESTED = 16
"""Spaces within spaces in Minari's layout: more are a circle."""


def _whole(group: Any, name: str, label: str) -> np.ndarray:
    """An episode's numbers by that name."""
    item = _numbers_in(group, name, label)
    _row_sizes({name: item.shape}, label)
    _held(math.prod(item.shape) * item.dtype.itemsize, f"{label}: {name}")
    return np.asarray(item)


def _flat(group: Any, name: str, label: str, depth: int = 0) -> np.ndarray:
    """A dataset as [T, size]; a group (Dict or Tuple space) with its parts side by side, in Gymnasium's order."""
    item = group[name]
    if hasattr(item, "keys"):
        if not len(item):
            raise UserError(f"{label}: {item.name} is an empty group, expected numbers.")
        if depth == MOST_NESTED:
            raise UserError(f"{label}: {item.name} lies {depth} groups deep, expected fewer; it is damaged.")
        _refuse_links(item, label)
        by_place = sorted(item, key=lambda key: (int(key[7:]), key) if key.startswith("_index_") else (0, key))
        return np.concatenate([_flat(item, key, label, depth + 1) for key in by_place], axis=1)
    values = _whole(group, name, label)
    if values.ndim == 1:
        raise UserError(f"{label}: {item.name} has shape {values.shape}, expected (T, …): continuous, not discrete.")
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _space_bounds(text: Any) -> Box | None:
    """The bounds of a serialized Box; None where it says none that are finite."""
    try:
        space = json.loads(text)
        low, high = np.asarray(space["low"], float).ravel(), np.asarray(space["high"], float).ravel()
        return action_bounds(low, high) if space["type"] == "Box" else None
    except (TypeError, ValueError, KeyError):
        # Also infinite bounds: a UserError is a ValueError.
        return None


def _hdf5(path: Path) -> Any:
    """An open file, or a UserError that says what is wrong with it."""
    h5py = _import("h5py", path)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        try:
            expected, found = hdf5_size(path), path.stat().st_size
        except OSError:
            raise UserError(f"{path} could not be read ({error.strerror or in_one_line(error)}).") from None
        if expected is None:
            raise UserError(f"{path} is no HDF5 file, or its beginning is damaged.") from None
        if found < expected:
            raise UserError(
                f"{path} is truncated: {100 * found / expected:.0f} % of the expected bytes are there ({found:,} of "
                f"{expected:,}); fetch it again."
            ) from None
        raise UserError(f"{path} could not be read ({in_one_line(error)}); it is damaged: fetch it again.") from None


def hdf5_size(path: str | Path) -> int | None:
    """The bytes an HDF5 file should have, from its superblock's end-of-file address; None where there is none.

    Source: HDF5 File Format Specification 3.0, section II.A.
    """
    with open(path, "rb") as file:
        head = file.read(64)
    if not head.startswith(b"\x89HDF\r\n\x1a\n") or len(head) < 64:
        return None
    version = head[8]
    offset_bytes = head[13] if version < 2 else head[9]
    if offset_bytes != 8 or version > 3:
        return None
    # After the base address: one more address, then the end of file.
    start = {0: 24, 1: 28}.get(version, 12)
    base, _, end = struct.unpack_from("<QQQ", head, start)
    return base + end


# ---------------------------------------------------------------------- .npz


class NpyStream:
    """An .npy inside a stream that cannot seek, a few rows at a time; nothing in it is ever unpickled."""

    def __init__(self, stream: Any, label: str, size: int | None = None):
        """`size` is that of the whole stream, where it is known."""
        self._stream, self._label = stream, label
        try:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, self._fortran, self.dtype = read(stream)
            self.shape: tuple[int, ...] = tuple(shape)
        except (ValueError, EOFError) as error:
            raise UserError(f"{label} could not be read ({in_one_line(error)}); it is damaged or no .npy.") from None
        if self.dtype.hasobject:
            raise UserError(f"{label} holds Python objects, expected numbers; save it again as an array of numbers.")
        if self.dtype.kind not in "biuf" or any(axis < 0 for axis in self.shape):
            raise UserError(f"{label} has type {self.dtype} and shape {self.shape}, expected numbers.")
        self.size = math.prod(self.shape) * self.dtype.itemsize
        if size is not None and stream.tell() + self.size != size:
            raise UserError(
                f"{label} declares {amount(self.size)} and holds {amount(size - stream.tell())}; it is damaged: fetch "
                "it again."
            )
        self._whole: np.ndarray | None = None
        self._at = 0

    def read(self, rows: int) -> np.ndarray:
        """The next rows."""
        count, rest = self.shape[0], self.shape[1:]
        if self._fortran and rest:
            # Its rows are scattered over the file: only reading it whole gives one.
            if self._whole is None:
                _held(self.size, f"{self._label}, in Fortran's order,")
                self._whole = self._array(self.shape[::-1]).T
            part = self._whole[self._at : self._at + rows]
        else:
            part = self._array((min(rows, count - self._at), *rest))
        self._at += len(part)
        return part

    def whole(self) -> np.ndarray:
        """All of a small one."""
        _held(self.size, self._label)
        return self._array(self.shape)

    def _array(self, shape: tuple[int, ...]) -> np.ndarray:
        size = math.prod(shape) * self.dtype.itemsize
        data = self._stream.read(size)
        if len(data) != size:
            raise UserError(f"{self._label} ends too early; it is truncated: fetch it again.")
        return np.frombuffer(data, self.dtype).reshape(shape)


def _read_npz(path: Path, column_map: ColumnMap) -> Source:
    """Arrays named as in `Dataset.from_arrays` or as D4RL's; action_low and action_high where they are there."""
    label = str(path)
    with _zip(path) as archive:
        available = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        found = _find_columns(available, column_map, label)
        shapes = {key: _member(archive, key, path).shape for key in itertools.chain(*found.values())}
        width = _row_sizes(shapes, label)
        action_set = None
        if "action_low" in available and "action_high" in available:
            streams = [_member(archive, key, path) for key in ("action_low", "action_high")]
            low, high = (stream.whole() for stream in streams)
            action_set = action_bounds(low, high)
    count, size = _same_length({key: shape[0] for key, shape in shapes.items()}, label), chunk_rows(width)

    def read() -> Iterator[Columns]:
        with _zip(path) as archive:
            streams = {name: [_member(archive, key, path) for key in keys] for name, keys in found.items()}
            for _ in chunks(count, size):
                yield {
                    name: _joined([stream.read(size) for stream in parts], name, label)
                    for name, parts in streams.items()
                }

    source = Source(iter(()), -(-count // size), action_set, size=4 * width * count)
    source.notes += _notes_on(found, available)
    source.batches = _guarded(_linked(read(), label, source.notes), path)
    return source


def _zip(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
        for member in archive.infolist():
            # Names stand twice in an archive: where they differ, a column would be missing unnoticed.
            archive.open(member).close()
        return archive
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{path} is no .npz file, or is truncated ({in_one_line(error)}); fetch or save it again."
        ) from None


def _member(archive: zipfile.ZipFile, key: str, path: Path) -> NpyStream:
    size = archive.getinfo(f"{key}.npy").file_size
    return NpyStream(archive.open(f"{key}.npy"), f"{path}: {key}", size)


# ---------------------------------------------------------------------- tables

BLOCK_BYTES = 2**23


def _read_csv(path: Path, column_map: ColumnMap) -> Source:
    """A header and a row per transition; vectors are numbered columns (obs_0, obs_1, …) or mapped ones."""
    _import("pyarrow", path)
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    block = arrow_csv.ReadOptions(block_size=BLOCK_BYTES)
    label = str(path)
    # Before Arrow guesses a type for each, which takes seconds where they are many.
    with path.open("rb") as file:
        _check_columns(file.readline(BLOCK_BYTES).count(b",") + 1, label)
    try:
        with arrow_csv.open_csv(path, read_options=block) as reader:
            available = list(reader.schema.names)
            found = _find_columns(available, column_map, label)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} could not be read as CSV ({in_one_line(error)}).") from None
    # Named, since the first block's integers may be followed by fractions.
    numbers = [
        key for name, keys in found.items() if name not in ("terminated", "truncated", "episode") for key in keys
    ]
    convert = arrow_csv.ConvertOptions(
        include_columns=list(dict.fromkeys(itertools.chain(*found.values()))),
        column_types=dict.fromkeys(numbers, pa.float64()),
    )

    def read() -> Iterator[Columns]:
        try:
            with arrow_csv.open_csv(path, read_options=block, convert_options=convert) as reader:
                for batch in reader:
                    if batch.num_rows:
                        yield _table_columns(batch, found, label)
        except pa.ArrowInvalid:
            _refuse_words(path, numbers, convert.null_values)
            raise

    source = Source(iter(()), -(-path.stat().st_size // BLOCK_BYTES))
    source.notes += _notes_on(found, available)
    source.batches = _guarded(_linked(read(), label, source.notes), path)
    return source


def _refuse_words(path: Path, numbers: Sequence[str], empty: Sequence[str]) -> None:
    """A UserError that names the first cell of these columns that is no number and not empty: Arrow names no line."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = csv.reader(file)
        header = next(rows)
        places = [header.index(key) for key in numbers]
        for row in rows:
            for place in places:
                if place < len(row) and row[place] not in empty and not _is_number(row[place]):
                    raise UserError(
                        f"{path}: line {rows.line_num} has {row[place][:40]!r} in column {header[place]!r}, expected "
                        "a number; correct it, or leave the cell empty and import with --drop-bad."
                    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_parquet(path: Path, column_map: ColumnMap) -> Source:
    """A row per transition; vectors are list columns, numbered columns (obs_0, obs_1, …) or mapped ones."""
    _import("pyarrow", path)
    import pyarrow as pa
    from pyarrow import parquet

    label = str(path)
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            schema, count = file.schema_arrow, file.metadata.num_rows
            found = _find_columns(schema.names, column_map, label)
            width = _row_sizes(_parquet_shapes(file.metadata, set(itertools.chain(*found.values()))), label)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path} could not be read as Parquet ({in_one_line(error)}); it is truncated or damaged."
        ) from None
    meta = schema.metadata or {}
    action_set = None
    if b"action_low" in meta and b"action_high" in meta:
        action_set = action_bounds(json.loads(meta[b"action_low"]), json.loads(meta[b"action_high"]))
    columns = list(dict.fromkeys(itertools.chain(*found.values())))
    size = min(chunk_rows(width), 65_536)

    def read() -> Iterator[Columns]:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=size, columns=columns):
                yield _table_columns(batch, found, label)

    source = Source(iter(()), -(-count // size), action_set, size=4 * width * count)
    source.notes += _notes_on(found, schema.names)
    source.batches = _guarded(_linked(read(), label, source.notes), path)
    return source


def _parquet_shapes(metadata: Any, columns: set[str]) -> dict[str, tuple[int, int]]:
    """(rows, most numbers in a row) of the columns that are used, as the file's footer has them."""
    shapes: dict[str, tuple[int, int]] = dict.fromkeys(columns, (metadata.num_rows, 0))
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        for axis in range(group.num_columns):
            column = group.column(axis)
            name = column.path_in_schema.split(".")[0]
            if name in shapes:
                widest = max(shapes[name][1], -(-column.num_values // max(group.num_rows, 1)))
                shapes[name] = (metadata.num_rows, widest)
    return shapes


def _table_columns(batch: Any, found: Mapping[str, list[str]], label: str) -> Columns:
    columns = {}
    for name, keys in found.items():
        parts = [_arrow_column(batch.column(key), key, label) for key in keys]
        vector = name in ("obs", "action", "next_obs")
        columns[name] = _joined([part[:, None] if vector and part.ndim == 1 else part for part in parts], name, label)
    return columns


def _arrow_column(column: Any, key: str, label: str) -> np.ndarray:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        flat, rows = column.flatten().to_numpy(zero_copy_only=False), len(column)
        widths = column.value_lengths() if not pa.types.is_fixed_size_list(kind) else None
        ragged = widths is not None and len(widths.unique()) > 1
        if column.null_count or ragged or not rows or len(flat) % rows:
            raise UserError(f"{label}: column {key!r} holds lists of different lengths, expected one length.")
        return flat.reshape(rows, -1)
    if column.null_count and not pa.types.is_floating(kind):
        # A gap in a column of whole numbers or flags: NaN, and reported like any.
        column = column.cast(pa.float64())
    return column.to_numpy(zero_copy_only=False)


# ---------------------------------------------------------------------- a run's replay


def _read_replay(path: Path, column_map: ColumnMap) -> Source:
    """The replay in a run's newest checkpoint (or in the checkpoint given), the oldest transition first."""
    checkpoint = path
    if (path / "checkpoints").is_dir():
        steps = [folder for folder in (path / "checkpoints").glob("step-*") if folder.name[5:].isdigit()]
        if not steps:
            raise UserError(f"run folder {path} holds no checkpoint; train it further first.")
        checkpoint = max(steps, key=lambda folder: folder.name)
    arrays, manifest = load_folder(checkpoint, CHECKPOINT)
    logs = read_rows(checkpoint, manifest)
    if "replay" not in logs:
        raise UserError(f"{checkpoint} holds no replay; give the folder that `fittedq train` made.")
    rows, obs = logs["replay"].all(), arrays["source/obs" if "source/obs" in arrays else "loop/obs"]
    if not len(rows):
        raise UserError(f"{checkpoint}: its replay is empty; train it further first.")
    n_envs, obs_size = obs.shape
    action_size = rows.shape[1] - Transition.width(obs_size, 0)
    order = _by_environment(len(rows), int(manifest["trainer"]["step"]), n_envs)
    size = chunk_rows(rows.shape[1])
    source = Source(iter(()), -(-len(rows) // size), _agent_bounds(path))
    source.batches = _replay_batches(rows, order, obs_size, action_size, size, source.notes)
    return source


def _by_environment(count: int, step: int, n_envs: int) -> np.ndarray:
    """Indices of rows in order, by environment: n environments write in turn."""
    oldest = (step - count) % n_envs
    return np.concatenate([np.arange((env - oldest) % n_envs, count, n_envs) for env in range(n_envs)])


def _replay_batches(
    rows: np.ndarray, order: np.ndarray, obs_size: int, action_size: int, size: int, notes: list[str]
) -> Iterator[Batch]:
    cut = 0
    for part in chunks(len(order), size):
        batch = Transition.unpack(rows[order[part]], obs_size, action_size)
        following = rows[order[part.start + 1 : part.stop + 1], :obs_size]
        truncated = np.array(batch.truncated)
        # Where one environment's rows give way to another's, the episode does not run on.
        jumps = (batch.next_obs[: len(following)] != following).any(axis=1)
        jumps &= ~np.asarray(batch.terminated | batch.truncated)[: len(following)]
        truncated[: len(following)] |= jumps
        cut += int(jumps.sum())
        yield batch._replace(truncated=truncated), np.ones(len(truncated), bool)
    if cut:
        notes.append(
            f"{_count(cut, 'row is', 'rows are')} marked truncated, for the next row does not follow on (another "
            "environment's rows begin)."
        )


def _agent_bounds(path: Path) -> Box | None:
    run = path if (path / "checkpoints").is_dir() else path.parent.parent
    for name in ("last", "best"):
        if (run / name / "manifest.json").is_file():
            agent = read_json(run / name / "manifest.json").get("agent", {})
            return _outer_box(agent.get("action_set", agent))
    return None


def _outer_box(description: Any) -> Box:
    """The bounds in an agent's description of its action set."""
    while "inner" in description:
        description = description["inner"]
    low, high = (description.get(name, description.get(f"action_{name}")) for name in ("low", "high"))
    return action_bounds(low, high)


# ---------------------------------------------------------------------- helpers


READERS: dict[str, Callable[[Path, ColumnMap], Source]] = {
    "d4rl": _read_d4rl,
    "minari": _read_minari,
    "npz": _read_npz,
    "csv": _read_csv,
    "parquet": _read_parquet,
    "replay": _read_replay,
}
FOLDERS = ("minari", "replay")
"""The formats that are folders."""


def _guarded(batches: Iterator[Batch], path: Path) -> Iterator[Batch]:
    """The same batches, read under `_readable`."""
    with _readable(path):
        yield from batches


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What a library raises on damaged content becomes a sentence."""
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{path} could not be read: memory ran out; free some, or save it in smaller parts.") from None
    # Nobody says what HDF5, zlib, Arrow and NumPy can raise on damaged bytes: all of it is the file's fault.
    except Exception as error:
        raise UserError(
            f"{path} could not be read to its end ({in_one_line(error)}); it is damaged: fetch it again."
        ) from None


def _import(name: str, path: Path) -> Any:
    try:
        return __import__(name)
    except ModuleNotFoundError:
        raise UserError(f"{path} needs {name} to be read; pip install 'fittedq[data]'.") from None


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _numbers(values: Iterable[float]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
