"""`fittedq COMMAND`: a user's mistake is one sentence on standard error and exit code 2.

A command's module is imported once that command is chosen: help, versions and mistyped names do not wait for JAX.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any, NamedTuple

from fittedq.cli import signals
from fittedq.errors import UserError, nearest

TRACEBACK = "--traceback"
"""With it, every command shows where an error came from, and not only what it is."""


class Command(NamedTuple):
    """Where a command is defined, and what it does in a line."""

    name: str
    about: str

    def load(self) -> Any:
        """The command's class, named as the command is."""
        return getattr(importlib.import_module(f"fittedq.cli.{self.name}"), self.name.capitalize())


COMMANDS = {
    command.name: command
    for command in (
        Command("train", "Train a controller in an environment or from a dataset."),
        Command("resume", "Continue a run from its last whole checkpoint."),
        Command("eval", "Play episodes with a saved agent and print their returns."),
        Command("compare", "Play the same episodes with runs and baselines, and show who is ahead."),
        Command("inspect", "Show what a run or an agent is, and how good its policy is by its critic."),
        Command("list", "List the algorithms, or the settings of one."),
        Command("verify", "Check every file of a run, an agent, a checkpoint or a dataset."),
        Command("data", "Collect, import, check and export datasets of transitions."),
    )
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        return _run(name, [word for word in rest if word != TRACEBACK])
    except UserError as error:
        if TRACEBACK in rest:
            traceback.print_exception(error)
        print(f"fittedq: {error.on_command_line()}", file=sys.stderr)
        return 2
    except MemoryError:
        print(
            "fittedq: memory ran out; free some, or choose smaller settings (what was saved is whole).", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        print("fittedq: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away; nothing is lost.
        _lose_output()
        return 0
    except OSError as error:
        if TRACEBACK in rest:
            traceback.print_exception(error)
        _lose_output()
        at = "" if error.filename is None else f"{error.filename}: "
        print(f"fittedq: {at}{error.strerror or error}.", file=sys.stderr)
        return 2


def _lose_output() -> None:
    """What is still to be written to standard output goes nowhere, instead of failing again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(name: str, arguments: list[str]) -> int:
    if name in ("--help", "-h", "help"):
        print(_help())
        return 0
    if name == "--version":
        from importlib import metadata

        print(f"fittedq {metadata.version('fittedq')}")
        return 0
    if name not in COMMANDS:
        raise UserError(f"command {name!r} is unknown; {nearest(name, COMMANDS)}")
    from fittedq.cli.arguments import parse

    code = parse(COMMANDS[name].load(), f"fittedq {name}", arguments).run()
    sys.stdout.flush()
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: fittedq COMMAND …",
            "",
            "Learn controllers for continuous actions from transitions, logged or collected.",
            "",
            *(f"  {command.name:<{width}}  {command.about}" for command in COMMANDS.values()),
            "",
            "`fittedq COMMAND --help` shows what it takes; `fittedq --version` shows the version.",
            f"`{TRACEBACK}` on any command shows where an error came from.",
        ]
    )


def entry() -> None:
    """What the installed `fittedq` script runs."""
    signals.install()
    sys.exit(main())


if __name__ == "__main__":
    entry()
