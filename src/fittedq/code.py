"""Code that no file holds: what files say of it instead, how it is given again, and how it is found by name.

A name that the user gives is followed: its module is imported. A name that only a file gives (a run's settings, an
agent's manifest) is followed as far as what is installed and registered; code that it names is imported once the user
names it too.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar

from fittedq.errors import MissingCode, UserError, nearest

UserCode = TypeVar("UserCode")

SKETCH_SHOWN = 200
"""Characters of a sketch in a sentence."""
MOST_BRACKETS = 8
"""Inside so many brackets a long sketch says no more."""
OPENING, CLOSING = "([{", ")]}"


def sketch(value: object) -> str:
    """The structure of an object as text: classes, fields, functions by name, arrays by type and shape.

    The same in every process, so that code given again can be compared with what a file says of it. What a function
    does, and the numbers it closes over, do not show.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, type):
        return value.__qualname__
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and shape is not None:
        return f"{dtype}{list(shape)}"
    if isinstance(value, functools.partial):
        return f"partial({sketch(value.func)}, {sketch(value.args)}, {sketch(value.keywords)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {sketch(part)}" for name, part in value.items()) + "}"
    if isinstance(value, tuple | list):
        names = getattr(value, "_fields", None)
        parts = [sketch(part) for part in value]
        if names is None:
            return f"({', '.join(parts)})"
        return f"{type(value).__name__}({', '.join(map('='.join, zip(names, parts, strict=True)))})"
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value) if field.repr}
        named = ", ".join(f"{name.lstrip('_')}={sketch(part)}" for name, part in fields.items())
        return f"{type(value).__qualname__}({named})"
    if inspect.ismethod(value):
        return f"{sketch(value.__self__)}.{value.__name__}"
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def by_name(code: object) -> dict[str, Any]:
    """What a user gives as `code=`, by name: a mapping as it is, anything else as the algorithm."""
    if code is None:
        return {}
    if isinstance(code, Mapping):
        return {str(name): part for name, part in code.items()}
    return {"algorithm": code}


def again(name: str, text: str, given: UserCode | None, where: str, found: str | None = None) -> UserCode:
    """`given`, the user's code of that name; a UserError where it is None or unlike `text`, which the file `where` has.

    `found` is the text of `given`, where that is not its sketch.
    """
    if given is None:
        method = name == "algorithm"
        how = "code=METHOD" if method else f"code={{{name!r}: …}}"
        word = "--code FILE.py:NAME, or " * method
        raise MissingCode(
            f"{where}: its {name} is code, which no file holds: {shortened(text)}; give it again, {word}in Python "
            f"{how} in fittedq.load or fittedq.resume."
        )
    found = sketch(given) if found is None else found
    if found != text:
        one, other = _differing(found, text)
        raise UserError(
            f"found {name} {one}, expected {other}, as {where} has it; give what was trained with.", argument="code"
        )
    return given


def refuse_unknown(code: Mapping[str, Any], names: set[str]) -> None:
    """A UserError where `code` holds a name that nothing asks for."""
    for name in code:
        if name not in names:
            raise UserError(f"found {name!r}, which is none of its code; {nearest(name, names)}", argument="code")


