"""Rows of a log put in order, before they become transitions: by time, without gaps, on a grid, with a reward."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fittedq.data.description import Description
from fittedq.data.times import Times
from fittedq.errors import UserError, in_one_line, plural
from fittedq.expressions import INCREMENT, Expression
from fittedq.memory import require

Columns = dict[str, np.ndarray]
"""Rows by our names for what they hold (obs, action, …), or by the names of the file's columns."""

Places = dict[str, list[str]]
"""The file's column or columns for each of our names and for `time`, and those of each formula under `of_` its name."""

LINE = "\n"
"""Among the columns of a file: where each row stands in it. No column has this name."""

FORMULAS = ("reward", "terminated", "truncated")
"""What may be a formula of columns instead of one."""

ALIASES: dict[str, tuple[str, ...]] = {
    "obs": ("obs", "observations"),
    "action": ("action", "actions"),
    "reward": ("reward", "rewards"),
    "next_obs": ("next_obs", "next_observations"),
    "terminated": ("terminated", "terminals", "terminations"),
    "truncated": ("truncated", "timeouts", "truncations"),
    "episode": ("episode",),
}
"""The names by which a column is found that nobody names."""

SLICE = 2**16
"""Rows that are handed on at once."""

LATE = 1.5
"""Samples between two rows after which one is missing."""
OFF = 0.2
"""Share of a sample by which rows may lie off unnoticed."""
FEW_OFF = 0.01
"""Share of rows that may lie further off."""
ONE = 1.75
"""Times the middle step: up to there a step is of one sample, though a late one."""
MOST_MADE = 20
"""Rows of a grid for each that was logged."""
GAP = 3.0
"""Samples without a row that begin another episode, where nobody says how many."""


@dataclass
class LogReading:
    """How one file is read."""

    description: Description
    label: str
    drop_bad: bool = False
    unit: str = "row"
    """What a row's number counts: `line` or `row`."""
    table: bool = False
    """Whether every column holds one number a row."""
    sample: float | None = None
    """Seconds between rows; found while reading."""
    found: Places = field(default_factory=dict)
    """Which columns are what, derived ones too; found at the beginning."""
    derived: dict[str, Expression] = field(default_factory=dict)
    """Those that are read, each made of columns and of those above it."""
    units: dict[str, str] = field(default_factory=dict)
    """The units that the file says of its columns; complete when it has been read."""
    times: Times | None = None
    """What its clock was like; found while reading."""

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return Path(self.label).name

    def formulas(self) -> dict[str, Expression]:
        """What stands in the description as a formula of columns."""
        said = self.description
        return {name: Expression(getattr(said, name), name) for name in FORMULAS if f"of_{name}" in self.found}


def shaped(chunked: Iterable[Columns], found: Places, reading: LogReading, notes: list[str]) -> Iterator[Columns]:
    """A file's columns as ours, with formulas evaluated; in order and without gaps where that is asked for."""
    formulas, shifting = reading.formulas(), [*reading.derived.values(), *reading.formulas().values()]
    numbered = _numbered(chunked)
    if not (reading.description.whole or any(formula.shifts for formula in shifting)):
        for chunk in numbered:
            yield _finished(_derived(chunk, reading), formulas, reading)
        return
    columns = _together(numbered, reading.label)
    if not columns:
        return
    log = _Log(columns, found, reading, notes)
    log.drop()
    log.order()
    log.fill()
    log.resample()
    log.cut()
    columns = _derived(log.columns, reading, log.episode)
    finished = _finished(columns, formulas, reading, log.episode) | {"episode": log.episode}
    for start in range(0, len(log.episode), SLICE):
        yield {name: values[start : start + SLICE] for name, values in finished.items()}


def _numbered(chunked: Iterable[Columns]) -> Iterator[Columns]:
    """Rows that do not say where they stand are counted from 0."""
    count = 0
    for chunk in chunked:
        length = len(next(iter(chunk.values())))
        yield {LINE: np.arange(count, count + length)} | chunk
        count += length


def _together(chunked: Iterable[Columns], label: str) -> Columns:
    """All rows at once."""
    parts: list[Columns] = []
    size = 0
    for chunk in chunked:
        parts.append(chunk)
        size += sum(values.nbytes for values in chunk.values())
        # Once as parts and once together.
        require(2 * size, f"{label}, read as one for its times,", "import it in smaller files")
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else {})}


