"""Soft actor-critic with a value network (Haarnoja et al. 2018), as the chapter has it.

a  ~ π(· | s)                                                       collect
y_v = min_j q_j(s, a) − β log π(a | s),  a ~ π(· | s)               label v, at s
ψ ← ψ − α ∇ mean (v(s) − y_v)²                                      regress
y_q = r + γ (1 − terminated) v̄(s')                                  label q
θ_j ← θ_j − α ∇ mean (q_j(s, a) − y_q)²,  all j                     regress
w ← w − α ∇ mean [β log π(a | s) − min_j q_j(s, a)],  a ~ π(· | s)  improve
ψ̄ follows softly
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from fittedq.acting.noise import AbstractExploration, OwnNoise
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import POLICY_CRITICS, NetworkAlgorithm, shared
from fittedq.approx.networks import TanhGaussianPolicy, VNetwork
from fittedq.ranges import LOG, Span
from fittedq.settings import setting
from fittedq.template.fqi import FQI, Polyak, Sync, Update
from fittedq.template.losses import Improve, Regress
from fittedq.template.targets import BellmanFromValue, MinOverCritics, SoftValue
from fittedq.types import Components


@dataclass(frozen=True, kw_only=True)
class SACValue(NetworkAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "sac_v"
    title: ClassVar[str] = "Soft actor-critic with a value network"

    n_critics: int = shared("n_critics", 2)
    n_target_critics: int = shared("n_target_critics", 2)
    policy_critic: str = shared("policy_critic", "min")
    temperature: float = setting(
        0.2, "temperature β (1 / the paper's reward scale)", above=0.0, search=Span(0.02, 1.0, LOG)
    )

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        critic_key, policy_key, value_key = jax.random.split(key, 3)
        return Components(
            critic=self.critic(obs_size, action_set, critic_key),
            policy=TanhGaussianPolicy(obs_size, action_set, self.hidden, policy_key, activation=self.activation),
            value=VNetwork(obs_size, self.hidden, value_key, activation=self.activation),
            log_temperature=jnp.asarray(math.log(self.temperature)),
        )

    def template(self, action_set: AbstractActionSet) -> FQI:
        value_target = SoftValue(MinOverCritics(subset=self.n_target_critics))
        return FQI(
            updates=(
                Update("value", Regress(value_target), self.descend(self.critic_learning_rate)),
                Update("critic", Regress(BellmanFromValue(self.gamma)), self.descend(self.critic_learning_rate)),
                Update("policy", Improve(POLICY_CRITICS[self.policy_critic]), self.descend(self.policy_learning_rate)),
            ),
            sync=Sync(value=Polyak(self.tau)),
        )

    def exploration(self) -> AbstractExploration:
        return OwnNoise()
