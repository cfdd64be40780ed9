"""Environments by name: Gymnasium's ids, classes in modules and files, arguments and wrappers; and whose word it is.

A name that the user gives is followed: its module is imported. A name that only a file gives (a run's settings, an
agent's manifest) is followed as far as what is installed and registered; code that it names is imported once the user
names it too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import gymnasium

from fittedq.envs.hosted import HostedEnv
from fittedq.envs.native import find_jax_env
from fittedq.errors import UserError, nearest
from fittedq.files import Json


@dataclass(frozen=True)
class NamedEnv:
    """A Gymnasium id, with "module:Id" to import a module first, or a class as "module:Class" or "file.py:Class".

    `kwargs` are its arguments; each of `wrappers`, "module:Name" or "file.py:Name", is called with the environment and
    returns it wrapped, the first one innermost.
    """

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    named_by: str | None = None
    """The file that names it, as words of a sentence; None: the user."""

    @staticmethod
    def of(value: Json, named_by: str) -> NamedEnv | None:
        """The environment that a file names, by `describe`; None where it names none."""
        if value is None:
            return None
        parts: Json = {"id": value} if isinstance(value, str) else value
        if (
            not isinstance(parts, dict)
            or not isinstance(parts.get("id"), str)
            or not isinstance(parts.get("kwargs", {}), dict)
            or not isinstance(parts.get("wrappers", []), list)
            or not all(isinstance(wrapper, str) for wrapper in parts.get("wrappers", []))
        ):
            raise UserError(f"{named_by}: found {value!r} for an environment, expected an id; the file is damaged.")
        return NamedEnv(parts["id"], parts.get("kwargs", {}), tuple(parts.get("wrappers", [])), named_by)

    def describe(self) -> str | dict[str, Any]:
        """The name as JSON: the id where there is nothing more."""
        if not self.kwargs and not self.wrappers:
            return self.id
        return {"id": self.id, "kwargs": dict(self.kwargs), "wrappers": list(self.wrappers)}

    def __str__(self) -> str:
        arguments = "".join(f", {name}={value!r}" for name, value in self.kwargs.items())
        return self.id + arguments + "".join(f" in {wrapper}" for wrapper in self.wrappers)

    @property
    def code(self) -> tuple[str, ...]:
        """What of it may import code or read a file: a module part, wrappers, and words among the arguments."""
        ids = (self.id,) if ":" in self.id else ()
        words = (f"{name}={value}" for name, value in self.kwargs.items() if any(_words(value)))
        return (*ids, *self.wrappers, *words)

    def trusted(self, names: Sequence[str]) -> NamedEnv:
        """The same, named by the user, if `names` hold all of its code; otherwise it stays the file's."""
        return dataclasses.replace(self, named_by=None) if set(self.code) <= set(names) else self

    def check_trusted(self) -> None:
        """A UserError where a file names code and the user did not."""
        if self.named_by is not None and self.code:
            flags = " ".join(f"--trust-code {shlex.quote(name)}" for name in self.code)
            raise UserError(
                f"{self.named_by} names code to be run for its environment: {', '.join(self.code)}. If you trust it, "
                f"name it yourself: {flags} (in Python trust_code={list(self.code)!r})."
            )

    def make(self) -> gymnasium.Env:
        """A fresh environment for the host, or a UserError that says what is missing."""
        self.check_trusted()
        env = _made(self.id, dict(self.kwargs))
        for wrapper in self.wrappers:
            called = f"wrapper {wrapper!r}"
            wrap = find_code(wrapper, called)
            if not callable(wrap):
                raise UserError(f"{called}: found {type(wrap).__name__}, expected a class or function of environments.")
            env = _checked(_called(called, lambda env=env, wrap=wrap: wrap(env)), called)
        return env


def check_needed(names: Sequence[str], *envs: NamedEnv | None) -> None:
    """A UserError for a name to be trusted that is code of none of these environments."""
    needed = [name for env in envs if env is not None for name in env.code]
    for name in names:
        if name not in needed:
            hint = nearest(name, needed) if needed else "leave it out."
            raise UserError(
                f"found {name!r}, which no environment that is named there needs; {hint}", argument="trust_code"
            )


def name_of(env: object) -> NamedEnv | None:
    """The name that `env` is, as a text or already read; None where it is no name."""
    named = NamedEnv(env) if isinstance(env, str) else env
    return named if isinstance(named, NamedEnv) else None


def find_code(name: str, called: str) -> object:
    """The object that "module:Name" or "file.py:Name" names; `called` is what a sentence calls it."""
    part, _, attribute = name.rpartition(":")
    if not part or not attribute:
        raise UserError(f"{called}: expected 'module:Name' or 'file.py:Name'.")
    module = import_code(part, called)
    if not hasattr(module, attribute):
        raise UserError(f"{called}: {part} has no {attribute!r}; {nearest(attribute, vars(module))}")
    return getattr(module, attribute)


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


def _made(name: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    called = f"environment {name!r}"
    if name.startswith("jax/"):
        return HostedEnv(find_jax_env(name, **kwargs), name)
    part, separator, inner = name.rpartition(":")
    if separator:
        if not part or not inner:
            raise UserError(f"{called}: expected 'module:Id', 'module:Class' or 'file.py:Class'.")
        module = import_code(part, called)
        if inner not in gymnasium.registry:
            made = getattr(module, inner, None)
            if not callable(made):
                ids = [key for key in gymnasium.registry if _registered_by(key, part)]
                own = {name: one for name, one in vars(module).items() if callable(one)}
                classes = [name for name, one in own.items() if getattr(one, "__module__", "") == module.__name__]
                raise UserError(
                    f"{called}: {part} registers no {inner!r} and has no class of that name; "
                    f"{nearest(inner, [*ids, *classes])}"
                )
            return _checked(_called(called, lambda: made(**kwargs)), called)
        name = inner
    if name not in gymnasium.registry and not _is_versionless(name):
        raise UserError(f"{called} is unknown; {nearest(name, gymnasium.registry)}")
    return _called(called, lambda: gymnasium.make(name, disable_env_checker=True, **kwargs))


def _registered_by(key: str, part: str) -> bool:
    return part in str(gymnasium.registry[key].entry_point)


def _is_versionless(name: str) -> bool:
    """Whether Gymnasium takes the newest version of this name."""
    return any(key.startswith(f"{name}-v") for key in gymnasium.registry)


_Made = TypeVar("_Made")


def _called(called: str, make: Callable[[], _Made]) -> _Made:
    """What `make` makes; what it raises is a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()
    except UserError:
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        extra = "mujoco" if "mujoco" in str(error).lower() else None
        hint = f"pip install 'fittedq[{extra}]'" if extra else "install it"
        raise UserError(f"{called} needs a package that is not installed ({error}); {hint}.") from error
    except ModuleNotFoundError as error:
        raise UserError(f"{called} needs the module {error.name!r}, which is not installed.") from error
    except gymnasium.error.Error as error:
        raise UserError(f"{called} could not be made: {error}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{called} could not be made: {type(error).__name__}: {error}.") from error


def _checked(made: object, called: str) -> gymnasium.Env:
    if not isinstance(made, gymnasium.Env):
        raise UserError(f"{called} returned {type(made).__name__}, expected a gymnasium.Env.")
    return made


def _words(value: object) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _words(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _words(part)