def _derived(columns: Columns, reading: LogReading, episode: np.ndarray | None = None) -> Columns:
    """The columns and those that follow from them."""
    columns = dict(columns)
    for name, formula in reading.derived.items():
        columns[name] = _evaluated(formula, columns, reading, episode)
    return columns


def _evaluated(formula: Expression, columns: Columns, reading: LogReading, episode: np.ndarray | None) -> np.ndarray:
    """A formula at every row."""
    lines = columns[LINE]
    values = {
        identifier: _shifted(columns[column], shift, episode)
        for identifier, (column, shift) in formula.columns(columns).items()
    }
    wide = next((one for one, array in values.items() if array.ndim != 1), None)
    if wide is not None:
        raise UserError(
            f"{reading.label}: {wide} holds vectors, and a formula takes columns of numbers.", argument=formula.argument
        )
    return np.broadcast_to(formula.checked(values, lambda row: f"{reading.unit} {lines[row]}"), lines.shape)


def _finished(
    columns: Columns,
    formulas: dict[str, Expression],
    reading: LogReading,
    episode: np.ndarray | None = None,
) -> Columns:
    """Our columns of the file's."""
    result = {}
    for name, keys in reading.found.items():
        if name in ALIASES:
            parts = [columns[key] for key in keys]
            vector = name in ("obs", "action", "next_obs")
            sided = [part[:, None] if vector and part.ndim == 1 and reading.table else part for part in parts]
            result[name] = joined(sided, name, reading.label)
    for name, formula in formulas.items():
        value = _evaluated(formula, columns, reading, episode)
        result[name] = value if name == "reward" else value != 0
    return result


def _shifted(values: np.ndarray, shift: str, episode: np.ndarray | None) -> np.ndarray:
    """A column as it is, as its change since the row before, or of the row that follows; within an episode."""
    if not shift or episode is None:
        return values
    same = episode[1:] == episode[:-1]
    if shift == INCREMENT:
        return np.concatenate([[0.0], np.where(same, np.diff(values.astype(float)), 0.0)])
    return np.concatenate([np.where(same, values[1:], values[:-1]), values[-1:]])


def joined(parts: list[np.ndarray], name: str, label: str) -> np.ndarray:
    """One column from several of the file's, side by side."""
    if len(parts) == 1:
        return parts[0]
    try:
        return np.concatenate([part[:, None] if part.ndim == 1 else part for part in parts], axis=1)
    except ValueError as error:
        raise UserError(f"{label}: the columns of {name} cannot be put side by side ({in_one_line(error)}).") from None


