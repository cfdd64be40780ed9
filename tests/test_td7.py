"""TD7: embeddings, what of them is fitted, when the copies move, and targets within the labels seen."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fittedq
from fittedq import TD7
from fittedq.approx.embedding import EmbeddedMlp, RangedCritic, StateActionEncoder, average_l1, own_arrays
from fittedq.approx.host import host_view, to_host
from fittedq.approx.networks import DeterministicPolicy, QNetwork
from fittedq.errors import UserError
from fittedq.template.fqi import LearnerState
from fittedq.template.losses import Predict, Regress
from fittedq.template.targets import Bellman, MinOverCritics, WithinSeen
from fittedq.trainers.state import initial_state
from fittedq.types import Components, Greedy
from methods import built
from test_normalized import BOX, KEY, RNG, ROWS, batch

TINY = TD7(hidden=(6, 5), embedding=4, encoder_hidden=(7,), period=2, policy_delay=1)
ENCODER = StateActionEncoder(2, 1, 4, (7,), jax.random.key(3))


def perceptron(net, x: np.ndarray, activation) -> np.ndarray:
    for layer, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        x = x @ np.asarray(weight, float) + np.asarray(bias, float)
        x = activation(x) if layer < len(net.weights) - 1 else x
    return x


def elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def normed(x: np.ndarray) -> np.ndarray:
    return x / np.abs(x).mean(-1, keepdims=True)


def embeddings(encoder: StateActionEncoder, obs: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z = normed(perceptron(encoder.of_state, obs, elu))
    return z, perceptron(encoder.of_pair, np.concatenate([z, unit], 1), elu)


def test_the_average_l1_norm():
    x = np.asarray([[1.0, -3.0], [0.0, 0.0], [-0.5, 0.0]], np.float32)
    np.testing.assert_allclose(average_l1(x), [[0.5, -1.5], [0.0, 0.0], [-2.0, 0.0]])
    assert isinstance(average_l1(x), np.ndarray)


def test_the_critic_and_the_policy_read_both_embeddings_and_themselves():
    rows = batch()
    obs, unit = np.asarray(rows.obs, float), (np.asarray(rows.action, float) - 1) / 2
    z, pair = embeddings(ENCODER, obs, unit)

    def make(*args, **settings):
        return EmbeddedMlp(*args, encoder=ENCODER, **settings)

    critic = built(QNetwork, 2, BOX, (6, 5), KEY, n_critics=2, activation="elu", make=make)
    for member in range(2):
        net = jax.tree.map(lambda leaf, member=member: leaf[member], (critic.net.first, critic.net.rest))
        own = normed(perceptron(net[0], np.concatenate([obs, unit], 1), elu))
        q = perceptron(net[1], np.concatenate([own, pair, z], 1), elu)[:, 0]
        np.testing.assert_allclose(critic(rows.obs, rows.action)[member], q, atol=1e-5)
    policy = built(DeterministicPolicy, 2, BOX, (6, 5), KEY, activation="relu", make=make)
    own = normed(perceptron(policy.net.first, obs, elu))
    u = perceptron(policy.net.rest, np.concatenate([own, z], 1), lambda x: np.maximum(x, 0))
    normal = np.zeros((ROWS, 1), np.float32)
    np.testing.assert_allclose(policy.act(rows.obs, normal), 1 + 2 * np.tanh(u), atol=1e-5)
    host = host_view(to_host(policy)).act(np.asarray(rows.obs), normal)
    assert isinstance(host, np.ndarray)
    np.testing.assert_allclose(host, 1 + 2 * np.tanh(u), atol=1e-5)


def test_the_encoder_predicts_its_own_embedding_of_the_next_state():
    rows = batch()
    nets = Components(critic=built(QNetwork, 2, BOX, (4,), KEY), encoder=ENCODER)
    data = Predict().label(nets, rows, None, KEY)
    unit = (np.asarray(rows.action, float) - 1) / 2
    _, pair = embeddings(ENCODER, np.asarray(rows.obs, float), unit)
    after, _ = embeddings(ENCODER, np.asarray(rows.next_obs, float), unit)
    assert Predict()(ENCODER, nets, data, KEY)[0] == pytest.approx(((pair - after) ** 2).mean(), rel=1e-5)


@pytest.fixture(scope="module")
def states() -> list[LearnerState]:
    """The first one, and those after each of four calls."""
    fqi, first = initial_state(TINY, 2, BOX, ROWS, seed=0)
    learn, states = jax.jit(fqi.learn), [first]
    for _ in range(4):
        states.append(learn(states[-1], batch()))
    return states


def test_no_gradient_and_no_step_reaches_the_encoder_inside(states):
    nets, rows = states[0].nets, batch()
    slope = jax.jit(jax.grad(lambda critic: critic(rows.obs, rows.action).sum()))(nets.critic)
    assert all(not leaf.any() for leaf in jax.tree.leaves(slope.critic.net.encoder))
    assert any(leaf.any() for leaf in jax.tree.leaves(slope.critic.net.rest))
    deaf = eqx.tree_at(lambda critic: critic.critic.net.first.weights[0], nets.critic, replace_fn=jnp.zeros_like)
    by_pair = jax.jit(jax.grad(lambda action: deaf(rows.obs, action).sum()))(rows.action)
    assert not np.allclose(by_pair, 0.0)  # by z_sa alone
    own = own_arrays(nets.policy)
    assert not any(jax.tree.leaves(own.net.encoder)) and all(jax.tree.leaves((own.net.first, own.net.rest)))
    decayed, first = initial_state(TD7(**{**vars(TINY), "optimizer": "adamw"}), 2, BOX, ROWS, seed=0)
    after = jax.jit(decayed.learn)(first, rows)
    assert same(first.nets.critic.critic.net.encoder, after.nets.critic.critic.net.encoder)
    assert not same(first.nets.critic.critic.net.rest, after.nets.critic.critic.net.rest)


def same(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_frozen_copies_keep_the_embeddings_they_were_fitted_on(states):
    """Every second call: θ̄ ← θ with the encoder that it had; at the beginning of the next one θ's encoder ← φ."""

    def inside(part) -> StateActionEncoder:
        return (part.critic if isinstance(part, RangedCritic) else part).net.encoder

    for part in ("critic", "policy"):
        live = [inside(getattr(state.nets, part)) for state in states]
        frozen = [inside(getattr(state.frozen, part)) for state in states]
        encoder = [state.nets.encoder for state in states]
        assert same(live[1], encoder[0]) and same(live[2], encoder[0]) and same(live[3], encoder[2])
        assert same(live[4], encoder[2]) and not same(encoder[2], encoder[0])
        assert same(frozen[2], encoder[0]) and same(frozen[3], encoder[0]) and same(frozen[4], encoder[2])
    assert same(states[2].frozen.critic.critic.net.rest, states[2].nets.critic.critic.net.rest)
    assert not same(states[3].frozen.critic.critic.net.rest, states[3].nets.critic.critic.net.rest)


