"""Verdicts on the figures of a policy, its critic and its model: whether each is good, its limit, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fittedq.diagnose.values import UNSEEN
from fittedq.template.gradients import EXPLODED

GOOD, LOOK_HERE = "good", "look here"


@dataclass(frozen=True)
class Limit:
    """The most that a figure may be and count as good."""

    figure: str
    title: str
    """What is shown for it, at most 16 letters."""
    meaning: str
    most: float
    why: str
    """The reason for this limit rather than another."""
    next: str
    """Where to look where the figure is above it."""

    def judge(self, value: float) -> dict[str, Any]:
        """The verdict on a value; one that is not a number is never good."""
        good = value <= self.most
        verdict = {"verdict": GOOD if good else LOOK_HERE, "value": value, "most": self.most, "why": self.why}
        return verdict if good else {**verdict, "next": self.next}

    def told(self, value: float) -> str:
        """`judge` as a line."""
        verdict = self.judge(value)
        line = f"{self.title:>16}  {verdict['verdict']}: {value:.3g} {self.meaning}; good up to {self.most:g}"
        return f"{line}. {verdict['next']}" if "next" in verdict else line


LIMITS = (
    Limit(
        "actor_fails",
        "gap",
        "of the states certainly beyond --within",
        0.05,
        "beyond its 95th percentile a gap is one of rare states",
        "The policy is behind its own critic: let eval --refine act, or give the policy more updates.",
    ),
    Limit(
        "undecided",
        "undecided",
        "of the states with a gap that the search left open",
        0.05,
        "more undecided states than may fail can turn the verdict on the gap",
        "Search longer with --state-seconds.",
    ),
    Limit(
        "residual_median",
        "residual",
        "half-widths that one step along ∇q moves the action",
        0.1,
        "a tenth of a half-width is the noise that policies commonly explore with; ∇q is in units of the reward",
        "The policy is not at a first-order maximum of q: --gap says how much of q that costs.",
    ),
    Limit(
        "overestimation_share",
        "overestimation",
        "of the largest return that was seen",
        3 * UNSEEN,
        "three times what the end of an episode that was cut off can hide",
        "The critic promises what does not follow: more critics (n_critics), a lower gamma or critic_learning_rate.",
    ),
    Limit(
        "beyond_rewards_share",
        "beyond rewards",
        "of the largest return is how far q leaves what the rewards seen allow",
        UNSEEN,
        "what the end of an episode that was cut off can hide",
        "No rewards like those seen add up to such values: the critic diverges, or learned from other rewards; lower "
        "critic_learning_rate or gamma, or fit longer.",
    ),
    Limit(
        "drift_mean",
        "policy drift",
        "half-widths from best to last",
        0.2,
        "twice the noise that policies commonly explore with",
        "The last policy is another than the best: compare them with eval on best/ and last/, and act with the best.",
    ),
    Limit(
        "gradient_growth",
        "gradient",
        "times its norm at the shortest horizon is that at the longest",
        EXPLODED,
        "where a warning is given in training: contact that is stiff multiplies derivatives in every step",
        "Shorten the horizon.",
    ),
    Limit(
        "model_error",
        "model",
        "deviations of s is the error of the model at its horizon",
        0.3,
        "what svg's horizon=auto allows (max_model_error)",
        "Shorten the horizon, or give the model more data (model_hidden, n_models).",
    ),
)
"""Every limit there is, each with its reason."""


def by_horizon(figures: dict[str, float]) -> dict[str, float]:
    """An algorithm's `measure` of gradients and model at several horizons, with the two of them that are judged.

    The model is judged at the horizon in use: the one that `horizon=auto` chose, else the longest.
    """
    prefix = "health/gradient_norm_"
    norms = {int(name.removeprefix(prefix)): norm for name, norm in figures.items() if name.startswith(prefix)}
    if not norms:
        return figures
    judged = {"gradient_growth": norms[max(norms)] / max(norms[min(norms)], 1e-12)}
    error = figures.get(f"health/model_error_{figures.get('health/horizon', max(norms)):.0f}")
    return figures | judged | ({} if error is None else {"model_error": error})


def verdicts(figures: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """The verdict on each figure that has a limit."""
    return {limit.figure: limit.judge(figures[limit.figure]) for limit in LIMITS if limit.figure in figures}


def verdict_lines(figures: Mapping[str, float]) -> list[str]:
    """`verdicts` as lines."""
    return [limit.told(figures[limit.figure]) for limit in LIMITS if limit.figure in figures]