def told(value: object) -> str:
    """A value as a sentence names it, also one of many lines, or of more digits than Python writes."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return shortened(sketch(value) if callable(value) or "\n" in text else text)


def shortened(text: str) -> str:
    """`text`, cut to what a sentence bears: of a sketch the outermost brackets are left, `Composed(fqi=FQI(…), …)`."""
    depth = MOST_BRACKETS
    while len(text) > SKETCH_SHOWN and depth:
        depth -= 1
        text = _folded(text, depth)
    return text if len(text) <= SKETCH_SHOWN else f"{text[:SKETCH_SHOWN]}…"


def _folded(text: str, most: int) -> str:
    """`text` without what lies inside more than `most` brackets."""
    depth, kept = 0, ""
    for sign, following in zip(text, f"{text[1:]} ", strict=True):
        depth -= sign in CLOSING
        kept += sign if depth <= most else ""
        if sign in OPENING:
            kept += "…" if depth == most and following not in CLOSING else ""
            depth += 1
    return kept


def _differing(one: str, other: str) -> tuple[str, str]:
    """The first fields of two sketches that differ, each as a sentence bears it."""
    pairs = enumerate(zip(one, other, strict=False))
    place = next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))
    fields = [field.start() for field in re.finditer(r"\w+=", one[:place])]
    start = next((start for start in reversed(fields) if _end(one, start) >= place), 0)
    first, second = (
        f"{'…' * (start > 0)}{shortened(text[start:end])}{'…' * (end < len(text))}"
        for text, end in ((text, _end(text, start)) for text in (one, other))
    )
    return first, second


def _end(text: str, start: int) -> int:
    """Where the field of a sketch ends that begins at `start`."""
    depth, end = 0, start
    while end < len(text) and depth >= 0 and (depth or text[end] != ","):
        depth += (text[end] in OPENING) - (text[end] in CLOSING)
        end += depth >= 0
    return end


# ---------------------------------------------------------------------- code by name


Named = TypeVar("Named", bound="AbstractNamed")


class AbstractNamed(abc.ABC):
    """What a user or a file names in words, some of which may be code that is imported. A frozen dataclass."""

    what: ClassVar[str]
    """Which part of a run it is, in a sentence."""
    named_by: str | None
    """The file that names it, as words of a sentence; None: the user."""

    @property
    @abc.abstractmethod
    def code(self) -> tuple[str, ...]:
        """What of it may import code or read a file."""

    def trusted(self: Named, names: Sequence[str]) -> Named:
        """The same, named by the user, if `names` hold all of its code; otherwise it stays the file's."""
        trusts = set(self.code) <= set(names)
        return dataclasses.replace(self, named_by=None) if trusts else self  # pyright: ignore[reportArgumentType]

    def check_trusted(self) -> None:
        """A UserError where a file names code and the user did not."""
        if self.named_by is not None and self.code:
            flags = " ".join(f"--trust-code {shlex.quote(name)}" for name in self.code)
            raise MissingCode(
                f"{self.named_by} names code to be run for its {self.what}: {', '.join(self.code)}. If you trust it, "
                f"name it yourself: {flags} (in Python trust_code={list(self.code)!r})."
            )


def check_needed(names: Sequence[str], *parts: AbstractNamed | None) -> None:
    """A UserError for a name to be trusted that is code of none of these."""
    needed = [name for part in parts if part is not None for name in part.code]
    for name in names:
        if name not in needed:
            hint = nearest(name, needed) if needed else "leave it out."
            raise UserError(
                f"found {name!r}, which no environment that is named there needs, nor its method; {hint}",
                argument="trust_code",
            )


def find_code(name: str, called: str) -> object:
    """The object that "module:Name" or "file.py:Name" names; `called` is what a sentence calls it."""
    part, _, attribute = name.rpartition(":")
    if not part or not attribute:
        raise UserError(f"{called}: expected 'module:Name' or 'file.py:Name'.")
    module = import_code(part, called)
    if not hasattr(module, attribute):
        raise UserError(f"{called}: {part} has no {attribute!r}; {nearest(attribute, _made_in(module))}")
    return getattr(module, attribute)


def _made_in(module: ModuleType) -> list[str]:
    """What a user may mean by a name of the module: no module that it imports, and nothing of Python's own."""
    return [name for name, held in vars(module).items() if not (name.startswith("__") or isinstance(held, ModuleType))]


def import_code(part: str, called: str) -> ModuleType:
    """The module, installed or in the current folder, or the Python file; a UserError names what is missing."""
    try:
        if part.endswith(".py"):
            return _imported_file(Path(part).resolve())
        _extend_path(os.getcwd())
        return importlib.import_module(part)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{called}: the file {error.filename} is not there; check the path.") from error
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if part == missing or part.startswith(f"{missing}."):
            what = f"the module {missing!r} is neither installed nor in the current folder"
        else:
            what = f"{part} needs the module {missing!r}, which is not installed"
        raise UserError(f"{called}: {what}.") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{called}: importing {part} raised {type(error).__name__}: {error}.") from error


def _imported_file(path: Path) -> ModuleType:
    """A file as a module, once; what lies beside it can be imported from it."""
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise FileNotFoundError(2, "not there", str(path))
    _extend_path(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _extend_path(folder: str) -> None:
    # At the end: a file of the user's never stands in for a module that is installed.
    if folder not in sys.path:
        sys.path.append(folder)
