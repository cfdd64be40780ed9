"""Amortized fitted Q-iteration: the argmax is solved on some states and learned for the rest (chapter, same name).

for n = 0, 1, …:
    a*_i ← argmax_{a ∈ A(s'_i)} q_n(s'_i, a),  i ∈ B_opt               solve, partly
    a'_i ← a*_i on B_opt, π_n(s'_i) elsewhere
    y_i  ← r_i + γ (1 − terminated_i) q_n(s'_i, a'_i)                  label
    θ_{n+1} ← argmin Σ_i (q(s_i, a_i) − y_i)²                          regress
    w_{n+1} ← argmin Σ_i ‖π(s'_i) − a*_i‖² over labels of age ≤ `max_age`   imitate (or climb q_{n+1})
    stop when max(δ_q, δ_d) < ε
With `support` the argmax is over what the log supports of A(s'), c deviations around what was done there (`NearLog`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import Rules
from fittedq.algorithms.fitted import BUDGET, SolvingAlgorithm, Usual
from fittedq.errors import UserError
from fittedq.settings import setting
from fittedq.template.fqi import FQI, Copy, Sync, Update
from fittedq.template.greedy import PartlySolved
from fittedq.template.losses import Imitate, Improve
from fittedq.template.targets import Bellman, MinOverCritics
from fittedq.types import Components

IMITATING = Usual(3, 40)


def _support_is_imitated(method: AmortizedFQI) -> None:
    if method.support is not None and method.policy_loss == "improve":
        raise UserError(
            "setting support: found one with policy_loss = 'improve', which climbs q wherever it is high; expected "
            "policy_loss = 'imitate', which learns what the solver found."
        )


@dataclass(frozen=True, kw_only=True)
class AmortizedFQI(SolvingAlgorithm):
    __doc__ = __doc__

    rules: ClassVar[Rules] = (*SolvingAlgorithm.rules, _support_is_imitated)
    name: ClassVar[str] = "amortized_fqi"
    title: ClassVar[str] = "Amortized fitted Q-iteration"

    policy_reads: ClassVar[frozenset[str]] = BUDGET | {"hidden", "activation"}

    solve_share: float = setting(
        0.2, "share of the states that are solved in each iteration, |B_opt| / |D|", low=0.0, high=1.0
    )
    solve_count: int | None = setting(None, "states solved in each iteration, instead of a share", low=0)
    solve_rule: str = setting("uniform", "how the states that are solved are chosen", choices=("uniform", "gap"))
    max_age: int = setting(
        5, "iterations for which a solved action stays a label of the policy; 0: only the one that solved it", low=0
    )
    policy_loss: str = setting("imitate", "how the policy learns", choices=("imitate", "improve"))
    policy_epochs: int | None = setting(None, IMITATING.about("the policy"), low=1)

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        critic_key, policy_key = jax.random.split(key)
        return Components(
            critic=self.approximation(obs_size, action_set, critic_key),
            policy=self.deterministic_policy(obs_size, action_set, policy_key),
            behaviour=self.behaviour(obs_size, action_set, key),
        )

    def template(self, action_set: AbstractActionSet) -> FQI:
        target = Bellman(self.gamma, MinOverCritics())
        policy_loss = Imitate() if self.policy_loss == "imitate" else Improve(MinOverCritics())
        policy_fit = self.descend(self.policy_learning_rate, self.budget(self.policy_epochs, IMITATING))
        return FQI(
            greedy=PartlySolved(
                self.solved(action_set), self.solve_share, self.solve_count, self.solve_rule, self.max_age
            ),
            updates=(
                *self.cloning(),
                Update("critic", self.regression(target), self.critic_fit()),
                Update("policy", policy_loss, policy_fit),
            ),
            sync=Sync(critic=Copy(), policy=Copy()),
        )
