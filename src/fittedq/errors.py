"""The one exception a user can cause: a sentence that says what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a setting, a file or an environment; the command line prints it and exits with code 2.

    `argument` is the parameter at fault, by its name in Python; the command line says its flag instead.
    """

    def __init__(self, message: str = "", *, argument: str | None = None):
        super().__init__(message if argument is None else f"{argument}: {message}")
        self._message, self._argument = message, argument

    def on_command_line(self) -> str:
        """The sentence with the flag in place of the parameter."""
        return str(self) if self._argument is None else f"--{self._argument.replace('_', '-')}: {self._message}"


class EnvError(UserError):
    """What an environment did wrong: what was learned before is whole, and worth keeping."""


class MissingCode(UserError):
    """Code that no file holds, and that the user did not give or trust: what needs none of it can go on."""


def in_one_line(error: BaseException) -> str:
    """What a foreign library says, in one line of bearable length, to be put in a sentence."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def plural(count: int, one: str, many: str) -> str:
    """`1 row` or `2 rows`."""
    return f"{count:,} {one if count == 1 else many}"


def nearest(name: str, valid: Iterable[str], count: int = 3) -> str:
    """The valid names nearest to `name`, as the end of a sentence; all of them where none is near and they are few."""
    names = sorted(set(valid))
    lower = {candidate.lower(): candidate for candidate in names}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=count, cutoff=0.5)]
    if near:
        return "did you mean " + " or ".join(repr(match) for match in near) + "?"
    return "valid names: " + ", ".join(names) + "." if len(names) <= 60 else "no name is near it."
