"""What methods on twin critics share whose deterministic policy is delayed, and whose targets are smoothed."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import jax
from jaxtyping import PRNGKeyArray

from fittedq.acting.noise import AbstractExploration, Gaussian, OrnsteinUhlenbeck
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import NetworkAlgorithm, shared
from fittedq.approx.networks import DeterministicPolicy
from fittedq.settings import setting
from fittedq.template.fqi import FQI, Polyak, Sync, Update
from fittedq.template.greedy import PolicyAction, Smoothed
from fittedq.template.losses import Loss, Regress
from fittedq.template.targets import AbstractTarget
from fittedq.types import Components


@dataclass(frozen=True, kw_only=True)
class TwinDelayedAlgorithm(NetworkAlgorithm, abc.ABC):
    """Settings, networks and the template of methods that differ by what the critics and the policy are fitted to."""

    n_critics: int = shared("n_critics", 2)
    n_target_critics: int = shared("n_target_critics", 2)
    policy_critic: str = shared("policy_critic", "first")
    policy_delay: int = shared("policy_delay", 2)
    smoothing_sigma: float = shared("smoothing_sigma", 0.2)
    smoothing_clip: float = shared("smoothing_clip", 0.5)
    noise_sigma: float = shared("noise_sigma", 0.1)
    noise_reversion: float = setting(
        1.0,
        "ρ of the exploration noise η ← (1 − ρ) η + σ ε; 1: white; a smaller one drifts, for plants that are slow",
        above=0.0,
        high=1.0,
    )

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        critic_key, policy_key = jax.random.split(key)
        return Components(
            critic=self.critic(obs_size, action_set, critic_key),
            policy=DeterministicPolicy(obs_size, action_set, self.hidden, policy_key, activation=self.activation),
        )

    def twin_template(self, target: AbstractTarget, improve: Loss) -> FQI:
        """Smooth, regress all critics, and every `policy_delay` updates `improve` the policy and follow."""
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
        if self.noise_reversion == 1.0:
            return Gaussian(self.noise_sigma)
        return OrnsteinUhlenbeck(self.noise_reversion, sigma=self.noise_sigma)
