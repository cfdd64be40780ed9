"""The augmented state: history, errors, integrals and changes, against what loops over plain lists give."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fittedq.actions.base import Box
from fittedq.actions.increments import Increments
from fittedq.actions.limits import Limits
from fittedq.actions.saved import action_set_of, through_json
from fittedq.control.augmentation import Augmentation
from fittedq.control.episodes import AugmentedRows
from fittedq.control.state import AugmentedState
from fittedq.errors import UserError

LIMITS = Box([0.0, -1.0], [12.0, 1.0])
FULL = Augmentation(
    history=3,
    error=("0:2", "1=4.5"),
    integral=("0:2",),
    integral_limit=6.0,
    rate_limit=(2.0, 0.5),
    change_penalty=0.1,
    sample=0.5,
)
STATE = AugmentedState(FULL, 3, LIMITS)


def by_hand(past_obs, past_units, integral):
    """z of the observations so far, the actions so far in the unit box, and I."""
    y = past_obs[-1]
    earlier = [past_obs[max(len(past_obs) - 1 - lag, 0)] for lag in (1, 2)]
    actions = [past_units[max(len(past_units) - lag, 0)] for lag in (1, 2)]
    return np.concatenate([y, [y[0] - y[2], y[1] - 4.5], [integral], *earlier, *actions])


def raw_rows(lengths, seed=0):
    """Columns of raw episodes, [N, …]."""
    rng = np.random.default_rng(seed)
    obs = [rng.normal(2, 3, (length + 1, 3)).astype(np.float32) for length in lengths]
    count = sum(lengths)
    ends = np.cumsum(lengths) - 1
    return {
        "obs": np.concatenate([one[:-1] for one in obs]),
        "action": rng.uniform(LIMITS.low, LIMITS.high, (count, 2)).astype(np.float32),
        "reward": rng.normal(size=count).astype(np.float32),
        "next_obs": np.concatenate([one[1:] for one in obs]),
        "terminated": np.isin(np.arange(count), ends[:1]),
        "truncated": np.isin(np.arange(count), ends[1:]),
    }


def augmented(columns, lengths):
    return AugmentedRows(STATE, columns, np.cumsum([0, *lengths[:-1]]))


def test_the_state_holds_what_a_loop_over_lists_remembers():
    rng = np.random.default_rng(1)
    obs = rng.normal(2, 3, (6, 3)).astype(np.float32)
    units, integral = [np.zeros(2), np.zeros(2)], 0.0  # before the first action: the middle of its limits
    z, seen = STATE.first(obs[0]), [obs[0]]
    for step in range(6):
        integral = float(np.clip(integral + 0.5 * (obs[step, 0] - obs[step, 2]), -6, 6))
        np.testing.assert_allclose(z, by_hand(seen, units, integral), rtol=1e-5, atol=1e-5)
        if step == 5:
            return
        low, high = STATE.action_set.bounds(z)
        change = rng.uniform(low, high).astype(np.float32)
        u = LIMITS.from_unit(units[-1]) + change
        cost = 0.1 * np.sum((change / np.array(LIMITS.half_width)) ** 2)
        np.testing.assert_allclose(STATE.executed(z, change), u, atol=1e-5)
        np.testing.assert_allclose(STATE.cost(z, change), cost, rtol=1e-4)
        z = STATE.next(z, change, obs[step + 1])
        units.append(LIMITS.to_unit(u))
        seen.append(obs[step + 1])


def test_whole_episodes_are_what_one_step_after_another_gives():
    lengths = [1, 7, 4]
    columns = raw_rows(lengths)
    rows = augmented(columns, lengths)(slice(None))
    row = 0
    for length in lengths:
        z = STATE.first(columns["obs"][row], columns["action"][row])
        for _ in range(length):
            np.testing.assert_allclose(rows.obs[row], z, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(STATE.executed(z, rows.action[row]), columns["action"][row], atol=1e-5)
            expected = columns["reward"][row] - STATE.cost(z, rows.action[row])
            np.testing.assert_allclose(rows.reward[row], expected, atol=1e-5)
            z = STATE.after(z, columns["action"][row], columns["next_obs"][row])
            np.testing.assert_allclose(rows.next_obs[row], z, rtol=1e-5, atol=1e-5)
            row += 1
    assert rows.terminated.tolist() == columns["terminated"].tolist()


def test_rows_that_follow_one_another_do_so_to_the_bit():
    lengths = [60, 40]
    columns = raw_rows(lengths)
    columns["obs"] += np.float32(1e3)
    columns["next_obs"] += np.float32(1e3)
    rows = augmented(columns, lengths)(slice(None))
    follow = np.delete(np.arange(99), 59)
    np.testing.assert_array_equal(rows.next_obs[follow], rows.obs[follow + 1])


def test_no_history_reaches_over_the_end_of_an_episode():
    lengths = [5, 6]
    columns = raw_rows(lengths)
    other = {name: column.copy() for name, column in columns.items()}
    for name in ("obs", "action", "next_obs"):
        other[name][:5] += 1.0
    ours, theirs = (augmented(one, lengths)(slice(5, None)) for one in (columns, other))
    np.testing.assert_array_equal(ours.obs, theirs.obs)
    np.testing.assert_array_equal(ours.action, theirs.action)


def test_rows_are_the_same_by_number_as_in_a_slice_and_in_jax_as_in_numpy():
    lengths = [5, 6]
    columns = raw_rows(lengths)
    rows = augmented(columns, lengths)
    numbers = np.array([7, 0, 10])
    for some, whole in zip(rows(numbers), rows(slice(None)), strict=True):
        np.testing.assert_array_equal(some, whole[numbers])
    batch = rows(slice(0, 4))
    inputs = [np.asarray(part) for part in (batch.obs, batch.action, columns["next_obs"][:4])]
    compiled = jax.jit(STATE.next)(*map(jnp.asarray, inputs))
    assert isinstance(STATE.next(*inputs), np.ndarray)
    np.testing.assert_allclose(compiled, STATE.next(*inputs), rtol=1e-5, atol=1e-5)


def test_the_action_and_its_rate_stay_within_their_limits_whatever_is_asked_for():
    rng = np.random.default_rng(2)
    z = np.repeat(STATE.first(np.zeros(3, np.float32))[None], 200, axis=0)
    before, box = np.full((200, 2), LIMITS.center), STATE.action_set
    for _ in range(30):
        asked = box.project(rng.normal(1.0, 3.0, (200, 2)).astype(np.float32), z)
        assert box.contains(asked, z).all()
        u = STATE.executed(z, asked)
        assert LIMITS.contains(u, z).all()
        assert (np.abs(u - before) <= np.array(STATE.rate) * (1 + 1e-5)).all()
        z, before = STATE.next(z, asked, np.zeros((200, 3), np.float32)), u
    assert (np.isclose(before[:, 0], 12.0)).any()


def test_a_policy_at_a_limit_of_its_action_keeps_a_gradient():
    box = STATE.action_set
    z = STATE.first(np.zeros(3, np.float32), np.array([12.0, 0.0], np.float32))
    slope = jax.jacobian(lambda unit: box.admissible(unit, jnp.asarray(z)))(jnp.full(2, 0.5))
    np.testing.assert_allclose(np.diag(slope), [1.0, 0.5], rtol=1e-5)  # half of [−2, 0] and of [−.5, .5]
    low, high = box.bounds(z)
    np.testing.assert_allclose(box.admissible(-np.ones(2, np.float32), z), low, atol=1e-6)
    np.testing.assert_allclose(box.admissible(np.ones(2, np.float32), z), high, atol=1e-6)


def test_changes_are_a_box_that_files_hold():
    box = STATE.action_set
    assert isinstance(box, Increments)
    again = action_set_of(through_json(box.describe()))
    assert again == box and hash(again) == hash(box)
    assert box.reads == (12, 13) and box.reads_obs
    z = np.stack([STATE.first(np.zeros(3), np.array([1.0, 1.0])), STATE.first(np.zeros(3))])
    region = box.region(z)
    np.testing.assert_allclose(region.low, [[-1.0, -0.5], [-2.0, -0.5]])
    np.testing.assert_allclose(region.high, [[2.0, 0.0], [2.0, 0.5]])


def test_a_state_comes_back_from_its_file():
    assert AugmentedState.described(json.loads(json.dumps(STATE.describe())), "agent") == STATE
    damaged = json.loads(json.dumps(STATE.describe()))
    damaged["augmentation"]["history"] = -1
    for saved in (damaged, {"obs_size": 3}, None):
        with pytest.raises(UserError, match=r"agent: .*damaged"):
            AugmentedState.described(saved, "agent")


def test_without_increments_actions_are_what_they_were():
    state = AugmentedState(Augmentation(history=2), 3, LIMITS)
    assert state.action_set is LIMITS and state.size == 3 + 3 + 2
    z, u = state.first(np.ones(3, np.float32)), np.array([3.0, 0.5], np.float32)
    np.testing.assert_array_equal(state.executed(z, u), u)
    assert state.cost(z, u) == 0.0


def test_a_full_range_is_the_rate_where_none_is_given():
    state = AugmentedState(Augmentation(increments=True), 1, LIMITS)
    assert state.rate == (12.0, 2.0) and state.size == 1 + 2


def test_the_discount_of_a_settling_time_counts_one_over_e_after_it():
    gamma = Augmentation(settling=60.0, sample=0.5).discount
    assert gamma is not None
    np.testing.assert_allclose(gamma**120, np.exp(-1.0))
    assert Augmentation(sample=1.0).discount is None
    assert Augmentation(settling=60.0, sample=0.5).adds_nothing and not FULL.adds_nothing


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"settling": 0.5, "sample": 1.0}, "settling: found 0.5 s, which is shorter than a sample of 1 s"),
        ({"settling": 60.0}, "settling: .* set sample"),
        ({"history": 0}, "history: found 0, expected a whole number at least 1"),
        ({"error": ("temperature",)}, "error: found 'temperature', expected MEASURED:SET_POINT"),
        ({"integral": ("0=1e999",)}, "integral: found '0=1e999'"),
        ({"integral_limit": 2.0}, "integral_limit: there is no integral"),
        ({"rate_limit": (0.0,)}, "rate_limit: found 0.0, expected .* above 0"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        Augmentation(**settings)


@pytest.mark.parametrize(
    ("settings", "limits", "sentence"),
    [
        ({"error": ("3:0",)}, LIMITS, "error: found '3:0', but observations have 3 numbers"),
        ({"integral": ("0:7",)}, LIMITS, "integral: found '0:7', but observations have 3 numbers"),
        ({"rate_limit": (1.0, 1.0, 1.0)}, LIMITS, "rate_limit: found 3 numbers for 2 actions"),
        (
            {"rate_limit": (1e-9,)},
            LIMITS,
            "rate_limit: found 1e-09 for action 0, .* one sample needs at least 1.14e-05",
        ),
        ({"increments": True}, Limits(("|a| <= 1",)).within(LIMITS), "increments: the actions lie in a Polytope"),
    ],
)
def test_settings_that_an_environment_has_no_use_for_are_refused(settings, limits, sentence):
    with pytest.raises(UserError, match=sentence):
        AugmentedState(Augmentation(**settings), 3, limits)
