"""Which measured values are to follow which set-points, where nobody says it anew."""

from __future__ import annotations

from collections.abc import Sequence

from fittedq.control.augmentation import Augmentation
from fittedq.data.description import Description
from fittedq.diagnose.control import Tracked


def told_to_follow(told: Sequence[Augmentation] = (), described: Description | None = None) -> list[Tracked]:
    """What is to follow what: as the plant is described, else as the agents were `told`."""
    names = () if described is None else described.obs
    return _set_points(described) or _errors(told, names)


def _set_points(described: Description | None) -> list[Tracked]:
    """The columns that have a set-point in a description."""
    if described is None:
        return []
    found = []
    for place, name in enumerate(described.obs):
        column = described.columns.get(name)
        if column is None or column.set_point is None:
            continue
        label = f"{name} in {column.unit}" if column.unit else name
        if isinstance(column.set_point, str):
            found.append(Tracked(place, described.obs.index(column.set_point), name=label))
        else:
            found.append(Tracked(place, target=float(column.set_point), name=label))
    return found


def _errors(told: Sequence[Augmentation], names: Sequence[str]) -> list[Tracked]:
    """What agents see follows what."""
    seen = dict.fromkeys(error for one in told for error in (*one.errors, *one.integrals))
    aims = [(one.set_point, one.value if one.set_point is None else None) for one in seen]
    return [Tracked(one.measured, *aim, name=called(one.measured, names)) for one, aim in zip(seen, aims, strict=True)]


def called(place: int, names: Sequence[str]) -> str:
    """What a coordinate is called, where that is known."""
    return names[place] if place < len(names) else ""
