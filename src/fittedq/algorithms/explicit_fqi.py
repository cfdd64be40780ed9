"""Explicit fitted Q-iteration: the argmax is solved at every target (chapter, "Embedded Optimization").

for n = 0, 1, …:
    a'_i ← argmax_{a ∈ A(s'_i)} q_n(s'_i, a),  all i                   solve
    y_i  ← r_i + γ (1 − terminated_i) q_n(s'_i, a'_i)                  label
    θ_{n+1} ← argmin Σ_i (q(s_i, a_i) − y_i)²                          regress
    stop when δ_q = mean_i |q_{n+1}(s_i, a_i) − q_n(s_i, a_i)| < ε
With `support` the argmax is over what the log supports of A(s'), c deviations around what was done there (`NearLog`).
With trees this is Ernst et al. 2005, its argmax over a continuous action instead of a few discrete ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.fitted import SolvingAlgorithm
from fittedq.template.fqi import FQI, Copy, Sync, Update
from fittedq.template.targets import Bellman, MinOverCritics
from fittedq.types import Components


@dataclass(frozen=True, kw_only=True)
class ExplicitFQI(SolvingAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "explicit_fqi"
    title: ClassVar[str] = "Explicit fitted Q-iteration"
    online: ClassVar[bool] = False
    ignores: ClassVar[frozenset[str]] = SolvingAlgorithm.ignores | {"policy_learning_rate", "noise_sigma"}

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        return Components(
            critic=self.approximation(obs_size, action_set, key),
            behaviour=self.behaviour(obs_size, action_set, key),
        )

    def template(self, action_set: AbstractActionSet) -> FQI:
        target = Bellman(self.gamma, MinOverCritics())
        return FQI(
            greedy=self.solved(action_set),
            updates=(
                *self.cloning(),
                Update("critic", self.regression(target), self.critic_fit()),
            ),
            sync=Sync(critic=Copy()),
        )
