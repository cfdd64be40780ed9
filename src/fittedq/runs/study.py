"""Trials of settings, in a file that outlives the processes that carry them out and that several of them share.

A trial belongs to a process that holds a lock beside the file. Where that process died, the trial is put back with the
same settings and the same folder, and whoever asks next goes on with its runs.
"""

from __future__ import annotations

import os
import sqlite3
import traceback
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from fittedq.errors import UserError, in_one_line

try:
    import optuna
    from optuna.pruners import BasePruner, NopPruner, PercentilePruner
    from optuna.samplers import TPESampler
    from optuna.storages import BaseStorage, JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
    from optuna.trial import FrozenTrial, TrialState
except ModuleNotFoundError:
    raise UserError("tune: it needs optuna; pip install 'fittedq[tune]'.") from None

from fittedq.files import Json, Lock, make_folder
from fittedq.ranges import NEAR_ONE, Among, SearchRange, word
from fittedq.settings import parse_assignments

SQLITE, JOURNAL = (".db", ".sqlite"), (".journal", ".jsonl")
"""Endings of a storage's file."""
STARTING = 5
"""Trials that are told to their end before any is ended early."""
APART = 10**9
"""Between the places of evaluations of one run and of the next; no run takes so many steps."""
OF_A_NUMBER = 4
"""Digits of what is tried."""


@final
@dataclass(frozen=True)
class Trial:
    """Settings to try."""

    number: int
    folder: int
    """The number that its runs' folder has: that of the trial that it goes on with, else its own."""
    words: tuple[str, ...]
    """The settings as `--set` takes them."""


@final
@dataclass(frozen=True)
class TrialOutcome:
    """What is known of a trial."""

    trial: Trial
    state: str
    """running, waiting, whole, ended early or failed."""
    score: float | None
    told: bool
    """Whether the score says something; of a log that cannot tell, it does not."""


STATES_OF_TRIALS = {
    "COMPLETE": "whole",
    "PRUNED": "ended early",
    "RUNNING": "running",
    "WAITING": "waiting",
    "FAIL": "failed",
}


