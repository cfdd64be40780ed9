"""The command line: what it prints and leaves, Ctrl-C, and one sentence with exit code 2 for every mistake."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from fittedq import algorithms
from fittedq.cli.main import main
from methods import each

TINY = ["--set", "hidden=8,", "--set", "batch_size=8", "--set", "random_steps=30", "--set", "replay_size=1000"]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither this process nor one it starts writes to the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("FITTEDQ_NO_CACHE", "1")
        yield


def train(out: Path, *more: str, algorithm: str = "ddpg", env: str = "Pendulum-v1", steps: int = 80) -> list[str]:
    return ["train", algorithm, env, "--steps", str(steps), "--out", str(out), *TINY, *more]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main(train(out, "--seed", "1", "--eval-every", "40", "--eval-episodes", "2")) == 0
    return out


# ---------------------------------------------------------------------- list


def test_list_names_every_algorithm_with_its_slots(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    plain = capsys.readouterr().out
    assert [line.split()[0] for line in plain.partition("\n\n")[0].splitlines()] == list(algorithms.REGISTRY)
    assert max(map(len, plain.splitlines())) <= 80
    assert main(["list", "--json"]) == 0
    rows = lines(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(algorithms.REGISTRY)
    assert all(row.keys() >= {"title", "buffer", "greedy", "updates", "sync"} for row in rows)


@pytest.mark.parametrize("name", each("td3", "explicit_fqi", "svg"))
def test_list_of_one_algorithm_shows_its_settings_and_the_loops(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", name]) == 0
    plain = capsys.readouterr().out
    assert main(["list", name, "--json"]) == 0
    rows = lines(capsys.readouterr().out)
    settings = {row["setting"]: row["from_data"] for row in rows}
    assert settings["gamma"] == algorithms.find(name)().gamma
    normalized = next(row for row in rows if row["setting"] == "normalize_obs")
    assert normalized["from_data"] is True
    assert normalized["online"] is (False if algorithms.find(name).online else None)
    slots = algorithms.find(name)().describe().values()
    assert all(part in plain for slot in slots for part in slot.split("; "))
    assert settings["batch_size"] == 256
    assert all(setting in plain for setting in settings)
    assert all(row["meaning"] for row in rows)


# ---------------------------------------------------------------------- train, resume, eval


def test_train_leaves_configuration_metrics_curve_agents_and_checkpoints(finished: Path) -> None:
    assert (finished / "curve.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((finished / "config.json").read_text())
    assert (config["algorithm"], config["env"], config["seed"], config["steps"]) == ("ddpg", "Pendulum-v1", 1, 80)
    assert config["settings"]["hidden"] == [8]
    assert config["settings"]["random_steps"] == 30
    records = lines((finished / "metrics.jsonl").read_text())
    assert [record["step"] for record in records] == [40, 80]
    assert all(len(record["eval_returns"]) == 2 for record in records)
    assert records[-1]["updates"] == 51
    for folder in ("best", "last", "checkpoints/step-0000000080"):
        assert (finished / folder / "manifest.json").is_file()


def test_resume_with_more_steps_goes_on_to_the_run_that_was_never_cut(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut, straight = tmp_path / "cut", tmp_path / "straight"
    assert main(train(cut, "--json", steps=50)) == 0
    *reports, done = lines(capsys.readouterr().out)
    assert [report["step"] for report in reports] == [50]
    assert (done["event"], done["step"], done["run"]) == ("done", 50, str(cut))

    assert main(["resume", str(cut), "--steps", "80", "--json"]) == 0
    *reports, done = lines(capsys.readouterr().out)
    assert [report["step"] for report in reports] == [80]
    assert reports[-1].keys() >= {"event", "updates", "episodes", "steps_per_second", "eta_seconds"}
    assert done["step"] == 80

    assert main(train(straight, steps=80)) == 0
    (one,), (other,) = ((run / "checkpoints/step-0000000080").glob("tensors-*") for run in (cut, straight))
    assert one.read_bytes() == other.read_bytes()


def test_train_and_eval_without_json_say_where_and_how_well(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train(tmp_path / "run", "--eval-every", "80", "--eval-episodes", "1")) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "Done: 80 steps" in said.err
    assert "Last evaluation -" in said.err
    assert main(["eval", str(finished), "--episodes", "2"]) == 0
    assert capsys.readouterr().out.startswith("ddpg on Pendulum-v1: mean return -")


def test_eval_repeats_the_best_evaluation_of_the_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(finished), "--episodes", "2", "--seed", "1", "--json"]) == 0
    (result,) = lines(capsys.readouterr().out)
    best = max(lines((finished / "metrics.jsonl").read_text()), key=lambda record: record["eval_mean"])
    np.testing.assert_allclose(result["returns"], best["eval_returns"])
    np.testing.assert_allclose(result["mean"], best["eval_mean"])
    assert result["env"] == "Pendulum-v1"


def test_eval_takes_an_agent_folder_and_another_environment_by_id(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(finished / "last"), "--env", "jax/Pendulum-v1", "--episodes", "3", "--json"]) == 0
    (result,) = lines(capsys.readouterr().out)
    assert (result["env"], len(result["returns"])) == ("jax/Pendulum-v1", 3)


def test_a_compiled_environment_is_trained_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(train(out, "--eval-every", "0", "--json", env="jax/Pendulum-v1", steps=60)) == 0
    assert main(["resume", str(out), "--steps", "120", "--json"]) == 0
    events = lines(capsys.readouterr().out)
    assert [event["step"] for event in events if event["event"] == "report"] == [60, 120]


class Enormous(gymnasium.Env):
    """Its rewards are finite, their squares are not."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        return np.zeros(1, np.float32), 1e30, False, False, {}


