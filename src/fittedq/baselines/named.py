"""Baselines by name: words that are tuned on a plant, and code of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fittedq.acting.episodes import AbstractController
from fittedq.actions.base import Box
from fittedq.baselines.cloned import Cloned
from fittedq.baselines.linear_model import LinearModel
from fittedq.baselines.lqr import LQR
from fittedq.baselines.search import SEED, mean_return, tuned_pid
from fittedq.baselines.simple import Called, Constant
from fittedq.code import find_code
from fittedq.data.dataset import Dataset
from fittedq.diagnose.control import Tracked
from fittedq.envs.plant import AbstractPlant
from fittedq.errors import UserError, nearest
from fittedq.types import Transition

TRIES = 120
"""Of gains, by the search for a PID."""
RECORDED = 2_000
"""Samples of random actions to which a linear model is fitted where there is no log."""
HELD = 5
"""Samples for which each of them is held."""
RATIOS = np.logspace(-4, 2, 13)
"""Of an LQR's R to the deviations that it tolerates, among which episodes choose."""


@dataclass(frozen=True)
class Circumstances:
    """What a baseline is made for."""

    plant: AbstractPlant
    tracked: tuple[Tracked, ...] = ()
    dt: float = 1.0
    """Seconds between samples."""
    seed: int = 0
    data: Dataset | None = None
    """A log of the plant."""

    @property
    def box(self) -> Box:
        """Of its actions."""
        return Box(self.plant.action_set.low, self.plant.action_set.high)

    def tracks(self, word: str) -> tuple[Tracked, ...]:
        """`tracked`, or a UserError that says what the word needs it for."""
        if not self.tracked:
            raise UserError(
                f"baseline {word!r}: found no set-point; say which coordinates of the observation are measured, and "
                "what they are to follow (--measured 0 --setpoint 1, or --target 5)."
            )
        return self.tracked


def baseline(name: str, given: Circumstances) -> AbstractController[Any]:
    """The baseline of a word (`BASELINES`, or constant:NUMBER,…), or the code "file.py:Name" or "module:Name".

    Such code is a controller, a class of one without arguments, or a function or object that is called with one
    observation.
    """
    return BASELINES[name](given) if name in BASELINES else ready(name)


def ready(name: str) -> AbstractController[Any]:
    """The baseline that needs no plant to be made: constant:NUMBER,…, or code of the user's."""
    word, _, rest = name.partition(":")
    if word == "constant" and name not in BASELINES:
        return Constant(_numbers(name, rest))
    if name in BASELINES:
        raise UserError(
            f"baseline {name!r} is made for a plant, and there is none; write it into a file with its numbers, and "
            "name it FILE.py:NAME, or give constant:NUMBER."
        )
    if ":" not in name:
        raise UserError(f"baseline {name!r} is neither a word nor code (file.py:Name); {nearest(name, BASELINES)}")
    return of_object(find_code(name, f"baseline {name!r}"), name)


def of_object(value: object, name: str) -> AbstractController[Any]:
    """A controller as it is, a class made without arguments, anything else that is called."""
    if isinstance(value, type):
        try:
            value = value()
        except (Exception, SystemExit) as error:
            raise UserError(f"{name} could not be made without arguments: {type(error).__name__}: {error}.") from error
    if isinstance(value, AbstractController):
        return value
    act = getattr(value, "act", value)
    if not callable(act):
        raise UserError(f"{name}: found {type(act).__name__}, expected a controller or a function of observations.")
    return Called(act, name)


def _numbers(name: str, words: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in words.split(","))
    except ValueError:
        raise UserError(f"baseline {name!r}: expected numbers, such as constant:0.5 or constant:1,-2.") from None


def _middle(given: Circumstances) -> AbstractController[None]:
    """The middle of the action's box."""
    return Constant(given.plant.action_set.center)


def _pid(given: Circumstances) -> AbstractController[Any]:
    """One loop, tuned on the plant."""
    tracked = given.tracks("pid")
    if (len(tracked), given.box.size) != (1, 1):
        raise UserError(
            f"baseline 'pid': one loop drives one action by one measured value; found {given.box.size} actions and "
            f"{len(tracked)} measured values. Write fittedq.baselines.Loops into a file, and name it file.py:NAME."
        )
    return tuned_pid(given.plant, tracked[0], dt=given.dt, tries=TRIES, seed=given.seed).pid


def _lqr(given: Circumstances) -> AbstractController[Any]:
    """Of a linear model fitted to the log, or to samples under random actions; R is chosen over episodes."""
    tracked, box = given.tracks("lqr"), given.box
    data = given.data or recorded(given.plant, RECORDED, given.seed)
    setpoints = {one.setpoint for one in tracked}
    states = [row for row in range(data.obs_size) if row not in setpoints]
    model = LinearModel.of_data(data, states)
    spread = np.maximum(np.asarray(data.columns["obs"][:, states], np.float64).std(axis=0), 1e-12)
    measured = np.isin(states, [one.measured for one in tracked])
    Q = np.where(measured, 1.0, 1e-3) / spread**2
    R = 1 / np.asarray(box.half_width) ** 2
    tries = [LQR.of(model, Q, ratio * R, action_set=box, tracked=tracked) for ratio in RATIOS]
    scores = [mean_return(one, given.plant, 5, given.seed) for one in tries]
    return tries[int(np.argmax(scores))]


def recorded(plant: AbstractPlant, samples: int, seed: int) -> Dataset:
    """Transitions under actions that are uniform in the box, each held for some samples."""
    rng, taken = np.random.default_rng(seed), list[Transition]()
    box = Box(plant.action_set.low, plant.action_set.high)
    source = plant.source(seed=seed + SEED)
    try:
        action = np.asarray(box.center, np.float32)[None]
        for sample in range(samples):
            if sample % HELD == 0:
                action = rng.uniform(box.low, box.high, (1, box.size)).astype(np.float32)
            obs, step = source.obs, source.step(action)
            if step.valid[0]:
                taken.append(Transition(obs, action, step.reward, step.next_obs, step.terminated, step.truncated))
    finally:
        source.close()
    columns = {
        name: np.concatenate(parts) for name, parts in zip(Transition._fields, zip(*taken, strict=True), strict=True)
    }
    return Dataset.from_arrays(**columns, action_low=box.low, action_high=box.high)


def _cloned(given: Circumstances) -> AbstractController[None]:
    """The log's own policy."""
    if given.data is None:
        raise UserError("baseline 'cloned': found no log to imitate; name its dataset with --data.")
    return Cloned.of(given.data, seed=given.seed)


BASELINES: Mapping[str, Callable[[Circumstances], AbstractController[Any]]] = {
    "pid": _pid,
    "lqr": _lqr,
    "constant": _middle,
    "cloned": _cloned,
}
"""Words, and what makes each."""
