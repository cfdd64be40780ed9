"""Own ideas as slots: target actions improved by a solver, a policy updated when its gap is wide, drawn critics."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fittedq.actions.base import Box
from fittedq.algorithms.xqc import XQC
from fittedq.approx.function import FunctionCritic
from fittedq.approx.heads import OneValue
from fittedq.approx.networks import DeterministicPolicy, QNetwork, TanhGaussianPolicy
from fittedq.errors import UserError
from fittedq.maximize.local.ascent import ProjectedAscent
from fittedq.settings import parse_assignments, split_settings
from fittedq.template.fits import Descend
from fittedq.template.fqi import FQI, Sync, Update
from fittedq.template.greedy import Ascended, PolicyAction
from fittedq.template.losses import Improve
from fittedq.template.targets import BellmanOfReturns, FirstCritic
from fittedq.template.when import GapAbove
from fittedq.trainers.settings import TrainSettings
from fittedq.trainers.state import initial_state
from fittedq.types import Components, Transition, needed
from methods import built

QUEUE = Path(__file__).resolve().parent.parent / "benchmarks" / "ablations.txt"
KEY = jax.random.key(0)
BOX = Box((-1.0,), (3.0,))
ROWS = 12


def batch(rows: int = ROWS) -> Transition:
    rng = np.random.default_rng(1)
    obs, after = (np.clip(rng.normal(size=(rows, 2)), -0.9, 2.9) for _ in range(2))
    draws = (obs, rng.uniform(-1, 3, (rows, 1)), rng.normal(size=rows), after)
    floats = [jnp.asarray(part, jnp.float32) for part in draws]
    return Transition(*floats, jnp.zeros(rows, bool), jnp.zeros(rows, bool))


def hill(obs: jax.Array, action: jax.Array) -> jax.Array:
    """q(s, a) = −(a − s_1)², whose argmax is s_1 where that lies in the box."""
    return -((action[:, 0] - obs[:, 0]) ** 2)


def test_a_target_action_is_improved_on_the_frozen_critic_and_keeps_its_density() -> None:
    rows = batch()
    nets = Components(critic=FunctionCritic(hill, BOX), policy=built(TanhGaussianPolicy, 2, BOX, (4,), KEY))
    ascended = Ascended(PolicyAction(), ProjectedAscent(steps=60, learning_rate=0.3))
    found = ascended(nets, rows.next_obs, KEY)
    np.testing.assert_allclose(found.action[:, 0], np.clip(rows.next_obs[:, 0], -1, 3), atol=0.02)
    drawn = PolicyAction()(nets, rows.next_obs, jax.random.split(KEY)[0])
    np.testing.assert_array_equal(found.log_prob, drawn.log_prob)
    still = Ascended(PolicyAction(), ProjectedAscent(steps=0))(nets, rows.next_obs, KEY)
    np.testing.assert_allclose(still.action, drawn.action, rtol=1e-6)


def test_xqc_labels_with_them() -> None:
    """Of its actions none is of less q̄ than the one drawn, and most are of more."""
    greedy = XQC(target_steps=3).template(BOX).greedy
    assert isinstance(greedy, Ascended)
    nets = Components(critic=built(QNetwork, 2, BOX, (8,), KEY), policy=built(TanhGaussianPolicy, 2, BOX, (4,), KEY))
    critic, obs = needed(nets.critic), batch().next_obs
    drawn = greedy.inner(nets, obs, jax.random.split(KEY)[0]).action
    gain = critic.least(obs, greedy(nets, obs, KEY).action) - critic.least(obs, drawn)
    assert (gain >= 0).all() and (gain > 0).mean() > 0.5


def gated(threshold: float, every: int = 1, states: int = ROWS) -> tuple[FQI, Components]:
    """A policy that climbs q = −(a − s_1)² where its gap is above the threshold."""
    fit = Descend(optax.sgd(0.5))
    policy = Update("policy", Improve(FirstCritic()), fit, every=every, when=GapAbove(threshold, states=states))
    nets = Components(critic=FunctionCritic(hill, BOX), policy=built(DeterministicPolicy, 2, BOX, (8,), KEY))
    return FQI(updates=(policy,), sync=Sync()), nets


def gap_by_hand(nets: Components, states: int) -> float:
    obs = batch().obs[:states]
    q = hill(obs, needed(nets.policy).act(obs, jnp.zeros((states, 1))))
    return float((-q).mean() / q.std())


@pytest.mark.parametrize("states", [ROWS, 5])
def test_a_policy_is_updated_where_its_gap_is_above_the_threshold(states: int) -> None:
    """max_a q = 0 in the box, so the gap is mean −q: a threshold below it lets the update through, one above none."""
    gap = gap_by_hand(gated(0.0)[1], states)
    exact = GapAbove(0.0, states, ProjectedAscent(steps=60, learning_rate=0.3))
    assert float(exact(gated(0.0)[1], batch())[1]["gap"]) == pytest.approx(gap, rel=0.05)
    for factor, updates in ((0.25, True), (4.0, False)):
        fqi, nets = gated(factor * gap, states=states)
        after = eqx.filter_jit(fqi.learn)(fqi.init(nets, jax.random.key_data(KEY), batch()), batch())
        policies = (jax.tree.leaves(each.policy) for each in (nets, after.nets))
        assert any(not np.array_equal(*pair) for pair in zip(*policies, strict=True)) is updates
        assert fqi.logs(after)["policy/updates"] == float(updates)


def test_what_is_not_due_is_not_asked() -> None:
    """Every second call, and only where the gap is wide: of 6 calls 3, and none above any gap."""
    for threshold, expected in ((0.0, 3.0), (1e9, 0.0)):
        fqi, nets = gated(threshold, every=2)
        state = fqi.init(nets, jax.random.key_data(KEY), batch())
        learn = eqx.filter_jit(fqi.learn)
        for call in range(1, 7):
            state = learn(state, batch(), call % 2)
        assert fqi.logs(state)["policy/updates"] == expected


def test_labels_are_of_the_least_of_the_critics_that_were_drawn() -> None:
    critic = built(QNetwork, 2, BOX, (4,), KEY, n_critics=5, head=OneValue())
    nets, rows = Components(critic=critic), batch()
    greedy = PolicyAction()(nets.replace("policy", built(DeterministicPolicy, 2, BOX, (4,), KEY)), rows.next_obs, KEY)
    q = np.asarray(critic(rows.next_obs, greedy.action))
    target = BellmanOfReturns(0.9, subset=2)
    seen = set()
    for number in range(12):
        y = target(nets, rows, greedy, jax.random.key(number)).y[:, 0]
        pairs = [
            (i, j)
            for i in range(5)
            for j in range(i)
            if np.allclose(y, np.asarray(rows.reward) + 0.9 * np.minimum(q[i], q[j]), atol=1e-5)
        ]
        assert pairs
        seen |= set(pairs)
    assert len(seen) > 2
    with pytest.raises(UserError, match="subset: found 6, expected at most the 5"):
        dataclasses.replace(target, subset=6).check_components(nets)
    with pytest.raises(UserError, match="n_target_critics: found 3 with n_critics = 2"):
        XQC(n_target_critics=3)


def test_a_whole_update_compiles_with_every_option() -> None:
    plain = {"normalization": "plain", "n_critics": 3, "n_target_critics": 2, "policy_critic": "mean"}
    method = XQC(hidden=(4,), bins=5, target_steps=1, policy_gap=0.1, policy_delay=2, **plain)  # type: ignore[arg-type]
    fqi, state = initial_state(method, 2, BOX, ROWS, seed=0)
    state = eqx.filter_jit(fqi.learn)(state, batch())
    assert all(np.isfinite(value) for value in fqi.logs(state).values())


def test_the_queue_of_ablations_asks_for_settings_that_there_are() -> None:
    """Every line makes its method, and no two write the same file."""
    lines = [line.split() for line in QUEUE.read_text().splitlines() if not line.startswith("#")]
    methods = []
    for words in lines:
        given = parse_assignments([words[place + 1] for place, word in enumerate(words) if word == "--set"])
        own, loop = split_settings(given, XQC, TrainSettings)
        methods.append((XQC(**own), TrainSettings(**loop)))
    assert len({words[3] for words in lines}) == len(lines) == 20
    assert {method.normalization for method, _ in methods} == {"batch", "plain"}
