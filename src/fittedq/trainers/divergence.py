"""Divergence: what is not finite ends a run before it is saved, and a run warns of values that no rewards allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NoReturn

import jax
import numpy as np
from jaxtyping import Float

from fittedq.actions.base import AbstractActionSet, Box
from fittedq.algorithms.base import AbstractAlgorithm, GradientAlgorithm
from fittedq.approx.host import host_view
from fittedq.approx.trees import TreeCritic
from fittedq.errors import UserError
from fittedq.settings import as_dict
from fittedq.template.fits import Descend
from fittedq.template.fqi import FAULTS, FQI, LearnerState
from fittedq.template.rates import Adam, Rate, first_rate, words
from fittedq.template.targets import AbstractTarget
from fittedq.types import COMPONENTS, AbstractCritic, Components, needed

FAR = 10.0
"""How many times the largest value that rewards allow a critic may reach unsaid, and how many times those of a new
critic: they have a size of their own, whatever the rewards."""
LARGE = 1e6
"""Values that networks hardly learn: they start near 0, and a step moves no weight by more than the learning rate."""
OUTSIDE = 0.1
"""The share of a critic's targets beyond its bins from which it is told."""
OVERFLOW = math.sqrt(float(np.finfo(np.float32).max)) / 2
"""9.2e18: at |q − y| above it the square of dL/dq = 2 (q − y), which Adam keeps, is no float32."""


