"""What every reader shares: which column is what, rows that follow one another, sizes that are held."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Bool

from fittedq.actions.base import Box
from fittedq.data.dataset import as_transition
from fittedq.errors import UserError, in_one_line, nearest, plural
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


MOST_COLUMNS = 2**16
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


def linked(chunked: Iterable[Columns], label: str, notes: list[str]) -> Iterator[Batch]:
    """Batches from columns in order; one row is held back, for it may need the one that follows."""
    held: Columns = {}
    changes = Changes()
    for chunk in itertools.chain(chunked, [None]):
        columns = held if chunk is None else _after(held, chunk, label)
        if not columns:
            break
        batch, keep = _settled(columns, label, last=chunk is None)
        held = {name: values[-1:] for name, values in columns.items()}
        if len(keep):
            changes.add(columns, batch, keep)
            yield batch, keep
    notes += changes.notes()


def _after(held: Columns, chunk: Columns, label: str) -> Columns:
    """The columns of a chunk behind the row that is held."""
    if held and chunk.keys() != held.keys():
        raise UserError(f"{label}: its columns change on the way.")
    return {name: np.concatenate([held[name], values]) for name, values in chunk.items()} if held else chunk


class Changes:
    """How transitions differ from the columns they were made of: rows left out, s' put in, numbers rounded."""

    def __init__(self) -> None:
        self._lost = self._unknown = 0
        self._roundings = {name: Rounding() for name in ("obs", "reward")}

    def add(self, columns: Columns, batch: Transition, keep: np.ndarray) -> None:
        """Count a batch, which was made of the first rows of `columns`."""
        self._lost += int((~keep).sum())
        if "next_obs" not in columns:
            self._unknown += int((batch.terminated & keep).sum())
        for name, rounding in self._roundings.items():
            rounding.add(columns[name][: len(keep)], getattr(batch, name))

    def notes(self) -> list[str]:
        """A sentence for each difference."""
        notes = [note for name, rounding in self._roundings.items() for note in rounding.notes(name)]
        if self._unknown:
            notes.append(
                f"{plural(self._unknown, 'terminal row has', 'terminal rows have')} no next observation in the file; "
                "the row's own stands in its place; no target reads it."
            )
        if self._lost:
            notes.append(
                f"{plural(self._lost, 'row was', 'rows were')} left out where an episode was cut short, for the file "
                "holds no next observations."
            )
        return notes


TOO_COARSE = 1e-3
"""Share of a column's range by which float32 may round it unnoticed."""


class Rounding:
    """How much of a column's range its rounding to float32 takes: much, where a small change has a great offset."""

    def __init__(self) -> None:
        self._error = np.zeros(1)
        self._low, self._high = np.full(1, np.inf), np.full(1, -np.inf)

    def add(self, values: np.ndarray, rounded: np.ndarray) -> None:
        """Count more rows [b] or [b, s]."""
        with np.errstate(over="ignore", invalid="ignore"):
            exact, rounded = (array.reshape(len(array), -1).astype(float) for array in (values, rounded))
            self._error = np.fmax(self._error, np.fmax.reduce(np.abs(exact - rounded), axis=0, initial=0.0))
            self._low = np.fmin(self._low, np.fmin.reduce(exact, axis=0, initial=np.inf))
            self._high = np.fmax(self._high, np.fmax.reduce(exact, axis=0, initial=-np.inf))

    def notes(self, name: str) -> list[str]:
        """A sentence for each number of the column that loses more than `TOO_COARSE` of its range."""
        error, reach = self._error, self._high - self._low
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
        unknown = sum(bool(one is None or one != one) for one in columns["episode"])
        if unknown:
            raise UserError(f"{label}: the episode of {plural(unknown, 'row', 'rows')} is empty; fill it in.")
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


def find_columns(available: Sequence[str], column_map: ColumnMap, label: str) -> dict[str, list[str]]:
    """The file's column or columns for each of ours."""
    names = set(available)
    check_columns(len(available), label)
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


def check_columns(count: int, label: str) -> None:
    if count > MOST_COLUMNS:
        raise UserError(f"{label} has {count:,} columns, expected at most {MOST_COLUMNS:,}; leave some out.")


def row_sizes(shapes: Mapping[str, tuple[int, ...]], label: str) -> int:
    """The numbers in one row of columns of these shapes; a UserError where they are no rows, or rows too wide."""
    for name, shape in shapes.items():
        if not shape:
            raise UserError(f"{label}: {name} is one number, expected rows.")
    width = sum(math.prod(shape[1:]) for shape in shapes.values())
    if width > MOST_COLUMNS:
        raise UserError(
            f"{label} declares rows of {width:,} numbers, expected at most {MOST_COLUMNS:,}; it is damaged or no log "
            "of transitions."
        )
    return width


def check_held(size: int, what: str) -> None:
    """Refuse what would have to be held at once and is too large for it."""
    if size > MOST_HELD:
        raise UserError(
            f"{what} declares {amount(size)} that would have to be held at once, expected at most "
            f"{amount(MOST_HELD)}; it is damaged, or has to be saved in smaller parts."
        )


def joined(parts: list[np.ndarray], name: str, label: str) -> np.ndarray:
    """One column from several of the file's, side by side."""
    if len(parts) == 1:
        return parts[0]
    try:
        return np.concatenate([part[:, None] if part.ndim == 1 else part for part in parts], axis=1)
    except ValueError as error:
        raise UserError(f"{label}: the columns of {name} cannot be put side by side ({in_one_line(error)}).") from None


def notes_on(found: Mapping[str, Sequence[str]], available: Iterable[str]) -> list[str]:
    """Sentences on the columns that a file lacks, and on those of it that are not read."""
    notes = []
    if "terminated" not in found:
        notes.append("The file has no terminal flags: every episode's end counts as truncated, none as terminated.")
    unread = sorted(set(available) - {"action_low", "action_high"} - set(itertools.chain(*found.values())))
    if unread:
        more = f" and {len(unread) - 10:,} more" if len(unread) > 10 else ""
        notes.append(f"Columns that were not read: {', '.join(unread[:10])}{more}.")
    return notes


def same_length(lengths: Mapping[str, int], label: str) -> int:
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"{label}: its columns differ in length ({listed}), expected one row per transition in each.")
    return next(iter(lengths.values()))


def guarded(batches: Iterator[Batch], path: Path) -> Iterator[Batch]:
    """The same batches, read under `readable`."""
    with readable(path):
        yield from batches


@contextmanager
def readable(path: Path) -> Iterator[None]:
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


def library(name: str, path: Path) -> ModuleType:
    try:
        return __import__(name)
    except ModuleNotFoundError:
        raise UserError(f"{path} needs {name} to be read; pip install 'fittedq[data]'.") from None


def listed_numbers(values: Iterable[float]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
