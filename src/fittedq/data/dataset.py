"""Logged transitions in a folder: one memory-mapped file per column, larger than memory where need be."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, final

import numpy as np
from jaxtyping import Bool, Float, Int

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.limits import Limits, narrowed
from fittedq.actions.saved import action_set_of
from fittedq.control.episodes import AugmentedRows
from fittedq.control.state import AugmentedState
from fittedq.data.description import Description
from fittedq.data.times import Times
from fittedq.errors import UserError, in_one_line, plural
from fittedq.files import (
    DATASET,
    MANIFEST,
    UNFINISHED,
    Scratch,
    check_file,
    hash_file,
    is_free,
    place,
    read_manifest,
    write_manifest,
    write_signed,
)
from fittedq.types import Transition

COLUMNS: tuple[str, ...] = Transition._fields
VECTORS = ("obs", "action", "next_obs")
FLAGS = ("terminated", "truncated")
CHUNK_BYTES = 2**24
"""Of packed rows handled at a time: what streaming holds in memory."""

ROWS_SHOWN = 5
"""Rows that are named of those that are counted."""

RowIndex = slice | Int[np.ndarray, "k"]


def dtype_of(column: str) -> np.dtype:
    """How a column is stored."""
    return np.dtype("?") if column in FLAGS else np.dtype("<f4")


def chunk_rows(width: int) -> int:
    """Rows of `width` numbers in one chunk."""
    return max(1, CHUNK_BYTES // (4 * width))


def chunks(count: int, size: int) -> Iterator[slice]:
    """[0, count) in slices of `size`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


