"""One method as a special case of another: equal to the bit under one seed."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fittedq.actions.base import Box
from fittedq.algorithms import DDPG, SAC, TD3
from fittedq.algorithms.base import POLICY_CRITICS
from fittedq.bellman import td_target
from fittedq.envs.gym import GymSource
from fittedq.template.fits import Budget, Descend
from fittedq.template.fqi import FQI, Copy, LearnerState, Sync, Update
from fittedq.template.greedy import PolicyAction
from fittedq.template.losses import Improve, Regress
from fittedq.template.targets import Bellman, FirstCritic, MinOverCritics
from fittedq.trainers.host import HostTrainer
from fittedq.trainers.learner import Learner
from fittedq.trainers.settings import TrainSettings
from fittedq.trainers.state import initial_state
from fittedq.types import Components, Transition
from methods import made

BOX = Box((-1.0, 0.0), (1.0, 3.0))
OBS_SIZE, BATCH = 3, 32
KEY = jax.random.PRNGKey(5)
SHARED = {"hidden": (8, 8), "policy_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "tau": 0.05, "gamma": 0.9}


def batches(count: int) -> list[Transition]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, BATCH, Transition.width(OBS_SIZE, BOX.size))).astype(np.float32)
    rows[..., -2:] = rng.uniform(size=rows[..., -2:].shape) < 0.2
    return [Transition.unpack(jnp.asarray(batch), OBS_SIZE, BOX.size) for batch in rows]


def run(fqi: FQI, state: LearnerState, data: list[Transition]) -> LearnerState:
    learn = jax.jit(fqi.learn)
    for batch in data:
        state = learn(state, batch)
    return state


def differences(one, other) -> list[float]:
    """The largest absolute difference, leaf by leaf."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return [float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)))) for a, b in pairs]


def identical(one: LearnerState, other: LearnerState) -> bool:
    return max(differences((one.nets, one.frozen), (other.nets, other.frozen))) == 0.0


@pytest.fixture(scope="module")
def ddpg() -> LearnerState:
    """Forty updates of DDPG."""
    return run(*initial_state(DDPG(**SHARED), OBS_SIZE, BOX, BATCH, seed=3), batches(40))


ALMOST_DDPG = {"n_critics": 1, "n_target_critics": 1, "smoothing_sigma": 0.0, "policy_delay": 1}


@pytest.mark.as_shipped
def test_td3_without_its_three_additions_is_ddpg(ddpg):
    td3 = run(*initial_state(TD3(**SHARED, **ALMOST_DDPG), OBS_SIZE, BOX, BATCH, seed=3), batches(40))
    assert identical(td3, ddpg)


@pytest.mark.parametrize(
    "addition", [{"n_critics": 2, "n_target_critics": 2}, {"smoothing_sigma": 0.2}, {"policy_delay": 2}]
)
def test_each_addition_makes_a_difference(addition, ddpg):
    td3 = run(*initial_state(TD3(**SHARED, **(ALMOST_DDPG | addition)), OBS_SIZE, BOX, BATCH, seed=3), batches(40))
    assert max(differences(td3.nets.policy, ddpg.nets.policy)) > 1e-5


def nfqca(algorithm: DDPG, epochs: int) -> FQI:
    """Neural FQI with continuous actions: label with the previous networks, fit both, copy."""
    budget = Budget(epochs=epochs)
    return FQI(
        greedy=PolicyAction(),
        updates=(
            Update(
                "critic",
                Regress(Bellman(algorithm.gamma, FirstCritic())),
                Descend(algorithm.critic_optimizer(), budget),
            ),
            Update("policy", Improve(FirstCritic()), Descend(optax.adam(algorithm.policy_learning_rate), budget)),
        ),
        sync=Sync(critic=Copy(), policy=Copy()),
    )


@pytest.mark.as_shipped
def test_nfqca_with_one_full_batch_step_is_ddpg_with_target_period_one():
    algorithm, data = DDPG(**SHARED | {"tau": DDPG.tau}, target_period=1), batches(1) * 5
    fqi, state = initial_state(algorithm, OBS_SIZE, BOX, BATCH, seed=3)
    one_step = run(nfqca(algorithm, 1), state, data)
    assert identical(one_step, run(fqi, state, data))
    assert max(differences(one_step.frozen.critic, one_step.nets.critic)) == 0.0
    assert not identical(one_step, run(nfqca(algorithm, 2), state, data))


def test_two_epochs_are_two_steps_on_the_same_labels():
    """To rounding: an epoch shuffles its rows."""
    algorithm, (batch,) = DDPG(**SHARED), batches(1)
    _, state = initial_state(algorithm, OBS_SIZE, BOX, BATCH, seed=3)
    critic_only = dataclasses.replace(nfqca(algorithm, 2), updates=nfqca(algorithm, 2).updates[:1])
    fitted = run(critic_only, critic_only.init(state.nets, KEY, batch), [batch]).nets.critic

    nets, optimizer = state.nets, algorithm.critic_optimizer()

    @jax.jit
    def label(nets):
        next_q = nets.critic(batch.next_obs, nets.policy.act(batch.next_obs, batch.action))[0]
        return td_target(batch.reward, batch.terminated, next_q, algorithm.gamma)

    y = label(nets)

    @jax.jit
    def step(critic, optimizer_state):
        slope = jax.grad(lambda critic: jnp.mean((critic(batch.obs, batch.action)[0] - y) ** 2))(critic)
        change, optimizer_state = optimizer.update(slope, optimizer_state, critic)
        return optax.apply_updates(critic, change), optimizer_state

    critic, optimizer_state = nets.critic, jax.jit(optimizer.init)(nets.critic)
    for _ in range(2):
        critic, optimizer_state = step(critic, optimizer_state)
    assert max(differences(fitted, critic)) < 1e-5