@final
class Study:
    """Trials in a storage; `asked` is what the runs of all of them have in common."""

    def __init__(
        self,
        file: Path,
        asked: Mapping[str, Json],
        space: Mapping[str, SearchRange],
        trials: int,
        prune: int,
        seed: int,
    ):
        self.file, self.space, self.trials, self.seed = file, space, trials, seed
        self._place = make_folder(file.parent / f"{file.name}.tuners")
        self._mine = self._place / uuid.uuid4().hex
        self._lock = Lock.take(self._mine, make=True)
        try:
            with self._alone():
                self._study = self._opened(prune)
                self._agree({**asked, "space": {name: str(one) for name, one in space.items()}})
        except BaseException:
            self.close()
            raise
        self._asked: dict[int, optuna.Trial] = {}
        self._curves: dict[int, dict[int, dict[int, float]]] = {}

    @property
    def others(self) -> int:
        """How many other processes carry out its trials now."""
        return sum(not _free(one) for one in self._place.iterdir() if one not in (self._mine, self._place / "lock"))

    def ask(self) -> Trial | None:
        """The next trial; None once there are as many as were asked for."""
        with self._alone():
            self._put_back()
            outcomes = self.outcomes()
            if len(outcomes) >= self.trials and all(one.state != "waiting" for one in outcomes):
                return None
            # By the trial's number, so that no process draws what another one drew.
            self._study.sampler = TPESampler(
                seed=self.seed + len(self._study.get_trials(deepcopy=False)),
                constant_liar=True,
                constraints_func=lambda trial: (0.0 if trial.user_attrs.get("told", True) else 1.0,),
            )
            asked = self._study.ask()
            for name, one in self.space.items():
                _suggest(asked, name, one)
            asked.set_user_attr("tuner", self._mine.name)
            folder = asked.user_attrs.get("folder", asked.number)
            asked.set_user_attr("folder", folder)
            self._asked[asked.number] = asked
            return self._trial(asked)

    def take(self, trial: Trial, seed: int, step: int, score: float) -> bool:
        """Take in an evaluation of a trial's `seed`-th run at `step`; whether the trial is hopeless.

        Evaluations of one run stand after those of the run before it, and each is the mean with those of earlier runs
        at the same step, so that trials are compared at the same place.
        """
        curve = self._curves.setdefault(trial.number, {}).setdefault(step, {})
        curve[seed] = score
        with self._quiet():
            asked = self._asked[trial.number]
            asked.report(float(np.mean([curve[one] for one in curve if one <= seed])), seed * APART + step)
            return bool(asked.should_prune())  # NumPy's

    def whole(self, trial: Trial, score: float, *, told: bool) -> None:
        """All runs of a trial are done; `told` is whether the score says something."""
        with self._alone():
            self._asked[trial.number].set_user_attr("told", told)
            self._tell(trial, score)

    def ended_early(self, trial: Trial) -> None:
        """A hopeless trial's runs have ended."""
        with self._alone():
            self._tell(trial, state=TrialState.PRUNED)

    def failed(self, trial: Trial, fault: str) -> None:
        """A trial's runs cannot be had."""
        with self._alone():
            self._asked[trial.number].set_user_attr("fault", fault)
            self._tell(trial, state=TrialState.FAIL)

    def outcomes(self) -> list[TrialOutcome]:
        """All trials, without those that others go on with."""
        return [
            TrialOutcome(
                self._trial(one), STATES_OF_TRIALS[one.state.name], one.value, one.user_attrs.get("told", True)
            )
            for one in self._study.get_trials(deepcopy=False)
            if one.state.name != "FAIL" or "fault" in one.user_attrs
        ]

    @property
    def best(self) -> TrialOutcome | None:
        """The whole trial with the highest score, of which one says something where any does."""
        done = [one for one in self.outcomes() if one.state == "whole" and one.score is not None]
        return max(done, key=lambda one: (one.told, one.score), default=None)

    def close(self) -> None:
        """Put back what is not over, and let others have it."""
        if self._lock is not None:
            self._lock.release()
            if hasattr(self, "_study"):
                with self._alone():
                    self._put_back()
            self._mine.unlink(missing_ok=True)
            self._lock = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While this lasts no other process asks or tells."""
        lock = Lock.take(self._place / "lock", wait=True, make=True)
        assert lock is not None
        try:
            with self._quiet():
                yield
        finally:
            lock.release()

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Without what Optuna warns of on the way; what its storage raises is a sentence."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield
            except UserError:
                raise
            except Exception as error:  # of SQLAlchemy, of SQLite; where a journal is damaged, of any type
                if isinstance(error, OSError) or not _is_optunas(error):
                    raise
                raise UserError(
                    f"{self.file} cannot be read or written as a storage of trials ({_first_cause(error)}); give "
                    "another file, or a copy of it that is whole.",
                    argument="storage",
                ) from error

    def _opened(self, prune: int) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        _check_ours(self.file)
        if self.file.suffix in SQLITE:
            waits = {"connect_args": {"timeout": 60}}
            storage: BaseStorage = RDBStorage(f"sqlite:///{self.file}", engine_kwargs=waits)
        else:
            _cut_torn_line(self.file)
            storage = JournalStorage(JournalFileBackend(str(self.file)))
        pruner: BasePruner = NopPruner()
        if prune:
            pruner = PercentilePruner(100.0 - prune, n_startup_trials=STARTING)
        return optuna.create_study(
            storage=storage,
            pruner=pruner,
            study_name="fittedq",
            direction="maximize",
            load_if_exists=True,
        )

    def _agree(self, asked: Mapping[str, Json]) -> None:
        """A UserError where the storage holds trials of other runs.

        What was asked for is written before the first trial, one by one: a kill may have left a part of it.
        """
        held, begun = self._study.user_attrs, bool(self._study.get_trials(deepcopy=False))
        if begun and not held:
            raise UserError(f"{self.file} holds trials of another program; give another file.", argument="storage")
        for name, value in asked.items():
            if not begun and name not in held:
                self._study.set_user_attr(name, value)
            elif held.get(name) != value:
                raise UserError(
                    f"{self.file} holds trials with {name} {held.get(name)}, and {value} is asked for; give the same "
                    "again, or another file.",
                    argument="storage",
                )

    def _put_back(self) -> None:
        """Let trials whose process is gone be asked for again, with their settings and their folder."""
        trials = self._study.get_trials(deepcopy=False)
        again = {one.user_attrs.get("goes_on_with") for one in trials}
        for one in trials:
            tuner = one.user_attrs.get("tuner")
            if one.state.name != "RUNNING" or (tuner and not _free(self._place / tuner)):
                continue
            if one.number not in again:
                about = {"folder": one.user_attrs.get("folder", one.number), "goes_on_with": one.number}
                self._study.enqueue_trial(one.params, user_attrs=about)
            self._study.tell(one.number, state=TrialState.FAIL)

    def _tell(self, trial: Trial, score: float | None = None, state: TrialState | None = None) -> None:
        self._study.tell(trial.number, score, state=state, skip_if_finished=True)

    def _trial(self, one: optuna.Trial | FrozenTrial) -> Trial:
        words = tuple(
            f"{name}={_shown(one.params[_param(name, range)], range)}"
            for name, range in self.space.items()
            if _param(name, range) in one.params
        )
        return Trial(one.number, one.user_attrs.get("folder", one.number), words)


def check_storage(file: Path) -> None:
    """A UserError where a storage can have no such name, or the file there is none; it is not touched."""
    if file.suffix not in (*SQLITE, *JOURNAL):
        raise UserError(
            f"found {file}, expected the name of a file that ends in {', '.join(SQLITE)} (SQLite) or "
            f"{', '.join(JOURNAL)} (a journal).",
            argument="storage",
        )
    _check_ours(file)


def _check_ours(file: Path) -> None:
    """A UserError where a file is there that no study is kept in."""
    if not os.path.lexists(file):
        return
    ours = False
    if file.is_file() and file.suffix in JOURNAL:
        with open(file, "rb") as opened:
            start = opened.read(2**12).lstrip()
        ours = not start or (start.startswith(b"{") and b'"op_code"' in start)
    elif file.is_file():
        try:
            with sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True) as connection:
                names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            connection.close()
            ours = not names or {"studies", "trials", "version_info"} <= names
        except sqlite3.Error:
            ours = False
    if not ours:
        raise UserError(f"{file} is no storage of trials; choose another name.", argument="storage")


def _cut_torn_line(journal: Path) -> None:
    """Take off a last line that a crash tore: Optuna would write the next one behind it, and read neither again."""
    if not journal.exists():
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(journal, whole)
    finally:
        lock.release()


def _is_optunas(error: BaseException) -> bool:
    """Whether Optuna, or what it calls, raised this."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name.partition(".")[0] == "optuna" for name in modules)


