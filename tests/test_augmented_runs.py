"""Training, acting and files of controllers that see more than an observation and move by changes."""

import copy

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import fittedq
from fittedq.actions.base import Box
from fittedq.cli.environments import AugmentsState, seconds
from fittedq.cli.main import main
from fittedq.control.augmentation import Augmentation
from fittedq.control.episodes import AugmentedRows
from fittedq.control.state import AugmentedState
from fittedq.data.dataset import Dataset
from fittedq.envs.augmented import AugmentedEnv, AugmentedSource
from fittedq.envs.gym import GymSource
from fittedq.envs.native import Pendulum
from fittedq.errors import UserError
from fittedq.settings import setting_fields
from fittedq.trainers.settings import FitSettings, TrainSettings

SEES = {"history": 3, "rate_limit": (0.5,), "change_penalty": 0.1}
SMALL = {"hidden": (8,), "random_steps": 20, "batch_size": 8, "replay_size": 1000}
STATE = AugmentedState(Augmentation(history=3, rate_limit=(0.5,), change_penalty=0.1), 3, Box([-2.0], [2.0]))


@pytest.fixture(scope="module")
def agent() -> fittedq.Agent:
    return fittedq.train("td3", "Pendulum-v1", steps=30, **SEES, **SMALL)


def taken(source, steps, seed=0):
    """(z, a, r, z', whether it is a transition) of the steps that a source takes under changes in A(z)."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(steps):
        seen = source.obs
        low, high = source.action_set.bounds(seen)
        action = rng.uniform(low, high).astype(np.float32)
        step = source.step(action)
        rows.append((seen, action, step.reward, step.next_obs, step.valid))
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


class Short(gymnasium.Env):
    """y' = y + u, r = −y², episodes of 4 samples; the first y depends on the episode."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.y, self.time = self.np_random.normal(size=1).astype(np.float32), 0
        return self.y.copy(), {}

    def step(self, action):
        self.y, self.time = self.y + action, self.time + 1
        return self.y.copy(), -float(self.y[0] ** 2), False, self.time == 4, {}


@pytest.mark.parametrize("vector", [None, *AutoresetMode])
def test_an_environment_remembers_as_the_state_does_and_forgets_at_ends(vector):
    made = Short if vector is None else SyncVectorEnv([Short], autoreset_mode=vector)
    state = AugmentedState(
        Augmentation(history=3, integral=("0=1",), rate_limit=(0.5,), change_penalty=2.0), 1, Box([-1], [1])
    )
    source = AugmentedSource(GymSource(made, seed=3), state)
    *columns, valid = taken(source, 15)
    obs, action, reward, next_obs = (column[valid] for column in columns)
    for row in range(len(obs)):
        if row % 4 == 0:
            expected = state.first(obs[row, :1])
        np.testing.assert_allclose(obs[row], expected, atol=1e-6)
        u = state.executed(expected, action[row])
        y = expected[:1] + u
        np.testing.assert_allclose(reward[row], -(y[0] ** 2) - state.cost(expected, action[row]), atol=1e-5)
        expected = state.after(expected, u, y)
        np.testing.assert_allclose(next_obs[row], expected, atol=1e-6)
    assert state.cost(obs, action).max() > 0.1


