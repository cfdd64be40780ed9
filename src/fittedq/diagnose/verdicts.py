"""Verdicts on the figures of a policy, its critic and its model: whether each is good, its limit, and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fittedq.diagnose.values import UNSEEN
from fittedq.template.gradients import EXPLODED

GOOD, LOOK_HERE = "good", "look here"
RARE = 0.05
"""The share of its own data that counts as rare: a familiarity or a distance that is rarer is not of the data."""
GRADES = ("ok", "doubtful", "wrong")
"""From the best to the worst."""


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
    wrong: float = math.inf
    """Above this there is no doubt left."""

    def judge(self, value: float) -> dict[str, Any]:
        """The verdict on a value, and its grade (`GRADES`); one that is not a number is never good."""
        good = value <= self.most
        grade = GRADES[0 if good else 1 if value <= self.wrong else 2]
        verdict = {"verdict": GOOD if good else LOOK_HERE, "grade": grade, "value": value, "most": self.most}
        return {**verdict, "why": self.why} if good else {**verdict, "why": self.why, "next": self.next}

    def told(self, value: float) -> str:
        """`judge` as a line."""
        verdict = self.judge(value)
        found = verdict["verdict"] + (", wrong" if verdict["grade"] == GRADES[-1] else "")
        line = f"{self.title:>16}  {found}: {value:.3g} {self.meaning}; good up to {self.most:g}"
        return f"{line}. {verdict['next']}" if "next" in verdict else line


LIMITS = (
    Limit(
        "actor_fails",
        "gap",
        "of the states certainly farther from their critic's maximum than counts as good",
        0.05,
        "beyond its 95th percentile a gap is one of rare states",
        "The policy is behind its own critic: let eval --refine act, or give the policy more updates.",
        0.5,
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
        1.0,
    ),
    Limit(
        "overestimation_share",
        "overestimation",
        "of the largest return that was seen",
        3 * UNSEEN,
        "three times what the end of an episode that was cut off can hide",
        "The critic promises what does not follow: more critics (n_critics), a lower gamma or critic_learning_rate.",
        0.5,
    ),
    Limit(
        "beyond_rewards_share",
        "beyond rewards",
        "of the largest return is how far q leaves what the rewards seen allow",
        UNSEEN,
        "what the end of an episode that was cut off can hide",
        "No rewards like those seen add up to such values: the critic diverges, or learned from other rewards; lower "
        "critic_learning_rate or gamma, or fit longer.",
        0.25,
    ),
    Limit(
        "at_one_limit",
        "saturation",
        "of the states have one action at one and the same limit",
        0.9,
        "a controller that stands at a limit in nine of ten states hardly controls",
        "Look whether that limit is the best that can be done (eval --measured shows the actions); else its reward is "
        "flat there, or the policy's network is saturated: normalize_obs, a lower policy_learning_rate.",
        0.999,
    ),
    Limit(
        "dead_units",
        "dead units",
        "of the hidden units have one value in all states",
        0.5,
        "half of the network is not there",
        "Resets (reset_every), layer_norm or a lower learning rate keep units alive; or take a smaller network.",
        0.95,
    ),
    Limit(
        "unfamiliar",
        "unfamiliar",
        f"of the states have a familiarity below {RARE:g}",
        3 * RARE,
        "three times the share that states like the data have",
        "The policy goes where its data are not: collect data there, keep nearer to the log (support=2, td3_bc), or "
        "give it a fallback (fittedq guard).",
        0.5,
    ),
    Limit(
        "unfamiliar_windows",
        "strange windows",
        f"of the samples have a familiarity below {RARE:g} together with those before them",
        3 * RARE,
        "three times the share that windows of the data have",
        "Nothing is far off at any sample, and all of it together is: the plant changed, or a sensor drifts; learn "
        "from a newer log.",
        0.5,
    ),
    Limit(
        "untried",
        "untried",
        "of the box was not tried at like states, in the direction of actions that was tried least",
        0.9,
        "data check's limit: noise of 3 % of the box",
        "What the critic says of other actions is a guess: move the actions more (fittedq data check says how).",
        0.99,
    ),
    Limit(
        "unsupported",
        "unsupported",
        f"of the states have an action further from those tried in like states than {1 - RARE:.0%} of the log's own",
        3 * RARE,
        "three times the share that the log's own actions have",
        "The policy leaves the data: keep it nearer to them (support=2, td3_bc, iql), or log such actions.",
        0.5,
    ),
    Limit(
        "unsupported_gain",
        "gain",
        "of what the critic promises beyond the log's own actions lies where nothing like it was tried",
        0.25,
        "more than a quarter of the promise is a guess",
        "Try --support for pictures of where that is; keep the policy nearer to the data (support=2, td3_bc, iql).",
        0.75,
    ),
    Limit(
        "drift_mean",
        "policy drift",
        "half-widths from best to last",
        0.2,
        "twice the noise that policies commonly explore with",
        "The last policy is another than the best: compare them with eval on best/ and last/, and act with the best.",
        1.0,
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
        1.0,
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


def worst_grade(judged: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The worst grade of `verdicts`; None where nothing was judged."""
    return max((one["grade"] for one in judged.values()), key=GRADES.index, default=None)
