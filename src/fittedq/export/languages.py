"""The languages that controllers are exported to, by the words of `fittedq export --to`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fittedq.errors import UserError, nearest
from fittedq.export.c_file import CSource
from fittedq.export.fmu import Fmu
from fittedq.export.folder import differences, read_export
from fittedq.export.language import AbstractFollowing, AbstractLanguage
from fittedq.export.numpy_file import NumpyFile
from fittedq.export.onnx_file import OnnxModel
from fittedq.export.structured_text import PlcBlock

LANGUAGES: dict[str, AbstractLanguage] = {
    language.name: language for language in (CSource(), Fmu(), NumpyFile(), OnnxModel(), PlcBlock())
}


def exported_language(told: Mapping[str, Any]) -> AbstractLanguage:
    """The language that `export.json` says, with its options."""
    language, options = language_of(told["target"]), told.get("options", {})
    if not isinstance(language, CSource):
        return language
    return CSource(int8=bool(options.get("int8")), libm=bool(options.get("libm", True)))


@contextmanager
def at_work(path: Path) -> Iterator[tuple[AbstractFollowing, dict[str, Any]]]:
    """The exported controller of a folder, and what its `export.json` says; a UserError where it is not as it was
    written, or is none that is called sample by sample here."""
    told = read_export(path)
    if wrong := differences(path):
        raise UserError(f"{path}: it is not the export that was verified ({wrong[0]}); export it anew.")
    with exported_language(told).running(path) as running:
        if not isinstance(running, AbstractFollowing):
            stepped = "c, numpy and onnx"
            raise UserError(f"{path}: found an export to {told['target']}, and only {stepped} are stepped one by one.")
        yield running, told


def language_of(to: object) -> AbstractLanguage:
    """A language, or that of a word; a UserError for all else."""
    if isinstance(to, AbstractLanguage):
        return to
    if not isinstance(to, str) or to not in LANGUAGES:
        told = ", ".join(LANGUAGES)
        raise UserError(f"found {to!r}, expected one of {told}; {nearest(str(to), LANGUAGES)}", argument="to")
    return LANGUAGES[to]
