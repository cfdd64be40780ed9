"""Completion, asked of the shells themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fittedq.algorithms import REGISTRY
from fittedq.algorithms.presets import presets
from fittedq.cli.completion import options
from fittedq.cli.main import COMMANDS, main

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_fittedq
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "fittedq.bash"
    done = subprocess.run([sys.executable, "-m", "fittedq", "completion", "bash"], capture_output=True, check=True)
    file.write_bytes(done.stdout)
    return file


def completed(script: Path, *words: str) -> set[str]:
    """What bash offers for the last word."""
    asked = ["bash", "--norc", "-c", ASK, "bash", str(script), "fittedq", *words]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_algorithms_and_presets(script: Path) -> None:
    assert completed(script, "") == {*COMMANDS, "--help", "--version"}
    assert completed(script, "tr") == {"train"}
    assert completed(script, "train", "sac") == {name for name in REGISTRY if name.startswith("sac")}
    assert completed(script, "train", "sac", "Pendulum-v1", "--se") == {"--seed", "--seeds", "--set", "--settling"}
    assert completed(script, "train", "sac", "Pendulum-v1", "--preset", "") == presets().keys()
    assert completed(script, "sweep", "sac", "--on", "") == {"here", "ray", "slurm"}
    assert "split" in completed(script, "data", "")
    assert completed(script, "eval", "runs") == set()  # the shell's own: names of files
    assert "complete -o default -F _fittedq fittedq" in script.read_text()


def test_every_option_that_is_offered_is_one(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("tune", "runs"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", capsys.readouterr().out))
        (offered,) = re.findall(rf'^ +{name}\) words="(--[^"]*)"', script.read_text(), re.MULTILINE)
        assert set(offered.split()) <= shown


def test_other_shells_have_the_same_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for shell in ("zsh", "fish"):
        assert main(["completion", shell]) == 0
        text = capsys.readouterr().out
        assert "amortized_fqi" in text and "droq" in text and "or-resume" in text
        if shutil.which(shell):
            file = tmp_path / "script"
            file.write_text(text)
            subprocess.run([shell, "-n", str(file)], check=True)
    assert main(["completion", "tcsh"]) == 2
    assert "found 'tcsh'; valid names: bash, fish, zsh" in capsys.readouterr().err
    assert main(["completion"]) == 2
    assert "found no shell;" in capsys.readouterr().err


def test_every_command_prints_json_but_the_one_that_prints_a_script() -> None:
    assert {name for name, flags in options().items() if "--json" not in flags} == {"completion"}
