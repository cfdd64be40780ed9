"""`fittedq report RUN…`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fittedq.cli.arguments import MaybePath, MaybeWord
from fittedq.cli.environments import GivesCode, NamesEnv
from fittedq.cli.setpoints import print_json
from fittedq.pages.report import MOST_EPISODES, reported
from fittedq.pages.subject import Wishes
from fittedq.settings import MOST_SEED, whole


@dataclass(frozen=True)
class WriteReport(NamesEnv, GivesCode):
    """Write one page of HTML about a run or an agent: what the controller is, how it learned, what it does, whether to
    trust it, and how to make it again. It needs no server and no network."""

    paths: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN …")]]
    """A run folder, an agent folder (such as RUN/last), or runs that differ in their seed alone; folders may hold
    several."""
    out: MaybePath = None
    """The file (default: report.html in the first RUN). Only an earlier page is replaced."""
    env: MaybeWord = None
    """The environment to play in; by default the one it was trained in."""
    data: MaybePath = None
    """A dataset folder: rows of this plant that it did not learn from, by which its worth is estimated."""
    episodes: int = 3
    """Episodes to play."""
    seed: int = 0
    """Seed of the episodes."""
    json: bool = False
    """Print what is on the page as one JSON object too, for machines."""

    def run(self) -> int:
        asked = Wishes(
            self.named(self.env),
            self.data,
            whole(self.episodes, "episodes", 1, MOST_EPISODES),
            whole(self.seed, "seed", high=MOST_SEED),
            self.code,
            self.trust_code,
        )
        out = self.out or Path(*self.paths[:1]) / "report.html"
        page = reported(self.paths, asked, out)
        size = out.stat().st_size
        if self.json:
            print_json({"out": str(out), "bytes": size, **page.describe()})
        else:
            grade = "nothing to judge" if page.grade is None else f"the verdicts in all: {page.grade}"
            print(f"{out}: {size:,} bytes; {grade}.")
        return 0
