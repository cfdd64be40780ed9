"""The registry: one line per algorithm."""

from __future__ import annotations

from fittedq.algorithms.amortized_fqi import AmortizedFQI
from fittedq.algorithms.base import Algorithm
from fittedq.algorithms.ddpg import DDPG
from fittedq.algorithms.explicit_fqi import ExplicitFQI
from fittedq.algorithms.nfqca import NFQCA
from fittedq.algorithms.sac import SAC
from fittedq.algorithms.sac_v import SACValue
from fittedq.algorithms.smooth_fqi import SmoothFQI
from fittedq.algorithms.svg import SVG
from fittedq.algorithms.td3 import TD3
from fittedq.errors import UserError, nearest

REGISTRY: dict[str, type[Algorithm]] = {
    cls.name: cls for cls in (ExplicitFQI, AmortizedFQI, NFQCA, SmoothFQI, DDPG, TD3, SACValue, SAC, SVG)
}


def find(name: str) -> type[Algorithm]:
    """The registered algorithm of that name, or a UserError with the nearest ones."""
    if not isinstance(name, str):
        raise UserError(f"found {name!r}, expected a name of: {', '.join(REGISTRY)}.", argument="algorithm")
    if name not in REGISTRY:
        raise UserError(f"algorithm {name!r} is unknown; {nearest(name, REGISTRY)}")
    return REGISTRY[name]
