"""Collection from Gymnasium: true transitions in every autoreset mode, clear refusals, exact replay of state."""

from __future__ import annotations

import importlib.util
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from fittedq.algorithms import find
from fittedq.envs.gym import GymSource, VectorStep, make_env
from fittedq.errors import UserError
from fittedq.trainers.host import HostTrainer
from fittedq.trainers.settings import TrainSettings
from fittedq.types import Transition

needs_mujoco = pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="mujoco is not installed")


class Counting(gymnasium.Env):
    """Observes [episode's number, steps taken]; the reward is the steps taken. Ends after `length` steps."""

    def __init__(self, length: int = 3, truncates: bool = False):
        self.observation_space = spaces.Box(-100, 100, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.length, self.truncates = length, truncates
        self.episode, self.time = -1, 0
        self.actions: list[np.ndarray] = []

    def _observe(self) -> Any:
        return np.array([self.episode, self.time], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> Any:
        self.actions.append(np.array(action))
        self.time += 1
        end = self.time == self.length
        return self._observe(), self._reward(), end and not self.truncates, end and self.truncates, {}

    def _reward(self) -> float:
        return float(self.time)


def counting_three() -> Counting:
    return Counting(3)


def counting_truncated() -> Counting:
    return Counting(2, truncates=True)


def collect(source: GymSource, steps: int) -> tuple[list[dict[str, Any]], list[float]]:
    """(every valid transition with its environment, every return) of `steps` vector steps."""
    rows, returns = [], []
    for _ in range(steps):
        obs = source.obs
        step = source.step(np.zeros((source.n_envs, source.action_set.size), np.float32))
        returns += step.returns
        rows += [
            {
                "env": index,
                "obs": obs[index].tolist(),
                "next_obs": step.next_obs[index].tolist(),
                "reward": float(step.reward[index]),
                "ends": (bool(step.terminated[index]), bool(step.truncated[index])),
            }
            for index in np.flatnonzero(step.valid)
        ]
    return rows, returns


def assert_true_transitions(rows: list[dict[str, Any]], length: int, truncates: bool, episodes: int) -> None:
    """Of one environment: each episode counts up from 0 to `length`, without a gap and without a reset in between."""
    end = (not truncates, truncates)
    first = rows[0]["obs"][0]
    expected = [
        {
            "env": rows[0]["env"],
            "obs": [first + episode, time],
            "next_obs": [first + episode, time + 1],
            "reward": time + 1,
            "ends": end if time + 1 == length else (False, False),
        }
        for episode in range(episodes)
        for time in range(length)
    ]
    assert rows == expected


# ---------------------------------------------------------------------- environments made here


@pytest.mark.parametrize("truncates", [False, True], ids=["terminated", "truncated"])
def test_one_environment_gives_the_true_last_observation_and_then_the_reset_one(truncates: bool) -> None:
    source = GymSource(Counting(3, truncates))
    rows, returns = collect(source, 6)
    assert_true_transitions(rows, 3, truncates, episodes=2)
    assert returns == [6.0, 6.0]
    assert source.obs.tolist() == [[2, 0]]


def test_several_environments_keep_their_own_episodes() -> None:
    lengths = iter([2, 3])
    source = GymSource(lambda: Counting(next(lengths)), n_envs=2)
    rows, returns = collect(source, 6)
    assert_true_transitions([row for row in rows if row["env"] == 0], 2, False, episodes=3)
    assert_true_transitions([row for row in rows if row["env"] == 1], 3, False, episodes=2)
    assert sorted(returns) == [3.0, 3.0, 3.0, 6.0, 6.0]


# JAX warns of any fork; the children never call it.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_asynchronous_environments_give_the_same_transitions() -> None:
    source = GymSource(counting_three, n_envs=2, asynchronous=True)
    try:
        rows, returns = collect(source, 6)
    finally:
        source.close()
    for index in range(2):
        assert_true_transitions([row for row in rows if row["env"] == index], 3, False, episodes=2)
    assert returns == [6.0] * 4


def test_equal_seeds_give_equal_episodes_and_environments_differ_from_one_another() -> None:
    first, second, other = (GymSource("Pendulum-v1", n_envs=2, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.obs, second.obs)
    assert not np.array_equal(first.obs, other.obs)
    assert not np.array_equal(first.obs[0], first.obs[1])


# ---------------------------------------------------------------------- vector environments handed in


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
@pytest.mark.parametrize("truncates", [False, True], ids=["terminated", "truncated"])
@pytest.mark.parametrize("copy", [True, False], ids=["copied", "shared-buffer"])
def test_a_vector_environment_gives_true_transitions_in_each_autoreset_mode(
    mode: AutoresetMode, truncates: bool, copy: bool
) -> None:
    vector = SyncVectorEnv(
        [lambda: Counting(2, truncates), lambda: Counting(3, truncates)], autoreset_mode=mode, copy=copy
    )
    source = GymSource(vector)
    # In NEXT_STEP mode each end costs a step that only resets.
    steps = {0: 9, 1: 8} if mode == AutoresetMode.NEXT_STEP else {0: 6, 1: 6}
    rows, returns = collect(source, max(steps.values()))
    for index, length in enumerate((2, 3)):
        own = [row for row in rows if row["env"] == index]
        episodes = len(own) // length
        assert episodes >= 2
        assert_true_transitions(own[: episodes * length], length, truncates, episodes)
    assert set(returns) == {3.0, 6.0}


def test_the_reset_step_of_next_step_mode_is_no_transition() -> None:
    source = GymSource(SyncVectorEnv([lambda: Counting(2)], autoreset_mode=AutoresetMode.NEXT_STEP))
    valid = [bool(source.step(np.zeros((1, 1), np.float32)).valid[0]) for _ in range(6)]
    assert valid == [True, True, False, True, True, False]


def test_the_reset_step_of_next_step_mode_is_not_stored() -> None:
    vector = SyncVectorEnv([lambda: Counting(2)], autoreset_mode=AutoresetMode.NEXT_STEP)
    trainer = tiny_trainer(GymSource(vector), random_steps=100)
    trainer.advance(9)
    stored = Transition.unpack(trainer.snapshot().rows["replay"].all(), 2, 1)
    assert stored.obs[:, 1].tolist() == [0, 1] * 3
    assert stored.next_obs[:, 1].tolist() == [1, 2] * 3


def test_a_vector_environment_with_dictionaries_gives_flat_rows_in_each_autoreset_mode() -> None:
    for mode in AutoresetMode:
        source = GymSource(SyncVectorEnv([DictObservation, DictObservation], autoreset_mode=mode))
        steps = [source.step(np.zeros((2, 1), np.float32)) for _ in range(51)]
        assert steps[0].next_obs.tolist() == [[1, -1, 0.5]] * 2
        assert steps[49].terminated.all()
        assert steps[49].next_obs.tolist() == [[50, -50, 0.5]] * 2, "the true last observation"


# ---------------------------------------------------------------------- exploration and what is stored


def tiny_trainer(source: GymSource, algorithm: str = "ddpg", **settings: Any) -> HostTrainer:
    loop = {"batch_size": 4, "replay_size": 1000, "random_steps": 1, "updates_per_step": 0.001} | settings
    return HostTrainer(find(algorithm)(hidden=(8,)), source, TrainSettings(**loop), seed=0)


def test_correlated_noise_starts_at_zero_in_each_episode() -> None:
    trainer = tiny_trainer(GymSource(Counting(4)))
    trainer.advance(3)
    assert np.all(trainer.snapshot()[0]["noise"] != 0)
    trainer.advance(1)
    assert np.all(trainer.snapshot()[0]["noise"] == 0)


def test_correlated_noise_starts_at_zero_after_the_reset_step_of_next_step_mode() -> None:
    trainer = tiny_trainer(GymSource(SyncVectorEnv([lambda: Counting(4)], autoreset_mode=AutoresetMode.NEXT_STEP)))
    trainer.advance(3)
    assert np.all(trainer.snapshot()[0]["noise"] != 0)
    trainer.advance(2)
    assert np.all(trainer.snapshot()[0]["noise"] == 0)


class Robot(Counting):
    """A [2, 2] action box whose bounds have no float32."""

    def __init__(self) -> None:
        super().__init__(5)
        self.action_space = spaces.Box(
            np.array([[-0.1, 0.3], [-7.0, 2.0]]), np.array([[0.7, 0.4], [7.0, 2.1]]), dtype=np.float64
        )


@pytest.mark.parametrize("algorithm", ["ddpg", "sac"])
def test_stored_actions_are_the_executed_ones_and_lie_inside_the_box(algorithm: str) -> None:
    env = Robot()
    settings = {"noise_sigma": 5.0} if algorithm == "ddpg" else {}
    loop = TrainSettings(batch_size=4, replay_size=1000, random_steps=20, updates_per_step=0.001)
    trainer = HostTrainer(find(algorithm)(hidden=(8,), **settings), GymSource(env), loop, seed=0)
    trainer.advance(60)
    stored = Transition.unpack(trainer.snapshot().rows["replay"].all(), 2, 4).action
    executed = np.array(env.actions)
    assert executed.shape == (60, 2, 2)
    np.testing.assert_array_equal(stored, executed.reshape(60, 4))
    assert all(env.action_space.contains(action) for action in env.actions)
    assert len(np.unique(stored[:, 0])) > 5


def test_pendulum_actions_use_the_whole_of_plus_minus_two() -> None:
    source = GymSource("Pendulum-v1")
    assert (source.action_set.low, source.action_set.high) == ((-2.0,), (2.0,))
    trainer = tiny_trainer(source, random_steps=300)
    trainer.advance(300)
    action = Transition.unpack(trainer.snapshot().rows["replay"].all(), 3, 1).action
    assert action.min() < -1.9
    assert action.max() > 1.9
    assert np.abs(action).max() <= 2


# ---------------------------------------------------------------------- observation spaces


class DictObservation(Counting):
    def __init__(self, broken_at: int | None = None):
        super().__init__(50)
        self.observation_space = spaces.Dict(
            position=spaces.Box(-100, 100, (2,), np.float32), speed=spaces.Box(-1, 1, (1,), np.float32)
        )
        self.broken_at = broken_at

    def _observe(self) -> Any:
        speed = np.nan if self.time == self.broken_at else 0.5
        return {"position": np.array([self.time, -self.time], np.float32), "speed": np.array([speed], np.float32)}


class IntegerObservation(Counting):
    def __init__(self) -> None:
        super().__init__(3)
        self.observation_space = spaces.Box(0, 100, (2,), np.int64)

    def _observe(self) -> Any:
        return np.array([self.episode, self.time], np.int64)


class ImageObservation(Counting):
    def __init__(self) -> None:
        super().__init__(3)
        self.observation_space = spaces.Box(-100, 100, (2, 2), np.float32)

    def _observe(self) -> Any:
        return np.array([[self.time, 1], [2, 3]], np.float32)


def test_a_dict_observation_is_flattened_in_the_order_of_its_keys() -> None:
    source = GymSource(DictObservation())
    assert source.obs_size == 3
    assert source.step(np.zeros((1, 1), np.float32)).next_obs.tolist() == [[1, -1, 0.5]]


def test_nan_in_a_dict_observation_names_its_key_and_the_step() -> None:
    source = GymSource(DictObservation(broken_at=3))
    collect(source, 2)
    with pytest.raises(UserError, match=r"DictObservation, step 3: observation\['speed'\]\[0\] is nan"):
        collect(source, 1)


def test_integer_observations_become_float32() -> None:
    source = GymSource(IntegerObservation())
    assert source.obs.dtype == np.float32
    rows, _ = collect(source, 3)
    assert_true_transitions(rows, 3, False, episodes=1)
    assert source.step(np.zeros((1, 1), np.float32)).next_obs.dtype == np.float32


def test_a_shaped_observation_is_flattened() -> None:
    assert GymSource(ImageObservation()).step(np.zeros((1, 1), np.float32)).next_obs.tolist() == [[1, 1, 2, 3]]


# ---------------------------------------------------------------------- action spaces


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), r"dimension 0 is \[-inf, inf\], expected finite numbers"),
        (spaces.Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32)), r"dimension 1 is \[0.0, inf\]"),
        (spaces.Box(np.array([-1, 1], np.float32), np.array([1, 1], np.float32)), "dimension 1 .*expected low < high"),
        (spaces.Discrete(4), r"found Discrete\(4\), expected a Box of continuous actions"),
        (spaces.MultiDiscrete([2, 2]), "expected a Box of continuous actions"),
        (spaces.Box(0, 5, (1,), np.int32), "found a Box of int32, expected a float dtype"),
    ],
    ids=["infinite", "half-infinite", "single-point", "discrete", "multi-discrete", "integer-box"],
)
@pytest.mark.parametrize("vector", [False, True], ids=["env", "vector"])
def test_an_action_space_that_is_no_finite_box_is_refused(space: spaces.Space, sentence: str, vector: bool) -> None:
    def made() -> Counting:
        env = Counting()
        env.action_space = space
        return env

    with pytest.raises(UserError, match=sentence):
        GymSource(SyncVectorEnv([made]) if vector else made())