@final
class Dataset:
    """N transitions (s, a, r, s', terminated, truncated) in order, episodes one after another.

    In the environment's own units; `next_obs` is the true observation after the action, also where an episode ends.
    Made by `from_arrays`, by `open`, or by a `Writer`; read-only.
    """

    def __init__(
        self, columns: dict[str, np.ndarray], action_set: AbstractActionSet, origin: Mapping[str, Any] | None = None
    ):
        self.columns = columns
        """obs [N, s], action [N, m], reward [N], next_obs [N, s] float32, terminated [N], truncated [N] bool."""
        self.action_set = action_set
        self.origin = dict(origin or {})
        """Where it came from, as text."""
        self.path: str | None = None
        """The folder it was opened from."""
        self.description: Description | None = None
        """What its columns are, and what a controller sees of them, where a log or a user said so."""
        self.times: Times | None = None
        """What the clock of its log was like, where the log had one."""
        self._seen: AugmentedRows | None = None

    def limited(self, action_set: AbstractActionSet | Limits | None) -> Dataset:
        """The same rows for a controller with fewer admissible actions: what was done need not lie in `action_set`."""
        if action_set is None:
            return self
        box = Box(self.action_set.low, self.action_set.high)
        other = Dataset(self.columns, narrowed(box, action_set, "the dataset"), self.origin)
        other.path, other.description = self.path, self.description
        return other

    def described(self, plant: Description) -> Dataset:
        """The same rows under another description of their plant, its limits and what its controller sees; a UserError
        where it would make other rows of the log."""
        plant.check_sizes("the dataset", self.obs_size, self.action_size)
        made = self.description or Description()
        plant.check_rows(made)
        known = {"obs": made.obs or plant.obs, "action": made.action or plant.action, "reward": made.reward}
        other = self.limited(plant.limits()) if plant.limits() is not None else self.limited(self.action_set)
        other.description = plant.but(sample=made.sample or plant.sample, **{k: v for k, v in known.items() if v})
        return other

    def augmented(self, state: AugmentedState | None) -> Dataset:
        """The same rows as a controller with a memory sees them; they are made where they are asked for."""
        if state is None:
            return self
        starts = np.array([start for start, _ in self.episodes()])
        seen = AugmentedRows(state, self.columns, np.union1d(starts, self.broken_links() + 1))
        if state.augmentation.history > seen.longest:
            raise UserError(
                f"setting history: found {state.augmentation.history}, but the longest episode of the data has "
                f"{plural(seen.longest, 'sample', 'samples')}; expected fewer observations than an episode has."
            )
        reward = np.concatenate([np.asarray(seen(part).reward) for part in self.chunks()])
        other = Dataset({**self.columns, "reward": reward}, state.action_set, self.origin)
        other.path, other._seen = self.path, seen
        return other

    @staticmethod
    def from_arrays(
        *,
        obs: object,
        action: object,
        reward: object,
        next_obs: object,
        terminated: object,
        truncated: object = None,
        action_low: object,
        action_high: object,
    ) -> Dataset:
        """Arrays of any float or integer type, checked and cast; `truncated=None` means no episode was cut.

        UserError: no rows, shapes that disagree, flags that are not 0 or 1, NaN or infinity, actions outside
        [action_low, action_high] (numbers per dimension, or one for all).
        """
        batch = as_transition(
            {
                "obs": obs,
                "action": action,
                "reward": reward,
                "next_obs": next_obs,
                "terminated": terminated,
                "truncated": truncated,
            }
        )
        dataset = Dataset(batch._asdict(), action_bounds(action_low, action_high, batch.action.shape[1]))
        faults = Faults("dataset")
        for part in dataset.chunks():
            faults.add(dataset.transitions(part), dataset.action_set)
        faults.refuse()
        if not len(dataset):
            raise UserError("dataset: found no transitions, expected at least one.")
        return dataset

    @staticmethod
    def of(data: object, argument: str = "data") -> Dataset:
        """`data` itself where it is a dataset, or that of the folder which it names; else a UserError."""
        if isinstance(data, Dataset):
            return data
        if isinstance(data, str | Path):
            return Dataset.open(data)
        raise UserError(
            f"found {type(data).__name__}, expected a Dataset or the path of its folder; Dataset.from_arrays makes one "
            "of arrays.",
            argument=argument,
        )

    @staticmethod
    def open(path: str | Path, *, verify: bool = True) -> Dataset:
        """The dataset of a folder, memory-mapped; `verify` reads it once to check every SHA-256."""
        path = place(path, "path")
        if path.is_file():
            raise UserError(
                f"{path} is a file, expected a dataset folder; make one with `fittedq data import {path} --out FOLDER`."
            )
        if not (path / MANIFEST).is_file():
            raise UserError(
                f"{path} is not a dataset folder (it holds no {MANIFEST}); make one with `fittedq data collect` or "
                "`fittedq data import`."
            )
        manifest = read_manifest(path, DATASET)
        try:
            shapes = _shapes(manifest["count"], manifest["obs_size"], len(manifest["action_low"]))
            listed = {name: manifest["files"][f"{name}.npy"] for name in COLUMNS}
            action_set, origin = _declared(manifest), dict(manifest["origin"])
            said = manifest.get("description")
            description = None if said is None else Description.of(said, f"{path / MANIFEST}: description")
            clock = manifest.get("times")
            times = None if clock is None else Times.read(clock, f"{path / MANIFEST}: times")
        except UserError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{path / MANIFEST}: its content is not a dataset's ({in_one_line(error)}); it is damaged."
            ) from None
        columns = {}
        for name in COLUMNS:
            file = path / f"{name}.npy"
            check_file(file, listed[name], content=verify)
            try:
                column = np.lib.format.open_memmap(file, mode="r")
            except (ValueError, TypeError, OSError, OverflowError) as error:
                raise UserError(
                    f"{file} could not be mapped ({in_one_line(error)}); it is damaged or not one of ours."
                ) from None
            if column.shape != shapes[name] or column.dtype != dtype_of(name):
                raise UserError(
                    f"{file}: found {column.dtype} of shape {column.shape}, expected {dtype_of(name)} of shape "
                    f"{shapes[name]} as the manifest says; it is damaged."
                )
            columns[name] = np.asarray(column)
        dataset = Dataset(columns, action_set, origin)
        dataset.path, dataset.description, dataset.times = str(path), description, times
        return dataset

    def save(self, path: str | Path) -> None:
        """Write a folder, whole or not there, a chunk at a time; an existing folder must be empty."""
        with Writer(path, action_set=self.action_set) as writer:
            for part in self.chunks():
                writer.append(self.transitions(part))
            writer.finish(self.origin, self.description, self.times)

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else f"from {self.path}"
        return (
            f"Dataset({len(self):,} transitions of {self.obs_size} observation and {self.action_size} action numbers, "
            f"{where})"
        )

    def __len__(self) -> int:
        return self.columns["reward"].shape[0]

    @property
    def obs_size(self) -> int:
        """s, the numbers in an observation."""
        return self.columns["obs"].shape[1] if self._seen is None else self._seen.state.size

    @property
    def action_size(self) -> int:
        """m, the numbers in an action."""
        return self.columns["action"].shape[1]

    def chunks(self) -> Iterator[slice]:
        """All rows, in slices that fit in memory."""
        return chunks(len(self), chunk_rows(Transition.width(self.obs_size, self.action_size)))

    def transitions(self, rows: RowIndex) -> Transition:
        """The transitions at a slice or at an array of indices."""
        if self._seen is not None:
            return self._seen(rows)
        return Transition(**{name: column[rows] for name, column in self.columns.items()})

    def rows(self, rows: RowIndex) -> Float[np.ndarray, "k width"]:
        """The same as packed rows [s, a, s', r, terminated, truncated] (`Transition.pack`)."""
        return np.asarray(self.transitions(rows).pack())

    def forget(self) -> None:
        """Give back the memory of what was read of mapped columns; where there is room, the kernel keeps it."""
        for column in self.columns.values():
            while isinstance(column, np.ndarray):
                column = column.base
            if isinstance(column, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                column.madvise(mmap.MADV_DONTNEED)

    def episodes(self) -> list[tuple[int, int]]:
        """(start, stop) of each episode; a last one that is not finished counts."""
        stops = np.flatnonzero(self.columns["terminated"] | self.columns["truncated"]) + 1
        if not stops.size or stops[-1] != len(self):
            stops = np.append(stops, len(self))
        starts = np.concatenate([[0], stops[:-1]])
        return list(zip(starts.tolist(), stops.tolist(), strict=True))

    def broken_links(self) -> Int[np.ndarray, "k"]:
        """Rows t with s'_t ≠ s_{t+1} though no end is marked at t: the episode does not run on there."""
        found = []
        for part in self.chunks():
            following = self.columns["obs"][part.start + 1 : part.stop + 1]
            here = self.transitions(slice(part.start, part.start + len(following)))
            differs = (here.next_obs != following).any(axis=1) & ~np.asarray(here.terminated | here.truncated)
            found.append(np.flatnonzero(differs) + part.start)
        return np.concatenate(found)


@final
class Writer:
    """Appends batches to a dataset folder that appears, whole, at `finish`; leaving without it leaves nothing.

        with Writer("data/pendulum", action_set=box) as writer:
            writer.append(batch)
            dataset = writer.finish()

    Without an `action_set` the range of the actions seen becomes the box. `drop_bad` leaves out rows that hold NaN or
    infinity, or an action outside the box; otherwise `finish` refuses them.

    With `rescuable`, an origin, every batch is with the kernel once `append` returns: if this process is killed,
    `rescue.rescued` makes a dataset of the rows. It wants the action set before the first of them.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        action_set: AbstractActionSet | None = None,
        drop_bad: bool = False,
        label: str | None = None,
        rescuable: Mapping[str, Any] | None = None,
    ):
        self.path = place(path, "path")
        self.action_set = None if action_set is None else _held(action_set)
        self.count = 0
        """Rows written."""
        self.dropped = 0
        """Bad rows left out."""
        self._drop_bad, self._label = drop_bad, label or str(path)
        self._rescuable = rescuable
        self._files: dict[str, BinaryIO] = {}
        self.sizes = (0, 0)
        """The numbers of an observation and of an action."""
        self._ended = True
        self._running = self._longest = 0
        self._faults = Faults(self._label)
        self._low = self._high = np.zeros(0, np.float32)
        try:
            if not is_free(self.path):
                raise UserError(f"{self.path} exists and is not an empty folder; choose another.")
            self._scratch = Scratch(self.path)
        except OSError as error:
            raise self._unwritable(error) from None

    def declare(self, action_set: AbstractActionSet) -> None:
        """Take the actions' bounds before the first row."""
        if self.count:
            raise UserError(f"{self._label}: the actions' bounds came after {self.count} rows, expected them before.")
        self.action_set = _held(action_set)

    def append(self, batch: Transition, keep: Bool[np.ndarray, "b"] | None = None) -> None:
        """Write the rows of `keep` (default: all); the row before one left out is marked truncated, for the episode
        does not run on there."""
        if not batch.reward.shape[0]:
            return
        sizes = (batch.obs.shape[1], batch.action.shape[1])
        if not self._files:
            self._open(*sizes)
        if sizes != self.sizes:
            raise UserError(
                f"{self._label}: found rows of {sizes[0]} observation and {sizes[1]} action numbers after rows of "
                f"{self.sizes[0]} and {self.sizes[1]}; every row needs the same number."
            )
        kept = np.ones(batch.reward.shape[0], bool) if keep is None else keep
        bad = kept & ~self._faults.add(batch, self.action_set, kept)
        kept = kept & ~bad
        self.dropped += int(bad.sum())
        if not kept[0]:
            self.cut()
        truncated = np.array(batch.truncated)
        truncated[:-1] |= ~kept[1:] & ~np.asarray(batch.terminated[:-1])
        self._write(Transition(*(np.asarray(column)[kept] for column in batch._replace(truncated=truncated))))

    def cut(self) -> None:
        """Mark the last row written as truncated, unless its episode ended there."""
        if self._ended:
            return
        file = self._files["truncated"]
        file.seek(-1, 2)
        file.write(b"\x01")
        self._ended = True
        self._count(np.zeros(0, bool))

    @property
    def longest(self) -> int:
        """Rows of the longest episode so far."""
        return max(self._longest, self._running)

    def _count(self, ends: Bool[np.ndarray, "b"]) -> None:
        """Note the lengths of episodes: of more rows, or, without any, of the episode that was cut."""
        stops = np.flatnonzero(ends) + 1 if len(ends) else np.zeros(1, int)
        if len(stops):
            lengths = np.diff(stops, prepend=-self._running)
            self._longest, self._running = max(self._longest, int(lengths.max())), 0
            ends = ends[stops[-1] :]
        self._running += len(ends)

    def finish(
        self,
        origin: Mapping[str, Any] | None = None,
        description: Description | None = None,
        times: Times | None = None,
    ) -> Dataset:
        """Hash, name and open the folder; `origin` (JSON) says where the data came from, `description` what it is, and
        `times` what its clock was like."""
        try:
            if not self._drop_bad:
                self._faults.refuse()
            if not self.count:
                dropped = f" but {self.dropped} bad ones, which were dropped" if self.dropped else ""
                raise UserError(f"{self._label}: found no transitions{dropped}, expected at least one.")
            action_set = self.action_set or self._range()
            for name, shape in _shapes(self.count, *self.sizes).items():
                self._files[name].seek(0)
                _write_header(self._files[name], name, shape)
            self._close()
            files = {f"{name}.npy": hash_file(self._scratch.folder / f"{name}.npy") for name in sorted(COLUMNS)}
            meta = {
                "count": self.count,
                "obs_size": self.sizes[0],
                "action_low": action_set.low,
                "action_high": action_set.high,
                "action_set": action_set.describe(),
                "origin": dict(origin or {}),
                **({} if description is None else {"description": description.described()}),
                **({} if times is None else {"times": times.described()}),
            }
            write_manifest(self._scratch.folder, DATASET, files, meta)
            self._scratch.publish()
            (self.path / UNFINISHED).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            self.discard()
        # Hashed a moment ago.
        return Dataset.open(self.path, verify=False)

    def discard(self) -> None:
        """Leave nothing behind of what was not finished."""
        with suppress(OSError):  # what goes need not be written out
            self._close()
        self._scratch.discard()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _open(self, obs_size: int, action_size: int) -> None:
        self.sizes = (obs_size, action_size)
        if self.action_set is not None and self.action_set.size != action_size:
            raise UserError(
                f"{self._label}: found actions of {action_size} numbers and bounds for {self.action_set.size}, "
                "expected one pair of bounds per number."
            )
        try:
            for name, shape in _shapes(0, obs_size, action_size).items():
                self._files[name] = (self._scratch.folder / f"{name}.npy").open("w+b")
                _write_header(self._files[name], name, shape)
            if self._rescuable is not None:
                assert self.action_set is not None
                meta = {"action_set": self.action_set.describe(), "origin": dict(self._rescuable)}
                write_signed(self._scratch.folder / UNFINISHED, {"of": self.path.name, **meta})
                self._scratch.keep()
        except OSError as error:
            raise self._unwritable(error) from None

    def _write(self, batch: Transition) -> None:
        count = batch.reward.shape[0]
        if not count:
            return
        low, high = batch.action.min(axis=0), batch.action.max(axis=0)
        self._low = np.minimum(self._low, low) if self.count else np.asarray(low)
        self._high = np.maximum(self._high, high) if self.count else np.asarray(high)
        try:
            for name, column in batch._asdict().items():
                self._files[name].write(np.ascontiguousarray(column, dtype_of(name)).data)
            if self._rescuable is not None:
                for file in self._files.values():
                    file.flush()
        except OSError as error:
            raise self._unwritable(error) from None
        self.count += count
        self._ended = bool(batch.terminated[-1] or batch.truncated[-1])
        self._count(np.asarray(batch.terminated | batch.truncated))

    def _range(self) -> Box:
        try:
            return Box(self._low, self._high)
        except UserError as error:
            raise UserError(
                f"{self._label}: {error} Give the actions' bounds (action_set; --action-low and --action-high)."
            ) from None

    def _close(self) -> None:
        """Close every file, also where one of them cannot be written out."""
        with ExitStack() as closed:
            for file in self._files.values():
                closed.callback(file.close)

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"dataset folder {self.path} cannot be written ({error.strerror}); choose another.")


