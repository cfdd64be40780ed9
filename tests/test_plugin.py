"""A method in a package outside ours is found by its entry point, and stands where ours stand."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fittedq
from fittedq import algorithms
from fittedq.cli.main import main
from fittedq.testing import conforms

PLUGIN = Path(__file__).parent / "plugin"


def wheel(folder: Path) -> Path:
    """The package as a wheel: its module, and a folder that says what it is and announces."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    title = f"fittedq_timid-{project['version']}"
    lines = "\n".join(f"{name} = {place}" for name, place in project["entry-points"]["fittedq.algorithms"].items())
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "entry_points.txt": f"[fittedq.algorithms]\n{lines}\n",
    }
    files = {f"{title}.dist-info/{name}": text for name, text in about.items()}
    files |= {"fittedq_timid.py": (PLUGIN / "fittedq_timid.py").read_text()}
    record = f"{title}.dist-info/RECORD"
    files |= {record: "".join(f"{name},,\n" for name in (*files, record))}
    path = folder / f"{title}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return path


def install(package: Path, target: Path) -> None:
    """By pip, without a network. Building the wheel by pip would need setuptools and `wheel`, which a new environment
    lacks: the test packs it itself."""
    words = [
        "--disable-pip-version-check",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--quiet",
        "--target",
        str(target),
    ]
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *words, str(package)],
        check=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    target = tmp_path_factory.mktemp("plugin")
    install(wheel(target), target / "site")
    sys.path.insert(0, str(target / "site"))
    importlib.invalidate_caches()
    algorithms._entries.cache_clear()
    yield target
    sys.path.remove(str(target / "site"))
    sys.modules.pop("fittedq_timid", None)
    algorithms._entries.cache_clear()


def test_it_stands_in_the_list_and_a_broken_one_is_a_sentence(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list"]) == 0
    told = capsys.readouterr()
    assert "timid          TD3 that climbs the least of its critics\n" in told.out
    assert "td3            Twin delayed deep deterministic policy gradient\n" in told.out, "a name of ours stays ours"
    announced = "which the installed package fittedq-timid announces"
    clashing, broken = told.err.splitlines()
    assert clashing.startswith(f"warning: algorithm 'td3', {announced}, has the name of one of fittedq's own")
    assert broken.startswith(f"warning: algorithm 'broken', {announced}, cannot")
    assert main(["list", "timid"]) == 0
    assert "Smoothed(PolicyAction, sigma=0.2, clip=0.5)" in capsys.readouterr().out
    assert main(["train", "broken", "Pendulum-v1"]) == 2
    assert "cannot be had (" in capsys.readouterr().err
    assert main(["train", "timd", "Pendulum-v1"]) == 2
    assert "did you mean 'timid'" in capsys.readouterr().err


def test_it_trains_from_the_command_line_saves_and_resumes_without_code(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = installed / "run"
    small = ["hidden=4", "batch_size=8", "random_steps=10"]
    settings = [word for pair in small for word in ("--set", pair)]
    assert main(["train", "timid", "Pendulum-v1", "--steps", "20", "--out", str(run), *settings]) == 0
    assert main(["resume", str(run), "--steps", "25"]) == 0
    capsys.readouterr()
    config = json.loads((run / "config.json").read_text())
    assert (config["algorithm"], "algorithm" in config["settings"]) == ("timid", False)
    assert np.isfinite(fittedq.load(run).act(np.zeros(3))).all()


def test_its_run_names_the_package_once_that_is_gone(
    installed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(installed / "run")  # the test before made it
    monkeypatch.setattr(algorithms, "_entries", dict)
    told = "algorithm 'timid' came with the package 'fittedq-timid', which is not installed here, or"
    for command in (["resume", run, "--steps", "30"], ["eval", run]):
        assert main(command) == 2
        assert f"{told} announces it no more; install it again." in capsys.readouterr().err
    assert main(["inspect", run]) == 0
    shown = capsys.readouterr()
    assert "package  fittedq-timid" in shown.out and told in shown.err


def test_it_conforms(installed: Path) -> None:
    conforms(algorithms.find("timid")(hidden=(4,)))