class _Log:
    """All rows of one file, in place of which better ones are put step by step."""

    def __init__(self, columns: Columns, found: Places, reading: LogReading, notes: list[str]):
        self.columns, self._found, self._reading, self._notes = columns, found, reading, notes
        self._description, self._label = reading.description, reading.label
        marks = self._marks("episode")
        self.episode = np.zeros(len(columns[LINE]), int) if marks is None else _changes(marks)
        """The number of each row's episode."""
        self._doubles = 0

    def drop(self) -> None:
        """Leave rows with missing cells out where that is asked for, and refuse them where nobody fills them."""
        numbers = [] if self._description.fill else self._numbers()
        bad = np.zeros(len(self.episode), bool)
        for name in dict.fromkeys([*numbers, *self._found.get("time", [])]):
            missing = ~np.asarray(np.isfinite(self.columns[name].reshape(len(bad), -1)).all(axis=1))
            if missing.any() and not self._reading.drop_bad:
                raise self._wrong(
                    missing,
                    f"no number in column {name!r}",
                    "fill it by --fill hold or --fill line (in a plant's file: fill, under [log]), or leave such rows "
                    "out with --drop-bad",
                )
            bad |= missing
        if bad.any():
            self.episode = self.episode + np.cumsum(bad)
            self._take(np.flatnonzero(~bad))
            self._notes.append(f"{plural(int(bad.sum()), 'bad row was', 'bad rows were')} dropped.")

    def order(self) -> None:
        """Sort by time, and split where rows are missing."""
        time = self._marks("time")
        if time is None:
            return
        if len(time) < 2:
            raise UserError(f"{self._label} holds {plural(len(time), 'row', 'rows')}, expected at least two.")
        time = self._sort(time)
        steps, same = np.diff(time), self._same()
        if not same.any():
            raise UserError(f"{self._label}: no two rows follow one another; check the column of times.")
        sample = sample_of(steps[same])
        wanted = self._description.sample or sample
        self._reading.sample = wanted
        self._notes.append(f"A sample is {wanted:g} s.")
        gap = self._description.gap
        if gap and gap < wanted:
            raise UserError(
                f"a gap of {gap:g} s is shorter than a sample of {wanted:g} s; give a longer one.", argument="gap"
            )
        limit = (gap or GAP * max(wanted, sample)) if self._description.resample else LATE * sample
        late = same & (steps > limit)
        if late.any():
            self.episode[1:] += np.cumsum(late)
            longest = float(steps[late].max())
            self._notes.append(
                f"{plural(int(late.sum()), 'gap', 'gaps')} in time of {self._reading.name} (up to {longest:.6g} s, the "
                f"first after {self._place(int(np.argmax(late)))}) split its episodes."
            )
        self._check_even(steps[same & ~late], sample, wanted, same & ~late, steps)
        lost = same & (steps > ONE * sample) if self._description.resample else late
        self._reading.times = Times.of(
            steps[same & ~lost],
            sample,
            len(time),
            gaps=int(lost.sum()),
            longest_gap=float(steps[lost].max(initial=0.0)),
            doubles=self._doubles,
            resample=self._description.resample,
        )

    def _sort(self, time: np.ndarray) -> np.ndarray:
        """Rows in order of time, and their times; a clock that starts again begins an episode."""
        back = np.flatnonzero((np.diff(time) < 0) & self._same())
        order = np.lexsort((time, self.episode))
        doubles = (np.diff(time[order]) == 0) & (np.diff(self.episode[order]) == 0)
        if len(back) and doubles.any() and len(back) <= 0.1 * len(time):
            self.episode[1:] += np.cumsum((np.diff(time) < 0) & self._same())
            self._notes.append(
                f"The times of {self._reading.name} start again {plural(len(back), 'time', 'times')} (the first after "
                f"{self._place(int(back[0]))}): an episode begins there."
            )
            order = np.lexsort((time, self.episode))
            doubles = (np.diff(time[order]) == 0) & (np.diff(self.episode[order]) == 0)
        elif len(back):
            self._notes.append(f"The rows of {self._reading.name} were not in order of time: they were sorted.")
        self._take(order)
        if doubles.any():
            self._drop_doubles(doubles, time[order])
        return self.columns[self._found["time"][0]]

    def _drop_doubles(self, doubles: np.ndarray, time: np.ndarray) -> None:
        """Leave a row out that is the one before it again; two rows of one time that differ are refused."""
        differ = np.zeros(len(doubles), bool)
        for name, values in self.columns.items():
            if name != LINE and values.dtype != object:
                flat = values.reshape(len(values), -1)
                unequal = (flat[1:] != flat[:-1]) & ~((flat[1:] != flat[1:]) & (flat[:-1] != flat[:-1]))
                differ |= unequal.any(axis=1)
        differ &= doubles
        if differ.any():
            first = int(np.argmax(differ))
            raise UserError(
                f"{self._label}: {self._place(first)} and {self._place(first + 1)} are of the same time "
                f"({time[first]:.10g} s) and differ, as {plural(int(differ.sum()), 'row does', 'rows do')} "
                "in all; correct the times, or name a column that tells episodes apart with --episode."
            )
        self._take(np.flatnonzero(np.concatenate([[True], ~doubles])))
        self._doubles = int(doubles.sum())
        self._notes.append(
            f"{plural(int(doubles.sum()), 'row', 'rows')} of {self._label} stood there twice: left out once."
        )

    def _check_even(
        self, steps: np.ndarray, sample: float, wanted: float, among: np.ndarray, all_steps: np.ndarray
    ) -> None:
        """Refuse rows that are not a sample apart, unless they are put on a grid."""
        if self._description.resample or not len(steps):
            return
        if abs(wanted - sample) > OFF * sample:
            raise UserError(
                f"{self._label}: its rows are {sample:g} s apart, and a sample of {wanted:g} s is asked for; give "
                "--resample hold or --resample line too.",
                argument="sample",
            )
        off = np.abs(steps - sample)
        share = float((off > OFF * sample).mean())
        if share > FEW_OFF:
            worst = int(np.argmax(np.where(among, np.abs(all_steps - sample), 0)))
            raise UserError(
                f"{self._label}: its rows are not evenly apart: {steps.min():.3g} to {steps.max():.3g} s, {sample:g} s "
                f"on the whole, {100 * share:.0f} % of them more than {100 * OFF:.0f} % off (the worst after "
                f"{self._place(worst)}); put them on a grid with --sample {sample:g} --resample line (or hold)."
            )
        if off.max() > OFF * sample:
            self._notes.append(
                f"{plural(int((off > OFF * sample).sum()), 'row lies', 'rows lie')} up to {off.max():.3g} s off the "
                f"sample time of {sample:g} s."
            )

    def fill(self) -> None:
        """Missing cells by those around, within an episode; rows before an episode's first value are left out."""
        if not self._description.fill:
            return
        time = self._marks("time")
        at = np.arange(len(self.episode), dtype=float) if time is None else time
        count, unknown = 0, np.zeros(len(self.episode), bool)
        for name in self._numbers():
            values = self.columns[name].astype(float)
            flat = values.reshape(len(values), -1)
            for axis in range(flat.shape[1]):
                for part in self._parts():
                    missing = ~np.isfinite(flat[part, axis])
                    if missing.any():
                        _fill(flat[part, axis], missing, at[part], self._description.fill)
                        count += int(np.isfinite(flat[part, axis][missing]).sum())
            unknown |= ~np.isfinite(flat).all(axis=1)
            self.columns[name] = flat.reshape(values.shape)
        if unknown.any():
            self._take(np.flatnonzero(~unknown))
        if count:
            left = (
                f"; {plural(int(unknown.sum()), 'row', 'rows')} before a first value left out" if unknown.any() else ""
            )
            self._notes.append(f"{plural(count, 'missing cell was', 'missing cells were')} filled{left}.")

    def resample(self) -> None:
        """Put rows on a grid of one sample: what is measured by the rule, all else by the row before."""
        if not self._description.resample:
            return
        step, (clock,) = self._reading.sample, self._found["time"]
        assert step is not None
        self._check_grid(step, self.columns[clock])
        # A flag ends its episode: it stays on the last row.
        self.episode[1:] += np.cumsum(self._flags()[:-1])
        measured = self._numbers() if self._description.resample == "line" else []
        held = {key for name in ("action", "terminated", "truncated") for key in self._found.get(name, [])}
        actions = self._found["action"]
        parts, changed = [], 0
        for part in self._parts():
            rows = {name: values[part] for name, values in self.columns.items()}
            moved, uneven = _on_grid(rows, clock, step, [name for name in measured if name not in held], actions)
            changed += uneven
            parts.append((moved, np.full(len(moved[clock]), self.episode[part.start])))
        before = len(self.episode)
        self.columns = {name: np.concatenate([moved[name] for moved, _ in parts]) for name in self.columns}
        self.episode = np.concatenate([number for _, number in parts])
        self._notes.append(f"{before:,} rows of {self._reading.name} became {len(self.episode):,}, {step:g} s apart.")
        if changed:
            self._notes.append(
                f"The action changes within {plural(changed, 'sample', 'samples')} of {step:g} s: its mean over the "
                "sample is taken."
            )

    def _check_grid(self, step: float, time: np.ndarray) -> None:
        """Refuse a grid that leaves one row of each episode, or that makes nearly all rows up."""
        spans = [float(time[part.stop - 1] - time[part.start]) for part in self._parts()]
        if max(spans) < step:
            raise UserError(
                f"a sample of {step:g} s is longer than the longest episode of {self._label}, {max(spans):.6g} s; give "
                "a shorter one.",
                argument="sample",
            )
        rows, count = sum(int(span / step) + 1 for span in spans), len(time)
        if rows > MOST_MADE * count:
            raise UserError(
                f"a sample of {step:g} s makes {rows:,} rows of {count:,} in {self._label}, of which nearly none was "
                "logged; give one about as long as the time between its rows.",
                argument="sample",
            )

    def cut(self) -> None:
        """Episodes of at most so many rows."""
        length = self._description.length
        if not length:
            return
        begins = np.concatenate([[True], ~self._same() | self._flags()[:-1]])
        rows = np.arange(len(begins))
        since = rows - np.maximum.accumulate(np.where(begins, rows, 0))
        self.episode = np.cumsum(begins | (since % length == 0))

    def _same(self) -> np.ndarray:
        """Whether each row's episode is that of the row before it, from the second on."""
        return self.episode[1:] == self.episode[:-1]

    def _parts(self) -> Iterator[slice]:
        """The rows of each episode."""
        bounds = np.concatenate([[0], np.flatnonzero(~self._same()) + 1, [len(self.episode)]])
        return (slice(int(start), int(stop)) for start, stop in itertools.pairwise(bounds) if stop > start)

    def _take(self, rows: np.ndarray) -> None:
        self.columns = {name: values[rows] for name, values in self.columns.items()}
        self.episode = self.episode[rows]

    def _place(self, row: int) -> str:
        return f"{self._reading.unit} {self.columns[LINE][row]}"

    def _marks(self, name: str) -> np.ndarray | None:
        """The one column of this name."""
        return self.columns[self._found[name][0]] if self._found.get(name) else None

    def _numbers(self) -> list[str]:
        """The columns that hold what is measured and done."""
        apart = {LINE, *self._found.get("time", []), *self._found.get("episode", [])}
        return [name for name in self.columns if name not in apart]

    def _flags(self) -> np.ndarray:
        """Whether a column says that the row ends its episode."""
        flags = [marks != 0 for name in ("terminated", "truncated") if (marks := self._marks(name)) is not None]
        return np.logical_or.reduce([np.zeros(len(self.episode), bool), *flags])

    def _wrong(self, where: np.ndarray, what: str, remedy: str) -> UserError:
        count = int(where.sum())
        more = f" ({count:,} such rows in all)" if count > 1 else ""
        return UserError(f"{self._label}: {self._place(int(np.argmax(where)))} has {what}{more}; {remedy}.")


