"""Soft actor-critic with truncated quantile critics (Kuznetsov et al. 2020).

a  ~ π(· | s)                                                            collect
z  = the quantiles of all frozen critics at (s', a'), a' ~ π(· | s'),    label
     sorted, without the `drop` · n largest
y_k = r + γ (1 − terminated) (z_k − β log π(a' | s'))
θ_j ← θ_j − α ∇ mean quantile loss(z_j(s, a), y),  all j                 regress, Huber's
w ← w − α ∇ mean [β log π(a | s) − mean of all z(s, a)],  a ~ π(· | s)   improve
log β ← log β − α ∇ [−β mean(log π(a' | s') + H̄)]                        temperature
θ̄ follows softly

Settings are the paper's: five critics of 25 quantiles and three layers of 512, a policy of two of 256, two dropped a
critic. It drops none on HalfCheetah and five on Hopper. Cheaper, and common since: `n_critics` 2 and `hidden` 256, 256.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import shared
from fittedq.algorithms.soft import NetworkKind, SoftAlgorithm
from fittedq.approx.heads import Quantiles
from fittedq.approx.networks import Mlp
from fittedq.errors import UserError
from fittedq.settings import setting
from fittedq.template.fqi import FQI, Polyak, Sync
from fittedq.template.losses import RegressReturns
from fittedq.template.targets import BellmanOfReturns, Truncated


def _keep_some(algorithm: TQC) -> None:
    if algorithm.drop >= algorithm.quantiles:
        raise UserError(
            f"setting drop: found {algorithm.drop} of {algorithm.quantiles} quantiles a critic, "
            f"expected fewer than all of them; set drop to {algorithm.quantiles - 1} or less."
        )


@dataclass(frozen=True, kw_only=True)
class TQC(SoftAlgorithm):
    __doc__ = __doc__

    rules = (*SoftAlgorithm.rules, _keep_some)
    name: ClassVar[str] = "tqc"
    title: ClassVar[str] = "Soft actor-critic, truncated quantile critics"

    hidden: tuple[int, ...] = shared("hidden", (512, 512, 512))
    policy_hidden: tuple[int, ...] | None = shared("policy_hidden", (256, 256))
    n_critics: int = shared("n_critics", 5)
    quantiles: int = setting(25, "quantiles of the return that each critic learns", low=1)
    drop: int = setting(2, "largest quantiles a critic that the target leaves out", low=0)
    policy_critic: str = shared("policy_critic", "mean")
    tau: float = shared("tau", 0.005)

    @property
    def network_kind(self) -> NetworkKind:
        return NetworkKind(Mlp)

    @property
    def head(self) -> Quantiles:
        return Quantiles(self.quantiles)

    def template(self, action_set: AbstractActionSet) -> FQI:
        regress = RegressReturns(BellmanOfReturns(self.gamma, Truncated(self.drop)))
        return self.soft_template(action_set, regress, Sync(critic=Polyak(self.tau)), entropy=-1.0)
