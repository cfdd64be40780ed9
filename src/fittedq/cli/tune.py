"""`fittedq tune ALGORITHM ENV`."""

from __future__ import annotations

import json
import shlex
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console, Group
from rich.text import Text

from fittedq.algorithms import AUTO, class_of
from fittedq.algorithms.named import NamedMethod
from fittedq.algorithms.presets import Preset, as_toml, chosen, preset_for
from fittedq.cli.arguments import MaybeInt, MaybePath, words_of
from fittedq.cli.board import Board, follow_live, tell
from fittedq.cli.environments import Words
from fittedq.cli.signals import INTERRUPTED, interruptible
from fittedq.cli.tables import print_rows
from fittedq.cli.train import DescribesRun, Train, folder_name
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError, nearest, plural
from fittedq.estimates.result import CANNOT
from fittedq.files import check_folder, make_folder, write_bytes
from fittedq.machine import cores
from fittedq.ranges import SearchRange, read, word
from fittedq.runs.folder import RunFolder
from fittedq.runs.progress import console
from fittedq.runs.study import Study, Trial, TrialOutcome, check_storage, values_of
from fittedq.runs.tasks import Task, Told, as_they_come
from fittedq.settings import MOST_SEED, once, parse_assignments, whole
from fittedq.trainers.choose import ranges_in, tuned

MARK_OF_TUNING = "# Written by fittedq tune; another tuning replaces it.\n"
HOPELESS = 3
"""So many trials that fail, before any is whole, and the others would fail too."""
TRIALS_SHOWN = 10
"""Trials in the table at the end."""


