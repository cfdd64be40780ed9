"""Methods of one's own by name, "module:Name" or "file.py:Name", and whose word it is (`code.AbstractNamed`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.code import AbstractNamed, find_code, shortened, sketch
from fittedq.errors import UserError


@dataclass(frozen=True)
class NamedMethod(AbstractNamed):
    """A class of a method, or a method, in a module or a file."""

    what: ClassVar[str] = "method"
    name: str
    named_by: str | None = None

    @staticmethod
    def of(value: object, named_by: str | None = None) -> NamedMethod | None:
        """The method that a file, or else the user, names in words; None where it is named otherwise, or not at all."""
        return NamedMethod(value, named_by) if isinstance(value, str) and ":" in value else None

    @property
    def code(self) -> tuple[str, ...]:
        return (self.name,)

    def found(self) -> AbstractAlgorithm | type[AbstractAlgorithm]:
        """What it names, imported; a UserError where that is no method, or a file's word alone."""
        self.check_trusted()
        called = f"algorithm {self.name!r}"
        found = find_code(self.name, called)
        if not issubclass(found if isinstance(found, type) else type(found), AbstractAlgorithm):
            raise UserError(
                f"{called}: found {shortened(sketch(found))}, expected a method, such as one Composed of slots, or a "
                "class of methods."
            )
        return found  # pyright: ignore[reportReturnType]
