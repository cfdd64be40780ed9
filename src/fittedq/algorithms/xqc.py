"""Soft actor-critic on batch-normalized networks with a distributional critic (Palenicek et al. 2025, XQC).

a  ~ π(· | s)                                                            collect
y_k = r + γ (1 − terminated) (z_k − β log π(a' | s')), a' ~ π(· | s'),   label: the bins z of the critic of least mean
      with the weights w̄_k(s', a') of the frozen critic
θ_j ← Π(θ_j − α ∇ cross-entropy(w_j(s, a), bins of y)),  all j           regress, normalized over (s, a) and (s', a')
every `policy_delay` updates:
w ← Π(w − α ∇ mean [β log π(a | s) − min_j q_j(s, a)]),  a ~ π(· | s)    improve
log β ← log β − α ∇ [−β mean(log π(a' | s') + H̄)]                        temperature
θ̄ follows softly

Not of the paper, and off: `target_steps` of ascent on min_j q̄_j(s', ·) from a'; the policy updated where its gap is
above `policy_gap`; `n_target_critics` of a larger ensemble in the label.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import learning_rate, shared
from fittedq.algorithms.soft import SAMPLED, NetworkKind, SoftAlgorithm
from fittedq.approx.batch_norm import BatchNormMlp
from fittedq.approx.heads import Categorical
from fittedq.approx.networks import Mlp
from fittedq.approx.residual import ResidualMlp, of_blocks
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.settings import setting
from fittedq.template.fqi import FQI, Polyak, Sync
from fittedq.template.greedy import Ascended
from fittedq.template.losses import RegressReturns
from fittedq.template.rates import Linear, Rate
from fittedq.template.targets import BellmanOfReturns
from fittedq.template.when import GapAbove

NETS: dict[str, NetworkKind] = {
    "batch": NetworkKind(BatchNormMlp, by_batch=True),
    "renorm": NetworkKind(functools.partial(BatchNormMlp, renorm=True), by_batch=True),
    "layer": NetworkKind(functools.partial(Mlp, layer_norm=True)),
    "residual": NetworkKind(ResidualMlp, of_blocks),
    "plain": NetworkKind(Mlp),
}
"""Networks by what normalizes them. Those of a batch keep their weights on the unit sphere, and residual ones have a
block for each of `hidden`, normalized by layer."""

REACH = 0.1
"""Half-widths of the box that the first step of `target_steps` goes."""


@dataclass(frozen=True, kw_only=True)
class XQC(SoftAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "xqc"
    title: ClassVar[str] = "Soft actor-critic, batch-normalized, distributional critics"
    training: ClassVar[Mapping[str, Any]] = {"updates_per_step": 2.0, "random_steps": 5_000, "scale_rewards": True}

    normalization: str = setting(
        "batch", "what normalizes the layers: batch, renorm, layer, residual or plain (none)", choices=NETS
    )
    bins: int = shared("bins", 101)
    value_low: float = shared("value_low", -5.0)
    value_high: float = shared("value_high", 5.0)
    critic_learning_rate: Rate = learning_rate(Linear(3e-4, 3e-5), "the critics")
    policy_learning_rate: Rate = learning_rate(Linear(3e-4, 3e-5), "the policy")
    temperature_learning_rate: Rate = learning_rate(Linear(3e-4, 3e-5), "log β")
    n_target_critics: int | None = shared("n_target_critics", None)
    target_steps: int = setting(0, "steps of ascent on the frozen critics from a' of the targets", low=0)
    policy_delay: int = shared("policy_delay", 3)
    policy_gap: float | None = setting(
        None, "the policy is updated where its gap to a solver's action is above this, in deviations of q", low=0.0
    )
    tau: float = shared("tau", 0.005)
    initial_temperature: float = shared("initial_temperature", 0.01)
    target_entropy: float | None = shared("half_entropy", None)

    @property
    def network_kind(self) -> NetworkKind:
        return NETS[self.normalization]

    @property
    def head(self) -> Categorical:
        return Categorical(self.value_low, self.value_high, self.bins)

    def template(self, action_set: AbstractActionSet) -> FQI:
        together = self.network_kind.by_batch
        regress = RegressReturns(BellmanOfReturns(self.gamma, together=together, subset=self.n_target_critics))
        search = ProjectedAscent(steps=self.target_steps, learning_rate=REACH)
        greedy = Ascended(SAMPLED, search) if self.target_steps else SAMPLED
        when = None if self.policy_gap is None else GapAbove(self.policy_gap)
        sync = Sync(critic=Polyak(self.tau))
        return self.soft_template(action_set, regress, sync, entropy=-0.5, greedy=greedy, when=when)