@dataclass(frozen=True)
class Tune(DescribesRun):
    """Look for settings with Optuna: trials of several seeds each, the hopeless ended early, the winner as a preset.

    Each run is one like any other, in OUT/trial-N/seed-SEED. The same command goes on where it was stopped or killed;
    several of it may share the storage. `fittedq list ALGORITHM` shows where each setting is looked for; what --set
    gives is not looked for."""

    trials: int = 30
    """Trials in all, those before included."""
    seeds: int = 3
    """Runs of each trial; its score is the mean of their last evaluations, or with --held-out of the low ends of their
    estimates."""
    seed: int = 0
    """The first seed of the runs, and what settings are drawn by."""
    only: Annotated[Words, tyro.conf.arg(metavar="SETTING,…")] = ()
    """Settings to look for, in place of all that say where."""
    space: Annotated[Words, tyro.conf.arg(metavar="SETTING=LOW..HIGH")] = ()
    """Where to look for a setting: LOW..HIGH, with :linear, :log or :near-one behind it another scale than its own; or
    VALUE|VALUE|…. May be given often."""
    held_out: MaybePath = None
    """From --data alone: rows that nothing learned from (`fittedq data split`); trials are judged by what `fittedq
    estimate` says of them there, those of which they tell nothing last."""
    prune: int = 50
    """A trial is ended where it is worse at an evaluation than this percentage of the others there; 0: never."""
    storage: MaybePath = None
    """The file that holds the trials: .db or .sqlite, or a .journal (default: OUT/tune.db)."""
    out: MaybePath = None
    """The folder of all runs, and of the winner, best.toml (default: tunings/ALGORITHM-ENV)."""
    processes: MaybeInt = None
    """How many runs at a time (default: one for each core)."""
    json: bool = False
    """Print a JSON object per report, for machines."""

    def run(self) -> int:
        self._check()
        space = self._space()
        check_storage(self.file)
        preset_file = self.folder / "best.toml"
        if preset_file.exists() and not preset_file.read_bytes().startswith(MARK_OF_TUNING.encode()):
            raise UserError(f"{preset_file} is not fittedq's; choose another folder.", argument="out")
        check_folder(self.folder)
        study = Study(self.file, self._asked(), space, self.trials, self.prune, self.seed)
        try:
            make_folder(self.folder)
            return self._carried_out(study, preset_file)
        finally:
            study.close()

    @property
    def folder(self) -> Path:
        """Where all runs are."""
        source = self.env or Path(str(self.data)).name
        return self.out or Path("tunings") / f"{folder_name(self.algorithm)}-{folder_name(source)}"

    @property
    def file(self) -> Path:
        """Where the trials are kept."""
        return self.storage or self.folder / "tune.db"

    def _check(self) -> None:
        """A UserError for what is wrong whatever the settings."""
        whole(self.trials, "trials", 1)
        whole(self.seeds, "seeds", 1)
        whole(self.seed, "seed", high=MOST_SEED - self.seeds)
        whole(self.prune, "prune", 0, 99)
        whole(1 if self.processes is None else self.processes, "processes", 1, len(cores()))
        schedule = self.schedule()
        if self.held_out is None and self.env is None and self.eval_env is None:
            raise UserError(
                "tune: nothing judges what is learned from --data alone; give --held-out (`fittedq data split` makes "
                "it), or --eval-env."
            )
        if self.held_out is None and getattr(schedule, "eval_every", 1) == 0:
            raise UserError("found 0, and trials are judged by evaluations; expected a number.", argument="eval_every")
        if self.held_out is not None:
            if self.env is not None or self.eval_env is not None:
                raise UserError("found an environment too, which judges better; leave it out.", argument="held_out")
            Dataset.open(self.held_out, verify=False)

    def _space(self) -> dict[str, SearchRange]:
        """Where each setting is looked for. What the others forbid is left out, unless it was named."""
        check = self.checking()
        check(())
        cls, where = class_of(self._chosen[0]), "dataset" if self.env is None else "host"
        known, given = ranges_in(cls, where), self.assignments(self.set)
        for name, value in given.items():
            if value is None:
                raise UserError(f"--set {name}=none: a preset's file cannot hold it; leave it out.")
        named = self._named(cls.name, known, given)
        usual = {} if self.only else {name: one for name, one in tuned(cls, where).items() if name not in given}
        found = usual | named
        for name, one in list(found.items()):
            try:
                for value in one.ends:
                    check((f"{name}={word(value)}",))
            except UserError:
                if name in named:
                    raise
                del found[name]  # it has no meaning beside what is set
        if not found:
            raise UserError("tune: found no setting to look for; give --space SETTING=LOW..HIGH.")
        for end in (0, 1):
            check(tuple(f"{name}={word(one.ends[end])}" for name, one in found.items()))
        return found

    def _named(
        self, algorithm: str, known: Mapping[str, SearchRange | None], given: Mapping[str, Any]
    ) -> dict[str, SearchRange]:
        """The settings that --only and --space name, and where they are looked for."""
        asked = [name.strip().replace("-", "_") for words in self.only for name in words.split(",") if name.strip()]
        words = (one.partition("=") for one in self.space)
        said = once(((name.strip().replace("-", "_"), text) for name, _, text in words), "space")
        found: dict[str, SearchRange] = {}
        for name in dict.fromkeys((*asked, *said)):
            usual = known.get(name)
            if name not in known:
                raise UserError(f"tune: {name!r} is no setting of {algorithm}; {nearest(name, known)}")
            if name in given:
                raise UserError(f"tune: {name} is looked for and set too; leave one out.")
            if usual is None and name not in said:
                raise UserError(f"tune: nobody says where to look for {name}; give --space {name}=LOW..HIGH.")
            try:
                one = read(said[name], usual) if name in said else usual
            except UserError as error:
                raise UserError(f"--space {name}={said[name]}: {error}") from None
            assert one is not None
            found[name] = one
        return found

    @property
    def _chosen(self) -> tuple[str, str | None]:
        """The algorithm and its preset."""
        named = (self.algorithm, self.preset)
        if self.algorithm != AUTO:
            return named
        algorithm, preset = chosen(*named)
        return str(algorithm), preset

    def _asked(self) -> dict[str, Any]:
        """What all trials have in common, for those that share the storage."""
        own = {"trials", "only", "space", "storage", "out", "processes", "json", "prune", "track"}
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in own}
        return {name: str(value) if isinstance(value, Path | tuple) else value for name, value in values.items()}

    def task(self, trial: Trial, seed: int) -> Task:
        """A run of a trial."""
        described = {field.name: getattr(self, field.name) for field in fields(DescribesRun)}
        train = Train(**{**described, "set": (*self.set, *trial.words)})
        one = train.task(f"trial {trial.number} seed {seed}", self.run_folder(trial, seed), seed)
        return Task(one.name, one.words, {"trial": trial.number, **one.about})

    def _taken(self, preset: Path) -> list[str]:
        """The command that trains with the winner's settings and all else that its trials had."""
        described = {field.name: getattr(self, field.name) for field in fields(DescribesRun)}
        train = Train(**{**described, "algorithm": self._chosen[0], "set": (), "preset": str(preset)})
        return ["fittedq", "train", *words_of(train)]

    def judged(self, trial: Trial, seed: int) -> Task:
        """What a log says of a run."""
        trusted = [f"--trust-code={name}" for name in self.trust_code]
        own = [] if NamedMethod.of(self.algorithm) is None else [f"--code={self.algorithm}"]
        words = ("estimate", str(self.run_folder(trial, seed)), f"--data={self.held_out}", "--json", *trusted, *own)
        about = {"trial": trial.number, "seed": seed}
        return Task(f"trial {trial.number} seed {seed} estimate", words, about)

    def run_folder(self, trial: Trial, seed: int) -> Path:
        """Where a run of a trial is."""
        return self.folder / f"trial-{trial.folder}" / f"seed-{seed}"

    def _carried_out(self, study: Study, preset_file: Path) -> int:
        count = self.processes or len(cores())
        first = study.others * count % len(cores())  # others that share the storage have the cores before
        on = (cores() * 2)[first : first + count]
        at_work = AtWork(self, study)
        if not self.json:
            for name, one in study.space.items():
                console().print(f"looking for {name} in {one}", soft_wrap=True)
        leave = "the runs save themselves and end."
        with (
            interruptible("every run is saved first", leave) as stop,
            follow_live(at_work, as_json=self.json) as terminal,
        ):
            for told in as_they_come(at_work.tasks(), on, lambda: bool(stop), at_work.over):
                tell(told, terminal, as_json=self.json)
                for ended in at_work.take(told):
                    self._show(ended, terminal)
                    if study.best is not None:
                        self._write(preset_file, study)
        return self._conclude(study, preset_file, bool(stop))

    def _show(self, ended: TrialOutcome, terminal: Console) -> None:
        if self.json:
            print(json.dumps({"event": "trial", **_as_json(ended)}), flush=True)
        else:
            score = "" if ended.score is None else f", {ended.score:,.4g}"
            words = " ".join(ended.trial.words)
            terminal.print(f"trial {ended.trial.number} {ended.state}{score}: {words}", soft_wrap=True)

    def _write(self, file: Path, study: Study) -> None:
        """The winner so far, as a preset."""
        best = study.best
        assert best is not None
        algorithm, preset = self._chosen
        published = {} if preset is None else dict(preset_for(preset, algorithm).settings)
        settings = published | self.assignments(self.set) | parse_assignments(best.trial.words)
        by = "low ends of estimates" if self.held_out is not None else "last evaluations"
        done = [one for one in study.outcomes() if one.state in ("whole", "ended early")]
        seeds = plural(self.seeds, "seed", "seeds")
        found = Preset(
            name="",
            algorithm=class_of(algorithm).name,
            title=f"found by fittedq tune for {self.env or self.data}",
            source=f"trial {best.trial.number} of {len(done)}",
            settings=settings,
            because=f"the mean of the {by} of {seeds} was {best.score:.6g}, the best of {len(done)} trials",
        )
        write_bytes(file, (MARK_OF_TUNING + as_toml(found)).encode())

    def _conclude(self, study: Study, preset_file: Path, stopped: bool) -> int:
        outcomes, best = study.outcomes(), study.best
        if self.json:
            about = {"best": None if best is None else _as_json(best), "preset": str(preset_file) if best else None}
            print(json.dumps({"event": "interrupted" if stopped else "done", **about}), flush=True)
        elif best is not None:
            order = sorted(outcomes, key=lambda one: (one.score is not None, one.told, one.score or 0.0), reverse=True)
            rows = [[str(o.trial.number), _score(o), o.state, " ".join(o.trial.words)] for o in order[:TRIALS_SHOWN]]
            print_rows([["trial", "score", "", "settings"], *rows])
            print(f"Take it: {shlex.join(self._taken(preset_file))}")
        if stopped:
            console().print(f"Stopped; the same command goes on with the trials in {self.file}.", soft_wrap=True)
            return INTERRUPTED
        if best is None:
            raise UserError(f"tune: no trial is whole; `fittedq runs {self.folder}` lists their runs.")
        return 0


