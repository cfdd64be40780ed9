"""What a run leaves behind: its configuration, its metrics line by line, its curve as a picture."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fittedq.diagnose.pictures import save_picture
from fittedq.errors import UserError, plural
from fittedq.files import (
    AGENT,
    PREFIX,
    RUN,
    RUNS_CONFIG,
    RUNS_OWN,
    Json,
    Lock,
    digest_of,
    make_folder,
    read_manifest,
    read_signed,
    remove_unlisted,
    sweep,
    write_bytes,
    write_signed,
)
from fittedq.runs.changes import first_settings, history_fault, with_line
from fittedq.runs.report import figures_of

Record = dict[str, Any]
DRAWN = ("eval_mean", "eval_min", "eval_max")

KINDS_OF_SETTINGS: dict[str, Any] = {
    "algorithm": str,
    "env": str | dict | None,
    "eval_env": str | dict | None,
    "data": str | None,
    "action_set": dict | None,
    "seed": int,
    "steps": int,
    "settings": dict,
    "history": list,
    "preset": str | None,
    "method": str | None,
    "package": str | None,
}
"""What `config.json` holds under each name, before anything is made of it."""


class RunFolder:
    """`config.json`, `metrics.jsonl`, `checkpoints/`, `best/`, `last/`, `curve.png` under one folder.

    Who writes there holds the folder's lock, from `create` or `open` to `close`; reading needs none.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config_file = path / RUNS_CONFIG
        self.metrics_file = path / "metrics.jsonl"
        self.best, self.last, self.checkpoints = (path / name for name in RUNS_OWN)
        self.curve_file = path / "curve.png"
        self._lock: Lock | None = None
        self._config: dict[str, Any] | None = None

    def create(self, config: dict[str, Any]) -> None:
        """Begin a run, or begin one again that came to no checkpoint; a folder that holds another is refused."""
        if not self.path.absolute().name:
            raise UserError(f"found {self.path}, the root of all folders; choose one in it.", argument="out")
        self._refuse_all_but(config)
        self._claim()
        self._refuse_all_but(config)  # nobody was faster
        self._write({"kind": RUN, **config, "history": []})
        self.rewind(0)

    def continues(self, config: dict[str, Any]) -> bool:
        """Whether it holds a run of this very configuration that came to a checkpoint."""
        return self.config_file.exists() and self.begun and what_binds(self.config()) == what_binds(config)

    def _refuse_all_but(self, config: dict[str, Any]) -> None:
        """A UserError unless the folder is free, or holds a run of this configuration that came to no checkpoint."""
        if self.config_file.exists():
            same = what_binds(self.config()) == what_binds(config)
            if self.begun or not same:
                finished = self.finished
                raise UserError(
                    f"run folder {self.path} holds a run of {'the same' if same else 'another'} configuration"
                    f"{', and it is finished' * finished}; continue it with `fittedq resume {self.path}"
                    f"{' --steps MORE' * finished}`, or choose another folder.",
                    argument="out",
                )
        else:
            written = (self.best, self.last, self.checkpoints, self.metrics_file, self.curve_file)
            found = [path.name for path in written if os.path.lexists(path)]
            if found:
                raise UserError(
                    f"folder {self.path} holds {', '.join(found)}, but fittedq made no run there; choose another.",
                    argument="out",
                )

    def _write(self, config: dict[str, Any]) -> None:
        self._config = config
        with _writing(self.config_file):
            write_signed(self.config_file, config)

    def open(self) -> dict[str, Any]:
        """The configuration of an existing run, which nobody else writes to from now on."""
        self.config()
        self._claim()
        self._config = self.config()
        return self._config

    def close(self) -> None:
        """Let others write here."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def config(self) -> dict[str, Any]:
        """The configuration, whole and as it was written."""
        if not self.config_file.is_file():
            refuse_runs(self.path)
            raise UserError(f"run folder {self.path} holds no config.json; give the folder that `fittedq train` made.")
        try:
            config = read_signed(self.config_file)
        except UserError as error:
            raise UserError(
                f"{error} Put it back as it was: other settings are another run (fittedq train --out), more steps are "
                "given to fittedq resume --steps."
            ) from None
        if config.get("kind", RUN) != RUN:
            raise UserError(f"{self.config_file}: found the kind {config['kind']!r}, expected {RUN!r}; it is no run's.")
        missing = {"algorithm", "env", "seed", "steps", "settings", "history"} - config.keys()
        if missing:
            raise UserError(
                f"{self.config_file}: {', '.join(sorted(missing))} missing; it is damaged or not one of ours."
            )
        for name, kind in KINDS_OF_SETTINGS.items():
            if not isinstance(config.get(name), kind) or isinstance(config.get(name), bool):
                raise UserError(
                    f"{self.config_file}: {name} is {config.get(name)!r}, as in no run; it is damaged or not one of "
                    "ours."
                )
        if (fault := history_fault(config)) is not None:
            raise UserError(f"{self.config_file}: {fault}; it is damaged or not one of ours.")
        return config

    def identity(self) -> dict[str, Any]:
        """What a checkpoint of this run says of it: the digest of its settings, and what resuming it changed so far."""
        config = self._config or self.config()
        return {"settings": digest_of(what_binds(config)), "history": config["history"]}

    def check_agent(self, path: Path) -> None:
        """A UserError where another run than this saved the agent's folder at `path`."""
        try:
            own = self.identity()["settings"]
        except UserError:
            return  # a damaged configuration says nothing of the agent
        origin = read_manifest(path, AGENT).get("origin")
        if isinstance(origin, dict) and origin.get("settings", own) != own:
            raise UserError(
                f"{path} was saved by a run of other settings than {self.path}; put its own back (or name {path}, to "
                "have this agent)."
            )

    def change(self, step: int, changes: dict[str, Any]) -> None:
        """Write down what a resume at `step` changes."""
        assert self._config is not None
        self._write(with_line(self._config, step, changes))

    @property
    def claimed(self) -> bool:
        """Whether it is this object that writes there."""
        return self._lock is not None

    @property
    def in_use(self) -> bool:
        """Whether a process writes there now."""
        try:
            lock = Lock.take(self.path / f"{PREFIX}lock")
        except (OSError, UserError):
            return False
        if lock is not None:
            lock.release()
        return lock is None

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint, or the agent that is written after the last."""
        return self.last.exists() or any(self.checkpoints.glob("step-*"))

    @property
    def finished(self) -> bool:
        """Whether all steps were taken, or its trainer had no more to do, and the last agent is written."""
        records = self.metrics()
        if not records or not self.last.exists():
            return False
        return records[-1]["step"] >= self.config()["steps"] or records[-1].get("finished") is not None

    def _claim(self) -> None:
        """Take the lock, and remove what a process that died left."""
        file = make_folder(self.path) / f"{PREFIX}lock"
        with _writing(file):
            self._lock = Lock.take(file, make=True)
            if self._lock is None:
                raise UserError(
                    f"run folder {self.path} is in use by process {file.read_text().strip() or 'of another user'}; "
                    "wait until it has ended, or stop it."
                )
            self._lock.note(f"{os.getpid()}\n")
            # What is written into `checkpoints/` sweeps there; a run that is only completed writes nothing there.
            for folder in (self.path, self.checkpoints):
                if folder.is_dir():
                    sweep(folder, alone=True)
            for folder in (self.best, self.last, *self.checkpoints.glob("step-*")):
                if folder.is_dir() and not folder.is_symlink():
                    remove_unlisted(folder)

    def append(self, record: Record) -> None:
        """One line of metrics, on disk when this returns."""
        with _writing(self.metrics_file), open(self.metrics_file, "a") as file:
            file.write(json.dumps(json_value(record)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[Record]:
        """Every line that can be read."""
        return [record for _, record in self.lines() if record is not None]

    def figures(self) -> dict[str, float]:
        """The newest figure of each name, as far as metrics go."""
        newest = {name: value for record in self.metrics() for name, value in figures_of(record).items()}
        means = [record["eval_mean"] for record in self.metrics() if record.get("eval_mean") is not None]
        return newest | ({"best": max(means)} if means else {})

    def lines(self) -> list[tuple[bytes, Record | None]]:
        """Every line of the metrics, and what it says; None where that cannot be read.

        A last line without its end was being written when the process was killed.
        """
        if not self.metrics_file.exists():
            return []
        if not self.metrics_file.is_file():
            raise UserError(f"{self.metrics_file} is no file; remove it: the run goes on without its earlier metrics.")
        try:
            data = self.metrics_file.read_bytes()
        except OSError:
            return []
        return [(line, _record(line)) for line in data.splitlines(keepends=True) if line.strip()]

    def rewind(self, step: int) -> int:
        """Drop metrics after `step`, which a resumed run will write again; how many lines were lost as unreadable."""
        lines = self.lines()
        kept = [line for line, record in lines if record is not None and record["step"] <= step]
        with _writing(self.metrics_file):
            write_bytes(self.metrics_file, b"".join(line.rstrip(b"\r\n") + b"\n" for line in kept))
        return sum(record is None for _, record in lines)

    def draw(self) -> Path | None:
        """The learning curve as a picture, where matplotlib is installed."""
        try:
            import matplotlib
        except ModuleNotFoundError:
            return None
        matplotlib.use("Agg")
        from matplotlib import pyplot

        records = self.metrics()
        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        training = [
            (record["step"], record["train_return"]) for record in records if record.get("train_return") is not None
        ]
        if training:
            axes.plot(*zip(*training, strict=True), color="0.75", linewidth=1, label="training episodes (exploring)")
        evaluated = [record for record in records if all(record.get(name) is not None for name in DRAWN)]
        if evaluated:
            steps = [record["step"] for record in evaluated]
            axes.plot(steps, [record["eval_mean"] for record in evaluated], color="C0", label="evaluation, mean")
            axes.fill_between(
                steps,
                [record["eval_min"] for record in evaluated],
                [record["eval_max"] for record in evaluated],
                color="C0",
                alpha=0.15,
                linewidth=0,
                label="evaluation, worst to best episode",
            )
        config = self.config()
        axes.set(
            xlabel="environment steps" if config["env"] else "steps",
            ylabel="return",
            title=f"{config['algorithm']} on {config['env'] or config.get('data') or 'an environment of its own'}",
        )
        if training or evaluated:
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        with _writing(self.curve_file):
            save_picture(figure, self.curve_file)
        pyplot.close(figure)
        return self.curve_file


def what_binds(config: dict[str, Any]) -> dict[str, Any]:
    """What must agree for one run to continue another: all but its length, how often it is evaluated and saved,
    versions, and what resuming changed."""
    same = {name: config.get(name) for name in ("algorithm", "env", "data", "action_set", "seed")}
    # Runs that began with networks of their own have none, in folders of all ages.
    start = {"start": config["start"]} if "start" in config else {}
    return same | {"settings": first_settings(config)} | start


def refuse_runs(path: Path) -> None:
    """A UserError where `path` is a folder of runs, as seeds and sweeps have one."""
    runs = sorted(path.glob("*/config.json")) if path.is_dir() else []
    if runs:
        raise UserError(f"{path} holds {plural(len(runs), 'run', 'runs')}; name one, such as {runs[0].parent}.")


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """A UserError where the disk is full, or fails."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{file} cannot be written ({error.strerror}); what was saved before is intact: make room, then resume."
        ) from None


def _record(line: bytes) -> Record | None:
    """A line of metrics, if it is one: a step, and numbers where the curve has them."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    drawn = (record.get(name) for name in ("train_return", *DRAWN))
    return record if all(value is None or type(value) in (int, float) for value in drawn) else None


def json_value(value: Json) -> Json:
    """`value` with null, in depth, for the numbers that JSON lacks."""
    if isinstance(value, dict):
        return {name: json_value(part) for name, part in value.items()}
    if isinstance(value, list):
        return [json_value(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