class Watch:
    """The rewards that a run has seen, and what there is to say of them and of its figures: each sentence once."""

    def __init__(self, algorithm: AbstractAlgorithm, fqi: FQI, action_set: AbstractActionSet, scaled: bool = False):
        self.scale, self.scaled = 1.0, scaled
        """What rewards are divided by before they are learned from, and whether they are."""
        self._algorithm, self._fqi, self._action_set = algorithm, fqi, action_set
        self.low, self.high = math.inf, -math.inf
        self._said: dict[str, str] = {}
        self._untold: list[str] = []
        self._new: AbstractCritic | None = None
        """A critic that has learned nothing, once one was asked for."""
        self._judge_steps()

    def see(self, rewards: Sequence[float] | np.ndarray) -> None:
        """Take in some rewards, or the least and the greatest of them."""
        low, high = np.min(rewards, initial=np.inf), np.max(rewards, initial=-np.inf)
        if low < self.low or high > self.high:
            self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
            self._judge_rewards()

    def seen(self) -> list[float]:
        """[the least reward, the greatest], or nothing before the first."""
        return [self.low, self.high] if self.low <= self.high else []

    def told(self) -> list[str]:
        """What is to be said and was not yet."""
        untold, self._untold = self._untold, []
        return untold

    def check(self, state: LearnerState) -> dict[str, float]:
        """The figures of a learner's state on the host; a UserError where they or its networks are not finite."""
        if fault := int(state.fault):
            step, place = divmod(fault, FAULTS)
            index, name = self._fqi.watched(state.metrics)[place]
            self.diverged(f"at update {step:,}", self._fqi.updates[index].component, name)
        self.check_networks(state.nets, f"by update {int(state.step):,}")
        figures = self._fqi.logs(state)
        for update in self._fqi.updates:
            if update.component == "critic" and update.target is not None:
                largest = self.largest(update.target, state.frozen.over(state.nets))
                figures |= {"largest_value": largest} if math.isfinite(largest) else {}
        return figures

    def check_networks(self, nets: Components, when: str) -> None:
        """A UserError where a parameter is not finite; +∞ is in trees, as a leaf's threshold."""
        for component in COMPONENTS:
            part = getattr(nets, component)
            leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(part)]
            numbers = [leaf for leaf in leaves if np.issubdtype(leaf.dtype, np.floating)]
            wrong = np.isnan if isinstance(part, TreeCritic) else lambda leaf: ~np.isfinite(leaf)
            if any(wrong(leaf).any() for leaf in numbers):
                self.diverged(when, component, "largest parameter")

    def largest(self, target: AbstractTarget, nets: Components) -> float:
        """The largest |value| that the rewards seen allow; ∞ where nothing is known of one side, or none was seen."""
        if self.low > self.high:
            return math.inf
        return target.largest(nets, (self.low / self.scale, self.high / self.scale))

    @staticmethod
    def doubts(value: float, largest: float) -> bool:
        """Whether a critic's largest |value| is far above the largest that the rewards seen allow."""
        return value > FAR * max(largest, 1.0)

    def judge_values(self, value: float, largest: float, obs: Float[np.ndarray, "b s"]) -> None:
        """Warn where that is so, and the value far above those of a new critic in such states: where it has grown."""
        if self.doubts(value, largest) and value > FAR * self._own_size(obs):
            self.say(
                "values",
                f"the critic's values reach {value:.3g}, but {self._rewards} allow at most {largest:.3g}: it diverges; "
                f"{self._advice('critic')}.",
            )

    def judge_bins(self, figures: Mapping[str, float]) -> None:
        """Warn where a distributional critic's targets leave the values that it can hold."""
        share = figures.get("critic/outside", 0.0)
        if share > OUTSIDE:
            low, high = figures["critic/target_low"], figures["critic/target_high"]
            bound = "" if not self.scaled else ", or return_bound to the larger of value_high and −value_low"
            self.say(
                "bins",
                f"{share:.0%} of the critic's targets lie outside its bins: their means reach from {low:.3g} to "
                f"{high:.3g}, and all beyond is cut off; set value_low and value_high wider{bound}.",
            )

    def still(self, figures: Mapping[str, float], step: int) -> list[str]:
        """The critic and the policy, where `step` calls have updated them and their gradient is nothing but zeros."""
        due = [update.component for update in self._fqi.updates if step >= update.every]
        updated = {name for name in due if figures.get(f"{name}/updates", 1.0)}
        return [name for name in ("critic", "policy") if name in updated and figures.get(f"{name}/gradient") == 0.0]

    def judge_spread(self, component: str, nets: Components, obs: Float[np.ndarray, "b s"]) -> None:
        """Warn where a component that has no gradient gives every state the same answer: its units are dead."""
        if component == "critic":
            outputs, differ = self._values(needed(nets.critic), obs), len(obs) > 1
            what = "the critic gives every state and action the same value"
        else:
            policy = host_view(nets.policy)
            if self._action_set.integer:  # what is rounded to the same numbers may differ
                policy.action_set = host_view(Box(self._action_set.low, self._action_set.high))
            outputs = np.asarray(policy.act(obs, np.zeros((len(obs), self._action_set.size), np.float32))).T
            differ = bool((obs != obs[:1]).any())
            what = "the policy takes the same action in every state"
        if differ and np.ptp(outputs, axis=-1).max() == 0.0:
            self.say(component, f"{what} and has stopped learning: its gradient is 0; {self._advice(component)}.")

    def diverged(self, when: str, component: str, figure: str, hint: str = "") -> NoReturn:
        """The error that ends the run."""
        raise UserError(
            f"learning diverged {when}: the {component.removeprefix('log_')}'s {figure} is not finite; "
            f"{self._advice(component)}{hint} (what was saved before is intact)."
        )

    def _values(self, critic: AbstractCritic, obs: Float[np.ndarray, "b s"]) -> Float[np.ndarray, "n b"]:
        """q_j at these states and some actions."""
        unit = np.tanh(np.random.default_rng(0).standard_normal((len(obs), self._action_set.size), np.float32))
        return np.asarray(host_view(critic)(obs, np.asarray(self._action_set.from_unit(unit), np.float32)))

    def _own_size(self, obs: Float[np.ndarray, "b s"]) -> float:
        """max |q_j| of a critic that has learned nothing."""
        if self._new is None:
            key = jax.random.key_data(jax.random.key(0))
            self._new = needed(self._algorithm.networks(obs.shape[1], self._action_set, key).critic)
        return float(np.abs(self._values(self._new, obs)).max(initial=0.0))

    @property
    def _rewards(self) -> str:
        return f"rewards between {self.low:.3g} and {self.high:.3g} with gamma {self._algorithm.discount:g}"

    @property
    def _reach(self) -> float:
        """max |r| / (1 − γ)."""
        return max(abs(self.low), abs(self.high)) / (1.0 - self._algorithm.discount)

    def _judge_steps(self) -> None:
        """Adam's first step moves every weight by the learning rate; in a layer they start within ±1/√(its inputs)."""
        if not isinstance(self._algorithm, GradientAlgorithm):
            return
        if not isinstance(self._algorithm.optimizer, str | Adam):
            return
        hidden = [width for _, widths in self._algorithm.layers(1, 1) for width in widths[1:-1]]
        start = max(hidden, default=1) ** -0.5
        for update in self._fqi.updates:
            name, rate = self._rate(update.component)
            steps = update.component in ("critic", "policy") and isinstance(update.fit, Descend)
            if steps and rate is not None and first_rate(rate) > start:
                self.say(
                    name,
                    f"{name} is {words(rate)}: the first update moves weights further than they start from 0 "
                    f"(±{start:.2g}), and learning seldom survives that; choose about 0.001.",
                )

    def _rate(self, component: str) -> tuple[str, Rate | None]:
        """(the setting that is a component's learning rate, its value); None where there is none."""
        settings = as_dict(self._algorithm)
        names = (f"{component.removeprefix('log_')}_learning_rate", "critic_learning_rate")
        return next(((name, settings[name]) for name in names if name in settings), ("the learning rate", None))

    def _judge_rewards(self) -> None:
        if self.scaled:
            return
        if self._reach > OVERFLOW:
            why = f"the squares of such errors overflow 32-bit floats (above {OVERFLOW:.2g})"
            self.say("overflow", self._of_rewards(why))
        elif self._reach > LARGE:
            self.say("large", self._of_rewards(f"networks hardly learn values above {LARGE:g}"))

    def _of_rewards(self, why: str) -> str:
        return (
            f"{self._rewards} allow values of {self._reach:.3g}, and {why}; scale the rewards down to about 1, or "
            "lower gamma."
        )

    def _advice(self, component: str) -> str:
        """What to try."""
        if self.low <= self.high and self._reach > LARGE:
            return f"scale the rewards down to about 1 (they reach {max(abs(self.low), abs(self.high)):.3g})"
        name, rate = self._rate(component)
        return f"lower {name}{'' if rate is None else f' (it is {words(rate)})'} or gamma"

    def say(self, kind: str, sentence: str) -> None:
        """Have a sentence told, the first one of its kind."""
        if kind not in self._said:
            self._said[kind] = sentence
            self._untold.append(sentence)
