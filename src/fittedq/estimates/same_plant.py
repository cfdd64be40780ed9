"""Whether the rows of a log can be of an agent's plant, and are new to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from fittedq.agent import Agent
from fittedq.data.dataset import Dataset
from fittedq.data.sketch import shared_rows
from fittedq.diagnose.verdicts import RARE
from fittedq.errors import UserError

MOST_SHARED = 0.5
"""Of the rows: at rest, rows of a coarse sensor are equal by chance."""
LOOKED_AT = 1_000
"""Of a log, spread evenly, that are looked at."""
MOST_STRANGE = 0.5
"""The share of unfamiliar states above which a log is doubted."""


def check_new(agent: Agent, data: Dataset) -> None:
    """A UserError where the agent learned from these rows: it is as good as their noise lets it look."""
    share = 0.0 if agent.learned is None else shared_rows(agent.learned, data)
    if share > MOST_SHARED:
        raise UserError(
            f"the agent learned from {share:.0%} of these rows, and looks better by them than it is; give rows that it "
            "has not seen: another log, or blocks held out before training (`fittedq data split LOG`).",
            argument="data",
        )


def check_plant(agent: Agent, data: Dataset) -> None:
    """A UserError unless the rows can be of the agent's plant: its sizes, its bounds."""
    size, actions = agent.spaces.observation.size, agent.limits
    if (data.obs_size, data.action_size) != (size, actions.size):
        raise UserError(
            f"found rows of {data.obs_size} observation and {data.action_size} action numbers, the agent's plant has "
            f"{size} and {actions.size}; give a log of that plant.",
            argument="data",
        )
    low, high = (np.asarray(end) for end in (data.action_set.low, data.action_set.high))
    room = 1e-6 * (high - low)
    if (np.asarray(actions.low) < low - room).any() or (np.asarray(actions.high) > high + room).any():
        raise UserError(
            f"found actions between {list(data.action_set.low)} and {list(data.action_set.high)}, the agent's lie "
            f"between {list(actions.low)} and {list(actions.high)}; give a log of that plant.",
            argument="data",
        )


def plant_doubts(agent: Agent, data: Dataset) -> Iterator[str]:
    """What speaks against it that the rows, of the agent's sizes, are its plant's: a sentence each."""
    yield from _column_doubts(agent.columns, data)
    if agent.familiarity is None:
        return
    seen = np.asarray(data.augmented(agent.augmented).transitions(_looked_at(data)).obs, np.float32)
    strange = float((agent.familiarity(seen) < RARE).mean())
    if strange > MOST_STRANGE:
        yield (
            f"{strange:.0%} of the log's states have a familiarity below {RARE:g} to the agent, and {RARE:.0%} of "
            "its own data; is it of its plant?"
        )


def export_doubts(about: Mapping[str, Any], data: Dataset) -> Iterator[str]:
    """`plant_doubts` of an exported controller, by what its `export.json` says `about` it."""
    yield from _column_doubts(about.get("columns", ()), data)
    ends = np.asarray(about.get("learned_between", ()), float)
    if not len(ends):
        return
    low, high = ends.T
    room = (high - low) / 2
    seen = np.asarray(data.transitions(_looked_at(data)).obs, float)
    outside = float(((seen < low - room) | (seen > high + room)).any(axis=1).mean())
    if outside > MOST_STRANGE:
        yield (
            f"{outside:.0%} of the log's states have a number that is far outside all that the controller learned "
            "from; is it of its plant?"
        )


def _column_doubts(own: Sequence[str], data: Dataset) -> Iterator[str]:
    others = () if data.description is None else data.description.called
    apart = [f"{other!r}, not {one!r}" for one, other in zip(own, others, strict=False) if one != other]
    if apart:
        yield f"The log's columns are others than the agent learned from ({', '.join(apart[:3])}); is it of its plant?"


def _looked_at(data: Dataset) -> Int[np.ndarray, "k"]:
    return np.unique(np.linspace(0, len(data) - 1, min(LOOKED_AT, len(data))).astype(int))