def _first_cause(error: BaseException) -> str:
    """What went wrong at first, in its own words: libraries above only add their statement."""
    while error.__cause__ is not None:
        error = error.__cause__
    return in_one_line(error).rstrip(".")


def _free(lock: Path) -> bool:
    """Whether no process holds this lock."""
    try:
        taken = Lock.take(lock)
    except FileNotFoundError:
        return True
    if taken is not None:
        taken.release()
    return taken is not None


def _param(name: str, one: SearchRange) -> str:
    return f"1 - {name}" if not isinstance(one, Among) and one.scale == NEAR_ONE else name


def _suggest(asked: optuna.Trial, name: str, one: SearchRange) -> None:
    param = _param(name, one)
    if isinstance(one, Among):
        asked.suggest_categorical(param, [word(value) for value in one.values])
    elif one.scale == NEAR_ONE:
        asked.suggest_float(param, 1 - one.high, 1 - one.low, log=True)
    elif one.whole:
        asked.suggest_int(param, int(one.low), int(one.high), log=one.scale != "linear")
    else:
        asked.suggest_float(param, one.low, one.high, log=one.scale != "linear")


def _shown(value: object, one: SearchRange) -> str:
    """A parameter as `--set` takes it, of few digits and within its range."""
    if isinstance(one, Among) or isinstance(value, int):
        return str(value)
    assert isinstance(value, float)
    short = float(f"{value:.{OF_A_NUMBER}g}")
    return repr(min(max(round(1 - short, 12) if one.scale == NEAR_ONE else short, one.low), one.high))


def values_of(words: tuple[str, ...]) -> dict[str, Any]:
    """Settings by name from words of `--set`, as a preset's file holds them."""
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in parse_assignments(words).items()
    }
