"""Neural fitted Q-iteration with continuous actions (Hafner & Riedmiller 2011): the policy amortizes the argmax.

for n = 0, 1, …:
    y_i ← r_i + γ (1 − terminated_i) q_n(s'_i, π_n(s'_i))              label
    θ_{n+1} ← argmin Σ_i (q(s_i, a_i) − y_i)²                          regress
    w_{n+1} ← argmax Σ_i q_{n+1}(s_i, π(s_i))                          improve
The paper starts both networks anew in each iteration and trains them to convergence with Rprop: `reset=true`,
`optimizer=rprop`. With a budget of one step it is DDPG. With `alpha` the policy stays near the logged actions, as in
TD3+BC (`ImproveNear`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.fitted import CRITIC, POLICY, FittedAlgorithm
from fittedq.settings import setting
from fittedq.template.fqi import FQI, Copy, Sync, Update
from fittedq.template.greedy import PolicyAction
from fittedq.template.losses import Improve
from fittedq.template.near import ImproveNear
from fittedq.template.targets import Bellman, MinOverCritics
from fittedq.types import Components


@dataclass(frozen=True, kw_only=True)
class NFQCA(FittedAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "nfqca"
    title: ClassVar[str] = "Neural fitted Q-iteration with continuous actions"

    policy_epochs: int | None = setting(None, POLICY.about("the policy"), low=1)
    alpha: float | None = setting(
        None, "weight α of q beside the distance to the logged actions, as td3_bc has it; none: q alone", low=0.0
    )

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        critic_key, policy_key = jax.random.split(key)
        return Components(
            critic=self.critic(obs_size, action_set, critic_key),
            policy=self.deterministic_policy(obs_size, action_set, policy_key),
        )

    def template(self, action_set: AbstractActionSet) -> FQI:
        target = Bellman(self.gamma, MinOverCritics())
        critic_fit = self.descend(self.critic_learning_rate, self.budget(self.epochs, CRITIC))
        improve = Improve(MinOverCritics())
        if self.alpha is not None:
            improve = ImproveNear(MinOverCritics(), self.alpha, 1 / action_set.size)
        policy_fit = self.descend(self.policy_learning_rate, self.budget(self.policy_epochs, POLICY))
        return FQI(
            greedy=PolicyAction(),
            updates=(
                Update("critic", self.regression(target), critic_fit),
                Update("policy", improve, policy_fit),
            ),
            sync=Sync(critic=Copy(), policy=Copy()),
        )
