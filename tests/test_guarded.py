"""A policy beside a fallback: against loops written by hand, in files, and on the command line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest

import fittedq
from fittedq.acting.guarded import Guarded
from fittedq.acting.status import ActingStatus
from fittedq.actions.base import Box
from fittedq.baselines import LQR, PID, Called, Constant, LinearModel, Loops, Tracked
from fittedq.baselines.saved import controller_as_saved, restored_controller
from fittedq.cli.main import main
from fittedq.control.augmentation import Augmentation
from fittedq.control.state import AugmentedState
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError

BOX = Box((-1.0,), (1.0,))
PI = PID(0.5, 0.1, tracked=Tracked(0, target=0.0), low=-1.0, high=1.0)

REGULATOR = LQR(np.ones((1, 1)), np.eye(1), np.zeros(2), np.zeros((2, 0)), (0,), (Tracked(0, target=0.0),), BOX)


class Drifting(gymnasium.Env[np.ndarray, np.ndarray]):
    """y' = y + 0.2 u + drift, r = −y²; the drift begins at the eighth sample and carries y off the data."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.y, self.time = float(self.np_random.uniform(-0.5, 0.5)), 0
        return np.array([self.y, 0.5], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.y += 0.2 * float(action[0]) + (0.15 if self.time >= 8 else 0.0)
        self.time += 1
        return np.array([self.y, 0.5], np.float32), -(self.y**2), False, self.time >= 30, {}


def log(rows: int = 600) -> Dataset:
    """The same plant without its drift, y led back to 0."""
    rng = np.random.default_rng(0)
    obs, action = np.full((rows + 1, 2), 0.5, np.float32), np.zeros((rows, 1), np.float32)
    for row in range(rows):
        action[row, 0] = np.clip(rng.normal(-obs[row, 0], 0.7), -1, 1)
        obs[row + 1, 0] = obs[row, 0] + 0.2 * action[row, 0]
    flags = np.zeros(rows, bool)
    return Dataset.from_arrays(
        obs=obs[:-1], action=action, reward=flags, next_obs=obs[1:], terminated=flags, action_low=-1, action_high=1
    )


def made(augmentation: Augmentation | None = None) -> fittedq.Agent:
    td3 = fittedq.TD3(hidden=(8,))
    state = None if augmentation is None else AugmentedState(augmentation, 2, BOX)
    size, box = (2, BOX) if state is None else (state.size, state.action_set)
    agent = fittedq.Agent(td3, size, box, td3.networks(size, box, jax.random.key(0)), augmented=state)
    agent.familiarity = fittedq.familiarity(agent, log())
    return agent


@pytest.fixture(scope="module")
def agent() -> fittedq.Agent:
    return made()


def with_guard(agent: fittedq.Agent, fallback: object, threshold: float = 0.05) -> fittedq.Agent:
    agent = copy.deepcopy(agent)
    agent.fallback, agent.threshold = fallback, threshold
    return agent


def by_hand(agent: fittedq.Agent, fallback: Any, threshold: float, seed: int) -> tuple[float, list[bool]]:
    """One episode of `evaluate`, sample by sample, and where the fallback acted; for agents without a memory."""
    env, total, strange = Drifting(), 0.0, []
    sequence = np.random.SeedSequence([2**31 + seed, 0])
    obs, _ = env.reset(seed=int(sequence.generate_state(1)[0]))
    before: tuple[Any, Any] = (None, None)
    last, loop, ended = np.zeros(1, np.float32), PI.loop(), False
    while not ended:
        relief = loop.act(obs)
        other = last if fallback == "hold" else relief if fallback == "pid" else fallback
        familiar = agent.familiar(obs, before=before[0], action=before[1])
        strange.append(bool(familiar < threshold))
        action = np.asarray(other if strange[-1] else agent.act_flat(obs[None])[0], np.float32)
        before, last = (obs, action), action
        obs, reward, _, ended, _ = env.step(action)
        total += reward
    return total, strange


@pytest.mark.parametrize(("fallback", "given"), [([-0.5], [-0.5]), ("hold", "hold"), ("pid", PI)])
def test_it_acts_as_a_loop_written_by_hand(agent: fittedq.Agent, fallback: Any, given: object) -> None:
    guarded = with_guard(agent, given)
    total, strange = by_hand(agent, fallback, 0.05, seed=0)
    (judged,) = guarded.judged(Drifting, 1, 0)
    assert 3 < sum(strange) < 28  # both have acted
    assert judged == pytest.approx((total, 30, sum(strange)), rel=1e-6)
    assert guarded.evaluate(Drifting, 1, 0)[0] == judged.total
    assert agent.evaluate(Drifting, 1, 0)[0] != judged.total
    controller = guarded.controller()
    assert isinstance(controller, Guarded)
    assert controller.evaluate(Drifting, 1, 0)[0] == judged.total


@pytest.mark.parametrize("increments", [False, True])
def test_an_agent_with_a_memory_goes_on_from_what_was_executed(increments: bool) -> None:
    agent = with_guard(made(Augmentation(history=2, increments=increments)), "hold")
    state, known, controller = agent.augmented, agent.familiarity, agent.controller()
    assert state is not None and known is not None
    rng, memory, seen = np.random.default_rng(0), controller.start(2), None
    last, acted = np.zeros((2, 1), np.float32), []
    for sample in range(20):
        obs = np.array([[0.1 * sample, 0.5], [-0.05 * sample, 0.5]], np.float32) + rng.normal(0, 0.01, (2, 2))
        obs = obs.astype(np.float32)
        seen = state.first(obs, last) if seen is None else state.after(seen, last, obs)
        strange = known(seen, known.past(seen) if sample else None) < 0.05
        wanted = np.where(strange[:, None], last, state.executed(seen, agent.act_flat(seen)))
        action, memory = controller.step(memory, obs)
        assert action == pytest.approx(wanted, abs=1e-6)
        last = np.asarray(action)
        acted.append(strange)
    assert 0 < np.mean(acted) < 1


def test_a_default_fallback_of_changes_holds() -> None:
    changes = made(Augmentation(increments=True))
    changes.threshold = 1.0
    controller = changes.guarded()
    memory = controller.start(1)._replace(executed=np.array([[0.3]], np.float32))
    assert controller.step(memory, np.array([[9.0, 9.0]], np.float32))[0][0, 0] == np.float32(0.3)


@pytest.mark.parametrize("fallback", [[-0.5], "hold", PI])
@pytest.mark.parametrize("history", [1, 2])
def test_the_loop_that_never_raises_does_the_same(agent: fittedq.Agent, history: int, fallback: object) -> None:
    one = with_guard(agent if history == 1 else made(Augmentation(history=history)), fallback)
    loop, controller, env = one.loop(), one.controller(), Drifting()
    obs, memory, found = env.reset(seed=0)[0], controller.start(1), []
    for _ in range(30):
        wanted, memory = controller.step(memory, obs[None])
        action, status = loop.step(obs)
        assert action == pytest.approx(wanted[0], abs=1e-6)
        assert (status == ActingStatus.UNFAMILIAR) == memory.taken_over[0]
        found.append(status)
        obs = env.step(action)[0]
    assert {ActingStatus.OK, ActingStatus.UNFAMILIAR} <= set(found)
    executed = action
    action, status = loop.step([np.nan, 0.0])
    assert status == ActingStatus.NOT_FINITE
    if fallback == "hold":
        assert action == executed
    if history == 1:  # the change over a reading that was lost is not judged, and this place is known
        assert loop.step([0.0, 0.5])[1] in (ActingStatus.OK, ActingStatus.LIMITED)


def test_no_export_forgets_a_fallback(agent: fittedq.Agent) -> None:
    assert agent.program().guard is None
    assert with_guard(agent, "hold").program().guard is not None


def test_act_takes_the_fallback_row_by_row(agent: fittedq.Agent) -> None:
    obs = np.array([[0.2, 0.5], [7.0, 0.5], [-0.3, 0.5]], np.float32)
    guarded = with_guard(agent, [0.25])
    assert np.array_equal(guarded.act(obs)[[0, 2]], agent.act(obs)[[0, 2]])
    assert guarded.act(obs)[1] == guarded.act(obs[1]) == np.float32(0.25)
    # What has no action of the policy's has a fallback.
    assert guarded.act([3e38, 3e38]) == np.float32(0.25)
    with pytest.raises(UserError, match="remembers what came before"):
        with_guard(agent, "hold").act(obs)


@pytest.mark.parametrize(
    "controller",
    [PI, Constant((0.5,)), Loops({0: PI}, (0.0,)), PID(1.0, tracked=Tracked(0, 1), low=0.0, high=1.0, filter_time=2.0)],
)
def test_controllers_come_back_from_their_numbers(controller: Any) -> None:
    assert restored_controller(json.loads(json.dumps(controller_as_saved(controller))), "here") == controller


@pytest.mark.parametrize(
    "saved",
    [
        {"kind": "LQR"},
        {**controller_as_saved(REGULATOR), "states": [0, 1]},
        {"kind": "PID", "kp": 1.0},
        {"kind": "PID", **controller_as_saved(PI), "kp": "1"},
        {**controller_as_saved(PI), "tracked": {"measured": "0", "target": 1.0}},
        {"kind": "Constant", "action": 3},
        {},
        [],
    ],
)
def test_damaged_controllers_are_told(saved: Any) -> None:
    with pytest.raises(UserError, match=r"here: its fallback is no controller.*damaged"):
        restored_controller(saved, "here")


@pytest.mark.parametrize("fallback", [[0.25], "hold", PI])
def test_it_is_saved_with_the_agent(agent: fittedq.Agent, fallback: object, tmp_path: Path) -> None:
    guarded = with_guard(agent, fallback)
    guarded.save(tmp_path / "agent")
    for other in (fittedq.load(tmp_path / "agent"), copy.deepcopy(guarded)):
        assert (other.fallback, other.threshold) == (fallback, 0.05)
        assert next(other.judged(Drifting, 1)) == next(guarded.judged(Drifting, 1))


def test_wrong_fallbacks_and_thresholds_are_sentences(agent: fittedq.Agent, tmp_path: Path) -> None:
    other = copy.deepcopy(agent)
    for wrong in (1.5, -0.1, float("nan"), "half"):
        with pytest.raises(UserError, match=r"threshold.*expected a number between 0 and 1"):
            other.threshold = wrong
    with pytest.raises(UserError, match="'hold' or a controller"):
        other.fallback = "stop"
    with pytest.raises(UserError, match="admissible action"):
        other.fallback = [4.0]
    other.fallback = Called(lambda obs: 0.0)
    with pytest.raises(UserError, match="no file of an agent holds code of yours"):
        other.save(tmp_path / "agent")
    assert not (tmp_path / "agent").exists()
    model = LinearModel.of_data(log(), [0])
    other.fallback = LQR.of(model, [1.0], [1.0], action_set=BOX)
    other.save(tmp_path / "agent")
    np.testing.assert_equal(
        controller_as_saved(fittedq.load(tmp_path / "agent").fallback), controller_as_saved(other.fallback)
    )
    other.familiarity, other.fallback = None, "hold"
    with pytest.raises(UserError, match="knows nothing of the data"):
        other.threshold = 0.05


def test_the_command_line_sets_counts_and_saves_it(
    agent: fittedq.Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    agent.save("agent")
    Path("mine.py").write_text(
        "import gymnasium, numpy as np\nfrom fittedq.baselines import PID, Tracked\n"
        "PI = PID(0.5, 0.1, tracked=Tracked(0, target=0.0), low=-1.0, high=1.0)\n"
        "from tests_drifting import Drifting\n"
    )
    monkeypatch.setitem(__import__("sys").modules, "tests_drifting", __import__("sys").modules[__name__])
    guarding = ["guard", "agent", "--threshold", "0.05", "--fallback", "mine.py:PI", "--out", "guarded"]
    assert main(guarding) == 0
    assert "PID(kp=0.5, ki=0.1, kd=0) acts where familiar is below 0.05" in capsys.readouterr().out
    assert main([*guarding, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("fallback").startswith("PID(kp=0.5")
    assert told == {"out": "guarded", "threshold": 0.05, "window": None}
    assert main(["inspect", "guarded", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["threshold"] == 0.05 and told["fallback"].startswith("PID(kp=0.5")
    expected = next(with_guard(agent, PI).judged(Drifting, 1, 0))
    for arguments in (["guarded"], ["agent", "--threshold", "0.05", "--fallback", "mine.py:PI"]):
        words = ["eval", *arguments, "--env", "mine.py:Drifting", "--episodes", "1", "--seed", "0"]
        for more in ([], ["--baseline", "constant:0"]):
            assert main([*words, "--json", *more]) == 0
            found = json.loads(capsys.readouterr().out)
            assert found["mean"] == pytest.approx(expected.total)
            assert found["fallback"]["share"] == pytest.approx(expected.fallbacks / 30)
            assert found["fallback"]["threshold"] == 0.05
    assert main(words) == 0
    share = f"{expected.fallbacks / 30:.1%}"
    assert f"the fallback, PID(kp=0.5, ki=0.1, kd=0), acted at {share} of the samples" in capsys.readouterr().out
    for wrong, sentence in (
        (["guard", "agent", "--out", "x"], "--threshold: found none"),
        (["guard", "agent", "--out", "x", "--threshold", "1.5"], "between 0 and 1"),
        (["guard", "agent", "--out", "x", "--fallback", "-0.5"], "no threshold below which it acts"),
        (["guard", "agent", "--out", "x", "--threshold", "0.1", "--fallback", "stop"], "expected numbers such as"),
        (["eval", "agent", "--env", "mine.py:Drifting", "--fallback", "hold"], "no threshold below which it acts"),
    ):
        assert main(wrong) == 2
        assert sentence in capsys.readouterr().err
    assert not Path("x").exists()
