"""Algorithms as JSON and back; what of them is code is given again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

from fittedq.algorithms import find, registered
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.code import again, sketch
from fittedq.errors import UserError
from fittedq.settings import as_json, code_fields, from_json, is_code, setting_fields, split_settings, training_only

Code = AbstractAlgorithm | type[AbstractAlgorithm] | Mapping[str, Any] | None
"""What no file holds, given again: an algorithm that is not in the registry, or objects by name."""


def as_saved(algorithm: AbstractAlgorithm) -> dict[str, Any]:
    """Its settings as JSON; one that is not in the registry is code itself, under the name `algorithm`.

    Whether it is `fitted` stands beside what is code alone, for no setting says it and no sketch shows it.
    """
    code = {} if registered(algorithm) else {"algorithm": {"code": _likeness(algorithm)}}
    alone = {} if not code or setting_fields(type(algorithm)) else {"fitted": algorithm.fitted}
    return code | alone | as_json(algorithm)


def code_names(algorithm: AbstractAlgorithm) -> set[str]:
    """The names under which its code can be given again."""
    return {"algorithm", "action_set", *(field.name for field in code_fields(type(algorithm))), *_coded(algorithm)}


def code_to_act(algorithm: AbstractAlgorithm) -> list[str]:
    """The names of the code without which it cannot act."""
    idle = training_only(type(algorithm))
    return [name for name in _coded(algorithm) if name not in idle]


def _coded(algorithm: AbstractAlgorithm) -> list[str]:
    return [name for name, value in as_saved(algorithm).items() if is_code(value)]


def _likeness(algorithm: AbstractAlgorithm | type[AbstractAlgorithm]) -> str:
    """What tells it from others, beside settings: of one that has settings the name of its class."""
    cls = algorithm if isinstance(algorithm, type) else type(algorithm)
    return sketch(cls if setting_fields(cls) else algorithm)


def restored(
    name: str,
    saved: Mapping[str, Any],
    code: Mapping[str, Any],
    where: str,
    *,
    idle: Callable[[type], Set[str]] = training_only,
) -> AbstractAlgorithm:
    """The algorithm of which `as_saved` told the file at `where`, its code given again.

    It goes without the code of its class's `idle` settings: an agent, which is only to act, without training's.
    """
    settings = dict(saved)
    about, given = settings.pop("algorithm", None), code.get("algorithm")
    cls = given if isinstance(given, type) else type(given)
    if given is not None and not issubclass(cls, AbstractAlgorithm):
        raise UserError(f"found {given!r}, expected an algorithm, or {{name: object}}.", argument="code")
    if is_code(about):
        again("algorithm", about["code"], given, where, None if given is None else _likeness(given))
    elif given is not None:
        again("algorithm", find(name).__qualname__, given, where, cls.__qualname__)
    if isinstance(given, AbstractAlgorithm):
        found = as_saved(given)
        for key, value in settings.items():
            if found.get(key) != value:
                raise UserError(
                    f"found {key} = {found.get(key)!r}, expected {value!r}, as {where} has it.", argument="code"
                )
        return given
    cls = find(name) if given is None else given
    (settings,) = split_settings(from_json(cls, settings, code, where, idle=idle(cls)), cls)
    return cls(**settings)
