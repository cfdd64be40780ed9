"""How long one action takes: a controller in C, NumPy and ONNX, and what else is called with the same observations."""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float

from fittedq.errors import UserError
from fittedq.export.c_file import CSource, compile_with
from fittedq.export.c_source import rendered, template
from fittedq.export.folder import write_files
from fittedq.export.language import About, AbstractLanguage, AbstractRunning, Golden
from fittedq.export.numpy_file import NumpyFile
from fittedq.export.onnx_file import OnnxModel
from fittedq.export.program import ControlProgram
from fittedq.machine import cores, pin

TIMED_WITH = ("-std=c99", "-O3", "-march=native", "-ffp-contract=fast")
"""Of C while it is timed: for the machine that it is timed on."""
SHARES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9, "worst": 100.0}
ROUNDS, CALLS = 5, 1000
"""Each is called so often in a round, one after another, so that what else the machine does meets all of them."""
C_FLOOR, C_OPERATIONS = "floor of C", "operations of C"
"""Reading all weights once and multiplying each; so many multiplications and additions alone."""
TIMED_LANGUAGES: tuple[AbstractLanguage, ...] = (NumpyFile(), OnnxModel())

ActsOnce = Callable[[Float[np.ndarray, "o"]], object]
Micros = Float[np.ndarray, "calls"]


def summary(micros: Micros) -> dict[str, float]:
    """p50, p99, p99.9 and the worst, in microseconds."""
    return {name: round(float(np.percentile(micros, share)), 3) for name, share in SHARES.items()}


def timed_calls(act: ActsOnce, obs: Float[np.ndarray, "calls o"]) -> Micros:
    """The microseconds of each call."""
    took = []
    for row in obs:
        begin = time.perf_counter()
        act(row)
        took.append(1e6 * (time.perf_counter() - begin))
    return np.array(took)


@final
@dataclass(frozen=True)
class Timing:
    """What was measured, by what was called; and what was not there, with the reason."""

    micros: Mapping[str, Micros]
    missing: Mapping[str, str]
    rate: float | None
    load: float
    """Of the machine, by its own count, while it was measured."""

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        told: dict[str, Any] = {
            "microseconds": {name: summary(took) for name, took in self.micros.items()},
            "calls": len(next(iter(self.micros.values()), ())),
            "flags": list(TIMED_WITH),
            "load": round(self.load, 2),
            "missing": dict(self.missing),
        }
        return told | ({} if self.rate is None else {"rate": self.rate, "meets": self.meets()})

    def meets(self) -> dict[str, dict[str, Any]]:
        """By what was called: the share of calls that end within a period of `rate`, and up to which percentile."""
        assert self.rate is not None
        period, found = 1e6 / self.rate, {}
        for name, took in self.micros.items():
            if name not in (C_FLOOR, C_OPERATIONS):
                held = [word for word, value in summary(took).items() if value <= period]
                found[name] = {"share": float((took <= period).mean()), "up_to": held[-1] if held else None}
        return found

    def picture(self) -> bytes:
        """A PNG: the share of calls that take longer than t, both on logarithmic scales."""
        from fittedq.diagnose.pictures import drawing

        pyplot = drawing()
        figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
        for name, took in self.micros.items():
            longer = 1 - np.arange(len(took)) / len(took)
            axes.step(np.sort(took), longer, where="post", label=name)
        if self.rate is not None:
            axes.axvline(1e6 / self.rate, color="0.5", linestyle="--", label=f"{self.rate:g} Hz")
        axes.set(xscale="log", yscale="log", xlabel="microseconds t", ylabel="share of calls that take t or longer")
        axes.legend(fontsize=8)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150)
        pyplot.close(figure)
        return file.getvalue()


def time_controller(
    program: ControlProgram,
    about: About,
    golden: Golden,
    others: Mapping[str, ActsOnce],
    known: Float[np.ndarray, "N o"],
    rate: float | None = None,
) -> Timing:
    """The controller in C, NumPy and ONNX, where they are there, and `others`, in alternation, on one core."""
    obs = np.ascontiguousarray(known[np.arange(CALLS) % len(known)], np.float32)
    missing: dict[str, str] = {}
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="fittedq-") as scratch:
        calls: dict[str, Callable[[], Micros]] = {}
        try:
            calls |= _in_c(program, about, golden, obs, Path(scratch) / "c")
        except UserError as error:
            missing["C"] = str(error)
        for language in TIMED_LANGUAGES:
            try:
                folder = Path(scratch) / language.name
                write_files(folder, language.files(program, about, golden))
                running = stack.enter_context(language.running(folder))
            except UserError as error:
                missing[language.title] = str(error)
                continue
            assert isinstance(running, AbstractRunning)
            calls[f"{language.name}, as its users call it"] = _of(running.step, obs)
        calls |= {name: _of(act, obs) for name, act in others.items()}
        stack.enter_context(one_core())
        load = os.getloadavg()[0]
        for call in calls.values():
            call()
        rounds = [{name: call() for name, call in calls.items()} for _ in range(ROUNDS)]
    micros = {name: np.concatenate([one[name] for one in rounds]) for name in calls}
    return Timing(micros, missing, rate, load)


def _of(act: ActsOnce, obs: Float[np.ndarray, "calls o"]) -> Callable[[], Micros]:
    return lambda: timed_calls(act, obs)


def _in_c(
    program: ControlProgram, about: About, golden: Golden, obs: Float[np.ndarray, "calls o"], folder: Path
) -> dict[str, Callable[[], Micros]]:
    """The compiled controller, and what it cannot be faster than: reading its weights, and its operations."""
    language = CSource()
    timer = {"timer.c": template("timer.c").encode(), "rows": obs.tobytes()}
    write_files(folder, language.files(program, about, golden) | timer)
    weights = rendered(program, about, golden, False, 1.0).constants // 4
    flags = [*TIMED_WITH, f"-DFQ_WEIGHTS={weights}", "-o", "timer", "timer.c", "controller.c", "-lm"]
    compile_with(flags, folder)

    def run(*more: str) -> Micros:
        told = subprocess.run([folder / "timer", "rows", *more], cwd=folder, check=True, capture_output=True, text=True)
        return np.array([float(line) for line in told.stdout.split()])

    return {"C": run, C_FLOOR: lambda: run("floor"), C_OPERATIONS: lambda: run("operations")}


@contextmanager
def one_core() -> Iterator[None]:
    """This process on one of its cores, where the system can say so."""
    before = cores()
    pin(0, before[-1:])
    try:
        yield
    finally:
        pin(0, before)
