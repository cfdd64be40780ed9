"""`fittedq verify PATH`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from fittedq.errors import UserError
from fittedq.export.folder import EXPORT, differences, is_export
from fittedq.files import AGENT, CHECKPOINT, DATASET, MANIFEST, article, faults, read_json, read_manifest
from fittedq.runs.checkpoint import check_run, newest_first
from fittedq.runs.folder import RunFolder


@dataclass(frozen=True)
class Verify:
    """Read every file of a run, an agent, a checkpoint, a dataset or an export, and name all that is wrong. The exit
    code is 1 if anything is."""

    path: tyro.conf.Positional[Path]
    """A folder that fittedq made. A run may go on meanwhile."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        kind, wrong = verify(self.path)
        if self.json:
            print(json.dumps({"path": str(self.path), "kind": kind, "wrong": wrong}))
        else:
            print("\n".join(wrong) or f"{self.path}: {article(kind)}, every file whole.")
        return 1 if wrong else 0


def verify(path: Path) -> tuple[str, list[str]]:
    """(run, agent, checkpoint, dataset or export; all that is wrong with it, a sentence each)."""
    if is_export(path):
        return "export", differences(path)
    if (path / "config.json").is_file():
        return "run", _run(path)
    if not (path / MANIFEST).is_file():
        raise UserError(
            f"{path} is no run, agent, checkpoint, dataset or export: it holds no config.json, {MANIFEST} or {EXPORT}."
        )
    try:
        manifest = read_json(path / MANIFEST)
    except UserError as error:
        return "folder", [str(error)]
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if kind not in (AGENT, CHECKPOINT, DATASET):
        return "folder", [f"{path / MANIFEST} is of no kind that fittedq writes; it is damaged or not one of ours."]
    return kind, _wrong(path, kind)


def _run(path: Path) -> list[str]:
    folder, identity, wrong = RunFolder(path), None, []
    try:
        identity = folder.identity()
    except UserError as error:
        wrong.append(str(error))
    for checkpoint in newest_first(folder.checkpoints):
        found = _wrong(checkpoint, CHECKPOINT, identity)
        # A run that goes on drops its older checkpoints.
        wrong += found if checkpoint.exists() else []
    for agent in (folder.best, folder.last):
        found = _wrong(agent, AGENT) if agent.exists() else []
        try:
            if agent.exists() and not found:
                folder.check_agent(agent)
        except UserError as error:
            found = [str(error)]
        wrong += found
    if not newest_first(folder.checkpoints) and folder.last.exists():
        wrong.append(f"{folder.checkpoints} holds no checkpoint, though the run came to its end: it cannot be resumed.")
    try:
        lines = folder.lines()
    except UserError as error:
        return [*wrong, str(error)]
    if not lines and newest_first(folder.checkpoints):
        wrong.append(f"{folder.metrics_file} is missing or empty, though the run has checkpoints.")
    # A kill may cut the last line short; resuming writes it again.
    unreadable = sum(record is None and line.endswith(b"\n") for line, record in lines)
    if unreadable:
        wrong.append(f"{folder.metrics_file}: {unreadable} of {len(lines)} lines cannot be read.")
    return wrong


def _wrong(path: Path, kind: str, identity: Mapping[str, Any] | None = None) -> list[str]:
    """What is wrong with a folder of this kind; with `identity`, also that it belongs to another run."""
    try:
        found = faults(path, kind)
        if identity is not None:
            check_run(path, read_manifest(path, kind), identity)
        return found
    except UserError as error:
        return [str(error)]
