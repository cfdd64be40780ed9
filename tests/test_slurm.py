"""A sweep as a Slurm array: the script that is written, run by bash as Slurm runs it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fittedq import list_runs
from fittedq.cli.main import main
from fittedq.runs.slurm import script
from fittedq.runs.tasks import Task

SWEEP = ["sweep", "td3", "Pendulum-v1", "--grid", "tau=0.01", "--grid", "gamma=0.9,0.98", "--steps", "60"]
TINY = ["--set", "hidden=8,8", "--set", "batch_size=8", "--set", "random_steps=20", "--eval-every", "0", "--seeds", "2"]


def carried_out(file: Path, number: object) -> subprocess.CompletedProcess[str]:
    """One task of the array, as Slurm carries it out."""
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(number)}
    return subprocess.run(["bash", str(file)], capture_output=True, text=True, timeout=600, env=environment, cwd="/")


def test_each_line_says_its_task_to_the_shell_word_by_word(tmp_path: Path) -> None:
    """What a shell would take apart or fill in comes to the program as it was."""
    word = "a b;$HOME 'c' \"d\" `e`\n*"
    file = tmp_path / "s.sbatch"
    tasks = [Task("one", ("train", word), {}), Task("two", ("--version",), {})]
    # The program shows its words instead of taking them.
    file.write_text(
        script(tasks, tmp_path).replace("-m fittedq", "-c 'import json, sys; print(json.dumps(sys.argv[1:]))'")
    )
    assert json.loads(carried_out(file, 0).stdout) == ["train", word]
    assert json.loads(carried_out(file, 1).stdout) == ["--version"]
    assert carried_out(file, 2).returncode == 2


def test_the_head_is_of_slurms_words(tmp_path: Path) -> None:
    lines = script([Task(str(n), ("--version",), {}) for n in range(12)], tmp_path / "50 %", at_once=3).splitlines()
    assert lines[0] == "#!/bin/bash" and "#SBATCH --array=0-11%3" in lines
    assert f'#SBATCH --output="{tmp_path}/50 %%/slurm-%a.txt"' in lines
    assert max(n for n, line in enumerate(lines) if line.startswith("#SBATCH")) < lines.index("set -eu")
    with pytest.raises(ValueError, match="choose another"):
        script([], tmp_path / "a\nb")


def test_a_script_is_written_again_and_nothing_else_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "all" / "sweep.sbatch"
    command = [*SWEEP, *TINY, "--on", "slurm", "--out", str(file.parent)]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert f"{file}: 4 tasks" in told and f"sbatch --time=4:00:00 {file}" in told
    assert main([*command, "--processes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"script": str(file), "tasks": 4, "submit": f"sbatch {file}"}
    assert "#SBATCH --array=0-3%2" in file.read_text() and os.access(file, os.X_OK)
    file.write_text("#!/bin/bash\nmine\n")
    assert main(command) == 2 and "is not replaced" in capsys.readouterr().err
    assert file.read_text() == "#!/bin/bash\nmine\n" and list_runs(tmp_path) == []
    assert main([*command[:-1], str(file)]) == 2 and f"folder {file} cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--on", "moon"], "--on: found 'moon'"),
        (["--address", "a:1"], "--address: found a:1, which belongs to --on ray"),
        (["--on", "slurm", "--processes", "0"], "processes: found 0"),
    ],
)
def test_a_place_that_is_none_is_refused(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SWEEP, *TINY, "--out", str(tmp_path / "all"), *words]) == 2
    assert told in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_array_trains_every_run_as_the_command_itself_does(tmp_path: Path) -> None:
    out = tmp_path / "all runs"
    assert main([*SWEEP, *TINY, "--on", "slurm", "--out", str(out)]) == 0
    done = [carried_out(out / "sweep.sbatch", number) for number in (0, 0)]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr
    assert json.loads(done[1].stdout)["event"] == "done"  # submitted again: nothing to do
    assert [(one.state, one.seed) for one in list_runs(out)] == [("finished", 0)]
