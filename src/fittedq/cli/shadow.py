"""`fittedq shadow RUN|EXPORT --data LOG`."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from fittedq.acting.shadow import Shadow
from fittedq.cli.arguments import MaybePath
from fittedq.cli.environments import GivesCode
from fittedq.cli.guard import say_doubts
from fittedq.cli.setpoints import print_json
from fittedq.cli.tables import print_rows
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.data.importers import import_dataset, open_source
from fittedq.data.readers.columns import MissingColumns
from fittedq.errors import UserError
from fittedq.estimates.same_plant import export_doubts, plant_doubts
from fittedq.export.folder import is_export
from fittedq.export.languages import at_work
from fittedq.files import is_free, place, write_bytes
from fittedq.runs.progress import counted

NO_REWARD = "0"
"""The reward of a row, of which nothing is asked here."""


@dataclass(frozen=True)
class ShadowLog(GivesCode):
    """Tell from a log what a controller would have done beside the one that was in charge: at each sample it sees what
    was measured, and remembers what was executed. Nothing is executed."""

    path: tyro.conf.Positional[Path]
    """A run folder (its best agent), an agent folder (such as RUN/last), or an export to c, numpy or onnx."""
    data: Path
    """What was measured and done: a dataset folder, or a table, Parquet file or the like as `data import` reads."""
    plant: MaybePath = None
    """What the columns of such a table are (plant.toml)."""
    out: MaybePath = None
    """A .csv to write every sample into: the present action, this controller's, and its status."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        out = None if self.out is None else _free(self.out)
        with self._log() as data, self._shadow(data) as (shadow, names):
            for first, last in counted(data.episodes(), len(data.episodes()), "episodes"):
                rows = data.transitions(slice(first, last))
                shadow.reset(np.asarray(rows.action[0], np.float32))
                for obs, action in zip(rows.obs, rows.action, strict=True):
                    shadow.step(np.asarray(obs, np.float32), action)
        report = shadow.report()
        if out is not None:
            write_bytes(out, _table(shadow, names).encode())
        if self.json:
            print_json({"path": str(self.path), "data": str(self.data), **report})
        else:
            _say(report)
        return 0

    @contextmanager
    def _log(self) -> Iterator[Dataset]:
        """The log; a table is a dataset for as long as it is read."""
        if self.data.is_dir():
            if self.plant is not None:
                raise UserError(f"found it beside {self.data}, which says what it is; leave it out.", argument="plant")
            yield Dataset.open(self.data)
            return
        description = Description() if self.plant is None else Description.read(self.plant)
        with tempfile.TemporaryDirectory(prefix="fittedq-") as scratch:
            try:
                source = open_source(self.data, "auto", replace(description, reward=NO_REWARD))
                data = import_dataset(source, out=Path(scratch) / "log", label=str(self.data))
            except MissingColumns as missing:
                how = f"say in {self.plant} what they are ([columns], [episode])"
                if self.plant is None:
                    how = f"give --plant plant.toml; `fittedq data describe {self.data} --out plant.toml` begins one"
                raise UserError(f"{missing.found}; {how}.") from None
            yield data

    @contextmanager
    def _shadow(self, data: Dataset) -> Iterator[tuple[Shadow[Any], list[str]]]:
        """The controller beside the log, and the names of its actions."""
        if is_export(self.path):
            with at_work(self.path) as (running, told):
                about = told["about"]
                self._check(data, len(about["observations"]), len(about["actions"]))
                say_doubts(export_doubts(about, data))
                names = self._names(data, about["observations"], about["actions"])
                yield Shadow(running, names, np.array(about["low"]), np.array(about["high"])), names
            return
        agent = self.agent(self.path)
        self._check(data, agent.spaces.observation.size, agent.limits.size)
        say_doubts(plant_doubts(agent, data))
        spaces = agent.spaces
        names = self._names(data, spaces.observation.names("observation"), spaces.action.names("action"))
        yield agent.shadow(names), names

    def _check(self, data: Dataset, observations: int, actions: int) -> None:
        if (data.obs_size, data.action_size) != (observations, actions):
            raise UserError(
                f"{self.data}: its rows have {data.obs_size} observation and {data.action_size} action numbers, the "
                f"controller's have {observations} and {actions}; take a log of its own plant."
            )

    def _names(self, data: Dataset, seen: Iterable[str], acts: Iterable[str]) -> list[str]:
        """The actions as the log names them, else as the controller does; a UserError where a log has the controller's
        own signals in another order."""
        described, own_seen, own_acts = data.description, tuple(seen), tuple(acts)
        if described is None or len(described.action) != len(own_acts):
            return list(own_acts)
        for logged, own in ((described.obs, own_seen), (described.action, own_acts)):
            if logged != own and sorted(logged) == sorted(own):
                raise UserError(
                    f"{self.data}: found the signals {', '.join(logged)}, the controller's are {', '.join(own)}; put "
                    "them into its order."
                )
        return list(described.action)


def _free(path: Path) -> Path:
    out = place(path, "out")
    if out.suffix != ".csv":
        raise UserError(f"found {path}, expected a name that ends with .csv.", argument="out")
    if not is_free(out):
        raise UserError(f"{out} is there already and is not replaced; choose another name.")
    return out


def _table(shadow: Shadow[Any], names: list[str]) -> str:
    """A row for each sample."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["sample", *(f"present {name}" for name in names), *(f"would {name}" for name in names), "status"])
    for at, (present, would, status) in enumerate(zip(shadow.present, shadow.would, shadow.statuses, strict=True)):
        rows.writerow([at, *present.tolist(), *would.tolist(), int(status)])
    return text.getvalue()


def _say(report: dict[str, Any]) -> None:
    statuses = ", ".join(f"{name} {count:,}" for name, count in report["statuses"].items())
    out = f", {report['left_out']:,} left out: the present action is not finite" if report["left_out"] else ""
    print(f"{report['samples']:,} samples beside the present controller ({statuses}{out}).")
    head = ["would − present", "bias", "in half-widths", "rms", "largest", "at sample"]
    cells = [
        [
            one["name"],
            f"{one['bias']:.4g}",
            f"{one['bias_in_half_widths']:.2%}",
            f"{one['rms']:.4g}",
            f"{one['largest'][0]['difference']:.4g}",
            f"{one['largest'][0]['sample']:,}",
        ]
        for one in report["actions"]
    ]
    print_rows([head, *cells])
    for span in report["fallback"][:10]:
        when = f"from sample {span['sample']:,} on for {span['samples']:,}"
        print(f"the fallback would have acted {when}: {span['status']}")
    if len(report["fallback"]) > 10:
        print(f"… and {len(report['fallback']) - 10:,} more times (--json lists them)")
