"""Tuning: where settings are looked for, what becomes of a trial's runs, and what a kill leaves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from fittedq import list_runs
from fittedq.cli.arguments import parse
from fittedq.cli.main import main
from fittedq.cli.train import DescribesRun, Train
from fittedq.cli.tune import MARK_OF_TUNING, AtWork, Tune
from fittedq.errors import UserError
from fittedq.machine import cores
from fittedq.ranges import LOG, NEAR_ONE, Among, Span
from fittedq.runs.study import Study
from fittedq.runs.tasks import Task, Told, as_they_come

pytest.importorskip("optuna")

TINY = [
    "--set",
    "hidden=8,",
    "--set",
    "batch_size=8",
    "--set",
    "random_steps=20",
    "--steps",
    "60",
    "--eval-every",
    "30",
]


def command(*words: str) -> Tune:
    return parse(Tune, "fittedq tune", ["td3", "Pendulum-v1", *words])


def space(*words: str) -> dict[str, Any]:
    return command(*words)._space()


def test_what_is_looked_for_follows_from_the_settings_and_is_narrowed_by_words() -> None:
    usual = space()
    assert usual["gamma"] == Span(0.9, 0.998, NEAR_ONE) and "batch_size" in usual and "replay_size" not in usual
    assert space("--set", "gamma=0.9").keys() == usual.keys() - {"gamma"}
    assert space("--only", "gamma,n-critics", "--space", "n_critics=2..4") == {
        "gamma": usual["gamma"],
        "n_critics": Span(2, 4),
    }
    assert space("--space", "tau=0.01..0.02") == usual | {"tau": Span(0.01, 0.02, LOG)}
    assert space("--only", "policy_critic") == {"policy_critic": Among(("min", "first", "mean"))}
    sac = replace(command(), algorithm="sac")
    assert "temperature_learning_rate" in sac._space()
    assert "temperature_learning_rate" not in replace(sac, set=("temperature=0.2",))._space()  # nothing reads it


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "gama"], "'gama' is no setting of td3; did you mean 'gamma'"),
        (["--space", "tau=0.1..0.2", "--space", "tau=0.3..0.4"], "--space: found tau twice, expected it once"),
        (["--space", "gamma=2..3"], "--space gamma=2..3: found 2..3 near one, expected numbers below 1"),
        (["--space", "gamma=2..3:linear"], "gamma=2: setting gamma: found 2.0"),
        (["--space", "gamma=0.9..x"], "--space gamma=0.9..x: found '0.9..x', expected LOW..HIGH"),
        (["--only", "gamma", "--set", "gamma=0.9"], "gamma is looked for and set too"),
        (["--only", "n_envs"], "nobody says where to look for n_envs; give --space n_envs=LOW..HIGH"),
        (["--set", "preset=none"], "'preset' is unknown"),
        (["--eval-every", "0"], "trials are judged by evaluations"),
        (["--trials", "0"], "--trials: found 0"),
        (["--seeds", "0"], "--seeds: found 0"),
        (["--prune", "100"], "--prune: found 100"),
        (["--processes", "0"], "--processes: found 0"),
        (["--storage", "trials.txt"], "--storage: found trials.txt"),
        (["--held-out", "rows"], "--held-out: found an environment too"),
        (["--preset", "none.toml"], "none.toml cannot be read"),
        (["--steps", "0"], "steps: found 0"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_written(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "td3", "Pendulum-v1", *words]) == 2
    assert told in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_log_alone_needs_something_to_judge_by(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "td3_bc", "--data", "rows"]) == 2
    assert "give --held-out" in capsys.readouterr().err


def test_a_users_own_file_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "best.toml").write_text("mine")
    assert main(["tune", "td3", "Pendulum-v1", "--out", str(tmp_path)]) == 2
    assert "is not fittedq's" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["best.toml"]


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[AtWork]:
    tune = command("--trials", "8", "--seeds", "2", "--out", str(tmp_path), "--only", "gamma")
    study = Study(tune.file, {}, tune._space(), tune.trials, tune.prune, tune.seed)
    yield AtWork(tune, study)
    study.close()


def ended(at_work: AtWork, task: Task, score: float | None, code: int = 0) -> list[tuple[str, float | None]]:
    """What becomes of a trial whose run says this and ends."""
    done = {"event": "done", "eval_mean": score}
    reports = [Told(task, record={**done, "event": "report", "step": 30}), Told(task, record=done)]
    said = reports if score is not None else [Told(task, text="fittedq: no such thing")]
    return [(one.state, one.score) for told in (*said, Told(task, code=code)) for one in at_work.take(told)]


def next_of(tasks: Iterator[Task | None]) -> Task:
    task = next(tasks)
    assert task is not None
    return task


def test_a_trials_score_is_the_mean_of_its_runs_last_evaluations(at_work: AtWork) -> None:
    tasks = at_work.tasks()
    one, two = next_of(tasks), next_of(tasks)
    assert one.about == {"trial": 0, "seed": 0} and two.about == {"trial": 0, "seed": 1}
    assert any(word.startswith("--set=gamma=") for word in one.words) and "--or-resume" in one.words
    assert ended(at_work, two, 5.0) == []
    assert ended(at_work, one, 2.0) == [("whole", 3.5)]


def test_a_hopeless_trials_other_runs_never_begin_and_those_at_work_are_ended(at_work: AtWork) -> None:
    tasks = at_work.tasks()
    for _ in range(5):
        one, two = next_of(tasks), next_of(tasks)
        assert ended(at_work, one, 5.0) == [] and ended(at_work, two, 5.0) == [("whole", 5.0)]
    one, two = next_of(tasks), next_of(tasks)
    assert list(at_work.take(Told(one, record={"event": "report", "step": 30, "eval_mean": 1.0}))) == []
    assert at_work.over(one) and at_work.over(two)
    assert ended(at_work, two, None, 130) == [] and ended(at_work, one, None, 130) == [("ended early", None)]
    one = next_of(tasks)
    assert list(at_work.take(Told(one, record={"event": "report", "step": 30, "eval_mean": 1.0}))) == []
    assert ended(at_work, one, None, 130) == [("ended early", None)]  # its second run was never begun
    assert next_of(tasks).about["trial"] == 7 and next_of(tasks).about["trial"] == 7
    assert next(tasks) is None  # eight were asked for, and one is not over


def test_a_run_that_fails_ends_its_trial_and_three_such_trials_end_all(at_work: AtWork) -> None:
    tasks = at_work.tasks()
    assert [ended(at_work, next_of(tasks), None, 2) for _ in range(2)] == [[("failed", None)]] * 2
    with pytest.raises(UserError, match="3 trials failed, and none is whole: fittedq: no such thing"):
        ended(at_work, next_of(tasks), None, 2)


def test_a_run_that_is_interrupted_leaves_its_trial_to_go_on(at_work: AtWork) -> None:
    tasks = at_work.tasks()
    assert ended(at_work, next_of(tasks), None, 130) == [] == ended(at_work, next_of(tasks), None, 130)
    assert [one.state for one in at_work.study.outcomes()] == ["running"]


def test_of_a_log_the_low_ends_of_estimates_count(tmp_path: Path) -> None:
    words = ["td3_bc", "--data", "rows", "--held-out", "others", "--seeds", "2", "--out", str(tmp_path)]
    tune = parse(Tune, "fittedq tune", words)
    study = Study(tune.file, {}, {"alpha": Span(1.0, 4.0)}, 1, 50, 0)
    at_work = AtWork(tune, study)
    tasks = at_work.tasks()
    for seed in (0, 1):
        run = next_of(tasks)
        assert run.about["seed"] == seed
        assert list(at_work.take(Told(run, record={"event": "done", "eval_mean": None}))) == []
        assert list(at_work.take(Told(run, code=0))) == []
    for low, verdict in ((1.0, "better"), (4.0, "cannot tell")):
        judged = next_of(tasks)
        assert judged.words[:2] == ("estimate", str(tmp_path / "trial-0" / f"seed-{judged.about['seed']}"))
        assert list(at_work.take(Told(judged, record={"low": low, "verdict": verdict}))) == []
        outcomes = list(at_work.take(Told(judged, code=0)))
    assert [(one.state, one.score, one.told) for one in outcomes] == [("whole", 2.5, False)]
    study.close()


def test_tasks_may_follow_from_what_others_said() -> None:
    said: list[str] = []

    def tasks() -> Iterator[Task | None]:
        yield Task("first", ("--version",), {})
        while not said:
            yield None
        yield Task(f"after {said[0]}", ("--version",), {})

    for told in as_they_come(tasks(), cores()):
        said += [] if told.text is None else [told.text]
    assert said == ["fittedq 0.1.0"] * 2


@pytest.mark.slow
def test_a_tuning_goes_on_after_a_kill_and_its_winner_is_a_preset(tmp_path: Path) -> None:
    out = tmp_path / "all"
    words = ["tune", "td3", "Pendulum-v1", "--trials", "2", "--seeds", "1", "--only", "gamma", *TINY, "--out", str(out)]
    fittedq = [sys.executable, "-m", "fittedq"]
    process = subprocess.Popen([*fittedq, *words, "--processes", "1", "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["trial"] == 0
    process.kill()
    process.communicate()
    while any(one.state == "running" for one in list_runs(out)):  # the run that it began ends as its reader is gone
        time.sleep(0.1)
    done = subprocess.run([*fittedq, *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    folders = [one.path for one in list_runs(out)]
    assert len(folders) == 2 and str(out / "trial-0" / "seed-0") in folders  # it went on there
    assert {one.state for one in list_runs(out)} == {"finished"}
    text = (out / "best.toml").read_text()
    scores = {one.path: one.last for one in list_runs(out)}
    assert text.startswith(MARK_OF_TUNING) and f"{max(s for s in scores.values() if s is not None):.6g}" in text
    settings = tomllib.loads(text)["settings"]
    assert settings["hidden"] == [8] and settings["gamma"] not in (0.99,)
    again = ["train", "td3", "Pendulum-v1", "--preset", str(out / "best.toml"), "--steps", "20", "--eval-every", "0"]
    assert main([*again, "--out", str(tmp_path / "again")]) == 0
    assert list_runs(tmp_path / "again")[0].preset == "best"


def test_a_refused_tuning_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared, out = tmp_path / "shared.db", tmp_path / "out"
    asked = replace(command("--seeds", "2", "--storage", str(shared)), out=out)
    Study(shared, asked._asked(), asked._space(), 1, 0, 0).close()
    words = ["tune", "td3", "Pendulum-v1", "--seeds", "1", "--storage", str(shared), "--out"]
    assert main([*words, str(out)]) == 2
    assert "holds trials with seeds 2, and 1 is asked for" in capsys.readouterr().err and not out.exists()
    (tmp_path / "file").touch()
    assert main([*words, str(tmp_path / "file" / "out")]) == 2
    assert "cannot be written (Not a directory)" in capsys.readouterr().err


def test_the_command_that_takes_the_winner_says_all_that_its_trials_had() -> None:
    tuning = command(
        "--limit", "|a|<=1", "--steps", "60", "--set", "gamma=0.9", "--env-kwargs", "g=9.0", "--history", "2"
    )
    taken = parse(Train, "fittedq train", tuning._taken(Path("a b/best.toml"))[2:])
    given = {field.name: getattr(tuning, field.name) for field in fields(DescribesRun)}
    assert taken == Train(**{**given, "set": (), "preset": "a b/best.toml"})
