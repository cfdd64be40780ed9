"""Figures of control on signals whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fittedq.diagnose.control import (
    Tracked,
    constant_stretches,
    control_figures,
    effort,
    overshoot,
    saturation,
    settling_time,
    steady_error,
)
from fittedq.errors import UserError
from fittedq.types import Transition


def second_order(zeta: float, time: np.ndarray) -> np.ndarray:
    """y(t) = 1 − e^(−ζt) (cos ωt + ζ/ω sin ωt), ω = √(1 − ζ²): the unit step response of 1 / (s² + 2ζs + 1)."""
    omega = math.sqrt(1 - zeta**2)
    return 1 - np.exp(-zeta * time) * (np.cos(omega * time) + zeta / omega * np.sin(omega * time))


@pytest.mark.parametrize("zeta", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(("offset", "step"), [(0.0, 1.0), (3.0, -2.0)])
def test_overshoot_of_a_second_order_step(zeta: float, offset: float, step: float) -> None:
    """exp(−πζ / √(1 − ζ²)), whichever way the step goes."""
    y = offset + step * second_order(zeta, np.linspace(0, 20, 20_001))
    assert overshoot(y, offset + step) == pytest.approx(math.exp(-math.pi * zeta / math.sqrt(1 - zeta**2)), abs=1e-6)


def test_overshoot_of_an_approach_from_one_side_is_none() -> None:
    assert overshoot(1 - np.exp(-np.linspace(0, 9, 50)), 1.0) == 0.0
    assert math.isnan(overshoot(np.ones(3), 1.0))


def test_settling_time_of_a_first_order_step() -> None:
    """T ln(1 / band): for 5 % and T = 2 s it is 5.99 s, told to the next sample."""
    time = np.arange(0, 20, 0.01)
    assert settling_time(-np.exp(-time / 2), 0.05, 0.01) == pytest.approx(2 * math.log(20), abs=0.01)


def test_settling_time_counts_the_last_time_outside() -> None:
    assert settling_time(np.array([3.0, 0.1, -2.0, 0.1, 0.1]), 1.0, 0.5) == 1.5
    assert settling_time(np.array([0.1, 0.1]), 1.0) == 0.0
    assert settling_time(np.array([0.1, 0.1, 2.0]), 1.0) == math.inf


def test_steady_error_is_that_of_the_last_fifth() -> None:
    assert steady_error(np.array([9.0] * 8 + [-0.5, 1.5])) == 1.0
    assert steady_error(np.array([9.0, -2.0])) == 2.0


def test_effort_and_saturation_by_hand() -> None:
    action = np.array([[0.0, 1.0], [2.0, 1.0], [-1.0, 0.5], [-1.0, 1.0]], np.float32)
    np.testing.assert_allclose(effort(action), [5.0, 1.0])
    np.testing.assert_allclose(saturation(action, (-1.0, 0.0), (2.0, 1.0)), [0.75, 0.75])


def test_each_step_of_a_set_point_is_a_step_of_its_own() -> None:
    assert constant_stretches(np.array([1.0, 1, 2, 2, 2, 1])) == [slice(0, 2), slice(2, 5), slice(5, 6)]


def test_figures_of_episodes() -> None:
    """Towards 4 in one sample with an overshoot of a half; then towards 0, never within 5 % of the step."""
    y, r = np.array([0.0, 6.0, 4.1, 4.1, 1.0, 0.5]), np.array([4.0, 4, 4, 0, 0, 0])
    obs = np.stack([y, r], axis=1).astype(np.float32)
    ends = np.arange(5) == 4
    rows = Transition(obs[:-1], np.zeros((5, 1), np.float32), np.zeros(5), obs[1:], ends & False, ends)
    found = control_figures([rows, rows], [Tracked(0, setpoint=1, name="level")], (0.0,), (1.0,), dt=2.0)
    level = found["measured"]["level"]
    assert (level["steps"], level["settled"], level["settling_time"]) == (4, 2, 4.0)
    assert level["overshoot"] == pytest.approx(0.25)  # the mean of a half and of none
    assert level["steady_error"] == pytest.approx((0.1 + 0.5) / 2, abs=1e-6)
    assert (found["effort"], found["saturation"]) == ([0.0], [1.0])


@pytest.mark.parametrize("given", [{}, {"setpoint": 1, "target": 2.0}])
def test_a_measured_value_follows_one_thing(given: dict) -> None:
    with pytest.raises(UserError, match=r"set-point of measured value 0: found .*; give one of them"):
        Tracked(0, **given)


@pytest.mark.parametrize(
    ("given", "argument"),
    [({"target": math.nan}, "target"), ({"target": math.inf}, "target"), ({"target": 1.0, "band": math.inf}, "band")],
)
def test_a_set_point_and_its_band_are_finite(given: dict, argument: str) -> None:
    with pytest.raises(UserError, match=f"^{argument}: found (nan|inf), expected a finite number"):
        Tracked(0, **given)


def test_a_coordinate_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"setpoint: found coordinate 3, expected one of 0 … 2"):
        Tracked(0, setpoint=3).check(3)
