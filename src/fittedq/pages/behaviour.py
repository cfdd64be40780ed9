"""What a controller does: its episodes, its actions and values over the states, and what is seen of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float

from fittedq.agent import Agent
from fittedq.data.dataset import Dataset
from fittedq.diagnose.control import BAND_SHARE, Tracked, constant_stretches, observed
from fittedq.diagnose.trajectories import figure_rows
from fittedq.errors import UserError, plural
from fittedq.pages.blocks import AbstractBlock, Axis, Curve, Lines, Maps, Picture, Said, Table, View
from fittedq.pages.film import frames, frames_a_second, small_film
from fittedq.pages.page import Section
from fittedq.pages.subject import Maybe, Subject
from fittedq.runs.compare import Comparison, compared, rounds
from fittedq.types import Transition, needed

COORDINATES = 6
"""Coordinates of an observation, or of an action, that are drawn."""
GRID = {1: 201, 2: 61, 3: 25, 4: 15}
"""Points along each coordinate of a map, by their number."""
AGENT = "the controller"


def behaviour(subject: Subject) -> Section:
    """Episodes where it can act, else its actions beside those of the log; maps where states are few numbers."""
    agent = subject.agent.value
    if agent is None:
        return Section("does", "What it does", [Said(subject.agent.why, missing=True)])
    blocks: list[AbstractBlock] = []
    played = Maybe.of(lambda: play(subject, agent))
    log = subject.log
    if played.value is not None:
        blocks += _film(subject, agent) + _episodes(subject, agent, played.value)
    else:
        blocks.append(Said(played.why, missing=True))
        if log is not None:
            blocks += _beside_the_log(subject, agent, log)
    blocks += _maps(subject, agent, _visited(agent, played.value, log))
    return Section("does", "What it does", blocks)


def play(subject: Subject, agent: Agent) -> Comparison:
    """Whole episodes of the agent, and their figures."""
    plant, tracked, asked = subject.plant.value, subject.tracked, subject.asked
    if plant is None:
        raise UserError(subject.plant.why)
    several = list(islice(rounds({AGENT: agent}, plant, asked.seed, tracked), asked.episodes))
    return compared(several, plant, tracked, subject.seconds or 1.0)


# ---------------------------------------------------------------------- episodes


def _episodes(subject: Subject, agent: Agent, played: Comparison) -> list[AbstractBlock]:
    (row,), several = played.rows, played.episodes[AGENT]
    told = f"{plural(len(several), 'episode', 'episodes')} with the seed {subject.asked.seed}: return {row.mean}."
    blocks: list[AbstractBlock] = [Said(told)]
    if row.control is not None:
        head, *rows = figure_rows({AGENT: row.control}, subject.seconds)
        blocks.append(Table(head[1:], [one[1:] for one in rows]))
    plant = needed(subject.plant.value)
    limits = (plant.action_set.low, plant.action_set.high)
    titled = [(f"episode {place}", rows) for place, rows in enumerate(several)]
    return blocks + _signals(subject, agent, titled, limits)


def _signals(
    subject: Subject, agent: Agent, titled: Sequence[tuple[str, Transition]], limits: tuple[Any, Any]
) -> list[AbstractBlock]:
    """Measured values with set-points and bands, or all coordinates; actions and their limits; rewards."""
    obs_names, action_names = subject.names(agent)
    dt, x_label = subject.seconds or 1.0, "sample" if subject.seconds is None else "time in s"
    blocks: list[AbstractBlock] = []

    def over_time(title: str, label: str, curves: Sequence[Sequence[Curve]]) -> None:
        views = [
            View(name, (dt * np.arange(max(len(one.y) or len(one.low) for one in each))).tolist(), each)
            for (name, _), each in zip(titled, curves, strict=True)
        ]
        blocks.append(Lines(title, x_label, label, views))

    for one in subject.tracked:
        over_time(f"{one.label}, its set-point and band", one.label, [_followed(rows, one) for _, rows in titled])
    if not subject.tracked:
        each = [
            [Curve(name, column, color=place) for place, (name, column) in _columns(obs_names, observed(rows))]
            for _, rows in titled
        ]
        over_time("Observation", "observation", each)
    over_time("Action between its limits", "action", [_acted(rows, action_names, limits) for _, rows in titled])
    over_time("Reward", "reward", [[Curve("reward", np.asarray(rows.reward).tolist())] for _, rows in titled])
    return blocks


def _columns(names: Sequence[str], values: Float[np.ndarray, "t k"]) -> list[tuple[int, tuple[str, list[float]]]]:
    """Of at most so many coordinates: the place, the name and the values."""
    return list(enumerate(zip(names, np.asarray(values, float).T.tolist(), strict=True)))[:COORDINATES]


def _followed(rows: Transition, tracked: Tracked) -> list[Curve]:
    measured, setpoint = tracked.signals(observed(rows))
    width = np.zeros_like(setpoint)
    for part in constant_stretches(setpoint):
        first = setpoint[part.start]
        width[part] = tracked.band or BAND_SHARE * abs(first - measured[part.start])
    return [
        Curve("band", (), low=(setpoint - width).tolist(), high=(setpoint + width).tolist(), color=2),
        Curve("set-point", setpoint.tolist(), "dashed", color=2),
        Curve(tracked.label, measured.tolist()),
    ]


def _acted(rows: Transition, names: Sequence[str], limits: tuple[Any, Any]) -> list[Curve]:
    """Each action, held from sample to sample; the limits of each where they differ."""
    actions = _columns(names, np.asarray(rows.action))
    curves = [Curve(name, column, "steps", color=place) for place, (name, column) in actions]
    for which, ends in zip(("lower limit", "upper limit"), limits, strict=True):
        for end in dict.fromkeys(np.asarray(ends, float).tolist()[:COORDINATES]):
            curves.append(Curve(which, [end] * len(rows.reward), "dashed", color=5))
    return curves


def _beside_the_log(subject: Subject, agent: Agent, log: Dataset) -> list[AbstractBlock]:
    """In the log's first episode, what it would have done at each sample beside what was done."""
    if (log.obs_size, log.action_size) != (agent.spaces.observation.size, agent.spaces.action.size):
        return [Said("The log is of another plant: its rows have other sizes.", missing=True)]
    start, stop = log.episodes()[0]
    part = slice(start, min(stop, start + 2_000))
    raw, seen = log.transitions(part), log.augmented(agent.augmented).transitions(part)
    acted = np.asarray(raw.action)
    limits = (agent.action_set.low, agent.action_set.high)
    blocks = _signals(subject, agent, [("the log's first episode", raw)], limits)
    if agent.augmented is not None and agent.augmented.augmentation.increments:
        acted = np.asarray(seen.action)
    would = agent.act_flat(np.asarray(seen.obs, np.float32))
    _, names = subject.names(agent)
    for place, (name, column) in _columns(names, would):
        curves = [
            Curve("as logged", np.asarray(acted[:, place], float).tolist(), "faint"),
            Curve("what the policy would do there", column, "steps"),
        ]
        x = np.arange(len(column)).tolist()
        blocks.append(Lines(f"{name}: logged, and what the policy would do", "sample", name, [View("", x, curves)]))
    return blocks