def test_a_compiled_environment_remembers_as_one_on_the_host():
    plain, key = Pendulum(), jax.random.key(1)
    env = AugmentedEnv(plain, STATE)
    inner = env.begin(jax.random.key(0))
    plant, seen = inner[0], np.asarray(inner[1])
    for change in (0.3, -0.5, 0.2):
        action = jnp.full(1, change)
        inner, reward, _ = env.transition(inner, action, key)
        u = STATE.executed(seen, np.asarray(action))
        plant, raw, _ = plain.transition(plant, jnp.asarray(u), key)
        cost = STATE.cost(seen, np.asarray(action))
        np.testing.assert_allclose(reward, raw - cost, rtol=1e-5)
        np.testing.assert_allclose(
            AugmentedEnv(plain, STATE, False).transition(inner, action, key)[1],
            plain.transition(plant, jnp.asarray(STATE.executed(inner[1], action)), key)[1],
            rtol=1e-5,
        )
        seen = STATE.after(seen, u, np.asarray(plain.observe(plant)))
        np.testing.assert_allclose(inner[1], seen, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("env", ["Pendulum-v1", pytest.param("jax/Pendulum-v1", marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_one_that_nobody_stopped(env, tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    fittedq.train("td3", env, steps=60, out=straight, **SEES, **SMALL)
    fittedq.train("td3", env, steps=30, out=stopped, **SEES, **SMALL)
    resumed = fittedq.resume(stopped, steps=60)
    whole = fittedq.load(straight / "last")
    assert resumed.augmented == whole.augmented == STATE
    for one, other in zip(jax.tree.leaves(resumed.nets), jax.tree.leaves(whole.nets), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match=r"set: a run keeps its history: it says what the networks see"):
        fittedq.resume(stopped, steps=70, set={"history": 4})


def test_an_agent_takes_its_memory_along(agent, tmp_path):
    agent.save(tmp_path / "agent")
    of_bytes, told = agent.__reduce__()
    again = [fittedq.load(tmp_path / "agent"), of_bytes(*told), copy.deepcopy(agent)]
    loops = [one.controller().loop() for one in (agent, *again)]
    env = gymnasium.make("Pendulum-v1")
    obs, before = env.reset(seed=0)[0], 0.0
    for _ in range(4):
        actions = [loop.act(obs) for loop in loops]
        assert all(np.array_equal(action, actions[0]) for action in actions)
        assert abs(actions[0][0] - before) <= 0.5 * (1 + 1e-6)
        obs, before = env.step(actions[0])[0], float(actions[0][0])
    for loop in loops:
        loop.reset()
        loop.act(obs)
    other = agent.controller(before=[1.5]).loop().act(obs)
    assert 1.0 - 1e-6 <= other[0] <= 2.0  # it goes on from what the plant runs with
    for use in (agent.act, agent.step):
        with pytest.raises(UserError, match="this agent remembers what came before"):
            use(obs)


def test_evaluation_is_in_the_rewards_of_the_environment_and_what_is_learned_from_is_not(agent):
    rows = agent.trajectory("Pendulum-v1", 1)
    episode = slice(0, 200)
    cost = np.asarray(STATE.cost(rows.obs[episode], rows.action[episode]))
    paid = float(np.sum(rows.reward[episode] + cost))
    np.testing.assert_allclose(agent.evaluate("Pendulum-v1", 1)[0], paid, rtol=1e-5)
    np.testing.assert_allclose(rows.action[episode], agent.act_flat(rows.obs[episode]), atol=1e-5)
    assert agent.action_set.contains(rows.action[episode], rows.obs[episode]).mean() > 0.99  # to the rounding of u₋
    gap = agent.gap(rows.obs[:2], tol=0.5)
    assert (gap.upper >= gap.lower).all()


def test_a_data_set_stays_raw_and_is_learned_from_as_it_is_seen():
    rng = np.random.default_rng(0)
    obs = rng.normal(93.0, 5.0, (41, 3)).astype(np.float32)
    columns = {
        "obs": obs[:-1],
        "action": rng.uniform(-2, 2, (40, 1)).astype(np.float32),
        "reward": rng.normal(size=40).astype(np.float32),
        "next_obs": obs[1:],
        "terminated": np.zeros(40, bool),
        "truncated": np.arange(40) == 39,
    }
    data = Dataset.from_arrays(**columns, action_low=-2.0, action_high=2.0)
    seen = data.augmented(STATE)
    rows = AugmentedRows(STATE, columns, np.zeros(1, np.int64))(slice(None))
    for one, other in zip(seen.transitions(slice(None)), rows, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(seen.columns["reward"], rows.reward)
    assert (seen.obs_size, data.obs_size, data.columns["obs"].shape) == (STATE.size, 3, (40, 3))
    agent = fittedq.fit("td3", data, steps=3, hidden=(8,), **SEES)
    assert agent.moments is not None and agent.augmented == STATE
    # The columns that the limits read keep their units: what is normalized would move the limits.
    states = rows.obs
    np.testing.assert_array_equal(agent.as_seen(rows).obs[:, 9:10], states[:, 9:10])
    assert abs(agent.as_seen(rows).obs[:, 0].mean()) < 0.1
    low, high = agent.action_set.bounds(states)
    assert ((agent.act_flat(states) >= low) & (agent.act_flat(states) <= high)).all()
    with pytest.raises(UserError, match="history: found 50, but the longest episode of the data has 40 samples"):
        fittedq.fit("td3", data, steps=3, history=50)


def test_the_discount_follows_from_the_settling_time(agent):
    learned = fittedq.train("td3", "Pendulum-v1", steps=1, settling=5.0, sample=0.05, **SMALL)
    np.testing.assert_allclose(learned.algorithm.discount**100, np.exp(-1))
    assert learned.augmented is None and agent.algorithm.discount == 0.99
    with pytest.raises(UserError, match=r"gamma: found 0.9 beside settling"):
        fittedq.train("td3", "Pendulum-v1", steps=1, settling=5.0, sample=0.05, gamma=0.9)


def test_a_history_longer_than_an_episode_is_refused():
    for env in ("Pendulum-v1", "jax/Pendulum-v1"):
        with pytest.raises(UserError, match="history: found 201, but an episode of the environment has at most 200"):
            fittedq.train("td3", env, steps=1, history=201)


def test_a_warm_start_sees_what_the_agent_saw(agent):
    with pytest.raises(UserError, match="start: the agent does not fit: it sees another history"):
        fittedq.train("td3", "Pendulum-v1", steps=1, start=agent, **{**SEES, "change_penalty": 0.2}, **SMALL)
    fittedq.train("td3", "Pendulum-v1", steps=1, start=agent, **SEES, **SMALL)


def test_flags_give_the_settings_of_their_names():
    flags = AugmentsState(history=4, error=("0:1",), rate_limit=(0.5,), settling="2min", sample="500ms")
    given = flags.assignments(["gamma=0.9"])
    assert given == {
        "gamma": 0.9,
        "history": 4,
        "error": ("0:1",),
        "rate_limit": (0.5,),
        "settling": 120.0,
        "sample": 0.5,
    }
    with pytest.raises(UserError, match="history: found it and --set for the same"):
        flags.assignments(["history=3"])
    for words in ("1x", "", "-3s", "s", "nan"):
        with pytest.raises(UserError, match=r"settling: found .* expected a time"):
            seconds(words, "settling")


def test_no_setting_of_training_or_of_a_method_has_a_name_of_these():
    names = {field.name for field in setting_fields(Augmentation)}
    taken = [*fittedq.algorithms.REGISTRY.values(), TrainSettings, FitSettings]
    assert not any(names & {field.name for field in setting_fields(cls)} for cls in taken)


@pytest.mark.parametrize(
    ("method", "env"), [("td3", "Pendulum-v1"), pytest.param("svg", "jax/Pendulum-v1", marks=pytest.mark.slow)]
)
def test_the_replay_of_a_run_is_imported_raw(method, env, tmp_path, capsys):
    more = {"dynamics": "env"} if method == "svg" else {}
    fittedq.train(method, env, steps=30, out=tmp_path / "run", **SEES, **SMALL, **more)
    assert main(["data", "import", str(tmp_path / "run"), "--out", str(tmp_path / "data")]) == 0
    data = Dataset.open(tmp_path / "data")
    rows = data.transitions(slice(None))
    assert (data.obs_size, data.action_size, len(data)) == (3, 1, 30)
    np.testing.assert_allclose(np.sum(rows.obs[:, :2] ** 2, axis=1), 1.0, rtol=1e-5)
    # The reward is the pendulum's own function of what is in the row, and its speed follows from the torque.
    angle, speed, torque = np.arctan2(rows.obs[:, 1], rows.obs[:, 0]), rows.obs[:, 2], rows.action[:, 0]
    np.testing.assert_allclose(rows.reward, -(angle**2 + 0.1 * speed**2 + 0.001 * torque**2), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        rows.next_obs[:, 2], np.clip(speed + (15 * np.sin(angle) + 3 * torque) * 0.05, -8, 8), rtol=1e-3, atol=1e-4
    )
    assert np.abs(np.diff(torque)).max() <= 0.5 * (1 + 1e-5)
