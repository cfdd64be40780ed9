"""Ensemble-diversified actor-critic (An et al. 2021): many critics whose slopes differ, and their minimum.

y  = r + γ (1 − terminated) (min_j q̄_j(s', a') − β log π(a' | s')),  a' ~ π(· | s')   label
θ_j ← θ_j − κ ∇ [mean (q_j(s, a) − y)² + η mean Σ_{i≠j} ⟨u_i, u_j⟩ / (n − 1)],  all j   regress
      u_j = ∇_a q_j(s, a) / ‖∇_a q_j(s, a)‖
w ← w − κ ∇ mean [β log π(a'' | s) − min_j q_j(s, a'')],  a'' ~ π(· | s)   improve
log β ← log β − κ ∇ [−β mean(log π(a' | s') + H̄)]                   temperature
θ̄ follows softly

η = 0 is SAC with n critics (SAC-N). 50 critics and η = 1 are published for Hopper; 10 do for HalfCheetah and Walker2d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import shared
from fittedq.algorithms.soft import NetworkKind, SoftAlgorithm, Widths
from fittedq.approx.heads import OneValue
from fittedq.approx.networks import Mlp
from fittedq.ranges import LOG, Span
from fittedq.settings import setting
from fittedq.template.fqi import FQI, Polyak, Sync
from fittedq.template.losses import Regress
from fittedq.template.penalties import Diverse
from fittedq.template.targets import Bellman, MinOverCritics


@dataclass(frozen=True, kw_only=True)
class EDAC(SoftAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "edac"
    title: ClassVar[str] = "Ensemble-diversified actor-critic"

    hidden: Widths = shared("hidden", (256, 256, 256))
    policy_hidden: Widths | None = shared("policy_hidden", (256, 256, 256))
    n_critics: int = shared("n_critics", 50)
    tau: float = shared("tau", 0.005)
    eta: float = setting(1.0, "weight η of the likeness of the critics' slopes", low=0.0, search=Span(0.1, 10.0, LOG))

    @property
    def network_kind(self) -> NetworkKind:
        return NetworkKind(Mlp)

    @property
    def head(self) -> OneValue:
        return OneValue()

    def template(self, action_set: AbstractActionSet) -> FQI:
        regress = Regress(Bellman(self.gamma, MinOverCritics()), penalty=Diverse(self.eta))
        return self.soft_template(action_set, regress, Sync(critic=Polyak(self.tau)), entropy=-1.0)
