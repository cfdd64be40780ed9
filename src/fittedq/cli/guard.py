"""`fittedq guard RUN --threshold SHARE --out AGENT`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tyro

from fittedq.agent import HOLD, Agent
from fittedq.api import familiarity
from fittedq.baselines.named import Circumstances, baseline, of_object
from fittedq.cli.arguments import MaybeFloat, MaybeInt, MaybePath, MaybeWord
from fittedq.cli.environments import GivesCode
from fittedq.code import find_code
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.estimates.same_plant import plant_doubts
from fittedq.files import refuse_runs_own
from fittedq.runs.saved import learned_from


@dataclass(frozen=True, kw_only=True)
class SetsFallback:
    """A command that says what acts where nothing familiar is seen."""

    threshold: MaybeFloat = None
    """Where `familiar` is below this share (0 to 1), the fallback acts (default: the agent's own)."""
    fallback: MaybeWord = None
    """What acts there: an action, as NUMBER,…; hold, the action before; or a controller, FILE.py:NAME or MODULE:NAME
    (default: the agent's own, else the middle of its actions)."""

    def guard(self, agent: Agent, given: Circumstances | None = None) -> None:
        """Give the agent this threshold and this fallback; words for baselines are tuned where circumstances are
        `given`."""
        if self.fallback is not None:
            agent.fallback = fallback_of(self.fallback, given)
        if self.threshold is not None:
            agent.threshold = self.threshold
        if self.fallback is not None and not agent.threshold:
            raise UserError(
                f"found {self.fallback!r} and no threshold below which it acts; give --threshold, such as 0.01.",
                argument="fallback",
            )


def fallback_of(word: str, given: Circumstances | None) -> object:
    """An action, hold, or a controller."""
    if word == HOLD:
        return word
    try:
        return [float(number) for number in word.split(",")]
    except ValueError:
        pass
    if given is not None:
        return baseline(word, given)
    if ":" not in word:
        raise UserError(
            f"found {word!r}, expected numbers such as 0.5,-1, or hold, or a controller as FILE.py:NAME.",
            argument="fallback",
        )
    return of_object(find_code(word, "fallback"), word)


@dataclass(frozen=True)
class Guard(GivesCode, SetsFallback):
    """Save an agent that hands over to a fallback where what it sees is not familiar.

    Below a threshold of 0.01, the fallback acts at most at a hundredth of the states that are like the data."""

    path: tyro.conf.Positional[Path]
    """A run folder (its best agent) or an agent folder (such as RUN/last)."""
    out: Path
    """The folder of the new agent."""
    data: MaybePath = None
    """Judge what is familiar by this dataset, instead of by what the agent learned from."""
    window: MaybeInt = None
    """Judge so many samples together, such as 10, by --data or by the log that the run learned from: small errors on
    one side are summed up, which tells another plant (default: the newest sample alone)."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        refuse_runs_own(self.out, "out")
        agent = self.agent(self.path)
        path = self.data
        if path is None and self.window is not None:
            path = learned_from(self.path)
            if path is None:
                raise UserError(
                    f"{self.path} learned from no log, in whose order samples are judged together; name one with "
                    "--data.",
                    argument="window",
                )
        if path is not None:
            data = Dataset.open(path)
            known = familiarity(agent, data, window=self.window or 0)
            say_doubts(plant_doubts(agent, data))
            agent.familiarity = known
        self.guard(agent)
        if not agent.threshold:
            raise UserError("found none, expected a share above 0, such as 0.01.", argument="threshold")
        agent.save(self.out, origin={"guarded": str(self.path)})
        if self.json:
            told = {"out": str(self.out), "fallback": agent.fallback_in_words, "threshold": agent.threshold}
            print(json.dumps({**told, "window": self.window}))
        else:
            print(f"{self.out}: {agent.fallback_in_words} acts where familiar is below {agent.threshold:g}.")
        return 0


def say_doubts(doubts: Iterable[str]) -> None:
    """Say on stderr what speaks against it that a log is of a controller's plant."""
    for sentence in doubts:
        print(f"warning: {sentence}", file=sys.stderr)