# ---------------------------------------------------------------------- faults in the middle of a run


class Faulty(Counting):
    """Right until step 4, then one fault."""

    def __init__(self, fault: str):
        super().__init__(50)
        self.fault = fault

    def _observe(self) -> Any:
        obs = super()._observe()
        if self.time < 4:
            return obs
        if self.fault == "nan observation":
            obs[1] = np.nan
        return np.append(obs, 0) if self.fault == "shape" else obs

    def _reward(self) -> float:
        return float({"nan reward": np.nan, "infinite reward": -np.inf}.get(self.fault, 1)) if self.time == 4 else 1.0


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("shape", r"environment Faulty, step 4: observation: found shape \(3,\), expected \(2,\)\."),
        ("nan observation", r"environment Faulty, step 4: observation\[1\] is nan"),
        ("nan reward", r"environment Faulty, step 4: reward is nan"),
        ("infinite reward", r"environment Faulty, step 4: reward is -inf"),
    ],
)
def test_a_fault_in_the_environment_names_what_and_when(fault: str, sentence: str) -> None:
    source = GymSource(Faulty(fault))
    collect(source, 3)
    with pytest.raises(UserError, match=sentence):
        collect(source, 1)


def test_a_fault_in_one_of_several_environments_says_in_which() -> None:
    faults = iter(["none", "nan reward"])
    source = GymSource(lambda: Faulty(next(faults)), n_envs=2)
    with pytest.raises(UserError, match="step 8: reward of sub-environment 1 is nan"):
        collect(source, 4)


