"""Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018).

a  = Π_A(π(s) + half_width · η),  η ← (1 − ρ) η + σ_explore ε        collect
ã  = Π_A(π̄(s') + half_width · clip(σ ε, −c, c))                     smooth
y  = r + γ (1 − terminated) min_j q̄_j(s', ã)                        label
θ_j ← θ_j − α ∇ mean (q_j(s, a) − y)²,  all j                       regress
every `policy_delay` updates:  w ← w + α ∇ mean [q_1(s, π(s)) − λ ‖z(s)‖² / m];  θ̄, w̄ follow softly

λ = `saturation`, by default 0, keeps z, what π squashes by tanh, where tanh has a slope (Andrychowicz et al. 2017).
ρ = `noise_reversion`, by default 1, is white noise; a smaller one drifts, which a slow plant does not filter away.
η then deviates by σ_explore / √(ρ (2 − ρ)) (Lillicrap et al. 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import POLICY_CRITICS
from fittedq.algorithms.twin import TwinDelayedAlgorithm
from fittedq.settings import setting
from fittedq.template.fqi import FQI
from fittedq.template.losses import Improve
from fittedq.template.targets import Bellman, MinOverCritics


@dataclass(frozen=True, kw_only=True)
class TD3(TwinDelayedAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "td3"
    title: ClassVar[str] = "Twin delayed deep deterministic policy gradient"

    saturation: float = setting(
        0.0,
        "λ of a penalty λ z² on what the policy squashes by tanh, where it would saturate and stop learning",
        low=0.0,
    )

    def template(self, action_set: AbstractActionSet) -> FQI:
        target = Bellman(self.gamma, MinOverCritics(subset=self.n_target_critics))
        return self.twin_template(target, Improve(POLICY_CRITICS[self.policy_critic], self.saturation))
