"""500 training processes are killed (SIGKILL); each run must then be whole, finish, and equal the run never killed.

Every algorithm, online and from data. Half of the kills fall inside checkpoint and final writes, at a chosen call into
the file system; some inside the other writes; the others at random moments. A few runs are killed again while they are
resumed. After a kill `fittedq verify` and a load of every agent must find nothing broken, `fittedq resume` must finish
the run (`fittedq train` again where nothing was saved yet), and the finished run must equal the one that was never
killed bit for bit: the last and the best agent, the state, and the metrics but for the columns of time.

    .venv/bin/python reliability/kills.py
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import children
import numpy as np
import safetensors.numpy
from campaign import Outcome, Trial, campaign
from children import KILL, WATCH, Ended, Fault

PROMISE = "A killed run is whole, resumes, and ends bit for bit as if never killed."
NETS = ("hidden=[8,8]", "model_hidden=[8]", "n_models=1")
ONLINE = ("batch_size=8", "replay_size=200", "random_steps=20")
GROWING = ("minibatch=32", "epochs=1", "random_steps=60", "steps_per_iteration=40")
FITTED = ("minibatch=64", "epochs=2")
CALLS_OF_A_RESUME = 25
"""Every resume that has something left to do changes files at least so often."""
LOOKS = ("--eval-env", "Pendulum-v1", "--eval-episodes", "1")


@dataclass(frozen=True)
class Setup:
    """One run: `fittedq train` with these words."""

    algorithm: str
    env: str | None
    settings: tuple[str, ...]
    steps: int
    every: int
    """Steps between checkpoints; evaluations fall between them."""
    data: bool = False
    patient: bool = True
    """Whether it reports in between where a step takes long."""

    @property
    def scheduled(self) -> set[int]:
        """Steps at which it reports in any case."""
        looks = (self.every, self.evaluations)
        return {self.steps, *(step for every in looks for step in range(every, self.steps, every))}

    @property
    def evaluations(self) -> int:
        return max(1, self.every * 2 - 1)

    def command(self, folder: Path) -> list[object]:
        words: list[object] = ["train", self.algorithm, *([self.env] if self.env else []), "--out", folder]
        words += ["--steps", self.steps, "--checkpoint-every", self.every, "--eval-every", self.evaluations, *LOOKS]
        words += ["--data", dataset()] if self.data else []
        settings = [word for word in (*NETS, *self.settings) if self.algorithm == "svg" or "model" not in word]
        return words + [word for setting in settings for word in ("--set", setting)]


def setups() -> dict[str, Setup]:
    """Every algorithm online (host, compiled, on growing data) and from data, as far as it does so."""
    online = ("ddpg", "td3", "sac_v", "sac", "svg")
    found = {f"{name} online": Setup(name, "Pendulum-v1", ONLINE, 240, 60, patient=False) for name in online}
    found |= {
        f"{name} compiled": Setup(name, "jax/Pendulum-v1", ONLINE, 240, 60, patient=False) for name in ("td3", "sac")
    }
    found |= {f"{name} growing": Setup(name, "Pendulum-v1", GROWING, 180, 40) for name in ("nfqca", "amortized_fqi")}
    found |= {f"{name} batches": Setup(name, None, ("batch_size=8",), 120, 30, data=True) for name in online}
    fitted = ("explicit_fqi", "amortized_fqi", "nfqca", "smooth_fqi")
    found |= {f"{name} fitted": Setup(name, None, FITTED, 4, 1, data=True) for name in fitted}
    found["explicit_fqi trees"] = Setup("explicit_fqi", None, ("approximator=trees", "n_trees=5"), 3, 1, data=True)
    found["td3 data first"] = Setup("td3", "Pendulum-v1", ONLINE, 240, 60, data=True, patient=False)
    return found


MOMENTS = {
    "checkpoint write": 7,
    "final write": 6,
    "checkpoint write, again in resume": 3,
    "metrics write": 2,
    "best agent write": 2,
    "start": 1,
    "random moment, any": 2,
    "random moment, learning": 2,
}
"""Kills per setup; the two kinds of writes that come first, and the third, are the half that the promise names."""


def cases() -> dict[str, Trial]:
    """Names and trials: 20 setups of 25 kills."""
    return {
        f"{name}, {moment} {number}": partial(trial, name, moment, (number + 0.5) / count)
        for name in setups()
        for moment, count in MOMENTS.items()
        for number in range(count)
    }


# ---------------------------------------------------------------------- what was never killed


@dataclass(frozen=True)
class Reference:
    """The run never killed: its folder, its calls into the file system in order, how long it took."""

    folder: Path
    calls: list[tuple[str, str]]
    seconds: float
    learning: float
    """Seconds from the first line of metrics on."""


@cache
def dataset() -> Path:
    """A small logged dataset, made once."""
    folder = workplace() / "data"
    words = ("data", "collect", "Pendulum-v1", "--steps", 300, "--out", folder)
    ended = children.run(children.fittedq(*words))
    assert ended.code == 0, ended.output
    return folder


@cache
def workplace() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fittedq-kills-"))
    return folder


@cache
def reference(name: str) -> Reference:
    """Twice, so that its time is that of compiled programs; both must be equal."""
    setup, folder, log = setups()[name], workplace() / "references" / name.replace(" ", "-"), workplace() / "calls"
    for path in (folder.with_name(folder.name + "-first"), folder):
        log.unlink(missing_ok=True)
        work = children.fittedq(*setup.command(path))
        ended = children.run(work, fault=Fault(WATCH, path, log=log), since=path / "metrics.jsonl")
        assert ended.code == 0, f"the run that nobody kills fails: {ended.output}"
    found = differences(setup, folder, folder.with_name(folder.name + "-first"))
    assert not found, f"two runs that nobody kills differ: {found}"
    calls = [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in log.read_text().splitlines()]
    calls = [(call, str(Path(path).relative_to(folder))) for call, path in calls]
    return Reference(folder, calls, ended.seconds, ended.since)


def written_for(calls: list[tuple[str, str]]) -> list[str]:
    """What each call is part of."""
    kinds = {"checkpoints/": "checkpoint write", "metrics": "metrics write", "best": "best agent write"}
    finishing = max(index for index, (_, path) in enumerate(calls) if path.startswith("metrics"))
    learning = min(index for index, (_, path) in enumerate(calls) if path.startswith(("metrics", "best")))
    parts: list[str] = []
    # What has a temporary name is part of what it becomes.
    following = "final write"
    for index in reversed(range(len(calls))):
        named = [kind for start, kind in kinds.items() if calls[index][1].startswith(start)]
        following = "final write" if index > finishing else "start" if index < learning else (*named, following)[0]
        parts.append(following)
    return parts[::-1]


def differences(setup: Setup, run: Path, never_killed: Path) -> list[str]:
    """In what a finished run differs from the one never killed."""
    found = [] if metrics(setup, run) == metrics(setup, never_killed) else ["metrics.jsonl: other lines"]
    newest = max(path.name for path in (never_killed / "checkpoints").glob("step-*"))
    for part in ("last", "best", f"checkpoints/{newest}"):
        if (never_killed / part).exists():
            found += [f"{part}: {what}" for what in _different(run / part, never_killed / part)]
    left = _counts(run).items() ^ _counts(never_killed).items()
    return found + [f"{folder}: files left behind or missing" for folder in sorted({folder for folder, _ in left})]


def metrics(setup: Setup, run: Path) -> list[dict[str, object]]:
    """The lines of metrics at steps that the schedule names, without what a clock decides.

    A run that is slow reports more often; what such a line says of the steps since the last one, the others do not.
    """
    left_out = {"seconds", "steps_per_second", "updates_per_second"} | ({"train_return"} if setup.patient else set())
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if key not in left_out}
        for record in records
        if record["step"] in setup.scheduled
    ]


def _different(folder: Path, other: Path) -> Iterator[str]:
    """In what two folders of tensors differ."""
    if not folder.exists():
        yield "is missing"
        return
    (ours, facts), (theirs, their_facts) = _content(folder), _content(other)
    if ours.keys() != theirs.keys():
        yield "holds other tensors"
    for name in ours.keys() & theirs.keys():
        if ours[name].dtype != theirs[name].dtype or ours[name].tobytes() != theirs[name].tobytes():
            yield f"{name} differs"
    if facts != their_facts:
        yield "its manifest differs"


def _content(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """(arrays, what the manifest says of them)."""
    manifest = json.loads((folder / "manifest.json").read_text())
    arrays: dict[str, np.ndarray] = {}
    for name in manifest["files"]:
        if name.endswith(".safetensors"):
            arrays |= safetensors.numpy.load_file(folder / name)
    return arrays, {key: manifest.get(key) for key in ("agent", "trainer")}


def _counts(run: Path) -> dict[str, int]:
    """How many files lie in each folder."""
    return dict(Counter(str(path.parent.relative_to(run)) for path in run.rglob("*") if path.is_file()))


# ---------------------------------------------------------------------- one kill


def trial(name: str, moment: str, quantile: float) -> Outcome:
    """Kill one run of this setup, bring it to its end, compare."""
    known, setup = reference(name), setups()[name]
    run = workplace() / "run"
    shutil.rmtree(run, ignore_errors=True)
    try:
        ended, at = killed(setup, known, run, moment, quantile)
        if not ended.killed:
            return Outcome(moment, False, f"nothing was killed at {at}: {ended.last_line}")
        broken = unreadable(run)
        then, failed = finished(setup, run, moment, quantile)
        lost = broken + (failed or differences(setup, run, known.folder))
        facts = {"setup": name, "killed at": at, "then": then}
        return Outcome(moment, not lost, f"killed at {at}: " + "; ".join(lost[:3]) if lost else "", facts)
    finally:
        shutil.rmtree(run, ignore_errors=True)


def killed(setup: Setup, known: Reference, run: Path, moment: str, quantile: float) -> tuple[Ended, str]:
    """(how the child ended, where it was killed)."""
    work = children.fittedq(*setup.command(run))
    if moment.startswith("random"):
        learning = moment.endswith("learning")
        clock, most = (run / "metrics.jsonl", known.learning) if learning else (None, known.seconds)
        for shorter in (1.0, 0.8, 0.6, 0.4):
            shutil.rmtree(run, ignore_errors=True)
            ended = children.run(work, kill_after=most * quantile * shorter, since=clock)
            if ended.killed:
                break
        return ended, "a random moment"
    parts = written_for(known.calls)
    indices = [index for index, part in enumerate(parts) if part == moment.split(",")[0]]
    index = indices[int(quantile * len(indices))]
    call, path = known.calls[index]
    return children.run(work, fault=Fault(KILL, run, index + 1)), f"{call} of {Path(path).parts[0]}"


def unreadable(run: Path) -> list[str]:
    """What is broken although it is there: what `fittedq verify` says."""
    if not (run / "config.json").exists():
        return []
    ended = children.run(children.fittedq("verify", run))
    return [] if ended.code == 0 else [f"verify: exit {ended.code}: {ended.last_line}"]


def finished(setup: Setup, run: Path, moment: str, quantile: float) -> tuple[str, list[str]]:
    """(how a killed run came to its end, what went wrong on the way)."""
    saved = any(path.name[5:].isdigit() for path in run.glob("checkpoints/step-*"))
    work = children.fittedq("resume", run) if saved else children.fittedq(*setup.command(run))
    then = "resumed" if saved else "started again"
    if "again" in moment:
        ended = children.run(work, fault=Fault(KILL, run, 1 + int(quantile * CALLS_OF_A_RESUME)))
        then += ", killed, resumed" if ended.killed else ""
    ended = children.run(work)
    return then, [] if ended.code == 0 else [f"{then}: exit {ended.code}: {ended.last_line}"]


if __name__ == "__main__":
    children.ready()
    try:
        code = campaign("kills", PROMISE, cases())
    finally:
        shutil.rmtree(workplace(), ignore_errors=True)
    sys.exit(code)
