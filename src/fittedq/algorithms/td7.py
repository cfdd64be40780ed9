"""TD3 on learned state-action embeddings (Fujimoto et al. 2023, TD7).

a  = Π_A(π(s, z_s) + σ_explore · half_width · ε)                     collect, z of the policy's own encoder
φ ← φ − α ∇ mean (z_sa(z_s(s), a) − z_s(s'))²                        encode, z_s(s') held still
ã  = Π_A(π̄(s', z̄_s) + half_width · clip(σ ε, −c, c))                 smooth
y  = r + γ (1 − terminated) clip(min_j q̄_j(s', ã, z̄_sa, z̄_s))       label, within the labels seen by the last copy
θ_j ← θ_j − α ∇ mean ℓ(q_j(s, a, z_sa, z_s) − y),  all j             regress, Huber's ℓ where the replay is `lap`
every `policy_delay` updates:  w ← w + α ∇ mean q(s, π(s, z_s)),  the mean of all critics
every `period` updates:  θ̄ ← θ and w̄ ← w, the encoders that they hold among them;  then these of θ and w ← φ

A policy acts unchanged until its episodes are over, and then all updates of their steps follow: an agent acts by the
policy whose worst episode was the best (`assess_episodes`, one, and `assess_late`, 20 after 750 000 steps).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import optax
from jaxtyping import PRNGKeyArray

from fittedq.acting.noise import AbstractExploration, Gaussian
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import POLICY_CRITICS, GradientAlgorithm, learning_rate, shared
from fittedq.approx.embedding import EmbeddedMlp, RangedCritic, StateActionEncoder, own_arrays
from fittedq.approx.networks import ACTIVATIONS, Activation, DeterministicPolicy, QNetwork
from fittedq.settings import setting
from fittedq.template.fits import Descend
from fittedq.template.fqi import FQI, Periodic, Sync, Update
from fittedq.template.greedy import PolicyAction, Smoothed
from fittedq.template.losses import Improve, Predict, Regress
from fittedq.template.rates import Rate
from fittedq.template.targets import Bellman, MinOverCritics, WithinSeen
from fittedq.types import Components


@dataclass(frozen=True, kw_only=True)
class TD7(GradientAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "td7"
    title: ClassVar[str] = "TD3 on learned state-action embeddings"
    training: ClassVar[Mapping[str, Any]] = {"random_steps": 25_000, "replay": "lap", "assess_episodes": 1}

    hidden: tuple[int, ...] = shared("hidden", (256, 256))
    activation: Activation = shared("activation", "elu")
    policy_activation: Activation = setting(
        "relu", "activation of the policy's hidden layers", choices=ACTIVATIONS, takes=Callable, arguments=("x",)
    )
    embedding: int = setting(256, "numbers in an embedding", low=1)
    encoder_hidden: tuple[int, ...] = setting((256, 256), "widths of the encoder's hidden layers", low=1)
    encoder_learning_rate: Rate = learning_rate(3e-4, "the encoder")
    n_critics: int = shared("n_critics", 2)
    policy_critic: str = shared("policy_critic", "mean")
    policy_delay: int = shared("policy_delay", 2)
    period: int = setting(250, "updates between two copies", low=1, high=2**31 - 1)
    smoothing_sigma: float = shared("smoothing_sigma", 0.2)
    smoothing_clip: float = shared("smoothing_clip", 0.5)
    noise_sigma: float = shared("noise_sigma", 0.1)

    def layers(self, obs_size: int, action_size: int) -> list[tuple[int, tuple[int, ...]]]:
        width, z = self.hidden[0], self.embedding
        return [
            (self.n_critics, (obs_size + action_size, width)),
            (self.n_critics, (width + 2 * z, *self.hidden, 1)),
            (1, (obs_size, width)),
            (1, (width + z, *self.hidden, action_size)),
            (3, (obs_size, *self.encoder_hidden, z)),
            (3, (z + action_size, *self.encoder_hidden, z)),
        ]

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        encoder_key, critic_key, policy_key = jax.random.split(key, 3)
        encode = functools.partial(StateActionEncoder, activation=self.activation)
        encoder = encode(obs_size, action_set.size, self.embedding, self.encoder_hidden, encoder_key)
        make = functools.partial(EmbeddedMlp, encoder=encoder)
        q = functools.partial(QNetwork, n_critics=self.n_critics, activation=self.activation, make=make)
        pi = functools.partial(DeterministicPolicy, activation=self.policy_activation, make=make)
        return Components(
            critic=RangedCritic(q(obs_size, action_set, self.hidden, critic_key)),
            policy=pi(obs_size, action_set, self.hidden, policy_key),
            encoder=encoder,
        )

    def template(self, action_set: AbstractActionSet) -> FQI:
        target = Bellman(self.gamma, WithinSeen(MinOverCritics()))
        improve, copy = Improve(POLICY_CRITICS[self.policy_critic]), Periodic(self.period)
        return FQI(
            greedy=Smoothed(PolicyAction(), self.smoothing_sigma, self.smoothing_clip),
            updates=(
                Update("encoder", Predict(), self.descend(self.encoder_learning_rate)),
                Update("critic", Regress(target), self.descend_own(self.critic_learning_rate)),
                Update("policy", improve, self.descend_own(self.policy_learning_rate), every=self.policy_delay),
            ),
            sync=Sync(critic=copy, policy=copy, inside=copy),
        )

    def descend_own(self, rate: Rate) -> Descend:
        """`descend`, which leaves the encoder inside as it is."""
        return Descend(optax.masked(self.optimizer_at(rate), own_arrays))

    def exploration(self) -> AbstractExploration:
        return Gaussian(self.noise_sigma)
