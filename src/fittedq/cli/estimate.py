"""`fittedq estimate RUN… --data HELD_OUT`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fittedq.baselines.named import ready
from fittedq.cli.arguments import MaybeFloat, MaybeInt
from fittedq.cli.environments import GivesCode, Words
from fittedq.cli.setpoints import print_json
from fittedq.cli.tables import print_rows
from fittedq.data.dataset import Dataset
from fittedq.diagnose.paired import Interval
from fittedq.errors import UserError, plural
from fittedq.estimates.estimate import select
from fittedq.estimates.result import CANNOT, Estimate
from fittedq.runs.saved import find_agent


@dataclass(frozen=True)
class EstimateWorth(GivesCode):
    """Tell from a log what a controller would earn, before it is tried: the discounted return from the log's first
    states, with an interval that holds it with 95 %, and whether that is better than the log.

    Three estimates make it: a fitted Q evaluation, a weighted (doubly robust) one, and rollouts of a learned model. A
    log that has nothing to say of where the controller goes cannot tell, and says so."""

    controllers: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN|BASELINE …")]]
    """Folders of runs (their best agents) or of agents (such as RUN/last); constant:NUMBER,…; or code of yours,
    FILE.py:NAME or MODULE:NAME: a controller, a class without arguments, or a function of one observation."""
    data: Path
    """A dataset folder: rows of this plant that the controllers did not learn from."""
    gamma: MaybeFloat = None
    """The discount (default: the agents', else that of the description's settling time); 1 needs --horizon."""
    horizon: MaybeInt = None
    """Samples that count (default: until 0.2 % of the weight is left)."""
    starts: Annotated[Words, tyro.conf.arg(metavar="first|all|NUMBER,…")] = ()
    """The states that are started from: first (the default), the first ones of the log's episodes; all, states from
    everywhere in it; or the numbers of an observation. May be given often."""
    settling: MaybeFloat = None
    """Rows in which the plant settles: no block is shorter where the log is one long episode (default: as described, or
    as a model tells)."""
    memory: MaybeInt = None
    """Rows that make a state of the plant (default: as described, or as the check of the log finds)."""
    select: bool = False
    """Say which of them to take; of a run, its best and its last agent."""
    seed: int = 0
    """Of what is drawn."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        data = Dataset.open(self.data)
        controllers = {name: controller for word in self.controllers for name, controller in self._named(word).items()}
        given: dict[str, Any] = {"gamma": self.gamma, "horizon": self.horizon, "starts": _starts(self.starts)}
        given |= {"settling": self.settling, "memory": self.memory, "seed": self.seed}
        chosen, found = select(controllers, data, **given)
        if self.json:
            each = [{"path": name, "data": str(self.data), **one.describe()} for name, one in found.items()]
            more = {"estimates": each, "selected": chosen if self.select else None}
            print_json(each[0] if len(each) == 1 and not self.select else more)
        else:
            _show(found, chosen if self.select else None)
        return 0

    def _named(self, word: str) -> dict[str, object]:
        """The controllers of a word; more than one where one is to be selected."""
        path = Path(word)
        if not path.is_dir():
            return {word: ready(word)}
        folders = [path / name for name in ("best", "last") if (path / name).is_dir()] if self.select else []
        return {str(one): find_agent(one, None, self.trust_code, like=self.code) for one in folders or [path]}


def _starts(words: tuple[str, ...]) -> object:
    """A word, or observations."""
    if not words or words in (("first",), ("all",)):
        return words[0] if words else "first"
    try:
        rows = [[float(number) for number in word.split(",")] for word in words]
    except ValueError:
        rows = []
    if not rows or len({len(row) for row in rows}) != 1:
        raise UserError(
            f"found {' '.join(map(repr, words))}, expected first, all, or the numbers of observations such as 22,93.",
            argument="starts",
        )
    return rows


def _show(found: dict[str, Estimate], chosen: str | None) -> None:
    (first, *_) = found.values()
    over, begun = plural(first.horizon, "sample", "samples"), plural(first.starts, "state", "states")
    print(f"discounted by {first.gamma:g} over {over}, from {begun}; {first.said}")
    for name, one in found.items():
        print(f"{name}: {Interval(one.value, one.low, one.high)}, {one.sentence()}")
        print_rows([[f"  {label}", str(interval), said] for label, interval, said in one.lines()], head=False)
        for note in (one.agreement, *one.notes):
            print(f"  {note}")
    if chosen is not None and found[chosen].verdict == CANNOT:
        print(f"take none by this log: it can tell of none of them; {chosen} has the highest lower end.")
    elif chosen is not None:
        print(f"take {chosen}: its estimate is the highest where it is lowest.")
