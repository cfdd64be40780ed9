"""The descriptions in an FMU: what its variables are called, which step it takes, how it is built."""

from __future__ import annotations

import hashlib
import uuid
from typing import NamedTuple
from xml.etree import ElementTree as Xml

from fittedq.acting.status import ActingStatus

IDENTIFIER = "fittedq_controller"
"""The name of the library in an FMU."""
SOURCES = ("controller.c",)
STATUS_TEXT = "; ".join(f"{int(status)}: {status.name.lower().replace('_', ' ')}" for status in ActingStatus)


class Port(NamedTuple):
    """An input or output of the controller; the ends are None where nobody knows them."""

    name: str
    unit: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def attributes(self) -> dict[str, str]:
        """As a real variable of either version has them."""
        ends = {"min": self.low, "max": self.high}
        unit = {"unit": self.unit} if self.unit else {}
        return unit | {name: repr(float(end)) for name, end in ends.items() if end is not None}


class Described(NamedTuple):
    """What an FMU says of itself; value references count the time, the inputs, the outputs, and the status."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    sample: float | None
    """Seconds of a step; None: each step is one sample, however long."""
    about: str
    version: str
    agent: str
    """SHA-256 of the agent."""

    @property
    def ports(self) -> tuple[Port, ...]:
        """Inputs, then outputs, then the status, with names that differ."""
        taken, ports = {"time"}, list[Port]()
        for port in (*self.inputs, *self.outputs, Port("status")):
            stem = " ".join(port.name.split()) or "variable"
            name, number = stem, 1
            while name in taken:
                number += 1
                name = f"{stem}_{number}"
            taken.add(name)
            ports.append(port._replace(name=name))
        return tuple(ports)

    def token(self, version: str) -> str:
        """The identifier that a description and its library share, the same for the same controller."""
        told = repr((version, self.inputs, self.outputs, self.sample, self.version, self.agent))
        return "{" + str(uuid.UUID(hex=hashlib.sha256(told.encode()).hexdigest()[:32])) + "}"

    @property
    def input_references(self) -> list[int]:
        return list(range(1, len(self.inputs) + 1))

    @property
    def output_references(self) -> list[int]:
        """Those of the actions, and last that of the status."""
        first = len(self.inputs) + 1
        return list(range(first, first + len(self.outputs) + 1))


def _root(described: Described, version: str, **token: str) -> Xml.Element:
    return Xml.Element(
        "fmiModelDescription",
        {
            "fmiVersion": version,
            "modelName": IDENTIFIER,
            **token,
            "description": described.about,
            "generationTool": f"fittedq {described.version}",
            "variableNamingConvention": "flat",
        },
    )


def _units(root: Xml.Element, described: Described) -> None:
    units = dict.fromkeys(port.unit for port in described.ports if port.unit)
    if units:
        listed = Xml.SubElement(root, "UnitDefinitions")
        for unit in units:
            Xml.SubElement(listed, "Unit", name=unit)


def _experiment(root: Xml.Element, described: Described) -> None:
    if described.sample is not None:
        step = {"startTime": "0.0", "stepSize": repr(described.sample)}
        Xml.SubElement(root, "DefaultExperiment", step)


def _text(root: Xml.Element) -> bytes:
    Xml.indent(root)
    return Xml.tostring(root, encoding="UTF-8", xml_declaration=True)


def description_2(described: Described) -> bytes:
    """modelDescription.xml of FMI 2.0."""
    root = _root(described, "2.0", guid=described.token("2"))
    slave = {
        "modelIdentifier": IDENTIFIER,
        "canHandleVariableCommunicationStepSize": "false",
        "canGetAndSetFMUstate": "true",
        "canSerializeFMUstate": "true",
    }
    sources = Xml.SubElement(Xml.SubElement(root, "CoSimulation", slave), "SourceFiles")
    for name in ("fmi2.c", *SOURCES):
        Xml.SubElement(sources, "File", name=name)
    _units(root, described)
    categories = Xml.SubElement(root, "LogCategories")
    Xml.SubElement(categories, "Category", name="logStatusError")
    _experiment(root, described)
    variables = Xml.SubElement(root, "ModelVariables")
    for reference, port in enumerate(described.ports, 1):
        is_input, is_status = reference <= len(described.inputs), reference == len(described.ports)
        common = {"name": port.name, "valueReference": str(reference), "variability": "discrete"}
        told = {"causality": "input"} if is_input else {"causality": "output", "initial": "calculated"}
        text = {"description": STATUS_TEXT} if is_status else {}
        variable = Xml.SubElement(variables, "ScalarVariable", common | told | text)
        start = {"start": "0.0"} if is_input else {}
        Xml.SubElement(variable, "Integer" if is_status else "Real", port.attributes | start)
    structure = Xml.SubElement(root, "ModelStructure")
    # Variables are told by their place here, and in order of the references that is the same number.
    for element in ("Outputs", "InitialUnknowns"):
        listed = Xml.SubElement(structure, element)
        for reference in described.output_references:
            known = " ".join(map(str, described.input_references))
            Xml.SubElement(listed, "Unknown", index=str(reference), dependencies=known)
    return _text(root)


def description_3(described: Described) -> bytes:
    """modelDescription.xml of FMI 3.0."""
    root = _root(described, "3.0", instantiationToken=described.token("3"))
    step = {} if described.sample is None else {"fixedInternalStepSize": repr(described.sample)}
    capable = {"canGetAndSetFMUState": "true", "canSerializeFMUState": "true"}
    Xml.SubElement(root, "CoSimulation", {"modelIdentifier": IDENTIFIER, **capable, **step})
    _units(root, described)
    categories = Xml.SubElement(root, "LogCategories")
    Xml.SubElement(categories, "Category", name="logStatusError")
    _experiment(root, described)
    variables = Xml.SubElement(root, "ModelVariables")
    time = {"name": "time", "valueReference": "0", "causality": "independent", "variability": "continuous"}
    Xml.SubElement(variables, "Float64", time)
    for reference, port in enumerate(described.ports, 1):
        is_input, is_status = reference <= len(described.inputs), reference == len(described.ports)
        common = {"name": port.name, "valueReference": str(reference), "variability": "discrete"}
        told = {"causality": "input", "start": "0.0"} if is_input else {"causality": "output", "initial": "calculated"}
        text = {"description": STATUS_TEXT} if is_status else {}
        Xml.SubElement(variables, "Int32" if is_status else "Float64", common | told | text | port.attributes)
    structure = Xml.SubElement(root, "ModelStructure")
    for element in ("Output", "InitialUnknown"):
        for reference in described.output_references:
            known = " ".join(map(str, described.input_references))
            Xml.SubElement(structure, element, valueReference=str(reference), dependencies=known)
    return _text(root)


def build_description() -> bytes:
    """sources/buildDescription.xml of FMI 3.0."""
    root = Xml.Element("fmiBuildDescription", fmiVersion="3.0")
    configuration = Xml.SubElement(root, "BuildConfiguration", modelIdentifier=IDENTIFIER)
    files = Xml.SubElement(configuration, "SourceFileSet", language="C99")
    for name in ("fmi3.c", *SOURCES):
        Xml.SubElement(files, "SourceFile", name=name)
    return _text(root)
