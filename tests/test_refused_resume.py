"""A resume that is refused leaves its run as it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import fittedq
from fittedq.cli.main import main
from fittedq.errors import UserError
from fittedq.files import read_signed


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of random steps, which learned nothing yet."""
    out = tmp_path_factory.mktemp("refused") / "run"
    tiny: dict[str, Any] = {"hidden": (4,), "batch_size": 4, "replay_size": 100, "random_steps": 50}
    fittedq.train("ddpg", "Pendulum-v1", steps=5, out=out, **tiny)
    return out


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


@pytest.mark.parametrize(
    ("rule", "change"), [("nope > 1", {"tau": 0.5}), ("step >", {"gap_every": 10}), (5, {}), ("gap/x > 1", {})]
)
def test_a_rule_that_is_refused_changes_nothing(run: Path, rule: Any, change: dict[str, Any]) -> None:
    before = (run / "config.json").read_bytes()
    with pytest.raises(UserError, match="stop_when"):
        fittedq.resume(run, steps=8, set=change, stop_when=rule)
    assert (run / "config.json").read_bytes() == before


def test_a_command_that_is_refused_says_nothing_of_going_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["resume", str(run), "--steps", "8", "--set", "tau=0.5", "--stop-when", "nope > 1"]
    before = (run / "config.json").read_bytes()
    assert main(command) == 2
    assert "Continuing" not in capsys.readouterr().err
    assert (run / "config.json").read_bytes() == before
    assert main([*command[:-1], "step > 7"]) == 0
    assert read_signed(run / "config.json")["history"] == [{"step": 5, "tau": [0.005, 0.5], "steps": [5, 8]}]
