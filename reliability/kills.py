"""500 kills (SIGKILL) of training processes; each run must then be whole, finish, and equal the run never killed.

Every algorithm, online and from data. A run is killed five or six times before it may end: at its start or at a random
moment, inside its second checkpoint write, inside a write of metrics or at a random moment while it learns on, inside
a checkpoint write again, and inside the final writes, once more where a resume writes them. Inside a write means at a
chosen call into the file system (`faults.c`). More than half of the kills are inside checkpoint and final writes.
After every kill `fittedq verify` must find nothing broken, and the next process goes on with `fittedq resume`
(`fittedq train` where the run has no configuration yet). The last one must finish the run. The finished run must equal
the one that was never killed bit for bit: the last and the best agent, the state, and the metrics but for the columns
of time.

    .venv/bin/python reliability/kills.py
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import children
import numpy as np
from campaign import Outcome, Trial, campaign
from children import KILL, WATCH, Fault

from fittedq.data import segments
from fittedq.data.segments import read_rows
from fittedq.files import CHECKPOINT, MANIFEST, load_folder, read_json

PROMISE = "A killed run is whole, resumes, and ends bit for bit as if never killed."
NETS = ("hidden=[8,8]", "model_hidden=[8]", "n_models=1")
ONLINE = ("batch_size=8", "replay_size=200", "random_steps=20")
GROWING = ("minibatch=32", "epochs=1", "random_steps=60", "steps_per_iteration=40")
FITTED = ("minibatch=64", "epochs=2")
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
        return max(1, self.every // 2 * 3)

    def command(self, folder: Path) -> list[object]:
        words: list[object] = ["train", self.algorithm, *([self.env] if self.env else []), "--out", folder]
        words += ["--steps", self.steps, "--checkpoint-every", self.every, "--eval-every", self.evaluations, *LOOKS]
        words += ["--data", dataset()] if self.data else []
        nets = () if "approximator=extra_trees" in self.settings else NETS
        settings = [word for word in (*nets, *self.settings) if self.algorithm == "svg" or "model" not in word]
        return words + [word for setting in settings for word in ("--set", setting)]


def setups() -> dict[str, Setup]:
    """Every algorithm online (host, compiled, on growing data) and from data, as far as it does so."""
    online = ("ddpg", "td3", "sac_v", "sac", "svg")
    found = {f"{name} online": Setup(name, "Pendulum-v1", ONLINE, 420, 60, patient=False) for name in online}
    found |= {
        f"{name} compiled": Setup(name, "jax/Pendulum-v1", ONLINE, 420, 60, patient=False) for name in ("td3", "sac")
    }
    found |= {f"{name} growing": Setup(name, "Pendulum-v1", GROWING, 300, 40) for name in ("nfqca", "amortized_fqi")}
    found |= {f"{name} batches": Setup(name, None, ("batch_size=8",), 210, 30, data=True) for name in online}
    fitted = ("explicit_fqi", "amortized_fqi", "nfqca", "smooth_fqi")
    found |= {f"{name} fitted": Setup(name, None, FITTED, 8, 1, data=True) for name in fitted}
    found["explicit_fqi trees"] = Setup(
        "explicit_fqi", None, ("approximator=extra_trees", "n_trees=5"), 3, 1, data=True
    )
    found["td3 data first"] = Setup("td3", "Pendulum-v1", ONLINE, 420, 60, data=True, patient=False)
    return found


PLACES = {
    "start": "fittedq.runs.run:Run.start",
    "metrics": "fittedq.runs.folder:RunFolder.append",
    "best_agent": "fittedq.agent:Agent.save",
    "checkpoint": "fittedq.runs.checkpoint:save",
    "final": "fittedq.runs.run:Run._finish",
}
"""Functions that write, by what they write."""
ENTRIES = {"checkpoint": 2, "metrics": 2}
"""Which write of a process it is, where not the first: so each process gets further than the one before."""
RANDOM, LEARNING = "random moment", "random moment, learning"
FIRST = ("start", "metrics", "best_agent", RANDOM, LEARNING)
THIRD = (LEARNING, LEARNING, LEARNING, "metrics", LEARNING)


def cases() -> dict[str, Trial]:
    """20 setups of five runs."""
    return {
        f"{name}, run {number}": partial(
            trial, name, (first, "checkpoint", third, "checkpoint", "final", "final"), number
        )
        for name in setups()
        for number, (first, third) in enumerate(zip(FIRST, THIRD, strict=True))
    }


# ---------------------------------------------------------------------- what was never killed


@dataclass(frozen=True)
class Reference:
    """The run never killed: its folder, how often it changes files, in all and in each place, how long it took."""

    folder: Path
    calls: int
    within: dict[str, int]
    """The fewest calls into the file system of one write."""
    seconds: float
    learning: float
    """Seconds from its first line of metrics to its end."""


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
        ended = children.run(_marking(setup, path, log), fault=Fault(WATCH, path, log=log))
        assert ended.code == 0, f"the run that nobody kills fails: {ended.output}"
    found = differences(setup, folder, folder.with_name(folder.name + "-first"))
    assert not found, f"two runs that nobody kills differ: {found}"
    lines = log.read_text().splitlines()
    within: dict[str, int] = {}
    marks = [index for index, line in enumerate(lines) if line.startswith("within ")] + [len(lines)]
    for start, stop in pairwise(marks):
        place, count = lines[start].split()[1], stop - start - 1
        within[place] = min(within.get(place, count), count)
    finishing = next(index for index, line in enumerate(lines) if line.startswith("within final"))
    within["final"] = sum(not line.startswith("within ") for line in lines[finishing:])
    learning = time.time() - float(next(line.split()[2] for line in lines if line.startswith("within metrics")))
    return Reference(folder, len(lines) - len(marks) + 1, within, ended.seconds, learning)


def _marking(setup: Setup, path: Path, log: Path) -> Callable[[], int]:
    """The run, and a line in the log where it comes to each place."""

    def mark(place: str) -> None:
        with log.open("a") as file:
            file.write(f"within {place} {time.time()}\n")

    train = children.fittedq(*setup.command(path))

    def work() -> int:
        for place, function in PLACES.items():
            children.before_each_call(function, partial(mark, place))
        return train()

    return work


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
    left_out = {"seconds", "stages", "steps_per_second", "updates_per_second"} | (
        {"train_return"} if setup.patient else set()
    )
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
    """(arrays and rows, what the manifest says of them)."""
    manifest = read_json(folder / MANIFEST)
    arrays, manifest = load_folder(folder, manifest["kind"])
    if manifest["kind"] == CHECKPOINT:
        arrays |= {f"rows of {name}": log.all() for name, log in read_rows(folder, manifest).items()}
    return arrays, {key: manifest.get(key) for key in ("agent", "trainer")}


def _counts(run: Path) -> dict[str, int]:
    """How many files lie in each folder."""
    return dict(Counter(str(path.parent.relative_to(run)) for path in run.rglob("*") if path.is_file()))


# ---------------------------------------------------------------------- one run


def trial(name: str, moments: tuple[str, ...], number: int) -> Outcome:
    """Kill a run at these moments one after another, let it finish, compare."""
    known, setup = reference(name), setups()[name]
    run, random = workplace() / "run", np.random.default_rng([number, *name.encode()])
    shutil.rmtree(run, ignore_errors=True)
    hit: list[str] = []
    on: list[str] = []
    wrong: list[str] = []
    for moment in (*moments, None):
        when = {} if moment is None else chosen(known, run, moment, random.uniform())
        ended = children.run(goes_on(setup, run), **when)
        if not ended.killed:
            break
        hit.append(str(moment))
        wrong += unreadable(run)
        on.append("a checkpoint" if any(run.glob("checkpoints/step-*")) else "the start")
    # A run that was killed after its last write has nothing left to resume.
    done = ended.code == 0 or "give a larger --steps" in ended.output
    wrong += [] if done else [f"exit {ended.code}: {ended.last_line}"]
    wrong = wrong or differences(setup, run, known.folder)
    cause = f"killed at {', '.join(hit)}: {'; '.join(wrong[:3])}" if wrong else ""
    return Outcome(name, not wrong, cause, {"killed at": hit, "went on from": on}, len(hit))


def goes_on(setup: Setup, run: Path) -> Callable[[], int]:
    """The command that goes on with a run: it is resumed, or started where there is none yet."""
    there = (run / "config.json").exists()
    return children.fittedq("resume", run) if there else children.fittedq(*setup.command(run))


def chosen(known: Reference, run: Path, moment: str, share: float) -> dict[str, Any]:
    """When a child is killed: after a share of the time that the whole run took, or of the calls of one write."""
    if moment == RANDOM:
        return {"kill_after": 0.6 * share * known.seconds}
    if moment == LEARNING:
        return {"fault": Fault(KILL, run, within=PLACES["metrics"], seconds=0.3 * share * known.learning)}
    at = 1 + int(share * known.within.get(moment, 1))
    return {"fault": Fault(KILL, run, at, within=PLACES[moment], entry=ENTRIES.get(moment, 1))}


def unreadable(run: Path) -> list[str]:
    """What is broken although it is there: what `fittedq verify` says."""
    if not run.exists() or not {"config.json", MANIFEST} & {path.name for path in run.iterdir()}:
        return []
    ended = children.run(children.fittedq("verify", run))
    return [] if ended.code == 0 else [f"verify: exit {ended.code}: {ended.last_line}"]


def ready() -> None:
    """Children are born ready, and short runs cut their rows into as many segments as long ones do."""
    children.ready()
    segments.SEGMENT_BYTES = 2_000


if __name__ == "__main__":
    ready()
    try:
        code = campaign("kills", PROMISE, cases())
    finally:
        shutil.rmtree(workplace(), ignore_errors=True)
    sys.exit(code)
