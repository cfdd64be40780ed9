"""Acting in a loop: the environment's own shapes, what is refused, `step` that never raises, copies of agents."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import multiprocessing
import os
import pickle  # noqa: TID251 - users do
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fittedq
from fittedq import algorithms
from fittedq.acting.status import SENTENCES, ActingStatus
from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.mixed import Mixed
from fittedq.actions.polytope import Polytope
from fittedq.actions.state_box import StateBox
from fittedq.agent import Agent
from fittedq.approx.linear import Polynomial
from fittedq.data.statistics import RunningMoments
from fittedq.envs.gym import GymSource
from fittedq.envs.spaces import layout_of_space
from fittedq.errors import UserError
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from strange_envs import ACTIONS, OBSERVATIONS, REAL, Shaped

BOX = Box((-1.0, 0.0), (1.0, 4.0))
TINY: dict[str, Any] = {"hidden": (8,), "batch_size": 8, "replay_size": 200, "random_steps": 20}


def agent_for(env: Shaped) -> Agent:
    """An untrained agent of an environment's spaces."""
    source = GymSource(env)
    made = algorithms.find("ddpg")(hidden=(8,))
    nets = made.networks(source.obs_size, source.action_set, jax.random.PRNGKey(0))
    return Agent(made, source.obs_size, source.action_set, nets, spaces=source.spaces)


def agent_in(action_set: AbstractActionSet, size: int = 3, **more: Any) -> Agent:
    made = algorithms.find("td3")(hidden=(8,))
    return Agent(made, size, action_set, made.networks(size, action_set, jax.random.PRNGKey(1)), **more)


@pytest.fixture(scope="module")
def agent() -> Agent:
    return agent_in(BOX)


# ---------------------------------------------------------------------- the environment's shapes


@pytest.mark.parametrize(
    "env",
    [*(Shaped(observation=space) for space in OBSERVATIONS.values()), *(Shaped(action=s) for s in ACTIONS.values())],
    ids=[*OBSERVATIONS, *(f"action-{name}" for name in ACTIONS)],
)
def test_the_environment_takes_what_the_agent_makes_of_what_it_gives(env: Shaped, tmp_path: Path) -> None:
    agent = agent_for(env)
    agent.save(tmp_path / "agent")
    loaded = Agent.load(tmp_path / "agent")
    obs, _ = env.reset(seed=0)
    for _ in range(5):
        action, again = agent.act(obs), loaded.act(obs)
        stepped, status = loaded.step(obs)
        assert status == ActingStatus.OK
        np.testing.assert_array_equal(action, again)
        np.testing.assert_array_equal(action, stepped)
        assert action.dtype == again.dtype == stepped.dtype
        obs, *_ = env.step(action)
    assert env.action_space.contains(loaded.fallback)
    np.testing.assert_array_equal(agent.evaluate(env, 1), [5.0])


def test_structured_training_is_saved_resumed_and_acts(tmp_path: Path) -> None:
    env = Shaped(OBSERVATIONS["dict"], ACTIONS["matrix"])
    out = tmp_path / "run"
    trained = fittedq.train("ddpg", env, steps=30, eval_every=15, eval_episodes=1, out=out, **TINY)
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["eval_mean"] == 5.0
    for agent in (trained, fittedq.load(out), fittedq.resume(out, env=env, steps=40)):
        obs, _ = env.reset(seed=1)
        env.step(agent.act(obs))
        batch = {
            "speed": np.zeros((4, 2)),
            "gear": np.array([0, 1, 2, 0]),
            "wheels": (np.zeros((4, 2)), np.ones((4, 2, 2))),
        }
        assert agent.act(batch).shape == (4, 2, 3)
        assert agent.act_flat(np.zeros((4, agent.obs_size), np.float32)).shape == (4, 6)
        one = {key: _row(part, 2) for key, part in batch.items()}
        value = agent.value(batch, agent.act(batch))
        np.testing.assert_allclose(value[2], agent.value(one, agent.act(batch)[2]), rtol=1e-5, atol=1e-6)


def _row(value: Any, row: int) -> Any:
    return tuple(part[row] for part in value) if isinstance(value, tuple) else value[row]


# ---------------------------------------------------------------------- what is refused


