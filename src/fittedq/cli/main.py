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
    kind: str = ""
    """Its class, where that is not named as the command is."""

    def load(self) -> Any:
        """The command's class."""
        return getattr(importlib.import_module(f"fittedq.cli.{self.name}"), self.kind or self.name.capitalize())


COMMANDS = {
    command.name: command
    for command in (
        Command("advise", "Measure an environment or a log, and say which method fits it."),
        Command("train", "Train a controller in an environment or from a dataset."),
        Command("sweep", "Train every combination of settings with several seeds, side by side."),
        Command("tune", "Look for settings: trials of several seeds, the winner as a preset's file."),
        Command("resume", "Continue a run from its last whole checkpoint."),
        Command("eval", "Play episodes with a saved agent and print their returns."),
        Command("compare", "Play the same episodes with runs and baselines, and show who is ahead."),
        Command("runs", "List the runs in a folder: how far each came, and what it reached."),
        Command("estimate", "Tell from a log what a controller would earn, before it is tried.", "EstimateWorth"),
        Command("inspect", "Show what a run or an agent is, and how good its policy is by its critic."),
        Command("report", "Write one page about a run, to send to somebody.", "WriteReport"),
        Command("render", "Film an episode of a controller, as a GIF or an MP4."),
        Command("guard", "Save an agent with a fallback for what its data do not know."),
        Command("export", "Write a controller in the language of a plant, verified beside the agent."),
        Command("shadow", "Tell from a log what a controller would have done beside the present one.", "ShadowLog"),
        Command("push", "Write a run as a folder for a model hub: tensors, a card, a film."),
        Command("list", "List the algorithms, or the settings of one."),
        Command("verify", "Check every file of a run, an agent, a checkpoint, a dataset or an export."),
        Command("doctor", "Say what this machine and this installation have, and what is missing."),
        Command("data", "Collect, import, check and export datasets of transitions."),
        Command("completion", "Print a script by which a shell completes the words of fittedq."),
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
    from fittedq.cli.tables import beside, folded

    indent = max(map(len, COMMANDS)) + 4
    return "\n".join(
        [
            "usage: fittedq COMMAND …",
            "",
            "Learn controllers for continuous actions from transitions.",
            "",
            *(beside(f"  {command.name} ", command.about, indent) for command in COMMANDS.values()),
            "",
            folded("`fittedq COMMAND --help` shows what it takes; `fittedq --version` shows the version."),
            folded(f"`{TRACEBACK}` on any command shows where an error came from."),
        ]
    )


def entry() -> None:
    """What the installed `fittedq` script runs."""
    signals.install()
    sys.exit(main())


if __name__ == "__main__":
    entry()
