"""Algorithms as JSON and back; what of them is code is given again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from fittedq.algorithms import Asked, asked_for, find, package_of, registered
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.algorithms.named import NamedMethod
from fittedq.code import again, sketch, told
from fittedq.errors import UserError
from fittedq.settings import as_json, code_fields, from_json, is_code, setting_fields, split_settings, training_only

Code = Asked | Mapping[str, Any] | None
"""What no file holds, given again: an algorithm that is not in the registry (also as "file.py:Name"), or objects by
name."""


def as_saved(algorithm: AbstractAlgorithm) -> dict[str, Any]:
    """Its settings as JSON; one that is not in the registry is code itself, under the name `algorithm`.

    Whether it is `fitted` stands beside what is code alone, for no setting says it and no sketch shows it.
    """
    code = {} if registered(algorithm) else {"algorithm": {"code": _likeness(algorithm)}}
    alone = {} if not code or setting_fields(type(algorithm)) else {"fitted": algorithm.fitted}
    return code | alone | as_json(algorithm)


def origin(algorithm: AbstractAlgorithm, named: NamedMethod | None) -> dict[str, str]:
    """Where code of it is to be found, for who reads the file: the words that named it, or the package it came with."""
    if registered(algorithm):
        package = package_of(algorithm)
        return {} if package is None else {"package": package}
    return {} if named is None else {"method": named.name}


def code_like(settings: Mapping[str, Any], method: Asked) -> Code:
    """`method` as the code of the file that has these settings, where it is the one that the file tells of."""
    found, about = asked_for(method), settings.get("algorithm")
    return _as_code(found) if is_code(about) and about["code"] == _likeness(found) else None


def code_names(algorithm: AbstractAlgorithm) -> set[str]:
    """The names under which its code can be given again."""
    return {"algorithm", "action_set", *(field.name for field in code_fields(type(algorithm))), *_coded(algorithm)}


def code_to_act(algorithm: AbstractAlgorithm) -> list[str]:
    """The names of the code without which it cannot act."""
    idle = training_only(type(algorithm))
    return [name for name in _coded(algorithm) if name not in idle]


def _coded(algorithm: AbstractAlgorithm) -> list[str]:
    return [name for name, value in as_saved(algorithm).items() if is_code(value)]


def _as_code(algorithm: AbstractAlgorithm | type[AbstractAlgorithm]) -> AbstractAlgorithm | type[AbstractAlgorithm]:
    """What of it no file holds: the class, where it has settings, which files hold."""
    cls = algorithm if isinstance(algorithm, type) else type(algorithm)
    return cls if setting_fields(cls) else algorithm


def _likeness(algorithm: AbstractAlgorithm | type[AbstractAlgorithm]) -> str:
    """What tells it from others, beside settings: of one that has settings the name of its class."""
    return sketch(_as_code(algorithm))


def restored(
    saved: Mapping[str, Any],
    code: Mapping[str, Any],
    where: str,
    *,
    trust_code: Sequence[str] = (),
    idle: Callable[[type], Set[str]] = training_only,
) -> AbstractAlgorithm:
    """The algorithm of which `as_saved` and `origin` told the file at `where`, its code given again.

    Code that the file names itself is imported where `trust_code` names it too. It goes without the code of its
    class's `idle` settings: an agent, which is only to act, without training's.
    """
    name, settings = saved["algorithm"], dict(saved["settings"])
    about, given = settings.pop("algorithm", None), code.get("algorithm")
    named = NamedMethod.of(saved.get("method"), where) if given is None and is_code(about) else NamedMethod.of(given)
    given = given if named is None else _as_code(named.trusted(trust_code).found())
    cls = given if isinstance(given, type) else type(given)
    if given is not None and not issubclass(cls, AbstractAlgorithm):
        raise UserError(
            f"found {told(given)}, expected an algorithm, also as file.py:Name, or {{name: object}}.", argument="code"
        )
    if is_code(about):
        again("algorithm", about["code"], given, where, None if given is None else _likeness(given))
    elif given is not None:
        again("algorithm", find(name, saved.get("package")).__qualname__, given, where, cls.__qualname__)
    if isinstance(given, AbstractAlgorithm):
        found = as_saved(given)
        for key, value in settings.items():
            if found.get(key) != value:
                raise UserError(
                    f"found {key} = {told(found.get(key))}, expected {told(value)}, as {where} has it.", argument="code"
                )
        return given
    cls = find(name, saved.get("package")) if given is None else given
    (settings,) = split_settings(from_json(cls, settings, code, where, idle=idle(cls)), cls)
    return cls(**settings)
