"""TD3 with behaviour cloning, revisited (Tarasov et al. 2023, ReBRAC): targets stay near the log, too.

ã  = Π_A(π̄(s') + half_width · clip(σ ε, −c, c))                     smooth
y  = r + γ (1 − terminated) (min_j q̄_j(s', ã) − β_q ‖(ã − a') / half_width‖²)   label, a' the logged action at s'
θ_j ← θ_j − κ ∇ mean (q_j(s, a) − y)²,  all j                       regress, layer norm in the critics
every `policy_delay` updates:
w ← w − κ ∇ mean [−min_j q_j(s, π(s)) / Z + β_π ‖(π(s) − a) / half_width‖²],  Z = mean |min_j q_j(s, π(s))| held still
θ̄, w̄ follow softly

With β_q = β_π = 0 and Z = 1 it is TD3. Both weights are published for each set of data: from .001 to 1, the more the
fewer behaviours it has. Here the layers' norm is before the activation; the authors have it behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import POLICY_CRITICS, learning_rate, shared
from fittedq.algorithms.twin import TwinDelayedAlgorithm
from fittedq.ranges import LOG, Span
from fittedq.settings import setting
from fittedq.template.fqi import FQI
from fittedq.template.near import ImproveNear
from fittedq.template.rates import Rate
from fittedq.template.targets import BellmanNear, MinOverCritics

BY_LOG = Span(1e-3, 0.3, LOG)
"""Where both weights are looked for."""


@dataclass(frozen=True, kw_only=True)
class ReBRAC(TwinDelayedAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "rebrac"
    title: ClassVar[str] = "TD3 with behaviour cloning, revisited"
    training: ClassVar[Mapping[str, Any]] = {"batch_size": 1024}

    hidden: tuple[int, ...] = shared("hidden", (256, 256, 256))
    layer_norm: bool = setting(True, "layer norm in the critics")
    policy_critic: str = shared("policy_critic", "min")
    critic_learning_rate: Rate = learning_rate(1e-3, "the critics")
    policy_learning_rate: Rate = learning_rate(1e-3, "the policy")
    policy_near: float = setting(
        0.01, "weight β_π of the policy's distance to the logged action", low=0.0, search=BY_LOG
    )
    critic_near: float = setting(0.01, "weight β_q of the same distance in the targets", low=0.0, search=BY_LOG)
    normalize_q: bool = setting(True, "the policy climbs q / mean |q|, whatever the unit of reward")

    def template(self, action_set: AbstractActionSet) -> FQI:
        target = BellmanNear(self.gamma, MinOverCritics(subset=self.n_target_critics), self.critic_near)
        improve = ImproveNear(POLICY_CRITICS[self.policy_critic], 1.0, self.policy_near, self.normalize_q)
        return self.twin_template(target, improve)