def _changes(marks: np.ndarray) -> np.ndarray:
    """How often a column has changed up to each row."""
    return np.concatenate([[0], np.cumsum(np.asarray(marks[1:] != marks[:-1], bool))])


def sample_of(steps: np.ndarray) -> float:
    """The mean of the steps that are of one sample by the middle one, as the number of fewest digits within three of
    its standard errors, at most 5 ‰."""
    near = steps[steps <= ONE * np.median(steps)]
    value = float(near.mean())
    margin = min(max(3 * float(near.std()) / np.sqrt(len(near)), 1e-6 * value), 5e-3 * value)
    rounded = (float(f"{value:.{digits}g}") for digits in range(1, 9))
    return next((one for one in rounded if abs(one - value) <= margin), value)


def _fill(values: np.ndarray, missing: np.ndarray, at: np.ndarray, rule: str) -> None:
    """Fill the missing ones of one column's values in place; none where there is nothing before."""
    known = np.flatnonzero(~missing)
    if not len(known):
        return
    gone = np.flatnonzero(missing)
    before = np.searchsorted(known, gone, side="right") - 1
    held = np.where(before >= 0, values[known[np.maximum(before, 0)]], np.nan)
    if rule == "line":
        held = np.where(before >= 0, np.interp(at[gone], at[known], values[known]), np.nan)
    values[gone] = held


