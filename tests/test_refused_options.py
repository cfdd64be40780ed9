"""No option is taken and ignored: what has no effect, or is given twice, is one sentence."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from fittedq import algorithms
from fittedq.actions.base import Box
from fittedq.agent import Agent
from fittedq.algorithms.nfqca import NFQCA
from fittedq.api import resume
from fittedq.cli.main import main
from fittedq.errors import UserError
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from fittedq.settings import parse_assignments


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained agent for the pendulum."""
    ddpg, box = algorithms.find("ddpg")(hidden=(8,)), Box((-2.0,), (2.0,))
    folder = tmp_path_factory.mktemp("agents") / "agent"
    Agent(ddpg, 3, box, ddpg.networks(3, box, jax.random.PRNGKey(0)), env="Pendulum-v1").save(folder)
    return folder


def test_inspect_refuses_to_trust_what_it_does_not_need(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(saved), "--trust-code", "foo:bar"]) == 2
    assert "--trust-code: found 'foo:bar', which no environment" in capsys.readouterr().err
    assert main(["inspect", str(saved), "--wrapper", "foo:bar"]) == 2
    assert "found no environment that they belong to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--trust 0.5", "--trust: found 0.5 and no --refine, whose steps it limits; give both."),
        ("--trust nan --refine 2", "--trust: found nan, expected a share of the half-widths in (0, 2]."),
        ("--trust-code foo:bar", "--trust-code: found 'foo:bar', which no environment that is named there needs"),
        ("--env Pendulum-v1 --trust-code foo:bar", "--trust-code: found 'foo:bar', which no environment"),
        ("--env Pendulum-v1 --env-kwargs g=5 --env-kwargs g=6", "--env-kwargs g=6: g is given twice, expected once"),
    ],
)
def test_eval_refuses_what_would_have_no_effect(
    options: str, sentence: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(saved), "--episodes", "1", *options.split()]) == 2
    assert f"fittedq: {sentence}" in capsys.readouterr().err


def test_a_key_that_is_given_twice_is_refused_however_it_is_written() -> None:
    for second in ("tau=0.2", "tau=0.1", " tau =0.2"):
        with pytest.raises(UserError, match="tau is given twice, expected once"):
            parse_assignments(["tau=0.1", second])
    with pytest.raises(UserError, match="batch_size is given twice"):
        parse_assignments(["batch_size=3", "batch-size=4"])
    assert parse_assignments(["tau=0.1", "gamma=0.2"]) == {"tau": 0.1, "gamma": 0.2}


def test_settings_of_a_fit_that_others_make_void_are_refused() -> None:
    with pytest.raises(UserError, match="setting minibatch: found 16 with optimizer = 'rprop'"):
        NFQCA(optimizer="rprop", minibatch=16)
    assert NFQCA(optimizer="rprop").minibatch is None
    assert NFQCA(optimizer="rprop", minibatch=None).minibatch is None
    with pytest.raises(UserError, match="setting patience: found 2 with held_out = 0"):
        NFQCA(patience=2)
    assert NFQCA(patience=2, held_out=0.1).patience == 2


def test_resume_refuses_to_trust_what_a_run_does_not_name(tmp_path: Path) -> None:
    tiny = {"hidden": (8,), "batch_size": 8, "random_steps": 8, "replay_size": 100}
    run = Run("ddpg", "Pendulum-v1", Schedule(steps=10, eval_every=0), settings=tiny, folder=tmp_path / "run")
    for _ in run.reports():
        pass
    with pytest.raises(UserError, match="trust_code: found 'foo:bar', which no environment"):
        resume(tmp_path / "run", steps=20, trust_code=["foo:bar"])
