"""Sweeps: every combination once with every seed, and sentences for what no sweep is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fittedq import list_runs
from fittedq.cli.arguments import parse
from fittedq.cli.main import main
from fittedq.cli.sweep import Sweep
from fittedq.cli.train import Train, folder_name

FILE = """
[train]
algorithm = "td3"
env = "Pendulum-v1"
steps = 60
eval_every = 30
[set]
batch_size = 8
random_steps = 20
[grid]
hidden = [[8, 8], [4, 4]]
gamma = [0.9, 0.98]
[sweep]
seeds = 2
seed = 5
out = "OUT"
"""


def planned(*words: str) -> list[Train]:
    """The commands that a sweep carries out."""
    plan = parse(Sweep, "fittedq sweep", list(words))._plan()
    return [parse(Train, "fittedq train", list(task.words[1:])) for task in plan.tasks()]


def test_a_file_and_words_plan_every_combination_with_every_seed(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(FILE.replace("OUT", str(tmp_path / "all")))
    runs = planned(str(file))
    assert [(run.seed, run.set[2:]) for run in runs] == [
        (seed, (f"hidden={hidden}", f"gamma={gamma}"))
        for seed in (5, 6)
        for hidden in ("8,8", "4,4")
        for gamma in ("0.9", "0.98")
    ]
    assert {run.set[:2] for run in runs} == {("batch_size=8", "random_steps=20")}
    assert {(run.algorithm, run.env, run.steps, run.or_resume) for run in runs} == {("td3", "Pendulum-v1", 60, True)}
    assert len({run.out for run in runs}) == 8 and all(tmp_path / "all" in Path(str(run.out)).parents for run in runs)
    words = ["sac", "Pendulum-v1", "--grid", "gamma=0.9,0.98", "--grid=tau=0.01", "--steps", "70", "--seeds", "1"]
    assert [(run.algorithm, run.set, run.steps) for run in planned(*words, "--set", "hidden=8,8")] == [
        ("sac", ("hidden=8,8", f"gamma={gamma}", "tau=0.01"), 70) for gamma in ("0.9", "0.98")
    ]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("[grid]", "[grids]"), "found 'grids'"),
        (("gamma = [0.9, 0.98]", "gama = [0.9]"), "'gama', which is no setting of td3; did you mean 'gamma'"),
        (("gamma = [0.9, 0.98]", "gamma = 0.9"), "expected a list of values"),
        (("gamma = [0.9, 0.98]", "gamma = []"), "expected a list of values"),
        (("batch_size = 8", "gamma = 0.9"), "it is set for all runs"),
        (("steps = 60", "step = 60"), "[train] holds 'step'"),
        (("steps = 60", 'steps = "many"'), "--steps: found 'many'"),
        (('algorithm = "td3"', ""), "names no algorithm"),
        (('algorithm = "td3"', 'algorithm = "td33"'), "td33"),
        (("seeds = 2", "seeds = 0"), "seeds: found 0"),
        (("seeds = 2", "sedes = 2"), "[sweep] holds 'sedes'"),
        (("[sweep]", "[sweep"), "is no TOML"),
        (("[grid]", "[set.grid]"), "found no [grid]"),
        (('out = "', 'out = 3 # "'), "[sweep] has out = 3, expected the name of a folder"),
        (("seeds = 2", "seeds = 100000000000"), "runs, expected at most 10000"),
        (("gamma = [0.9, 0.98]", "gamma = [0.9, 0.9]"), "the same folder"),
        (("gamma = [0.9, 0.98]", "gamma = [0.9, 2.0]"), "gamma=2.0: setting gamma: found 2.0, expected a number below"),
        pytest.param(
            ("gamma = [0.9, 0.98]", 'gamma = [0.9, "much"]'),
            "setting gamma: found 'much', expected a number",
            marks=pytest.mark.unannotated,
        ),
        (
            ("gamma = [0.9, 0.98]", "average_share = [0.3, 0.5]"),
            "average_share=0.5: setting average_share: keep is last",
        ),
        (("batch_size = 8", "batch_sise = 8"), "setting 'batch_sise' is unknown"),
        (("batch_size = 8", "batch_size = 0"), "setting batch_size: found 0"),
        (('env = "Pendulum-v1"', 'env = "Pendulun-v1"'), "Pendulun"),
        (('env = "Pendulum-v1"', 'env = "Pendulum-v1"\neval_env = "Pendulun-v1"'), "Pendulun"),
        (('env = "Pendulum-v1"', 'data = "none"'), "none is not a dataset folder"),
        (("steps = 60", 'steps = 60\nstop_when = "stepp > 3"'), "stepp"),
        (("eval_every = 30", "eval_every = -1"), "--eval-every: found -1"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_trained(
    changed: tuple[str, str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.toml"
    file.write_text(FILE.replace("OUT", str(tmp_path / "all")).replace(*changed))
    assert main(["sweep", str(file)]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


def test_long_names_that_differ_at_their_ends_have_folders_of_their_own(tmp_path: Path) -> None:
    grid = ["--grid", "critic_learning_rate=0.0001,0.0002"]
    for name in ("policy_learning_rate", "target_noise", "target_noise_clip"):
        grid = ["--grid", f"{name}=0.123456789", *grid]  # what differs is cut off
    runs = planned("td3", "Pendulum-v1", *grid, "--seeds", "1", "--out", str(tmp_path))
    names = [Path(str(run.out)).parent.name for run in runs]
    assert len(set(names)) == 2 and {len(name) for name in names} == {80}
    assert names[0][:70] == names[1][:70] and folder_name("a" * 80) == "a" * 80


def test_the_steps_of_its_runs_are_said_where_nobody_gave_them() -> None:
    plan = parse(Sweep, "fittedq sweep", ["td3", "Pendulum-v1", "--grid", "gamma=0.9,0.98", "--seeds", "2"])._plan()
    assert plan.told.startswith("4 runs of 100,000 steps each")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["td3", "Pendulum-v1"], "found no --grid"),
        (["td3", "Pendulum-v1", "--grid", "gamma="], "--grid gamma="),
        (["none.toml"], "cannot be read"),
        (["none.toml", "--grid", "gamma=1,2"], "--grid: found none.toml too"),
        (["none.toml", "--eval-every", "0"], "--eval-every: found none.toml too"),
        (["none.toml", "Pendulum-v1"], "found 'Pendulum-v1' beside none.toml"),
    ],
)
def test_wrong_words_are_refused(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_is_trained_shown_and_not_trained_again(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(FILE.replace("OUT", str(tmp_path / "all")).replace("gamma = [0.9, 0.98]", ""))
    command = [sys.executable, "-m", "fittedq", "sweep", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert [one.state for one in list_runs(tmp_path / "all")] == ["finished"] * 4
    assert "td3 hidden=4,4" in done.stdout and "interquartile mean" in done.stdout
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "all").rglob("*") if path.is_file()}
    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0 and again.stdout.splitlines()[-3:] == done.stdout.splitlines()[-3:]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "all").rglob("*") if path.is_file()} == files


def test_values_of_a_setting_are_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "td3", "Pendulum-v1", "--grid", "tau=0.1", "--grid", "tau=0.2"]) == 2
    assert "--grid: found tau twice, expected it once" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--address", "127.0.0.1:9"], ["--processes", "0"], ["--processes", "9999"]])
def test_nothing_is_said_to_begin_where_it_cannot(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["td3", "Pendulum-v1", "--grid", "gamma=0.9,0.98", "--out", str(tmp_path / "all")]
    assert main(["sweep", *sweep, *words]) == 2
    told = capsys.readouterr()
    assert words[0] in told.err and "6 runs" not in told.out + told.err and list(tmp_path.iterdir()) == []
