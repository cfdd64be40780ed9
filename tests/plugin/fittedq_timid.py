"""TD3 without a delay whose policy climbs the least of its critics.

y  = r + γ (1 − terminated) min_j q̄_j(s', ã),  ã smoothed           label
θ_j ← θ_j − α ∇ mean (q_j(s, a) − y)²,  all j                       regress
w  ← w + α ∇ mean min_j q_j(s, π(s));  θ̄, w̄ follow softly           improve
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from fittedq import (
    FQI,
    AbstractActionSet,
    AbstractExploration,
    Bellman,
    Components,
    DeterministicPolicy,
    Gaussian,
    Improve,
    MinOverCritics,
    NetworkAlgorithm,
    PolicyAction,
    Polyak,
    Regress,
    Smoothed,
    Sync,
    Update,
    setting,
)


@dataclass(frozen=True, kw_only=True)
class Timid(NetworkAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "timid"
    title: ClassVar[str] = "TD3 that climbs the least of its critics"

    n_critics: int = setting(2, "size of the critic ensemble", low=1)
    noise_sigma: float = setting(0.1, "exploration σ, in half-widths of the box", low=0.0)

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: Any) -> Components:
        critic_key, policy_key = jax.random.split(key)
        return Components(
            critic=self.critic(obs_size, action_set, critic_key),
            policy=DeterministicPolicy(obs_size, action_set, self.hidden, policy_key, activation=self.activation),
        )

    def template(self, action_set: AbstractActionSet) -> FQI:
        critic, policy = (self.descend(rate) for rate in (self.critic_learning_rate, self.policy_learning_rate))
        return FQI(
            greedy=Smoothed(PolicyAction(), 0.2, 0.5),
            updates=(
                Update("critic", Regress(Bellman(self.gamma, MinOverCritics())), critic),
                Update("policy", Improve(MinOverCritics()), policy),
            ),
            sync=Sync(critic=Polyak(self.tau), policy=Polyak(self.tau)),
        )

    def exploration(self) -> AbstractExploration:
        return Gaussian(self.noise_sigma)
