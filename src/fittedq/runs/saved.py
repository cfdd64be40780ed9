"""What is saved under a path: the agent of a run or of a folder of its own, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fittedq.agent import Agent
from fittedq.algorithms import Asked
from fittedq.algorithms.saved import Code, code_like
from fittedq.errors import UserError
from fittedq.export.folder import is_export
from fittedq.files import AGENT, MANIFEST, faults, read_manifest
from fittedq.runs.folder import RunFolder, refuse_runs


def find_agent(path: Path, code: Code = None, trust_code: Sequence[str] = (), *, like: Asked | None = None) -> Agent:
    """The agent of an agent folder, or the best (else the last) of a run folder; `code` and `trust_code` are
    `Agent.load`'s.

    Where no `code` is given, a method `like` the agent's is its code.
    """
    folder = agent_folder(path)
    try:
        if folder != path:
            RunFolder(path).check_agent(folder)
        if code is None and like is not None:
            code = code_like(about_agent(path)["settings"], like)
        return Agent.load(folder, code, trust_code)
    except UserError as error:
        if folder == path or not _damaged(folder):
            raise
        last = path / "last"
        whole = last.is_dir() and not _damaged(last)
        todo = f"Take {last} instead." if whole else f"`fittedq resume {path}` writes {last} anew."
        raise UserError(f"{error} {todo}") from None


def agent_folder(path: Path) -> Path:
    """The folder itself, or that of a run's best (else its last) agent."""
    if is_export(path):
        raise UserError(f"{path} is an export, of which no agent can be made; give the run that it is of.")
    if not (path / "config.json").is_file():
        if not (path / MANIFEST).is_file():
            refuse_runs(path)
        return path
    for candidate in (path / "best", path / "last"):
        if candidate.is_dir():
            return candidate
    raise UserError(f"run folder {path} holds no saved agent yet; train it further first.")


def about_agent(path: Path) -> Mapping[str, Any]:
    """What the manifest of the agent at `path` says, of which nothing is made."""
    folder = agent_folder(path)
    about = read_manifest(folder, AGENT).get("agent")
    if not isinstance(about, dict) or not isinstance(about.get("settings"), dict):
        raise UserError(f"{folder}: the manifest is no agent's; it is damaged.")
    return about


def learned_from(path: Path) -> Path | None:
    """The dataset that the run of this folder, or of the agent in this folder, learned from."""
    for folder in (path, path.parent):
        if (folder / "config.json").is_file():
            data = RunFolder(folder).config().get("data")
            return None if data is None else Path(data)
    return None


def without_env(path: Path) -> str:
    """Why no environment is known of this run or agent, as the end of a clause."""
    data = learned_from(path)
    return "names no environment" + ("" if data is None else f": it was learned from {data}")


def _damaged(folder: Path) -> bool:
    try:
        return bool(faults(folder, AGENT))
    except UserError:
        return True
