"""Implicit Q-learning (Kostrikov et al. 2022): the value of the better logged actions, and their imitation.

y_v = min_j q̄_j(s, a),  a as logged                                 label v
ψ ← ψ − α ∇ mean |τ − 1(y_v < v(s))| (y_v − v(s))²                  regress to the expectile τ
w ← w + α ∇ mean [min(exp(k (min_j q̄_j(s, a) − v(s))), c) log π(a | s)]   imitate by advantage
y_q = r + γ (1 − terminated) v(s')                                  label q
θ_j ← θ_j − α ∇ mean (q_j(s, a) − y_q)²,  all j                     regress
θ̄ follows softly

No action is asked for that was not logged. τ = 1/2 evaluates the log's own policy; τ → 1 takes the best logged action.
The paper scales the rewards of locomotion by 1000 / (best − worst return), and lets the policy's rate fall by a cosine
(here: `--set policy_learning_rate=linear:3e-4:1e-6`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import PRNGKeyArray

from fittedq.acting.noise import AbstractExploration, OwnNoise
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import NetworkAlgorithm, shared
from fittedq.approx.networks import ClippedGaussianPolicy, VNetwork
from fittedq.ranges import LOG, Span
from fittedq.settings import setting
from fittedq.template.fqi import FQI, Polyak, Sync, Update
from fittedq.template.losses import Expectile, Regress
from fittedq.template.near import ImitateByAdvantage
from fittedq.template.targets import BellmanFromValue, MinOverCritics, ValueAsLogged
from fittedq.types import Components


@dataclass(frozen=True, kw_only=True)
class IQL(NetworkAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "iql"
    title: ClassVar[str] = "Implicit Q-learning"

    n_critics: int = shared("n_critics", 2)
    expectile: float = setting(
        0.7, "expectile τ of the logged actions' values that v learns", above=0.0, below=1.0, search=Span(0.5, 0.95)
    )
    inverse_temperature: float = setting(
        3.0, "k: imitation weighs a logged action by exp(k · advantage)", low=0.0, search=Span(0.5, 10.0, LOG)
    )
    weight_clip: float = setting(100.0, "the most that a logged action weighs", above=0.0)

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        critic_key, policy_key, value_key = jax.random.split(key, 3)
        return Components(
            critic=self.critic(obs_size, action_set, critic_key),
            policy=ClippedGaussianPolicy(obs_size, action_set, self.hidden, policy_key, activation=self.activation),
            value=VNetwork(obs_size, self.hidden, value_key, activation=self.activation),
        )

    def template(self, action_set: AbstractActionSet) -> FQI:
        logged = Regress(ValueAsLogged(MinOverCritics()), Expectile(self.expectile))
        imitate = ImitateByAdvantage(MinOverCritics(), self.inverse_temperature, self.weight_clip)
        return FQI(
            updates=(
                Update("value", logged, self.descend(self.critic_learning_rate)),
                Update("policy", imitate, self.descend(self.policy_learning_rate)),
                Update("critic", Regress(BellmanFromValue(self.gamma)), self.descend(self.critic_learning_rate)),
            ),
            sync=Sync(critic=Polyak(self.tau)),
        )

    def exploration(self) -> AbstractExploration:
        return OwnNoise()
