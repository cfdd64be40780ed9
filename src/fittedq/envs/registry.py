"""Environments by name: Gymnasium's ids, classes in modules and files, arguments and wrappers; and whose word it is
(`code.AbstractNamed`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import gymnasium

from fittedq.code import AbstractNamed, find_code, import_code
from fittedq.envs.gymnax import COMPILED, find_compiled
from fittedq.envs.hosted import HostedEnv
from fittedq.errors import UserError, nearest
from fittedq.files import Json


@dataclass(frozen=True)
class NamedEnv(AbstractNamed):
    """A Gymnasium id, with "module:Id" to import a module first, or a class as "module:Class" or "file.py:Class".

    `kwargs` are its arguments; each of `wrappers`, "module:Name" or "file.py:Name", is called with the environment and
    returns it wrapped, the first one innermost.
    """

    what: ClassVar[str] = "environment"
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


def name_of(env: object) -> NamedEnv | None:
    """The name that `env` is, as a text or already read; None where it is no name."""
    named = NamedEnv(env) if isinstance(env, str) else env
    return named if isinstance(named, NamedEnv) else None


def _made(name: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    called = f"environment {name!r}"
    if name.startswith(COMPILED):
        return HostedEnv(find_compiled(name, kwargs), name)
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
