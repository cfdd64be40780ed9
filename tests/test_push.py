"""A run as a folder for a model hub: it loads, and its card says what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import fittedq
from fittedq.cli.main import main
from fittedq.runs.folder import RunFolder

WORDS = ["train", "td3", "Pendulum-v1", "--set", "hidden=8,", "--set", "batch_size=8", "--set", "random_steps=5"]


def test_a_pushed_folder_loads_and_its_card_has_the_runs_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_film(*args: object, **given: object) -> int:
        raise fittedq.UserError("it does not render.")

    monkeypatch.setattr("fittedq.cli.push.render", no_film)
    run, out = tmp_path / "run", tmp_path / "hub"
    assert main([*WORDS, "--steps", "20", "--eval-every", "10", "--eval-episodes", "2", "--out", str(run)]) == 0
    assert main(["push", str(run), "--out", str(out)]) == 0
    assert "No film: it does not render." in capsys.readouterr().out
    best = max(RunFolder(run).metrics(), key=lambda line: line["eval_mean"])
    card = (out / "README.md").read_text()
    _, head, text = card.split("---\n", 2)
    about = {key: json.loads(value) for key, value in re.findall(r"^(tags|model-index): (.*)$", head, re.MULTILINE)}
    (metric,) = about["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == f"{best['eval_mean']:.2f} +/- {np.std(best['eval_returns']):.2f}"
    assert "td3" in about["tags"] and "Pendulum-v1" in about["tags"] and f"{best['eval_mean']:.2f}" in text
    assert str(tmp_path) not in card + (out / "settings.json").read_text() + (out / "manifest.json").read_text()
    obs = np.array([1.0, 0.0, 0.0], np.float32)
    np.testing.assert_array_equal(fittedq.load(out).act(obs), fittedq.load(run).act(obs))
    assert main(["push", str(run), "--out", str(out), "--json"]) == 0  # again: its own is replaced
    assert json.loads(capsys.readouterr().out)["no_film"] == "it does not render."
    (out / "README.md").write_text("mine")
    assert main(["push", str(run), "--out", str(out)]) == 2
    assert "is not fittedq's" in capsys.readouterr().err and (out / "README.md").read_text() == "mine"


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(tmp_path), "--out", str(tmp_path / "hub")]) == 2
    assert "holds no config.json" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
