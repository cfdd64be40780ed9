"""Methods whose critics learn the return's distribution, against their formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fittedq.actions.base import Box
from fittedq.algorithms.sac import SAC
from fittedq.algorithms.tqc import TQC
from fittedq.algorithms.xqc import XQC
from fittedq.errors import UserError
from fittedq.types import Greedy, Transition
from methods import made

KEY = jax.random.key(0)
BOX = Box((-1.0,), (3.0,))
ROWS, OBS = 12, 2


@pytest.fixture(scope="module")
def rows() -> Transition:
    rng = np.random.default_rng(1)
    draws = (rng.normal(size=(ROWS, OBS)), rng.uniform(-1, 3, (ROWS, 1)), rng.normal(size=ROWS))
    floats = [jnp.asarray(part, jnp.float32) for part in (*draws, rng.normal(size=(ROWS, OBS)))]
    ended = jnp.asarray(rng.random(ROWS) < 0.3)
    return Transition(floats[0], floats[1], floats[2], floats[3], ended, jnp.zeros(ROWS, bool))


def greedy_of(rows: Transition) -> Greedy:
    return Greedy(rows.action * 0.5, jnp.linspace(-1, 1, ROWS), jnp.zeros(ROWS, bool))


def losses(algorithm):
    return {update.component: update.loss for update in algorithm.template(BOX).updates}


def test_tqc_drops_the_largest_quantiles_of_all_critics_and_its_policy_climbs_their_mean(rows):
    algorithm = TQC(hidden=(8,), n_critics=3, quantiles=5, drop=2, gamma=0.9, initial_temperature=0.5)
    nets, greedy = made(algorithm, OBS, BOX, KEY), greedy_of(rows)
    data = losses(algorithm)["critic"].label(nets, rows, greedy, KEY)
    z = np.asarray(nets.critic.outputs(rows.next_obs, greedy.action), float)
    alive = 1 - np.asarray(rows.terminated, float)
    for row in range(ROWS):
        kept = sorted(z[:, row].ravel())[:-6] - 0.5 * np.asarray(greedy.log_prob)[row]
        expected = np.asarray(rows.reward)[row] + 0.9 * alive[row] * kept
        np.testing.assert_allclose(data.y[row], expected, atol=1e-5)
    np.testing.assert_allclose(data.weight, 1 / 9, rtol=1e-6)
    loss, _ = losses(algorithm)["policy"](nets.policy, nets, rows.obs, KEY)
    action, log_prob = nets.policy.sample(rows.obs, jax.random.split(KEY)[0])
    mean = nets.critic.outputs(rows.obs, action).mean((0, 2))
    assert float(loss) == pytest.approx(float((0.5 * log_prob - mean).mean()), rel=1e-5)


def test_tqc_of_one_quantile_labels_as_sac_of_one_critic(rows):
    one = TQC(hidden=(8,), policy_hidden=(8,), n_critics=1, quantiles=1, drop=0)
    sac = SAC(hidden=(8,), n_critics=1, n_target_critics=1)
    nets, greedy = made(sac, OBS, BOX, KEY), greedy_of(rows)
    for ours, theirs in zip(jax.tree.leaves(made(one, OBS, BOX, KEY)), jax.tree.leaves(nets), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    labels = [losses(algorithm)["critic"].label(nets, rows, greedy, KEY).y for algorithm in (one, sac)]
    np.testing.assert_array_equal(labels[0][:, 0], labels[1])


@pytest.mark.parametrize(
    ("cls", "settings", "sentence"),
    [
        (TQC, {"quantiles": 5, "drop": 5}, "setting drop: found 5 of 5 quantiles.* set drop to 4 or less"),
        (XQC, {"value_low": 1.0, "value_high": 1.0}, "setting value_low: found 1, expected a number below value_high"),
    ],
)
def test_heads_that_hold_nothing_are_refused(cls, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        cls(**settings)
