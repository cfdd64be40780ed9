"""A resume that is refused leaves its run as it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

import fittedq
from fittedq import ExplicitFQI, Linear
from fittedq.cli.main import main
from fittedq.cli.verify import verify
from fittedq.errors import UserError
from fittedq.files import read_signed, write_signed
from fittedq.runs.changes import check_code_kept
from fittedq.runs.report import Report
from fittedq.settings import held


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
    ("rule", "change"),
    [
        ("nope > 1", {"tau": 0.5}),
        ("step >", {"gap_every": 10}),
        *(pytest.param(rule, {}, marks=pytest.mark.unannotated) for rule in (5, Report)),
    ],
)
def test_a_rule_that_is_refused_changes_nothing(run: Path, rule: Any, change: dict[str, Any]) -> None:
    before = (run / "config.json").read_bytes()
    with pytest.raises(UserError, match="stop_when"):
        fittedq.resume(run, steps=8, set=change, stop_when=rule)
    assert (run / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("tau=0.5", "set: found 'tau=0.5', expected values by name"),
        ({1: 2}, "set: found {1: 2}, expected values by name"),
        ({"steps": 9}, "set: found steps = 9 beside steps = 8; give one"),
    ],
)
@pytest.mark.unannotated
def test_what_changes_nothing_by_name_is_one_sentence(run: Path, change: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fittedq.resume(run, steps=8, set=change)


def test_a_command_that_is_refused_says_nothing_of_going_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["resume", str(run), "--steps", "8", "--set", "tau=0.5", "--stop-when", "nope > 1"]
    before = (run / "config.json").read_bytes()
    assert main(command) == 2
    assert "Continuing" not in capsys.readouterr().err
    assert (run / "config.json").read_bytes() == before
    assert main([*command[:-1], "step > 7"]) == 0
    assert read_signed(run / "config.json")["history"] == [{"step": 5, "tau": [0.005, 0.5], "steps": [5, 8]}]


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (lambda k: 1e-3 if k < 5 else 1e-4, "cannot be compiled"),
        (lambda k: jnp.where(k < 40, 1e-3, jnp.nan), "is nan in update 49"),
        (lambda k: -1e-3, "it returned -0.001"),
        (lambda k: "fast", "it returned 'fast'"),
    ],
    ids=["branches", "nan", "negative", "word"],
)
def test_a_schedule_that_cannot_be_followed_changes_nothing(run: Path, rate: Any, said: str) -> None:
    before = (run / "config.json").read_bytes()
    with pytest.raises(UserError, match=said):
        fittedq.resume(run, steps=100, set={"critic_learning_rate": rate})
    assert (run / "config.json").read_bytes() == before


def test_a_schedule_that_is_code_is_replaced_and_every_time_told(run: Path) -> None:
    def constant(rate: float) -> Any:
        return lambda k: rate + 0.0 * k

    rates = [constant(1e-3), constant(1e-4), Linear(1e-3, 1e-4, updates=1), constant(1e-5), 1e-3]
    for steps, rate in enumerate(rates, start=6):
        agent = fittedq.resume(run, steps=steps, set={"critic_learning_rate": rate})
        assert agent.algorithm.critic_learning_rate == rate  # type: ignore[attr-defined]
    told = [line["critic_learning_rate"] for line in read_signed(run / "config.json")["history"]]
    assert [held(rate, (Linear,)) for rate in (1e-3, *rates)] == [told[0][0], *(after for _, after in told)]
    assert verify(run) == ("run", [])


@pytest.mark.parametrize("name", ["features", "approximator"])
def test_code_that_networks_are_made_of_is_not_replaced(name: str) -> None:
    with pytest.raises(UserError, match=f"a run keeps its {name}: it is code"):
        check_code_kept(ExplicitFQI(), {name: {"code": "Mine()"}}, {name: len})


@pytest.mark.parametrize(
    ("edited", "said"),
    [
        ({"action_set": {}}, "action set: found the kind None, expected a word"),
        ({"action_set": {"kind": ["x"]}}, r"action set: found the kind \['x'\], expected a word"),
        ({"action_set": {"kind": "polytope"}}, "action set: found a polytope that none can be made of"),
        ({"kind": "recipe"}, "found the kind 'recipe', expected"),
        ({"steps": 10**400}, "steps: found 1000.*, expected a whole number"),
    ],
    ids=str,
)
def test_a_configuration_that_was_edited_and_signed_is_one_sentence(
    run: Path, edited: dict[str, Any], said: str
) -> None:
    write_signed(run / "config.json", read_signed(run / "config.json") | edited)
    with pytest.raises(UserError, match=said):
        fittedq.resume(run)


def test_a_run_that_does_not_say_its_versions_goes_on(run: Path) -> None:
    config = read_signed(run / "config.json")
    write_signed(run / "config.json", {name: value for name, value in config.items() if name != "versions"})
    fittedq.resume(run, steps=6)
    assert verify(run) == ("run", [])


def test_a_rule_that_holds_already_ends_a_resume_at_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(RuntimeWarning, match="step >= 5 holds already at step 5: nothing is trained"):
        fittedq.resume(run, steps=8, stop_when="step >= 5")
    assert main(["resume", str(run), "--stop-when", "step >= 5"]) == 0
    told = capsys.readouterr().err
    assert "step >= 5 holds already" in told and "Done: 5 steps: step >= 5." in told
    assert verify(run) == ("run", [])
    assert main(["resume", str(run), "--stop-when", "step >= 6"]) == 0
    assert "Done: 8 steps" in capsys.readouterr().err
