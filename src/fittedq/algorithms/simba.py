"""Soft actor-critic on residual networks with layer norm (Lee et al. 2024, SimBa).

a  ~ π(· | s)                                                       collect, s normalized by its running moments
y  = r + γ (1 − terminated) (min_j q̄_j(s', a') − β log π(a' | s')), a' ~ π(· | s'), π live
θ_j ← θ_j − α ∇ mean (q_j(s, a) − y)²,  all j                       regress
w ← w − α ∇ mean [β log π(a | s) − min_j q_j(s, a)],  a ~ π(· | s)  improve
log β ← log β − α ∇ [−β mean(log π(a' | s') + H̄)]                   temperature
θ̄ follows softly

Each of `hidden` is a block of the critics, each of `policy_hidden` one of the policy. Settings are those published,
but for the policy: log σ is clipped as SAC's, where theirs is squashed into [−10, 2].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import learning_rate, shared
from fittedq.algorithms.soft import NetworkKind, SoftAlgorithm
from fittedq.approx.heads import OneValue
from fittedq.approx.residual import ResidualMlp, of_blocks
from fittedq.template.fqi import FQI, Polyak, Sync
from fittedq.template.losses import RegressReturns
from fittedq.template.rates import Optimizer, Rate
from fittedq.template.targets import BellmanOfReturns


@dataclass(frozen=True, kw_only=True)
class SimBa(SoftAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "simba"
    title: ClassVar[str] = "Soft actor-critic, residual networks with layer norm"
    training: ClassVar[Mapping[str, Any]] = {"random_steps": 5_000, "normalize_obs": True}

    hidden: tuple[int, ...] = shared("hidden", (512, 512))
    policy_hidden: tuple[int, ...] | None = shared("policy_hidden", (128,))
    optimizer: str | Optimizer = shared("optimizer", "adamw")
    critic_learning_rate: Rate = learning_rate(1e-4, "the critics")
    policy_learning_rate: Rate = learning_rate(1e-4, "the policy")
    temperature_learning_rate: Rate = learning_rate(1e-4, "log β")
    tau: float = shared("tau", 0.005)
    initial_temperature: float = shared("initial_temperature", 0.01)
    target_entropy: float | None = shared("half_entropy", None)

    @property
    def network_kind(self) -> NetworkKind:
        return NetworkKind(ResidualMlp, of_blocks)

    @property
    def head(self) -> OneValue:
        return OneValue()

    def template(self, action_set: AbstractActionSet) -> FQI:
        regress = RegressReturns(BellmanOfReturns(self.gamma))
        return self.soft_template(action_set, regress, Sync(critic=Polyak(self.tau)), entropy=-0.5)
