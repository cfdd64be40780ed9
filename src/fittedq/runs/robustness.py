"""What controllers lose where the plant is not the one that they were made for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

import numpy as np
from jaxtyping import Float

from fittedq.acting.perturbed import Perturbed
from fittedq.actions.base import Box
from fittedq.diagnose.control import Tracked
from fittedq.diagnose.paired import Interval
from fittedq.envs.parameters import parameters, plant_randomized, plant_scaled
from fittedq.envs.plant import AbstractPlant, AnyEnv, resolve
from fittedq.errors import UserError, nearest
from fittedq.runs.compare import Comparison, compared, controller_of, rounds
from fittedq.settings import real, whole
from fittedq.types import Transition

WORDS = ("noise", "delay", "load", "parameters")
"""Of a perturbation, beside the names of parameters."""
SENSED = ("sensor_delay", "drop", "quantize", "jitter", "dead")
"""More of them: of sensors, and of the clock."""
NOTHING = "nothing"
MOST_DELAY, MOST_SHARE, MOST_FACTOR = 10_000, 100.0, 1e6


@final
@dataclass(frozen=True)
class Perturbation:
    """How a plant, and the loop around it, are off.

    `noise`: of each coordinate of the observation, white, in shares of the deviation that it has within an episode of
    the plant as it was (so that what does not change within episodes, such as a set-point, has none). `delay`: samples
    by which actions come late to the plant; until then it gets the first one. `load`: what is added to each action, in
    half-widths of its limits, from the middle of an episode on (from its beginning, where its length is not known).
    `sensor_delay`: samples by which what is measured comes late to the controller. `drop`: the share of samples that do
    not arrive, so that the one before is read again. `quantize`: the steps in which coordinates are measured, counted
    as noise is. `jitter`: the share of decisions that come too late for their sample, in which the action before goes
    on. `dead`: the coordinate whose sensor gives NaN from the middle of an episode on; it takes a controller that goes
    on then, as `Agent.loop` and what is exported do.
    `parameters`: a share by which each parameter that the plant says may be off is off, up or down by a coin that is
    thrown for each of them and each episode; or factors by the parameters' names.
    """

    noise: float = 0.0
    delay: int = 0
    load: float = 0.0
    sensor_delay: int = 0
    drop: float = 0.0
    quantize: float = 0.0
    jitter: float = 0.0
    dead: int | None = None
    parameters: float | Mapping[str, float] = 0.0

    def __post_init__(self) -> None:
        real(self.noise, "noise", "a share of each deviation, such as 0.05", high=MOST_SHARE)
        real(self.quantize, "quantize", "a share of each deviation, such as 0.05", high=MOST_SHARE)
        whole(self.delay, "delay", high=MOST_DELAY)
        whole(self.sensor_delay, "sensor_delay", high=MOST_DELAY)
        real(self.load, "load", "a share of the half-widths of actions, such as 0.1", -MOST_SHARE, MOST_SHARE)
        for name in ("drop", "jitter"):
            real(getattr(self, name), name, "a share of the samples, such as 0.1", high=1.0)
        if self.dead is not None:
            whole(self.dead, "dead")
        if isinstance(self.parameters, Mapping):
            for name, factor in self.parameters.items():
                real(factor, name, "a factor above 0, such as 1.1", 1 / MOST_FACTOR, MOST_FACTOR)
        else:
            real(self.parameters, "parameters", "a share below 1, such as 0.1", high=0.99)

    @staticmethod
    def of(words: str) -> Perturbation:
        """Read "noise=0.02,delay=1,load=0.1,parameters=0.1"; other words are parameters' names, with their factors."""
        found: dict[str, float] = {}
        for word in words.split(","):
            name, equals, value = (part.strip() for part in word.partition("="))
            number = _number(value)
            if number is None or not name or not equals or name in found:
                raise UserError(
                    f"found {words!r}, expected NAME=NUMBER of different names, such as noise=0.02,delay=1.",
                    argument="perturb",
                )
            found[name] = number
        factors = {name: value for name, value in found.items() if name not in WORDS + SENSED}
        if factors and "parameters" in found:
            raise UserError(f"found parameters beside {', '.join(factors)}; give one of them.", argument="perturb")
        own = {name: value for name, value in found.items() if name in WORDS + SENSED}
        try:
            for name in {"delay", "sensor_delay", "dead"} & found.keys():
                count = found[name]
                own[name] = whole(int(count) if count.is_integer() else count, name, high=MOST_DELAY)
            return Perturbation(**({"parameters": factors} if factors else {}) | own)  # pyright: ignore
        except UserError as error:
            raise UserError(f"found {words!r}: {error}", argument="perturb") from None

    def __str__(self) -> str:
        shown = {name: getattr(self, name) for name in (*WORDS[:3], *SENSED[:4])}
        told = [f"{name.replace('_', ' ')} {value:g}" for name, value in shown.items() if value]
        told += [] if self.dead is None else [f"dead {self.dead}"]
        if isinstance(self.parameters, Mapping):
            told += [f"{name} × {factor:g}" for name, factor in self.parameters.items() if factor != 1]
        elif self.parameters:
            told.append(f"parameters ± {self.parameters:.4g}")
        return ", ".join(told) or NOTHING

    def plant(self, plant: AbstractPlant, vary: Sequence[str] = ()) -> AbstractPlant:
        """`plant` with its parameters off: those of `vary` where none are named here, by default those that it says; a
        UserError where nothing is off."""
        if str(self) == NOTHING:
            raise UserError(
                "found a perturbation that changes nothing (every number is 0, every factor 1); the plant as it is is "
                "played anyway: give other numbers, or leave it out.",
                argument="perturb",
            )
        if self.dead is not None and self.dead >= plant.obs_size:
            size = plant.obs_size
            raise UserError(f"found dead={self.dead}, expected a coordinate of the observation from 0 to {size - 1}.")
        if not isinstance(self.parameters, Mapping):
            return plant_randomized(plant, vary, self.parameters, at_ends=True) if self.parameters else plant
        known = parameters(plant.env) if plant.compiled else {}
        for name in self.parameters:
            if name not in known:
                whose = plant.name or "the environment"
                what = f"neither {', '.join(WORDS)} nor {', '.join(SENSED)} nor a parameter of {whose}"
                raise UserError(f"found {name!r}, which is {what}; {nearest(name, [*WORDS, *SENSED, *known])}")
        return plant_scaled(plant, self.parameters) if self.parameters else plant

    def around(self, controllers: Mapping[str, object], plant: AbstractPlant, spread: Deviations) -> dict[str, object]:
        """The controllers in a loop that is off; `spread` is what `noise` counts in."""
        length = plant.episode_length
        box = Box(plant.action_set.low, plant.action_set.high)
        start = 0 if length is None else length // 2
        return {
            name: Perturbed(
                controller_of(value, name),
                box,
                self.noise * spread,
                self.delay,
                self.load,
                start,
                self.sensor_delay,
                self.quantize * spread if self.quantize else None,
                self.drop,
                self.jitter,
                self.dead,
            )
            for name, value in controllers.items()
        }


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


