"""Deep deterministic policy gradient (Lillicrap et al. 2015): NFQCA with a budget of one step.

a  = Π_A(π(s) + noise)                                              collect
y  = r + γ (1 − terminated) q̄(s', π̄(s'))                            label
θ ← θ − α ∇ mean (q(s, a) − y)²                                     regress
w ← w + α ∇ mean q(s, π(s))                                         improve
θ̄, w̄ follow the newest θ, w: softly, or copied every `target_period` updates
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import optax
from jaxtyping import PRNGKeyArray

from fittedq.acting.noise import AbstractExploration, Gaussian, OrnsteinUhlenbeck
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import NetworkAlgorithm, Rules, learning_rate, refuse_unread, shared
from fittedq.approx.networks import DeterministicPolicy
from fittedq.settings import setting
from fittedq.template.fits import Descend
from fittedq.template.fqi import FQI, Periodic, Polyak, Sync, Update
from fittedq.template.greedy import PolicyAction
from fittedq.template.losses import Improve, Regress
from fittedq.template.rates import Rate
from fittedq.template.targets import Bellman, FirstCritic
from fittedq.types import Components


def _reads_of_its_choices(ddpg: DDPG) -> None:
    if ddpg.noise == "gaussian":
        refuse_unread(ddpg, {"noise_reversion", "noise_mean", "noise_dt"}, "noise = gaussian")
    if ddpg.target_period is not None:
        refuse_unread(ddpg, {"tau"}, f"target_period = {ddpg.target_period}")


@dataclass(frozen=True, kw_only=True)
class DDPG(NetworkAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "ddpg"
    title: ClassVar[str] = "Deep deterministic policy gradient"
    rules: ClassVar[Rules] = (*NetworkAlgorithm.rules, _reads_of_its_choices)

    critic_learning_rate: Rate = learning_rate(1e-3, "the critic")
    critic_weight_decay: float = setting(0.0, "L2 penalty on the critic (published: 1e-2)", low=0.0)
    target_period: int | None = setting(
        None, "copy the frozen networks every so many updates, instead of τ", low=1, high=2**31 - 1
    )
    noise: str = setting("ou", "exploration noise", choices=("ou", "gaussian"))
    noise_sigma: float = shared("noise_sigma", 0.2)
    noise_reversion: float = setting(0.15, "Ornstein–Uhlenbeck's reversion θ", above=0.0)
    noise_mean: float = setting(0.0, "Ornstein–Uhlenbeck's mean μ")
    noise_dt: float = setting(1.0, "Ornstein–Uhlenbeck's time step Δt", above=0.0)

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        critic_key, policy_key = jax.random.split(key)
        return Components(
            critic=self.critic(obs_size, action_set, critic_key),
            policy=DeterministicPolicy(obs_size, action_set, self.hidden, policy_key, activation=self.activation),
        )

    def template(self, action_set: AbstractActionSet) -> FQI:
        follow = Polyak(self.tau) if self.target_period is None else Periodic(self.target_period)
        return FQI(
            greedy=PolicyAction(),
            updates=(
                Update("critic", Regress(Bellman(self.gamma, FirstCritic())), Descend(self.critic_optimizer())),
                Update("policy", Improve(FirstCritic()), self.descend(self.policy_learning_rate)),
            ),
            sync=Sync(critic=follow, policy=follow),
        )

    def exploration(self) -> AbstractExploration:
        if self.noise == "gaussian":
            return Gaussian(self.noise_sigma)
        return OrnsteinUhlenbeck(self.noise_reversion, self.noise_mean, self.noise_sigma, self.noise_dt)

    def critic_optimizer(self) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(self.critic_weight_decay)
        return optax.chain(decay, self.optimizer_at(self.critic_learning_rate))