NOT_NUMBERS = [None, "abc", ["1", "2", "3"], [None] * 3, [1, 2, 3j], object(), [[1, 2, 3], [1, 2]], {"a": 1}]
NOT_FINITE = [
    [0, np.nan, 0],
    [0, np.inf, 0],
    [0, -np.inf, 0],
    [0, 1e300, 0],
    np.ma.masked_array([0.0, 7, 0], [0, 1, 0]),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("obs", NOT_NUMBERS, ids=lambda obs: "object" if type(obs) is object else repr(obs))
def test_what_is_no_number_is_refused_and_stepped_over(obs: Any, agent: Agent) -> None:
    with pytest.raises(UserError, match="observation: found"):
        agent.act(obs)
    action, status = agent.step(obs)
    assert status == ActingStatus.MALFORMED
    assert action.tolist() == [0.0, 2.0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("obs", NOT_FINITE, ids=repr)
def test_what_is_not_finite_is_refused_by_name_everywhere(obs: Any, agent: Agent) -> None:
    for refuses in (
        lambda: agent.act(obs),
        lambda: agent.act([np.zeros(3), obs]),
        lambda: agent.act(obs, refine=2),
        lambda: agent.value(obs, [0, 0]),
        lambda: agent.gap(obs),
    ):
        with pytest.raises(UserError, match=r"observation\[1\] is (nan|-?inf)"):
            refuses()
    assert agent.step(obs)[1] == ActingStatus.NOT_FINITE


def test_value_names_the_actions_coordinate(agent: Agent) -> None:
    with pytest.raises(UserError, match=r"action\[1\] is nan"):
        agent.value(np.zeros(3), [0, np.nan])


@pytest.mark.parametrize("given", [{"refine": 2, "trust": np.nan}, {"refine": 2, "deadline": np.nan}])
def test_refinement_in_no_number_of_steps_is_refused(given: Any, agent: Agent) -> None:
    with pytest.raises(UserError, match=r"trust|deadline"):
        agent.act(np.zeros(3), **given)


def test_limits_of_refinement_are_checked_where_nothing_is_refined(agent: Agent) -> None:
    for given in ({"trust": -5}, {"trust": np.nan}, {"deadline": -1.0}):
        for act in (agent.act, agent.act_flat):
            with pytest.raises(UserError, match=r"(trust|deadline): found"):
                act(np.zeros((1, 3), np.float32), **given)
        with pytest.raises(UserError, match=r"^(trust|deadline): found"):
            agent.evaluate(lambda: Shaped(REAL), 1, refine=1, **given)


@pytest.mark.parametrize("name", ["evaluate", "episodes", "act"])
def test_an_argument_that_does_not_exist_is_refused_at_the_door(name: str, agent: Agent) -> None:
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'foo'"):
        inspect.signature(getattr(agent, name)).bind_partial(foo=3)


@pytest.mark.filterwarnings("error")
def test_numbers_that_overflow_on_the_way_are_told_or_harmless(agent: Agent) -> None:
    """(3e38 − 0) / 0.1 is no float32, whatever the networks say."""
    near = RunningMoments.start(3).update(np.float32(0.1) * np.array([[-1.0], [1.0]], np.float32).repeat(3, 1))
    huge, action = np.full(3, 3e38), np.zeros(2)
    for one in (agent, agent_in(BOX, moments=near)):
        for tells in (lambda one=one: one.act(huge), lambda one=one: one.value(huge, action)):
            with contextlib.suppress(UserError):
                assert np.isfinite(tells()).all()
        assert one.step(huge)[1] in (ActingStatus.OK, ActingStatus.FAILED)


def endless() -> list[Any]:
    """A list that holds itself."""
    loop: list[Any] = [0.0, 1.0]
    loop.append(loop)
    return loop


class Hostile:
    """Raises from whatever is asked of it."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise ZeroDivisionError

    def __len__(self) -> int:
        raise ZeroDivisionError


class Locked(dict[str, Any]):
    """Its values cannot be read."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("locked")


def test_what_raises_when_it_is_read_is_refused(agent: Agent) -> None:
    for obs in (Hostile(), [Hostile()], endless(), [endless()]):
        with pytest.raises(UserError, match="observation: found"):
            agent.act(obs)
    layout = layout_of_space(OBSERVATIONS["dict"])
    with pytest.raises(UserError, match="observation: reading its keys raised RuntimeError: locked; expected a dict"):
        layout.read_flat(Locked(OBSERVATIONS["dict"].sample()), "observation")


@pytest.mark.parametrize(
    "obs", [Hostile(), [Hostile()], np.zeros((2, 3)), np.zeros(4), np.zeros((0, 3)), np.zeros((1, 1, 3)), [], ()]
)
def test_a_step_never_raises(obs: Any, agent: Agent) -> None:
    action, status = agent.step(obs)
    assert status == ActingStatus.MALFORMED
    assert action.tolist() == [0.0, 2.0]
    assert status.sentence == SENTENCES[status]


def test_a_policy_without_a_finite_action_fails_in_words_and_steps_to_the_fallback() -> None:
    broken = agent_in(BOX)
    broken = Agent(broken.algorithm, 3, BOX, jax.tree.map(lambda leaf: leaf * np.float32(np.nan), broken.nets))
    with pytest.raises(UserError, match="the policy's action is"):
        broken.act(np.zeros(3))
    action, status = broken.step(np.zeros(3))
    assert (action.tolist(), status) == ([0.0, 2.0], ActingStatus.FAILED)


def test_every_status_has_its_sentence() -> None:
    assert set(SENTENCES) == set(ActingStatus)


# ---------------------------------------------------------------------- the fallback


def low(obs: Any) -> Any:
    return np.stack([obs[:, 0], obs[:, 0] - 1], axis=1)


def high(obs: Any) -> Any:
    return np.stack([obs[:, 0] + 0.25, obs[:, 0] + 1], axis=1)


TRIANGLE = Polytope((0.0, 0.0), (1.0, 1.0), np.array([[1.0, 1.0]]), np.array([0.5]))


@pytest.mark.parametrize(
    "action_set", [BOX, TRIANGLE, Mixed(BOX, (0,)), Mixed(Box((-1.0, 0.0), (2.0, 1.0)), (0,))], ids=repr
)
def test_the_fallback_is_admissible(action_set: AbstractActionSet) -> None:
    agent = agent_in(action_set)
    for obs in (None, [np.nan] * 3, np.zeros(7)):
        action, _ = agent.step(obs)
        assert action_set.contains(action[None], np.zeros((1, 3), np.float32)).all()


def test_where_bounds_depend_on_the_state_the_fallback_follows_them_as_far_as_they_are_known() -> None:
    limits = StateBox(low, high, Box((-5.0, -5.0), (5.0, 5.0)))
    agent = agent_in(limits)
    assert agent.step([2.0, np.nan, 0.0])[0].tolist() == [2.0, 1.0], "bounds that do not read the dead sensor hold"
    assert agent.step([np.nan, 0.0, 0.0])[0].tolist() == [0.0, 0.0]
    assert agent.step(None)[0].tolist() == [0.0, 0.0]
    agent.fallback = [5.0, -5.0]
    assert agent.step([2.0, np.inf, 0.0])[0].tolist() == [2.25, 1.0]


def test_the_users_fallback_is_checked_taken_and_saved(tmp_path: Path) -> None:
    agent = agent_in(BOX, fallback=[0.5, 4.0])
    assert agent.step(None)[0].tolist() == [0.5, 4.0]
    agent.save(tmp_path / "agent")
    assert Agent.load(tmp_path / "agent").step(None)[0].tolist() == [0.5, 4.0]
    for wrong in ([0.5, 4.1], [np.nan, 1.0], [0.5], None, "stop", [[0.5, 4.0], [0.5, 4.0]]):
        with pytest.raises(UserError, match="fallback"):
            agent.fallback = wrong
    assert agent.fallback.tolist() == [0.5, 4.0]
    # A decimal number that has no float32 is the admissible number next to it.
    assert BOX.contains(agent_in(Box((-0.1,), (0.1,)), fallback=[0.1]).fallback[None], np.zeros((1, 3))) is not None
    with pytest.raises(UserError, match="expected an admissible action; the nearest is"):
        agent_in(TRIANGLE, fallback=[0.5, 0.5])


# ---------------------------------------------------------------------- copies and other processes


def test_a_pickled_or_copied_agent_is_the_same(agent: Agent) -> None:
    seen = np.random.default_rng(0).normal(2, 3, (40, 3)).astype(np.float32)
    sac = algorithms.find("sac")(hidden=(8,))
    nets = sac.networks(3, BOX, jax.random.PRNGKey(2))
    normalized = Agent(sac, 3, BOX, nets, RunningMoments.start(3).update(seen), "Pendulum-v1", fallback=[1, 1])
    for made in (agent, normalized):
        for twin in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), copy.copy(made)):  # noqa: S301
            np.testing.assert_array_equal(twin.act(seen), made.act(seen))
            np.testing.assert_array_equal(twin.value(seen, twin.act(seen)), made.value(seen, made.act(seen)))
            assert (repr(twin), twin.fallback.tolist()) == (repr(made), made.fallback.tolist())


