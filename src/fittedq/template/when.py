# pyright: reportUnknownMemberType=false
"""Whether an update that is due takes place: rules that read the components and the batch."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Bool, Float

from fittedq.arrays import Arr
from fittedq.maximize.base import AbstractMaximizer
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.slots import COUNT, NOT_NEGATIVE, AbstractSlot
from fittedq.types import Components, Transition, needed


class AbstractWhen(AbstractSlot):
    """(components, batch) → (whether to update, figures). `needs` names what it reads, as `FQI` checks it."""

    needs: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def __call__(self, nets: Components, batch: Transition) -> tuple[Bool[Arr, ""], dict[str, Float[Arr, ""]]]:
        """Whether this update takes place, and figures by name."""


class GapAbove(AbstractWhen):
    """mean_S [max_a q(s, a) − q(s, π(s))] > `threshold` · deviation_S q(s, π(s)), S the first `states` of the batch.

    The amortization gap of π under the newest q = min_j q_j, in deviations of q. The maximum is what `maximizer` finds
    from π(s), so that the gap is a lower bound of the true one; π(s) is the mode.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"critic", "policy", "batches"})
    threshold: float = eqx.field(static=True, metadata=NOT_NEGATIVE)
    states: int = eqx.field(static=True, default=16, metadata=COUNT)
    maximizer: AbstractMaximizer[Any] = ProjectedAscent(steps=4, learning_rate=0.2)

    def __call__(self, nets: Components, batch: Transition) -> tuple[Bool[Arr, ""], dict[str, Float[Arr, ""]]]:
        critic, obs = needed(nets.critic), batch.obs[: self.states]
        action = needed(nets.policy).act(obs, jnp.zeros((len(obs), critic.action_set.size), obs.dtype))
        value = critic.least(obs, action)
        best = self.maximizer(critic, obs, critic.action_set, action[:, None]).value
        gap = jnp.mean(best - value) / (jnp.std(value) + 1e-12)
        return gap > self.threshold, {"gap": gap}
