"""Networks that start anew every so many updates, on the replay that there is."""

from __future__ import annotations

from collections.abc import Callable

import jax

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.arrays import strong
from fittedq.template.fqi import FQI, LearnerState
from fittedq.trainers.settings import AbstractDrawing


def resetting(
    algorithm: AbstractAlgorithm,
    fqi: FQI,
    obs_size: int,
    action_set: AbstractActionSet,
    settings: AbstractDrawing,
    seed: int,
) -> Callable[[LearnerState], LearnerState] | None:
    """A learner's state → the one in which what is to start anew has; None where nothing ever does.

    The new networks are a function of the seed and of the updates so far. It can be compiled.
    """
    if not settings.reset_every:
        return None
    names = fqi.learned(settings.reset_components)

    def renewed(state: LearnerState) -> LearnerState:
        key = jax.random.fold_in(jax.random.key_data(jax.random.key(seed)), state.step)
        return strong(fqi.renewed(state, algorithm.networks(obs_size, action_set, key), names))

    return renewed
