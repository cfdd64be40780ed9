"""How familiar the last samples are together: against brute force, new rows, another plant, and files."""

import copy
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fittedq
from fittedq.acting.recent import Recent, Seen, linked_rows
from fittedq.actions.base import Box
from fittedq.cli.main import main
from fittedq.control.augmentation import Augmentation
from fittedq.control.state import AugmentedState
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.trainers.rows import consecutive
from fittedq.types import Transition

BOX = Box((-1.0,), (1.0,))
WINDOW = 10


def log(rows: int, seed: int, gain: float = 0.5) -> Transition:
    """y' = 0.8 y + gain u + noise, u uniform and held for 5 samples."""
    rng = np.random.default_rng(seed)
    action = np.repeat(rng.uniform(-1, 1, rows // 5 + 1), 5)[:rows].astype(np.float32)
    obs = np.zeros((rows + 1, 1), np.float32)
    for row in range(rows):
        obs[row + 1] = 0.8 * obs[row] + gain * action[row] + rng.normal(0, 0.05)
    flags = np.zeros(rows, bool)
    return Transition(obs[:-1], action[:, None], -(obs[1:, 0] ** 2), obs[1:], flags, flags)


def dataset(rows: Transition) -> Dataset:
    return Dataset.from_arrays(**rows._asdict(), action_low=-1, action_high=1)


@pytest.fixture(scope="module")
def agent() -> fittedq.Agent:
    td3 = fittedq.TD3(hidden=(8,))
    made = fittedq.Agent(td3, 1, BOX, td3.networks(1, BOX, jax.random.key(0)))
    made.familiarity = fittedq.familiarity(made, dataset(log(3000, 0)), window=WINDOW)
    return made


def judged(agent: fittedq.Agent, rows: Transition, together: bool) -> np.ndarray:
    return np.asarray(agent.familiar(rows.next_obs, before=rows.obs, action=rows.action, consecutive=together))


def test_small_errors_on_one_side_are_summed_up(agent: fittedq.Agent) -> None:
    """Of a plant with four fifths of the gain a sample says nothing: its error is one deviation of the noise."""
    other = log(2000, 5, gain=0.4)
    alone, together = ((judged(agent, other, many) < 0.05).mean() for many in (False, True))
    assert alone < 0.15 and together > 0.4


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_a_share_of_new_windows_is_below_it(agent: fittedq.Agent, level: float) -> None:
    found = [(judged(agent, log(1000, seed), True) < level).mean() for seed in range(1, 9)]
    assert 0.3 * level < np.mean(found) < 1.5 * level


def test_windows_are_what_brute_force_makes_of_them(agent: fittedq.Agent) -> None:
    """Row by row as a guard has it, all at once as a batch has it, and by the formula; gaps begin anew."""
    known, rows = agent.familiarity, log(60, 3)
    assert known is not None and known.recent is not None
    seen = known.seen(rows.next_obs, known.past(rows.next_obs, np.concatenate([rows.obs, rows.action], axis=1)))
    linked = np.arange(60) != 30
    along, trail, recent = known.recent.along(seen, linked), None, known.recent
    for row in range(60):
        one = Seen(*(part[row : row + 1] for part in seen))
        familiar, trail = known.after(one, None if row == 30 else trail)
        assert along[row] == pytest.approx(familiar[0], abs=1e-9)
        assert (trail is not None) and trail.shape[1] <= WINDOW
        if row in (5, 35):
            assert along[row] == seen.familiar[row]
    error, place = np.clip(seen.error[11:21, 0], -5, 5), seen.place[11:21]
    parts = [
        recent.place(np.array([-np.log(place).mean()])),
        recent.size(np.array([(error**2).mean()])),
        recent.side(np.array([abs(error.mean())])),
        seen.familiar[20:21],
    ]
    assert along[20] == pytest.approx(recent.joint(-np.log(np.min(parts, axis=0)))[0], abs=1e-6)


def test_rows_that_follow_one_another() -> None:
    obs, after = np.array([[0.0], [1.0], [5.0], [6.0]]), np.array([[1.0], [2.0], [6.0], [7.0]])
    linked = linked_rows(obs, after)
    assert linked.tolist() == [False, True, False, True]
    rows = np.log(np.full((4, 2), 0.5))
    assert Recent.of(rows, linked, 2) is not None and Recent.of(rows, linked, 3) is None
    taken = consecutive(np.arange(1000), 100, 20)
    assert len(taken) == 100 and (np.diff(taken) == 1).sum() == 95 and taken[[0, -1]].tolist() == [0, 999]
    assert consecutive(np.arange(50), 100, 20).tolist() == list(range(50))


def test_it_is_saved_and_no_export_forgets_it(agent: fittedq.Agent, tmp_path: Path) -> None:
    guarded, rows = copy.deepcopy(agent), log(50, 4)
    guarded.threshold, guarded.fallback = 0.05, "hold"
    guarded.save(tmp_path / "agent")
    again = fittedq.load(tmp_path / "agent")
    assert judged(again, rows, True) == pytest.approx(judged(agent, rows, True), abs=1e-6)
    guard = again.program().guard
    assert guard is not None and guard.window is not None


def test_the_guard_and_the_loop_judge_windows(agent: fittedq.Agent) -> None:
    """The fallback acts where the window is strange though the sample is not; a dead reading begins a new window."""
    guarded = copy.deepcopy(agent)
    guarded.threshold, guarded.fallback = 0.05, "hold"
    controller, loop, obs = guarded.controller(), guarded.loop(), np.zeros((1, 1), np.float32)
    memory, found, before = controller.start(1), [], None
    for sample in range(40):
        alone = guarded.familiar(obs, **({} if before is None else {"before": before[0], "action": before[1]}))
        action, memory = controller.step(memory, obs)
        own, _ = loop.step(obs[0])
        assert own == pytest.approx(action[0], abs=1e-6)
        found.append((bool(memory.taken_over[0]), bool(alone[0] < 0.05)))
        before = (obs, action)
        obs = (0.8 * obs + 0.5 * action + 0.06 + 0.001 * (sample % 3)).astype(np.float32)
    taken, alone = np.array(found).T
    assert taken.sum() > alone.sum() + 10 and not taken[: WINDOW - 1].any()
    loop.step([np.nan])
    assert [loop.step(obs[0])[1].name for _ in range(3)] == ["OK"] * 3


def test_what_cannot_be_judged_is_a_sentence(
    agent: fittedq.Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = copy.deepcopy(agent)
    plain.familiarity = fittedq.familiarity(agent, dataset(log(200, 0)))
    for question, sentence in (
        (lambda: plain.familiar(np.zeros((3, 1)), consecutive=True), "consecutive: found it for"),
        (lambda: agent.familiar(np.zeros(1), consecutive=True), "consecutive: found it for"),
        (lambda: fittedq.familiarity(agent, dataset(log(200, 0)), window=300), "window: found no 300 rows"),
        (lambda: fittedq.familiarity(agent, dataset(log(200, 0)), window=-1), "window"),
        (lambda: fittedq.familiarity(agent, dataset(log(200, 0)), window=5_000), "window"),
    ):
        with pytest.raises(UserError, match=sentence):
            question()
    monkeypatch.chdir(tmp_path)
    agent.save("agent")
    given = ["guard", "agent", "--threshold", "0.01", "--out", "guarded"]
    assert main([*given, "--window", "10"]) == 2
    assert "learned from no log" in capsys.readouterr().err and not Path("guarded").exists()
    Path("pi.py").write_text("class PI:\n    def __call__(self, obs):\n        return -obs\n")
    assert main([*given, "--fallback", "pi.py:PI"]) == 2
    told = capsys.readouterr().err
    assert "pi.py:PI: no file of an agent holds code of yours" in told and "Called" not in told


def test_a_history_and_an_older_file(agent: fittedq.Agent) -> None:
    state = AugmentedState(Augmentation(history=3), 1, BOX)
    known: Any = fittedq.Familiarity.of(
        dataset(log(1000, 0)).augmented(state).transitions(slice(None)), state, window=WINDOW
    )
    new = dataset(log(500, 1)).augmented(state).transitions(slice(5, None))
    seen = known.seen(new.next_obs, known.past(new.next_obs))
    assert (known.recent.along(seen, linked_rows(new.obs, new.next_obs)) < 0.05).mean() < 0.15
    arrays = known.arrays()
    older = {name: array for name, array in arrays.items() if "/recent/" not in name}
    restored = fittedq.Familiarity.restored(older, state.size, "here")
    assert restored is not None and restored.recent is None
    for name, value in (("familiarity/recent/samples", np.asarray(0)), ("familiarity/recent/side/shares", np.zeros(3))):
        with pytest.raises(UserError, match="does not fit together"):
            fittedq.Familiarity.restored({**arrays, name: value}, state.size, "here")
