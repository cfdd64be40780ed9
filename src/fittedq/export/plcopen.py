"""A function block as PLCopen XML (TC6, version 2.01), which programming systems of PLCs import."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as Xml

import numpy as np

from fittedq.export.st_block import literal
from fittedq.export.st_reader import FunctionBlock, Variable

NAMESPACE = "http://www.plcopen.org/xml/tc6_0201"
XHTML = "http://www.w3.org/1999/xhtml"
LISTS = {
    ("VAR_INPUT", False): "inputVars",
    ("VAR_OUTPUT", False): "outputVars",
    ("VAR", True): "localVars",
    ("VAR", False): "localVars",
}
"""(section, whether constant) → its element, in order."""
DATE = "2000-01-01T00:00:00"
"""The format wants one; the same controller gives the same file."""


def plcopen_xml(block: FunctionBlock, version: str, texts: Mapping[str, str]) -> bytes:
    """A project that holds one block; `texts` are what is told of its inputs and outputs, by name."""
    project = Xml.Element("project", xmlns=NAMESPACE)
    header = {"companyName": "", "productName": "fittedq", "productVersion": version, "creationDateTime": DATE}
    Xml.SubElement(project, "fileHeader", header)
    content = Xml.SubElement(project, "contentHeader", name=block.name)
    sizes = Xml.SubElement(content, "coordinateInfo")
    for language in ("fbd", "ld", "sfc"):
        Xml.SubElement(Xml.SubElement(sizes, language), "scaling", x="1", y="1")
    types = Xml.SubElement(project, "types")
    Xml.SubElement(types, "dataTypes")
    pou = Xml.SubElement(Xml.SubElement(types, "pous"), "pou", name=block.name, pouType="functionBlock")
    interface = Xml.SubElement(pou, "interface")
    for (section, constant), element in LISTS.items():
        listed = Xml.SubElement(interface, element, {"constant": "true"} if constant else {})
        for variable in block.of(section):
            if variable.constant == constant:
                _declare(listed, variable, texts.get(variable.name, ""))
    text = Xml.SubElement(Xml.SubElement(Xml.SubElement(pou, "body"), "ST"), "xhtml", xmlns=XHTML)
    text.text = block.body
    Xml.SubElement(Xml.SubElement(project, "instances"), "configurations")
    return Xml.tostring(project, encoding="utf-8", xml_declaration=True)


def _declare(listed: Xml.Element, variable: Variable, told: str) -> None:
    """A variable, with its type and the value that it begins with."""
    one = Xml.SubElement(listed, "variable", name=variable.name)
    kind = Xml.SubElement(one, "type")
    if variable.size is not None:
        kind = Xml.SubElement(kind, "array")
        Xml.SubElement(kind, "dimension", lower=str(variable.first), upper=str(variable.first + variable.size - 1))
        kind = Xml.SubElement(kind, "baseType")
    Xml.SubElement(kind, variable.kind)
    if any(variable.initial):
        _begin(Xml.SubElement(one, "initialValue"), variable)
    if told:
        Xml.SubElement(Xml.SubElement(one, "documentation"), "xhtml", xmlns=XHTML).text = told


def _begin(values: Xml.Element, variable: Variable) -> None:
    """The value that a variable begins with."""
    words = [_word(variable.kind, value) for value in variable.initial]
    if variable.size is None:
        Xml.SubElement(values, "simpleValue", value=words[0])
        return
    cells = Xml.SubElement(values, "arrayValue")
    for word in words:
        Xml.SubElement(Xml.SubElement(cells, "value"), "simpleValue", value=word)


def _word(kind: str, value: float) -> str:
    if kind == "BOOL":
        return "TRUE" if value else "FALSE"
    return str(int(value)) if kind == "DINT" else literal(value, np.float64 if kind == "LREAL" else np.float32)
