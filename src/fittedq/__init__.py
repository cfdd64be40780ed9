"""Fitted Q-iteration for continuous actions: from transitions, logged or collected, to a controller.

What stands here is imported when it is first used: `import fittedq` alone costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fittedq.actions.base import Box
    from fittedq.actions.limits import Limits
    from fittedq.actions.mixed import Mixed
    from fittedq.actions.polytope import Polytope
    from fittedq.actions.state_box import StateBox
    from fittedq.agent import Agent
    from fittedq.api import fit, load, resume, stream, train
    from fittedq.data.dataset import Dataset
    from fittedq.errors import UserError
    from fittedq.types import Transition

    __version__: str

__all__ = [
    "Agent",
    "Box",
    "Dataset",
    "Limits",
    "Mixed",
    "Polytope",
    "StateBox",
    "Transition",
    "UserError",
    "fit",
    "load",
    "resume",
    "stream",
    "train",
]

_HOMES = {
    "fittedq.actions.base": ("Box",),
    "fittedq.actions.limits": ("Limits",),
    "fittedq.actions.mixed": ("Mixed",),
    "fittedq.actions.polytope": ("Polytope",),
    "fittedq.actions.state_box": ("StateBox",),
    "fittedq.agent": ("Agent",),
    "fittedq.api": ("fit", "load", "resume", "stream", "train"),
    "fittedq.data.dataset": ("Dataset",),
    "fittedq.errors": ("UserError",),
    "fittedq.types": ("Transition",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


class _Package(ModuleType):
    """Public names, imported at their first use."""

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("fittedq")
        if name not in _HOME:
            raise AttributeError(f"module 'fittedq' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOME[name]), name)

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the module fittedq.train must not hide the function of that name.
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
