"""`fittedq export RUN --to LANGUAGE --out DIR`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from fittedq.agent import Agent
from fittedq.cli.arguments import MaybeFloat, MaybePath
from fittedq.cli.environments import GivesCode
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.errors import UserError
from fittedq.export.c_file import CSource
from fittedq.export.language import AbstractLanguage
from fittedq.export.languages import LANGUAGES, language_of
from fittedq.export.verify import SAMPLES
from fittedq.runs.progress import console
from fittedq.runs.saved import learned_from

ROWS_LOOKED_AT = 10_000
"""Of a data set: rows from which samples are made."""


@dataclass(frozen=True)
class Export(GivesCode):
    """Write a whole controller (finite check, history, normalization, network, limits, fallback) in the language of a
    plant, and run it beside the agent at 10,000 samples before anything is left there."""

    path: tyro.conf.Positional[Path]
    """A run folder (its best agent) or an agent folder (such as RUN/last)."""
    out: Path
    """The folder to be made. One that holds anything but an unchanged export is not replaced."""
    to: Annotated[str, tyro.conf.arg(metavar="|".join(LANGUAGES))]
    """The language."""
    int8: bool = False
    """C: weights of hidden layers in 8 bits."""
    no_libm: bool = False
    """C: verified with its own tanh and exp, for a machine without libm (-DFQ_NO_LIBM)."""
    refine: int = 0
    """Steps of a solver on the critic at each sample, from the policy's action, or from fixed starts without one."""
    trust: MaybeFloat = None
    """How far from the policy's action they may lead, in half-widths (default: 0.1; 2, all of the box, without one)."""
    data: MaybePath = None
    """Observations of this data set are among the samples; by default of the one that the run learned from."""
    plant: MaybePath = None
    """A description of the plant (plant.toml), for names and units; by default that of the data set."""
    sample: MaybeFloat = None
    """Seconds between two samples; by default what the agent or the description says."""
    samples: int = SAMPLES
    """Samples at which it is compared with the agent."""
    unverified: bool = False
    """Write it without running it, where this machine cannot."""
    time: bool = False
    """Measure how long an action takes: in C, NumPy, ONNX, by `jax.jit` and by `agent.act`, with a picture of the
    jitter (timing.png)."""
    rate: MaybeFloat = None
    """Actions a second that are asked of it: what keeps up, and at which percentile. Implies --time."""
    json: bool = False
    """Print what export.json says, for machines."""

    def run(self) -> int:
        agent, language = self.agent(self.path), self._language()
        data = self._data()
        described = self._described(data)
        told = agent.export(
            self.out,
            language,
            data=_observations(data, agent),
            verify=not self.unverified,
            samples=self.samples,
            timing=self.time,
            rate=self.rate,
            refine=self.refine,
            trust=self.trust,
            **_names(described, agent),
            sample=((described and described.sample) or None) if self.sample is None else self.sample,
        )
        if self.json:
            print(json.dumps(told))
        else:
            say_export(self.out, told)
        return 0

    def _language(self) -> AbstractLanguage:
        language = language_of(self.to)
        if not (self.int8 or self.no_libm):
            return language
        if not isinstance(language, CSource):
            raise UserError(f"--int8 and --no-libm belong to --to c, found --to {self.to}; leave them out.")
        return CSource(int8=self.int8, libm=not self.no_libm)

    def _data(self) -> Dataset | None:
        if self.data is not None:
            return Dataset.open(self.data)
        folder = learned_from(self.path)
        return None if folder is None or not folder.is_dir() else Dataset.open(folder, verify=False)

    def _described(self, data: Dataset | None) -> Description | None:
        if self.plant is not None:
            return Description.read(self.plant)
        return None if data is None else data.description


def _observations(data: Dataset | None, agent: Agent) -> np.ndarray | None:
    """Some rows of a data set."""
    if data is None:
        return None
    expected = agent.spaces.observation.size
    if data.obs_size != expected:
        raise UserError(
            f"dataset: its observations have {data.obs_size} numbers, the agent's have {expected}; name one of the "
            "agent's own plant."
        )
    rows = np.linspace(0, len(data) - 1, min(len(data), ROWS_LOOKED_AT)).astype(int)
    return np.asarray(data.transitions(rows).obs, np.float32)


def _names(described: Description | None, agent: Agent) -> dict[str, Any]:
    """What a description calls the numbers, where it is one of this agent's plant."""
    if described is None:
        return {}
    names, sizes = [*described.obs, *described.action], (agent.spaces.observation.size, agent.spaces.action.size)
    if (len(described.obs), len(described.action)) != sizes:
        return {}
    units = {name: column.unit for name, column in described.columns.items() if column.unit and name in names}
    return {"names": names, "units": units}


def say_export(path: Path, told: dict[str, Any]) -> None:
    """An export in some lines."""
    terminal, found = console(to_errors=False), told["verified"]
    terminal.print(f"{path}: {told['title']}.", soft_wrap=True)
    terminal.print(f"{'files':>16}  {', '.join(told['files'])}", soft_wrap=True)
    for name, value in told["facts"].items():
        terminal.print(f"{name:>16}  {value}", soft_wrap=True)
    for line in timing_lines(told.get("timing")):
        terminal.print(line, soft_wrap=True)
    if found is None:
        terminal.print(f"{'verified':>16}  no: it was not run beside the agent.", soft_wrap=True)
        return
    statuses = ", ".join(f"{name} {count:,}" for name, count in found["statuses"].items())
    terminal.print(
        f"{'verified':>16}  {found['samples']:,} samples beside the agent ({statuses}): it differs by at most "
        f"{found['max_difference']:.2g} half-widths, beyond the agent's own rounding by {found['max_error']:.2g} "
        f"(allowed {told['tolerance']:g}).",
        soft_wrap=True,
    )


def timing_lines(timing: dict[str, Any] | None) -> Iterator[str]:
    """What was measured, a line for each that was called."""
    if timing is None:
        return
    yield (
        f"{'time':>16}  microseconds of an action on one core ({timing['calls']:,} calls each, load of the machine "
        f"{timing['load']:g}; C with {' '.join(timing['flags'])})"
    )
    meets = timing.get("meets", {})
    for name, figures in timing["microseconds"].items():
        shown = ", ".join(f"{share} {micros:,.1f}" for share, micros in figures.items())
        told = ""
        if name in meets:
            one = meets[name]
            kept = "not even at p50" if one["up_to"] is None else f"up to {one['up_to']}"
            told = f"; {timing['rate']:g} Hz: {kept}, {one['share']:.2%} of the calls"
        yield f"{'':>18}{name}: {shown}{told}"
    for name, why in timing["missing"].items():
        yield f"{'':>18}{name}: not timed ({why})"
