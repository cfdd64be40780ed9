"""Conservative Q-learning (Kumar et al. 2020), CQL(H): q is pushed down wherever the log has nothing to say.

y  = r + γ (1 − terminated) min_j q̄_j(s', a'),  a' ~ π(· | s')      label
θ_j ← θ_j − κ ∇ [mean (q_j(s, a) − y)² + α mean (log ∫_A exp q_j(s, a'') da'' − q_j(s, a))],  all j   regress
w ← w − κ ∇ mean [β log π(a'' | s) − min_j q_j(s, a'')],  a'' ~ π(· | s)   improve
log β ← log β − κ ∇ [−β mean(log π(a' | s') + H̄)]                   temperature
θ̄ follows softly

`calibrated` (Cal-QL, Nakamoto et al. 2023) is for going online afterwards: under the integral the policy's actions
count as max(q_j, v(s)), so that nothing is pushed below the value v of the log's own policy:
ψ ← ψ − κ ∇ mean (v(s) − r − γ (1 − terminated) v̄(s'))²             evaluate the log
The paper takes the returns that followed instead, which are not known of an episode that goes on.

α = 10 is published for locomotion, with 5 for Cal-QL (`--preset cal-ql-2023`). The authors' code clones the log in its
first updates; this one does not.
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
from fittedq.algorithms.base import NetworkAlgorithm, learning_rate, shared, target_entropy
from fittedq.approx.networks import TanhGaussianPolicy, VNetwork
from fittedq.ranges import LOG, Span
from fittedq.settings import setting
from fittedq.template.fqi import FQI, Polyak, Sync, Update
from fittedq.template.greedy import PolicyAction
from fittedq.template.losses import Improve, Regress, TuneTemperature
from fittedq.template.penalties import Conservative
from fittedq.template.rates import Rate
from fittedq.template.targets import Bellman, MinOverCritics, ValueOfLog
from fittedq.types import Components


@dataclass(frozen=True, kw_only=True)
class CQL(NetworkAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "cql"
    title: ClassVar[str] = "Conservative Q-learning"

    hidden: tuple[int, ...] = shared("hidden", (256, 256, 256))
    n_critics: int = shared("n_critics", 2)
    policy_learning_rate: Rate = learning_rate(3e-5, "the policy")
    initial_temperature: float = shared("initial_temperature", 1.0)
    temperature_learning_rate: Rate = learning_rate(3e-4, "log β")
    target_entropy: float | None = shared("target_entropy", None)
    alpha: float = setting(
        10.0, "weight α of the penalty on actions that the log has not", low=0.0, search=Span(0.5, 20.0, LOG)
    )
    n_actions: int = setting(10, "actions of each kind that the penalty takes: uniform, π at s, π at s'", low=1)
    calibrated: bool = setting(False, "push no action below the value of the log's own policy (Cal-QL)")
    soft_targets: bool = setting(False, "targets have the entropy of π, as SAC's")

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        critic_key, policy_key = jax.random.split(key)
        value_key = jax.random.fold_in(key, 2)
        value = VNetwork(obs_size, self.hidden, value_key, activation=self.activation) if self.calibrated else None
        return Components(
            critic=self.critic(obs_size, action_set, critic_key),
            policy=TanhGaussianPolicy(obs_size, action_set, self.hidden, policy_key, activation=self.activation),
            value=value,
            log_temperature=jnp.asarray(math.log(self.initial_temperature)),
        )

    def template(self, action_set: AbstractActionSet) -> FQI:
        target = Bellman(self.gamma, MinOverCritics(), soft=self.soft_targets)
        penalty = Conservative(self.alpha, self.n_actions, self.calibrated)
        tune = TuneTemperature(target_entropy(self.target_entropy, action_set))
        updates = (
            Update("critic", Regress(target, penalty=penalty), self.descend(self.critic_learning_rate)),
            Update("policy", Improve(MinOverCritics()), self.descend(self.policy_learning_rate)),
            Update("log_temperature", tune, self.descend(self.temperature_learning_rate)),
        )
        follow = Polyak(self.tau)
        if not self.calibrated:
            return FQI(greedy=PolicyAction(), updates=updates, sync=Sync(critic=follow))
        evaluate = Update("value", Regress(ValueOfLog(self.gamma)), self.descend(self.critic_learning_rate))
        return FQI(greedy=PolicyAction(), updates=(*updates, evaluate), sync=Sync(critic=follow, value=follow))

    def exploration(self) -> AbstractExploration:
        return OwnNoise()
