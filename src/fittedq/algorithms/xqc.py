"""Soft actor-critic on batch-normalized networks with a distributional critic (Palenicek et al. 2025, XQC).

a  ~ π(· | s)                                                            collect
y_k = r + γ (1 − terminated) (z_k − β log π(a' | s')), a' ~ π(· | s'),   label: the bins z of the critic of least mean
      with the weights w̄_k(s', a') of the frozen critic
θ_j ← Π(θ_j − α ∇ cross-entropy(w_j(s, a), bins of y)),  all j           regress, normalized over (s, a) and (s', a')
every `policy_delay` updates:
w ← Π(w − α ∇ mean [β log π(a | s) − min_j q_j(s, a)]),  a ~ π(· | s)    improve
log β ← log β − α ∇ [−β mean(log π(a' | s') + H̄)]                        temperature
θ̄ follows softly
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from fittedq.acting.noise import AbstractExploration, OwnNoise
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import POLICY_CRITICS, GradientAlgorithm, learning_rate, shared, target_entropy
from fittedq.approx.batch_norm import BatchNormMlp
from fittedq.approx.heads import Categorical
from fittedq.approx.net import Make
from fittedq.approx.networks import Mlp, QNetwork, TanhGaussianPolicy
from fittedq.settings import setting
from fittedq.template.fqi import FQI, Polyak, Sync, Update
from fittedq.template.greedy import PolicyAction
from fittedq.template.losses import Improve, RegressReturns, TuneTemperature
from fittedq.template.rates import Linear, Rate
from fittedq.template.targets import BellmanOfReturns
from fittedq.types import Components

NETS: dict[str, Make] = {
    "batch": BatchNormMlp,
    "renorm": functools.partial(BatchNormMlp, renorm=True),
    "layer": functools.partial(Mlp, layer_norm=True),
}
"""Networks by what normalizes them; those of a batch keep their weights on the unit sphere."""


@dataclass(frozen=True, kw_only=True)
class XQC(GradientAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "xqc"
    title: ClassVar[str] = "Soft actor-critic, batch-normalized, distributional critics"
    training: ClassVar[Mapping[str, Any]] = {"updates_per_step": 2.0, "random_steps": 5_000, "scale_rewards": True}

    hidden: tuple[int, ...] = setting((512, 512, 512, 512), "widths of the critics' hidden layers", low=1)
    policy_hidden: tuple[int, ...] | None = setting(
        None, "widths of the policy's hidden layers; none means half the critics'", low=1
    )
    n_critics: int = shared("n_critics", 2)
    normalization: str = setting("batch", "what normalizes the layers: batch, renorm or layer", choices=NETS)
    bins: int = setting(101, "bins of the return's distribution", low=2)
    value_low: float = setting(-5.0, "the lowest bin, in scaled rewards")
    value_high: float = setting(5.0, "the highest bin, in scaled rewards")
    critic_learning_rate: Rate = learning_rate(Linear(3e-4, 3e-5), "the critics")
    policy_learning_rate: Rate = learning_rate(Linear(3e-4, 3e-5), "the policy")
    policy_critic: str = shared("policy_critic", "min")
    policy_delay: int = setting(3, "critic updates per policy update", low=1, high=2**31 - 1)
    initial_temperature: float = shared("initial_temperature", 0.01)
    temperature_learning_rate: Rate = learning_rate(Linear(3e-4, 3e-5), "log β")
    target_entropy: float | None = setting(None, "H̄ in nats; none means −m/2 nats in the unit box")

    @property
    def policy_widths(self) -> tuple[int, ...]:
        """Widths of the policy's hidden layers."""
        return self.policy_hidden or tuple(max(1, width // 2) for width in self.hidden)

    def layers(self, obs_size: int, action_size: int) -> list[tuple[int, tuple[int, ...]]]:
        return [
            (self.n_critics, (obs_size + action_size, *self.hidden, self.bins)),
            (1, (obs_size, *self.policy_widths, 2 * action_size)),
        ]

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        critic_key, policy_key = jax.random.split(key)
        made = {"activation": self.activation, "make": NETS[self.normalization]}
        head = Categorical(self.value_low, self.value_high, self.bins)
        return Components(
            critic=QNetwork(obs_size, action_set, self.hidden, critic_key, n_critics=self.n_critics, head=head, **made),
            policy=TanhGaussianPolicy(obs_size, action_set, self.policy_widths, policy_key, **made),
            log_temperature=jnp.asarray(math.log(self.initial_temperature)),
        )

    def template(self, action_set: AbstractActionSet) -> FQI:
        regress = RegressReturns(BellmanOfReturns(self.gamma, together=self.normalization != "layer"))
        improve = Improve(POLICY_CRITICS[self.policy_critic])
        tune = TuneTemperature(target_entropy(self.target_entropy, action_set, per_action=-0.5))
        later = functools.partial(Update, every=self.policy_delay)
        return FQI(
            greedy=PolicyAction(),
            updates=(
                Update("critic", regress, self.descend(self.critic_learning_rate)),
                later("policy", improve, self.descend(self.policy_learning_rate)),
                later("log_temperature", tune, self.descend(self.temperature_learning_rate)),
            ),
            sync=Sync(critic=Polyak(self.tau)),
        )

    def exploration(self) -> AbstractExploration:
        return OwnNoise()