def test_the_bytes_of_an_agent_name_no_code_but_its_own(agent: Agent) -> None:
    import pickletools

    named = [value for operation, value, _ in pickletools.genops(pickle.dumps(agent)) if operation.name == "GLOBAL"]
    strings = [value for operation, value, _ in pickletools.genops(pickle.dumps(agent)) if "UNICODE" in operation.name]
    assert named == []
    assert strings[:2] == ["fittedq.agent", "_from_bytes"], "the only thing an unpickler calls"


def test_an_agent_with_code_says_what_its_bytes_lack() -> None:
    limited = agent_in(StateBox(low, high, Box((-5.0, -5.0), (5.0, 5.0))))
    with pytest.raises(UserError, match="action_set is code"):
        pickle.dumps(limited)
    made = algorithms.find("explicit_fqi")(features=Polynomial(2))
    featured = Agent(made, 3, BOX, made.networks(3, BOX, jax.random.PRNGKey(0)))
    with pytest.raises(UserError, match="features is code"):
        pickle.dumps(featured)
    for one in (limited, featured):
        np.testing.assert_array_equal(copy.deepcopy(one).act(np.ones(3)), one.act(np.ones(3)))


def _acted(agent: Agent, queue: Any) -> None:
    queue.put(agent.act([0.1, 0.2, 0.3]).tolist())


