"""A first description of a plant, written from what its log looks like, to be corrected by who knows the plant."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from fittedq.data.readers.cells import ArrowArray, as_numbers, as_seconds
from fittedq.data.readers.columns import library, readable
from fittedq.data.readers.csv import text_of
from fittedq.data.readers.dialect import Dialect, dialect_of
from fittedq.data.shaping import sample_of
from fittedq.errors import UserError, plural

TIMES = re.compile(
    r"t|time|zeit|date|datum|timestamp|seconds?|sec|elapsed|clock|.*(time|zeit|stamp|date).*", re.IGNORECASE
)
AIMS = re.compile(r".*(set[ _.,-]*p(oin)?t|soll|target|reference).*|(.*[ _.-])?(sp|ref|w|r)\d*", re.IGNORECASE)
ACTS = re.compile(
    r"u\d*|.*(heat|valve|ventil|pump|power|duty|command|output|actuat|steer|throttle|heiz|stell).*"
    r"|(.*[ _.-])?(cmd|mv|co|op|out)\d*",
    re.IGNORECASE,
)
"""Names by which a column is taken for the time, for a set-point, for an action."""

STILL = 0.6
"""Share of rows that leave a column as it is, from which on it may be an action that is held."""


@dataclass
class Glance:
    """One column at first sight."""

    name: str
    unit: str
    values: np.ndarray
    """Numbers, NaN where there are none; of times, seconds."""
    words: list[str]
    """Words that are no number."""
    switched: bool
    """Whether it holds words for 1 and 0."""
    dated: bool
    """Whether it holds times as text."""

    @property
    def known(self) -> np.ndarray:
        """The numbers in it."""
        return self.values[np.isfinite(self.values)]

    @property
    def constant(self) -> bool:
        """Whether it never changes."""
        return len(self.known) == 0 or bool((self.known == self.known[0]).all())

    @property
    def rising(self) -> bool:
        """Whether it goes up from row to row, as a clock does, but for a few."""
        return len(self.known) > 2 and not self.words and float((np.diff(self.known) > 0).mean()) > 0.9

    @property
    def held(self) -> bool:
        """Whether most rows leave it as it is."""
        return len(self.known) > 2 and not self.constant and float((np.diff(self.known) == 0).mean()) > STILL

    @property
    def about(self) -> str:
        """What its numbers are, for a comment."""
        if self.words:
            return f"holds words: {', '.join(self.words[:4])}"
        if self.constant:
            return f"always {self.known[0]:g}" if len(self.known) else "holds nothing"
        missing = int((~np.isfinite(self.values)).sum())
        empty = f", {plural(missing, 'cell', 'cells')} empty" if missing else ""
        return f"{self.known.min():.5g} to {self.known.max():.5g}, {self.known.mean():.5g} on average{empty}"


def first_description(path: Path, names: Sequence[str] = ()) -> str:
    """A plant.toml for a text table, with comments; roles are guessed by names and by how columns change.

    UserError: what is no text table, or has no header where no `names` are given.
    """
    library("pyarrow", path)
    with readable(path):
        dialect = dialect_of(path, names)
        table = next(islice(text_of(path, dialect), 1))
    glances = [_glance(name, cells, dialect) for name, cells in zip(dialect.names, table, strict=True) if name.strip()]
    time = _clock(glances)
    roles = {one.name: _role(one, time) for one in glances if one is not time}
    if "action" not in roles.values():
        roles |= {one.name: "action" for one in glances if roles.get(one.name) == "measured" and one.held}
    return "\n".join(_lines(path, dialect, glances, time, roles)) + "\n"


def _glance(name: str, cells: ArrowArray, dialect: Dialect) -> Glance:
    place = dialect.names.index(name)
    values, found = as_numbers(cells, place in dialect.comma)
    dated = False
    if len(found.bad):
        try:
            times, rest = as_seconds(cells, place in dialect.comma)
        except UserError:
            times, rest = values, found
            dated = True  # in an order of day and month that is to be asked for
        if len(rest.bad) < len(times) / 2 or dated:
            values, found, dated = times, rest, True
    words = [str(cells[int(row)].as_py()).strip() for row in found.bad[:50]]
    words = [] if dated and not len(found.bad) else list(dict.fromkeys(words))
    return Glance(name, dialect.unit(name) or found.unit, values, words, bool(found.switches), dated)


def _clock(glances: Sequence[Glance]) -> Glance | None:
    """The column of times: the first with a name for it, else the first that is dated."""
    named = [one for one in glances if (one.rising or one.dated) and TIMES.fullmatch(one.name.split("[")[0].strip())]
    return next(iter([*named, *(one for one in glances if one.dated)]), None)


def _role(one: Glance, time: Glance | None) -> str:
    if AIMS.fullmatch(one.name) and not one.words:
        return "set-point"
    clock = one.dated or (one.rising and (TIMES.fullmatch(one.name) or (one.known > 1e8).all()))
    if one.words or clock or one.constant:
        return "ignored"
    return "action" if one.switched or ACTS.fullmatch(one.name) else "measured"


def _lines(
    path: Path, dialect: Dialect, glances: Sequence[Glance], time: Glance | None, roles: dict[str, str]
) -> list[str]:
    lines = [
        f"# What {path.name} is, by a first look: correct it.",
        "# Roles: measured, set-point, disturbance, action, ignored.",
        f"# Then: fittedq data import {path.name} --plant THIS_FILE --out data/NAME",
        *(f"# {note}" for note in dialect.notes),
        "",
    ]
    if time is None:
        lines.append('# time = "…"           # no column of times was found; [episode] has to say where episodes end')
    else:
        lines.append(f"time = {_key(time.name, quoted=True):<16} # seconds, ISO 8601 or since 1970")
        lines += _sample_lines(time)
    lines.append("# settling = 120         # seconds in which the plant settles; the discount follows")
    aims = [one.name for one in glances if roles.get(one.name) == "set-point"]
    measured = [one for one in glances if roles.get(one.name) == "measured"]
    lines += _reward_lines(aims, measured, glances)
    lines += [
        "",
        "[columns]                # name = what it is; in the observation's order",
    ]
    width = max((len(_key(one.name)) for one in glances), default=1)
    for one in glances:
        if one is not time:
            entry = _entry(one, roles[one.name], aims if len(measured) == 1 else [])
            lines.append(f"{_key(one.name):<{width}} = {entry}  # {one.about}")
    if "action" not in roles.values():
        lines.append("# No column looks like an action: give one of them the role action, with low and high.")
    lines += [
        "",
        "[derived]                # columns that the log lacks: formulas of those that it has",
        '# mean = "(t1 + t2)/2"   # with a role in [columns] it is observed',
        "",
        "[episode]                # an episode ends where rows are missing, and by what is said here",
        "# gap = 60               # seconds without a row that end it (with resample)",
        '# episode = "batch"      # a column that changes where one begins',
        "# length = 400           # rows after which it is cut",
        '# terminated = "temp > 120"   # a formula: the plant is stopped there for good',
        "",
        "[controller]             # what the controller sees and does",
        "history = 2              # observations: the newest and the one before, and the action between",
    ]
    errors = f'["{measured[0].name}"]' if len(measured) == 1 and aims else '["temp"]'
    mark = "" if len(measured) == 1 and aims else "# "
    lines += [
        f"{mark}error = {errors:<15}  # measured − set-point",
        f"# integral = {errors:<12}  # its integral over time",
        "# increments = true      # decide on changes of the action; a column's rate (units a second) implies it",
        "# change_penalty = 0.1   # what a change of the action costs",
        "",
        "[log]",
        '# resample = "line"      # put uneven rows on a grid of the sample: "line" or "hold"',
        '# fill = "hold"          # fill empty cells',
        "# words = { Auto = 1, Manual = 0 }",
    ]
    if dialect.names and not dialect.head:
        lines.append(f"names = {json.dumps(list(dialect.names), ensure_ascii=False)}")
    return lines


def _sample_lines(time: Glance) -> list[str]:
    if not time.known.size or len(time.known) < 3:
        return []
    steps = np.diff(np.sort(time.known))
    sample = sample_of(steps[steps > 0]) if (steps > 0).any() else 0.0
    uneven = float((np.abs(steps - sample) > 0.2 * sample).mean()) if sample else 0.0
    lines = [f"# sample = {sample:<14g} # seconds between rows, as found; another with resample, below"]
    if uneven > 0.01:
        lines.append(f"# {100 * uneven:.0f} % of the rows are more than 20 % off: say resample in [log].")
    return lines


def _reward_lines(aims: list[str], measured: Sequence[Glance], glances: Sequence[Glance]) -> list[str]:
    """A square of the error in parts of about its deviation, where it is clear what is to follow what."""
    if len(aims) != 1 or len(measured) != 1:
        return ['# reward = "-((temp - 93)/10)**2"   # a formula of columns (d_u: change of u); needed to import']
    one, aim = measured[0], next(glance for glance in glances if glance.name == aims[0])
    size = min(len(one.values), len(aim.values))
    error = one.values[:size] - aim.values[:size]
    scale = float(f"{np.nanstd(error):.1g}") if np.isfinite(error).any() else 1.0
    formula = f"-(({_in_formula(one.name)} - {_in_formula(aims[0])})/{scale or 1:g})**2"
    return [f"reward = {json.dumps(formula, ensure_ascii=False)}   # a formula of columns (d_u: change of u)"]


def _entry(one: Glance, role: str, aims: list[str]) -> str:
    said = [f'role = "{role}"']
    if one.unit:
        said.append(f"unit = {json.dumps(one.unit, ensure_ascii=False)}")
    if role == "action":
        said.append(f"low = {one.known.min():g}, high = {one.known.max():g}")
    if role == "measured" and len(aims) == 1:
        said.append(f"set_point = {_key(aims[0], quoted=True)}")
    return "{ " + ", ".join(said) + " }"


def _key(name: str, quoted: bool = False) -> str:
    bare = re.fullmatch(r"[A-Za-z0-9_-]+", name)
    return name if bare and not quoted else json.dumps(name, ensure_ascii=False)


def _in_formula(name: str) -> str:
    return name if name.isidentifier() else f"'{name}'"
