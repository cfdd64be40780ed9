"""Soft actor-critic with twin targets and automatic temperature (Haarnoja et al. 2018b).

a  ~ π(· | s)                                                       collect
y  = r + γ (1 − terminated) (min_j q̄_j(s', a') − β log π(a' | s')), a' ~ π(· | s'), π live
θ_j ← θ_j − α ∇ mean (q_j(s, a) − y)²,  all j                       regress
every `policy_delay` updates:
w ← w − α ∇ mean [β log π(a | s) − min_j q_j(s, a)],  a ~ π(· | s)  improve
log β ← log β − α ∇ [−β mean(log π(a' | s') + H̄)]                   temperature
θ̄ follows softly
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from fittedq.acting.noise import AbstractExploration, OwnNoise
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import (
    POLICY_CRITICS,
    NetworkAlgorithm,
    Rules,
    learning_rate,
    refuse_tuning,
    shared,
    target_entropy,
)
from fittedq.approx.networks import TanhGaussianPolicy
from fittedq.settings import setting
from fittedq.template.fqi import FQI, Polyak, Sync, Update
from fittedq.template.greedy import PolicyAction
from fittedq.template.losses import Improve, Regress, TuneTemperature
from fittedq.template.rates import Rate
from fittedq.template.targets import Bellman, MinOverCritics
from fittedq.types import Components


@dataclass(frozen=True, kw_only=True)
class SAC(NetworkAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "sac"
    title: ClassVar[str] = "Soft actor-critic, twin targets, automatic temperature"

    rules: ClassVar[Rules] = (*NetworkAlgorithm.rules, lambda sac: refuse_tuning(sac, sac.temperature))

    n_critics: int = shared("n_critics", 2)
    n_target_critics: int = shared("n_target_critics", 2)
    policy_critic: str = shared("policy_critic", "min")
    policy_delay: int = shared("policy_delay", 1)
    temperature: float | None = setting(None, "a fixed temperature β; none: it is tuned", above=0.0)
    initial_temperature: float = shared("initial_temperature", 1.0)
    temperature_learning_rate: Rate = learning_rate(3e-4, "log β")
    target_entropy: float | None = shared("target_entropy", None)

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        critic_key, policy_key = jax.random.split(key)
        return Components(
            critic=self.critic(obs_size, action_set, critic_key),
            policy=TanhGaussianPolicy(obs_size, action_set, self.hidden, policy_key, activation=self.activation),
            log_temperature=jnp.asarray(math.log(self.temperature or self.initial_temperature)),
        )

    def template(self, action_set: AbstractActionSet) -> FQI:
        target = Bellman(self.gamma, MinOverCritics(subset=self.n_target_critics))
        improve = Improve(POLICY_CRITICS[self.policy_critic])
        later = functools.partial(Update, every=self.policy_delay)
        updates = (
            Update("critic", Regress(target), self.descend(self.critic_learning_rate)),
            later("policy", improve, self.descend(self.policy_learning_rate)),
        )
        if self.temperature is None:
            tune = TuneTemperature(target_entropy(self.target_entropy, action_set))
            updates += (later("log_temperature", tune, self.descend(self.temperature_learning_rate)),)
        return FQI(greedy=PolicyAction(), updates=updates, sync=Sync(critic=Polyak(self.tau)))

    def exploration(self) -> AbstractExploration:
        return OwnNoise()