def test_the_loss_of_svg0_with_a_deterministic_policy_is_ddpgs():
    nets, obs = made(DDPG(**SHARED), OBS_SIZE, BOX, KEY), batches(1)[0].obs
    (update,) = (update for update in DDPG(**SHARED).template(BOX).updates if update.component == "policy")

    def svg0(policy):
        """−E_ε q(s, π(s, ε)), the reparameterized objective."""
        return -jnp.mean(nets.critic(obs, policy.act(obs, jnp.ones((BATCH, BOX.size))))[0])

    expected = jax.jit(jax.value_and_grad(svg0))(nets.policy)
    for loss in (update.loss, *(Improve(combine) for combine in POLICY_CRITICS.values())):
        found = jax.jit(jax.value_and_grad(lambda policy, loss=loss: loss(policy, nets, obs, KEY)[0]))(nets.policy)
        assert max(differences(found, expected)) == 0.0


def test_an_ensemble_of_one_is_its_member_however_combined():
    nets, batch = made(DDPG(**SHARED), OBS_SIZE, BOX, KEY), batches(1)[0]
    values = [
        combine(nets.critic, batch.obs, batch.action, KEY)
        for combine in (*POLICY_CRITICS.values(), MinOverCritics(subset=1), MinOverCritics(subset=2))
    ]
    assert all(max(differences(value, nets.critic(batch.obs, batch.action)[0])) == 0.0 for value in values)


@pytest.mark.slow
def test_an_ensemble_of_equals_learns_as_its_member_alone():
    """To rounding, since three matrices are multiplied at once: a sum over members scales no member's step."""
    alone, (batch,) = SAC(**SHARED, n_critics=1, n_target_critics=1), batches(1)
    fqi, state = initial_state(alone, OBS_SIZE, BOX, BATCH, seed=3)
    tripled = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=0), state.nets.critic)
    three = SAC(**SHARED, n_critics=3, n_target_critics=3).template(BOX)
    together = run(three, three.init(state.nets.replace("critic", tripled), state.key, batch), [batch] * 3)
    single = run(fqi, state, [batch] * 3)
    assert together.nets.critic.size == 3
    for index in range(3):
        assert max(differences(together.nets.critic.subset(slice(index, index + 1)), single.nets.critic)) < 1e-5
    assert max(differences(together.nets.policy, single.nets.policy)) < 1e-5


def test_a_solver_and_a_policy_that_give_the_same_action_label_alike():
    """Where the actions agree, so do the labels: the target does not ask where an action came from."""
    nets, batch = made(DDPG(**SHARED), OBS_SIZE, BOX, KEY), batches(1)[0]
    amortized = PolicyAction()(nets, batch.next_obs, KEY)
    solved = dataclasses.replace(amortized, solved=jnp.ones(BATCH, bool), upper_bound=jnp.full(BATCH, 1e3))
    target = Bellman(0.9, FirstCritic())
    labels = [target(Components(critic=nets.critic), batch, greedy, KEY).y for greedy in (amortized, solved)]
    assert max(differences(*labels)) == 0.0


def test_a_group_of_batches_in_one_call_is_learned_as_one_by_one():
    """TD3's two batches in one call, bit for bit as one by one; optimized programs of two shapes round otherwise."""
    rows = np.stack([batch.pack() for batch in batches(6)])
    learners = []
    for size in (2, 1):
        learner = Learner(*initial_state(TD3(**SHARED), OBS_SIZE, BOX, BATCH, seed=0), OBS_SIZE, BOX.size)
        for first in range(0, len(rows), size):
            learner.learn(rows[first : first + size])
        learners.append(jax.tree.leaves(learner.state))
    assert all(np.array_equal(a, b) for a, b in zip(*learners, strict=True))


@pytest.mark.as_shipped
def test_where_a_run_is_looked_at_or_stopped_changes_nothing():
    """60 steps at once, one by one, and stopped and restored within a group of TD3's batches: the same to the bit."""

    def trainer() -> HostTrainer:
        settings = TrainSettings(batch_size=16, random_steps=20)
        return HostTrainer(TD3(hidden=(8,)), GymSource("Pendulum-v1"), settings, seed=0)

    at_once, one_by_one, stopped, resumed = (trainer() for _ in range(4))
    at_once.advance(60)
    for _ in range(60):
        one_by_one.advance(1)
    stopped.advance(43)
    snapshot = stopped.snapshot()
    assert len(snapshot.arrays["waiting"]) == 0
    stopped.advance(1)
    snapshot = stopped.snapshot()
    assert len(snapshot.arrays["waiting"]) == 1
    resumed.restore(*snapshot)
    resumed.advance(16)
    assert at_once.updates == int(at_once.learner.state.step) == 40
    for other in (one_by_one, resumed):
        leaves = zip(jax.tree.leaves(at_once.learner.state), jax.tree.leaves(other.learner.state), strict=True)
        assert all(np.array_equal(a, b) for a, b in leaves)
