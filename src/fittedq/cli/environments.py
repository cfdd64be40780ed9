"""What commands that make an environment or read a run have in common: its arguments, its wrappers, its code, and what
is trusted of a file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fittedq.actions.limits import Limits
from fittedq.agent import Agent
from fittedq.cli.arguments import MaybeFloat, MaybeInt, MaybeTime, MaybeWord
from fittedq.code import check_needed
from fittedq.envs.registry import NamedEnv
from fittedq.errors import UserError
from fittedq.runs.saved import find_agent
from fittedq.settings import parse_assignments

Words = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class NamesEnv:
    """A command on which the user names an environment."""

    env_kwargs: Annotated[Words, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """An argument of the environment. May be given often."""
    wrapper: Annotated[Words, tyro.conf.arg(metavar="MODULE:NAME|FILE.py:NAME")] = ()
    """A class or function that takes the environment and wraps it. May be given often; the first is the innermost."""

    def named(self, env: str | None) -> NamedEnv | None:
        """The environment `env` with these arguments and wrappers; None where there is no `env`."""
        if env is not None:
            return NamedEnv(env, parse_assignments(self.env_kwargs, "--env-kwargs"), tuple(self.wrapper))
        if self.env_kwargs or self.wrapper:
            raise UserError("--env-kwargs and --wrapper: found no environment that they belong to; name it too.")
        return None


@dataclass(frozen=True, kw_only=True)
class LimitsActions:
    """A command on which the user narrows an environment's actions."""

    limit: Annotated[Words, tyro.conf.arg(metavar="INEQUALITY")] = ()
    """A limit on the actions, such as "a0 + 2*a1 <= 1" or "|a| <= 1.5" (the sum of all |a_i|). May be given often."""
    integer: tuple[int, ...] = ()
    """Action dimensions that are whole numbers, counted from 0."""

    def limits(self) -> Limits | None:
        """The limits, if there are any."""
        return Limits(self.limit, self.integer) if self.limit or self.integer else None


@dataclass(frozen=True, kw_only=True)
class AugmentsState:
    """A command on which the user says what a controller sees and does beyond an observation and an action, and how
    far the plants that it learns on differ."""

    history: MaybeInt = None
    """Observations that the controller sees: the newest and those before it, with the actions between them."""
    error: Annotated[Words, tyro.conf.arg(metavar="MEASURED:SET_POINT|MEASURED=NUMBER")] = ()
    """An error to see: two coordinates of the observation, counted from 0, or one and a number. May be given often."""
    integral: Annotated[Words, tyro.conf.arg(metavar="MEASURED:SET_POINT|MEASURED=NUMBER")] = ()
    """An error whose integral over time is seen. May be given often."""
    increments: bool = False
    """The controller decides on the change of the action before, not on the action."""
    rate_limit: tuple[float, ...] = ()
    """The most that an action changes in a sample: one number, or one for each action. Implies --increments."""
    change_penalty: MaybeFloat = None
    """λ: learned from is the reward less λ |change of the action|², in half-widths of its limits."""
    settling: MaybeTime = None
    """The time in which the plant settles, such as 60s or 5min. The discount gamma follows from it and --sample."""
    sample: MaybeTime = None
    """The time between samples, such as 1s or 20ms. Integrals count in it (default: 1s)."""
    randomize: MaybeFloat = None
    """Learn on plants whose parameters are off by up to this share, drawn anew for each episode (JAX environments)."""
    vary: tuple[str, ...] = ()
    """With --randomize: the parameters that are off (default: those that the environment names)."""

    def assignments(self, words: Iterable[str]) -> dict[str, Any]:
        """The settings that `--set` gives, and those that have flags of their own."""
        settings = parse_assignments(words)
        flags = {field.name: getattr(self, field.name) for field in dataclasses.fields(AugmentsState)}
        times = {name: None if flags[name] is None else seconds(flags[name], name) for name in ("settling", "sample")}
        given = {name: value for name, value in (flags | times).items() if value not in (None, (), False)}
        for name in given:
            if name in settings:
                raise UserError("found it and --set for the same; give one of them.", argument=name)
        return settings | given


UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


def seconds(text: str, argument: str) -> float:
    """A time in words, such as 20ms, 60s or 5min; a number alone is in seconds."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", text.strip())
    if found is None or (found[2] or "s") not in UNITS:
        raise UserError(f"found {text!r}, expected a time such as 20ms, 60s, 5min or 2h.", argument=argument)
    return float(found[1]) * UNITS[found[2] or "s"]


@dataclass(frozen=True, kw_only=True)
class TrustsFile:
    """A command that may find code named in a file."""

    trust_code: Annotated[Words, tyro.conf.arg(metavar="NAME")] = ()
    """A module, file or wrapper that the run names for its environment or its method and that may run. May be given
    often."""


@dataclass(frozen=True, kw_only=True)
class GivesCode(TrustsFile):
    """A command on a run or an agent, whose method may be the user's own."""

    code: MaybeWord = None
    """The run's method, where it is your own: a class or an object, as FILE.py:NAME or MODULE:NAME."""

    def agent(self, path: Path) -> Agent:
        """The agent at `path`, its method given or trusted."""
        return find_agent(path, self.code, self.trust_code)

    def chosen(self, named: NamedEnv | None, agent: Agent) -> NamedEnv | None:
        """The environment that the user named, else the one that a file names, trusted as far as the user says."""
        saved = agent.env
        check_needed(self.trust_code, saved if named is None else None, agent.method)
        return named or (saved and saved.trusted(self.trust_code))
