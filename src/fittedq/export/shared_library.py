"""Shared libraries of C sources, for this machine and others."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from fittedq.errors import UserError, in_one_line
from fittedq.export.c_file import own_compiler

_FLAGS = ("-std=c99", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-g0")
LONGEST_BUILD = 1800
"""Seconds."""


class Machine(NamedTuple):
    """What a library runs on: names of it in FMI 3 and FMI 2, and for Zig's compiler; None: FMI 2 has none."""

    name: str
    fmi2: str | None
    zig: str
    suffix: str


MACHINES = (
    # An old libc, so that the library also runs where it is not the newest.
    Machine("x86_64-linux", "linux64", "x86_64-linux-gnu.2.17", ".so"),
    Machine("aarch64-linux", None, "aarch64-linux-gnu.2.17", ".so"),
    Machine("x86_64-windows", "win64", "x86_64-windows-gnu", ".dll"),
    Machine("x86_64-darwin", "darwin64", "x86_64-macos", ".dylib"),
    Machine("aarch64-darwin", None, "aarch64-macos", ".dylib"),
)


MOST_USED = ("x86_64-linux", "aarch64-linux", "x86_64-windows")


def this_machine() -> Machine:
    """The one that runs this; a UserError where it is none of `MACHINES`."""
    kind = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    name = f"{kind}-{platform.system().lower()}"
    for machine in MACHINES:
        if machine.name == name:
            return machine
    raise UserError(f"export: found the machine {name}, expected one of {', '.join(one.name for one in MACHINES)}.")


class Compiler(NamedTuple):
    """A command, and the machines that it builds for."""

    command: tuple[str, ...]
    machines: tuple[Machine, ...]
    crosses: bool

    def __call__(self, sources: Mapping[str, bytes], machine: Machine, units: Sequence[str]) -> bytes:
        """The library of `units`, which are among the sources; a UserError says what the compiler found."""
        target = ("-target", machine.zig) if self.crosses else ()
        with tempfile.TemporaryDirectory(prefix="fittedq-") as folder:
            for name, content in sources.items():
                (Path(folder) / name).write_bytes(content)
            out = f"library{machine.suffix}"
            words = [*self.command, *target, *_FLAGS, *units, "-o", out, *([] if machine.suffix == ".dll" else ["-lm"])]
            try:
                done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=LONGEST_BUILD)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise UserError(f"export: the compiler {self.command[0]} failed: {in_one_line(error)}.") from None
            if done.returncode:
                told = in_one_line(ValueError(done.stderr))
                raise UserError(f"export: the compiler {self.command[0]} failed for {machine.name}: {told}.")
            return (Path(folder) / out).read_bytes()


def compiler_for() -> Compiler:
    """Zig's, which builds for all machines, where its package is installed, else this machine's own; a UserError where
    there is neither."""
    if find_spec("ziglang") is not None:
        return Compiler((sys.executable, "-m", "ziglang", "cc"), MACHINES, True)
    if (own := own_compiler()) is not None:
        return Compiler(tuple(own), (this_machine(),), False)
    raise UserError("export: an FMU needs a C compiler, and none was found; install one, or the package ziglang.")
