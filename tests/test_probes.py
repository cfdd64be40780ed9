"""Every algorithm finds q* of every probe, from transitions with uniform actions."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fittedq.algorithms import DDPG, REGISTRY
from fittedq.envs.native import auto_reset
from fittedq.problems.probes import PROBES, AbstractProbe, ActionReward, DelayedAction, DelayedReward, Endless, OneStep
from fittedq.settings import setting_fields
from fittedq.template.rates import Linear
from fittedq.trainers.compiled import CompiledTrainer
from fittedq.trainers.learner import Learner
from fittedq.trainers.settings import TrainSettings
from fittedq.trainers.state import initial_state
from fittedq.types import Transition

GAMMA, TOLERANCE, ACTION_TOLERANCE = 0.5, 0.2, 0.26
UPDATES, BATCH = 600, 64
SETTINGS = {
    "hidden": (32, 32),
    "gamma": GAMMA,
    "critic_learning_rate": 5e-3,
    "policy_learning_rate": 2e-3,
    "tau": 0.05,
}
FEW_STEPS = {"epochs": 5, "policy_epochs": 2}
"""Of a fit to a batch, which takes a hundred where nobody says."""
COLD = {name: {"temperature": 0.02} for name in ("sac", "sac_v", "smooth_fqi")}
"""At β = .02 the entropy moves no q* by more than .05."""
# So few updates teach no model whose slope can be relied on: with rollouts the policy's action depends on the seed.
COLD["svg"] = {"temperature": 0.02, "horizon": "0", "model_hidden": (8,)}
LONGER = dict.fromkeys(("xqc", "crossq"), (2_000, 256)) | {"simba_v2": (1_500, 64)}
"""Updates and batches of those that normalize by the batch, where the noise of a small one flattens q at the ends, and
of those whose weights only turn."""
# Bins as wide as the probes' values need; running statistics follow a network once its steps are small.
COLD["xqc"] = {"value_low": -4.0, "value_high": 4.0, "bins": 41, "policy_delay": 1}
COLD["xqc"]["critic_learning_rate"] = Linear(5e-3, 1e-4, LONGER["xqc"][0])
COLD["tqc"] = {"n_critics": 2, "quantiles": 5, "drop": 0, "policy_hidden": (32, 32), "initial_temperature": 0.02}
COLD["tqc"]["temperature_learning_rate"] = 1e-6
COLD["simba"] = {"policy_hidden": (32,), "optimizer": "adam", "initial_temperature": 0.02}
COLD["simba"]["temperature_learning_rate"] = 1e-6
COLD["td7"] = {"embedding": 16, "encoder_hidden": (32,), "period": 10}
# So large an α makes it TD3: uniform actions are nothing to stay near.
COLD["td3_bc"] = {"alpha": 1e3}
COLD["rebrac"] = {"policy_near": 1e-3, "critic_near": 1e-3}
# Of uniform actions the value of nearly the best one, and its imitation.
COLD["iql"] = {"expectile": 0.98, "inverse_temperature": 30.0}
# Uniform actions are nothing to be wary of either.
COLD["cql"] = {"alpha": 0.02, "initial_temperature": 0.02, "temperature_learning_rate": 1e-6}
COLD["edac"] = {"eta": 0.01, "n_critics": 3, "policy_hidden": (32, 32), "initial_temperature": 0.02}
COLD["edac"]["temperature_learning_rate"] = 1e-6
COLD["crossq"] = {
    "policy_hidden": (32, 32),
    "initial_temperature": 0.02,
    "policy_delay": 1,
    "critic_learning_rate": COLD["xqc"]["critic_learning_rate"],
}
COLD["simba_v2"] = COLD["xqc"] | {"policy_hidden": (32,), "initial_temperature": 0.02}
COLD["simba_v2"]["critic_learning_rate"] = Linear(2e-2, 1e-4, LONGER["simba_v2"][0])
# On a line a grid finds what a search finds, sooner.
COLD["explicit_fqi"] = {"maximizer": "grid"}
# Imitation sees next states alone, and a first state is none: its policy climbs q here.
COLD["amortized_fqi"] = {"maximizer": "grid", "policy_loss": "improve"}

REST = jnp.zeros((1, 1))


@functools.cache
def uniform_transitions(probe: type[AbstractProbe]) -> np.ndarray:
    """Packed rows [256, width] of uniform actions, ends and time limits included."""
    env = probe()
    keys = jax.random.split(jax.random.PRNGKey(0), 64)
    state, obs = jax.vmap(env.reset)(keys)

    def step(carry, key):
        state, obs = carry
        action = jax.random.uniform(key, (64, 1), minval=-1.0, maxval=1.0)
        after = jax.vmap(auto_reset(env))(state, action, jax.random.split(key, 64))
        state, next_obs, reset_obs, reward, terminated, truncated = after
        return (state, reset_obs), Transition(obs, action, reward, next_obs, terminated, truncated).pack()

    _, rows = jax.jit(lambda carry: jax.lax.scan(step, carry, jax.random.split(jax.random.PRNGKey(1), 4)))((state, obs))
    return np.asarray(rows).reshape(256, -1)


@pytest.fixture(scope="module")
def fresh_learner(request):
    """A learner at its first state, compiled once for all probes."""
    cls = REGISTRY[request.param]
    settings = SETTINGS | FEW_STEPS | COLD.get(request.param, {})
    named = {field.name for field in setting_fields(cls)} - cls.ignores
    algorithm = cls(**{name: value for name, value in settings.items() if name in named})
    updates, batch = LONGER.get(request.param, (UPDATES, BATCH))
    fqi, state = initial_state(algorithm, 1, OneStep().action_set, batch, seed=0)
    first = jax.tree.map(np.array, state)
    learner = Learner(fqi, state, 1, 1)

    def fresh() -> Learner:
        learner.state = jax.device_put(first)
        return learner

    fresh.algorithm, fresh.batches = algorithm, (updates, batch)
    return fresh


QUICK = [("td3", probe) for probe in PROBES] + [("sac", DelayedAction)]
CASES = [
    pytest.param(*case, id=f"{case[0]}-{case[1].__name__}", marks=() if case in QUICK else pytest.mark.slow)
    for case in itertools.product(REGISTRY, PROBES)
]


@pytest.mark.parametrize(("fresh_learner", "probe"), CASES, indirect=["fresh_learner"])
def test_every_algorithm_learns_the_known_q(fresh_learner, probe):
    rows, learner = uniform_transitions(probe), fresh_learner()
    indices = np.random.default_rng(0).integers(0, len(rows), fresh_learner.batches)
    learner.learn(rows[indices])
    nets, data = learner.state.nets, Transition.unpack(rows, 1, 1)
    q = np.asarray(nets.critic(jnp.asarray(data.obs), jnp.asarray(data.action))).min(axis=0)
    error = np.abs(q - np.asarray(probe().q(data.obs, data.action, GAMMA)))
    assert error.max() < TOLERANCE
    best = {ActionReward: 0.5, DelayedAction: GAMMA / 4}
    if probe in best:
        act = fresh_learner.algorithm.controller(nets).act
        assert float(act(REST, REST)[0, 0]) == pytest.approx(best[probe], abs=ACTION_TOLERANCE)


def test_the_known_q_solve_the_bellman_equation():
    """q*(s, a) = r + γ (1 − terminated) max q*(s', ·), on every row."""
    grid = np.linspace(-1, 1, 401, dtype=np.float32)
    for probe in PROBES:
        data = Transition.unpack(uniform_transitions(probe), 1, 1)
        q = probe().q(np.repeat(data.next_obs, 401, axis=0), np.tile(grid, 256)[:, None], GAMMA)
        best = np.asarray(q).reshape(256, 401).max(axis=1)
        target = data.reward + GAMMA * ~data.terminated * best
        np.testing.assert_allclose(probe().q(data.obs, data.action, GAMMA), target, atol=1e-4)


@pytest.mark.parametrize(
    ("probe", "wrong"),
    [
        (Endless, lambda data: data.reward + GAMMA * ~data.truncated * data.reward / (1 - GAMMA)),  # a cut as an end
        (OneStep, lambda data: data.reward / (1 - GAMMA)),  # an end ignored
        (DelayedReward, lambda data: data.reward),  # no bootstrap
        (DelayedAction, lambda data: np.where(data.obs[:, 0] > 0, 9, GAMMA * (0.4 + data.action[:, 0] / 2))),  # a mean
    ],
)
def test_the_probes_tell_wrong_targets_apart(probe, wrong):
    data = Transition.unpack(uniform_transitions(probe), 1, 1)
    error = np.abs(np.asarray(probe().q(data.obs, data.action, GAMMA)) - wrong(data))
    assert error.max() > 2 * TOLERANCE


def test_a_compiled_run_collects_and_learns_through_time_limits():
    settings = TrainSettings(n_envs=4, random_steps=64, replay_size=1024, batch_size=BATCH)
    trainer = CompiledTrainer(DDPG(**SETTINGS), Endless(), settings, seed=0)
    progress = trainer.advance(1_000)
    assert float(trainer.nets().critic(REST, REST)[0, 0]) == pytest.approx(1 / (1 - GAMMA), abs=TOLERANCE)
    assert progress.episodes == 500
    assert progress.returns == [2.0] * 500