@pytest.fixture
def enormous() -> Iterator[str]:
    gymnasium.register("Enormous-v0", Enormous)
    yield "Enormous-v0"
    del gymnasium.registry["Enormous-v0"]


def test_rewards_that_overflow_are_said_at_once_and_end_the_run_with_what_went_first(
    enormous: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train(tmp_path / "run", "--eval-every", "0", "--json", env=enormous, steps=31)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "learning diverged at update 1: the critic's loss is not finite; scale the rewards down" in said.err


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_divergence_is_one_sentence_about_learning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(train(tmp_path / "run", "--eval-every", "0", "--set", "policy_learning_rate=3e38")) == 2
    assert "learning diverged" in capsys.readouterr().err


# ---------------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, id="ctrl-c"), pytest.param(signal.SIGTERM, id="terminate", marks=pytest.mark.slow)],
)
def test_an_interrupted_run_is_saved_and_can_be_resumed(number: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = train(out, "--json", "--eval-every", "0", "--checkpoint-every", "50", steps=1_000_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "fittedq", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    last = lines(rest)[-1]
    assert last["event"] == "interrupted"
    assert first["step"] <= last["step"] < 1_000_000

    assert main(["resume", str(out), "--steps", str(last["step"] + 60), "--json"]) == 0
    steps = [record["step"] for record in lines((out / "metrics.jsonl").read_text())]
    assert steps == sorted(set(steps))
    assert last["step"] in steps
    assert steps[-1] == last["step"] + 60


# ---------------------------------------------------------------------- mistakes


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused; the one sentence it says."""

    def refused(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("fittedq: ")
        assert said.err.count("\n") == 1
        assert said.err.strip().endswith((".", "?"))
        return said.err

    return refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "sacc", "Pendulum-v1"), ("'sacc' is unknown", "'sac'")),
        (("train", "ddpg", "Pendulm-v1"), ("'Pendulm-v1' is unknown", "'Pendulum-v1'")),
        (("train", "ddpg", "HalfChetah-v5"), ("'HalfCheetah-v5'",)),
        (("train", "ddpg", ""), ("'' is unknown",)),
        (("train", "ddpg", "jax/Pendulum"), ("'jax/Pendulum-v1'",)),
        (("train", "ddpg", "CartPole-v1"), ("Discrete(2)", "expected a Box of continuous actions")),
        (("train", "ddpg", "Pendulum-v1", "--set", "gama=0.9"), ("'gama' is unknown", "'gamma'")),
        (("train", "ddpg", "Pendulum-v1", "--set", "gamma"), ("--set gamma", "expected key=value")),
        (("train", "ddpg", "Pendulum-v1", "--set", "=3"), ("'' is unknown",)),
        (("train", "ddpg", "Pendulum-v1", "--set", "gamma=1.5"), ("gamma", "1.5", "below 1")),
        (("train", "ddpg", "Pendulum-v1", "--set", "batch_size=0"), ("batch_size", "found 0", "at least 1")),
        (("train", "ddpg", "Pendulum-v1", "--set", "batch_size=-4"), ("batch_size", "found -4", "at least 1")),
        (("train", "ddpg", "Pendulum-v1", "--set", "replay_size=-1"), ("replay_size", "found -1")),
        (("train", "ddpg", "Pendulum-v1", "--set", "hidden=16,0"), ("hidden", "found 0", "at least 1")),
        (("train", "ddpg", "Pendulum-v1", "--set", "n-envs=0"), ("n_envs", "found 0")),
        (("train", "ddpg", "Pendulum-v1", "--steps", "0"), ("steps", "found 0", "at least 1")),
        (("train", "ddpg", "Pendulum-v1", "--steps", "-5"), ("--steps: found -5", "at least 1")),
        (("train", "ddpg", "Pendulum-v1", "--seed", "-1"), ("--seed: found -1",)),
        (("train", "ddpg", "Pendulum-v1", "--eval-every", "-1"), ("--eval-every: found -1",)),
        (("train", "ddpg", "Pendulum-v1", "--eval-episodes", "0"), ("--eval-episodes: found 0",)),
        (("train", "explicit_fqi", "Pendulum-v1"), ("--data: algorithm 'explicit_fqi' learns no policy",)),
        (("list", "tdd3"), ("'tdd3' is unknown", "'td3'")),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, tuple) else None,
)
def test_a_mistake_in_a_command_is_one_sentence(
    arguments: tuple[str, ...], words: tuple[str, ...], refused: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    sentence = refused(*arguments, *(("--out", str(out)) if arguments[0] == "train" else ()))
    assert all(word in sentence for word in words), sentence
    assert not out.exists()


def test_a_run_folder_is_never_written_over(finished: Path, refused: Callable[..., str]) -> None:
    before = (finished / "config.json").read_bytes()
    same = refused(*train(finished, "--seed", "1", steps=500))
    assert "holds a run of the same configuration" in same and "fittedq: --out: run folder" in same
    assert f"fittedq resume {finished}" in same
    assert "holds a run of another configuration" in refused(*train(finished, "--seed", "2"))
    assert "holds a run of another configuration" in refused(*train(finished, "--seed", "1", "--set", "gamma=0.9"))
    assert (finished / "config.json").read_bytes() == before


def test_a_run_folder_under_a_file_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(*train(tmp_path / "file" / "run"))
    assert "cannot be written" in refused(*train(tmp_path / "file"))


def test_resume_of_what_is_no_run_is_refused(finished: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    assert "holds no config.json" in refused("resume", str(tmp_path))
    assert "holds no config.json" in refused("resume", str(tmp_path / "nothing"))
    (tmp_path / "config.json").write_text("{}")
    assert "damaged or not one of ours" in refused("resume", str(tmp_path))
    (tmp_path / "config.json").write_text("not JSON")
    assert "damaged" in refused("resume", str(tmp_path))
    (tmp_path / "config.json").write_bytes((finished / "config.json").read_bytes())
    (tmp_path / "last").mkdir()
    assert "holds no whole checkpoint" in refused("resume", str(tmp_path))


def test_resume_of_a_finished_run_asks_for_more_steps_and_changes_nothing(
    finished: Path, refused: Callable[..., str]
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert "has taken 80 of 80 steps; give a larger --steps" in refused("resume", str(finished))
    assert "give a larger --steps" in refused("resume", str(finished), "--steps", "60")
    assert "found 0" in refused("resume", str(finished), "--steps", "0")
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_eval_of_nothing_is_refused(finished: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    assert "check the path" in refused("eval", str(tmp_path / "nothing"))
    assert "is not an agent" in refused("eval", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert "holds no saved agent" in refused("eval", str(tmp_path))
    assert "found 0" in refused("eval", str(finished), "--episodes", "0")
    assert "'Pendulum-v1'" in refused("eval", str(finished), "--env", "Pendulum-v8")
    assert "observations have shape" in refused("eval", str(finished), "--env", "MountainCarContinuous-v0")


def test_the_script_says_one_sentence_on_standard_error_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fittedq", "train", "ddpg", "Pendulum-v1", "--set", "gamma=high"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    sentence = "fittedq: setting gamma: found 'high', expected a number.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("hidden=a", "setting hidden: found 'a', expected whole numbers."),
        ("batch_size=2.5", "setting batch_size: found 2.5, expected a whole number."),
    ],
)
@pytest.mark.unannotated
def test_a_setting_of_the_wrong_kind_is_refused_before_anything_is_written(
    assignment: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused("train", "ddpg", "Pendulum-v1", "--set", assignment) == f"fittedq: {sentence}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("train td3 P --steps abc", "--steps: found 'abc', expected a whole number."),
        ("train td3 P --eval_every=1.5", "--eval-every: found '1.5', expected a whole number."),
        ("train td3 P --integer 1 x", "--integer: found '1' 'x', expected whole numbers."),
        ("eval run --trust far", "--trust: found 'far', expected a number."),
        ("resume run --trust-code", "--trust-code: found no value, expected NAME."),
        ("train td3 P --stepz 3", "option --stepz is unknown; did you mean '--steps' or"),
        ("data collect P --stepz 3", "option --stepz is unknown; did you mean '--steps' or"),
        ("train td3 P more", "train: found 'more', expected no further word;"),
        ("train", "train: found no algorithm;"),
        ("data collect P", "data: found no --steps and no --out;"),
        ("data colect", "data: found 'colect'; did you mean 'collect' or"),
        ("data", "data: found no command; valid names: check, collect, describe, export, import, split."),
    ],
)
def test_arguments_that_cannot_be_read_are_one_sentence(
    command: str, sentence: str, refused: Callable[..., str]
) -> None:
    assert refused(*command.split()).startswith(f"fittedq: {sentence}")


def test_help_speaks_no_python(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "resume", "eval", "inspect", "list"):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code in (0, None)
        assert "None" not in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [sys.executable, "-m", "fittedq", "list", "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (process.returncode, process.stderr) == (0, "")


# ---------------------------------------------------------------------- evaluations that are stopped


@pytest.mark.parametrize(("steps", "played"), [(450, 2), (150, 0)])
def test_a_stopped_eval_tells_of_the_episodes_that_it_has(
    steps: int, played: int, finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An episode of Pendulum-v1 has 200 steps, and after each it is asked whether to stop."""
    assert main(["eval", str(finished), "--episodes", "3", "--json"]) == 0
    (whole,) = lines(capsys.readouterr().out)
    assert whole["interrupted"] is False

    class After:
        """True from the time after which it was asked `steps` times."""

        def __init__(self) -> None:
            self.asked = 0

        def __bool__(self) -> bool:
            self.asked += 1
            return self.asked > steps

    monkeypatch.setattr("fittedq.cli.eval.interruptible", lambda _: contextlib.nullcontext(After()))
    assert main(["eval", str(finished), "--episodes", "3", "--json"]) == 130
    said = capsys.readouterr()
    if not played:
        assert (said.out, said.err) == ("", "fittedq: interrupted.\n")
        return
    (result,) = lines(said.out)
    assert (result["returns"], result["interrupted"]) == (whole["returns"][:played], True)
    assert main(["eval", str(finished), "--episodes", "3"]) == 130
    assert "over 2 episodes of the 3 asked for" in capsys.readouterr().out
