"""One description of a plant and its log: columns and their roles, times, the reward, limits, what ends an episode."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.arrays import told_apart
from fittedq.control.augmentation import Augmentation
from fittedq.errors import UserError, nearest, plural
from fittedq.expressions import FOLLOWING, Expression
from fittedq.files import read_toml
from fittedq.settings import as_dict

WAYS = ("hold", "line")
"""How a value between two others is made: the one before, or the straight line between both."""

SEEN = ("measured", "set-point", "disturbance")
ROLES = (*SEEN, "action", "ignored")
"""What a column may be; what is `SEEN` makes the observation."""

Toml: TypeAlias = Any
"""A value of a TOML or JSON file."""


@final
@dataclass(frozen=True)
class Column:
    """What one column of a log is."""

    role: str = "measured"
    unit: str = ""
    low: float | None = None
    high: float | None = None
    """An action's limits."""
    rate: float | None = None
    """The most an action may change in a second."""
    set_point: str | float | None = None
    """What a measured column is to be: another column, or a number."""

    def described(self) -> dict[str, Toml]:
        """What is said, and nothing else."""
        return {"role": self.role} | {
            one.name: value
            for one in dataclasses.fields(self)
            if one.name != "role" and (value := getattr(self, one.name)) != one.default
        }


@final
@dataclass(frozen=True)
class Description:
    """What a log's columns are, and what a controller sees of them; what is empty is told from the columns' names.

    A sample is the time between two rows. UserError: what contradicts itself.
    """

    obs: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    reward: str = ""
    """A column or a formula (`Expression`) of columns: the reward of a row for its observation and its action."""
    next_obs: tuple[str, ...] = ()
    terminated: str = ""
    """A column or a formula that is true where a row ends its episode, for nothing comes after it."""
    truncated: str = ""
    """A column or a formula that is true where a row is an episode's last, though the plant runs on."""
    episode: str = ""
    """A column that changes where an episode begins."""
    time: str = ""
    """A column of times: seconds, ISO 8601, or since 1970."""
    sample: float = 0.0
    """Seconds between rows; 0: the log's own."""
    gap: float = 0.0
    """Seconds without a row after which another episode begins; 0: where a row is missing."""
    length: int = 0
    """Rows after which an episode is cut; 0: never."""
    resample: str = ""
    """How rows are moved onto a grid of samples: `hold`, `line`, or not at all."""
    fill: str = ""
    """How missing cells are filled: `hold`, `line`, or not at all."""
    date_order: str = ""
    """`day` or `month`: what comes first in 3/4/2024."""
    names: tuple[str, ...] = ()
    """The columns' names where the file has none."""
    words: Mapping[str, float] = field(default_factory=dict)
    """Numbers for words, beside those for ON, OFF and their like."""
    columns: Mapping[str, Column] = field(default_factory=dict)
    """More on some of the columns."""
    derived: Mapping[str, str] = field(default_factory=dict)
    """Columns that the log lacks: name → a formula of its columns and of those above."""
    history: int = 1
    """Observations that the controller sees: the newest and those before it, with the actions between them."""
    error: tuple[str, ...] = ()
    """Measured columns whose error, measured − set-point, the controller sees."""
    integral: tuple[str, ...] = ()
    """Measured columns whose error's integral it sees."""
    integral_limit: float = 0.0
    """No integral is larger; 0: any size."""
    increments: bool = False
    """Whether it decides on the change of the action before."""
    change_penalty: float = 0.0
    """λ of the cost λ |change of the action|², in half-widths of its limits."""
    settling: float = 0.0
    """Seconds in which the plant settles; the discount follows. 0: not said."""

    def __post_init__(self) -> None:
        for name, words in (("resample", WAYS), ("fill", WAYS), ("date_order", ("day", "month"))):
            value = getattr(self, name)
            if value and value not in words:
                raise UserError(f"{value!r} is unknown; {nearest(value, words)}", argument=name)
        for name in ("obs", "action", "next_obs", "names"):
            value = getattr(self, name)
            twice = next((one for one in value if value.count(one) > 1), None)
            if twice is not None:
                raise UserError(f"{twice!r} stands there twice; once is enough.", argument=name)
        self._check_times()
        self._check_next()

    def _check_times(self) -> None:
        for name in ("sample", "gap", "length"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise UserError(f"found {value:g}, expected a positive number.", argument=name)
        for name in ("gap", "resample"):
            if getattr(self, name) and not self.time:
                raise UserError("there is no column of times that it belongs to; name it with --time.", argument=name)

    def _check_next(self) -> None:
        if self.next_obs and self.obs and len(self.next_obs) != len(self.obs):
            raise UserError(
                f"found {len(self.next_obs)} columns for {len(self.obs)} of --obs; name as many.", argument="next_obs"
            )
        if self.next_obs and (self.resample or self.fill):
            raise UserError(
                "rows that hold their own next observation cannot be moved in time or filled; leave out --next-obs, "
                "and the next row's observation is taken."
            )

    def but(self, **said: Toml) -> Description:
        """The same but for these fields; what is said of other columns is kept for formulas."""
        return dataclasses.replace(self, **said)

    def formulas(self) -> dict[str, Expression]:
        """The derived columns, in order."""
        return {name: Expression(text, f"derived {name}") for name, text in self.derived.items()}

    @property
    def whole(self) -> bool:
        """Whether rows are put in order or filled, for which all of them are needed at once."""
        return bool(self.time or self.fill or self.length)

    @property
    def called(self) -> tuple[str, ...]:
        """What each number of an observation, then of an action, is: a column, and its unit where it has one. Empty
        where either is not said."""
        if not (self.obs and self.action):
            return ()
        units = {name: column.unit for name, column in self.columns.items()}
        return tuple(f"{name} [{units[name]}]" if units.get(name) else name for name in (*self.obs, *self.action))

    # ------------------------------------------------------------------ what it says of a controller

    def augmentation(self) -> dict[str, Any]:
        """The settings of `Augmentation` that it says."""
        said = {
            "history": self.history,
            "error": tuple(map(self._error, self.error)),
            "integral": tuple(map(self._error, self.integral)),
            "integral_limit": self.integral_limit or None,
            "increments": self.increments,
            "rate_limit": self._rates(),
            "change_penalty": self.change_penalty,
            "settling": self.settling or None,
            "sample": self.sample or None,
        }
        usual = {one.name: one.default for one in dataclasses.fields(Augmentation)}
        return {name: value for name, value in said.items() if value != usual[name]}

    def _error(self, name: str) -> str:
        """An error in the words of `Augmentation`: coordinates of the observation."""
        aim = self.columns[name].set_point if name in self.columns else None
        if name not in self.obs or aim is None:
            raise UserError(
                f"the controller is to see the error of {name!r}, which is no measured column with a set_point; say "
                f"what it is to be, as in {name} = {{ role = 'measured', set_point = 93.0 }}."
            )
        return f"{self.obs.index(name)}" + (f":{self.obs.index(aim)}" if isinstance(aim, str) else f"={aim!r}")

    def _rates(self) -> tuple[float, ...] | None:
        """The most that each action changes in a sample; of one without a rate, all that its limits allow."""
        limited = [self.columns.get(name, Column()) for name in self.action]
        if all(one.rate is None for one in limited):
            return None
        if not self.sample:
            raise UserError("a rate of an action is in units a second, and no time of a sample is said; say sample.")
        return tuple(
            one.rate * self.sample if one.rate is not None else _width(name, one)
            for name, one in zip(self.action, limited, strict=True)
        )

    def limits(self) -> Box | None:
        """The actions' limits, where it says both of each."""
        bounds = [
            (one.low, one.high)
            for name in self.action
            if (one := self.columns.get(name)) is not None and one.low is not None and one.high is not None
        ]
        if not bounds or len(bounds) < len(self.action):
            return None
        low, high = np.asarray(bounds, np.float32).T
        return Box(low, high)

    # ------------------------------------------------------------------ files

    def described(self) -> dict[str, Toml]:
        """The tables of a file, from which `of` makes it again."""
        roles = dict.fromkeys(self.obs, "measured") | dict.fromkeys(self.action, "action")
        columns = {name: self.columns.get(name, Column(role)).described() for name, role in roles.items()}
        columns |= {name: column.described() for name, column in self.columns.items() if name not in columns}
        tables: dict[str, Toml] = {"columns": columns}
        for table, names in TABLES.items():
            said = {
                name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
                for name in names
                if (value := getattr(self, name)) != _usual(name)
            }
            if table == "":
                tables |= said
            elif said:
                tables[table] = said
        return tables

    @staticmethod
    def of(tables: Mapping[str, Toml], label: str) -> Description:
        """What the tables of the file `label` say; a UserError names the key at fault."""
        known = {"columns", *TABLES[""], *(table for table in TABLES if table)}
        _refuse_unknown(tables, known, label, "")
        said: dict[str, Toml] = {}
        for table, names in TABLES.items():
            part = tables if table == "" else _table(tables.get(table, {}), table, label)
            if table:
                _refuse_unknown(part, set(names), label, f"[{table}] ")
            for name in names:
                if name in part:
                    said[name] = _typed(part[name], name, f"{label}: {f'[{table}] ' * bool(table)}{name}")
        columns = {
            name: _column(_table(entry, name, label), f"{label}: [columns] {name}")
            for name, entry in _table(tables.get("columns", {}), "columns", label).items()
        }
        obs = tuple(name for name, column in columns.items() if column.role in SEEN)
        action = tuple(name for name, column in columns.items() if column.role == "action")
        try:
            found = Description(obs=obs, action=action, columns=columns, **said)
            found.check()
        except UserError as error:
            raise UserError(f"{label}: {error}") from None
        return found

    def check(self) -> None:
        """A UserError where columns and the controller's settings contradict one another. Formulas wait for a log."""
        for name, column in self.columns.items():
            aim = column.set_point
            seen = [one for one, other in self.columns.items() if other.role in SEEN and one != name]
            if isinstance(aim, str) and aim not in seen:
                raise UserError(
                    f"the set_point of {name!r} is {aim!r}, which is no column of the role set-point; "
                    f"{nearest(aim, seen)}"
                )
        for name in (*self.error, *self.integral):
            self._error(name)
        self._check_derived()
        if self.sample or all(column.rate is None for column in self.columns.values()):
            said = self.augmentation()
            Augmentation(**{name: value for name, value in said.items() if self.sample or name != "settling"})

    def _check_derived(self) -> None:
        for name, formula in self.formulas().items():
            role = self.columns.get(name, Column("ignored")).role
            if role == "action":
                raise UserError(f"[derived] {name} has the role action; a controller decides on columns of the log.")
            if role in SEEN and any(one.startswith(FOLLOWING) for one in formula.names):
                raise UserError(f"[derived] {name} is observed, and {formula.text} reads the row that follows.")

    def check_sizes(self, whose: str, obs_size: int, action_size: int) -> None:
        """A UserError where `whose` observations or actions have another number of columns."""
        for what, names, size in (("observes", self.obs, obs_size), ("decides on", self.action, action_size)):
            if names and len(names) != size:
                raise UserError(
                    f"the plant's description has {', '.join(names)}, and {whose} {what} "
                    f"{plural(size, 'number', 'numbers')}; give the description that belongs to it."
                )

    def check_limits(self, own: AbstractActionSet) -> None:
        """A UserError where an environment's actions have other limits."""
        said = self.limits()
        if said is None or (said.low, said.high) == (own.low, own.high):
            return
        (low, least), (high, most) = told_apart(said.low, own.low), told_apart(said.high, own.high)
        raise UserError(
            f"the plant's description has actions between {low} and {high}, and the environment's lie between {least} "
            f"and {most}; correct the description, or say what is allowed of the environment's with --limit."
        )

    def check_rows(self, made: Description) -> None:
        """A UserError where rows that were imported by `made` would be others by this description."""
        for name in MAKES_ROWS:
            said, found = getattr(self, name), getattr(made, name)
            if said == _usual(name) or found == _usual(name) or said == found:
                continue
            if name == "sample" and abs(said - found) <= 0.01 * found:
                continue
            raise UserError(
                f"the plant's description says {name} = {_shown(said)}, and the data were imported with "
                f"{_shown(found)}; give the one that they were imported with, or import the log again."
            )

    def check_controller(self, whose: str, obs_size: int, limits: AbstractActionSet, sees: Augmentation) -> None:
        """A UserError where the plant is described otherwise than `whose` controller has learned it: `obs_size` numbers
        observed, actions within `limits`, and what it `sees` beside."""
        self.check_sizes(whose, obs_size, limits.size)
        box = self.limits() or limits
        bounds = zip(self.action, limits.low, limits.high, box.low, box.high, strict=False)
        for name, low, high, least, most in bounds:
            if low < least or high > most:
                raise UserError(
                    f"the plant's description has {name} between {least:g} and {most:g}, and {whose} moves it between "
                    f"{low:g} and {high:g}; correct the limits, or train again within them."
                )
        known = as_dict(sees)
        for name, value in self.but(sample=self.sample or sees.sample or 0.0).augmentation().items():
            if name != "settling" and value != known[name] and not (name == "sample" and known[name] is None):
                raise UserError(
                    f"the plant's description says {name} = {value!r}, and {whose} learned with {known[name]!r}; give "
                    "the description that it learned with."
                )

    @staticmethod
    def read(path: Path) -> Description:
        """The description in a file of TOML."""
        return Description.of(read_toml(path), str(path))


TABLES: dict[str, tuple[str, ...]] = {
    "": ("time", "sample", "settling", "reward", "derived"),
    "episode": ("episode", "terminated", "truncated", "gap", "length"),
    "controller": ("history", "error", "integral", "integral_limit", "increments", "change_penalty"),
    "log": ("names", "words", "date_order", "resample", "fill", "next_obs"),
}
"""Which table of a file holds which field; those of "" stand above the first table."""

MAKES_ROWS = ("obs", "action", "reward", "derived", "sample", *TABLES["episode"])
"""What an import has read already: another value makes other rows."""


SUCH = {"derived": '{ mean = "(t1 + t2)/2" }', "words": "{ Auto = 1 }"}


def _usual(name: str) -> Toml:
    one = next(one for one in dataclasses.fields(Description) if one.name == name)
    return {} if one.default is dataclasses.MISSING else one.default


def _shown(value: Toml) -> str:
    return ", ".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else repr(value)


def _width(name: str, column: Column) -> float:
    if column.low is None or column.high is None:
        raise UserError(f"action {name!r} has neither a rate nor limits, and another has a rate; say one of them.")
    return column.high - column.low


def _table(value: Toml, name: str, label: str) -> dict[str, Toml]:
    if not isinstance(value, dict):
        raise UserError(f"{label}: {name} is {value!r}, expected a table.")
    return value


def _refuse_unknown(tables: Mapping[str, Toml], known: set[str], label: str, where: str) -> None:
    for name in tables:
        if name not in known:
            raise UserError(f"{label}: {where}{name} is unknown; {nearest(name, known)}")


def _column(entry: Mapping[str, Toml], label: str) -> Column:
    """What an entry of the table of columns says."""
    fields = {one.name: one for one in dataclasses.fields(Column)}
    for name, value in entry.items():
        if name not in fields:
            raise UserError(f"{label}: {name} is unknown; {nearest(name, fields)}")
        words = name in ("role", "unit") or (name == "set_point" and isinstance(value, str))
        if not (isinstance(value, str) if words else _is_number(value)):
            raise UserError(f"{label}: {name} is {value!r}, expected {'a word' if words else 'a number'}.")
    column = Column(**entry)
    if column.role not in ROLES:
        raise UserError(f"{label}: role {column.role!r} is unknown; {nearest(column.role, ROLES)}")
    if column.role != "action" and not column.low is column.high is column.rate is None:
        raise UserError(f"{label}: low, high and rate are an action's, and its role is {column.role!r}.")
    if column.low is not None and column.high is not None and not column.low < column.high:
        raise UserError(f"{label}: low is {column.low:g} and high is {column.high:g}, expected a lower low.")
    if column.rate is not None and column.rate <= 0:
        raise UserError(f"{label}: rate is {column.rate:g}, expected a positive number, in units a second.")
    if column.set_point is not None and column.role != "measured":
        raise UserError(f"{label}: a set_point is what a measured column is to be, and its role is {column.role!r}.")
    return column


def _is_number(value: Toml) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _typed(value: Toml, name: str, label: str) -> Toml:
    """A field's value, of the kind of its usual one."""
    usual = _usual(name)
    if isinstance(usual, dict):
        texts = name == "derived"
        if isinstance(value, dict) and all(isinstance(v, str) if texts else _is_number(v) for v in value.values()):
            return value
        expected = f"a table of {'formulas' if texts else 'numbers'}, as in {SUCH[name]}"
    elif isinstance(usual, tuple):
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
        expected = 'a list of columns, as in ["temp"]'
    elif isinstance(usual, str | bool):
        if isinstance(value, type(usual)):
            return value
        expected = "a text" if isinstance(usual, str) else "true or false"
    else:
        if _is_number(value) and value >= 0 and (isinstance(value, int) or not isinstance(usual, int)):
            return type(usual)(value)
        expected = "a whole number" if isinstance(usual, int) else "a number, not negative"
    raise UserError(f"{label} is {value!r}, expected {expected}.")


def resolved(description: Description, obs: Sequence[str], action: Sequence[str], sample: float) -> Description:
    """A description with the columns that were found, and the sample time."""
    return dataclasses.replace(description, obs=tuple(obs), action=tuple(action), sample=sample, names=())
