"""What every registered algorithm must do, whatever its page says."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fittedq import Composed, DeterministicPolicy, Gaussian
from fittedq.actions.base import Box
from fittedq.algorithms import REGISTRY
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.approx.host import host_view
from fittedq.arrays import namespace
from fittedq.envs.gym import GymSource
from fittedq.errors import UserError
from fittedq.settings import setting_fields
from fittedq.template.fits import Descend
from fittedq.template.fqi import FQI, LearnerState, Sync, Update
from fittedq.template.greedy import PolicyAction
from fittedq.template.losses import Regress
from fittedq.template.targets import Bellman, FirstCritic, MinOverCritics
from fittedq.testing import conforms
from fittedq.trainers.host import HostTrainer
from fittedq.trainers.settings import TrainSettings
from fittedq.trainers.state import initial_state
from fittedq.types import Components, DrawnRows, Transition
from linear import QuadraticCritic, critic, gaussian_policy, transitions
from methods import each
from methods import made as initial_networks

# Neither bound is a float32 number, nor is their sum: rounding must not push an action outside.
BOX = Box((-0.1, -3.0), (0.7, 2.0))
OBS_SIZE, BATCH = 3, 16
STEPS, RANDOM_STEPS = 250, 50


def batches(count: int, seed: int = 0) -> list[Transition]:
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.normal(size=(2, count, BATCH, OBS_SIZE)).astype(np.float32)
    action = np.asarray(BOX.from_unit(rng.uniform(-0.9, 0.9, (count, BATCH, BOX.size)).astype(np.float32)))
    reward = rng.normal(size=(count, BATCH)).astype(np.float32)
    terminated, truncated = rng.uniform(size=(2, count, BATCH)) < 0.2
    data = Transition(obs, action, reward, next_obs, terminated, truncated)
    return [jax.tree.map(lambda leaf, index=index: jnp.asarray(leaf[index]), data) for index in range(count)]


def copied(tree):
    return jax.tree.map(np.array, tree)


def equal(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@dataclasses.dataclass(frozen=True)
class Started:
    """An algorithm, its template, and the states before and after each of its first calls."""

    algorithm: AbstractAlgorithm
    fqi: FQI
    learn: Callable[[LearnerState, Transition], LearnerState]
    data: list[Transition]
    states: list[LearnerState]


TINY = {"hidden": (8,)}
OWN_TINY = {
    "svg": {"model_hidden": (8,), "n_models": 2},
    "edac": {"n_critics": 3, "policy_hidden": (8,)},
    "cql": {"calibrated": True, "n_actions": 2},
    # The first period's labels are the rewards, whatever the frozen copies say.
    "td7": {"embedding": 4, "encoder_hidden": (4,), "period": 1},
    # Without these a fit takes a hundred steps.
    "explicit_fqi": {"epochs": 2},
    "smooth_fqi": {"epochs": 2},
} | {
    # The range of a dataset's rewards is not known to a learner of batches, which therefore refuses to clip to it.
    name: {"clip_targets": False, "epochs": 2, "policy_epochs": 2}
    for name in ("amortized_fqi", "nfqca")
}


def tiny(name: str) -> AbstractAlgorithm:
    return REGISTRY[name](**TINY, **OWN_TINY.get(name, {}))


@pytest.fixture(scope="module", params=each("explicit_fqi", "ddpg", "sac"))
def started(request) -> Started:
    algorithm = tiny(request.param)
    fqi, state = initial_state(algorithm, OBS_SIZE, BOX, BATCH, seed=1)
    learn, data, states = jax.jit(fqi.learn), batches(4), [state]
    for batch in data:
        states.append(learn(states[-1], batch))
    return Started(algorithm, fqi, learn, data, states)


@pytest.mark.parametrize("name", each("smooth_fqi", "sac"))
def test_every_registered_algorithm_conforms(name):
    conforms(tiny(name), BOX, OBS_SIZE)


class Stuck(FQI):
    """A template that draws the same in each call."""

    def learn(self, state, batch, phase=None):
        return dataclasses.replace(super().learn(state, batch, phase), key=state.key)


class Wild(DeterministicPolicy):
    """A policy whose mode is no number far out."""

    def act(self, obs, normal):
        return DeterministicPolicy.act(self, obs, normal) * namespace(obs).where(abs(obs).max() > 1e3, np.nan, 1.0)


def composed(template, policy):
    fqi, made = tiny("td3").template(BOX), tiny("td3").networks

    def networks(obs_size, action_set, key):
        return made(obs_size, action_set, key).replace("policy", policy(obs_size, action_set, (8,), key))

    return Composed(fqi=template(fqi.updates, fqi.sync, fqi.greedy), networks=networks, exploration=Gaussian(0.1))


@pytest.mark.parametrize(
    ("template", "policy", "words"),
    [
        (Stuck, DeterministicPolicy, "learn leaves its key as it is"),
        (FQI, Wild, "it lies too far from what was learned"),
    ],
)
def test_a_method_that_does_not_conform_is_told_why(template, policy, words):
    with pytest.raises(AssertionError, match=words):
        conforms(composed(template, policy), BOX, OBS_SIZE)


def test_metrics_are_finite_and_named_alike_from_the_first_call_on(started):
    logs = [started.fqi.logs(state) for state in started.states]
    assert all(np.isfinite(list(log.values())).all() for log in logs)
    assert all(log.keys() == logs[0].keys() for log in logs)
    assert {update.component for update in started.fqi.updates} == {name.split("/")[0] for name in logs[0]}
    assert logs[-1]["critic/loss"] > 0


EXTREME = np.concatenate([scale * np.eye(OBS_SIZE, dtype=np.float32) for scale in (0.0, 1e3, -1e3, 1e6, -1e6, 1e12)])


def test_the_policys_own_actions_leave_the_box_by_rounding_at_most(started):
    if started.states[-1].nets.policy is None:
        pytest.skip("it learns no policy")
    policy, obs = started.states[-1].nets.policy, jnp.asarray(EXTREME)
    normal = 5 * np.random.default_rng(0).normal(size=(len(EXTREME), BOX.size)).astype(np.float32)
    (sampled, log_prob), acted = jax.jit(
        lambda policy, normal: (policy.sample(obs, jax.random.PRNGKey(0)), policy.act(obs, normal))
    )(policy, normal)
    assert np.isfinite(log_prob).all()
    for action in (sampled, acted, host_view(policy).act(EXTREME, normal)):
        action = np.asarray(action)
        assert np.abs(action - BOX.project(action, EXTREME)).max() <= 1e-6
        assert np.ptp(action, axis=0).max() > 0.5  # it goes from bound to bound


def test_a_label_from_the_live_critic_gives_the_semi_gradient():
    """θ ← θ + lr · 2 (y − q) φ: with nothing frozen, y still counts as a constant."""
    batch = transitions([1.0], 2.0, 1.0, 0.5)
    fqi = FQI(
        greedy=PolicyAction(),
        updates=(Update("critic", Regress(Bellman(0.9, FirstCritic())), Descend(optax.sgd(0.01))),),
        sync=Sync(),
    )
    nets = Components(critic((0, 1, 0, 0, 0, 0)), gaussian_policy(0.0, 1e-6))  # q = s
    after = jax.jit(lambda key: fqi.learn(fqi.init(nets, key, batch), batch).nets.critic)(jax.random.PRNGKey(0))
    error = 1.0 + 0.9 * 0.5 - 1.0
    semi = np.array([0, 1, 0, 0, 0, 0]) + 0.01 * 2 * error * np.array([1, 1, 2, 1, 2, 4])
    assert isinstance(after, QuadraticCritic)
    np.testing.assert_allclose(after.weights[0], semi, rtol=1e-5, atol=1e-7)
    residual = 0.01 * 2 * error * 0.9 * 0.5  # what the derivative of y would take off the second weight
    assert residual > 1e-3


# ---------------------------------------------------------------------- settings


BAD = [
    ("gamma", 1.0),
    ("gamma", -0.1),
    ("gamma", "high"),
    ("gamma", float("nan")),
    ("tau", 0.0),
    ("tau", 1.5),
    ("hidden", (16, 0)),
    ("hidden", (16.5,)),
    ("activation", "rleu"),
    ("n_critics", 0),
    ("n_critics", 1.5),
    ("dropout", 1.0),
    ("layer_norm", 1),
    ("policy_learning_rate", 0.0),
    ("critic_learning_rate", -1e-3),
]
SETTINGS = {cls: {field.name for field in setting_fields(cls)} for cls in REGISTRY.values()}
OWN = [
    ("ddpg", "target_period", 0),
    ("ddpg", "noise", "white"),
    ("td3", "policy_delay", 0),
    ("td3", "smoothing_sigma", -0.1),
    ("td3", "policy_critic", "max"),
    ("sac", "temperature", 0.0),
    ("sac", "n_target_critics", 0),
    ("sac_v", "temperature", None),
]


def made(cls, **settings):
    """`cls(**settings)` as a user calls it, whose annotations nobody checks."""
    algorithm = object.__new__(cls)
    inspect.unwrap(cls.__init__)(algorithm, **settings)
    return algorithm


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [(name, key, value) for name, cls in REGISTRY.items() for key, value in BAD if key in SETTINGS[cls]] + OWN,
)
def test_a_setting_out_of_range_is_refused_by_name(name, key, value):
    with pytest.raises(UserError, match=f"setting {key}: found"):
        made(REGISTRY[name], **{key: value})


def test_whole_numbers_are_numbers():
    for cls in REGISTRY.values():
        tau = {"tau": 1} if "tau" in SETTINGS[cls] - cls.ignores else {}
        assert made(cls, **tau, n_critics=2.0, hidden=[4, 4]) == cls(**tau, n_critics=2, hidden=(4, 4))


DROQ = {"layer_norm": True, "dropout": 0.1}
REDQ = {"n_critics": 10, "n_target_critics": 2}
VARIANTS = [
    pytest.param(
        "ddpg",
        {"n_critics": 3, "critic_weight_decay": 1e-2, "target_period": 2, **DROQ},
        marks=pytest.mark.slow,
    ),
    ("sac", REDQ | DROQ),
    pytest.param("td3", {"n_critics": 3, "n_target_critics": 2, **DROQ}, marks=pytest.mark.slow),
    pytest.param("sac_v", REDQ | DROQ, marks=pytest.mark.slow),
    pytest.param("sac_v", {"n_critics": 1, "n_target_critics": 1}, marks=pytest.mark.slow),
    pytest.param("sac", {"n_critics": 1, "temperature": 0.1, "policy_critic": "mean"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda value: value if isinstance(value, str) else None)
def test_variants_learn(name, options):
    fqi, state = initial_state(REGISTRY[name](hidden=(4,), **options), OBS_SIZE, BOX, BATCH, seed=0)
    learn, after = jax.jit(fqi.learn), state
    for batch in batches(2):
        after = learn(after, batch)
    assert np.isfinite(list(fqi.logs(after).values())).all()
    assert after.nets.critic.size == options.get("n_critics", 1)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), state.nets.critic, after.nets.critic)
    assert jax.tree.all(moved)  # every kind of parameter, the norms' included


def test_dropout_masks_only_with_a_key():
    algorithm = REGISTRY["sac"](hidden=(32,), dropout=0.5)
    q = initial_networks(algorithm, OBS_SIZE, BOX, jax.random.PRNGKey(0)).critic
    batch = batches(1)[0]
    called = jax.jit(lambda *key: q(batch.obs, batch.action, *key))
    plain = np.asarray(called())
    assert equal(plain, called())
    many = jax.jit(jax.vmap(lambda key: q(batch.obs, batch.action, key)))(jax.random.split(jax.random.PRNGKey(1), 200))
    many = np.asarray(many)
    assert not equal(plain, many[0])
    assert (np.abs(many.mean(axis=0) - plain) < 5 * many.std(axis=0) / np.sqrt(200) + 1e-6).all()  # linear above


def test_a_random_subset_draws_every_pair():
    values = np.arange(5.0)
    ensemble = critic(*[(value, 0, 0, 0, 0, 0) for value in values])
    combine, at = MinOverCritics(subset=2), jnp.zeros((1, 1))
    keys = jax.random.split(jax.random.PRNGKey(0), 2_000)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: combine(ensemble, at, at, key)[0]))(keys))
    frequency = [np.mean(drawn == value) for value in values]
    assert frequency == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0], abs=0.04)


# ---------------------------------------------------------------------- training


WARM_UP = 100


@pytest.fixture(scope="module", params=each("td3", of=(name for name, cls in REGISTRY.items() if cls.online)))
def trained(request) -> Iterator[tuple[HostTrainer, int]]:
    """A short run on Gymnasium's Pendulum, and how many programs its warm-up compiled."""
    settings = TrainSettings(batch_size=BATCH, random_steps=RANDOM_STEPS, replay_size=STEPS)
    trainer = HostTrainer(tiny(request.param), GymSource("Pendulum-v1"), settings, seed=0)
    # Two reports: each may fall between the updates of a group.
    for steps in (WARM_UP, 1):
        trainer.advance(steps)
    programs = trainer.learner.compilations
    trainer.advance(STEPS - WARM_UP - 1)
    yield trainer, programs
    trainer.close()


