"""The example of the Temperature Control Lab: its log, its simulator and its baselines say the same."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fittedq.baselines import PID

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "temperature_lab.py"


@pytest.fixture(scope="module")
def lab() -> ModuleType:
    spec = importlib.util.spec_from_file_location("temperature_lab", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_log_is_what_the_lab_does(lab: ModuleType, tmp_path: Path) -> None:
    """The rows' actions, given to the lab again, earn the rows' rewards."""
    learn, held_out = lab.parts(tmp_path, 3)
    data = lab.fittedq.Dataset.open(tmp_path / "lab").transitions(slice(0, 60))
    env = lab.Lab()
    obs = env.reset(seed=3)[0]
    for row in range(60):
        assert obs[0] == pytest.approx(data.obs[row, 0], abs=1e-3)
        after, reward, *_ = env.step(data.action[row])
        reward_of_row = -abs(obs[0] - data.obs[row, 1]) / 10
        assert data.reward[row] == pytest.approx(reward_of_row, abs=1e-3)
        assert reward == pytest.approx(-abs(obs[0] - env.obs[1]) / 10)
        obs = after
    assert len(learn) > len(held_out) > 60 * 10


def test_a_pi_by_rule_is_judged_as_it_is_played(lab: ModuleType, tmp_path: Path) -> None:
    held_out = lab.parts(tmp_path, 0)[1]
    pi = PID(5.3, 0.039, tracked=lab.T1, low=0.0, high=100.0, dt=lab.SAMPLE)
    found, true = lab.told(pi, held_out), lab.played(pi).mean()
    assert found.low < true < found.high and found.verdict == "better than the log"
    assert np.ptp(found.allowed) > np.ptp([found.low, found.high])