@pytest.mark.slow
def test_an_agent_crosses_to_a_spawned_process(agent: Agent) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_acted, args=(agent, queue))
    process.start()
    assert queue.get(timeout=120) == agent.act([0.1, 0.2, 0.3]).tolist()
    process.join()


# JAX warns of any fork: that is what this is about.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_after_a_fork_the_policy_acts_and_what_needs_jax_says_so(agent: Agent, tmp_path: Path) -> None:
    expected = agent.act([0.1, 0.2, 0.3])
    agent.act([0.1, 0.2, 0.3], refine=1)
    child = os.fork()
    if child == 0:  # whatever happens here must end here
        signal.alarm(20)
        said = ""
        try:
            assert np.array_equal(agent.act([0.1, 0.2, 0.3]), expected)
            for needs in (
                lambda: agent.act([0.1, 0.2, 0.3], refine=1),
                lambda: agent.gap([0.1, 0.2, 0.3]),
                lambda: agent.evaluate("jax/Pendulum-v1", 1),
            ):
                try:
                    needs()
                except UserError as error:
                    said += f"{error}\n"
            (tmp_path / "said").write_text(said)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "it hung or crashed"
    assert (tmp_path / "said").read_text().count("do not survive a fork; start the process with spawn") == 3


@pytest.mark.slow
def test_a_fork_before_jax_runs_takes_nothing_away(agent: Agent, tmp_path: Path) -> None:
    agent.save(tmp_path / "agent")
    script = (
        "import os, signal, sys, fittedq.api\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(100)\n"
        "    fittedq.load(sys.argv[1]).act([0.1, 0.2, 0.3], refine=1)\n"
        "    os._exit(0)\n"
        "sys.exit(os.waitpid(child, 0)[1] != 0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "agent")], check=True, timeout=120)


def test_agents_and_runs_say_what_they_are(agent: Agent) -> None:
    assert repr(agent) == "Agent(td3: 3 observation numbers, actions between [-1.0, 0.0] and [1.0, 4.0])"
    assert "\n" not in repr(agent_in(TRIANGLE))
    assert "(Polytope)" in repr(agent_in(TRIANGLE))
    env = Shaped(REAL)
    rows = fittedq.Transition(*(np.zeros(shape, np.float32) for shape in ((4, 3), (4, 2), 4, (4, 3), 4, 4)))
    data = fittedq.Dataset.from_arrays(**rows._asdict(), action_low=-1, action_high=1)
    assert repr(data) == "Dataset(4 transitions of 3 observation and 2 action numbers, in memory)"
    run = Run("ddpg", env, Schedule(30), settings=TINY)
    assert repr(run) == "Run(ddpg on an environment of its own, seed 0: step 0 of 30, no folder)"
