"""Figures of a run told to a tracker as they come; the lines of `metrics.jsonl` are written whatever is tracked."""

from __future__ import annotations

import abc
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, final

from fittedq.errors import UserError, in_one_line, nearest
from fittedq.runs.run import Run
from fittedq.runs.stop import Reports


class AbstractTracker(abc.ABC):
    """Where the figures of one run go; whatever it raises ends the tracking, and not the run."""

    package: ClassVar[str]
    extra: ClassVar[str]

    @abc.abstractmethod
    def __init__(self, folder: Path, config: Mapping[str, object], step: int):
        """Begin, or go on at `step`."""

    @abc.abstractmethod
    def record(self, step: int, figures: Mapping[str, float]) -> None:
        """Take in the figures of a report."""

    @abc.abstractmethod
    def close(self) -> None:
        """Write what is left."""


@final
class TensorBoard(AbstractTracker):
    """Event files in RUN/tensorboard, for `tensorboard --logdir runs`."""

    package, extra = "tensorboardX", "tensorboard"

    def __init__(self, folder: Path, config: Mapping[str, object], step: int):
        from tensorboardX import SummaryWriter

        # It names a file by the second: one that goes on within the same second would replace what it goes on from.
        name = f".{step:012d}.{secrets.token_hex(4)}"
        purge = step + 1 if step else None
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge, filename_suffix=name)

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


@final
class WeightsAndBiases(AbstractTracker):
    """A run of the project fittedq at Weights & Biases, or with WANDB_MODE=offline in RUN/wandb."""

    package, extra = "wandb", "wandb"

    def __init__(self, folder: Path, config: Mapping[str, object], step: int):
        wandb = import_module(self.package)
        name = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]  # a resumed run is the same one there
        quiet = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(
            project="fittedq",
            id=name,
            name=folder.name,
            group=folder.parent.name,
            config=dict(config),
            dir=str(folder),
            resume="allow",
            settings=quiet,
        )

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


TrackerKinds = Sequence[type[AbstractTracker]]

TRACKERS: dict[str, type[AbstractTracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def named_trackers(words: str | None) -> list[type[AbstractTracker]]:
    """The trackers of `tensorboard,wandb`; a UserError for one that is unknown, or whose package is missing."""
    found = []
    for name in dict.fromkeys(name.strip() for name in (words or "").split(",") if name.strip()):
        if name not in TRACKERS:
            raise UserError(f"found {name!r}; {nearest(name, TRACKERS)}", argument="track")
        kind = TRACKERS[name]
        if find_spec(kind.package) is None:
            raise UserError(f"{name} needs {kind.package}; pip install 'fittedq[{kind.extra}]'.", argument="track")
        found.append(kind)
    return found


def tracked(reports: Reports, run: Run, kinds: TrackerKinds) -> Reports:
    """The same reports of `run`, told to trackers as they pass. One that fails is left, and a warning says so."""
    assert run.folder is not None
    step, config = run.trainer.step, run.config()
    trackers: dict[type[AbstractTracker], AbstractTracker] = {}
    left = list(kinds)

    def tell(kind: type[AbstractTracker], figures: Mapping[str, float] | None, at: int) -> None:
        assert run.folder is not None
        try:
            if kind not in trackers:
                trackers[kind] = kind(run.folder.path, config, step)
            trackers[kind].close() if figures is None else trackers[kind].record(at, figures)
        except Exception as error:  # of foreign code, of a network, of a full disk
            left.remove(kind)
            run.warnings.append(f"{kind.extra} tracks no more of this run ({in_one_line(error)}); the run goes on.")

    with closing(reports):
        try:
            for report in reports:
                if report.fraction == 0:
                    figures = {name: value for name, value in report.figures().items() if name != "step"}
                    for kind in tuple(left):
                        tell(kind, figures, report.step)
                yield report
        finally:
            for kind in tuple(left):
                if kind in trackers:
                    tell(kind, None, run.trainer.step)
