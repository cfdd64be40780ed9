"""Advice: the figures are those of known problems, each rule decides where it should, and the command can be run."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fittedq.algorithms import find
from fittedq.cli.advise import Advise
from fittedq.cli.arguments import parse
from fittedq.cli.main import main
from fittedq.cli.train import Train
from fittedq.data.dataset import Dataset
from fittedq.envs.native import Pendulum, physics
from fittedq.runs.advise import GUIDELINES, Advice, Facts
from fittedq.settings import parse_assignments, split_settings
from fittedq.trainers.settings import TrainSettings

USUAL = Facts(
    rows=2000,
    state=17,
    actions=6,
    joined=False,
    ended=0.0,
    noise=0.1,
    model_error=0.1,
    linear=0.5,
    history=1,
    covered=1.0,
    foreseen=0.0,
    log=False,
    blind=False,
    physics=False,
    sample_seconds=1e-3,
    gap=None,
    steps=100_000,
    follows=(),
    hours=1.0,
)
LOG = replace(USUAL, log=True, sample_seconds=None, gap=0.02, actions=1)


@pytest.mark.parametrize(
    ("facts", "method", "word"),
    [
        (USUAL, "auto", ""),
        (replace(USUAL, hours=0.4), "sac", ""),  # 100,000 steps of auto take .7 hours
        (replace(USUAL, sample_seconds=0.1, steps=40_000), "sac", ""),
        (replace(USUAL, state=3, actions=1), "sac", ""),
        (replace(USUAL, state=3, actions=2), "auto", ""),
        (replace(USUAL, physics=True), "svg", "dynamics=env"),
        (replace(USUAL, physics=True, follows=("0:2",)), "auto", "plant"),
        (replace(USUAL, follows=("0:2",), ended=0.1), "td3", "hidden=64,64"),
        (LOG, "nfqca", ""),
        (replace(LOG, gap=0.2), "amortized_fqi", ""),
        (replace(LOG, gap=None, actions=3), "amortized_fqi", ""),
        (replace(LOG, blind=True, covered=0.02, foreseen=None), "explicit_fqi", "support=2"),
        (replace(LOG, joined=True, blind=True), "explicit_fqi", ""),
    ],
)
def test_the_first_rule_that_holds_decides(facts: Facts, method: str, word: str) -> None:
    advice = Advice.of(facts)
    assert advice.method == method and (not word or word in " ".join(advice.words))
    assert "{" not in advice.why and "nan" not in advice.why and "None" not in advice.why


def test_every_rule_has_a_source_that_is_there_and_a_command_that_parses() -> None:
    root = Path(__file__).parent.parent
    for rule in GUIDELINES:
        found = root / rule.source if rule.source.startswith("docs/") else root / "benchmarks" / "results" / rule.source
        assert found.exists(), rule.source
        assert parse(Train, "fittedq train", [rule.method, "Pendulum-v1", *rule.words]).algorithm == rule.method


def test_the_settings_of_every_rule_make_a_method() -> None:
    for rule in GUIDELINES:
        chosen = parse_assignments(parse(Train, "fittedq train", [rule.method, "jax/Pendulum-v1", *rule.words]).set)
        if chosen:
            own, _ = split_settings(chosen, find(rule.method), TrainSettings)
            find(rule.method)(**own | ({"model": physics(Pendulum())} if "dynamics" in own else {}))


def test_one_action_is_counted_as_one() -> None:
    assert "With 1 action a policy" in Advice.of(LOG).why


def test_what_is_followed_and_remembered_is_in_the_command() -> None:
    assert "--history" not in Advice.of(replace(USUAL, history=2)).words
    advice = Advice.of(replace(LOG, follows=("0:2", "1=3"), history=2))
    assert advice.words[-6:] == ("--error", "0:2", "--error", "1=3", "--history", "2")
    assert any("2 observations" in sentence for sentence in advice.beside)
    assert any("LQR" in sentence for sentence in Advice.of(replace(USUAL, linear=0.999)).beside)


def linear_plant(hidden: bool) -> Dataset:
    """s' = .9 s + .1 a + noise; `hidden`: a state that is not seen, and remembers the actions, stands for a."""
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (1_000, 1))
    state, speed = np.zeros(1_001), np.zeros(1_001)
    noise = 0.1 / np.sqrt(3) * rng.standard_normal(1_000)  # as large as what the action does
    for row in range(1_000):
        speed[row + 1] = 0.8 * speed[row] + action[row, 0]
        state[row + 1] = 0.9 * state[row] + (0.1 * speed[row + 1] if hidden else 0.1 * action[row, 0] + noise[row])
    ends = np.arange(1, 1_001) % 250 == 0
    obs, after = state[:-1, None], state[1:, None]
    return Dataset.from_arrays(
        obs=obs,
        action=action,
        reward=-(obs[:, 0] ** 2),
        next_obs=after,
        terminated=np.zeros(1_000),
        truncated=ends,
        action_low=-1,
        action_high=1,
    )


