"""A controller as FMUs (functional mock-up units) for co-simulation, of versions 2.0 and 3.0 of the interface.

Each holds the sources, libraries for the machines that the compiler at hand builds for, and its description. An
instance keeps its memory to itself. An output is that of the newest inputs; a step ends a sample, or several, whose
inputs it holds.
"""

from __future__ import annotations

import abc
import ctypes
import io
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import ClassVar, NamedTuple, final
from xml.etree import ElementTree as Xml

import numpy as np
from jaxtyping import Bool, Float, Int

from fittedq.errors import UserError
from fittedq.export.c_file import CSource
from fittedq.export.fmu_description import (
    IDENTIFIER,
    SOURCES,
    Described,
    Port,
    build_description,
    description_2,
    description_3,
)
from fittedq.export.language import (
    About,
    AbstractExported,
    AbstractLanguage,
    AbstractRunning,
    Accepted,
    Golden,
    accepted,
)
from fittedq.export.program import ControlProgram
from fittedq.export.shared_library import MOST_USED, Machine, compiler_for, this_machine

FMU_2, FMU_3 = "controller_fmi2.fmu", "controller_fmi3.fmu"
WRAPPERS = ("instance.h", "fmi2.c", "fmi3.c")
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The date of all files in an archive: the same controller gives the same archive."""


def described(about: About) -> Described:
    """What an FMU says of a controller."""
    return Described(
        inputs=tuple(Port(name, about.units.get(name, "")) for name in about.observations),
        outputs=tuple(
            Port(name, about.units.get(name, ""), low, high)
            for name, low, high in zip(about.actions, about.low, about.high, strict=True)
        ),
        sample=about.sample,
        about=about.sentence,
        version=about.versions["fittedq"],
        agent=about.agent,
    )


def zipped(files: Mapping[str, bytes]) -> bytes:
    """An archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, EARLIEST), files[name], zipfile.ZIP_DEFLATED)
    return content.getvalue()


def _header(told: Described, version: str) -> bytes:
    return (
        "/* What tells this controller from others. */\n"
        f'#define FMU_TOKEN "{told.token(version)}"\n'
        f'#define FMU_IDENTIFIER "{IDENTIFIER}"\n'
        f"#define FMU_SAMPLE {told.sample or 0.0!r}\n"
    ).encode()


@final
@dataclass(frozen=True)
class Fmu(AbstractLanguage):
    """Two archives, one for each version of the interface."""

    name: ClassVar[str] = "fmu"
    title: ClassVar[str] = "FMUs of FMI 2.0 and FMI 3.0 for co-simulation"
    machines: tuple[str, ...] = MOST_USED
    """Those that libraries are built for, by name, where the compiler builds for them; always also this one."""

    def built(self) -> list[Machine]:
        """The machines that libraries are built for here."""
        wanted = {this_machine().name, *self.machines}
        return [machine for machine in compiler_for().machines if machine.name in wanted]

    def files(self, program: ControlProgram, about: About, golden: Golden) -> dict[str, bytes]:
        written = CSource().files(program, about, golden)
        sources = {name: written[name] for name in ("controller.c", "controller.h")}
        folder = resources.files("fittedq.export") / "fmu_sources"
        sources |= {name: (folder / name).read_bytes() for name in WRAPPERS}
        told, machines = described(about), self.built()
        return {FMU_2: _archive_2(told, sources, machines), FMU_3: _archive_3(told, sources, machines)}

    @contextmanager
    def running(self, folder: Path) -> Iterator[AbstractExported]:
        machine = this_machine()
        with tempfile.TemporaryDirectory(prefix="fittedq-") as scratch:
            second = opened_archive(folder / FMU_2, Path(scratch), machine.fmi2, "guid")
            third = opened_archive(folder / FMU_3, Path(scratch), machine.name, "instantiationToken")
            with closing(Fmi2(second)) as one, closing(Fmi3(third)) as other:
                yield BothVersions(one, other)


@accepted.register
def _(language: Fmu) -> Accepted:
    return Accepted(options={"machines": [machine.name for machine in language.built()]})


def _library(sources: Mapping[str, bytes], machine: Machine, wrapper: str) -> bytes:
    return compiler_for()(sources, machine, (wrapper, *SOURCES))


