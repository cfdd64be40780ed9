"""Smooth fitted Q-iteration: β log ∫ exp(q/β) instead of the maximum (chapter, "Soft Actor-Critic", operator on q).

for n = 0, 1, …:
    v_i ← β log ∫_A exp(q_n(s'_i, a) / β) da,  by quadrature or sampling   smooth
    y_i ← r_i + γ (1 − terminated_i) v_i                                   label
    θ_{n+1} ← argmin Σ_i (q(s_i, a_i) − y_i)²                              regress
π*(a | s) = exp((q(s, a) − v(s)) / β); its mode, argmax_a q(s, a), is the controller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import refuse_unread
from fittedq.algorithms.fitted import SolvingAlgorithm
from fittedq.errors import UserError
from fittedq.ranges import LOG, Span
from fittedq.settings import setting
from fittedq.template.fqi import FQI, Copy, Sync, Update
from fittedq.template.greedy import SolvedPolicy
from fittedq.template.targets import Quadrature, SmoothBellman, UniformSamples
from fittedq.types import Components, needed


@dataclass(frozen=True, kw_only=True)
class SmoothFQI(SolvingAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "smooth_fqi"
    title: ClassVar[str] = "Smooth fitted Q-iteration"
    online: ClassVar[bool] = False
    ignores: ClassVar[frozenset[str]] = SolvingAlgorithm.ignores | {"policy_learning_rate", "noise_sigma"}

    temperature: float = setting(0.1, "temperature β, in units of reward", above=0.0, search=Span(0.01, 1.0, LOG))
    integration: str = setting(
        "auto", "how the integral over the actions is computed", choices=("auto", "quadrature", "sampling")
    )
    points: int = setting(17, "quadrature nodes per action dimension", low=2)
    samples: int = setting(64, "actions sampled per state", low=1)

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        return Components(
            critic=self.approximation(obs_size, action_set, key),
            behaviour=self.behaviour(obs_size, action_set, key),
        )

    def template(self, action_set: AbstractActionSet) -> FQI:
        if action_set.integer:
            raise UserError(
                "smooth_fqi: found whole-numbered actions, expected continuous ones, over which it integrates; "
                "take explicit_fqi."
            )
        small = action_set.size <= 2
        if self.integration == "quadrature" and not small:
            raise UserError(
                f"setting integration: quadrature is for at most 2 action dimensions, found {action_set.size}; "
                "take integration=sampling."
            )
        by_samples = self.integration == "sampling" or not small
        unread, reader = ({"points"}, "sampling") if by_samples else ({"samples"}, "quadrature")
        refuse_unread(self, unread, f"integration by {reader}")
        nodes = UniformSamples(self.samples) if by_samples else Quadrature(self.points)
        target = SmoothBellman(self.gamma, self.temperature, nodes, self.supported())
        return FQI(
            updates=(
                *self.cloning(),
                Update("critic", self.regression(target), self.critic_fit()),
            ),
            sync=Sync(critic=Copy()),
        )

    def controller(self, nets: Components) -> SolvedPolicy:
        """The mode of π*, by a solver: the template has no greedy step, for its target integrates."""
        return SolvedPolicy(self.solved(needed(nets.critic).action_set), nets)