def _score(one: TrialOutcome) -> str:
    return "" if one.score is None else f"{one.score:,.4g}" + " (the log cannot tell)" * (not one.told)


def _as_json(one: TrialOutcome) -> dict[str, Any]:
    settings = values_of(one.trial.words)
    return {"trial": one.trial.number, "state": one.state, "score": one.score, "told": one.told, "settings": settings}


class AtWork:
    """The trials that this process carries out, and what their runs have said so far."""

    def __init__(self, command: Tune, study: Study):
        self.command, self.study = command, study
        self.board = Board(())
        self.trials: dict[int, Trial] = {}
        self._coming = deque[Task]()
        self._left: dict[int, set[str]] = {}
        """Tasks of each trial that have not ended."""
        self._scores: dict[int, dict[int, tuple[float, bool]]] = {}
        self._hopeless, self._faults = set[int](), dict[int, str]()
        self._said: dict[str, str] = {}
        self._failed = 0
        self._so_far = self._summary()

    def tasks(self) -> Iterator[Task | None]:
        """The runs of one trial after another, as there is a core for them."""
        while True:
            if self._coming and self._in_use(self._coming[0]):
                yield None  # by a run whose tuning was killed; it ends as its reader is gone
            elif self._coming:
                yield self._coming.popleft()
            elif (trial := self.study.ask()) is not None:
                self.trials[trial.number], self._scores[trial.number] = trial, {}
                seeds = range(self.command.seed, self.command.seed + self.command.seeds)
                self._add(trial, [self.command.task(trial, seed) for seed in seeds])
            elif self.trials:
                yield None
            else:
                return

    def _in_use(self, task: Task) -> bool:
        trial, seed = self.trials[task.about["trial"]], task.about["seed"]
        return trial.folder != trial.number and RunFolder(self.command.run_folder(trial, seed)).in_use

    def _add(self, trial: Trial, tasks: list[Task]) -> None:
        self._left.setdefault(trial.number, set()).update(task.name for task in tasks)
        self._coming.extend(tasks)

    def over(self, task: Task) -> bool:
        """Whether a task's trial is to end before its runs do."""
        return task.about["trial"] in self._hopeless or task.about["trial"] in self._faults

    def take(self, told: Told) -> Iterator[TrialOutcome]:
        """Take in what a run said; the trial that it ends, if it does."""
        self.board.take(told)
        trial, _ = self._of(told.task)
        if told.text is not None:
            self._said[told.task.name] = told.text
        if told.record is not None:
            self._heard(told.task, told.record)
        if told.code is not None:
            self._ended(told.task, told.code)
            self.board.forget(told.task.name)
        if not self._left[trial.number]:
            yield self._conclude(trial)
            self._so_far = self._summary()

    def _of(self, task: Task) -> tuple[Trial, int]:
        """The trial and the seed of a task."""
        return self.trials[task.about["trial"]], task.about["seed"]

    def _heard(self, task: Task, record: dict[str, Any]) -> None:
        (trial, seed), score = self._of(task), record.get("eval_mean")
        if "verdict" in record:
            self._scores[trial.number][seed] = record["low"], record["verdict"] != CANNOT
        elif self.command.held_out is None and score is not None and record.get("event") == "done":
            self._scores[trial.number][seed] = score, True
        elif score is not None and record.get("event") == "report" and not self.over(task):
            place = seed - self.command.seed
            if self.study.take(trial, place, record["step"], score):
                self._hopeless.add(trial.number)
                self._drop(trial)

    def _drop(self, trial: Trial) -> None:
        """Begin no other run of a trial."""
        dropped = {task.name for task in self._coming if task.about["trial"] == trial.number}
        self._coming = deque(task for task in self._coming if task.name not in dropped)
        self._left[trial.number] -= dropped

    def _ended(self, task: Task, code: int) -> None:
        (trial, seed), over = self._of(task), self.over(task)
        if code == INTERRUPTED and not over:
            return  # it is put back
        self._left[trial.number].discard(task.name)
        if over:
            return
        if code != 0:
            self._faults[trial.number] = self._said.get(task.name, f"{task.name} ended with {code}")
            self._drop(trial)
        elif task.words[0] == "train" and self.command.held_out is not None:
            self._add(trial, [self.command.judged(trial, seed)])

    def _conclude(self, trial: Trial) -> TrialOutcome:
        del self.trials[trial.number]
        scores = self._scores.pop(trial.number)
        fault = self._faults.get(trial.number)
        if trial.number not in self._hopeless and fault is None and len(scores) < self.command.seeds:
            fault = "a run ended without an evaluation"
        if fault is not None:
            self.study.failed(trial, fault)
            self._failed += 1
            if self._failed >= HOPELESS and self.study.best is None:
                raise UserError(f"tune: {plural(self._failed, 'trial', 'trials')} failed, and none is whole: {fault}")
            return TrialOutcome(trial, "failed", None, False)
        if trial.number in self._hopeless:
            self.study.ended_early(trial)
            return TrialOutcome(trial, "ended early", None, False)
        score, says = float(np.mean([one for one, _ in scores.values()])), all(one for _, one in scores.values())
        self.study.whole(trial, score, told=says)
        return TrialOutcome(trial, "whole", score, says)

    def _summary(self) -> str:
        outcomes, best = self.study.outcomes(), self.study.best
        done = sum(one.state not in ("running", "waiting") for one in outcomes)
        so_far = "" if best is None else f"; best {best.score:,.4g} of trial {best.trial.number}"
        return f"{done} of {self.command.trials} trials{so_far}"

    def __rich__(self) -> Group:
        return Group(self.board, Text(self._so_far))