class Faults:
    """Counts rows that no dataset may hold, and remembers where the first are."""

    def __init__(self, label: str):
        self._label, self._seen = label, 0
        self._not_finite, self._outside = 0, 0
        self._first_not_finite: list[str] = []
        self._first_outside: list[str] = []

    def add(
        self, batch: Transition, action_set: AbstractActionSet | None, among: Bool[np.ndarray, "b"] | None = None
    ) -> Bool[np.ndarray, "b"]:
        """Which rows of a batch are sound; faults are counted `among` some rows only where given."""
        not_finite = not_finite_columns(batch)
        unsound = np.logical_or.reduce(list(not_finite.values()))
        outside = np.zeros_like(unsound)
        if action_set is not None:
            low, high = np.asarray(action_set.low, np.float32), np.asarray(action_set.high, np.float32)
            outside = ((batch.action < low) | (batch.action > high)).any(axis=1) & ~unsound
        sound = ~(unsound | outside)
        if among is not None:
            unsound, outside = unsound & among, outside & among
        for row in np.flatnonzero(unsound)[: ROWS_SHOWN - len(self._first_not_finite)]:
            where = " and ".join(name for name, mask in not_finite.items() if mask[row])
            self._first_not_finite.append(f"row {self._seen + row} in {where}")
        for row in np.flatnonzero(outside)[: ROWS_SHOWN - len(self._first_outside)]:
            action = ", ".join(f"{number:.6g}" for number in batch.action[row])
            self._first_outside.append(f"row {self._seen + row}: [{action}]")
        self._not_finite += int(unsound.sum())
        self._outside += int(outside.sum())
        self._seen += len(sound)
        return sound

    def refuse(self) -> None:
        """A UserError where any fault was counted."""
        if self._not_finite:
            raise UserError(
                f"{self._label}: {plural(self._not_finite, 'row holds', 'rows hold')} NaN or infinity "
                f"({_listed(self._first_not_finite, self._not_finite)}; the first row is row 0), expected finite "
                "numbers; correct or drop these rows (from a file, fittedq data import --drop-bad does)."
            )
        if self._outside:
            raise UserError(
                f"{self._label}: {plural(self._outside, 'row has', 'rows have')} an action outside the declared bounds "
                f"({_listed(self._first_outside, self._outside)}; the first row is row 0); give bounds that hold them, "
                "clip them, or drop these rows (from a file, fittedq data import --drop-bad does)."
            )


