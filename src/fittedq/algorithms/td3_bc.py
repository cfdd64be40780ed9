"""TD3 with behaviour cloning (Fujimoto & Gu 2021): the policy climbs q, and stays near the logged actions.

ã  = Π_A(π̄(s') + half_width · clip(σ ε, −c, c))                     smooth
y  = r + γ (1 − terminated) min_j q̄_j(s', ã)                        label
θ_j ← θ_j − κ ∇ mean (q_j(s, a) − y)²,  all j                       regress
every `policy_delay` updates:
w ← w − κ ∇ mean [−α q_1(s, π(s)) / Z + ‖(π(s) − a) / half_width‖² / m],  Z = mean |q_1(s, π(s))| held still
θ̄, w̄ follow softly

α = 0 clones the log's actions; as α grows it becomes TD3. The paper normalizes states, as a fit to a dataset does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import POLICY_CRITICS, shared
from fittedq.algorithms.twin import TwinDelayedAlgorithm
from fittedq.template.fqi import FQI
from fittedq.template.near import ImproveNear
from fittedq.template.targets import Bellman, MinOverCritics


@dataclass(frozen=True, kw_only=True)
class TD3BC(TwinDelayedAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "td3_bc"
    title: ClassVar[str] = "TD3 with behaviour cloning"

    alpha: float = shared("alpha", 2.5)

    def template(self, action_set: AbstractActionSet) -> FQI:
        target = Bellman(self.gamma, MinOverCritics(subset=self.n_target_critics))
        improve = ImproveNear(POLICY_CRITICS[self.policy_critic], self.alpha, 1 / action_set.size)
        return self.twin_template(target, improve)
