"""Soft actor-critic on batch-normalized networks, without a target network (Bhatt et al. 2024, CrossQ).

a  ~ π(· | s)                                                            collect
[q_j(s, a), q_j(s', a')] one pass, normalized together,  a' ~ π(· | s')
y  = r + γ (1 − terminated) (min_j q_j(s', a') − β log π(a' | s'))       label, without a gradient
θ_j ← θ_j − α ∇ mean (q_j(s, a) − y)²,  all j                            regress
every `policy_delay` updates:
w ← w − α ∇ mean [β log π(a | s) − min_j q_j(s, a)],  a ~ π(· | s)       improve
log β ← log β − α ∇ [−β mean(log π(a' | s') + H̄)]                        temperature

Each layer is normalized before its activation; the authors' code normalizes after it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import learning_rate, shared
from fittedq.algorithms.soft import NetworkKind, SoftAlgorithm
from fittedq.approx.batch_norm import BatchNormMlp
from fittedq.approx.heads import OneValue
from fittedq.settings import setting
from fittedq.template.fqi import FQI, Sync
from fittedq.template.losses import RegressTogether
from fittedq.template.rates import Adam, Optimizer, Rate
from fittedq.template.targets import Bellman, MinOverCritics


@dataclass(frozen=True, kw_only=True)
class CrossQ(SoftAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "crossq"
    title: ClassVar[str] = "Soft actor-critic, batch-normalized, no target network"
    training: ClassVar[Mapping[str, Any]] = {"random_steps": 5_000}

    hidden: tuple[int, ...] = shared("hidden", (2048, 2048))
    policy_hidden: tuple[int, ...] | None = shared("policy_hidden", (256, 256))
    renorm: bool = setting(True, "put back what a batch's statistics differ by, after 100 000 batches")
    optimizer: str | Optimizer = shared("optimizer", Adam(b1=0.5))
    critic_learning_rate: Rate = learning_rate(1e-3, "the critics")
    policy_learning_rate: Rate = learning_rate(1e-3, "the policy")
    temperature_learning_rate: Rate = learning_rate(1e-3, "log β")
    policy_delay: int = shared("policy_delay", 3)

    @property
    def network_kind(self) -> NetworkKind:
        make = functools.partial(BatchNormMlp, renorm=self.renorm, spherical=False)
        return NetworkKind(make, by_batch=True)

    @property
    def head(self) -> OneValue:
        return OneValue()

    def template(self, action_set: AbstractActionSet) -> FQI:
        regress = RegressTogether(Bellman(self.gamma, MinOverCritics()))
        return self.soft_template(action_set, regress, Sync(), entropy=-1.0)