def not_finite_columns(batch: Transition) -> dict[str, Bool[np.ndarray, "b"]]:
    """Per column of numbers, the rows that hold NaN or infinity."""
    return {
        name: np.asarray(~np.isfinite(np.asarray(column).reshape(len(column), -1)).all(axis=1))
        for name, column in batch._asdict().items()
        if name not in FLAGS
    }


def as_transition(columns: Mapping[str, Any], label: str = "dataset") -> Transition:
    """Columns of any float or integer type as one batch, float32 and bool; without `truncated` no episode was cut.

    UserError: a column that is missing, mis-shaped, of another length, or not of numbers.
    """
    arrays: dict[str, np.ndarray] = {}
    for name in COLUMNS:
        value = columns.get(name)
        if value is None:
            if name != "truncated":
                raise UserError(f"{label}: column {name} is missing; expected {', '.join(COLUMNS)}.")
            value = np.zeros(len(arrays["reward"]), bool)
        arrays[name] = _as_column(name, value, label)
    count, obs_shape = len(arrays["obs"]), arrays["obs"].shape
    if arrays["next_obs"].shape != obs_shape:
        raise UserError(
            f"{label}: next_obs has shape {arrays['next_obs'].shape}, expected {obs_shape}, the shape of obs."
        )
    for name, array in arrays.items():
        if len(array) != count:
            raise UserError(f"{label}: {name} has {len(array)} rows and obs has {count}; give one row for each.")
    return Transition(**arrays)


