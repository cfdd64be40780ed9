"""Known physics as networks see it that read normalized observations and learn from scaled rewards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jaxtyping import Float

from fittedq.arrays import Arr, Scalar, Tree
from fittedq.data.statistics import RunningMoments
from fittedq.template.fqi import LearnerState
from fittedq.types import AbstractModel, Predicted


class Translated(AbstractModel):
    """s = normalize(observe(x)), x' = f(x, a, ξ), r = r_f / scale: x stays the plant's own, gradients pass through."""

    model: AbstractModel
    moments: RunningMoments | None
    """None where observations are not normalized."""
    scale: Scalar

    @property
    def stored(self) -> int:
        return self.model.stored

    def begin(self, obs: Float[Arr, "b s"], stored: Float[Arr, "b x"] | None) -> Tree:
        return self.model.begin(self._own(obs), stored)

    def observe(self, state: Tree) -> Float[Arr, "b s"]:
        obs = self.model.observe(state)
        return obs if self.moments is None else self.moments.normalize(obs)

    def __call__(self, state: Tree, action: Float[Arr, "b m"], noise: Float[Arr, "b s"]) -> Predicted:
        own = self.model(state, action, noise)
        return dataclasses.replace(own, reward=own.reward / self.scale)

    def infer(
        self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], next_obs: Float[Arr, "b s"]
    ) -> Float[Arr, "b s"]:
        return self.model.infer(self._own(obs), action, self._own(next_obs))

    def _own(self, obs: Float[Arr, "b s"]) -> Float[Arr, "b s"]:
        return obs if self.moments is None else self.moments.restore(obs)


def translating(
    learn: Callable[[LearnerState], LearnerState],
    learner: LearnerState,
    moments: RunningMoments | None,
    scale: Scalar | None,
) -> LearnerState:
    """learn(learner), its model of known physics, if it has one, in the networks' units meanwhile."""
    model = learner.nets.model
    if model is None or not model.own_units or (moments is None and scale is None):
        return learn(learner)
    seen = Translated(model, moments, 1.0 if scale is None else scale)
    learned = learn(dataclasses.replace(learner, nets=learner.nets.replace("model", seen)))
    return dataclasses.replace(learned, nets=learned.nets.replace("model", model))
