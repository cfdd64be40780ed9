"""What `inspect` says of its figures: good, or look here, at each limit from both sides."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fittedq.algorithms.svg import SVG
from fittedq.diagnose.values import promise_figures
from fittedq.diagnose.verdicts import LIMITS, Limit, by_horizon, verdict_lines, verdicts
from fittedq.types import Transition


def episode(reward: list[float]) -> Transition:
    """One episode that terminates with its last reward."""
    count = len(reward)
    obs, flags = np.zeros((count, 1), np.float32), np.zeros(count, bool)
    ends = np.arange(count) == count - 1
    return Transition(obs, obs, np.array(reward, np.float32), obs, ends, flags)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.figure)
def test_a_figure_is_good_up_to_its_limit_and_no_further(limit: Limit) -> None:
    good, bad = limit.judge(limit.most), limit.judge(limit.most * 1.001)
    assert (good["verdict"], bad["verdict"]) == ("good", "look here")
    assert "next" not in good and bad["next"] == limit.next and bad["most"] == limit.most
    assert limit.judge(math.nan)["verdict"] == "look here"
    assert f"good up to {limit.most:g}" in limit.told(limit.most) and limit.told(2 * limit.most).endswith(limit.next)
    assert len(limit.title) <= 16 and limit.why


def test_only_what_was_measured_is_judged() -> None:
    assert verdicts({"states": 3.0}) == {} and verdict_lines({}) == []
    assert [*verdicts({"drift_mean": 0.0, "states": 3.0})] == ["drift_mean"]


@pytest.mark.parametrize(
    ("promised", "over", "beyond"),
    [
        (-2.0, "good", "good"),  # the truth: G = -2, from rewards of at most 0
        (-1.71, "good", "good"),  # .29 of 2 more is .145 of it
        (-1.69, "look here", "good"),
        (0.09, "look here", "good"),  # a critic's noise at the end that rewards allow
        (0.11, "look here", "look here"),
        (194.0, "look here", "look here"),
    ],
)
def test_a_critic_that_promises_more_than_follows_is_called_out(promised: float, over: str, beyond: str) -> None:
    # gamma is all but 0, so that every return is the reward of its step.
    rows = episode([-2.0] * 4)
    figures = promise_figures(np.full(4, promised), rows, 1e-9, (-2.0, 0.0))
    judged = verdicts(figures)
    assert judged["overestimation_share"]["verdict"] == over
    assert judged["beyond_rewards_share"]["verdict"] == beyond
    assert figures["overestimation_mean"] == pytest.approx(promised + 2.0, abs=1e-6)


def test_values_below_what_rewards_allow_are_called_out_too_and_rewards_of_0_have_a_scale() -> None:
    rows = episode([-1.0, -1.0])
    assert promise_figures(np.array([-5.0, -1.0]), rows, 0.5, (-2.0, -1.0))["beyond_rewards"] == pytest.approx(3.0)
    nothing = promise_figures(np.array([0.2, 0.0]), episode([0.0, 0.0]), 0.5, (0.0, 0.0))
    assert nothing["beyond_rewards_share"] == pytest.approx(0.2)
    unknown = promise_figures(np.array([9.0, 0.0]), rows, 0.5, (-math.inf, math.inf))
    assert unknown["beyond_rewards_share"] == 0.0


def test_gradients_are_judged_by_their_growth_and_the_model_at_the_horizon_in_use() -> None:
    figures = {f"health/gradient_norm_{n}": norm for n, norm in ((0, 0.5), (2, 5.0), (10, 60.0))}
    figures |= {"health/model_error_2": 0.2, "health/model_error_10": 0.9}
    longest = by_horizon(figures)
    assert longest["gradient_growth"] == pytest.approx(120.0) and longest["model_error"] == 0.9
    assert by_horizon(figures | {"health/horizon": 2.0})["model_error"] == 0.2
    assert "model_error" not in by_horizon(figures | {"health/horizon": 0.0})
    assert by_horizon({}) == {}
    limit = next(limit for limit in LIMITS if limit.figure == "model_error")
    assert limit.most == SVG.max_model_error
