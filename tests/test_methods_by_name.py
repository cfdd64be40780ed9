"""A method of one's own by name, file.py:Name: what is done by its words, and that a file's word alone does nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import pytest

import fittedq
from fittedq import UserError
from fittedq.cli.main import main
from fittedq.files import read_json

PAGE = (Path(__file__).parent.parent / "docs" / "your_own_method.md").read_text()
SMALL: dict[str, Any] = {"batch_size": 8, "random_steps": 10, "replay_size": 100}
TINY = ["--eval-every", "0", "--set", "hidden=4", *(f"--set={name}={value}" for name, value in SMALL.items())]
TRUSTED = ["--trust-code", "own.py:Cautious"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's method in `own.py`, and a run of it as the page begins one."""
    folder = tmp_path_factory.mktemp("own")
    slots, _, cls, _ = (block.split("```")[0] for block in PAGE.split("```python\n")[1:])
    objects = (
        "plain = Cautious(hidden=(4,), k=0.2)",
        "template = plain.template(fittedq.Box((-2.0,), (2.0,)))",
        "composed = fittedq.Composed(fqi=template, networks=plain.networks, exploration=plain.exploration())",
    )
    (folder / "own.py").write_text("\n".join(["import fittedq", slots, cls, *objects]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*commands()[0], "--steps", "12", *TINY]) == 0
    return folder


def commands() -> list[list[str]]:
    """The commands of the page, without their first word."""
    lines = PAGE.split("```bash\n")[1].split("```")[0].splitlines()
    return [line.replace("200000", "15").split()[1:] for line in lines]


def test_the_commands_of_the_page_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    config = read_json(place / "runs" / "cautious" / "config.json")
    assert config["method"] == "own.py:Cautious" and config["settings"]["k"] == 0.7
    for command in commands()[1:]:
        assert main(command) == 0, capsys.readouterr().err
    assert "cautious on Pendulum-v1: mean return" in capsys.readouterr().out
    assert fittedq.load("runs/cautious", trust_code=["own.py:Cautious"]).algorithm.k == 0.7  # type: ignore[attr-defined]
    assert main(["list", "own.py:Cautious", "--json"]) == 0
    assert "weight of the spread of the critics" in capsys.readouterr().out


def test_nothing_is_imported_on_a_files_word(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("raise SystemExit('imported')\n")
    run = str(place / "runs" / "cautious")
    remedy = "If you trust it, name it yourself: --trust-code own.py:Cautious (in Python trust_code="
    for command in (
        ["eval", run],
        ["resume", run, "--steps", "90"],
        ["inspect", run, "--gap"],
        ["train", "td3", "Pendulum-v1", "--start", run],
        ["data", "collect", "Pendulum-v1", "--steps", "9", "--out", "log", "--policy", run],
    ):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert "names code to be run for its method: own.py:Cautious. " + remedy in told, command
    assert main(["inspect", run, "--json"]) == 0, "what needs no code is shown"
    out, told = capsys.readouterr()
    about = json.loads(out)
    assert (about["algorithm"], about["method"], about["settings"]["k"]) == ("cautious", "own.py:Cautious", 0.7)
    assert remedy in told
    assert main(["eval", run, *TRUSTED]) == 2
    assert "importing own.py raised SystemExit: imported" in capsys.readouterr().err, "now the user says so"
    assert not (tmp_path / "log").exists() and not (tmp_path / "runs").exists()


def test_a_run_whose_file_has_moved_takes_it_as_code(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = str(place / "runs" / "cautious")
    (tmp_path / "moved.py").write_text((place / "own.py").read_text())
    monkeypatch.chdir(tmp_path)
    assert main(["eval", run, "--episodes", "1", "--code", "moved.py:Cautious"]) == 0
    td3, box = fittedq.TD3(hidden=(4,)), fittedq.Box((-2.0,), (2.0,))
    nets = td3.networks(3, box, jax.random.PRNGKey(0))
    fittedq.Agent(td3, 3, box, nets, env="Pendulum-v1").save("td3")
    assert main(["compare", "td3", run, "--episodes", "2", "--code", "moved.py:Cautious"]) == 0
    assert main(["compare", "td3", run, "--episodes", "2"]) == 2
    assert "If you trust it, name it yourself: --trust-code own.py:Cautious" in capsys.readouterr().err
    assert main(["eval", run, "--code", "moved.py:composed"]) == 2
    assert "expected Cautious, as" in capsys.readouterr().err
    assert main(["eval", run, "--code", "moved.py:TINY"]) == 2
    assert "algorithm 'moved.py:TINY': moved.py has no 'TINY'" in capsys.readouterr().err
    assert main(["train", "moved.py:fittedq", "Pendulum-v1"]) == 2
    assert "expected a method, such as one Composed of slots, or a class of methods." in capsys.readouterr().err
    assert main(["train", "moved.py", "Pendulum-v1"]) == 2
    assert "A method of your own is named as file.py:Name or module:Name." in capsys.readouterr().err
    assert main(["eval", run, *TRUSTED, "--code", "moved.py:Cautious", "--trust-code", "foo:bar"]) == 2
    assert "which no environment that is named there needs, nor its method" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["plain", "composed"])
def test_an_object_is_a_method_too_and_starts_from_its_own_kind(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    first = fittedq.train(f"own.py:{name}", "Pendulum-v1", steps=12, out=f"runs/{name}", **SMALL)
    assert getattr(first.algorithm, "k", 0.2) == 0.2
    again = fittedq.load(f"runs/{name}", code=f"own.py:{name}")
    assert again.value([1.0, 0.0, 0.0], [0.5]) == first.value([1.0, 0.0, 0.0], [0.5])
    warm = fittedq.train(first.algorithm, "Pendulum-v1", steps=1, start=f"runs/{name}", **SMALL)
    assert warm.value([1.0, 0.0, 0.0], [0.5]) == first.value([1.0, 0.0, 0.0], [0.5]), "no update was made"


@pytest.mark.unannotated
def test_a_start_that_is_neither_agent_nor_folder_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"start: found .*, expected an agent, or the folder of one or of a run"):
        fittedq.train("td3", "Pendulum-v1", steps=1, start=fittedq.TD3)  # type: ignore[arg-type]
