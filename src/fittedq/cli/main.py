"""`fittedq COMMAND`: a user's mistake is one sentence on standard error and exit code 2."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tyro

from fittedq.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    _keep_compilations()
    from fittedq.cli.data import Data
    from fittedq.cli.eval import Eval
    from fittedq.cli.inspect import Inspect
    from fittedq.cli.list import List
    from fittedq.cli.resume import Resume
    from fittedq.cli.train import Train

    commands = {"train": Train, "resume": Resume, "eval": Eval, "inspect": Inspect, "list": List, "data": Data}
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            commands, prog="fittedq", description="From transitions to a controller.", args=arguments
        )
        code = command.run()
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"fittedq: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fittedq: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away; nothing is lost.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _keep_compilations() -> None:
    """Keep compiled programs between runs, unless the user has said where or not at all."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and "FITTEDQ_NO_CACHE" not in os.environ:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(base / "fittedq" / "compiled")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def entry() -> None:
    """What the installed `fittedq` script runs."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
