"""Soft actor-critic on hyperspherical networks with a distributional critic (Lee et al. 2025, SimbaV2).

a  ~ π(· | s)                                                            collect, s normalized by its running moments
y_k = r + γ (1 − terminated) (z_k − β log π(a' | s')), a' ~ π(· | s'),   label: the bins z of the critic of least mean
      with the weights w̄_k(s', a') of the frozen critic; r scaled
θ_j ← Π(θ_j − α ∇ cross-entropy(w_j(s, a), bins of y)),  all j           regress, every unit's weights of length 1
w ← Π(w − α ∇ mean [β log π(a | s) − min_j q_j(s, a)]),  a ~ π(· | s)    improve
log β ← log β − α ∇ [−β mean(log π(a' | s') + H̄)]                        temperature
θ̄ follows softly

Each of `hidden` is a block of the critics, each of `policy_hidden` one of the policy. Settings are those published for
tasks of 1,000 steps. Published, γ goes with the length T of an episode: 1 − 5/T, within [.95, .995]. Of the policy, μ
and log σ have one head here and two there, and log σ is clipped as SAC's, where theirs is squashed into [−10, 2].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import learning_rate, shared
from fittedq.algorithms.soft import NetworkKind, SoftAlgorithm
from fittedq.approx.heads import Categorical
from fittedq.approx.hyperspherical import HypersphericalMlp, of_spherical_blocks
from fittedq.template.fqi import FQI, Polyak, Sync
from fittedq.template.losses import RegressReturns
from fittedq.template.rates import Linear, Rate
from fittedq.template.targets import BellmanOfReturns


@dataclass(frozen=True, kw_only=True)
class SimbaV2(SoftAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "simba_v2"
    title: ClassVar[str] = "Soft actor-critic, hyperspherical, distributional critics"
    training: ClassVar[Mapping[str, Any]] = {
        "updates_per_step": 2.0,
        "random_steps": 5_000,
        "normalize_obs": True,
        "scale_rewards": True,
        "return_bound": 5.0,
    }

    gamma: float = shared("gamma", 0.995)
    hidden: tuple[int, ...] = shared("hidden", (512, 512))
    policy_hidden: tuple[int, ...] | None = shared("policy_hidden", (128,))
    bins: int = shared("bins", 101)
    value_low: float = shared("value_low", -5.0)
    value_high: float = shared("value_high", 5.0)
    critic_learning_rate: Rate = learning_rate(Linear(1e-4, 5e-5), "the critics")
    policy_learning_rate: Rate = learning_rate(Linear(1e-4, 5e-5), "the policy")
    temperature_learning_rate: Rate = learning_rate(Linear(1e-4, 5e-5), "log β")
    tau: float = shared("tau", 0.005)
    initial_temperature: float = shared("initial_temperature", 0.01)
    target_entropy: float | None = shared("half_entropy", None)

    @property
    def network_kind(self) -> NetworkKind:
        return NetworkKind(HypersphericalMlp, of_spherical_blocks)

    @property
    def head(self) -> Categorical:
        return Categorical(self.value_low, self.value_high, self.bins)

    def template(self, action_set: AbstractActionSet) -> FQI:
        regress = RegressReturns(BellmanOfReturns(self.gamma))
        return self.soft_template(action_set, regress, Sync(critic=Polyak(self.tau)), entropy=-0.5)
