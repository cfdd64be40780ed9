"""A set in numbers: its region holds what the set contains, and nothing that is far from it."""

from __future__ import annotations

import numpy as np
import pytest

from fittedq import Box, Mixed, Polytope, StateBox, UserError
from fittedq.actions.base import AbstractActionSet
from fittedq.actions.saved import KINDS, action_set_of, through_json
from fittedq.maximize.region import region_of

PLANE = Box([-1.0, -2.0], [1.0, 2.0])
CUT = Polytope(PLANE.low, PLANE.high, [[1.0, 1.0], [-1.0, 2.0]], [0.5, 1.0])
MOVING = StateBox(lambda s: s - 0.5, lambda s: s + 0.5, PLANE)
SETS = [PLANE, CUT, MOVING, Mixed(PLANE, [1]), Mixed(CUT, [1]), Mixed(MOVING, [0])]


def described_by(action_set: AbstractActionSet) -> str:
    return "-".join(
        type(part).__name__ for part in (action_set, getattr(action_set, "inner", None)) if part is not None
    )


@pytest.mark.parametrize("action_set", SETS, ids=described_by)
def test_the_region_is_the_set(action_set):
    """Everywhere but within 1e-4 of an end, where rounding and the hull's linear programs decide."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (4000, 2))
    action = rng.uniform(-2.2, 2.2, (4000, 2))
    whole = list(action_set.integer)
    action[:2000, whole] = np.round(action[:2000, whole])
    region = region_of("test", action_set, obs)
    room = np.min([region.high - action, action - region.low], axis=0)
    slack = np.where(region.integer, np.where(action == np.round(action), room + 1, -1), room).min(axis=1)
    slack = np.minimum(slack, (region.bound - action @ region.matrix.T).min(axis=1, initial=np.inf))
    contained = action_set.contains(action, obs)
    assert contained[slack > 1e-4].all() and (slack > 1e-4).sum() > 100
    assert not contained[slack < -1e-4].any()
    assert region.integer.tolist() == [axis in whole for axis in range(2)]


@pytest.mark.parametrize("action_set", SETS, ids=described_by)
def test_a_set_knows_whether_it_reads_observations_and_points_inside_it(action_set):
    obs = np.random.default_rng(1).uniform(-1, 1, (50, 2))
    low, high = (np.broadcast_to(end, (50, 2)) for end in action_set.bounds(obs))
    varies = bool(np.ptp(low, axis=0).any() or np.ptp(high, axis=0).any())
    assert action_set.reads_obs == varies
    for point in action_set.interior:
        assert action_set.contains(np.tile(point, (50, 1)), obs).all()
    assert len(action_set.interior) == (
        0 if varies or described_by(action_set) == "Mixed-Box" else max(1, len(action_set.whole.settings))
    )


@pytest.mark.parametrize("action_set", SETS, ids=described_by)
def test_a_set_is_made_again_from_what_it_says_of_itself(action_set):
    said = through_json(action_set.describe())
    if action_set.reads_obs:
        with pytest.raises(UserError, match="give it again"):
            action_set_of(said)
        assert action_set_of(said, action_set) is action_set
    else:
        assert action_set_of(said) == action_set


def test_a_set_of_ones_own_enters_the_registry(monkeypatch):
    monkeypatch.setitem(KINDS, "unit", lambda saved: Box([-1.0] * saved["size"], [1.0] * saved["size"]))
    assert action_set_of({"kind": "unit", "size": 2}) == Box([-1.0, -1.0], [1.0, 1.0])