def _film(subject: Subject, agent: Agent) -> list[AbstractBlock]:
    """The first episode as it is seen, where the environment renders."""
    plant = needed(subject.plant.value)
    env = plant.env if plant.name is None else plant.name

    def made() -> bytes:
        return small_film(frames(agent.controller(), env, subject.asked.seed), frames_a_second(env))

    found = Maybe.of(made)
    if found.value is None:
        return [Said(f"No rendered episode: {found.why}", missing=True)]
    return [Picture("image/gif", found.value, "episode 0, as the environment renders it")]


# ---------------------------------------------------------------------- maps


def _visited(agent: Agent, played: Comparison | None, log: Dataset | None) -> Float[np.ndarray, "n s"] | None:
    if played is not None:
        return np.concatenate([np.asarray(rows.obs) for rows in played.episodes[AGENT]])
    if log is not None and log.obs_size == agent.spaces.observation.size:
        return np.asarray(log.transitions(slice(0, 10_000)).obs)
    return None


def _maps(subject: Subject, agent: Agent, visited: Float[np.ndarray, "n s"] | None) -> list[AbstractBlock]:
    """π(s), familiarity, and q over s, or over (s, a) where these are few numbers."""
    size, actions = agent.obs_size, agent.action_set.size
    if agent.augmented is not None:
        return [Said("No maps: what it does depends on more than the newest observation.")]
    if size not in GRID:
        return [Said(f"No maps: it sees {size} numbers, and maps are drawn of up to {max(GRID)}.")]
    if visited is None:
        return [Said("No maps: no state of its plant is known; give --env or --data.", missing=True)]
    names, action_names = subject.names(agent)
    axes = [_axis(name, column) for name, column in zip(names, visited.T, strict=True)]
    states = _grid(axes)
    shape = (GRID[size],) * size
    action = agent.act_flat(states)
    held = {f"π: {name}": action[:, place].reshape(shape) for place, name in enumerate(action_names)}
    if agent.nets.critic is not None:
        held["q(s, π(s))"] = np.reshape(agent.value(states, action), shape)
    if agent.familiarity is not None:
        held["familiarity"] = np.reshape(agent.familiarity(states), shape)
    blocks: list[AbstractBlock] = [
        Maps("What it does in each state, over the range that was visited", axes, held, min(1, size - 1))
    ]
    if agent.nets.critic is not None and size + actions in GRID and not agent.action_set.reads_obs:
        both = [
            *axes,
            *(_ends(*one) for one in zip(action_names, agent.action_set.low, agent.action_set.high, strict=True)),
        ]
        points = _grid(both)
        q = np.reshape(agent.value(points[:, :size], points[:, size:]), (GRID[len(both)],) * len(both))
        blocks.append(Maps("What its critic says of each action: q(s, a)", both, {"q": q}, len(both) - 1))
    return blocks


def _axis(name: str, column: Float[np.ndarray, "n"]) -> Axis:
    low, high = float(column.min()), float(column.max())
    margin = 0.0 if high > low else max(abs(low), 1.0) * 0.01
    return Axis(name, low - margin, high + margin, float(np.median(column)))


def _ends(name: str, low: float, high: float) -> Axis:
    return Axis(name, float(low), float(high), float(low + high) / 2)


def _grid(axes: Sequence[Axis]) -> Float[np.ndarray, "n k"]:
    """Every point of a grid over the axes, the last one fastest."""
    along = [np.linspace(axis.low, axis.high, GRID[len(axes)], dtype=np.float32) for axis in axes]
    return np.stack([part.ravel() for part in np.meshgrid(*along, indexing="ij")], axis=1)