def action_bounds(low: object, high: object, size: int | None = None) -> Box:
    """The box between bounds in float32, as actions are; one number stands for every dimension."""
    try:
        bounds = [np.atleast_1d(np.asarray(bound, np.float32)).ravel() for bound in (low, high)]
    except (TypeError, ValueError):
        raise UserError(f"action bounds: found {low!r} and {high!r}, expected numbers.") from None
    if size is not None:
        bounds = [np.repeat(bound, size) if len(bound) == 1 else bound for bound in bounds]
        if any(len(bound) != size for bound in bounds):
            raise UserError(
                f"action bounds: found {len(bounds[0])} lower and {len(bounds[1])} upper bounds for actions of {size} "
                "numbers; give one of each per action dimension, or one of each for all."
            )
    return Box(*bounds)


def _held(action_set: AbstractActionSet) -> AbstractActionSet:
    """What a folder can hold of it: bounds in float32, as actions are, and no functions of the state."""
    return action_bounds(action_set.low, action_set.high) if action_set.separable else action_set


def _declared(manifest: Mapping[str, Any]) -> AbstractActionSet:
    """The action set of a manifest; before version 0.2 it was two lists, a box."""
    if "action_set" in manifest:
        return action_set_of(manifest["action_set"])
    return Box(manifest["action_low"], manifest["action_high"])