class NanAfterReset(Counting):
    """The first observation of its `bad`-th episode is NaN."""

    def __init__(self, bad: int):
        super().__init__(2)
        self.bad = bad

    def _observe(self) -> Any:
        obs = super()._observe()
        return obs * np.nan if self.episode == self.bad and self.time == 0 else obs


@pytest.mark.parametrize("bad", [0, 1], ids=["first-reset", "later-reset"])
@pytest.mark.parametrize("mode", [None, *AutoresetMode], ids=lambda mode: "env" if mode is None else mode.name)
def test_nan_in_a_first_observation_is_found_at_the_reset(bad: int, mode: AutoresetMode | None) -> None:
    env = NanAfterReset(bad) if mode is None else SyncVectorEnv([lambda: NanAfterReset(bad)], autoreset_mode=mode)
    with pytest.raises(UserError, match=("step 0" if bad == 0 else "step [23]") + r": observation\[0\] is nan"):
        collect(GymSource(env), 3)


def test_a_policy_that_diverged_is_not_blamed_on_the_environment() -> None:
    source = GymSource("Pendulum-v1")
    with pytest.raises(UserError, match=r"action is not finite at step 1.*learning"):
        source.step(np.full((1, 1), np.nan, np.float32))


def test_an_unknown_id_offers_the_nearest() -> None:
    with pytest.raises(UserError, match="'Pendulum-v7' is unknown; did you mean 'Pendulum-v1'"):
        make_env("Pendulum-v7")


