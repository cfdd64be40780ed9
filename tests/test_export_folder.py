"""The folder of an export: verified beside the agent, told of, checked, and never put over what is not ours."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from exported import AGENTS, agent_in, guarded_in
from fittedq.agent import Agent
from fittedq.cli.main import main
from fittedq.errors import UserError
from fittedq.export.language import About, AbstractLanguage, AbstractRunning, Golden
from fittedq.export.program import ControlProgram
from fittedq.export.verify import samples
from fittedq.files import Scratch


@pytest.fixture(scope="module")
def agent() -> Agent:
    return agent_in()


def export(agent: Agent, out: Path, to: Any = "numpy", **more: Any) -> dict[str, Any]:
    return agent.export(out, to, samples=300, **more)


@dataclass(frozen=True)
class Off(AbstractLanguage, AbstractRunning):
    """A language that gets something wrong from the hundredth sample on."""

    name: ClassVar[str] = "off"
    title: ClassVar[str] = "wrong"
    agent: Any
    action: float = 0.0
    status: int = 0
    interrupted_at: int = 0

    def files(self, program: ControlProgram, about: About, golden: Golden) -> dict[str, bytes]:
        return {"controller.txt": b"wrong"}

    @contextmanager
    def running(self, folder: Path) -> Iterator[AbstractRunning]:
        self.agent.count = 0
        yield self

    def reset(self, before: np.ndarray | None = None) -> None:
        pass

    def step(self, obs: np.ndarray) -> tuple[np.ndarray, int]:
        action, status = self.agent.step(obs)
        self.agent.count += 1
        if self.agent.count == self.interrupted_at:
            signal.raise_signal(signal.SIGINT)
        late = self.agent.count > 100
        return action + np.float32(self.action * late), int(status) + self.status * late


def test_a_controller_that_differs_is_not_left(agent: Agent, tmp_path: Path) -> None:
    for wrong, sentence in (({"action": 1e-3}, "is off by 0.0005 half-widths"), ({"status": 3}, "tells the status")):
        with pytest.raises(UserError, match=sentence):
            export(agent, tmp_path / "out", Off(agent, **wrong))
        assert not list(tmp_path.iterdir())
    assert export(agent, tmp_path / "out", Off(agent, action=1e-7))["verified"]["max_error"] < 1e-6
    assert export(agent, tmp_path / "other", Off(agent, action=1.0), verify=False)["verified"] is None


def test_an_export_is_told_of_checked_and_found_changed(
    agent: Agent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, names = tmp_path / "out", ["level", "flow", "set-point", "valve", "pump"]
    told = export(agent, out, names=names, units={"level": "m"}, sample=0.5)
    assert told["verified"]["samples"] == 300 and told["verified"]["max_error"] <= 1e-5
    assert main(["inspect", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["about"]["observations"] == names[:3] and shown["about"]["actions"] == names[3:]
    assert (shown["about"]["sample"], shown["about"]["units"]) == (0.5, {"level": "m"})
    assert main(["inspect", str(out)]) == 0 and "300 samples beside the agent" in capsys.readouterr().out
    assert main(["verify", str(out)]) == 0
    for command in (["report"], ["guard", "--threshold", "0.1", "--out", str(out) + "2"]):
        assert main([*command, str(out)]) == 2 and "is an export, of which no agent" in capsys.readouterr().err
    (out / "__pycache__").mkdir()
    (out / "__pycache__" / "controller.cpython-311.pyc").write_bytes(b"what Python makes of it")
    assert main(["verify", str(out)]) == 0
    file = out / "controller.py"
    file.write_text(file.read_text() + "\n")
    assert main(["verify", str(out)]) == 1 and "controller.py" in capsys.readouterr().out


def test_a_unit_of_no_name_is_refused(agent: Agent, tmp_path: Path) -> None:
    names = ["level", "flow", "set-point", "valve", "pump"]
    with pytest.raises(UserError, match=r"units: found 'levle', which is none of the names; did you mean 'level'"):
        export(agent, tmp_path / "out", names=names, units={"levle": "m"})
    assert not list(tmp_path.iterdir())


def test_only_an_export_as_it_was_written_is_replaced(agent: Agent, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = export(agent, out)
    assert export(agent_in("sac"), out)["about"]["agent"] != first["about"]["agent"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes.txt is none of its files.* is not replaced"):
        export(agent, out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"holds what is no export \(thesis.tex\)"):
        export(agent, other)
    assert (other / "thesis.tex").read_text() == "mine" and (out / "notes.txt").read_text() == "mine"


def test_wrong_words_are_refused(agent: Agent, tmp_path: Path) -> None:
    for given, sentence in (
        ({"to": "nunpy"}, "did you mean 'numpy'"),
        ({"to": "numpy", "names": ["a"]}, "names: found 1, expected 3 of observations and then 2 of actions"),
        ({"to": "numpy", "data": np.zeros((4, 2))}, "observations of 3 numbers"),
        ({"to": "numpy", "sample": float("nan")}, "sample: found nan, expected seconds above zero"),
        ({"to": "numpy", "sample": 0.0}, "sample: found 0.0, expected seconds above zero"),
        ({"to": "numpy", "sample": -1.0}, "sample: found -1.0, expected seconds above zero"),
    ):
        with pytest.raises(UserError, match=sentence):
            agent.export(tmp_path / "out", **given)
    assert not list(tmp_path.iterdir())


def test_the_command_exports_an_agents_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent_in(**AGENTS["memory"]).save(tmp_path / "agent")
    words = ["export", str(tmp_path / "agent"), "--to", "numpy", "--out", str(tmp_path / "out"), "--samples", "200"]
    assert main(words) == 0
    assert "200 samples beside the agent" in capsys.readouterr().out


def test_samples_hold_what_is_known_its_corners_and_what_is_broken() -> None:
    known = np.array([[0.0, 1.0], [2.0, 5.0]], np.float32)
    obs, begins = samples(known)
    finite = obs[np.isfinite(obs).all(1)]
    assert begins[0] and 100 < begins.sum() < 1000
    for row in ([0.0, 5.0], [2.0, 1.0], *known.tolist()):
        assert (finite == row).all(1).sum() > 100
    assert np.isnan(obs).any() and np.isposinf(obs).any() and np.isneginf(obs).any()
    assert ((obs != 0) & (np.abs(obs) < 1e-38)).any() and (np.abs(finite) > 1e19).any()


def test_one_that_is_interrupted_leaves_nothing_and_replaces_nothing(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # nothing at `out` yet, and then an export
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(KeyboardInterrupt):
            export(agent, out, Off(agent, interrupted_at=150))
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert [path.name for path in tmp_path.iterdir()] == ["out"] * bool(before)
        export(agent, out)
    monkeypatch.setattr(Scratch, "replace", lambda scratch: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        export(agent_in("sac"), out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_acts_instead_of_the_policy_and_where_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, agent, sentences in (
        ("bare", agent_in(), ("fallback  the action [0.0, 1.0]", "threshold  0")),
        ("guarded", guarded_in("hold"), ("fallback  hold", "threshold  0.05")),
    ):
        export(agent, tmp_path / name)
        assert main(["inspect", str(tmp_path / name)]) == 0
        shown = capsys.readouterr().out
        assert all(f"{sentence}\n" in shown for sentence in sentences) and "{" not in shown


def test_inspect_says_that_a_file_is_not_the_one_that_was_verified(
    agent: Agent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(agent, tmp_path / "out")
    changed = next(path for path in sorted((tmp_path / "out").iterdir()) if path.name != "export.json")
    for words in ("", "it is not the export that was verified"):
        assert main(["inspect", str(tmp_path / "out")]) == 0
        told = capsys.readouterr().err
        assert (words in told) if words else told == ""
        changed.write_bytes(b"?" + changed.read_bytes()[1:])
