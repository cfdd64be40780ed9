"""What runs, agents and commands say when something is missing: what there is instead, and how to go on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fittedq
from fittedq.cli.main import main
from fittedq.errors import UserError

TINY: dict[str, Any] = {"hidden": (8,), "batch_size": 8}
SET = ["--set", "hidden=8,", "--set", "batch_size=8", "--set", "random_steps=20"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "log"
    assert main(["data", "collect", "Pendulum-v1", "--steps", "60", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def from_data(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "offline"
    command = ["train", "td3", "--data", str(data), "--steps", "5", "--out", str(folder), *SET[:4]]
    assert main(command) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "online"
    fittedq.train("td3", "Pendulum-v1", steps=40, eval_every=40, eval_episodes=2, out=folder, random_steps=20, **TINY)
    return folder


def test_a_run_from_data_is_inspected_on_its_data_and_has_no_environment(
    from_data: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(from_data), "--gap", "--states", "2", "--worst", "1", "--tol", "0.5", "--json"]) == 0
    (worst,) = json.loads(capsys.readouterr().out)["worst"]
    assert worst["relative_lower"] == pytest.approx(worst["lower"] / worst["scale"])
    for path in (from_data, from_data / "last"):
        assert main(["eval", str(path)]) == 2
        assert f"names no environment: it was learned from {data}; name one with --env." in capsys.readouterr().err
    assert "environment" not in repr(fittedq.load(from_data))


def test_the_gap_is_told_in_its_own_units_and_in_shares_each_on_its_lines(
    from_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(from_data), "--gap", "--states", "2", "--worst", "1", "--tol", "0.5"]) == 0
    told = capsys.readouterr().out
    medians = re.findall(r"^ +median  (.*)$", told, re.MULTILINE)
    assert [line.count("%") for line in medians] == [0, 2]
    assert re.search(r"worst state +\d+  gap \S+ to \S+ \(\S+% to \S+% of the range of q\)", told)


def test_what_a_run_left_is_named_and_nothing_else(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", "td3", "--data", str(data), "--steps", "5", "--out", str(out), *SET[:4]]) == 0
    said = capsys.readouterr().err
    assert f"Run folder: {out} (last/, metrics.jsonl" in said
    assert "best/" not in said
    assert main(["resume", str(out), "--steps", "8"]) == 0
    assert f"Continuing {out} at step 5 of 8." in capsys.readouterr().err


def test_a_finished_run_is_said_to_be_finished(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "td3", "Pendulum-v1", "--steps", "40", "--out", str(run), *SET]
    assert main(command) == 2
    assert f"finished; continue it with `fittedq resume {run} --steps MORE`" in capsys.readouterr().err


def test_where_the_best_agent_is_damaged_the_last_is_offered(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    (folder / "best" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=re.escape(f"Take {folder / 'last'} instead.")):
        fittedq.load(folder)
    (folder / "last" / "manifest.json").unlink()
    with pytest.raises(UserError, match=re.escape(f"`fittedq resume {folder}` writes")):
        fittedq.load(folder)
    (tmp_path / "log.csv").touch()
    with pytest.raises(UserError, match=r"log.csv is not an agent"):
        fittedq.load(tmp_path / "log.csv")


def test_eval_gives_the_standard_deviation_by_its_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--episodes", "2", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["std"] == pytest.approx(np.std(figures["returns"]))
    assert main(["eval", str(run), "--episodes", "2"]) == 0
    assert f"standard deviation {figures['std']:.1f}" in capsys.readouterr().out


def test_an_observation_that_is_not_finite_points_to_step(run: Path) -> None:
    with pytest.raises(UserError, match=r"expected a finite number; `agent.step` takes a safe action"):
        fittedq.load(run).act([np.nan, 0.0, 0.0])


def test_a_folder_of_runs_is_told_from_a_run(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seeds and sweeps leave one; it names what to take, and nothing is written."""
    for seed in (3, 4):
        shutil.copytree(run, tmp_path / f"seed-{seed}")
    sentence = f"{tmp_path} holds 2 runs; name one, such as {tmp_path / 'seed-3'}."
    for words in (["eval"], ["resume"], ["inspect"], ["shadow", "--data", str(data)], ["push", "--out", "never"]):
        assert main([*words, str(tmp_path)]) == 2
        assert sentence in capsys.readouterr().err
    with pytest.raises(UserError, match=re.escape(sentence)):
        fittedq.load(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
