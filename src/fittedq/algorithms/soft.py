"""What soft actor-critics share whose networks and heads are of a kind of their own."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from fittedq.acting.noise import AbstractExploration, OwnNoise
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import (
    POLICY_CRITICS,
    GradientAlgorithm,
    learning_rate,
    shared,
    target_entropy,
)
from fittedq.approx.heads import AbstractHead
from fittedq.approx.net import Make
from fittedq.approx.networks import QNetwork, TanhGaussianPolicy
from fittedq.template.fqi import FQI, Sync, Update
from fittedq.template.greedy import AbstractGreedy, PolicyAction
from fittedq.template.losses import Improve, Loss, TuneTemperature
from fittedq.template.rates import Rate
from fittedq.template.when import AbstractWhen
from fittedq.types import Components

Widths = tuple[int, ...]

SAMPLED = PolicyAction()
"""a' ~ π(· | s')."""


class NetworkKind(NamedTuple):
    """A kind of network: what makes one, and what has to be known of it."""

    make: Make
    layers: Callable[[Widths], Widths] = tuple
    """Widths from input to output as the settings have them → those of all its layers; a UserError where it has no
    network of such widths."""
    by_batch: bool = False
    """Whether it normalizes by a batch, so that (s, a) and (s', a') are to pass through it together."""


def _check_networks(algorithm: SoftAlgorithm) -> None:
    algorithm.layers(1, 1)


@dataclass(frozen=True, kw_only=True)
class SoftAlgorithm(GradientAlgorithm, abc.ABC):
    """Settings, networks and the template of soft actor-critics whose critics answer by a head."""

    rules = (*GradientAlgorithm.rules, _check_networks)

    hidden: Widths = shared("hidden", (512, 512, 512, 512))
    policy_hidden: Widths | None = shared("policy_hidden", None)
    n_critics: int = shared("n_critics", 2)
    policy_critic: str = shared("policy_critic", "min")
    policy_delay: int = shared("policy_delay", 1)
    initial_temperature: float = shared("initial_temperature", 1.0)
    temperature_learning_rate: Rate = learning_rate(3e-4, "log β")
    target_entropy: float | None = shared("target_entropy", None)

    @property
    @abc.abstractmethod
    def network_kind(self) -> NetworkKind:
        """The kind of its networks."""

    @property
    @abc.abstractmethod
    def head(self) -> AbstractHead:
        """What its critics' outputs mean."""

    @property
    def policy_widths(self) -> Widths:
        """Widths of the policy's hidden layers."""
        return self.policy_hidden or tuple(max(1, width // 2) for width in self.hidden)

    def layers(self, obs_size: int, action_size: int) -> list[tuple[int, Widths]]:
        layers = self.network_kind.layers
        return [
            (self.n_critics, layers((obs_size + action_size, *self.hidden, self.head.outputs))),
            (1, layers((obs_size, *self.policy_widths, 2 * action_size))),
        ]

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        critic_key, policy_key = jax.random.split(key)
        made = {"activation": self.activation, "make": self.network_kind.make}
        ensemble = functools.partial(QNetwork, n_critics=self.n_critics, head=self.head)
        return Components(
            critic=ensemble(obs_size, action_set, self.hidden, critic_key, **made),
            policy=TanhGaussianPolicy(obs_size, action_set, self.policy_widths, policy_key, **made),
            log_temperature=jnp.asarray(math.log(self.initial_temperature)),
        )

    def soft_template(
        self,
        action_set: AbstractActionSet,
        regress: Loss,
        sync: Sync,
        entropy: float,
        greedy: AbstractGreedy = SAMPLED,
        when: AbstractWhen | None = None,
    ) -> FQI:
        """Regress all critics, improve the policy (`when`), tune β to `entropy` · m nats."""
        tune = TuneTemperature(target_entropy(self.target_entropy, action_set, per_action=entropy))
        later = functools.partial(Update, every=self.policy_delay)
        improve, descend = Improve(POLICY_CRITICS[self.policy_critic]), self.descend(self.policy_learning_rate)
        return FQI(
            greedy=greedy,
            updates=(
                Update("critic", regress, self.descend(self.critic_learning_rate)),
                later("policy", improve, descend, when=when),
                later("log_temperature", tune, self.descend(self.temperature_learning_rate)),
            ),
            sync=sync,
        )

    def exploration(self) -> AbstractExploration:
        return OwnNoise()