SAID = {"steps": 1, "follows": (), "hours": 1.0}


def test_figures_of_a_plant_in_closed_form() -> None:
    """The noise is the share of Var(s' − s) that no model explains, and a linear model explains the rest."""
    data = linear_plant(hidden=False)
    facts = Facts.of(data, None, **SAID)
    spread = float(np.var(data.columns["next_obs"] - data.columns["obs"]))
    share = 0.01 / 3 / spread
    assert facts.model_error == pytest.approx(share, abs=0.05) and facts.linear == pytest.approx(1 - share, abs=0.05)
    assert (facts.actions, facts.history, facts.blind, facts.ended) == (1, 1, False, 0.0)
    assert facts.covered == pytest.approx(1, abs=0.2) and facts.foreseen == pytest.approx(0, abs=0.1)
    assert Facts.of(linear_plant(hidden=True), None, **SAID).history == 2


def test_an_environment_is_measured_and_the_command_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["Pendulum-v1", "--rows", "300", "--steps", "500", "--env-kwargs", "g=9.0", "--limit", "a0 <= 1", "--json"]
    assert main(["advise", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["facts"]["rows"] == 300 and told["facts"]["sample_seconds"] > 0 and told["facts"]["ended"] == 0
    train = parse(Train, "fittedq train", shlex.split(told["command"])[2:])
    assert (train.algorithm, train.env, train.steps) == ("sac", "Pendulum-v1", 500)
    assert (train.env_kwargs, train.limit) == (("g=9.0",), ("a0 <= 1",))


@pytest.mark.slow
def test_a_log_is_measured_with_its_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "a log"
    assert main(["data", "collect", "Pendulum-v1", "--steps", "1000", "--out", str(log)]) == 0
    capsys.readouterr()
    assert main(["advise", "--data", str(log)]) == 0
    told = capsys.readouterr().out
    assert "a first policy below its critic's maximum, of q's range" in told
    assert f"fittedq train nfqca --data '{log}'" in told or f"fittedq train amortized_fqi --data '{log}'" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "found neither an environment nor --data"),
        (["Pendulum-v1", "--data", "x"], "found an environment and --data"),
        (["Pendulum-v1", "--rows", "10"], "rows: found 10"),
        (["Pendulum-v1", "--hours", "nan"], "hours: found nan"),
        (["Pendulum-v1", "--steps", "0"], "steps: found 0"),
        (["Pendulum-v1", "--error", "0:9", "--rows", "200"], "--error: found 0:9, and 3 numbers are observed"),
        (["Pendulum-v1", "--error", "theta"], "error: found 'theta'"),
        (["--data", "nowhere"], "nowhere"),
        (["--data", "nowhere", "--steps", "5"], "--steps: found --data too"),
        (["Pendulum-v2", "--rows", "200"], "Pendulum"),
        (["CartPole-v1", "--rows", "200"], "found Discrete(2)"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", *words]) == 2
    assert told in capsys.readouterr().err


def test_questions_are_asked_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Typed:
        """A terminal on which somebody answers."""

        def __init__(self, *lines: str):
            self.lines = list(lines)

        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return self.lines.pop(0) + "\n"

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", Typed("5000", "0:2 1=3", ""))
    command = parse(Advise, "fittedq advise", ["Pendulum-v1"])
    assert command._answers() == {"steps": 5000, "follows": ("0:2", "1=3"), "hours": 1.0}
    assert "How many samples" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", Typed("many"))
    with pytest.raises(ValueError, match="found 'many', expected a number"):
        command._answers()
    monkeypatch.setattr("sys.stdin", Typed())
    assert replace(command, json=True)._answers()["steps"] == 100_000
