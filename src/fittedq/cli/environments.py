"""What commands that make an environment or read a run have in common: its arguments, its wrappers, its code, and what
is trusted of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fittedq.actions.limits import Limits
from fittedq.agent import Agent
from fittedq.cli.arguments import MaybeWord
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
