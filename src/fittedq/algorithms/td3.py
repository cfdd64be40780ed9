"""Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018).

a  = Π_A(π(s) + σ_explore · half_width · ε)                         collect
ã  = Π_A(π̄(s') + half_width · clip(σ ε, −c, c))                     smooth
y  = r + γ (1 − terminated) min_j q̄_j(s', ã)                        label
θ_j ← θ_j − α ∇ mean (q_j(s, a) − y)²,  all j                       regress
every `policy_delay` updates:  w ← w + α ∇ mean q_1(s, π(s));  θ̄, w̄ follow softly
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import PRNGKeyArray

from fittedq.acting.noise import AbstractExploration, Gaussian
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import POLICY_CRITICS, NetworkAlgorithm, shared
from fittedq.approx.networks import DeterministicPolicy
from fittedq.template.fqi import FQI, Polyak, Sync, Update
from fittedq.template.greedy import PolicyAction, Smoothed
from fittedq.template.losses import Improve, Regress
from fittedq.template.targets import Bellman, MinOverCritics
from fittedq.types import Components


@dataclass(frozen=True, kw_only=True)
class TD3(NetworkAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "td3"
    title: ClassVar[str] = "Twin delayed deep deterministic policy gradient"

    n_critics: int = shared("n_critics", 2)
    n_target_critics: int = shared("n_target_critics", 2)
    policy_critic: str = shared("policy_critic", "first")
    policy_delay: int = shared("policy_delay", 2)
    smoothing_sigma: float = shared("smoothing_sigma", 0.2)
    smoothing_clip: float = shared("smoothing_clip", 0.5)
    noise_sigma: float = shared("noise_sigma", 0.1)

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        critic_key, policy_key = jax.random.split(key)
        return Components(
            critic=self.critic(obs_size, action_set, critic_key),
            policy=DeterministicPolicy(obs_size, action_set, self.hidden, policy_key, activation=self.activation),
        )

    def template(self, action_set: AbstractActionSet) -> FQI:
        target = Bellman(self.gamma, MinOverCritics(subset=self.n_target_critics))
        improve = Improve(POLICY_CRITICS[self.policy_critic])
        follow = Polyak(self.tau, every=self.policy_delay)
        return FQI(
            greedy=Smoothed(PolicyAction(), self.smoothing_sigma, self.smoothing_clip),
            updates=(
                Update("critic", Regress(target), self.descend(self.critic_learning_rate)),
                Update("policy", improve, self.descend(self.policy_learning_rate), every=self.policy_delay),
            ),
            sync=Sync(critic=follow, policy=follow),
        )

    def exploration(self) -> AbstractExploration:
        return Gaussian(self.noise_sigma)
