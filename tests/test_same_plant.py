"""Whether a log is of an agent's plant: what the commands that take one say of another plant's, and refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fittedq
from exported import agent_in, plant_rows
from fittedq.agent import Agent
from fittedq.baselines import Constant
from fittedq.cli.main import main
from fittedq.data.dataset import Dataset
from fittedq.data.description import Column, Description
from fittedq.diagnose.paired import Interval
from fittedq.errors import UserError
from fittedq.estimates.backing import Backing
from fittedq.estimates.evidence import OneEstimate
from fittedq.estimates.result import BETTER, CANNOT, Estimate
from fittedq.estimates.same_plant import plant_doubts

KILN = Description(obs=("T", "p", "aim"), action=("valve", "fan"), columns={"T": Column(unit="°C")})


def knowing() -> Agent:
    """One that learned from `plant_rows`, whose columns are those of a kiln."""
    agent = agent_in()
    agent.familiarity, agent.columns = agent.known_by(plant_rows()), KILN.called
    return agent


def elsewhere(data: Dataset, shift: float) -> Dataset:
    """The same log where all that is measured is further up."""
    columns = dict(data.columns) | {name: data.columns[name] + np.float32(shift) for name in ("obs", "next_obs")}
    return Dataset.from_arrays(**columns, action_low=-3, action_high=3)


def named(data: Dataset, description: Description) -> Dataset:
    data.description = description
    return data


def test_states_elsewhere_and_other_columns_speak_against_a_log() -> None:
    agent = knowing()
    assert not list(plant_doubts(agent, plant_rows()))
    assert not list(plant_doubts(agent, named(plant_rows(), KILN)))
    (strange,) = plant_doubts(agent, elsewhere(plant_rows(), 20.0))
    assert strange.startswith("100% of the log's states")
    (other,) = plant_doubts(agent, named(plant_rows(), KILN.but(columns={"T": Column(unit="K")})))
    assert "'T [K]', not 'T [°C]'" in other and "valve" not in other
    agent.familiarity = None
    assert not list(plant_doubts(agent, elsewhere(plant_rows(), 20.0)))


def test_what_its_log_called_the_numbers_goes_with_an_agent(tmp_path: Path) -> None:
    data = named(plant_rows(120), KILN)
    agent = fittedq.fit("nfqca", data, steps=1, hidden=(4,), epochs=1, policy_epochs=1)
    assert agent.columns == ("T [°C]", "p", "aim", "valve", "fan")
    agent.save(tmp_path / "agent")
    assert fittedq.load(tmp_path / "agent").columns == agent.columns
    assert not Description(obs=("T",)).called


def test_guard_and_shadow_say_so_and_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    knowing().save(tmp_path / "agent")
    for name, shift in (("own", 0.0), ("other", 20.0)):
        elsewhere(plant_rows(), shift).save(tmp_path / name)
        for words in (["guard", "--threshold", "0.01", "--out", str(tmp_path / f"{name}-guarded")], ["shadow"]):
            assert main([words[0], str(tmp_path / "agent"), "--data", str(tmp_path / name), *words[1:]]) == 0
            assert ("is it of its plant?" in capsys.readouterr().err) == (name == "other")


def test_an_export_says_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    knowing().export(tmp_path / "out", "numpy", samples=100)
    kelvin = KILN.but(columns={"T": Column(unit="K")})
    for name, data, told in (
        ("own", named(plant_rows(), KILN), []),
        ("elsewhere", elsewhere(plant_rows(), 20.0), ["100% of the log's states have a number that is far outside"]),
        ("columns", named(plant_rows(), kelvin), ["'T [K]', not 'T [°C]'"]),
    ):
        data.save(tmp_path / name)
        assert main(["shadow", str(tmp_path / "out"), "--data", str(tmp_path / name)]) == 0
        said = capsys.readouterr().err
        assert said.count("warning: ") == len(told) and all(sentence in said for sentence in told)


def test_a_runs_own_agents_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant_rows(120).save(tmp_path / "log")
    run = tmp_path / "run"
    fittedq.fit("nfqca", tmp_path / "log", steps=1, hidden=(4,), epochs=1, policy_epochs=1, out=run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for name in ("last", "best", "../run/last"):
        assert main(["guard", str(run), "--threshold", "0.01", "--out", str(run / name)]) == 2
        assert "its own agent" in capsys.readouterr().err
        with pytest.raises(UserError, match=r"path: .*(last|best) belongs to a run.* its own agents"):
            fittedq.load(run).save(run / name)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert main(["guard", str(run), "--threshold", "0.01", "--out", str(run / "guarded")]) == 0
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(UserError, match="is a link"):
        fittedq.load(run).save(tmp_path / "round")


def test_a_constant_outside_its_limits_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="99 for action \\[0\\], which the environment takes between -2 and 2"):
        Constant((99.0,)).evaluate("Pendulum-v1", 1)
    assert len(Constant((2.0,)).evaluate("Pendulum-v1", 1)) == 1
    plant_rows().save(tmp_path / "log")
    words = ["estimate", "constant:0,99", "--data", str(tmp_path / "log"), "--gamma", "0.9"]
    assert main(words) == 2
    assert "99 for action [1], which the log's plant takes between -3 and 3" in capsys.readouterr().err


def test_a_window_of_one_sample_is_the_newest_alone() -> None:
    assert fittedq.familiarity(agent_in(), plant_rows(), window=1).recent is None


def test_one_short_episode_is_no_fifty_blocks() -> None:
    """Of 60 rows no settling time is told: blocks of single rows would be as good as independent."""
    data = plant_rows(60)
    with pytest.raises(UserError, match=r"found 3 blocks: .*\(20 rows\).*, expected at least 10"):
        fittedq.estimate(Constant((0.0, 0.0)), data, gamma=0.9)


@pytest.mark.parametrize(("verdict", "told"), [(CANNOT, "can tell of none of them; a has"), (BETTER, "take a:")])
def test_what_is_selected_is_said_to_be_told_of_or_not(
    verdict: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    part, interval = OneEstimate(-1.0, 0.5, ""), Interval(-1.0, -2.0, 0.0)
    found = Estimate(
        value=-1.0,
        low=-2.0,
        high=0.0,
        verdict=verdict,
        reasons=("it is far off",),
        agreement="",
        parts={"model": part},
        log=interval,
        cloned=part,
        backing=Backing(1.0, 1.0, 1.0),
        effective_rows=None,
        gamma=0.9,
        horizon=5,
        starts=1,
        rows=9,
        said="12 episodes",
        rewards=(-1.0, 0.0),
        allowed=(-9.0, 0.0),
    )
    plant_rows().save(tmp_path / "log")
    monkeypatch.setattr("fittedq.cli.estimate.select", lambda *given, **more: ("a", {"a": found}))
    assert main(["estimate", "constant:0,0", "--data", str(tmp_path / "log"), "--select"]) == 0
    out = capsys.readouterr().out
    assert told in out and "from 1 state;" in out
