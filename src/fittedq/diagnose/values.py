"""What a critic promised beside the returns that followed, and how far policies are from one another."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fittedq.actions.base import AbstractActionSet
from fittedq.diagnose.control import AT_LIMIT
from fittedq.types import Transition

UNSEEN = 0.05
"""Of a return whose episode was cut off, the most that may lie after the cut, as the discount there."""

MOST_CONTINUED = 0.5
"""Of a return whose rest is the critic's own, the most that may be."""


def discounted_returns(rows: Transition, gamma: float) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t"]]:
    """(G_t = Σ_{k ≥ t} γ^(k−t) r_k up to the end of t's episode, the discount of what lies after it).

    `rows` are transitions in the order they were taken, of whole episodes or not. The discount is 0 where the episode
    terminated, and γ to the steps left where it was cut off.
    """
    reward, terminated = np.asarray(rows.reward, np.float64), np.asarray(rows.terminated, bool)
    ends = terminated | np.asarray(rows.truncated, bool)
    ends[-1] = True
    returns, beyond = np.zeros(len(reward)), np.zeros(len(reward))
    following, after = 0.0, 0.0
    for step in reversed(range(len(reward))):
        if ends[step]:
            following, after = 0.0, 0.0 if terminated[step] else 1.0
        following, after = reward[step] + gamma * following, gamma * after
        returns[step], beyond[step] = following, after
    return returns, beyond


def overestimation(q: Float[np.ndarray, "t"], rows: Transition, gamma: float) -> Float[np.ndarray, "n"]:
    """q(s_t, a_t) − G_t where all but 0.05 of the return's weight was seen: above 0 the critic promises too much.

    `q` are a critic's values of the rows, taken by the policy whose critic it is. A critic with entropy (SAC's) also
    counts −β log π, which no return holds. Source: theory, C10 (the overestimation of max); van Hasselt et al. 2016.
    """
    returns, beyond = discounted_returns(rows, gamma)
    seen = beyond <= UNSEEN
    return np.asarray(q, np.float64)[seen] - returns[seen]


def continued_overestimation(
    q: Float[np.ndarray, "t"], after: Float[np.ndarray, "t"], rows: Transition, gamma: float
) -> Float[np.ndarray, "n"]:
    """(q(s_t, a_t) − G_t − b_t q(s_T, π(s_T))) / (1 − b_t), where b_t = γ^(T−t), the discount at the cut, is at most ½.

    What lies after the cut is taken from the critic itself: `after` is q(s', π(s')) of each row. A critic that promises
    c too much everywhere is off by c here too; one whose error has died out before the cut is not seen to err more than
    it does.
    """
    returns, beyond = discounted_returns(rows, gamma)
    seen = beyond <= MOST_CONTINUED
    ends = np.asarray(rows.terminated, bool) | np.asarray(rows.truncated, bool)
    ends[-1] = True
    places = np.flatnonzero(ends)
    last = places[np.searchsorted(places, np.arange(len(ends)))]
    over = np.asarray(q, np.float64) - returns - beyond * np.asarray(after, np.float64)[last]
    return over[seen] / (1 - beyond[seen])


def promise_figures(
    q: Float[np.ndarray, "t"],
    rows: Transition,
    gamma: float,
    bounds: tuple[float, float],
    after: Float[np.ndarray, "t"] | None = None,
) -> dict[str, float]:
    """`overestimation`, and how far q leaves the `bounds` of what the rewards seen allow, in both units and shares.

    The unit of shares is max_t |G_t|, or 1 where every reward is 0. Where no return was seen to its end, it is
    `continued_overestimation` with `after`, and where that sees none, only the bounds are judged.
    """
    scale = float(np.abs(discounted_returns(rows, gamma)[0]).max()) or 1.0
    beyond = max(float(np.max(q)) - bounds[1], bounds[0] - float(np.min(q)), 0.0)
    figures = {"beyond_rewards": beyond, "beyond_rewards_share": beyond / scale}
    over = overestimation(q, rows, gamma)
    if not len(over) and after is not None:
        over = continued_overestimation(q, after, rows, gamma)
    if len(over):
        mean = float(over.mean())
        figures |= {"overestimation_mean": mean, "overestimation_worst": float(over.max())}
        figures["overestimation_share"] = mean / scale
    return figures


def at_one_limit(
    action: Float[np.ndarray, "b m"], low: Float[np.ndarray, "b m"], high: Float[np.ndarray, "b m"]
) -> float:
    """The largest share of states in which one action stands at one and the same limit of it."""
    near = AT_LIMIT * (high - low)
    return float(max((action <= low + near).mean(axis=0).max(), (action >= high - near).mean(axis=0).max()))


def policy_drift(
    before: Float[np.ndarray, "b m"], after: Float[np.ndarray, "b m"], action_set: AbstractActionSet
) -> Float[np.ndarray, "b"]:
    """‖π_after(s) − π_before(s)‖ in half-widths of the box, from the two policies' actions in the same states."""
    return np.linalg.norm((after - before) / np.asarray(action_set.half_width), axis=1)