def _archive_2(told: Described, sources: Mapping[str, bytes], machines: Iterable[Machine]) -> bytes:
    sources = {name: content for name, content in sources.items() if name != "fmi3.c"} | {"fmu.h": _header(told, "2")}
    libraries = {
        f"binaries/{machine.fmi2}/{IDENTIFIER}{machine.suffix}": _library(sources, machine, "fmi2.c")
        for machine in machines
        if machine.fmi2 is not None
    }
    own = {f"sources/{name}": content for name, content in sources.items()}
    return zipped({"modelDescription.xml": description_2(told)} | own | libraries)


def _archive_3(told: Described, sources: Mapping[str, bytes], machines: Iterable[Machine]) -> bytes:
    sources = {name: content for name, content in sources.items() if name != "fmi2.c"} | {"fmu.h": _header(told, "3")}
    libraries = {
        f"binaries/{machine.name}/{IDENTIFIER}{machine.suffix}": _library(sources, machine, "fmi3.c")
        for machine in machines
    }
    own = {f"sources/{name}": content for name, content in sources.items()}
    own["sources/buildDescription.xml"] = build_description()
    return zipped({"modelDescription.xml": description_3(told)} | own | libraries)


# ---------------------------------------------------------------------- at work


class Opened(NamedTuple):
    """An archive of this controller: its library for this machine, and what is needed to drive it."""

    library: ctypes.CDLL
    token: bytes
    step: float
    """Seconds; any number where a step is a sample, however long."""
    inputs: np.ndarray
    """Value references."""
    outputs: np.ndarray
    status: np.ndarray


def opened_archive(archive: Path, place: Path, folder: str | None, token: str) -> Opened:
    """The library in an archive's `folder`, written into `place` and loaded; `token` is the attribute that tells it."""
    with zipfile.ZipFile(archive) as files:
        root = Xml.fromstring(files.read("modelDescription.xml"))
        name = f"binaries/{folder}/{IDENTIFIER}{this_machine().suffix}"
        if name not in files.namelist():
            raise UserError(f"export: {archive.name} holds no library for this machine ({this_machine().name}).")
        library = place / f"{archive.stem}{this_machine().suffix}"
        library.write_bytes(files.read(name))
    variables = [one.attrib for one in root.iterfind("ModelVariables/*")]
    inputs, outputs = (
        np.array([int(one["valueReference"]) for one in variables if one.get("causality") == causality], np.uint32)
        for causality in ("input", "output")
    )
    experiment = root.find("DefaultExperiment")
    step = 1.0 if experiment is None else float(experiment.attrib["stepSize"])
    return Opened(ctypes.CDLL(str(library)), root.attrib[token].encode(), step, inputs, outputs[:-1], outputs[-1:])


def _address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


class AbstractInstance(AbstractRunning):
    """An instance, driven as a simulator drives it: inputs are set, a step is taken, outputs are read."""

    @abc.abstractmethod
    def call(self, function: str, *arguments: object) -> None:
        """A function of the interface on this instance; a UserError where it tells of an error."""

    def check(self, function: str, told: int) -> None:
        """A UserError where a function told of an error."""
        if told:
            raise UserError(f"export: {function} of the FMU told of an error ({told}).")


