"""`fittedq data describe | import`: logs become a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fittedq.cli.arguments import MaybePath, MaybeTime
from fittedq.cli.environments import seconds
from fittedq.data.dataset import Dataset, action_bounds
from fittedq.data.description import Description
from fittedq.data.exporters import appearing
from fittedq.data.first_look import first_description
from fittedq.data.importers import import_dataset, matching, open_source
from fittedq.data.readers.columns import Batch
from fittedq.errors import UserError, plural
from fittedq.expressions import split_names
from fittedq.files import place
from fittedq.runs.progress import console, counted

ColumnNames = Annotated[str, tyro.conf.arg(metavar="COLUMN,…")]
ColumnName = Annotated[str, tyro.conf.arg(metavar="COLUMN")]
ColumnOrFormula = Annotated[str, tyro.conf.arg(metavar="COLUMN|FORMULA")]


@dataclass(frozen=True, kw_only=True)
class DescribesLog:
    """A command on which the user says what the columns of a log are. A name that holds a comma stands in quotes."""

    obs: ColumnNames = ""
    """The columns of the observation: what is measured, set-points, disturbances."""
    action: ColumnNames = ""
    """The columns of the action."""
    reward: ColumnOrFormula = ""
    """A column, or a formula of columns such as "-((temp - 93)/10)**2 - 0.01*d_heater**2" (d_: change since the row
    before; next_: the row that follows)."""
    next_obs: ColumnNames = ""
    """The columns of the next observation; by default that of the next row."""
    terminated: ColumnOrFormula = ""
    """What is true where a row ends its episode for good."""
    truncated: ColumnOrFormula = ""
    """What is true where a row is an episode's last though the plant runs on."""
    episode: ColumnName = ""
    """A column that changes where an episode begins."""
    time: ColumnName = ""
    """The column of times: seconds, ISO 8601 or since 1970. Rows are put in order by it, and split where some are
    missing."""
    gap: MaybeTime = None
    """The time without a row after which another episode begins, such as 60 (seconds) or 5min; by default an episode
    ends where a row is missing."""
    length: int = 0
    """Rows after which an episode is cut; 0: never."""
    sample: MaybeTime = None
    """The time between rows, such as 3 (seconds) or 20ms; by default the log's own."""
    resample: Annotated[str, tyro.conf.arg(metavar="hold|line")] = ""
    """Put rows on a grid of the sample time: by the row before, or (what is measured) on straight lines."""
    fill: Annotated[str, tyro.conf.arg(metavar="hold|line")] = ""
    """Fill missing cells by the row before, or on straight lines."""
    date_order: Annotated[str, tyro.conf.arg(metavar="day|month")] = ""
    """What comes first in dates such as 3/4/2024."""
    names: ColumnNames = ""
    """Names of all columns, for a file that has none."""
    words: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD=NUMBER")] = ()
    """Numbers for words in the table, beside ON, OFF, True, False and their like."""

    plant: MaybePath = None
    """A description of the plant (`fittedq data describe` writes a first one); the options beside it come first."""

    def description(self) -> Description:
        """What was said."""
        vectors = {
            name: split_names(text, name)
            for name in ("obs", "action", "next_obs", "names")
            if (text := getattr(self, name))
        }
        times = {name: seconds(text, name) for name in ("gap", "sample") if (text := getattr(self, name)) is not None}
        alike = ("reward", "terminated", "truncated", "episode", "time", "length", "resample", "fill", "date_order")
        said: dict[str, Any] = {**vectors, **times, **{name: getattr(self, name) for name in alike}}
        said["words"] = dict(map(_word, self.words))
        if self.plant is None:
            return Description(**said)
        return Description.read(self.plant).but(**{name: value for name, value in said.items() if value})