def test_values_at_the_next_state_stay_within_the_labels_seen_by_the_last_copy():
    loss = Regress(Bellman(0.9, WithinSeen(MinOverCritics())))
    rows, critic = batch(), RangedCritic(built(QNetwork, 2, BOX, (8,), KEY, n_critics=2))
    greedy = Greedy(rows.action, jnp.zeros(ROWS), jnp.zeros(ROWS, bool))
    first = loss.label(Components(critic=critic), rows, greedy, KEY)
    np.testing.assert_array_equal(first.y, rows.reward)  # nothing was seen
    seen = loss.prepare(critic, first)
    assert (seen.low, seen.high) == (rows.reward.min(), rows.reward.max())
    other = loss.prepare(seen, eqx.tree_at(lambda data: data.y, first, jnp.full(ROWS, 0.1)))
    assert (other.low, other.high) == (seen.low, seen.high)
    narrow = eqx.tree_at(lambda critic: (critic.low, critic.high), critic, (jnp.asarray(-0.2), jnp.asarray(-0.1)))
    q = np.asarray(critic.least(rows.next_obs, rows.action))
    assert (q < -0.2).any() and (q > -0.1).any()
    y = np.asarray(rows.reward) + 0.9 * (1 - np.asarray(rows.terminated)) * np.clip(q, -0.2, -0.1)
    np.testing.assert_allclose(loss.label(Components(critic=narrow), rows, greedy, KEY).y, y, atol=1e-6)
    with pytest.raises(UserError, match="found a critic of type QNetwork, which keeps no range"):
        WithinSeen(MinOverCritics()).check_components(Components(critic=critic.critic))


def test_what_was_seen_goes_with_the_copies(states):
    _, one, two, *_ = states
    assert one.nets.critic.high == batch().reward.max() and one.frozen.critic.low > one.frozen.critic.high
    assert two.frozen.critic.high == two.nets.critic.high


def test_an_agent_acts_on_its_own_embeddings_when_it_is_loaded(tmp_path):
    small = {"hidden": (4, 4), "embedding": 4, "encoder_hidden": (4,), "random_steps": 20, "batch_size": 8, "period": 5}
    agent = fittedq.train("td7", "Pendulum-v1", steps=40, **small, out=tmp_path / "run", progress=False)
    obs = RNG.normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(fittedq.load(tmp_path / "run").act(obs), agent.act(obs))
    assert np.isfinite(agent.value(obs, agent.act(obs))).all()
    with pytest.raises(UserError, match="found a critic of type RangedCritic"):
        agent.gap(obs)