def _on_grid(rows: Columns, clock: str, step: float, measured: list[str], actions: list[str]) -> tuple[Columns, int]:
    """An episode's rows a step apart, and within how many steps an action changes.

    What is `measured` lies on straight lines between its rows. An action is held from its row to the next, and where a
    step is as long as several rows, a_k = 1/step ∫ a dt over it.
    """
    time = rows[clock]
    count = int(np.floor((time[-1] - time[0]) / step + 1e-6)) + 1
    grid = time[0] + step * np.arange(count)
    at = np.searchsorted(time, grid + 1e-6 * step, side="right") - 1
    moved = {name: values[at] for name, values in rows.items()} | {clock: grid}
    for name in measured:
        flat = rows[name].reshape(len(time), -1).astype(float)
        lines = np.stack([np.interp(grid, time, column) for column in flat.T], axis=1)
        moved[name] = lines.reshape(count, *rows[name].shape[1:])
    uneven = np.zeros(count, bool)
    if len(time) > 1 and step > LATE * float(np.median(np.diff(time))):
        for name in actions:
            first = moved[name].reshape(count, -1).astype(float)
            mean = _mean_held(rows[name].reshape(len(time), -1).astype(float), time, grid, step)
            changed = np.asarray((np.abs(mean - first) > 1e-9 * np.maximum(1.0, np.abs(first))).any(axis=1))
            uneven |= changed
            moved[name] = np.where(changed[:, None], mean, first).reshape(moved[name].shape)
    return moved, int(uneven.sum())


def _mean_held(values: np.ndarray, time: np.ndarray, grid: np.ndarray, step: float) -> np.ndarray:
    """1/step ∫ a dt over each step, a held from one row to the next; the last step ends with the rows."""
    integral = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values[:-1] * np.diff(time)[:, None], axis=0)])
    ends = np.minimum(grid + step, time[-1])
    gained = np.stack([np.interp(ends, time, one) - np.interp(grid, time, one) for one in integral.T], axis=1)
    length = (ends - grid)[:, None]
    return np.where(length > 1e-9 * step, gained / np.maximum(length, 1e-9 * step), values[-1])
