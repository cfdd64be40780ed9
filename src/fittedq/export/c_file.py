"""C as a language of controllers: the files, a compiler of this machine, and the compiled controller at work."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, ClassVar, final

import numpy as np
from jaxtyping import Float

from fittedq.errors import UserError
from fittedq.export.c_source import rendered, template
from fittedq.export.language import (
    About,
    AbstractFollowing,
    AbstractLanguage,
    AbstractRunning,
    Accepted,
    Golden,
    accepted,
    facts,
)
from fittedq.export.program import ControlProgram

C_FLAGS = ("-std=c99", "-O3", "-Wall", "-Wextra", "-Werror", "-pedantic")
INT8_TOLERANCE = 0.05
"""In half-widths: what weights of 8 bits may do to an action."""
COMPILE_SECONDS = 300


@final
@dataclass(frozen=True)
class CSource(AbstractLanguage):
    """`controller.h` and `controller.c`, with a self-test, a Makefile, a CMake target, a ROS 2 node and a sketch."""

    name: ClassVar[str] = "c"
    title: ClassVar[str] = "C99 without a heap, one struct of state"
    int8: bool = False
    """Weights in 8 bits."""
    libm: bool = True
    """Whether it is verified with the tanh and exp of libm, or with its own (-DFQ_NO_LIBM)."""

    def files(self, program: ControlProgram, about: About, golden: Golden) -> dict[str, bytes]:
        if program.in_double and (self.int8 or not self.libm):
            raise UserError(
                "export: a solver compares values in double precision, found --int8 or --no-libm; leave that out, or "
                "refine, for the policy alone."
            )
        if program.guard is not None and program.guard.window is not None and not self.libm:
            raise UserError(
                "export: a guard that judges samples together takes logarithms in double precision, found --no-libm; "
                "leave that out, or guard without --window."
            )
        made = rendered(program, about, golden, self.int8, accepted(self).tolerance)
        seconds = about.sample or 0.1
        size, count = program.obs_size, program.action_size
        words = {
            "seconds": f"{seconds:g}",
            "micros": f"{1e6 * seconds:.0f}",
            "read": "\n".join(f"  // observation[{i}] = ...;  {about.observations[i]}" for i in range(size)),
            "write": "\n".join(f"  // ... = action[{i}];  {about.actions[i]}" for i in range(count)),
        }
        makefile = template("Makefile")
        if not self.libm:
            makefile = makefile.replace("-pedantic\n", "-pedantic -DFQ_NO_LIBM\n", 1).replace(" -lm", "")
        texts = {
            "controller.h": made.header,
            "controller.c": made.code,
            "self_test.c": template("self_test.c"),
            "Makefile": makefile,
            "CMakeLists.txt": template("CMakeLists.txt"),
            "ros2/controller_node.cpp": Template(template("ros2_node.cpp")).substitute(words),
            "arduino/controller.ino": Template(template("controller.ino")).substitute(words),
        }
        return {name: text.encode() for name, text in texts.items()}

    @contextmanager
    def running(self, folder: Path) -> Iterator[AbstractRunning]:
        with tempfile.TemporaryDirectory() as scratch:
            library = Path(scratch) / "libcontroller.so"
            compile_c(folder / "controller.c", library, () if self.libm else ("-DFQ_NO_LIBM",))
            yield Compiled(library)


@accepted.register
def _(language: CSource) -> Accepted:
    tolerance = INT8_TOLERANCE if language.int8 else Accepted().tolerance
    return Accepted(tolerance, {"int8": language.int8, "libm": language.libm})


@facts.register
def _(language: CSource, program: ControlProgram, about: About, golden: Golden) -> dict[str, Any]:
    made = rendered(program, about, golden, language.int8, accepted(language).tolerance)
    trees = f", {made.comparisons:,} comparisons in trees" if made.comparisons else ""
    return {
        "constants": f"{made.constants:,} bytes of weights and tables (flash)",
        "state": f"{made.state:,} bytes of fq_controller (RAM)",
        "operations": f"{made.multiplications:,} multiplications and additions, {made.functions:,} evaluations of "
        f"tanh, exp or a root{trees} in a step, at most",
    }


def own_compiler() -> list[str] | None:
    """The words of this machine's C compiler: the one named by CC, else what is found; None where there is none."""
    asked = shlex.split(os.environ.get("CC", ""))
    if asked and shutil.which(asked[0]):
        return asked
    return next(([name] for name in ("gcc", "clang", "cc") if shutil.which(name)), None)


def compiler() -> list[str]:
    """The words of a C compiler that runs here, or a UserError."""
    if (own := own_compiler()) is not None:
        return own
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise UserError(
        "export: found no C compiler (gcc, clang, cc, or the one named by CC), by which the controller is run beside "
        "the agent; install one (`pip install ziglang` brings clang), or write it without being run (--unverified, "
        "verify=False)."
    )


def compile_c(source: Path, library: Path, more: tuple[str, ...] = ()) -> None:
    """A shared library of one file; a UserError as `compile_with`."""
    compile_with([*C_FLAGS, *more, "-shared", "-fPIC", "-o", str(library), str(source), "-lm"])


def compile_with(flags: Sequence[str], folder: Path | None = None) -> None:
    """Run the machine's C compiler in `folder`; a UserError with its first line where it refuses."""
    words = [*compiler(), *flags]
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"export: the compiler {words[0]} did not run ({error}); name another by CC.") from None
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
        raise UserError(f"export: the compiler {words[0]} refused the controller ({first.strip()}).")


@final
class Compiled(AbstractFollowing):
    """A controller in a shared library, called as a plant would call it."""

    def __init__(self, library: Path):
        self._library = ctypes.CDLL(str(library))
        _, actions, size = (ctypes.c_uint * 3).in_dll(self._library, "fq_sizes")
        self._state = ctypes.create_string_buffer(size)
        for name in ("fq_init", "fq_self_test"):
            getattr(self._library, name).argtypes = [ctypes.c_void_p]
        self._library.fq_step.argtypes = [ctypes.c_void_p] * 3
        for name in ("fq_init_at", "fq_follow"):
            getattr(self._library, name).argtypes = [ctypes.c_void_p] * 2
        self._library.fq_take_over.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
        self._action = np.zeros(actions, np.float32)
        self.reset()

    def reset(self, before: Float[np.ndarray, "m"] | None = None) -> None:
        if before is None:
            self._library.fq_init(ctypes.addressof(self._state))
        else:
            start = np.ascontiguousarray(before, np.float32)
            self._library.fq_init_at(ctypes.addressof(self._state), start.ctypes.data)

    def follow(self, executed: Float[np.ndarray, "m"]) -> None:
        row = np.ascontiguousarray(executed, np.float32)
        self._library.fq_follow(ctypes.addressof(self._state), row.ctypes.data)

    def take_over(self, present: Float[np.ndarray, "m"], samples: int) -> None:
        """`fq_take_over`."""
        row = np.ascontiguousarray(present, np.float32)
        self._library.fq_take_over(ctypes.addressof(self._state), row.ctypes.data, samples)

    def step(self, obs: Float[np.ndarray, "o"]) -> tuple[Float[np.ndarray, "m"], int]:
        row = np.ascontiguousarray(obs, np.float32)
        status = self._library.fq_step(ctypes.addressof(self._state), row.ctypes.data, self._action.ctypes.data)
        return self._action.copy(), status

    def self_test(self) -> int:
        """0, or what is wrong."""
        return int(self._library.fq_self_test(ctypes.addressof(self._state)))
