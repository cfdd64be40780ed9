"""The disk is full from a chosen moment on: 50 points of training, saving, collecting, importing and exporting.

From the n-th call on each that needs room fails with ENOSPC, after a write cut short (`faults.c`). Ten more points
are a real file system of a few dozen kilobytes, where this process may mount one. Each command must end with one
sentence and exit code 2. Nothing that was there before may change, and nothing half-written may stay. With room again
the same command (`resume`, of a run that had saved something) must end as if the disk had never been full.

    .venv/bin/python reliability/full_disk.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

import children
from campaign import Outcome, Trial, campaign
from children import FULL, WATCH, Ended, Fault
from kills import dataset, differences, goes_on, ready, reference, setups, unreadable, workplace

PROMISE = "A full disk costs one sentence and nothing that was saved; with room again all ends as it would have."
RUNS = ("td3 online", "sac compiled", "nfqca growing", "sac batches", "amortized_fqi fitted")
FORMATS = {"npz": "data.npz", "parquet": "data.parquet", "minari": "data"}
ROOM = "64M"


def cases() -> dict[str, Trial]:
    """25 points of training, 4 of saving over an agent, 3 each of collecting, of importing and of exporting formats."""
    work = {f"train {name}": (partial(train, name), 5) for name in RUNS} | {"save": (save, 4), "collect": (collect, 3)}
    for name in FORMATS:
        work |= {f"import {name}": (partial(bring, name), 3), f"export {name}": (partial(give, name), 3)}
    found = {
        f"{name}, point {number}": partial(trial, (number + 0.5) / count)
        for name, (trial, count) in work.items()
        for number in range(count)
    }
    if mountable():
        found |= {
            f"real disk, train, {number}": partial(train, RUNS[0], (number + 0.5) / 6, True) for number in range(6)
        }
        found |= {f"real disk, export, {number}": partial(give, "npz", (number + 0.5) / 4, True) for number in range(4)}
    return found


# ---------------------------------------------------------------------- the disk


def disk(real: bool) -> Path:
    """An empty folder, or an empty file system with room."""
    path = workplace() / "disk"
    if path.is_mount():
        subprocess.run(["umount", path], check=True)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    if real:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", path], check=True)
    return path


def resize(path: Path, size: object) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", path], check=True)


@cache
def mountable() -> bool:
    """Whether this process may mount a file system."""
    path = workplace() / "disk"
    path.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", path], capture_output=True, check=False
    )
    return done.returncode == 0 and subprocess.run(["umount", path], check=False).returncode == 0


def filled(work: Callable[[], int], folder: Path, quantile: float, calls: int, size: int, real: bool) -> Ended:
    """Do the work on a disk that is full after this share of the calls, or of the bytes, that it takes in all."""
    if not real:
        return children.run(work, fault=Fault(FULL, folder, 1 + int(quantile * calls)))
    resize(folder, 4096 * max(1, int(quantile * size / 4096)))
    ended = children.run(work)
    resize(folder, ROOM)
    return ended


def calls_of(work: Callable[[], int], folder: Path) -> int:
    """How often it changes something under the folder."""
    log = workplace() / "calls"
    log.unlink(missing_ok=True)
    ended = children.run(work, fault=Fault(WATCH, folder, log=log))
    assert ended.code == 0, f"with room it fails: {ended.output}"
    return len(log.read_text().splitlines())


def content(folder: Path) -> dict[str, str]:
    """Digests of all files under a folder."""
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def misspoken(ended: Ended) -> list[str]:
    """What is wrong with how a command ended on a full disk."""
    sentences = [line for line in ended.output.splitlines() if line.startswith("fittedq: ")]
    if ended.code != 2 or len(sentences) != 1 or "Traceback" in ended.output:
        return [f"exit {ended.code}, {len(sentences)} sentences: {ended.last_line}"]
    return []


def outcome(kind: str, real: bool, wrong: list[str], said: Ended) -> Outcome:
    facts = {"disk": "a small file system" if real else "calls that fail", "exit code": said.code}
    return Outcome(kind, not wrong, "; ".join(wrong[:3]), facts)


# ---------------------------------------------------------------------- training


def train(name: str, quantile: float, real: bool = False) -> Outcome:
    known, setup = reference(name), setups()[name]
    folder = disk(real)
    run = folder / "run"
    size = sum(path.stat().st_size for path in known.folder.rglob("*") if path.is_file())
    full = filled(children.fittedq(*setup.command(run)), folder, quantile, known.calls, size, real)
    # Only what the run does without, its picture, may be missing in silence.
    wrong = misspoken(full) if full.code else []
    wrong += unreadable(run)
    if full.code or not (run / "last").exists():
        again = children.run(goes_on(setup, run))
        wrong += [] if again.code == 0 else [f"with room again: exit {again.code}: {again.last_line}"]
    return outcome("train", real, wrong or differences(setup, run, known.folder), full)


# ---------------------------------------------------------------------- agents and datasets


def save(quantile: float) -> Outcome:
    """Another agent is saved over one."""
    folder = disk(False)
    path = folder / "agent"
    first, second = (reference(name).folder / "last" for name in ("td3 online", "td3 batches"))
    calls = calls_of(_saving(second, path), folder)
    shutil.rmtree(path)
    assert children.run(_saving(first, path)).code == 0
    before = content(folder)
    full = filled(_saving(second, path), folder, quantile, calls, 0, False)
    # All that needs room may have been done.
    wrong = misspoken(full) if full.code else unreadable(path)
    if full.code and content(folder) != before:
        wrong.append(f"the agent that was there is not as it was: {sorted(content(folder).keys() ^ before.keys())}")
    again = children.run(_saving(second, path))
    wrong += [] if again.code == 0 else [f"with room again: exit {again.code}: {again.last_line}"]
    return outcome("save an agent", False, wrong, full)


def _saving(source: Path, path: Path) -> Callable[[], int]:
    def work() -> int:
        import fittedq

        agent = fittedq.load(source)
        try:
            agent.save(path)
        except fittedq.UserError as error:
            print(f"fittedq: {error}", file=sys.stderr)
            return 2
        return 0

    return work


def collect(quantile: float) -> Outcome:
    words = ("data", "collect", "Pendulum-v1", "--steps", 300, "--out")
    return _made("collect data", words, "data", quantile, False)


def bring(format: str, quantile: float) -> Outcome:
    source = workplace() / f"exported-{FORMATS[format]}"
    if not source.exists():
        ended = children.run(children.fittedq("data", "export", dataset(), "--out", source))
        assert ended.code == 0, ended.output
    words = ("data", "import", source, "--format", format, "--action-low", -2, "--action-high", 2, "--out")
    return _made("import data", words, "data", quantile, False)


def give(format: str, quantile: float, real: bool = False) -> Outcome:
    return _made("export data", ("data", "export", dataset(), "--out"), FORMATS[format], quantile, real)


def _made(kind: str, words: tuple[object, ...], name: str, quantile: float, real: bool) -> Outcome:
    """A command that makes one new file or folder: whole, or not there."""
    folder = disk(real)
    work = children.fittedq(*words, folder / name)
    calls = calls_of(work, folder)
    whole, size = _sizes(folder), sum(_sizes(folder).values())
    folder = disk(real)
    full = filled(work, folder, quantile, calls, size, real)
    # All that needs room may have been done.
    wrong = misspoken(full) if full.code else []
    if full.code and any(folder.iterdir()):
        wrong.append(f"left behind: {sorted(path.name for path in folder.iterdir())}")
    again = children.run(work) if full.code else full
    wrong += [] if again.code == 0 else [f"with room again: exit {again.code}: {again.last_line}"]
    wrong += [] if _sizes(folder) == whole else ["it makes something else than with room"]
    return outcome(kind, real, wrong, full)


def _sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    ready()
    try:
        code = campaign("full_disk", PROMISE, cases())
    finally:
        if (workplace() / "disk").is_mount():
            subprocess.run(["umount", workplace() / "disk"], check=False)
        shutil.rmtree(workplace(), ignore_errors=True)
    sys.exit(code)