@dataclass(frozen=True)
class Import(DescribesLog):
    """Make a dataset from files of logged transitions."""

    source: tyro.conf.Positional[Path]
    """Text tables (CSV and its like, also packed), Parquet, .npz, D4RL's HDF5, the folder of a local Minari dataset or
    of a run (its replay); or a pattern of names in quotes."""
    out: Path
    """The dataset folder to make."""
    more: tyro.conf.Positional[tuple[Path, ...]] = ()
    """More of them for the same dataset; each has its own episodes."""
    format: str = "auto"
    """d4rl, minari, npz, csv, parquet or replay; by default the name tells."""
    action_low: tuple[float, ...] = ()
    """The actions' lower bounds: one number for all dimensions, or one each."""
    action_high: tuple[float, ...] = ()
    """The actions' upper bounds."""
    drop_bad: bool = False
    """Leave out rows that hold words, NaN or infinity where numbers belong, or an action outside the bounds."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        if bool(self.action_low) != bool(self.action_high):
            raise UserError("--action-low and --action-high: found one of them, expected both or neither.")
        description = self.description()
        paths = matching((self.source, *self.more))
        sources = [open_source(path, self.format, description, drop_bad=self.drop_bad) for path in paths]
        first, sources[0].batches = _peeked(sources[0].batches)
        action_set = None
        if self.action_low and first is not None:
            action_set = action_bounds(self.action_low, self.action_high, first[0].action.shape[1])
        for path, source in zip(paths, sources, strict=True):
            source.batches = counted(source.batches, source.total, f"importing {path}")
        label = str(paths[0]) if len(paths) == 1 else f"{paths[0]} … {paths[-1]}"
        dataset = import_dataset(*sources, out=self.out, label=label, action_set=action_set, drop_bad=self.drop_bad)
        told_dataset(self.out, dataset, sources[0].notes, self.json)
        return 0


@dataclass(frozen=True)
class Describe:
    """Write a first description of a plant from what its log looks like, to be corrected and given to `import`."""

    source: tyro.conf.Positional[Path]
    """A text table, packed or not."""
    out: Path
    """The file to write, such as plant.toml."""
    names: ColumnNames = ""
    """Names of all columns, for a file that has none."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        out = place(self.out, "out")
        if not self.source.is_file():
            raise UserError(f"{self.source} is no file; give a text table.")
        text = first_description(self.source, split_names(self.names, "names") if self.names else ())
        with appearing(out) as unnamed:
            unnamed.write_text(text, encoding="utf-8")
        if self.json:
            print(json.dumps({"description": str(self.out)}))
        else:
            print(
                f"{self.out}: look through it, then fittedq data import {self.source} --plant {self.out} --out FOLDER."
            )
        return 0


def _word(text: str) -> tuple[str, float]:
    """`Auto=1` as a word and its number."""
    word, separator, number = text.rpartition("=")
    try:
        return word.strip(), float(number if separator else "")
    except ValueError:
        raise UserError(f"found {text!r}, expected a word and a number, as in Auto=1.", argument="words") from None


def _peeked(batches: Iterator[Batch]) -> tuple[Batch | None, Iterator[Batch]]:
    """The first batch, and all of them."""
    first = next(batches, None)

    def all_of_them() -> Iterator[Batch]:
        if first is not None:
            yield first
        yield from batches

    return first, all_of_them()


def told_dataset(out: Path, dataset: Dataset, notes: list[str], as_json: bool, stopped_at: int | None = None) -> None:
    """Print what a dataset that was made holds."""
    episodes = len(dataset.episodes())
    if as_json:
        summary = {
            "dataset": str(out),
            "rows": len(dataset),
            "episodes": episodes,
            "interrupted": stopped_at is not None,
            "notes": notes,
        }
        print(json.dumps(summary))
        return
    terminal = console()
    for note in notes:
        terminal.print(f"note: {note}", soft_wrap=True)
    asked = f" of the {stopped_at:,} asked for (stopped; the last one is marked truncated)" if stopped_at else ""
    print(f"{out}: {len(dataset):,} transitions{asked} in {plural(episodes, 'episode', 'episodes')}.")
