"""CrossQ: one pass of the critic that labels itself; Adam as data; batches of one row."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fittedq
from fittedq import XQC, Adam, CrossQ
from fittedq.approx.batch_norm import BatchNormMlp
from fittedq.approx.networks import QNetwork
from fittedq.cli.main import main
from fittedq.errors import UserError
from fittedq.settings import as_json
from fittedq.template.fits import Descend
from fittedq.template.fqi import FQI, Sync, Update
from fittedq.template.greedy import PolicyAction
from fittedq.template.losses import RegressReturns, RegressTogether
from fittedq.template.targets import Bellman, FirstCritic, MinOverCritics
from fittedq.trainers.state import initial_state
from fittedq.types import Components, Greedy
from methods import built
from test_normalized import BOX, KEY, RNG, ROWS, batch, by_hand, own_moments

GAMMA, BETA = 0.9, 0.5
LOSS = RegressTogether(Bellman(GAMMA, MinOverCritics()))


def greedy_at(rows: int = ROWS) -> Greedy:
    return Greedy(jnp.linspace(-0.9, 2.9, rows)[:, None], jnp.linspace(-2, 2, rows), jnp.zeros(rows, bool))


def test_y_is_of_the_pass_that_is_fitted_and_no_gradient_goes_through_it():
    critic = built(QNetwork, 2, BOX, (8, 6), KEY, n_critics=2, make=BatchNormMlp)
    rows, greedy, nets = batch(), greedy_at(), Components(critic=critic, log_temperature=jnp.log(BETA))
    data = LOSS.label(nets, rows, greedy, KEY)
    obs, action = np.concatenate([rows.obs, rows.next_obs]), np.concatenate([rows.action, greedy.action])
    x = np.concatenate([obs, action - 1.0], axis=1).astype(float)[:, : 2 + 1]
    x[:, 2] /= 2.0  # the box is [−1, 3]
    members = [jax.tree.map(lambda leaf, member=member: leaf[member], critic.net) for member in range(2)]
    q = np.stack([by_hand(net, x, own_moments)[:, 0] for net in members])
    alive = 1 - np.asarray(rows.terminated, float)
    y = np.asarray(rows.reward) + GAMMA * alive * (q[:, ROWS:].min(0) - BETA * np.asarray(greedy.log_prob))

    (loss, metrics), slope = jax.jit(jax.value_and_grad(LOSS, has_aux=True))(critic, nets, data, KEY)
    np.testing.assert_allclose(LOSS.passed(critic, nets, data, KEY)[1].y, y, atol=1e-4)
    assert float(loss) == pytest.approx(((q[:, :ROWS] - y) ** 2).mean(1).sum(), rel=1e-4)
    assert float(metrics["target"]) == pytest.approx(y.mean(), abs=1e-4)

    def fixed(critic: QNetwork) -> jax.Array:
        outputs, _ = critic.net.by_batch(critic.inputs(jnp.asarray(obs), jnp.asarray(action)))
        return ((outputs[:, :ROWS, 0] - jnp.asarray(y, jnp.float32)) ** 2).mean(1).sum()

    for found, right in zip(jax.tree.leaves(slope), jax.tree.leaves(jax.jit(jax.grad(fixed))(critic)), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-3)
    right = critic.net.by_batch(critic.inputs(jnp.asarray(obs), jnp.asarray(action)))[1]
    np.testing.assert_allclose(metrics["statistics"].mean[1], right.mean[1], atol=1e-6)


def test_where_nothing_is_normalized_by_the_batch_it_is_the_usual_regression():
    critic = built(QNetwork, 2, BOX, (8,), KEY, n_critics=3)
    rows, greedy, nets = batch(), greedy_at(), Components(critic=critic, log_temperature=jnp.log(BETA))
    usual = RegressReturns(Bellman(GAMMA, MinOverCritics()))
    values = [
        jax.jit(jax.value_and_grad(loss, has_aux=True))(critic, nets, loss.label(nets, rows, greedy, KEY), KEY)
        for loss in (usual, LOSS)
    ]
    for one, other in zip(jax.tree.leaves(values[0]), jax.tree.leaves(values[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_subset_of_the_critics_can_label():
    critic = built(QNetwork, 2, BOX, (8,), KEY, n_critics=3, make=BatchNormMlp)
    rows, greedy, nets = batch(), greedy_at(), Components(critic=critic)
    first = RegressTogether(Bellman(GAMMA, FirstCritic()))
    y = first.passed(critic, nets, first.label(nets, rows, greedy, KEY), KEY)[1].y
    whole = jnp.concatenate([rows.obs, rows.next_obs]), jnp.concatenate([rows.action, greedy.action])
    q = critic.net.by_batch(critic.inputs(*whole))[0][0, ROWS:, 0]
    np.testing.assert_allclose(y, rows.reward + GAMMA * (1 - rows.terminated) * q, atol=1e-5)


def test_a_batch_is_passed_over_once():
    """2 critics of 3 products: forward 3 at both halves, backward 3 by weights and 2 by inputs; the policy's 3 at s'.
    Then the policy's own 3, 3 and 2, and the critic's 3 and 3."""
    fqi, state = initial_state(CrossQ(hidden=(4, 4), policy_hidden=(4, 4)), 2, BOX, 8, seed=0)
    due, other = (
        str(jax.make_jaxpr(lambda state, rows, phase=phase: fqi.learn(state, rows, phase))(state, batch(8)))
        for phase in (0, 1)
    )
    assert due.count("dot_general") == (3 + 3 + 2) + 3 + (3 + 3 + 2) + (3 + 3)
    assert other.count("dot_general") == (3 + 3 + 2) + 3
    assert jax.tree.leaves(state.frozen) == []


def test_labels_that_change_while_they_are_fitted_are_refused_over_a_whole_dataset():
    update = Update("critic", LOSS, Descend(optax.adam(1e-3)))
    fqi = FQI(greedy=PolicyAction(), updates=(update,), sync=Sync())
    with pytest.raises(UserError, match="update of critic: RegressTogether needs batches"):
        fqi.check_iterations(Components(critic=built(QNetwork, 2, BOX, (4,), KEY)))


@pytest.mark.parametrize("algorithm", [CrossQ(hidden=(4,), policy_hidden=(4,)), XQC(hidden=(4,))])
def test_batches_of_one_row_are_a_sentence(algorithm):
    sentence = "setting batch_size: found 1, expected at least 2, because layers are normalized by the batch"
    with pytest.raises(UserError, match=sentence):
        initial_state(algorithm, 2, BOX, 1, seed=0)
    initial_state(XQC(hidden=(4,), normalization="layer"), 2, BOX, 1, seed=0)


def test_a_run_on_batches_of_one_row_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "run"
    words = ["train", "crossq", "Pendulum-v1", "--steps", "300", "--out", str(out), "--set", "batch_size=1"]
    assert main([*words, "--set", "hidden=4,4", "--set", "policy_hidden=4,4"]) == 2
    assert "setting batch_size: found 1" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_adam_is_data():
    slope, state = {"w": jnp.asarray(RNG.normal(size=3), jnp.float32)}, None
    ours, theirs = Adam(b1=0.5, b2=0.9)(1e-2), optax.adam(1e-2, b1=0.5, b2=0.9)
    state, other = ours.init(slope), theirs.init(slope)
    for _ in range(3):
        step, state = ours.update(slope, state)
        right, other = theirs.update(slope, other)
        np.testing.assert_array_equal(step["w"], right["w"])
    assert as_json(CrossQ())["optimizer"] == {"kind": "Adam", "b1": 0.5, "b2": 0.999}
    assert fittedq.TD3(optimizer="adam:0.5") == fittedq.TD3(optimizer=Adam(0.5))  # pyright: ignore
    with pytest.raises(UserError, match=r"setting b1: found 1.0, expected a number below 1"):
        Adam(b1=1.0)
    with pytest.raises(UserError, match=r"setting optimizer: found 'adam:2', expected adam:B1:B2"):
        fittedq.TD3(optimizer="adam:2")


def test_an_agent_keeps_its_optimizer(tmp_path: Path):
    small = {"hidden": (4,), "policy_hidden": (4,), "random_steps": 30, "batch_size": 8}
    agent = fittedq.train("crossq", "Pendulum-v1", steps=40, optimizer=Adam(0.3), **small, out=tmp_path / "run")
    assert fittedq.load(tmp_path / "run").algorithm == agent.algorithm
    assert agent.algorithm.optimizer == Adam(0.3)  # pyright: ignore
