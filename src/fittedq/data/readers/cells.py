"""Cells of a table as numbers and as times; what is neither is remembered by its row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from fittedq.data.shaping import LINE, Columns, LogReading, Places
from fittedq.errors import UserError, plural

NO_VALUE = frozenset(
    ["", "-", "--", "---", "nan", "-nan", "null", "none", "na", "n/a", "#n/a", "nil", "missing", "#value!", "?"]
)
"""What stands in a cell without a value, in small letters."""

SWITCHES: dict[str, float] = {
    word: value
    for pair in (
        "true false", "on off", "yes no", "open closed", "running stopped", "enabled disabled", "active inactive",
        "ein aus", "ja nein", "wahr falsch",
    )
    for word, value in zip(pair.split(), (1.0, 0.0), strict=True)
}  # fmt: skip
"""Words for 1 and 0, in small letters."""

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(inf|infinity|nan)$"
_NUMBER = re.compile(NUMBER, re.IGNORECASE)
UNIT = r"[°µμΩ%A-Za-z][^\s\d,;:]{0,11}"
QUANTITY = rf"^(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)[ \x{{a0}}]*(?P<unit>{UNIT})$"
"""A number and its unit, in Arrow's words."""
_BEHIND = re.compile(rf"(?<=[\d.])[ \xa0]*{UNIT}$")

FORMATS = (
    "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M",
    "%d.%m.%Y %H:%M:%S", "%d.%m.%y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%y %H:%M",
    "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d/%m/%y %H:%M:%S", "%m/%d/%y %H:%M:%S",
    "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d/%m/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M:%S %p",
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y%m%d %H%M%S", "%Y%m%dT%H%M%S", "%Y%m%d%H%M%S",
    "%d-%b-%Y %H:%M:%S", "%d-%b-%y %H:%M:%S", "%d-%m-%Y %H:%M:%S", "%m-%d-%Y %H:%M:%S", "%Y-%m-%d-%H:%M:%S",
    "%Y-%m-%d %H.%M.%S", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%H:%M:%S", "%H.%M.%S", "%H:%M",
)  # fmt: skip
"""How times are written beside ISO 8601; fractions of seconds are cut off before."""
CLOCK = r"^(?P<whole>.*?:\d{2}(?::\d{2})?)(?P<part>[.,]\d+)?(?P<rest> ?[AaPp][Mm])?(?: ?(?:Z|UTC|GMT))?$"
"""A time as its whole seconds, parts of one, and morning or afternoon."""
ORDERS = {format: "day" if format[1] == "d" else "month" for format in FORMATS if re.match(r"%[dm][/-]%[dm]", format)}
"""What comes first in formats that may be read in both orders."""
_TIME = re.compile(r"\d{1,4}([-./]\w{2,3}[-./]\d{2,4}|:\d{2}).*|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}.*|\d{8}[T ]\d{6}.*")

EPOCH = 1e11
"""Numbers above are no seconds since 1970 but thousandths, millionths or billionths of them: that is year 5138."""