Deviations = Float[np.ndarray, "s"]
"""The deviation of each coordinate of the observation within an episode."""


def standard(plant: AbstractPlant, vary: Sequence[str] = ()) -> list[Perturbation]:
    """Each parameter off by 10 and 20 %, noise of 5 and 10 %, one and two samples of delay, a load of 10 % either
    way; without the parameters where the plant names none and `vary` is empty."""
    named = plant.compiled and any(parameters(plant.env).values())
    off = [Perturbation(parameters=share) for share in (0.1, 0.2)] if named or vary else []
    noise = [Perturbation(noise=share) for share in (0.05, 0.1)]
    late = [Perturbation(delay=samples) for samples in (1, 2)]
    return [*off, *noise, *late, *(Perturbation(load=load) for load in (-0.1, 0.1))]


def spread_of(played: Sequence[Transition], tracked: Sequence[Tracked] = ()) -> Deviations:
    """√(mean over episodes of the variance within them), per coordinate; of set-points 0, which nobody measures."""
    spread = np.sqrt(np.mean([rows.obs.astype(np.float64).var(axis=0) for rows in played], axis=0))
    spread[[one.setpoint for one in tracked if one.setpoint is not None]] = 0.0
    return spread


@final
@dataclass(frozen=True)
class Robustness:
    """The episodes on the plant as it is, and the same ones on plants that are off."""

    nominal: Comparison
    perturbed: Mapping[str, Comparison]
    """By the perturbation in words."""

    def lost(self, words: str) -> dict[str, Interval]:
        """By controller: the mean of return on the plant as it is less return under the perturbation, episode by
        episode."""
        before = {row.name: row.returns for row in self.nominal.rows}
        found = {row.name: row.returns for row in self.perturbed[words].rows if row.name in self.nominal.episodes}
        return {name: Interval.of(before[name][: len(returns)] - returns) for name, returns in found.items()}

    def stopped(self, asked: int) -> bool:
        """Whether it ended before all of `asked` perturbations were played to their end."""
        count = min(map(len, self.nominal.episodes.values()))
        played = [len(rows) for one in self.perturbed.values() for rows in one.episodes.values()]
        return len(self.perturbed) < asked or any(rows < count for rows in played)

    def describe(self) -> list[dict[str, Any]]:
        """As JSON."""
        return [
            {
                "perturbation": words,
                "controllers": [
                    {"name": row.name, "returns": row.returns.tolist(), "lost": self.lost(words)[row.name]._asdict()}
                    for row in comparison.rows
                ],
            }
            for words, comparison in self.perturbed.items()
        ]

    def table(self) -> list[list[str]]:
        """Cells: a row for each perturbation, a column for each controller."""
        names = list(self.nominal.episodes)
        head = ["return lost [95 %]", *names]
        return [head, *([words, *(str(self.lost(words)[name]) for name in names)] for words in self.perturbed)]


def robustness(
    controllers: Mapping[str, object],
    env: AnyEnv | AbstractPlant,
    perturbations: Sequence[Perturbation | str] | None = None,
    *,
    episodes: int = 20,
    seed: int = 0,
    tracked: Sequence[Tracked] = (),
    vary: Sequence[str] = (),
) -> Robustness:
    """Play the same `episodes` with each controller (those of `compare`) on the plant as it is, and on others.

    `perturbations` (a `Perturbation`, or its words, "noise=0.02,delay=1") are by default `standard`'s. `vary` names the
    parameters that "parameters=0.1" means, where the plant does not say. Noise counts in the `spread_of` the first
    controller's episodes on the plant as it is.
    """
    plant, count = resolve(env), whole(episodes, "episodes", 1)
    asked = standard(plant, vary) if perturbations is None else perturbations
    found = [Perturbation.of(one) if isinstance(one, str) else one for one in asked]
    plants = [one.plant(plant, vary) for one in found]  # what is wrong is told before anything is played
    played = list(islice(rounds(controllers, plant, seed, tracked), count))
    spread = spread_of([one[next(iter(controllers))] for one in played], tracked)
    perturbed = {}
    for one, other in zip(found, plants, strict=True):
        loops = one.around(controllers, other, spread)
        perturbed[str(one)] = compared(list(islice(rounds(loops, other, seed, tracked), count)), other, tracked)
    return Robustness(compared(played, plant, tracked), perturbed)
