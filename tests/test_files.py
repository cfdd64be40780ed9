"""Saving: nothing that is not ours is replaced, a reader never meets half a folder, what a dead process left goes."""

from __future__ import annotations

import multiprocessing
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fittedq.errors import UserError
from fittedq.files import (
    AGENT,
    CHECKPOINT,
    DATASET,
    MANIFEST,
    Lock,
    Scratch,
    load_folder,
    read_signed,
    remove_folder,
    save_folder,
    sweep,
    temporary,
    write_bytes,
    write_signed,
)


def save(path: Path, value: float = 1.0, kind: str = AGENT) -> None:
    save_folder(path, kind, {"x": np.full(1000, value)}, {})


def value(path: Path, kind: str = AGENT) -> float:
    arrays, _ = load_folder(path, kind)
    (found,) = set(arrays["x"].tolist())
    return found


def everything(folder: Path) -> dict[str, Any]:
    """All that lies under a folder, by name."""
    return {str(path): path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


def a_table(path: Path) -> None:
    path.mkdir()
    (path / "table.csv").write_text("1,2\n")


def a_manifest_of_another(path: Path) -> None:
    path.mkdir()
    (path / MANIFEST).write_text('{"name": "an extension"}')


def a_link(path: Path) -> None:
    save(path.parent / "elsewhere")
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (a_table, r"holds what is not an agent's \(table.csv\) and is not replaced"),
        (a_manifest_of_another, "holds what is not an agent's"),
        (lambda path: save(path, kind=CHECKPOINT), "holds what is not an agent's"),
        (lambda path: path.write_text("mine"), "is a file"),
        (a_link, "is a link"),
        (lambda path: path.symlink_to("nowhere"), "is a link"),
        (lambda path: os.mkfifo(path), "is a file"),
    ],
    ids=["folder", "foreign-manifest", "other-kind", "file", "link", "dead-link", "fifo"],
)
def test_what_is_not_ours_is_refused_and_stays(make: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    make(tmp_path / "it")
    before = everything(tmp_path)
    with pytest.raises(UserError, match=words):
        save(tmp_path / "it")
    assert everything(tmp_path) == before


def test_the_neighbours_of_a_folder_stay(tmp_path: Path) -> None:
    for name in ("it.old", "it.tmp", "it.old.csv", ".fittedq-mine", ".fittedq-0123456789abcdef.txt"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "it" / "notes").mkdir(parents=True)
    (tmp_path / "it" / "notes" / "mine.txt").write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(UserError):
        save(tmp_path / "it")
    assert everything(tmp_path) == before
    save(tmp_path / "agent")
    (tmp_path / "agent" / "mine.txt").write_text("mine")
    save(tmp_path / "agent", 2.0)
    assert value(tmp_path / "agent") == 2.0
    assert (tmp_path / "agent" / "mine.txt").read_text() == "mine"
    remove_folder(tmp_path / "agent")
    assert value(tmp_path / "agent") == 2.0, "a folder with a user's file in it was removed"
    assert before.items() <= everything(tmp_path).items()


@pytest.mark.parametrize("path", [".", "..", "/", "", "a/.."])
def test_no_name_is_a_sentence(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(UserError, match="no name for a folder of its own"):
        save(Path(path))
    assert everything(tmp_path) == {str(tmp_path / "a"): False}


def test_a_folder_has_the_permissions_that_the_user_gives_new_folders(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    save(tmp_path / "agent")
    assert stat.S_IMODE((tmp_path / "agent").stat().st_mode) == stat.S_IMODE((tmp_path / "made").stat().st_mode)


def test_a_damaged_folder_of_ours_is_replaced(tmp_path: Path) -> None:
    save(tmp_path / "it")
    (tmp_path / "it" / MANIFEST).write_bytes(b"\xff{")
    save(tmp_path / "it", 3.0)
    assert value(tmp_path / "it") == 3.0
    assert len(list((tmp_path / "it").iterdir())) == 2


def test_a_failed_save_leaves_the_folder_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "it")
    before = everything(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for name in ("it", "new"):
        with pytest.raises(OSError, match="No space"):
            save(tmp_path / name, 2.0)
        assert everything(tmp_path) == before


KILLED = """
import os, sys
from pathlib import Path
from fittedq.files import Scratch, temporary, write_bytes
folder = Path(sys.argv[1])
scratch = Scratch(folder / "it")
(scratch.folder / "rows").write_text("half")
temporary(folder).write_text("half")
print(scratch.folder, flush=True)
if sys.argv[2] == "die":
    os._exit(9)
sys.stdin.read()
"""


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_uses_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    subprocess.run([*command, "die"], check=False, capture_output=True)
    a_table(tmp_path / ".fittedq-table")
    with subprocess.Popen([*command, "live"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as living:
        assert living.stdout is not None
        used = living.stdout.readline().strip()
        save(tmp_path / "agent")
        folders = {str(path) for path in tmp_path.glob(".fittedq-*") if path.is_dir()}
        assert folders == {str(tmp_path / ".fittedq-table"), used}
        assert len([path for path in tmp_path.glob(".fittedq-*") if path.is_file()]) == 2
    sweep(tmp_path, alone=True)
    assert {path.name for path in tmp_path.iterdir()} == {"agent", ".fittedq-table"}


def test_a_folder_of_another_kind_is_named_with_what_to_do(tmp_path: Path) -> None:
    save(tmp_path / "it", kind=DATASET)
    expected = (
        rf"{tmp_path}/it is a dataset, expected an agent; name the folder of one, .*`fittedq data check {tmp_path}"
    )
    with pytest.raises(UserError, match=expected):
        load_folder(tmp_path / "it", AGENT)


REPLACED = """
import os, signal, sys
from pathlib import Path
from fittedq import files
it, exchanges, at = Path(sys.argv[1]) / "it", sys.argv[2] == "exchange", int(sys.argv[3])
replace, exchanged, steps = os.replace, files.exchanged, 0
def step():
    global steps
    if steps == at:
        os.kill(os.getpid(), signal.SIGKILL)
    steps += 1
def replacing(*names):
    step()
    replace(*names)
    step()
def exchanging(*names):
    step()
    done = exchanges and exchanged(*names)
    step()
    return done
os.replace, files.exchanged = replacing, exchanging
with files.Scratch(it) as scratch:
    (scratch.folder / "content").write_text("new")
    scratch.replace()
print(steps)
"""


def replaced_with(name: str, folder: Path, at: int) -> tuple[str, list[str]]:
    """(what the process printed, the content of every folder there and swept) where it is killed at a step."""
    (folder / "it").mkdir(parents=True)
    (folder / "it" / "content").write_text("old")
    told = subprocess.run([sys.executable, "-c", REPLACED, str(folder), name, str(at)], capture_output=True, text=True)
    assert told.returncode == (-9 if not told.stdout else 0), told.stderr
    sweep(folder)
    return told.stdout, [(path / "content").read_text() for path in folder.iterdir()]


@pytest.mark.parametrize(("name", "number"), [("exchange", 2), ("renames", 8)])
def test_a_folder_that_is_replaced_is_lost_at_no_kill(name: str, number: int, tmp_path: Path) -> None:
    if name == "exchange" and sys.platform != "linux":
        pytest.skip("only Linux lets two names change places")
    for at in range(number):
        printed, whole = replaced_with(name, tmp_path / str(at), at)
        assert not printed and whole in (["old"], ["new"], ["old", "new"], ["new", "old"])
        assert name != "exchange" or os.listdir(tmp_path / str(at)) == ["it"]
    printed, whole = replaced_with(name, tmp_path / "to the end", -1)
    assert printed == f"{number}\n" and whole == ["new"]


def test_a_replacement_that_fails_leaves_the_folder_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "content").write_text("old")
    replace = os.replace

    def failing(one: Path, other: Path) -> None:
        if Path(other).name == "it" and Path(one).name.startswith(".fittedq"):
            raise OSError("no more")
        replace(one, other)

    monkeypatch.setattr("fittedq.files.exchanged", lambda one, other: False)
    monkeypatch.setattr(os, "replace", failing)
    scratch = Scratch(tmp_path / "it")
    (scratch.folder / "content").write_text("new")
    with pytest.raises(OSError, match="no more"):
        scratch.replace()
    scratch.discard()
    assert os.listdir(tmp_path) == ["it"] and (tmp_path / "it" / "content").read_text() == "old"


def write_for(path: Path, seconds: float) -> None:
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        number += 1
        save(path, number)


def test_a_reader_beside_two_writers_always_reads_a_whole_folder(tmp_path: Path) -> None:
    path = tmp_path / "best"
    save(path, 0.0)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_for, args=(path, 1.0)) for _ in range(2)]
    for process in processes:
        process.start()
    seen = []
    while any(process.is_alive() for process in processes):
        seen.append(value(path))
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(set(seen)) > 5, "reader and writer did not meet"
    assert len(list(path.iterdir())) == 2


def test_a_lock_is_one_processs_and_ends_with_it(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.touch()
    script = "import sys; from pathlib import Path; from fittedq.files import Lock; print(Lock.take(Path(sys.argv[1])))"
    ask = [sys.executable, "-c", script, str(file)]
    lock = Lock.take(file)
    assert lock is not None
    assert Lock.take(file) is None
    assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout == "None\n"
    lock.release()
    assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout != "None\n"
    assert Lock.take(file) is not None


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_worker_that_outlives_its_parent_holds_no_lock(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.touch()
    lock = Lock.take(file)
    assert lock is not None
    (reading, writing), (forked, telling) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.write(telling, b"!")
        os.read(reading, 1)  # until the test ends
        os._exit(0)
    try:
        os.read(forked, 1)
        lock.release()
        again = Lock.take(file)
        assert again is not None
    finally:
        os.close(writing)
        os.waitpid(child, 0)


def test_a_scratch_folder_is_unguessable_and_gone_when_discarded(tmp_path: Path) -> None:
    with Scratch(tmp_path / "a" / "it") as one, Scratch(tmp_path / "a" / "it") as other:
        assert one.folder.parent == other.folder.parent == tmp_path / "a"
        assert one.folder.name != other.folder.name
    assert list((tmp_path / "a").iterdir()) == []
    assert temporary(tmp_path) != temporary(tmp_path)


def test_every_change_of_a_signed_file_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    write_signed(file, {"kind": "run", "steps": 12, "settings": {"gamma": 0.99, "hidden": [16, 16], "name": "π"}})
    content, whole = read_signed(file), file.read_bytes()
    rng, accepted = np.random.default_rng(0), 0
    for _ in range(300):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        write_bytes(file, bytes(data))
        try:
            assert read_signed(file) == content
            accepted += 1
        except UserError:
            pass
    assert accepted < 10, "only a change between words, which changes nothing, may pass"


def test_a_lock_that_was_given_back_takes_no_other_along(tmp_path: Path) -> None:
    """Descriptors have small numbers, which come back: the second lock has that of the first."""
    one, two = tmp_path / "one", tmp_path / "two"
    given_back = Lock.take(one, make=True)
    assert given_back is not None
    given_back.release()
    held = Lock.take(two, make=True)
    assert held is not None and Lock.take(two) is None
    given_back.release()
    del given_back
    assert Lock.take(two) is None
    held.release()
    assert Lock.take(two) is not None
