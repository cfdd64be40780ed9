"""The registry: one line per algorithm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from fittedq.algorithms.amortized_fqi import AmortizedFQI
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.algorithms.ddpg import DDPG
from fittedq.algorithms.explicit_fqi import ExplicitFQI
from fittedq.algorithms.nfqca import NFQCA
from fittedq.algorithms.sac import SAC
from fittedq.algorithms.sac_v import SACValue
from fittedq.algorithms.smooth_fqi import SmoothFQI
from fittedq.algorithms.svg import SVG
from fittedq.algorithms.td3 import TD3
from fittedq.errors import UserError, nearest

REGISTRY: dict[str, type[AbstractAlgorithm]] = {
    cls.name: cls for cls in (ExplicitFQI, AmortizedFQI, NFQCA, SmoothFQI, DDPG, TD3, SACValue, SAC, SVG)
}


Asked = str | AbstractAlgorithm | type[AbstractAlgorithm]
"""An algorithm as a user names it: by the registry's name, a class, or one with its settings."""


def find(name: str) -> type[AbstractAlgorithm]:
    """The registered algorithm of that name, or a UserError with the nearest ones."""
    if not isinstance(name, str):
        raise UserError(
            f"found {name!r}, expected an algorithm, or a name of: {', '.join(REGISTRY)}.", argument="algorithm"
        )
    if name not in REGISTRY:
        raise UserError(f"algorithm {name!r} is unknown; {nearest(name, REGISTRY)}")
    return REGISTRY[name]


def class_of(algorithm: Asked) -> type[AbstractAlgorithm]:
    """The class of an algorithm, however it was named."""
    cls = algorithm if isinstance(algorithm, type) else type(algorithm)
    return cls if issubclass(cls, AbstractAlgorithm) else find(algorithm)  # pyright: ignore[reportArgumentType]


def made(algorithm: Asked, settings: Mapping[str, Any]) -> AbstractAlgorithm:
    """The algorithm with these settings; they come before those that one made in Python has."""
    if isinstance(algorithm, AbstractAlgorithm):
        return dataclasses.replace(cast(Any, algorithm), **settings) if settings else algorithm
    return class_of(algorithm)(**settings)
