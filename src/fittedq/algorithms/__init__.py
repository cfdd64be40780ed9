"""The registry: one line per algorithm."""

from __future__ import annotations

from fittedq.algorithms.base import Algorithm
from fittedq.algorithms.ddpg import DDPG
from fittedq.algorithms.sac import SAC
from fittedq.algorithms.sac_v import SACValue
from fittedq.algorithms.td3 import TD3
from fittedq.errors import UserError, nearest

REGISTRY: dict[str, type[Algorithm]] = {cls.name: cls for cls in (DDPG, TD3, SACValue, SAC)}


def find(name: str) -> type[Algorithm]:
    """The registered algorithm of that name, or a UserError with the nearest ones."""
    if name not in REGISTRY:
        raise UserError(f"algorithm {name!r} is unknown; {nearest(name, REGISTRY)}")
    return REGISTRY[name]
