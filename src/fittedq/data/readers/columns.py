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
from typing import TypeVar, final

import numpy as np
from jaxtyping import Bool

from fittedq.actions.base import Box
from fittedq.data.dataset import as_transition
from fittedq.data.description import Description
from fittedq.data.shaping import ALIASES, FORMULAS, Columns, LogReading, Places, shaped
from fittedq.errors import UserError, in_one_line, nearest, plural
from fittedq.expressions import Expression
from fittedq.memory import amount
from fittedq.types import Transition

Batch = tuple[Transition, Bool[np.ndarray, "b"]]
"""Transitions and which of them to keep."""


Read = TypeVar("Read")


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
    reading: LogReading | None = None
    """How its columns are read; None where they are fixed."""
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
        with np.errstate(invalid="ignore"):
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
        marks = columns["episode"]
        unknown = int(np.sum(marks != marks)) + (0 if marks.dtype != object else sum(one is None for one in marks))
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


@final
class MissingColumns(UserError):
    """A file lacks columns that are needed; `found` says which, and the message how `data import` is told them."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"{found}; {remedy}.")
        self.found = found


def find_columns(available: Sequence[str], reading: LogReading) -> Places:
    """The columns that the description names, or that have one of our names."""
    description, label = reading.description, reading.label
    check_columns(len(available), label)
    of_file, found = available, Places()
    available = [*of_file, *_derivable(of_file, description, label)]
    for name, aliases in ALIASES.items():
        named = getattr(description, name)
        if named and name in FORMULAS and named not in available:
            read = Expression(named, name).columns(available).values()
            found[f"of_{name}"] = list(dict.fromkeys(column for column, _ in read))
        elif named:
            among = of_file if name in ("episode", "action") else available
            found[name] = _named([named] if isinstance(named, str) else list(named), among, name, label)
        else:
            found |= _usual(name, aliases, available)
    if description.time:
        found["time"] = _named([description.time], of_file, "time", label)
    needed = [name for name in ("obs", "action", "reward") if name not in found and not getattr(description, name)]
    ends = ("terminated", "truncated", "episode", "time", "length")
    if not any(name in found or getattr(description, name, None) for name in ends):
        needed.append("terminated (or truncated, or episode)")
    if needed:
        listed = ", ".join(sorted(of_file)[:20]) or "none"
        raise MissingColumns(f"{label}: no column for {', '.join(needed)}; its columns are {listed}", _remedy(needed))
    reading.found, reading.derived = found, _derived(found, of_file, description)
    of_derived = {column for one in reading.derived.values() for column, _ in one.columns(available).values()}
    found = {name: [key for key in keys if key not in description.derived] for name, keys in found.items()}
    found |= {"of_derived": [name for name in of_file if name in of_derived]}
    _refuse_doubles(of_file, found, label)
    return found


def _derivable(available: Sequence[str], description: Description, label: str) -> list[str]:
    """The names of derived columns; a UserError where the file has one of them, or lacks what one reads."""
    names: list[str] = []
    for name, formula in description.formulas().items():
        if name in available:
            raise UserError(f"{label} has a column {name!r}, and so has [derived]; give one of them another name.")
        formula.columns([*available, *names])
        names.append(name)
    return names


def _derived(found: Places, available: Sequence[str], description: Description) -> dict[str, Expression]:
    """The derived columns that are read, in order."""
    formulas = description.formulas()
    needed = {key for keys in found.values() for key in keys}
    for name, formula in reversed(formulas.items()):
        if name in needed:
            needed |= {column for column, _ in formula.columns([*available, *formulas]).values()}
    return {name: formula for name, formula in formulas.items() if name in needed}


def _named(columns: list[str], available: Sequence[str], name: str, label: str) -> list[str]:
    """The columns that the user named."""
    by_text = {column.strip(): column for column in available}
    found, rest = [], columns
    while rest:
        # A name that holds a comma and lost its quotes came as two.
        count = next((n for n in range(len(rest), 0, -1) if ",".join(rest[:n]) in by_text), 0)
        if not count:
            raise UserError(
                f"{label} has no column {rest[0]!r}; {nearest(rest[0], filter(None, available))}", argument=name
            )
        found.append(by_text[",".join(rest[:count])])
        rest = rest[count:]
    return found


def _usual(name: str, aliases: tuple[str, ...], available: Sequence[str]) -> Places:
    """The column that has one of our names for it, or numbered ones."""
    names = set(available)
    for alias in aliases:
        numbered = itertools.takewhile(names.__contains__, (f"{alias}_{index}" for index in itertools.count()))
        columns = [alias] if alias in names else list(numbered)
        if columns:
            return {name: columns}
    return {}


def _remedy(needed: list[str]) -> str:
    """What to write on the command line for columns that were not found."""
    examples = {
        "obs": "--obs temp,setpoint",
        "action": "--action u",
        "reward": '--reward "-abs(temp - setpoint)" (a column or a formula of columns)',
    }
    named = [examples[name] for name in needed if name in examples]
    ends = (
        "where episodes end: --terminated, --truncated or --episode with a column, --time with the times, or --length"
    )
    return "; ".join(
        ([f"name them, as in {' '.join(named)}"] if named else []) + [f"say {ends}"] * (len(named) < len(needed))
    )


def _refuse_doubles(available: Sequence[str], found: Places, label: str) -> None:
    used = set(itertools.chain(*found.values()))
    twice = next((column for column, count in Counter(available).items() if count > 1 and column in used), None)
    if twice is not None:
        places = " and ".join(str(place) for place, column in enumerate(available, 1) if column == twice)
        raise UserError(
            f"{label} has more than one column {twice!r} (columns {places}); rename or remove all but one, or name all "
            "columns with --names."
        )


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


def notes_on(found: Places, available: Iterable[str], reading: LogReading) -> list[str]:
    """Sentences on the columns that a file lacks, and on those of it that are not read."""
    notes = []
    if "terminated" not in found and not reading.description.terminated:
        notes.append("The file has no terminal flags: every episode's end counts as truncated, none as terminated.")
    unread = sorted(
        {name for name in available if name} - {"action_low", "action_high"} - set(itertools.chain(*found.values()))
    )
    if unread:
        more = f" and {len(unread) - 10:,} more" if len(unread) > 10 else ""
        notes.append(f"Columns that were not read: {', '.join(unread[:10])}{more}.")
    return notes


def same_length(lengths: Mapping[str, int], label: str) -> int:
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"{label}: its columns differ in length ({listed}), expected one row per transition in each.")
    return next(iter(lengths.values()))


def source_of(
    chunked: Iterator[Columns],
    found: Places,
    available: Sequence[str],
    reading: LogReading,
    path: Path,
    total: int,
    *,
    action_set: Box | None = None,
    size: int = 0,
) -> Source:
    """The rows of a file, `total` chunks of them, as transitions."""
    source = Source(iter(()), total, action_set, size, reading)
    source.notes += notes_on(found, available, reading)
    rows = shaped(guarded(chunked, path), found, reading, source.notes)
    source.batches = linked(rows, str(path), source.notes)
    return source


def guarded(batches: Iterator[Read], path: Path) -> Iterator[Read]:
    """The same, read under `readable`."""
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