@final
class Fmi2(AbstractInstance):
    """Of FMI 2.0."""

    def __init__(self, opened: Opened):
        self._opened, self._time, library = opened, 0.0, opened.library
        library.fmi2Instantiate.restype = ctypes.c_void_p
        made = library.fmi2Instantiate(b"controller", 1, ctypes.c_char_p(opened.token), None, None, 0, 0)
        if not made:
            raise UserError("export: the FMU of FMI 2.0 gives no instance.")
        self._instance = ctypes.c_void_p(made)
        self.reset()

    def call(self, function: str, *arguments: object) -> None:
        self.check(function, getattr(self._opened.library, function)(self._instance, *arguments))

    def reset(self, before: Float[np.ndarray, "m"] | None = None) -> None:
        refuse_before(before)
        self.call("fmi2Reset")
        self.call("fmi2SetupExperiment", 0, ctypes.c_double(0), ctypes.c_double(0), 0, ctypes.c_double(0))
        self.call("fmi2EnterInitializationMode")
        self.call("fmi2ExitInitializationMode")
        self._time = 0.0

    def step(self, obs: Float[np.ndarray, "o"]) -> tuple[Float[np.ndarray, "m"], int]:
        _, _, step, inputs, outputs, at = self._opened
        action, status = np.zeros(len(outputs)), np.zeros(1, np.int32)
        given = np.asarray(obs, float)
        self.call("fmi2SetReal", _address(inputs), ctypes.c_size_t(len(inputs)), _address(given))
        self.call("fmi2DoStep", ctypes.c_double(self._time), ctypes.c_double(step), 1)
        self._time += step
        self.call("fmi2GetReal", _address(outputs), ctypes.c_size_t(len(outputs)), _address(action))
        self.call("fmi2GetInteger", _address(at), ctypes.c_size_t(1), _address(status))
        return action.astype(np.float32), int(status[0])

    def close(self) -> None:
        self._opened.library.fmi2FreeInstance(self._instance)


@final
class Fmi3(AbstractInstance):
    """Of FMI 3.0."""

    def __init__(self, opened: Opened):
        self._opened, self._time, library = opened, 0.0, opened.library
        library.fmi3InstantiateCoSimulation.restype = ctypes.c_void_p
        no = ctypes.c_bool(False)
        words = (b"controller", ctypes.c_char_p(opened.token), None, no, no, no, no)
        made = library.fmi3InstantiateCoSimulation(*words, None, ctypes.c_size_t(0), None, None, None)
        if not made:
            raise UserError("export: the FMU of FMI 3.0 gives no instance.")
        self._instance = ctypes.c_void_p(made)
        self.reset()

    def call(self, function: str, *arguments: object) -> None:
        self.check(function, getattr(self._opened.library, function)(self._instance, *arguments))

    def reset(self, before: Float[np.ndarray, "m"] | None = None) -> None:
        refuse_before(before)
        no, zero = ctypes.c_bool(False), ctypes.c_double(0)
        self.call("fmi3Reset")
        self.call("fmi3EnterInitializationMode", no, zero, zero, no, zero)
        self.call("fmi3ExitInitializationMode")
        self._time = 0.0

    def step(self, obs: Float[np.ndarray, "o"]) -> tuple[Float[np.ndarray, "m"], int]:
        _, _, step, inputs, outputs, at = self._opened
        action, status, told = np.zeros(len(outputs)), np.zeros(1, np.int32), np.zeros(3, np.bool_)
        given, reached = np.asarray(obs, float), np.zeros(1)
        count, number, one = (ctypes.c_size_t(size) for size in (len(inputs), len(outputs), 1))
        self.call("fmi3SetFloat64", _address(inputs), count, _address(given), count)
        flags = (ctypes.c_void_p(told.ctypes.data + place) for place in range(3))
        time, long = ctypes.c_double(self._time), ctypes.c_double(step)
        self.call("fmi3DoStep", time, long, ctypes.c_bool(True), *flags, _address(reached))
        self._time += step
        self.call("fmi3GetFloat64", _address(outputs), number, _address(action), number)
        self.call("fmi3GetInt32", _address(at), one, _address(status), one)
        return action.astype(np.float32), int(status[0])

    def close(self) -> None:
        self._opened.library.fmi3FreeInstance(self._instance)


def refuse_before(before: object) -> None:
    """A UserError where an episode is to begin after an action: an FMU has no such start."""
    if before is not None:
        raise UserError("an FMU begins as though nothing had been executed.", argument="before")


@final
class BothVersions(AbstractExported):
    """The two archives beside one another."""

    def __init__(self, first: AbstractInstance, second: AbstractInstance):
        self._first, self._second = first, second

    def run(
        self, obs: Float[np.ndarray, "N o"], begins: Bool[np.ndarray, "N"]
    ) -> tuple[Float[np.ndarray, "N m"], Int[np.ndarray, "N"]]:
        (actions, statuses), (others, told) = self._first.run(obs, begins), self._second.run(obs, begins)
        if (actions != others).any() or (statuses != told).any():
            raise UserError("export: the FMUs of FMI 2.0 and FMI 3.0 differ from one another.")
        return actions, statuses