def test_nothing_is_compiled_after_warm_up(trained):
    """One program for a group of delayed updates, and one for each of its phases where a report splits it."""
    trainer, programs = trained
    assert trainer.learner.compilations == programs <= 3


def test_one_update_per_step_once_random_actions_end(trained):
    trainer, _ = trained
    assert (trainer.step, trainer.episodes) == (STEPS, 1)
    drawn = trainer.updates + len(trainer.snapshot().arrays["waiting"])  # for the update of TD3's policy
    assert drawn == STEPS - RANDOM_STEPS + 1
    assert trainer.updates == int(trainer.learner.state.step)
    assert np.isfinite(list(trainer.learner.metrics().values())).all()


def test_many_updates_in_one_call_are_the_same_as_one_by_one(trained):
    """To rounding, 1e-6: a scan may fuse otherwise than a single call."""
    learner = trained[0].learner
    columns = TrainSettings().columns(learner._fqi)
    width = Transition.width(3, 1) + DrawnRows.width(columns, 1)
    first = copied(learner.state)
    rows = np.random.default_rng(0).uniform(-1, 1, (4, BATCH, width)).astype(np.float32)
    learner.learn(rows)
    together = copied(learner.state)
    learner.state = jax.device_put(first)
    for index in range(4):
        learner.learn(rows[index : index + 1])
    for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(learner.state), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert not equal(first.nets, learner.state.nets)
