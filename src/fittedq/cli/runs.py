"""`fittedq runs [FOLDER]`."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fittedq.cli.tables import print_rows
from fittedq.errors import UserError
from fittedq.runs.listing import DAMAGED, RunRecord, list_runs

RUN_TABLE = ["run", "algorithm", "environment or data", "seed", "steps", "best", "last", "state"]


@dataclass(frozen=True)
class Runs:
    """List the runs in a folder and below: what learns where, how far it came, and what it reached.

    `best` and `last` are mean returns of evaluations (train --eval-every)."""

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="[FOLDER]")]] = Path(".")
    """Where to look."""
    csv: bool = False
    """Print a table of comma-separated values with a header."""
    json: bool = False
    """Print one JSON object a run, for machines."""

    def run(self) -> int:
        if self.csv and self.json:
            raise UserError("found --csv too; choose one form.", argument="json")
        found = list_runs(self.folder)
        if self.json:
            print("\n".join(json.dumps(dataclasses.asdict(one)) for one in found))
        elif self.csv:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(field.name for field in dataclasses.fields(RunRecord))
            writer.writerows(map(dataclasses.astuple, found))
        elif found:
            print_rows([RUN_TABLE, *(_row(one, self.folder) for one in found)])
            for one in found:
                if one.state == DAMAGED:
                    print(f"warning: {one.fault}", file=sys.stderr)
        else:
            print(f"{self.folder} holds no runs; `fittedq train … --out {self.folder / 'NAME'}` makes one.")
        return 0


def _row(one: RunRecord, root: Path) -> list[str]:
    path = Path(one.path)
    name = path.name if path == root else str(path.relative_to(root))
    if one.state == DAMAGED:
        return [name, *[""] * (len(RUN_TABLE) - 2), one.state]
    method = f"{one.algorithm}" + (f" ({one.preset})" if one.preset else "")
    done = f"{one.step:,}" if one.step == one.steps else f"{one.step:,} of {one.steps:,}"
    returns = ("" if mean is None else f"{mean:,.1f}" for mean in (one.best, one.last))
    return [name, method, one.env or one.data or "", str(one.seed), done, *returns, one.state]
