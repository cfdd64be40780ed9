"""What a controller does at the rows of a log, and at states that nobody logged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float, Int

from fittedq.acting.episodes import AbstractController, Remembered, Remembering
from fittedq.arrays import Tree
from fittedq.control.augmentation import Augmentation
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.estimates.chain import Chain
from fittedq.estimates.features import Regression


class Begun(NamedTuple):
    """b rollouts whose first action is decided."""

    x: Float[np.ndarray, "b x"]
    u: Float[np.ndarray, "b m"]
    memory: Tree
    """Of the controller, after that action."""


class AbstractDeciding(ABC):
    """A controller, as the estimators ask it."""

    @abstractmethod
    def begin(self, x: Float[np.ndarray, "b x"]) -> Begun:
        """Episodes that begin at x."""

    @abstractmethod
    def step(self, memory: Tree, x: Float[np.ndarray, "b x"]) -> tuple[Float[np.ndarray, "b m"], Tree]:
        """(actions, memory) at the next states."""

    @abstractmethod
    def went_on(self, log: Chain, rows: Int[np.ndarray, "b"]) -> Begun:
        """At rows of the log: the action that was logged, and what it remembers then."""

    @abstractmethod
    def goes_on(self, log: Chain, rows: Int[np.ndarray, "b"]) -> Begun:
        """At the states after these rows: its own action."""


@final
@dataclass(frozen=True)
class Controlled(AbstractDeciding):
    """A controller. What comes back as its memory tells whether it remembers: None where it does not.

    What an augmented state remembers, the rows of a log hold too.
    """

    controller: AbstractController[Any]
    obs_size: int
    remembers: bool
    """Whether it remembers what no row of a log holds."""

    @property
    def sees(self) -> Augmentation:
        """What of the past it sees."""
        return self.controller.state.augmentation if isinstance(self.controller, Remembering) else Augmentation()

    @property
    def knows_rows(self) -> bool:
        """Whether the rows of a log say all that it decides by."""
        return not self.remembers

    def begin(self, x: Float[np.ndarray, "b x"]) -> Begun:
        return Begun(x, *self.step(self.controller.start(len(x)), x))

    def step(self, memory: Tree, x: Float[np.ndarray, "b x"]) -> tuple[Float[np.ndarray, "b m"], Tree]:
        action, memory = self.controller.step(memory, x[:, : self.obs_size].astype(np.float32))
        return _finite(np.asarray(action, np.float64), str(self.controller)), memory

    def went_on(self, log: Chain, rows: Int[np.ndarray, "b"]) -> Begun:
        memory = None
        if isinstance(self.controller, Remembering):
            seen = log.dataset.augmented(self.controller.state).transitions(log.rows[rows]).obs
            memory = Remembered(np.asarray(seen), log.u[rows].astype(np.float32))
        return Begun(log.x[rows], log.u[rows], memory)

    def goes_on(self, log: Chain, rows: Int[np.ndarray, "b"]) -> Begun:
        if isinstance(self.controller, Remembering):
            state = self.controller.state
            seen = np.asarray(log.dataset.augmented(state).transitions(log.rows[rows]).next_obs)
            executed = np.asarray(state.executed(seen, self.controller.act(seen)))
            return Begun(log.after[rows], executed.astype(np.float64), Remembered(seen, executed))
        return Begun(log.after[rows], *self.step(None, log.after[rows]))

    @staticmethod
    def of(controller: AbstractController[Any], data: Dataset) -> Controlled:
        """What is remembered after a row of the log says whether it remembers."""
        action, memory = controller.step(controller.start(1), np.asarray(data.columns["obs"][:1], np.float32))
        if np.shape(action) != (1, data.action_size):
            raise UserError(
                f"{controller} gives an action of shape {np.shape(action)[1:]}, expected ({data.action_size},) as the "
                "log has."
            )
        remembers = memory is not None and not isinstance(controller, Remembering)
        return Controlled(controller, data.obs_size, remembers)


@final
@dataclass(frozen=True)
class Imitating(AbstractDeciding):
    """u = W φ(x), fitted to the actions of the log: its mean action at x."""

    regression: Regression
    weights: Float[np.ndarray, "f m"]
    low: Float[np.ndarray, "m"]
    high: Float[np.ndarray, "m"]

    def begin(self, x: Float[np.ndarray, "b x"]) -> Begun:
        return Begun(x, *self.step(None, x))

    def step(self, memory: None, x: Float[np.ndarray, "b x"]) -> tuple[Float[np.ndarray, "b m"], None]:
        return np.clip(self.regression.features(x) @ self.weights, self.low, self.high), memory

    def went_on(self, log: Chain, rows: Int[np.ndarray, "b"]) -> Begun:
        return Begun(log.x[rows], log.u[rows], None)

    def goes_on(self, log: Chain, rows: Int[np.ndarray, "b"]) -> Begun:
        return self.begin(log.after[rows])


def _finite(action: Float[np.ndarray, "b m"], name: str) -> Float[np.ndarray, "b m"]:
    if not np.isfinite(action).all():
        row = action[~np.isfinite(action).all(axis=1)][0]
        raise UserError(f"{name} gives the action {row.tolist()}, expected finite numbers.")
    return action