def test_a_callable_that_makes_no_environment_is_refused() -> None:
    with pytest.raises(UserError, match=r"returned int, expected a gymnasium\.Env"):
        make_env(lambda: 3)


class Unrecorded(gymnasium.Wrapper):
    """A wrapper that a spec cannot make again, as most users' are."""


def test_a_wrapped_environment_is_made_again_with_its_wrapper() -> None:
    made = make_env(Unrecorded(gymnasium.make("Pendulum-v1")))
    assert isinstance(made, Unrecorded)


# ---------------------------------------------------------------------- exact replay of state


def play(source: GymSource, steps: int, seed: int) -> list[VectorStep]:
    rng = np.random.default_rng(seed)
    low, high = np.array(source.action_set.low), np.array(source.action_set.high)
    return [source.step(rng.uniform(low, high, (source.n_envs, len(low))).astype(np.float32)) for _ in range(steps)]


def assert_same(first: list[VectorStep], second: list[VectorStep]) -> None:
    for before, after in zip(first, second, strict=True):
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)


def assert_restores_exactly(make: Any, steps: int) -> None:
    """A new source that takes a snapshot back continues as the one that gave it."""
    source, copy = make(), make()
    try:
        play(source, steps, seed=1)
        arrays, meta = source.snapshot()
        assert copy.restore({name: array.copy() for name, array in arrays.items()}, meta)
        np.testing.assert_array_equal(copy.obs, source.obs)
        assert copy.steps == source.steps
        assert_same(play(source, 250, seed=2), play(copy, 250, seed=2))
        np.testing.assert_array_equal(copy.obs, source.obs)
    finally:
        source.close()
        copy.close()


