"""What a folder from elsewhere may hold in the places of our files, and what is refused for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fittedq
from fittedq.cli.arguments import _repeatable
from fittedq.cli.main import COMMANDS, main
from fittedq.data.segments import RowLog, read_rows, write_rows
from fittedq.errors import UserError
from fittedq.files import Lock, Scratch, check_file, place, replacing, save_folder
from fittedq.runs.folder import RunFolder


def linked(lock: Path, precious: Path) -> None:
    lock.symlink_to(precious)


def named_twice(lock: Path, precious: Path) -> None:
    os.link(precious, lock)


def pipe(lock: Path, precious: Path) -> None:
    os.mkfifo(lock)


@pytest.mark.parametrize("strange", [linked, named_twice, pipe])
def test_a_lock_that_is_no_file_of_ours_is_neither_followed_nor_waited_for(
    strange: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    precious, lock = tmp_path / "precious.txt", tmp_path / "lock"
    precious.write_text("precious")
    strange(lock, precious)
    with pytest.raises(UserError, match="is a link or a pipe"):
        Lock.take(lock, make=True)
    assert precious.read_text() == "precious"


def test_what_a_killed_process_left_goes_when_the_run_is_opened(tmp_path: Path) -> None:
    left = [tmp_path / name / ".fittedq-0123456789abcdef" for name in (".", "checkpoints")]
    for folder in left:
        folder.mkdir(parents=True)
        (folder / "part").touch()
    checkpoint = tmp_path / "checkpoints" / "step-0000000005"
    save_folder(checkpoint, "checkpoint", {"x": np.zeros(3)}, {})
    whole = sorted(checkpoint.iterdir())
    (checkpoint / "tensors-0123456789abcdef.safetensors").touch()  # its manifest was not written any more
    (checkpoint / "notes.txt").touch()
    RunFolder(tmp_path)._claim()
    assert not any(folder.exists() for folder in left)
    assert sorted(checkpoint.iterdir()) == sorted([*whole, checkpoint / "notes.txt"])


def test_metrics_that_are_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match="is no file"):
        RunFolder(tmp_path).lines()


def test_another_users_scratch_folder_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / ".fittedq-0123456789abcdef"
    theirs.mkdir()
    take = Lock.take

    def forbidden(path: Path, **how: bool) -> Lock | None:
        if path == theirs:
            raise PermissionError(13, "Permission denied", str(path))
        return take(path, **how)

    monkeypatch.setattr(Lock, "take", staticmethod(forbidden))
    with Scratch(tmp_path / "mine") as scratch:
        scratch.publish()
    assert theirs.is_dir() and (tmp_path / "mine").is_dir()


def test_a_folder_without_a_manifest_is_not_ours_whatever_its_files_are_called(tmp_path: Path) -> None:
    file = tmp_path / "m" / "tensors-0123456789abcdef.safetensors"
    file.parent.mkdir()
    file.write_text("mine")
    with pytest.raises(UserError, match="is not replaced"), replacing(file.parent, "agent"):
        pass
    assert file.read_text() == "mine"


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    for name, words in (("x" * 300, "more than 255 bytes"), ("", "expected the name")):
        with pytest.raises(UserError, match=words):
            fittedq.load(name)
    assert place("~/agent", "path") == Path.home() / "agent"


def without_links(*names: object) -> None:
    raise OSError("no links here")


@pytest.mark.parametrize(("damaged", "links"), [("new", True), ("new", False), ("old", False)])
def test_a_damaged_segment_is_not_taken_over(
    damaged: str, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one that lies where a checkpoint is saved again, nor the one that would be copied there."""
    if not links:
        monkeypatch.setattr(os, "link", without_links)
    monkeypatch.setattr("fittedq.data.segments.SEGMENT_BYTES", 0)
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    files, described = write_rows(tmp_path / "old", {"replay": RowLog(0, (rows[:4],))}, None, {})
    (segment,) = files
    (tmp_path / damaged / segment).write_bytes(b"\0" * (tmp_path / "old" / segment).stat().st_size)
    before = {"files": files, "rows": described}
    files, described = write_rows(tmp_path / "new", {"replay": RowLog(0, (rows,))}, tmp_path / "old", before)
    for name, listed in files.items():
        check_file(tmp_path / "new" / name, listed)
    found = read_rows(tmp_path / "new", {"rows": described})["replay"].all()
    np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "td3", "Pendulum-v1", "--seed", "1", "--seed=2"], "--seed is given 2 times"),
        (["data", "import", "x.csv", "--out", "y", "--obs", "a", "--obs", "c"], "--obs is given 2 times"),
        (["data", "import"], "found no source and no --out"),
    ],
)
def test_an_option_that_would_be_dropped_is_a_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["train"], ["resume"], ["eval"], ["verify"], ["data", "collect"]])
def test_what_may_be_given_often_is_what_help_calls_repeatable(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    assert len(_repeatable(COMMANDS[words[0]].load())) == capsys.readouterr().out.count("(repeatable)")


SWITCHED = "obs,action,reward,episode\n1,True,0,0\n2,false,1,0\n3,True,0,0\n4,True,0,{}\n5,False,2,1\n"


def test_a_csv_may_spell_its_switches(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(SWITCHED.format(1))
    assert main(["data", "import", str(log), "--out", str(tmp_path / "d")]) == 0
    np.testing.assert_array_equal(fittedq.Dataset.open(tmp_path / "d").transitions(slice(None)).action, [[1], [0], [1]])


def test_a_row_whose_episode_is_empty_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.csv"
    log.write_text(SWITCHED.format(""))
    assert main(["data", "import", str(log), "--out", str(tmp_path / "d")]) == 2
    assert "the episode of 1 row is empty" in capsys.readouterr().err
