"""The registry: one line per algorithm, and those that installed packages bring."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from importlib import metadata
from typing import Any, cast

from fittedq.algorithms.amortized_fqi import AmortizedFQI
from fittedq.algorithms.base import AbstractAlgorithm, check_saves_whole
from fittedq.algorithms.cql import CQL
from fittedq.algorithms.crossq import CrossQ
from fittedq.algorithms.ddpg import DDPG
from fittedq.algorithms.edac import EDAC
from fittedq.algorithms.explicit_fqi import ExplicitFQI
from fittedq.algorithms.iql import IQL
from fittedq.algorithms.named import NamedMethod
from fittedq.algorithms.nfqca import NFQCA
from fittedq.algorithms.rebrac import ReBRAC
from fittedq.algorithms.sac import SAC
from fittedq.algorithms.sac_v import SACValue
from fittedq.algorithms.simba import SimBa
from fittedq.algorithms.simba_v2 import SimbaV2
from fittedq.algorithms.smooth_fqi import SmoothFQI
from fittedq.algorithms.svg import SVG
from fittedq.algorithms.td3 import TD3
from fittedq.algorithms.td3_bc import TD3BC
from fittedq.algorithms.td7 import TD7
from fittedq.algorithms.tqc import TQC
from fittedq.algorithms.xqc import XQC
from fittedq.code import told
from fittedq.errors import MissingCode, UserError, in_one_line, nearest

REGISTRY: dict[str, type[AbstractAlgorithm]] = {
    cls.name: cls
    for cls in (
        ExplicitFQI,
        AmortizedFQI,
        NFQCA,
        SmoothFQI,
        DDPG,
        TD3,
        SACValue,
        SAC,
        SVG,
        TQC,
        SimBa,
        SimbaV2,
        TD7,
        CrossQ,
        XQC,
        TD3BC,
        IQL,
        CQL,
        EDAC,
        ReBRAC,
    )
}


AUTO = "auto"
"""Names no algorithm: it stands for the one that evidence speaks for, with its preset (`presets/auto.toml`)."""

RESERVED = frozenset({AUTO, *REGISTRY})
"""Names that no package can take."""

GROUP = "fittedq.algorithms"
"""The entry points by which an installed package brings algorithms: `name = "module:Class"`."""

Asked = str | AbstractAlgorithm | type[AbstractAlgorithm]
"""An algorithm as a user names it: by the registry's name or as "file.py:Name", a class, or one with its settings."""


def find(name: str, package: str | None = None) -> type[AbstractAlgorithm]:
    """The registered algorithm of that name, or a UserError with the nearest ones, or the `package` that had it."""
    if not isinstance(name, str):
        raise UserError(
            f"found {told(name)}, expected an algorithm, or a name of: {', '.join(REGISTRY)}.", argument="algorithm"
        )
    if name in REGISTRY:
        return REGISTRY[name]
    if name == AUTO:
        raise UserError(
            "found 'auto', which is chosen for training in an environment; expected the name of an algorithm here "
            "(`fittedq list`).",
            argument="algorithm",
        )
    if name in _entries():
        return _loaded(name)
    if package is not None:
        raise MissingCode(
            f"algorithm {name!r} came with the package {told(package)}, which is not installed here, or announces it "
            "no more; install it again."
        )
    own = " A method of your own is named as file.py:Name or module:Name." * any(sign in name for sign in "./")
    raise UserError(f"algorithm {name!r} is unknown; {nearest(name, [AUTO, *REGISTRY, *_entries()])}{own}")


def registered(algorithm: AbstractAlgorithm) -> bool:
    """Whether its name alone says what it is, here and in a file."""
    try:
        return find(algorithm.name) is type(algorithm)
    except UserError:
        return False


def package_of(algorithm: AbstractAlgorithm) -> str | None:
    """The installed package that brings it; None: fittedq, or none."""
    entry = _entries().get(algorithm.name)
    return entry.dist.name if entry is not None and entry.dist is not None and registered(algorithm) else None


def plugins() -> tuple[dict[str, type[AbstractAlgorithm]], list[str]]:
    """(the algorithms of installed packages by name, a sentence for each that cannot be had)."""
    found: dict[str, type[AbstractAlgorithm]] = {}
    faults = [
        f"{_announced(entry)}, has the name of one of fittedq's own, which it stays; rename it in that package."
        for entry in metadata.entry_points(group=GROUP)
        if entry.name in RESERVED
    ]
    for name in _entries():
        try:
            found[name] = _loaded(name)
        except UserError as error:
            faults.append(str(error))
    return found, faults


@functools.cache
def _entries() -> dict[str, metadata.EntryPoint]:
    """What installed packages announce, unread; a name of ours stays ours."""
    return {entry.name: entry for entry in metadata.entry_points(group=GROUP) if entry.name not in RESERVED}


def _loaded(name: str) -> type[AbstractAlgorithm]:
    entry = _entries()[name]
    where = _announced(entry)
    try:
        cls = entry.load()
        method = isinstance(cls, type) and issubclass(cls, AbstractAlgorithm)
        fits = method and cls.name == name
        if fits:
            cls()
    except (Exception, SystemExit) as error:  # also of a module that ends the process
        raise UserError(
            f"{where}, cannot be had ({in_one_line(error)}); mend that package, or uninstall it."
        ) from error
    if not fits:
        found = f"whose name is {cls.name!r}" if method else "which is no class of a method (AbstractAlgorithm)"
        raise UserError(
            f"{where}, is {entry.value}, {found}; expected a class whose name is {name!r}. Mend that package, or "
            "uninstall it."
        )
    return cls


def _announced(entry: metadata.EntryPoint) -> str:
    return f"algorithm {entry.name!r}, which the installed package {entry.dist.name if entry.dist else '?'} announces"


def class_of(algorithm: Asked) -> type[AbstractAlgorithm]:
    """The class of an algorithm, however it was named."""
    found = asked_for(algorithm)
    return found if isinstance(found, type) else type(found)


def asked_for(algorithm: Asked) -> AbstractAlgorithm | type[AbstractAlgorithm]:
    """The algorithm itself, where it was given or named as code, else its class."""
    named = NamedMethod.of(algorithm)
    algorithm = algorithm if named is None else named.found()
    cls = algorithm if isinstance(algorithm, type) else type(algorithm)
    if not issubclass(cls, AbstractAlgorithm):
        return find(algorithm)  # pyright: ignore
    check_saves_whole(cls)
    return algorithm  # pyright: ignore


def made(algorithm: Asked, settings: Mapping[str, Any]) -> AbstractAlgorithm:
    """The algorithm with these settings, which override those of an algorithm that was made in Python."""
    algorithm = asked_for(algorithm)
    if isinstance(algorithm, AbstractAlgorithm):
        return dataclasses.replace(cast(Any, algorithm), **settings) if settings else algorithm
    return algorithm(**settings)
