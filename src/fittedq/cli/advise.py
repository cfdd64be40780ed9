"""`fittedq advise ENV`, `fittedq advise --data LOG`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Annotated, TypeVar

import numpy as np
import tyro

from fittedq.actions.base import Box
from fittedq.api import fit
from fittedq.cli.arguments import MaybeFloat, MaybeInt, MaybePath, words_of
from fittedq.cli.environments import LimitsActions, NamesEnv, Words
from fittedq.cli.tables import print_rows
from fittedq.cli.train import Train
from fittedq.control.augmentation import Error
from fittedq.data.dataset import Dataset
from fittedq.envs.plant import resolve
from fittedq.errors import UserError
from fittedq.files import Json, place
from fittedq.runs.advise import Advice, Facts, tried
from fittedq.runs.folder import json_value
from fittedq.runs.progress import console
from fittedq.runs.schedule import USUAL_STEPS
from fittedq.settings import real, whole

GAP_ITERATIONS, GAP_STATES, GAP_SECONDS = 10, 30, 20.0
"""Of the fit by whose policy the gap is measured, where, and how long it may take to bound it."""
USUAL_HOURS = 1.0
FEWEST_ROWS = 200

Reply = TypeVar("Reply")


@dataclass(frozen=True)
class Advise(NamesEnv, LimitsActions):
    """Measure an environment or a log, and say which method fits it and why, with the command to run.

    Three questions are asked on a terminal, where they are not answered by --steps, --error and --hours."""

    env: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[ENV]", help_behavior_hint="")] = None
    """An environment, as for `fittedq train`. It is stepped under random actions."""
    data: MaybePath = None
    """A dataset folder (`fittedq data`) instead of an environment."""
    steps: MaybeInt = None
    """How many samples may be taken in the environment (default: 100 000)."""
    error: Annotated[Words, tyro.conf.arg(metavar="MEASURED:SET_POINT|MEASURED=NUMBER")] = ()
    """What is to follow what: two coordinates of the observation, counted from 0, or one and a number. May be given
    often. By default nothing: the reward alone counts."""
    hours: MaybeFloat = None
    """How many hours learning may take (default: 1)."""
    rows: int = 2_000
    """Samples under random actions by which an environment is measured."""
    seed: int = 0
    """Seed of these samples, and of a first fit on a log."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        if (self.env is None) == (self.data is None):
            found = "neither an environment nor --data" if self.env is None else "an environment and --data"
            raise UserError(f"advise: found {found}; give one of them.")
        whole(self.rows, "rows", FEWEST_ROWS)
        seed, env = whole(self.seed, "seed"), self.named(self.env)
        if env is None and self.steps is not None:
            raise UserError("found --data too, from which no sample is taken; leave it out.", argument="steps")
        said = self._answers()
        if env is not None:
            plant = resolve(env, self.limits())
            data, sample_seconds = tried(plant, self.rows, seed)
            facts = Facts.of(data, plant, **said, sample_seconds=sample_seconds)
        else:
            data = Dataset.open(place(self.data, "data"))
            facts = Facts.of(data, None, **said, gap=_gap(data, seed))
        _check_coordinates(facts)
        self._tell(facts, Advice.of(facts))
        return 0

    def _answers(self) -> dict[str, Json]:
        """What the user says, by options or on the terminal."""
        ask = sys.stdin.isatty() and sys.stderr.isatty() and not self.json
        steps, follows, hours = self.steps, tuple(self.error), self.hours
        if ask and steps is None and self.env is not None:
            steps = _asked("How many samples may be taken in the environment?", str(USUAL_STEPS), int)
        if ask and not follows:
            question = "What is to follow what, as MEASURED:SET_POINT or MEASURED=NUMBER? (nothing: the reward counts)"
            follows = tuple(_asked(question, "", str).split())
        if ask and hours is None:
            hours = _asked("How many hours may learning take?", str(USUAL_HOURS), float)
        return {
            "steps": whole(USUAL_STEPS if steps is None else steps, "steps", 1),
            "follows": tuple(str(Error.of(one, "error")) for one in follows),
            "hours": real(USUAL_HOURS if hours is None else hours, "hours", "a number of hours of at least 0"),
        }

    def _tell(self, facts: Facts, advice: Advice) -> None:
        command = shlex.join(["fittedq", "train", *self._words(facts, advice)])
        if self.json:
            told = {"facts": json_value(asdict(facts)), "advice": asdict(advice), "command": command}
            print(json.dumps(told))
            return
        print_rows([[what, *cells] for what, *cells in _shown(facts)], head=False)
        tell = console(to_errors=False).print
        tell(f"\n{advice.method}: {advice.why} ({advice.source})", soft_wrap=True)
        for sentence in advice.beside:
            tell(sentence, soft_wrap=True)
        tell(f"\n{command}", soft_wrap=True)

    def _words(self, facts: Facts, advice: Advice) -> Iterator[str]:
        """The words after `fittedq train`."""
        yield advice.method
        if self.env is None:
            yield from ("--data", str(self.data))
        else:
            yield self.env
            yield from ("--steps", str(facts.steps))
        given = Train(advice.method, env_kwargs=self.env_kwargs, wrapper=self.wrapper, limit=self.limit)
        yield from words_of(replace(given, integer=self.integer))[1:]
        yield from advice.words


def _asked(question: str, usual: str, kind: Callable[[str], Reply]) -> Reply:
    """An answer from the terminal; nothing is the usual one."""
    print(f"{question} [{usual}] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip() or usual
    try:
        return kind(answer)
    except ValueError:
        raise UserError(f"advise: found {answer!r}, expected a number.") from None


def _check_coordinates(facts: Facts) -> None:
    """A UserError where what is to be followed is not observed."""
    for one in facts.follows:
        error = Error.of(one, "error")
        last = max(error.measured, error.set_point or 0)
        if last >= facts.state:
            raise UserError(f"found {one}, and {facts.state} numbers are observed, from 0.", argument="error")


def _gap(data: Dataset, seed: int) -> float | None:
    """The median share of q's range by which a first, short fit's policy misses its critic's maximum, at least."""
    if len(data) < FEWEST_ROWS or not isinstance(data.action_set, Box):
        return None
    agent = fit("nfqca", data, steps=GAP_ITERATIONS, seed=seed, hidden=(32, 32), progress=False)
    rows = np.linspace(0, len(data) - 1, GAP_STATES).astype(int)
    return agent.gap(data.columns["obs"][rows], time_limit=GAP_SECONDS).summary()["relative_lower_median"]


def _shown(facts: Facts) -> Iterator[tuple[str, str]]:
    """The figures that were measured, in words."""
    shares = {
        "the state's change that no model explains (held out)": facts.model_error,
        "the state's change that a linear model explains": facts.linear,
        "the actions' box tried at like states": facts.covered,
        "the actions told from what was seen (R²)": facts.foreseen,
        "noise of a step, beside what states differ by": facts.noise,
        "a first policy below its critic's maximum, of q's range": facts.gap,
    }
    yield "rows looked at", f"{facts.rows:,}"
    yield "numbers observed, actions", f"{facts.state}, {facts.actions}"
    yield "samples that end an episode for good", f"{facts.ended:.2%}"
    for what, share in shares.items():
        yield what, "not known" if share is None else f"{share:.1%}"
    yield "observations that make a state", "not known" if facts.history is None else str(facts.history)
    if facts.sample_seconds is not None:
        yield "a step of the environment", f"{1e3 * facts.sample_seconds:.3g} ms"