CLOCKS = {"ms": 1e-3, "msec": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
"""Units of times, in seconds."""

ArrowArray: TypeAlias = Any
"""A column of Arrow's, which has no types."""


@dataclass
class FoundWords:
    """What in a column is no number: where the first such cell is, and the switches met."""

    bad: np.ndarray
    """The rows that hold a word no number stands for."""
    switches: dict[str, float] = field(default_factory=dict)
    """Words that were taken as numbers."""
    unit: str = ""
    """What stands behind the numbers in most cells."""


def is_number(cell: str) -> bool:
    """Whether a cell is a number, with a point or a comma."""
    return bool(_NUMBER.match(cell) or _NUMBER.match(re.sub(r"[.,' ](?=\d{3}([.,]|$))", "", cell).replace(",", ".")))


def without_unit(cell: str) -> str:
    """A cell without the unit behind its number."""
    return _BEHIND.sub("", cell)


def same_unit(one: str, other: str) -> bool:
    """Whether two names of units mean the same, as °C and degC do."""
    return _in_letters(one) == _in_letters(other)


def _in_letters(unit: str) -> str:
    letters = re.sub(r"[\s.]", "", unit.lower().replace("°", "deg").replace("µ", "μ"))
    return {"c": "degc", "celsius": "degc", "degcelsius": "degc", "f": "degf", "fahrenheit": "degf"}.get(
        letters, letters
    )


def is_time(cell: str) -> bool:
    """Whether a cell looks like a date or a time of day."""
    return bool(_TIME.fullmatch(cell))


def _compute() -> ModuleType:
    """Arrow's functions of columns, which no checker of types knows."""
    from pyarrow import compute

    return compute


def as_numbers(
    cells: ArrowArray, comma: bool = False, words: Mapping[str, float] | None = None
) -> tuple[np.ndarray, FoundWords]:
    """Cells of any type as float64, NaN where one is missing, and the words among them; `words` say more of these."""
    import pyarrow as pa

    pc = _compute()

    kind = cells.type
    if pa.types.is_dictionary(kind):
        cells = cells.dictionary_decode()
    if pa.types.is_null(kind):
        return np.full(len(cells), np.nan), FoundWords(np.zeros(0, int))
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        return _as_float(cells), FoundWords(np.zeros(0, int))
    text = pc.replace_substring(cells, ",", ".") if comma else cells
    try:
        return _as_float(text), FoundWords(np.zeros(0, int))
    except pa.ArrowInvalid:
        return _with_words(pc.utf8_trim_whitespace(cells), comma, dict(words or {}))


def _as_float(cells: ArrowArray) -> np.ndarray:
    import pyarrow as pa

    return cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _with_words(cells: ArrowArray, comma: bool, words: dict[str, float]) -> tuple[np.ndarray, FoundWords]:
    import pyarrow as pa

    pc = _compute()

    # Thousands are grouped by the sign that is not the decimal one, by apostrophes or by blanks.
    group = r"\." if comma else ","
    grouped = pc.match_substring_regex(cells, rf"^[+-]?\d{{1,3}}([{group}'’ \x{{a0}}\x{{202f}}]\d{{3}})+([.,]\d+)?$")
    text = pc.if_else(grouped, pc.replace_substring_regex(cells, rf"[{group}'’ \x{{a0}}\x{{202f}}]", ""), cells)
    text = pc.replace_substring_regex(pc.replace_substring(text, ",", ".") if comma else text, r"\s*%$", "")
    lower = pc.utf8_lower(cells)
    known = SWITCHES | {word.lower(): value for word, value in words.items()}
    place = pc.index_in(lower, value_set=pa.array(list(known), cells.type))
    missing = pc.is_in(lower, value_set=pa.array(sorted(NO_VALUE), cells.type))
    number = pc.match_substring_regex(text, NUMBER, ignore_case=True)
    result = np.array(_as_float(pc.if_else(number, text, pa.scalar(None, cells.type))))
    switched = place.to_numpy(zero_copy_only=False)
    at = np.flatnonzero(np.isfinite(switched.astype(float)))
    result[at] = np.array(list(known.values()))[switched[at].astype(int)]
    unknown = pc.and_not(pc.is_valid(cells), pc.or_(pc.or_(number, missing), pc.is_valid(place)))
    unit = _unit(text, unknown)
    if unit:
        behind = pc.extract_regex(text, QUANTITY)
        own = pc.fill_null(pc.equal(pc.struct_field(behind, "unit"), unit), False)
        values = _as_float(pc.if_else(own, pc.struct_field(behind, "number"), None))
        result = np.where(np.isfinite(values), values, result)
        unknown = pc.and_not(unknown, own)
    bad = np.flatnonzero(pc.fill_null(unknown, False).to_numpy(zero_copy_only=False))
    met = pc.unique(cells.take(pa.array(at))).to_pylist() if len(at) else []
    return result, FoundWords(bad, {word: known[word.lower()] for word in met}, unit)


def _unit(text: ArrowArray, unknown: ArrowArray) -> str:
    """The unit that stands behind most numbers of a column; none where cells have it by way of exception."""
    pc = _compute()
    units = pc.struct_field(pc.extract_regex(pc.filter(text, unknown), QUANTITY), "unit").drop_null()
    if len(units) <= 0.5 * pc.count(text).as_py():
        return ""
    return Counter(units.to_pylist()).most_common(1)[0][0]


def as_seconds(
    cells: ArrowArray, comma: bool = False, order: str = "", scale: float = 1.0
) -> tuple[np.ndarray, FoundWords]:
    """Times as seconds in float64, NaN where one is missing, and the words among them.

    Numbers are of `scale` seconds, or since 1970 (also in thousandths and less); text is ISO 8601 or one of `FORMATS`,
    `order` (day, month) what comes first in 3/4/2024. UserError: dates that can be read in both orders.
    """
    import pyarrow as pa

    pc = _compute()

    nothing = FoundWords(np.zeros(0, int))
    if pa.types.is_timestamp(cells.type) or pa.types.is_date(cells.type):
        return _of_stamps(cells.cast(pa.timestamp("us"), safe=False)) / 1e6, nothing
    values, words = as_numbers(cells, comma)
    if not words.switches and len(words.bad) <= 0.5 * len(values):
        size = np.nanmax(np.abs(values), initial=0.0)
        since = next((unit for unit in (1e9, 1e6, 1e3) if size > EPOCH * unit / 1e3), None)
        scale = CLOCKS.get(words.unit.lower(), scale)
        return values * scale if since is None else values / since, words
    text = pc.utf8_trim_whitespace(cells)
    text = pc.if_else(pc.is_in(pc.utf8_lower(text), value_set=pa.array(sorted(NO_VALUE), text.type)), None, text)
    for kind in (pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        try:
            return _of_stamps(pc.replace_substring(text, ",", ".").cast(kind)) / 1e9, nothing
        except pa.ArrowInvalid:
            continue
    return _formatted(text, order)


def _of_stamps(stamps: ArrowArray) -> np.ndarray:
    """What a timestamp counts, in float64: a quarter of a millionth of a second is left of the seconds since 1970."""
    import pyarrow as pa

    return stamps.cast(pa.int64()).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _formatted(text: ArrowArray, order: str) -> tuple[np.ndarray, FoundWords]:
    """Times in one of `FORMATS`, the one that reads most of them."""
    pc = _compute()

    split = pc.extract_regex(text, CLOCK)
    whole, part, rest = (pc.struct_field(split, name) for name in ("whole", "part", "rest"))
    whole = pc.if_else(pc.is_valid(split), pc.binary_join_element_wise(whole, rest, ""), text)
    # Parts of a second stand behind seconds: 8:05.5 is five seconds and a half after eight minutes.
    parts = bool(pc.any(pc.not_equal(part, "")).as_py())
    formats = [one for one in (*FORMATS, "%M:%S") if order in ORDERS.get(one, order) and (not parts or "%S" in one)]
    times = {one: _parsed(whole.slice(0, 200), one) for one in formats if parts or one != "%M:%S"}
    most = max(int(np.isfinite(one).sum()) for one in times.values())
    best = {format: _parsed(whole, format) for format, one in times.items() if most and np.isfinite(one).sum() == most}
    most = max((int(np.isfinite(one).sum()) for one in best.values()), default=0)
    results = [one for one in best.values() if np.isfinite(one).sum() == most]
    if any(not np.array_equal(one, results[0], equal_nan=True) for one in results[1:]):
        raise UserError(
            f"{text.drop_null()[0].as_py()!r} may be a day and a month or a month and a day; say which comes first "
            "with --date-order day or --date-order month"
        )
    values = results[0] if results else np.full(len(text), np.nan)
    unknown = np.flatnonzero(~np.isfinite(values) & pc.is_valid(text).to_numpy(zero_copy_only=False))
    part = pc.replace_substring(part, ",", ".")
    fraction = _as_float(pc.if_else(pc.equal(part, ""), "0", part))
    return values + np.nan_to_num(fraction), FoundWords(unknown)


def _parsed(text: ArrowArray, format: str) -> np.ndarray:
    import pyarrow as pa

    pc = _compute()

    times = _as_float(pc.strptime(text, format=format, unit="s", error_is_null=True).cast(pa.int64()))
    # A year of two digits is none of the first century.
    return np.where(times < -3e10, np.nan, times)


class Cells:
    """Reads the columns of Arrow's tables as numbers, times and marks of episodes, and remembers what was met."""

    def __init__(self, found: Places, reading: LogReading, commas: frozenset[str] = frozenset()):
        """`commas` are columns of decimal commas."""
        self._reading, self._commas = reading, commas
        self.head: Sequence[Sequence[str]] = ()
        """The rows above the first, as cells of `columns`: they may come again."""
        self._times = set(found.get("time", []))
        self.clock = ""
        """The unit of times that are numbers, where the table says one."""
        values = {key for name, keys in found.items() if name != "episode" for key in keys}
        self._flags = {key for name in ("terminated", "truncated") for key in found.get(name, [])}
        self._marks = set(found.get("episode", [])) - values
        self.columns = sorted(self._times | self._marks | values)
        """All that are read."""
        self._switches: dict[str, dict[str, float]] = {}
        self._with_units: set[str] = set()
        self._repeated = 0

    def read(self, table: Mapping[str, ArrowArray], lines: np.ndarray) -> Columns:
        """Rows of a table as arrays; `lines` says where they stand. UserError: a word in a number's place."""
        result: Columns = {LINE: lines}
        bad: dict[str, FoundWords] = {}
        for name in self.columns:
            result[name], words = self._column(name, table[name])
            if len(words.bad):
                bad[name] = words
            self._take_unit(name, words.unit)
            for word, value in words.switches.items() if name not in self._flags else ():
                self._switches.setdefault(name, {})[word] = value
        repeats = self._repeats(table, bad)
        if len(repeats):
            self._repeated += len(repeats)
            result = {name: np.delete(values, repeats, axis=0) for name, values in result.items()}
        if not self._reading.drop_bad:
            for name, words in bad.items():
                self._refuse(name, np.setdiff1d(words.bad, repeats), table, lines)
        return result

    def _take_unit(self, name: str, unit: str) -> None:
        self._with_units |= {name} if unit else set()
        before = self._reading.units.setdefault(name, unit) if unit else unit
        if not same_unit(before, unit):
            raise UserError(
                f"{self._reading.label}: column {name!r} is in {before} first and in {unit} later; expected one unit."
            )

    def _column(self, name: str, cells: ArrowArray) -> tuple[np.ndarray, FoundWords]:
        import pyarrow as pa

        kind = cells.type
        if name in self._marks:
            return cells.to_numpy(zero_copy_only=False), FoundWords(np.zeros(0, int))
        if name in self._times:
            try:
                scale = CLOCKS.get(self.clock, 1.0)
                return as_seconds(cells, name in self._commas, self._reading.description.date_order, scale)
            except UserError as error:
                raise UserError(f"{self._reading.label}: column {name!r}: {error}.") from None
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            return vectors(cells, name, self._reading.label), FoundWords(np.zeros(0, int))
        return as_numbers(cells, name in self._commas, self._reading.description.words)

    def _repeats(self, table: Mapping[str, ArrowArray], bad: Mapping[str, FoundWords]) -> np.ndarray:
        """The rows that are the header, or the units below it, again."""
        rows = np.unique(np.concatenate([np.zeros(0, int), *(words.bad for words in bad.values())]))
        again = [
            row
            for row in rows.tolist()
            if any(
                all(
                    (str(table[name][row].as_py() or "")).strip() == cells[place]
                    for place, name in enumerate(self.columns)
                )
                for cells in self.head
            )
        ]
        return np.array(again, int)

    def _refuse(self, name: str, rows: np.ndarray, table: Mapping[str, ArrowArray], lines: np.ndarray) -> None:
        if not len(rows):
            return
        word, first = str(table[name][int(rows[0])].as_py()).strip(), int(lines[rows[0]])
        cell = without_unit(word)
        unit = word[len(cell) :].strip()
        if unit and name not in self._times:
            said = self._reading.units.get(name)
            raise UserError(
                f"{self._reading.label}: {self._reading.unit} {first} has {word[:40]!r} in column {name!r}, where the "
                f"others are {f'in {said}' if said else 'numbers without a unit'}; write all of them in one unit, or "
                "leave such rows out with --drop-bad."
            )
        expected, label = "a time" if name in self._times else "a number", self._reading.label
        more = f" ({len(rows):,} such cells there)" if len(rows) > 1 else ""
        raise UserError(
            f"{label}: {self._reading.unit} {first} has {word[:40]!r} in column {name!r}, expected {expected}{more}; "
            f"correct it, leave such rows out with --drop-bad, or say what it means with --words {word[:20]!r}=0."
        )

    def notes(self) -> list[str]:
        """A sentence on the words that were taken as numbers, and on headers within the table."""
        notes = [f"Times of {self._reading.name} are in {self.clock}." for _ in self._times if self.clock in CLOCKS] + [
            f"Column {name!r}: {', '.join(f'{word} is {value:g}' for word, value in words.items())}."
            for name, words in self._switches.items()
        ]
        notes += [
            f"Column {name!r}: its cells are in {self._reading.units[name]}." for name in sorted(self._with_units)
        ]
        if self._repeated:
            notes.append(f"{plural(self._repeated, 'row was', 'rows were')} left out that repeat the header.")
        return notes


def vectors(column: ArrowArray, key: str, label: str) -> np.ndarray:
    """A column of lists of one length."""
    import pyarrow as pa

    kind = column.type
    flat, rows = column.flatten().to_numpy(zero_copy_only=False), len(column)
    widths = column.value_lengths() if not pa.types.is_fixed_size_list(kind) else None
    ragged = widths is not None and len(widths.unique()) > 1
    if column.null_count or ragged or not rows or len(flat) % rows:
        raise UserError(f"{label}: column {key!r} holds lists of different lengths, expected one length.")
    return flat.reshape(rows, -1)