@pytest.mark.parametrize("steps", [0, 1, 130, 200, 230], ids=lambda steps: f"after{steps}")
def test_pendulum_comes_back_exactly(steps: int) -> None:
    assert_restores_exactly(lambda: GymSource("Pendulum-v1", seed=3), steps)


@needs_mujoco
@pytest.mark.parametrize("n_envs", [1, 3])
def test_hopper_comes_back_exactly_with_episodes_of_different_length(n_envs: int) -> None:
    source = GymSource("Hopper-v5", n_envs=n_envs, seed=2)
    play(source, 77, seed=1)
    lengths = {len(source.snapshot()[0][f"history{index}"]) for index in range(n_envs)}
    assert len(lengths) == n_envs
    assert_restores_exactly(lambda: GymSource("Hopper-v5", n_envs=n_envs, seed=2), 77)


@pytest.mark.parametrize("offset", range(4))
def test_several_environments_come_back_exactly_at_every_phase(offset: int) -> None:
    def make() -> GymSource:
        # Each ends at its own time, so that some have just begun an episode.
        limits = iter([3, 4, 7])
        return GymSource(
            lambda: gymnasium.wrappers.TimeLimit(gymnasium.make("Pendulum-v1"), next(limits)), n_envs=3, seed=1
        )

    assert_restores_exactly(make, 12 + offset)


def test_a_vector_environment_without_autoreset_comes_back_exactly() -> None:
    def make() -> GymSource:
        makers = [
            lambda: gymnasium.wrappers.TimeLimit(gymnasium.make("Pendulum-v1"), 5),
            lambda: gymnasium.wrappers.TimeLimit(gymnasium.make("Pendulum-v1"), 8),
        ]
        return GymSource(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED), seed=1)

    assert_restores_exactly(make, 21)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP], ids=lambda mode: mode.name)
def test_a_vector_environment_with_its_own_autoreset_says_that_new_episodes_begin(mode: AutoresetMode) -> None:
    source, copy = (GymSource(SyncVectorEnv([counting_three], autoreset_mode=mode)) for _ in range(2))
    collect(source, 2)
    collect(copy, 3)
    assert not copy.restore(*source.snapshot())
    rows, returns = collect(copy, 3)
    assert_true_transitions(rows, 3, False, episodes=1)
    assert returns == [6.0]


class Unseeded(Counting):
    """Not a function of its seed."""

    def _observe(self) -> Any:
        return np.array([np.random.default_rng().uniform(), self.time], np.float32)


def test_an_environment_that_ignores_its_seed_begins_new_episodes_and_says_so() -> None:
    source, copy = GymSource(Unseeded(5)), GymSource(Unseeded(5))
    collect(source, 2)
    assert not copy.restore(*source.snapshot())
    assert copy.obs[0, 1] == 0
    _, returns = collect(copy, 5)
    assert returns == [15.0]


def test_a_snapshot_of_other_environments_is_refused() -> None:
    arrays, meta = GymSource("Pendulum-v1", n_envs=2).snapshot()
    with pytest.raises(UserError, match="2 environments"):
        GymSource("Pendulum-v1", n_envs=3).restore(arrays, meta)
