"""The generator of reports, and rules that end a run: a break saves, a rule is words and never code."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fittedq
from fittedq.cli.main import main
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.files import load_folder
from fittedq.runs.folder import RunFolder
from fittedq.runs.report import FIGURES, Report
from fittedq.runs.schedule import Schedule
from fittedq.runs.stop import StopWhen
from fittedq.trainers.iterations import FITTED_FIGURES

pytestmark = pytest.mark.slow  # many runs; a method composed of slots is resumed in test_slots

TINY: dict[str, Any] = {"hidden": (8,), "batch_size": 8, "replay_size": 1000, "random_steps": 20}
RUN: dict[str, Any] = {"steps": 60, "seed": 1, "report_every": 20, "eval_every": 40, "eval_episodes": 1} | TINY
OBS = np.ones((4, 3), np.float32)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream") / "straight"
    assert [report.step for report in fittedq.stream("ddpg", "Pendulum-v1", out=folder, **RUN)] == [20, 40, 60]
    return folder


def assert_same_agent(one: Path, other: Path) -> None:
    arrays, others = (load_folder(path / "last", "agent")[0] for path in (one, other))
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name])


def record(**figures: Any) -> Report:
    first = dict.fromkeys(("updates", "episodes"), 0) | dict.fromkeys(("steps_per_second", "updates_per_second"), 1.0)
    told = {"step": 10, "steps": 99, "seconds": 1.0, "train_return": None, "eval_returns": None, "best": None}
    return Report(**first | told | {"metrics": {}} | figures)


# ---------------------------------------------------------------------- reports with the live agent


def test_a_break_saves_as_ctrl_c_does_and_the_rest_is_the_same_run(straight: Path, tmp_path: Path) -> None:
    for report in fittedq.stream("ddpg", "Pendulum-v1", out=tmp_path / "run", **RUN):
        if report.step == 40:
            break
    saved = fittedq.load(tmp_path / "run" / "last")
    np.testing.assert_array_equal(saved.act(OBS), report.agent.act(OBS))
    fittedq.resume(tmp_path / "run")
    assert_same_agent(tmp_path / "run", straight)
    lines, others = (
        [
            {name: value for name, value in line.items() if "second" not in name and name != "stages"}
            for line in RunFolder(folder).metrics()
        ]
        for folder in (tmp_path / "run", straight)
    )
    assert lines == others


def test_an_exception_in_the_loop_saves_too(tmp_path: Path) -> None:
    def stopped() -> None:
        for _ in fittedq.stream("ddpg", "Pendulum-v1", out=tmp_path / "run", **RUN):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stopped()
    assert (tmp_path / "run" / "last").is_dir()


def test_the_agent_of_a_report_stays_as_it_was_and_is_not_to_be_had_later() -> None:
    reports = fittedq.stream("ddpg", "Pendulum-v1", **RUN)
    first = next(reports)
    agent = first.agent
    before = [agent.act(OBS), agent.value(OBS, np.zeros((4, 1)))]
    second = next(reports)
    assert (second.agent.value(OBS, np.zeros((4, 1))) != before[1]).any()
    for found, expected in zip([agent.act(OBS), agent.value(OBS, np.zeros((4, 1)))], before, strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(UserError, match="its agent of step 20 is gone, training is at step 40"):
        first.agent  # noqa: B018
    with pytest.raises(UserError, match="belongs to no run"):
        record().agent  # noqa: B018
    reports.close()


def test_a_dataset_streams_too() -> None:
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(40, 3)), rng.uniform(-1, 1, (40, 1))
    flags = np.zeros(40, bool)
    data = Dataset.from_arrays(
        obs=obs,
        action=action,
        reward=obs[:, 0],
        next_obs=obs + 1,
        terminated=flags,
        truncated=flags,
        action_low=-1,
        action_high=1,
    )
    reports = list(fittedq.stream("explicit_fqi", data=data, steps=2, approximator="polynomial"))
    assert [report.step for report in reports if report.fraction == 0] == [1, 2]
    agent = fittedq.fit("explicit_fqi", data, steps=2, approximator="polynomial")
    np.testing.assert_array_equal(reports[-1].agent.act(OBS), agent.act(OBS))


# ---------------------------------------------------------------------- rules


def test_a_run_that_its_rule_stopped_is_the_same_run_when_resumed(straight: Path, tmp_path: Path) -> None:
    stopped = list(fittedq.stream("ddpg", "Pendulum-v1", out=tmp_path / "two", stop_when="step >= 40", **RUN))
    assert [report.step for report in stopped] == [20, 40]
    fittedq.resume(tmp_path / "two")
    assert_same_agent(tmp_path / "two", straight)


def test_the_command_line_stops_by_a_rule_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["train", "ddpg", "Pendulum-v1", "--steps", "60", "--eval-every", "20", "--eval-episodes", "1", "--json"]
    sets = itertools.chain.from_iterable(
        ("--set", f"{name}={''.join(f'{width},' for width in value) if isinstance(value, tuple) else value}")
        for name, value in TINY.items()
    )
    command = [*words, *sets, "--out", str(out)]
    assert main([*command, "--stop-when", "eval_man > -1e9"]) == 2
    assert "--stop-when: figure 'eval_man' is unknown; did you mean 'eval_mean'" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--stop-when", "eval_mean > -1e9"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["event"], last["step"], last["finished"]) == ("done", 20, "eval_mean > -1e9")
    assert main(["resume", str(out), "--stop-when", "step >= 40", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["step"] == 40


@pytest.mark.parametrize(
    ("text", "figures", "holds"),
    [
        ("eval_mean > -150", {"eval_mean": -149.0}, True),
        ("eval_mean > -150", {"eval_mean": -151.0}, False),
        ("eval_mean > -150", {}, False),
        ("not eval_mean > -150", {}, False),
        ("eval_mean > -150 or step >= 10", {}, True),
        ("eval_mean > -150 and step >= 10", {}, False),
        ("eval_mean > 0 or step >= 10 and not updates > 5", {}, True),
        ("2 * critic/loss / 4 == 1", {"critic/loss": 2.0}, True),
        ("1 < step <= 10", {}, True),
        ("1 < step < 10", {}, False),
        ("step / 0 > 1", {}, False),
        ("abs(-step) + max(1, updates) - min(2, 3) == 9", {}, True),
        ("critic/loss / policy/loss > 1", {"critic/loss": 4.0, "policy/loss": 2.0}, True),
        ("-step + -1e1 == -20", {}, True),
    ],
)
def test_a_condition_holds_where_arithmetic_says_so(text: str, figures: dict[str, float], holds: bool) -> None:
    assert StopWhen(text, figures)(record()) is holds


def test_the_newest_figure_of_each_name_counts() -> None:
    rule = StopWhen("eval_mean > 5 and critic/loss < 1")
    assert not rule(record(eval_returns=[6.0], metrics={"critic/loss": 2.0}))
    assert rule(record(metrics={"critic/loss": 0.5}))
    assert not rule(record(eval_returns=[4.0], metrics={"critic/loss": 0.5}))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("eval_men > 1", "'eval_men' is unknown; did you mean 'eval_mean'"),
        ("eval_mean", "expected a comparison"),
        ("eval_mean > True", "found 'True'"),
        ("__import__('os').system('ls') > 1", "expected a comparison"),
        ("step.real > 1", "found 'step.real'"),
        ("step[0] > 1", "found 'step"),
        ("(lambda: 1)() > 0", "expected a comparison"),
        ("step ** 99999 > 1", "found 'step"),
        ("pow(2, 3) > 1", "found 'pow"),
        ("min(step) > 1", "expected two or more"),
        ("abs(1, 2) > 1", "expected one number"),
        ("step >", "expected a comparison"),
        ("step > 1 > 'a'", "found \"'a'\""),
        ("(" * 400, "expected a comparison"),
        ("step > 1" + " and step > 1" * 100, "expected at most 500"),
        ("(step > 1) + 1 > 1", "expected a comparison"),
    ],
)
def test_what_the_grammar_lacks_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match="stop_when: ") as caught:
        StopWhen(text)
    assert sentence in str(caught.value)


def test_a_figure_that_the_run_will_never_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="eval_mean is never known, since nothing is evaluated; give eval_every"):
        fittedq.train("ddpg", "Pendulum-v1", steps=60, out=tmp_path / "run", stop_when="eval_mean > 1", **TINY)
    with pytest.raises(UserError, match="give gap_every"):
        StopWhen("gap/lower_p95 < 1").checked(Schedule(steps=1))
    assert not (tmp_path / "run").exists()
    rule = StopWhen("critic/los > 1 or health/exploding > 0")
    with pytest.raises(UserError, match=r"'critic/los' is no figure of this run; did you mean 'critic/loss'"):
        rule(record(metrics={"critic/loss": 2.0}))


def test_figures_have_the_names_of_the_metrics(straight: Path) -> None:
    lines = RunFolder(straight).metrics()
    named = set().union(*lines) - {"eval_returns", "stages"}
    assert {name for name in named if "/" not in name} <= {*FIGURES, *FITTED_FIGURES}
    newest = RunFolder(straight).figures()
    assert newest["step"] == 60 and newest["best"] == max(line["eval_mean"] for line in lines if "eval_mean" in line)
    with pytest.raises(UserError, match="eval_mean"):
        StopWhen("eval_mean > 1").checked(Schedule(steps=1, eval_every=0))
    assert not StopWhen("best > 0", newest)(record())
    assert StopWhen("best < 0", newest)(record())