def _as_column(name: str, value: object, label: str) -> np.ndarray:
    if np.ma.is_masked(value) or (isinstance(value, list | tuple) and any(map(np.ma.is_masked, value))):
        # What lies behind a mask may be any number.
        raise UserError(f"{label}: {name} holds masked values, expected numbers; fill them, or leave out their rows.")
    try:
        array = np.asarray(value)
    except ValueError:
        raise UserError(f"{label}: {name} is ragged, expected rows of one length.") from None
    if array.dtype.kind not in "biuf":
        raise UserError(f"{label}: {name} has type {array.dtype}, expected numbers.")
    expected = f"(N, {'m' if name == 'action' else 's'})" if name in VECTORS else "(N,)"
    if array.ndim != (2 if name in VECTORS else 1) or (array.ndim == 2 and not array.shape[1]):
        raise UserError(f"{label}: {name} has shape {array.shape}, expected {expected}.")
    if name in FLAGS:
        if not np.isin(array, (0, 1)).all():
            odd = array[~np.isin(array, (0, 1))][0]
            raise UserError(f"{label}: {name} holds {odd}, expected only 0 and 1 (false and true).")
        return array.astype(bool, copy=False)
    # What float32 cannot hold becomes infinite, and is then reported like any infinity.
    with np.errstate(over="ignore"):
        return array.astype(dtype_of(name), copy=False)


def _shapes(count: int, obs_size: int, action_size: int) -> dict[str, tuple[int, ...]]:
    sizes = {"obs": (obs_size,), "action": (action_size,), "next_obs": (obs_size,)}
    return {name: (count, *sizes.get(name, ())) for name in COLUMNS}


def _write_header(file: BinaryIO, column: str, shape: tuple[int, ...]) -> None:
    # NumPy pads this header for a first axis that grows: it is as long for no rows as for all.
    header = {"descr": np.lib.format.dtype_to_descr(dtype_of(column)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _listed(first: list[str], count: int) -> str:
    return "; ".join(first) + ("; …" if count > len(first) else "")
